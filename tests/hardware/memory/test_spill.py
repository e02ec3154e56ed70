"""FIFOs in the board's memory: the same numbers, the turns of the model, however late memory answers, and what is found where something is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hardware_models import spilled
from support import bounded

from qfx.hardware.design import design as d
from qfx.hardware.design.lower import lower
from qfx.hardware.timing import fifo
from qfx.ir.graph import Graph
from qfx.ir.interpret import quantize_input, run_from_raw
from qfx.testing import adversarial_inputs, assert_bit_exact


def raws(graph: Graph, count: int, seed: int = 0) -> np.ndarray:
    return quantize_input(graph, adversarial_inputs(graph, np.random.default_rng(seed), count))


def with_spills(design: d.Design, change: Callable[[d.Spill], d.Process]) -> d.Design:
    """The design with ``change`` made to those of its FIFOs in memory that have more than a block under way."""
    changed = tuple(change(one) if isinstance(one, d.Spill) and one.ring > 1 else one for one in design.processes)
    return replace(design, processes=changed)


class Shallow(d.Spill):
    """A ring that is a block too short."""

    @property
    def ring(self) -> int:
        return super().ring - 1


@pytest.fixture(scope="module")
def harness(gxx: str, tmp_path_factory: pytest.TempPathFactory) -> bounded.BoundedBundle:
    """The design, and it with rings that are too short."""
    assert gxx
    design = fifo.plan(lower(*spilled())).design
    short = with_spills(design, lambda one: Shallow(one.name, one.input, one.output, one.due, one.burst, one.bits, one.port))
    return bounded.build([design, short], tmp_path_factory.mktemp("bounded"))


@pytest.mark.parametrize("stalls", [0, 1, 2])
def test_the_harness_finds_the_same_numbers_and_the_turns_of_the_model(harness: bounded.BoundedBundle, stalls: int) -> None:
    graph, _ = spilled()
    x = raws(graph, 4, stalls)
    found = harness.run(0, x, stalls=stalls)
    assert_bit_exact(found.y_raw, run_from_raw(graph, x))
    assert bounded.differences(harness.designs[0], found) == []


def test_a_ring_that_is_a_block_too_short_is_found(harness: bounded.BoundedBundle) -> None:
    graph, _ = spilled()
    x = raws(graph, 2)
    assert (harness.run(1, x).y_raw != run_from_raw(graph, x)).any()
