"""Groups that have the same weights (one layer over the frames of a sample) keep them once, in every folding, and compute what they did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hardware_models import scalar
from support.bundles import build_bundle

from qfx.hardware.board import board
from qfx.hardware.cost.resources import device
from qfx.hardware.design import design as d
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Folding, Schedule
from qfx.hardware.emit.emit import emit_sources
from qfx.hardware.project.project import prepare
from qfx.ir.graph import Graph, Node
from qfx.ir.interpret import quantize_input, run_from_raw
from qfx.operators import Cast, Const, Conv, Input
from qfx.testing import adversarial_inputs, assert_bit_exact


def over(groups: int, per_group: int, outputs: int, period: int) -> Graph:
    """A convolution of ``groups`` groups of which the weights come again after ``period``; each output has a bias of its own."""
    rng = np.random.default_rng(groups * 10 + period)
    weight = np.tile(rng.integers(-7, 8, (period * outputs, per_group, 2, 1)), (groups // period, 1, 1, 1))
    bias = Const(rng.integers(-30, 31, groups * outputs), 5)
    conv = Conv(Const(weight, 4), bias, (1, 1), ((0, 1), (0, 0)), (1, 1), groups)
    nodes = (Node("x", Input((groups * per_group, 3, 2), scalar("ap_fixed<6,3,AP_RND,AP_SAT>"))), Node("conv", conv, ("x",)))
    return Graph("over", (*nodes, Node("y", Cast(scalar("ap_fixed<9,5,AP_RND,AP_SAT>")), ("conv",))), "y")


CASES = [
    (over(3, 2, 4, 1), Folding(4, 2), 1),
    (over(3, 2, 4, 1), Folding(2, 4, "shift"), 1),
    (over(4, 2, 2, 2), Folding(1, 1), 2),
    (over(4, 2, 2, 4), Folding(2, 4), 4),
    (over(6, 1, 1, 2), Folding(1), 2),
    (over(6, 1, 1, 2), Folding(3), 6),
    (over(6, 1, 1, 3), Folding(3), 3),
    (over(6, 1, 1, 1), Folding(2), 2),
    (over(6, 1, 1, 1), Folding(6), 6),
    (over(6, 1, 2, 3), Folding(2, 2), 3),
]


def unit(graph: Graph, folding: Folding) -> d.MatVec:
    (found,) = (process for process in lower(graph, Schedule.of({"conv": folding})).processes if isinstance(process, d.MatVec))
    return found


@pytest.mark.usefixtures("gxx")
@pytest.mark.parametrize("fast", [False, True])
def test_every_folding_equals_the_interpreter(tmp_path: Path, fast: bool) -> None:
    bundle = build_bundle([(graph, Schedule.of({"conv": folding})) for graph, folding, _ in CASES], tmp_path, fast=fast, flags=("-O1",))
    for index, (graph, _, _) in enumerate(CASES):
        raw = quantize_input(graph, adversarial_inputs(graph, np.random.default_rng(index), 6))
        assert_bit_exact(bundle.run_from_raw(index, raw), run_from_raw(graph, raw), names=("C simulation", "interpreter"))


@pytest.mark.parametrize(("graph", "folding", "groups"), CASES)
def test_as_few_weights_as_differ(graph: Graph, folding: Folding, groups: int) -> None:
    made = unit(graph, folding)
    conv = graph.node("conv").op
    assert isinstance(conv, Conv)
    assert made.weights.size == conv.weight.raw.size * groups // conv.groups
    base, on = unit(graph, Folding()), device(board("zcu102").part)
    assert base.cost_at(folding, on) == made.cost(on)  # what the search counts on
    files = emit_sources(lower(graph, Schedule.of({"conv": folding})), "top")
    rom = files[f"src/weights/{made.name}.h"]
    assert f"for {made.weights.size} numbers" in rom


def test_weights_that_are_loaded_may_differ() -> None:
    """Another model's may, so that each group has its own."""
    graph = prepare(over(3, 2, 4, 1), "stream")
    assert unit(graph, Folding()).weights.size == 3 * 4 * 2 * 2
