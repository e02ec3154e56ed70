"""Verification: every difference is counted, the first is named, and executors that disagree are not let through."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfx import DataError, FixedType, Graph, ModelFileError, QfxError
from qfx import operators as ops
from qfx.export.onnx_file import save
from qfx.ir.graph import Node
from qfx.ir.interpret import run, run_raw
from qfx.testing import adversarial_inputs, random_graph
from qfx.verify import Comparison, compare, onnx_runtime, raw_of, verify

OUT = FixedType.parse("ap_fixed<6,4,AP_RND,AP_SAT>")
GRAPH = Graph("g", (Node("x", ops.Input((2, 3), ops.ArrayType.of(OUT))),), "x")


def raws(seed: int = 0, samples: int = 4) -> npt.NDArray[np.int64]:
    return np.random.default_rng(seed).integers(-32, 31, size=(samples, 2, 3))


def test_equal() -> None:
    assert compare(GRAPH, raws(), raws(), "twin") == Comparison("twin", 24, 0, 0, None)


def test_one_lsb_is_found_and_named() -> None:
    actual = raws()
    actual[2, 1, 0] ^= 1
    found = compare(GRAPH, raws(), actual, "liar")
    assert (found.values, found.differing_values, found.differing_bits) == (24, 1, 1)
    assert found.first is not None
    expected, got = raws()[2, 1, 0], actual[2, 1, 0]
    assert str(found.first) == f"sample 2, output [1, 0]: expected raw {expected} ({expected / 4}), got {got} ({got / 4})"


@given(st.integers(0, 2**32 - 1), st.lists(st.tuples(st.integers(0, 23), st.integers(-32, 31)), max_size=8))
def test_differences_are_counted_in_values_and_bits(seed: int, changes: list[tuple[int, int]]) -> None:
    expected, actual = raws(seed), raws(seed)
    for index, value in changes:
        actual.flat[index] = value
    found = compare(GRAPH, expected, actual, "executor")
    pairs = list(zip(expected.flat, actual.flat, strict=True))
    assert found.differing_values == sum(a != b for a, b in pairs)
    assert found.differing_bits == sum(bin((int(a) ^ int(b)) & 63).count("1") for a, b in pairs)
    if found.first is not None:
        first = next(index for index, (a, b) in enumerate(pairs) if a != b)
        assert (found.first.sample, *found.first.index) == tuple(int(i) for i in np.unravel_index(first, expected.shape))
        assert (found.first.expected_raw, found.first.actual_raw) == pairs[first]


def test_a_difference_beyond_the_word_counts_too() -> None:
    actual = raws()
    actual[0, 0, 0] += 64
    found = compare(GRAPH, raws(), actual, "overflowing")
    assert (found.differing_values, found.differing_bits) == (1, 1)


def test_shapes_must_agree() -> None:
    with pytest.raises(DataError, match=r"^short: gave shape \(3, 2, 3\), expected \(4, 2, 3\)"):
        compare(GRAPH, raws(), raws()[:3], "short")


def test_values_become_raws_only_on_the_grid() -> None:
    assert np.array_equal(raw_of(raws() / 4.0, GRAPH, "float"), raws())
    for bad in (0.3, np.inf, np.nan, 1e30):
        values = raws() / 4.0
        values[1, 0, 2] = bad
        with pytest.raises(QfxError, match=r"^float: gave a value off the output's grid"):
            raw_of(values, GRAPH, "float")


def planted(graph: Graph) -> Graph:
    """The graph with the least significant bit of one constant flipped."""
    for position, node in enumerate(graph.nodes):
        if isinstance(node.op, ops.Linear):
            raw = node.op.weight.raw.copy()
            raw.flat[0] ^= 1
            changed = Node(node.name, ops.Linear(ops.Const(raw, node.op.weight.frac_bits), node.op.bias), node.inputs)
            return graph.with_nodes((*graph.nodes[:position], changed, *graph.nodes[position + 1 :]))
    raise AssertionError("no linear layer")


def linear_graph() -> Graph:
    cast = ops.ArrayType.of(FixedType.parse("ap_fixed<8,4,AP_RND,AP_SAT>"))
    weight = ops.Const(np.array([[3, -5, 7], [1, 2, -4]]), 2)
    return Graph("net", (Node("x", ops.Input((3,), cast)), Node("y", ops.Linear(weight, None), ("x",)), Node("z", ops.Cast(cast), ("y",))), "z")


def test_verify_runs_every_executor(tmp_path: Path) -> None:
    graph, path = linear_graph(), tmp_path / "net.onnx"
    save(graph, path)
    x = adversarial_inputs(graph, np.random.default_rng(0), 50)
    wrong = planted(graph)
    rows = verify(path, x, {"twin": lambda batch: run_raw(graph, batch), "liar": lambda batch: run_raw(wrong, batch)})
    assert [row.executor for row in rows] == ["ONNX Runtime", "twin", "liar"]
    assert [row.differing_values > 0 for row in rows] == [False, False, True]
    liar = rows[2].first
    assert liar is not None
    expected, actual = run(graph, x), run(wrong, x)
    at = (liar.sample, *liar.index)
    assert (liar.expected, liar.actual) == (expected[at], actual[at])


def test_verify_sees_one_wrong_bit_in_the_file_that_onnxruntime_runs(tmp_path: Path) -> None:
    graph = linear_graph()
    save(planted(graph), tmp_path / "wrong.onnx")
    x = adversarial_inputs(graph, np.random.default_rng(0), 50)
    result = compare(graph, run_raw(graph, x), onnx_runtime(tmp_path / "wrong.onnx", graph)(x), "ONNX Runtime")
    assert result.differing_values > 0


@pytest.mark.parametrize("seed", range(5))
def test_random_graphs_verify(tmp_path: Path, seed: int) -> None:
    graph = random_graph(np.random.default_rng(seed))
    save(graph, tmp_path / "net.onnx")
    (row,) = verify(tmp_path / "net.onnx", adversarial_inputs(graph, np.random.default_rng(seed), 20))
    assert row.differing_values == 0
    assert row.values == 20 * graph.infos[graph.output].size


def test_bad_files_and_data(tmp_path: Path) -> None:
    graph, path = linear_graph(), tmp_path / "net.onnx"
    save(graph, path)
    x = np.zeros((4, 3), dtype=np.float32)
    for bad in (x[:, :2], x[0], np.full_like(x, np.nan), x.astype(np.int32) + (1 << 25), x.astype(np.float64), x.astype(object), x.tolist()):
        with pytest.raises(DataError) as caught:
            verify(path, bad)
        assert caught.value.remedy
    for content in (b"", b"no model", onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [])).SerializeToString()):
        (tmp_path / "bad.onnx").write_bytes(content)
        with pytest.raises(ModelFileError):
            verify(tmp_path / "bad.onnx", x)
    with pytest.raises(ModelFileError):
        verify(tmp_path / "missing.onnx", x)
