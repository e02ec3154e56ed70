"""Values of four and five axes through the processes that move numbers: padded, cut, repeated and stretched along any axis, with words of one number
and of several."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.bundles import build_bundle

from qfx import operators as ops
from qfx.fixed.type import FixedType, OMode, QMode
from qfx.hardware.board import board
from qfx.hardware.design.cubes import cubes
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Folding, Request, Schedule
from qfx.hardware.folding.search import resolve
from qfx.hardware.timing.fifo import size_fifos
from qfx.hardware.timing.simulate import simulate
from qfx.ir.graph import Graph, Node
from qfx.ir.interpret import quantize_input, run_from_raw
from qfx.ir.values import ArrayType, Const
from qfx.testing import adversarial_inputs, assert_bit_exact

TYPE = ArrayType.of(FixedType(6, 3, True, QMode.RND, OMode.SAT))
SHAPES = ((4, 2, 3, 2), (2, 2, 3, 2, 3))


def moved(shape: tuple[int, ...]) -> Iterator[ops.Operator]:
    """Every axis by itself, and all axes at once."""
    rank = len(shape)
    for axes in (*((axis,) for axis in range(rank)), tuple(range(rank))):
        chosen = [axis in axes for axis in range(rank)]
        yield ops.Pad(tuple((1, 2) if here else (0, 0) for here in chosen))
        if len(axes) == 1:
            size = shape[axes[0]]
            yield ops.Take(axes[0], tuple(reversed(range(size))))
            yield ops.Take(axes[0], (*range(size), *range(size)))
        yield ops.Slice(tuple(int(here) for here in chosen), shape, (1,) * rank)
        if axes != (0,):
            yield ops.Upsample(tuple(2 if here else 1 for here in chosen[1:]))
            yield ops.Stretch(tuple(3 if here else 1 for here in chosen[1:]))


def graph_of(shape: tuple[int, ...], op: ops.Operator) -> Graph:
    return Graph("moves", (Node("x", ops.Input(shape, TYPE)), Node("moved", op, ("x",)), Node("relu", ops.Relu(), ("moved",))), "relu")


CASES = [graph_of(shape, op) for shape in SHAPES for op in moved(shape)]


def test_a_value_of_up_to_three_axes_has_one_view() -> None:
    assert [cube.groups for cube in cubes(1, [True])] == [((), (), (0,))]
    assert [cube.groups for cube in cubes(2, [True, True])] == [((), (1,), (0,))]
    assert [cube.groups for cube in cubes(3, [False, False, False])] == [((1,), (2,), (0,))]


def test_views_hold_every_axis_in_the_order_in_which_it_travels() -> None:
    for rank in range(1, 6):
        for cube in cubes(rank, [True] * rank):
            assert [axis for group in cube.groups for axis in group] == [*range(1, rank), 0]
    assert cubes(4, [False] * 4) == ()


@pytest.mark.usefixtures("gxx")
def test_every_move_is_exact(tmp_path: Path) -> None:
    designs = [(graph, Schedule()) for graph in CASES]
    wide = [(graph, Schedule.of({"moved": Folding(graph.node("moved").op.parallel(graph, graph.node("moved"))[0])})) for graph in CASES]
    for name, several in (("narrow", designs), ("wide", [pair for pair in wide if pair[1].folding("moved").pe > 1])):
        assert len(several) > 20
        bundle = build_bundle(several, tmp_path / name)
        for number, (graph, _) in enumerate(several):
            raw = quantize_input(graph, adversarial_inputs(graph, np.random.default_rng(number), 4))
            assert_bit_exact(bundle.run_from_raw(number, raw), run_from_raw(graph, raw), names=("C simulation", "interpreter"))


@pytest.mark.parametrize("graph", CASES[::5], ids=lambda graph: str(graph.node("moved").op))
def test_they_are_folded_sized_and_simulated(graph: Graph) -> None:
    plan = resolve(graph, board("zcu102"), Request(fit=True), clock_ns=5.0)
    folding, result = plan.schedule.folding("moved"), graph.infos["moved"].shape
    assert graph.infos["x"].shape[0] % folding.pe == 0 or folding.pe == result[0]  # whole pixels of the result
    design = size_fifos(lower(graph, plan.schedule))
    assert simulate(design).interval > 0


@pytest.mark.usefixtures("gxx")
def test_a_channel_cut_out_of_some_that_have_grids_of_their_own(tmp_path: Path) -> None:
    scale = Const(np.array([3, -5]), (1, 60))  # one grid for both would need 60 bits and more
    nodes = (
        Node("x", ops.Input((2, 3), TYPE)),
        Node("scaled", ops.Affine(scale, None), ("x",)),
        Node("first", ops.Slice((0, 0), (1, 3), (1, 1)), ("scaled",)),
        Node("pool", ops.MaxPool((2,), (1,), ((0, 0),), (1,)), ("first",)),
    )
    graph = Graph("cut", nodes, "pool")
    assert graph.infos["scaled"].per_channel
    assert not graph.infos["first"].per_channel
    bundle = build_bundle([(graph, Schedule())], tmp_path)
    raw = quantize_input(graph, adversarial_inputs(graph, np.random.default_rng(0), 40))
    assert_bit_exact(bundle.run_from_raw(0, raw), run_from_raw(graph, raw), names=("C simulation", "interpreter"))
