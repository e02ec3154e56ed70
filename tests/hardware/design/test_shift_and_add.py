"""Networks whose constants have few digits: no multiplication in the C++, no DSP block in the estimate, the same numbers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hardware_models import chain, const, recurrent_behind_conv, scalar
from support.bundles import build_bundle

from qfx.cli import main
from qfx.errors import ProjectError
from qfx.export.onnx_file import save
from qfx.fixed.digits import few_digits
from qfx.hardware.assets import hls_root
from qfx.hardware.board import board
from qfx.hardware.design import arithmetic
from qfx.hardware.design import design as d
from qfx.hardware.design.arithmetic import Digits, factor_form
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Folding, Request, Schedule
from qfx.hardware.emit.emit import emit_sources
from qfx.hardware.folding import file as folding_file
from qfx.hardware.folding.search import resolve
from qfx.ir.graph import Graph
from qfx.ir.interpret import quantize_input, run_from_raw
from qfx.operators import Affine, Cast, Const, Conv, Linear, PRelu, Reshape, SumPool
from qfx.testing import adversarial_inputs, assert_bit_exact

ULTRA96 = board("ultra96v2")
MULTIPLIES = re.compile(r"qfx::(mul|prelu|prelu_by|lookup_linear)<|mul_auto|mul_dsp|mul_lut|mul_pair")


def few(seed: int, *shape: int, digits: int, width: int = 10, signed: bool = True) -> Const:
    """Random numbers of few digits, all of them of as many as there can be among them."""
    return Const(np.random.default_rng(seed).choice(few_digits(width, signed, digits), shape), 6)


def network(digits: int) -> Graph:
    """Weights, scales, slopes and a reciprocal, each multiplied by."""
    narrow = Cast(scalar("ap_fixed<6,3,AP_RND,AP_SAT>"))
    square = ((1, 1), (1, 1))
    return chain(
        f"few{digits}",
        (2, 6, 6),
        Conv(few(0, 4, 2, 3, 3, digits=digits), const(1, 4), (1, 1), square, (1, 1), 1),
        Affine(few(2, 4, digits=digits), const(3, 4)),
        PRelu(few(4, 4, digits=digits)),
        narrow,
        Conv(few(5, 4, 1, 3, 3, digits=digits), None, (1, 1), square, (1, 1), 4),
        narrow,
        SumPool((3, 3), (3, 3), ((0, 0), (0, 0))),
        Affine(few(6, digits=digits, signed=False), None),
        PRelu(few(7, digits=digits)),
        narrow,
        Reshape((16,)),
        Linear(few(8, 5, 16, digits=digits), const(9, 5)),
    )


def by_shifts(graph: Graph, **request: Any) -> Schedule:
    return resolve(graph, ULTRA96, Request(shift_and_add=True, **request), clock_ns=5).schedule


def qfx_command(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


# ---- which constants ----


def test_factors_of_few_digits_are_shifted() -> None:
    assert factor_form(np.array([64, -32, 1])) is not None
    assert factor_form(np.array([0])) is not None
    assert factor_form(np.array([1, 3, -7])) is not None  # two digits are few in any word
    assert factor_form(np.arange(-32, 32)) is None  # three, as a word of 6 bits can need
    assert factor_form(few_digits(8, True, 3)) is not None
    assert factor_form(np.array([21])) is not None  # one number: shifts by constants
    assert factor_form(few_digits(8, True, 4)) is None
    assert factor_form(np.array([85])) is None
    assert factor_form(np.array([1 << 40, -(1 << 30)])) is not None


# ---- no multiplication ----


@pytest.mark.parametrize("digits", [1, 2, 3])
@pytest.mark.parametrize("request_", [{}, {"fps": 200_000}, {"fit": True}])
def test_nothing_is_multiplied(digits: int, request_: dict[str, Any]) -> None:
    """Neither in the C++ that is emitted, nor, therefore, in the estimate."""
    graph = network(digits)
    made = resolve(graph, ULTRA96, Request(shift_and_add=True, **request_), clock_ns=5)
    sources = emit_sources(made.design, "top")
    text = "\n".join(re.sub(r"//[^\n]*|/\*.*?\*/", "", content) for name, content in sources.items() if name.startswith("src/"))
    assert not MULTIPLIES.search(text)
    assert "*" not in text
    assert text.count("qfx::mul_digits<") == 2
    assert text.count("qfx::prelu_digits") == 2
    assert text.count("qfx::mul_shift<") == 3
    assert made.estimate.total.dsp == 0
    assert {folding.arithmetic for name, folding in made.schedule.foldings if name.startswith(("conv", "linear"))} == {"shift"}


def test_what_they_are_built_of_multiplies_nothing() -> None:
    """The templates of the library that the C++ above calls."""
    library = {name: re.sub(r"//[^\n]*", "", (hls_root() / "include/qfx" / name).read_text()) for name in ("multiply.h", "pointwise.h")}
    bodies = re.findall(
        r"(?:struct digit_at|struct mul_shift|inline R (?:mul|prelu)_digits).*?\n}", library["multiply.h"] + library["pointwise.h"], re.S
    )
    assert len(bodies) == 6
    for body in bodies:
        assert "*" not in body
        assert "product" not in body.replace("product<Product>", "?")


def test_multipliers_are_seen() -> None:
    """The search finds them where they are, and so does the estimate."""
    graph = chain("net", (8,), Linear(const(0, 4, 8, bits=8), None), Affine(const(1, 4, bits=16), None))
    text = "\n".join(emit_sources(lower(graph, Schedule.of({"linear0": Folding(arithmetic="dsp")})), "top").values())
    assert len(MULTIPLIES.findall(text)) >= 2
    assert resolve(graph, ULTRA96, Request(foldings=(("linear0", Folding(arithmetic="dsp")),)), clock_ns=5).estimate.total.dsp == 2


def test_two_digits_are_not_multiplied_by_unasked() -> None:
    """Scales, slopes and reciprocals of at most two digits; weights as the search finds cheapest."""
    text = "\n".join(emit_sources(lower(network(2), Schedule()), "top").values())
    assert not re.search(r"qfx::(mul|prelu|prelu_by)<", text)


# ---- the same numbers ----


@pytest.mark.usefixtures("gxx")
@pytest.mark.parametrize("fast", [False, True])
def test_cpp_is_exact(fast: bool, tmp_path: Path) -> None:
    graphs = [network(digits) for digits in (1, 2, 3)] + [network(2)]
    schedules = [by_shifts(graph) for graph in graphs[:3]] + [by_shifts(graphs[3], fps=200_000)]
    bundle = build_bundle(list(zip(graphs, schedules, strict=True)), tmp_path, fast=fast)
    for index, graph in enumerate(graphs):
        raw = quantize_input(graph, adversarial_inputs(graph, np.random.default_rng(index), 20))
        assert_bit_exact(bundle.run_from_raw(index, raw), run_from_raw(graph, raw), names=("C simulation", "interpreter"))


@pytest.mark.usefixtures("gxx")
def test_a_wrong_digit_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = network(2)
    right = Digits.codes

    def wrong(self: Digits, weights: d.IntArray) -> d.IntArray:
        codes = right(self, weights).copy()
        if codes.shape == (4,):  # the scales or the slopes: the lowest bit of one code
            codes[2] ^= 1
        return codes

    monkeypatch.setattr(arithmetic.Digits, "codes", wrong)
    bundle = build_bundle([(graph, Schedule())], tmp_path)
    raw = quantize_input(graph, adversarial_inputs(graph, np.random.default_rng(0), 40))
    with pytest.raises(AssertionError, match="C simulation has"):
        assert_bit_exact(bundle.run_from_raw(0, raw), run_from_raw(graph, raw), names=("C simulation", "interpreter"))


# ---- the command line, and what is refused ----


def test_the_command_line(tmp_path: Path) -> None:
    model, out = tmp_path / "few.onnx", tmp_path / "project"
    save(network(2), model)
    result = qfx_command("hls", model, "--board", "ultra96v2", "--shift-and-add", "--fps", "100000", "-o", out, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads((out / "report.json").read_text())["resources"]["dsp"] == 0
    again = folding_file.read(out / "folding.toml")
    assert {folding.arithmetic for name, folding in again.foldings if "conv" in name or "linear" in name} == {"shift"}
    streamed = qfx_command("estimate", model, "--board", "ultra96v2", "--shift-and-add", "--weights", "stream")
    assert streamed.exit_code != 0
    assert "its digits are made for the weights at hand, but weights are loaded" in streamed.output
    unrolled = qfx_command("hls", model, "--board", "ultra96v2", "--shift-and-add", "--style", "unrolled", "-o", tmp_path / "unrolled")
    assert unrolled.exit_code != 0
    assert "leave out --shift-and-add" in unrolled.output


def test_the_matrices_of_a_loop() -> None:
    for request in ({}, {"fps": 1000}):
        made = resolve(recurrent_behind_conv(), ULTRA96, Request(shift_and_add=True, **request), clock_ns=5)  # type: ignore[arg-type]
        text = "\n".join(emit_sources(made.design, "top").values())
        assert re.findall(r"qfx::mul_(?:auto|dsp|lut|pair|shift)", text) == ["qfx::mul_shift"] * 2
        assert made.schedule.folding("rnn").arithmetic == "shift"


@pytest.mark.parametrize(
    ("graph", "what"),
    [
        (chain("net", (8,), Linear(Const(np.full((4, 8), 341), 3), None)), r"linear0: arithmetic 'shift': its weights need 5 signed digits"),
        (
            chain("net", (4,), Linear(const(0, 4, 4), None), Affine(Const(np.array([341, 1, 2, 3]), 3), None)),
            r"linear0: its constants 'affine1_scale' are multiplied by: they have more than 3 signed digits",
        ),
        (
            chain("net", (4,), Linear(const(0, 4, 4), None), PRelu(Const(np.array([341, 1, 2, 3]), 9))),
            r"linear0: its constants 'prelu1_slope' are multiplied by",
        ),
    ],
)
def test_constants_of_many_digits_are_refused_by_name(graph: Graph, what: str) -> None:
    for request in ({}, {"fps": 100}):
        with pytest.raises(ProjectError, match=what):
            by_shifts(graph, **request)


def test_another_arithmetic_is_refused() -> None:
    graph = network(1)
    with pytest.raises(ProjectError, match="conv0: arithmetic 'dsp' multiplies"):
        by_shifts(graph, foldings=(("conv0", Folding(2, 2, "dsp")),))
    assert by_shifts(graph, foldings=(("conv0", Folding(2, 2)),)).folding("conv0") == Folding(2, 2, "shift")
    assert by_shifts(graph, foldings=(("conv0", Folding(2, 2)),), fps=1000).folding("conv0") == Folding(2, 2, "shift")
