"""The saturation report: the interpreter's counts are those of the definition, the C++ counts the same, and a difference is not let through."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from support.bundles import build_bundle

from qfx import DataError, FixedType, Graph
from qfx import operators as ops
from qfx.cli import main
from qfx.errors import ProjectError
from qfx.export.onnx_file import save
from qfx.fixed.minifloat import Minifloat
from qfx.fixed.reference import round_raw
from qfx.fixed.type import OMode, QMode
from qfx.hardware.design.schedule import Schedule
from qfx.hardware.project.project import write_project
from qfx.ir.graph import Node
from qfx.ir.interpret import quantize_input
from qfx.ir.losses import Loss, float_loss, losses, raw_loss
from qfx.ir.passes.pipeline import optimize
from qfx.ir.within import places
from qfx.operators import ArrayType
from qfx.report import report, report_project
from qfx.testing import adversarial_inputs, random_graph


def types(max_width: int = 63) -> st.SearchStrategy[FixedType]:
    def make(width: int, int_bits: int, signed: bool, q: QMode, o: OMode) -> FixedType:
        return FixedType(width, int_bits, signed, q, o if signed or o is not OMode.WRAP_SM else OMode.WRAP)

    widths = st.integers(1, 8) | st.integers(1, max_width)
    return st.builds(make, widths, st.integers(-20, 70), st.booleans(), st.sampled_from(QMode), st.sampled_from(OMode))


def defined(values: list[Fraction], to: FixedType) -> Loss:
    """What the cast loses, number by number, from the definition of rounding and the bounds of the type."""
    found = Loss()
    for value in values:
        scaled = value / to.lsb
        rounded = round_raw(scaled.numerator, scaled.denominator, to.q)
        above, below = rounded > to.max_raw, rounded < to.min_raw
        missing = 0
        while (above or (below and to.signed)) and not _bounds(to, missing)[0] <= rounded <= _bounds(to, missing)[1]:
            missing += 1
        found += Loss(1, int(above), int(below), int(rounded != scaled), missing)
    return found


def _bounds(to: FixedType, more: int) -> tuple[int, int]:
    half = 1 << (to.width + more - 1)
    return (-half, half - 1) if to.signed else (0, 2 * half - 1)


@given(st.lists(st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(-300, 300), min_size=1, max_size=8), st.integers(-40, 80), types())
def test_raws_are_counted_as_defined(raws: list[int], frac_bits: int, to: FixedType) -> None:
    counted = raw_loss(np.array([raws], dtype=np.int64), frac_bits, ArrayType.of(to))
    assert counted == defined([Fraction(raw) / Fraction(2) ** frac_bits for raw in raws], to)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.floats(width=32, min_value=-64, max_value=64), min_size=1, max_size=8), types())
def test_floats_are_counted_as_defined(values: list[float], to: FixedType) -> None:
    counted = float_loss(np.array([values], dtype=np.float64), ArrayType.of(to))
    assert counted == defined([Fraction(value) for value in values], to)


@given(st.lists(st.integers(-(2**40), 2**40), min_size=1), st.integers(-8, 40), st.sampled_from(["E4M3", "E2M1", "E5M2", "E3M0"]))
def test_formats_are_counted_as_defined(raws: list[int], frac_bits: int, name: str) -> None:
    """By fractions: the nearest number with as many significant bits and no smaller step, and whether that is beyond the greatest."""
    kind = Minifloat.parse(name)
    op = ops.MinifloatCast(kind, kind.frac_bits)
    wide = ops.ArrayType.of(FixedType(42, 42 - frac_bits))
    graph = Graph("m", (Node("x", ops.Input((len(raws),), wide)), Node("y", op, ("x",))), "y")
    expected = Loss()
    for raw in raws:
        units = Fraction(raw) * Fraction(2) ** (kind.frac_bits - frac_bits)
        exponent = max((abs(units).numerator.bit_length() - units.denominator.bit_length()) - kind.mantissa_bits - 1, 0)
        while abs(units) >= 2 ** (kind.mantissa_bits + 1 + exponent):
            exponent += 1
        exponent = min(exponent, kind.largest.bit_length() - kind.mantissa_bits - 1)
        rounded = round(units / 2**exponent) * 2**exponent
        over = abs(rounded) > kind.largest
        missing = abs(rounded).bit_length() - kind.largest.bit_length() if over else 0
        expected += Loss(1, int(over and raw > 0), int(over and raw < 0), int(rounded != units), missing)
    found = losses(graph, np.ldexp(np.array([raws], dtype=np.float64), -frac_bits))["y"]
    assert found == expected


def test_a_binary_point_per_channel() -> None:
    """7.5 overflows <4,3>, whose values end at 3.5, but not <4,4>; 0.5 is lost by <4,4>."""
    cast = ArrayType(FixedType.parse("ap_fixed<4,4,AP_TRN,AP_SAT>"), (3, 4), (2, 1))
    x = np.array([[[7.5, 0.5], [7.5, -9.0]]], dtype=np.float32)
    assert float_loss(x, cast) == Loss(values=4, above=1, below=1, rounded=1, missing_bits=1)


def model() -> Graph:
    """Input, ReLU, an unsigned cast that can do the ReLU's work, a sum, a cast that wraps."""
    cast = ArrayType.of(FixedType.parse("ap_fixed<6,3,AP_RND,AP_SAT>"))
    small = ArrayType.of(FixedType.parse("ap_ufixed<4,2,AP_RND_CONV,AP_SAT>"))
    wrap = ArrayType.of(FixedType.parse("ap_fixed<4,3>"))
    return Graph(
        "model",
        (
            Node("x", ops.Input((2, 3), cast)),
            Node("relu", ops.Relu(), ("x",)),
            Node("small", ops.Cast(small), ("relu",)),
            Node("sum", ops.Add(), ("small", "x")),
            Node("wrap", ops.Cast(wrap), ("sum",)),
        ),
        "wrap",
    )


def data() -> npt.NDArray[np.float32]:
    return np.array([[[0.0, 1.0, -1.0], [3.75, 3.9, -4.2]], [[0.125, 0.375, 2.0], [100.0, -100.0, 0.06]]], dtype=np.float32)


def test_a_model_by_hand() -> None:
    found = {row.node: row.loss for row in report(model(), data()).rows}
    # Above 3.875: 3.9 rounds back into the range, 100 does not. 100 needs 7 + 1 integer bits, of which there are 3.
    assert found["x"] == Loss(values=12, above=1, below=2, rounded=3, missing_bits=5)
    # 3.875 is a tie on the grid 1/4 and rounds to 4.0: one more bit. 0.125, 0.375 are ties too.
    assert found["small"].values == 12
    assert (found["small"].above, found["small"].below, found["small"].missing_bits) == (2, 0, 1)
    assert [row.node for row in report(model(), data()).rows] == ["x", "small", "wrap"]
    with pytest.raises(DataError, match="no samples"):
        report(model(), data()[:0])


@pytest.mark.usefixtures("gxx")
def test_the_cpp_counts_the_same(tmp_path: Path) -> None:
    save(model(), tmp_path / "model.onnx")
    project = write_project(model(), tmp_path / "project", board="zcu102").path
    for fast in (False, True):
        found = report_project(project, data(), model=tmp_path / "model.onnx", fast=fast)
        assert not found.differing
        simulated = {row.node: row.simulated for row in found.rows}
        assert simulated["x"] is None
        assert simulated["wrap"] == losses(optimize(model()), data())["wrap"]
    with pytest.raises(ProjectError, match=r"model\.onnx is missing"):
        report_project(project, data())
    other = Graph("other", model().nodes[:3], "small")
    save(other, tmp_path / "other.onnx")
    with pytest.raises(ProjectError, match="another model"):
        report_project(project, data(), model=tmp_path / "other.onnx")


@pytest.mark.usefixtures("gxx")
def test_what_a_cast_cuts_off_for_a_relu_is_told_apart(tmp_path: Path) -> None:
    wide, narrow = (ArrayType.of(FixedType.parse(text)) for text in ("ap_fixed<8,4>", "ap_ufixed<4,2,AP_TRN,AP_SAT>"))
    graph = Graph("m", (Node("x", ops.Input((4,), wide)), Node("relu", ops.Relu(), ("x",)), Node("out", ops.Cast(narrow), ("relu",))), "out")
    x = np.array([[-3.0, -0.25, 0.5, 7.0]], dtype=np.float32)
    (_, alone) = report(graph, x).rows
    assert (alone.loss.below, alone.by_relu, alone.loss.above) == (0, 0, 1)
    save(graph, tmp_path / "model.onnx")
    project = write_project(graph, tmp_path / "project", board="zcu102").path
    (_, row) = report_project(project, x, model=tmp_path / "model.onnx", fast=True).rows
    assert (row.loss.below, row.by_relu, row.loss.above) == (2, 2, 1)


@pytest.mark.usefixtures("gxx")
def test_random_graphs_count_the_same(tmp_path: Path, thorough: bool) -> None:
    seed = int(np.random.default_rng().integers(1 << 32))
    print(f"seed {seed}")  # shown by pytest if the test fails
    rng = np.random.default_rng(seed)
    graphs = [random_graph(rng, max_nodes=12) for _ in range(100 if thorough else 20)]
    for fast in (False, True):
        bundle = build_bundle([(graph, Schedule()) for graph in graphs], tmp_path / str(fast), fast=fast, flags=("-Werror", "-O1", "-DQFX_REPORT"))
        for index, graph in enumerate(graphs):
            x = adversarial_inputs(graph, np.random.default_rng(index), 5)
            sites = places(graph)
            expected = {sites[name]: loss for name, loss in losses(graph, x).items() if name != graph.input.name}
            assert bundle.losses_from_raw(index, quantize_input(graph, x)) == expected, f"graph {index}, fast={fast}"


@pytest.mark.usefixtures("gxx")
def test_a_planted_difference_fails_the_command(tmp_path: Path) -> None:
    save(model(), tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", x=data())
    runner = CliRunner()
    written = runner.invoke(main, ["hls", str(tmp_path / "model.onnx"), "--board", "zcu102", "-o", str(tmp_path / "project")])
    assert written.exit_code == 0, written.output
    right = runner.invoke(main, ["report", str(tmp_path / "project"), "--data", str(tmp_path / "data.npz")])
    assert right.exit_code == 0, right.output
    assert "the C++ counts the same" in right.output
    text = runner.invoke(main, ["report", str(tmp_path / "project"), "--data", str(tmp_path / "data.npz"), "--json"])
    parsed = json.loads(text.stdout)
    assert parsed["samples"] == 2
    assert [cast["node"] for cast in parsed["casts"]] == ["x", "small", "wrap"]
    assert all(cast["simulated"] in (None, cast["loss"]) for cast in parsed["casts"])
    # One bit more in the C++ than in the model: its cast overflows less often.
    layers = tmp_path / "project" / "src" / "layers.h"
    planted = layers.read_text().replace("qfx::fixed<4, 2, false,", "qfx::fixed<5, 3, false,")
    assert planted != layers.read_text()
    layers.write_text(planted)
    wrong = runner.invoke(main, ["report", str(tmp_path / "project"), "--data", str(tmp_path / "data.npz")])
    assert wrong.exit_code == 1, wrong.output
    assert "small: the interpreter counts" in wrong.stderr


def test_a_model_alone(tmp_path: Path) -> None:
    save(model(), tmp_path / "model.onnx")
    np.save(tmp_path / "x.npy", data())
    found = CliRunner().invoke(main, ["report", str(tmp_path / "model.onnx"), "--data", str(tmp_path / "x.npy")])
    assert found.exit_code == 0, found.output
    assert "ap_ufixed<4,2,AP_RND_CONV,AP_SAT>" in found.output
    missing = CliRunner().invoke(main, ["report", str(tmp_path), "--data", str(tmp_path / "x.npy")])
    assert missing.exit_code == 2
