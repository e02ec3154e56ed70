"""The matrix product of two values in hardware: every folding gives the interpreter's integers, in the turns that the model says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from hardware_models import products, scalar
from random_schedules import random_schedule
from support.bounded import build, differences
from support.bundles import build_bundle

from qfx.errors import ExactnessError, ProjectError
from qfx.export.onnx_file import to_model
from qfx.hardware.cost import resources as r
from qfx.hardware.design import design as d
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Folding, Schedule
from qfx.hardware.processes.matmul import MatMul as Unit
from qfx.hardware.timing.fifo import size_fifos
from qfx.hardware.timing.simulate import simulate
from qfx.ir.from_onnx import from_model
from qfx.ir.graph import Graph, Node
from qfx.ir.interpret import output_raw, quantize_input, run, run_from_raw, trace
from qfx.operators import Cast, Input, MatMul, Reshape, Transpose
from qfx.testing import adversarial_inputs, assert_bit_exact, random_graph


def gram(*shape: int) -> Graph:
    """x times its own transpose."""
    axes = len(shape)
    perm = (*range(axes - 2), axes - 1, axes - 2)
    nodes = (
        Node("x", Input(shape, scalar("ap_fixed<6,3,AP_RND,AP_SAT>"))),
        Node("t", Transpose(perm), ("x",)),
        Node("product", MatMul(), ("x", "t")),
    )
    return Graph("gram", (*nodes, Node("narrow", Cast(scalar("ap_fixed<9,7>")), ("product",))), "narrow")


@pytest.mark.usefixtures("gxx")
def test_every_folding_equals_the_interpreter(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    graphs = [gram(4, 6), gram(1, 1), gram(1, 5), gram(3, 1), gram(2, 3, 4), gram(2, 1, 2, 3, 2), products()]
    designs = [(graph, random_schedule(graph, rng)) for graph in graphs for _ in range(3)]
    pinned = [Folding(2, 3, "dsp"), Folding(4, 6, "lut"), Folding(1, 2), Folding(4, 1)]
    designs += [(graphs[0], Schedule.of({"product": folding}, input_parallel=2)) for folding in pinned]
    for name, fast in (("tools", False), ("fast", True)):
        (tmp_path / name).mkdir()
        bundle = build_bundle(designs, tmp_path / name, fast=fast)
        for index, (graph, schedule) in enumerate(designs):
            x_raw = quantize_input(graph, adversarial_inputs(graph, rng, 5))
            found = bundle.run_from_raw(index, x_raw)
            assert_bit_exact(found, run_from_raw(graph, x_raw), names=(f"{name} {schedule}", "interpreter"))


def test_the_file_runs_and_is_read_back() -> None:
    for graph in (gram(4, 6), gram(2, 1, 2, 3, 2), products()):
        model = to_model(graph)
        assert from_model(model) == graph
        x = adversarial_inputs(graph, np.random.default_rng(1), 6)
        (found,) = ort.InferenceSession(model.SerializeToString()).run(None, {"x#float": x})
        assert_bit_exact(found, run(graph, x).astype(found.dtype), names=("ONNX Runtime", "interpreter"))


def squares(width: int, terms: int = 8) -> Graph:
    """Sums of ``terms`` products of two numbers of ``width`` bits: up to 2 * width - 2 + 3 bits."""
    nodes = (
        Node("x", Input((2, terms), scalar(f"ap_fixed<{width},{width}>"))),
        Node("t", Transpose((1, 0)), ("x",)),
        Node("scores", MatMul(), ("x", "t")),
    )
    return Graph("squares", nodes, "scores")


@pytest.mark.parametrize(("width", "in_double"), [(11, False), (12, True), (25, True)])
def test_the_file_is_in_the_type_that_holds_every_sum(width: int, in_double: bool) -> None:
    """2 * (width - 1) + 3 bits: 23, 25 and 51."""
    graph = squares(width)
    model = to_model(graph)
    raw = np.full((1, 2, 8), -(2 ** (width - 1)), dtype=np.int64)
    raw[0, 1] += 1
    session = ort.InferenceSession(model.SerializeToString())
    (found,) = session.run(None, {session.get_inputs()[0].name: raw.astype(np.float32)})
    assert_bit_exact(found.astype(np.float64), run(graph, raw.astype(np.float32)).astype(np.float64), names=("ONNX Runtime", "interpreter"))
    assert any(node.output[0].endswith("#double") for node in model.graph.node) == in_double


def test_sums_that_no_float_holds_are_refused_by_name() -> None:
    with pytest.raises(ExactnessError, match=r"^scores: its sums need 55 bits"):
        to_model(squares(27))
    with pytest.raises(ExactnessError, match=r"^scores: needs words of"):
        squares(32, 64).infos  # noqa: B018


def test_one_wrong_bit_is_seen() -> None:
    graph = products()
    x = adversarial_inputs(graph, np.random.default_rng(2), 4)
    traced = trace(graph, x)
    bad = {**traced, "outer": traced["outer"].copy()}
    bad["outer"].reshape(-1)[-1] += 1
    with pytest.raises(AssertionError, match="1 of"):
        assert_bit_exact(output_raw(graph, bad["outer"]), output_raw(graph, traced["outer"]))


@pytest.mark.usefixtures("gxx")
def test_turns_are_those_of_the_model(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    graphs = [gram(2, 3, 4), products(), products()]
    designs = tuple(size_fifos(lower(graph, random_schedule(graph, rng))) for graph in graphs)
    bundle = build(designs, tmp_path)
    for index, (graph, design) in enumerate(zip(graphs, designs, strict=True)):
        x_raw = quantize_input(graph, adversarial_inputs(graph, rng, 3))
        found = bundle.run(index, x_raw)
        assert_bit_exact(found.y_raw, run_from_raw(graph, x_raw))
        assert differences(design, found) == []


def unit(graph: Graph, **folding: Folding) -> Unit:
    return next(process for process in lower(graph, Schedule.of(folding)).processes if isinstance(process, Unit))


def test_cycles_memories_and_multipliers_follow_the_folding() -> None:
    one, wide = unit(gram(4, 6)), unit(gram(4, 6), product=Folding(2, 3, "dsp"))
    assert one.cycles == 4 * 6 + 4 * 4 * 6
    assert wide.cycles == 4 * 2 + 4 * 2 * 2 == wide.program.turns
    assert (one.matrix.depth, one.matrix.count) == (24, 1)
    assert (wide.matrix.depth, wide.matrix.count, wide.row.count) == (4, 6, 3)
    assert replace(wide, arithmetic="dsp").logic(r.ULTRASCALE).dsp == 6
    assert replace(wide, arithmetic="lut").logic(r.ULTRASCALE).dsp == 0
    timing = simulate(size_fifos(lower(gram(4, 6), Schedule())))
    assert {process.name: process.turns for process in timing.processes}[one.name] == one.cycles


def test_no_permutation_where_the_order_fits() -> None:
    """Rows that come with their terms innermost, on both sides: x as (terms, rows) travels so."""
    nodes = (
        Node("x", Input((6, 4), scalar("ap_fixed<6,3>"))),
        Node("rows", Transpose((1, 0)), ("x",)),
        Node("product", MatMul(), ("rows", "x")),
        Node("flat", Reshape((16,)), ("product",)),
    )
    design = lower(Graph("fitting", nodes, "flat"), Schedule())
    assert not [process for process in design.processes if isinstance(process, d.Permute)]


def test_foldings_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ProjectError, match=r"^product: PE=3 does not divide its 4 columns"):
        unit(gram(4, 6), product=Folding(3))
    with pytest.raises(ProjectError, match=r"^product: SIMD=4 does not divide its 6 terms of a sum"):
        unit(gram(4, 6), product=Folding(1, 4))
    with pytest.raises(ProjectError, match=r"^product: arithmetic 'shift': it multiplies two values"):
        unit(gram(4, 6), product=Folding(1, 1, "shift"))


def test_random_graphs_have_products() -> None:
    seen = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        graph = random_graph(rng, operators=(Input, Cast, MatMul, Transpose, Reshape))
        seen += sum(isinstance(node.op, MatMul) for node in graph.nodes)
        lower(graph, random_schedule(graph, rng))
    assert seen > 20
