"""The design nearest to limits that may be too tight for any, and sizes of FIFOs that are remembered."""

from __future__ import annotations

import pytest
from hardware_models import DIRECTED, chain, conv, scalar
from test_fold import network

from qfx.errors import ProjectError
from qfx.hardware.board import board
from qfx.hardware.cost.estimate import LIMITS, capacity
from qfx.hardware.cost.resources import FIELDS
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Folding, Request, Schedule
from qfx.hardware.folding.plan import Plan
from qfx.hardware.folding.search import nearest_plan, resolve
from qfx.hardware.timing import fifo
from qfx.ir.graph import Graph
from qfx.operators import Cast

ZCU = board("zcu102")
CLOCK_NS = 5.0


def taken(made: Plan) -> dict[str, int]:
    return {field: getattr(made.estimate.total, field) for field in FIELDS}


def share(made: Plan, allowed: dict[str, float]) -> float:
    return max(amount / max(allowed[field], 0.5) for field, amount in taken(made).items())


@pytest.mark.parametrize("fps", [10_000.0, 200_000.0])
@pytest.mark.parametrize("tight", [1.0, 0.8, 0.5, 0.1])
def test_nearest_is_no_farther_than_the_cheapest_of_the_board(fps: float, tight: float) -> None:
    """Of what the cheapest design takes so much is allowed: the nearest takes no larger a share, but for what the search misses."""
    graph = network()
    cheapest = resolve(graph, ZCU, Request(fps=fps), clock_ns=CLOCK_NS)
    allowed = {field: float(max(int(tight * amount), 1)) for field, amount in taken(cheapest).items()}
    made = nearest_plan(graph, ZCU, allowed, fps=fps, clock_ns=CLOCK_NS)
    assert made.fps >= fps
    assert share(made, allowed) <= 1.05 * share(cheapest, allowed)
    assert nearest_plan(graph, ZCU, allowed, fps=fps, clock_ns=CLOCK_NS).schedule == made.schedule


def test_what_is_scarce_is_spared() -> None:
    """However far the limits are from what the board has of each; a resource that may not be used at all is not."""
    graph, there = network(), capacity(ZCU)
    whole = {field: LIMITS[field] * getattr(there, field) for field in FIELDS}
    free = nearest_plan(graph, ZCU, whole, fps=200_000, clock_ns=CLOCK_NS)
    assert share(free, whole) <= 1.0
    few = nearest_plan(graph, ZCU, whole | {"dsp": 0.0}, fps=200_000, clock_ns=CLOCK_NS)
    assert taken(free)["dsp"] > 0
    assert taken(few)["dsp"] == 0
    small = nearest_plan(graph, ZCU, whole | {"lut": taken(few)["lut"] * 0.7}, fps=200_000, clock_ns=CLOCK_NS)
    assert taken(small)["lut"] < taken(few)["lut"]
    assert taken(small)["dsp"] > 0


def test_a_pace_that_no_folding_keeps() -> None:
    with pytest.raises(ProjectError, match=r"1e\+12 frames per second leave 0 cycles"):
        nearest_plan(network(), ZCU, dict.fromkeys(FIELDS, 1e9), fps=1e12, clock_ns=CLOCK_NS)


def wider(bits: int) -> Graph:
    """Two convolutions whose words between have so many bits: the same words in the same turns."""
    narrow = Cast(scalar(f"ap_ufixed<{bits},2,AP_RND,AP_SAT>"))
    return chain("wider", (4, 8, 8), conv(0, 8, 4, 3, 3, pads=(1, 1)), narrow, conv(2, 8, 8, 3, 3, pads=(1, 1)), narrow)


@pytest.mark.parametrize("index", range(len(DIRECTED)))
def test_what_is_remembered_is_what_comes_out(index: int) -> None:
    known: fifo.Known = {}
    first, again = (fifo.plan(lower(DIRECTED[index](), Schedule()), known) for _ in range(2))
    fresh = fifo.plan(lower(DIRECTED[index](), Schedule()))
    assert len(known) == 1
    for found in (first, again):
        assert [stream.depth for stream in found.design.streams] == [stream.depth for stream in fresh.design.streams]
        assert found.timing == fresh.timing


def test_what_is_remembered_goes_by_movements() -> None:
    """Longer words are remembered, another folding is not."""
    known: fifo.Known = {}
    one, other = (fifo.plan(lower(wider(bits), Schedule()), known) for bits in (4, 5))
    assert len(known) == 1
    assert one.design.streams != other.design.streams
    assert [stream.depth for stream in other.design.streams] == [stream.depth for stream in fifo.plan(lower(wider(5), Schedule())).design.streams]
    name = next(node.name for node in wider(4).nodes if node.name.startswith("conv"))
    fifo.plan(lower(wider(4), Schedule.of({name: Folding(2)})), known)
    assert len(known) == 2
