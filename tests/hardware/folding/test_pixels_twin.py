"""The fastest folding that fits against every folding, several pixels at once among them: on layers so small that each can be lowered."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hardware_models import chain, conv
from random_schedules import divisors, useful

from qfx.errors import ProjectError
from qfx.hardware.board import Board, board
from qfx.hardware.cost.estimate import LIMITS
from qfx.hardware.design import dsp
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Folding, Request, Schedule
from qfx.hardware.folding import matrices
from qfx.hardware.folding.plan import shallow_estimate
from qfx.hardware.folding.search import resolve
from qfx.hardware.timing.fifo import CHAIN_DEPTH, with_depths
from qfx.ir.graph import Graph
from qfx.operators import Conv

PORTS = (16, 16)  # numbers a word of the input and of the output, fixed: the layer alone is chosen
DEPTHWISE = chain("depthwise", (4, 4, 8), conv(0, 4, 1, 3, 3, groups=4, pads=(1, 1)))
POINTWISE = chain("pointwise", (4, 4, 8), conv(0, 4, 4, 1, 1))
DENSE = chain("dense", (2, 4, 8), conv(0, 2, 2, 3, 3, pads=(1, 1)))
CASES: list[tuple[Graph, dict[str, int]]] = [
    (DEPTHWISE, {"lut": 1600, "dsp": 9}),
    (POINTWISE, {"lut": 4000, "dsp": 16}),
    (POINTWISE, {"lut": 1700, "dsp": 16}),
    (POINTWISE, {"lut": 900, "dsp": 2}),
    (DENSE, {"lut": 1500, "dsp": 12}),
]


def small(**resources: int) -> Board:
    return replace(board("zcu102"), name="small", **resources)


def foldings(graph: Graph) -> list[Folding]:
    """Every PE, SIMD, number of taps a word, arithmetic and number of pixels of the first layer."""
    op = graph.nodes[1].op
    assert isinstance(op, Conv)
    outputs, per_group, *kernel = op.weight.shape
    taps = kernel[0] * kernel[1]
    depthwise = op.groups > 1
    both = [(simd, 1) for simd in ([1] if depthwise else divisors(per_group))]
    both += [(simd, taps) for simd in useful(taps * per_group)] if taps > 1 else []
    names = ("dsp", "lut", "shift", *dsp.PACKED, *dsp.GRIDS)
    every = itertools.product(divisors(outputs), both, names, (1, 2, 4))
    return [Folding(pe, simd, name, taps=together, pixels=pixels) for pe, (simd, together), name, pixels in every]


def every_pace(graph: Graph, on: Board) -> dict[int, list[Folding]]:
    """The foldings that fit, by the busy cycles of their slowest process: each a design of its own, estimated as a whole."""
    found: dict[int, list[Folding]] = {}
    for folding in foldings(graph):
        try:
            design = lower(graph, Schedule.of({graph.nodes[1].name: folding}, input_parallel=PORTS[0], output_parallel=PORTS[1]))
        except ProjectError:
            continue  # it cannot be built
        if not shallow_estimate(with_depths(design, {stream.name: CHAIN_DEPTH for stream in design.streams}), on).over(LIMITS):
            found.setdefault(max(process.busy for process in design.processes), []).append(folding)
    return found


def fastest(graph: Graph, on: Board) -> int:
    """What the search finds, in the same terms."""
    made = resolve(graph, on, Request(fit=True, input_parallel=PORTS[0], output_parallel=PORTS[1]), clock_ns=5.0)
    return max(process.busy for process in made.design.processes)


def test_the_fastest_is_that_of_every_folding(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a search that does not know of several pixels is found out, wherever these alone are as fast."""
    several = []
    for graph, resources in CASES:
        on = small(**resources)
        paces = every_pace(graph, on)
        assert fastest(graph, on) == min(paces), (graph.name, resources)
        if all(folding.pixels > 1 for folding in paces[min(paces)]):
            several.append((graph, on, min(paces)))
    assert len(several) >= 2
    monkeypatch.setattr(matrices, "_ABREAST", ())
    assert all(fastest(graph, on) > pace for graph, on, pace in several)
