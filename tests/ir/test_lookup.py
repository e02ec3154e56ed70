"""Lookups: what their type rules find and refuse, and what leaves them alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import qfx
from qfx.errors import ExactnessError, ModelFileError
from qfx.export.onnx_file import save
from qfx.fixed.arith import Channels, Interval
from qfx.fixed.type import FixedType
from qfx.ir.graph import Graph, Node
from qfx.ir.passes.simplify import remove_no_ops
from qfx.ir.values import Info
from qfx.operators import ArrayType, Const, Input, Lookup, LookupLinear

ENTRIES = Const(np.array([5, -3, 7, 100, 0, 2, 2, 9]), 1)


def info(lo: int, hi: int, frac_bits: int = 0) -> Info:
    interval = Interval(lo, hi, frac_bits)
    return Info((2, 3), interval.type(), interval)


def test_the_result_is_bounded_by_the_entries_that_can_be_reached() -> None:
    op = Lookup(ENTRIES, -4, 2)
    assert op.infer("f", (info(-1, 0, 0),)).interval == Interval(-3, 100, 1)  # raws -4 to 0 on the finer grid
    assert op.infer("f", (info(-3, -2, 2),)).interval == Interval(-3, 7, 1)
    assert op.infer("f", (info(0, 3, 2),)).interval == Interval(0, 9, 1)
    values, slopes = Const(np.array([1, 10, -4]), 0), Const(np.array([3, -1, 2]), 1)
    lines = LookupLinear(values, slopes, -2, 0, 2)
    for low in range(-2, 10):
        for high in range(low, 10):
            places = np.arange(low + 2, high + 3)
            results = values.raw[places // 4] * 2 + slopes.raw[places // 4] * (places % 4)
            assert lines.infer("f", (info(low, high),)).interval == Interval(int(results.min()), int(results.max()), 1)


@pytest.mark.parametrize(
    ("op", "x", "error", "what"),
    [
        (Lookup(ENTRIES, -4, 0), info(-5, 3), ExactnessError, "entries for raws -4 to 3, its input goes from -5 to 3"),
        (Lookup(ENTRIES, -4, 0), info(-4, 4), ExactnessError, "its input goes from -4 to 4"),
        (Lookup(ENTRIES, -4, 0), info(-4, 3, 1), ModelFileError, "addressed by 0 fractional bits, its input has 1"),
        (Lookup(Const(np.zeros((2, 4), dtype=np.int64), 0), 0, 0), info(0, 3), ModelFileError, "shape"),
        (Lookup(Const(np.zeros(4097, dtype=np.int64), 0), 0, 0), info(0, 3), ModelFileError, "shape"),
        (Lookup(Const(np.zeros(4, dtype=np.int64), (0, 0, 1, 1)), 0, 0), info(0, 3), ModelFileError, "2 grids"),
        (Lookup(ENTRIES, 1 << 31, 0), info(1 << 31, (1 << 31) + 3), ExactnessError, "addresses raws of"),
        (LookupLinear(ENTRIES, ENTRIES, 0, 0, -1), info(0, 3), ModelFileError, "2\\^-1 raws"),
        (LookupLinear(ENTRIES, Const(ENTRIES.raw, 0), 0, 0, 1), info(0, 3), ModelFileError, "values of 1 fractional bits by slopes of 0"),
        (LookupLinear(ENTRIES, Const(ENTRIES.raw[:3], 1), 0, 0, 1), info(0, 3), ModelFileError, "the slopes of \\(3,\\)"),
        (LookupLinear(Const(np.array([1 << 53]), 0), Const(np.array([0]), 0), 0, 0, 1), info(0, 1), ExactnessError, "float64 holds 53"),
    ],
)
def test_what_does_not_fit_is_refused(op: Lookup | LookupLinear, x: Info, error: type[Exception], what: str) -> None:
    with pytest.raises(error, match=what) as caught:
        op.infer("f", (x,))
    assert caught.value.where == "f"  # type: ignore[attr-defined]


def test_channels_are_read_on_the_finest_grid() -> None:
    interval = Channels((Interval(-1, 1, 0), Interval(-2, 1, 1)))
    x = Info((2,), interval.hull.type(), interval, True)
    op = Lookup(Const(np.arange(10, 15), 0), -2, 1)
    out = op.infer("f", (x,))
    assert op.evaluate((np.array([[-1, -2], [1, 1]]),), (x,), out).tolist() == [[10, 10], [14, 13]]
    with pytest.raises(ModelFileError):
        Lookup(ENTRIES, -2, 0).infer("f", (x,))


def graph(*ops: Lookup) -> Graph:
    nodes = [Node("x", Input((2,), ArrayType.of(FixedType.parse("ap_fixed<3,3>"))))]
    for number, op in enumerate(ops):
        nodes.append(Node(f"f{number}", op, (nodes[-1].name,)))
    return Graph("g", tuple(nodes), nodes[-1].name)


def test_a_table_of_the_numbers_themselves_is_left_out() -> None:
    same, other = Lookup(Const(np.arange(-8, 8), 0), -8, 0), Lookup(Const(np.arange(-4, 4)[::-1], 0), -4, 0)
    assert [node.name for node in remove_no_ops(graph(same, other)).nodes] == ["x", "f1"]
    moved, finer = Lookup(Const(np.arange(-3, 5), 0), -4, 0), Lookup(Const(np.arange(-4, 4), 1), -4, 0)
    assert len(remove_no_ops(graph(moved)).nodes) == len(remove_no_ops(graph(finer)).nodes) == 2


def test_an_entry_that_was_changed_in_the_file_is_seen(tmp_path: Path) -> None:
    save(graph(Lookup(ENTRIES, -4, 0)), tmp_path / "g.onnx")
    model = onnx.load(tmp_path / "g.onnx")
    (raw,) = [tensor for tensor in model.graph.initializer if tensor.name.endswith("entries.raw")]
    held = onnx.numpy_helper.to_array(raw).copy()
    held[3] += 1
    raw.CopyFrom(onnx.numpy_helper.from_array(held, raw.name))
    onnx.save(model, tmp_path / "g.onnx")
    with pytest.raises(ModelFileError, match="changed or damaged"):
        qfx.load_graph(tmp_path / "g.onnx")
