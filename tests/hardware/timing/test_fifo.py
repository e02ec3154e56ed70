"""FIFO depths: no deadlock with them, deadlock with one word less than the least, and the throughput of the slowest process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hardware_models import DIRECTED, chain
from random_schedules import random_schedule
from schedule_models import BRANCHED, crossing, folded, resnet, unet

from qfx.hardware.design import design as d
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Schedule
from qfx.hardware.timing.fifo import Sizing, allow_for_held_words, least_depths, plan, size_fifos, sizings, with_depths
from qfx.hardware.timing.network import Network
from qfx.hardware.timing.simulate import MAX_WORDS, DeadlockError, simulate
from qfx.hardware.timing.table import fifo_table, headline, schedule_table
from qfx.ir.graph import Graph
from qfx.operators import Relu
from qfx.testing import random_graph


def stops(design: d.Design, depths: dict[str, int] | None = None) -> bool:
    try:
        simulate(design, 2, depths=depths)
    except DeadlockError:
        return True
    return False


def check_least(design: d.Design) -> list[Sizing]:
    """Every FIFO at its least depth goes, one word less stops; the FIFOs for which that says something (more than: a FIFO of no words stops)."""
    telling = []
    for row in sizings(design):
        assert 1 <= row.least <= row.depth, row
        assert row.depth >= 2, row
        assert not stops(design, {row.stream: row.least}), row
        assert stops(design, {row.stream: row.least - 1}), row
        telling += [row] if row.least > 1 else []
    return telling


@pytest.mark.parametrize("make", BRANCHED)
def test_one_word_less_than_the_least_deadlocks(make: Callable[[], Graph]) -> None:
    graph = make()
    for schedule in (Schedule(), folded(graph), random_schedule(graph, np.random.default_rng(1))):
        assert check_least(size_fifos(lower(graph, schedule)))


def test_random_graphs() -> None:
    seed = int(np.random.default_rng().integers(1 << 32))
    print(f"seed {seed}")  # shown by pytest if the test fails
    rng = np.random.default_rng(seed)
    graphs = [*(make() for make in DIRECTED), *(random_graph(rng) for _ in range(25))]
    telling = [row for graph in graphs for row in check_least(size_fifos(lower(graph, random_schedule(graph, rng))))]
    assert telling


def _depths(design: d.Design) -> list[int]:
    return [stream.depth for stream in design.streams]


@pytest.mark.parametrize("make", BRANCHED)
def test_the_analysis_decides_deadlock_for_any_depths(make: Callable[[], Graph]) -> None:
    """Free of deadlock if and only if no FIFO is below its least: for depths around the border, all drawn at once."""
    graph = make()
    design = size_fifos(lower(graph, folded(graph)))
    least = least_depths(design)
    rng = np.random.default_rng(7)
    found = set()
    for number in range(40):  # in every second one the FIFOs that deadlock nothing stay as deep as they are
        depths = {name: max(1, depth + int(rng.integers(-3, 4))) for name, depth in least.items() if depth > 1}
        depths |= {name: int(rng.integers(1, 4)) for name, depth in least.items() if depth == 1 and number % 2}
        other = with_depths(design, depths)
        below = any(other_depth < depth for other_depth, depth in zip(_depths(other), least_depths(other).values(), strict=True))
        assert stops(other) == below, depths
        found.add(below)
    assert found == {True, False}


@pytest.mark.parametrize("make", [resnet, unet, crossing])
@pytest.mark.parametrize("fold", [(1, 1), (2, 2), (4, 2)])
def test_sized_designs_keep_the_pace_of_their_slowest_process(make: Callable[[], Graph], fold: tuple[int, int]) -> None:
    graph = make()
    found = plan(lower(graph, folded(graph, *fold)))
    assert found.timing is not None
    assert found.timing.bottleneck.busy >= 0.97 * found.timing.interval
    assert simulate(found.design).interval == pytest.approx(found.timing.interval, rel=0.01)


def test_depths_of_two_do_not_keep_the_pace() -> None:
    """Or the test above would say little."""
    graph = resnet()
    design = plan(lower(graph, folded(graph))).design
    lean = with_depths(design, {stream.name: 2 for stream in design.streams if least_depths(design)[stream.name] == 1})
    found = simulate(lean)
    assert found.bottleneck.busy < 0.97 * found.interval


def test_shortcuts_hold_less_than_a_frame() -> None:
    """A shortcut past two 3 x 3 convolutions waits for some two rows and two pixels, not for the whole frame."""
    graph = resnet()
    design = size_fifos(lower(graph, Schedule()))
    shortcut = max((row for row in sizings(design) if row.stream.startswith("stem_q")), key=lambda row: row.least)
    assert 2 * 8 * 4 <= shortcut.least <= shortcut.depth < 5 * 8 * 4 < 8 * 8 * 4


@pytest.mark.parametrize("make", BRANCHED)
def test_depths_allow_for_pipelines_that_do_not_flush(make: Callable[[], Graph]) -> None:
    graph = make()
    design = size_fifos(lower(graph, folded(graph)))
    held = least_depths(design, flushing=False)
    assert all(held[stream.name] <= stream.depth for stream in design.streams)
    assert allow_for_held_words(design) is design


def test_pipelines_that_do_not_flush_need_more() -> None:
    """They hold words of the longer branch back, so a shortcut must hold more; one that is just deep enough for flushing ones is made deeper."""
    graph = resnet()
    design = size_fifos(lower(graph, folded(graph)))
    least, held = least_depths(design), least_depths(design, flushing=False)
    name = max(least, key=lambda name: held[name] - least[name])
    assert held[name] > least[name] > 1
    deepened = allow_for_held_words(with_depths(design, {name: least[name]}))
    assert next(stream.depth for stream in deepened.streams if stream.name == name) == held[name]


def test_chains_have_nothing_to_deadlock() -> None:
    design = lower(chain("relu", (6,), Relu()), Schedule())
    assert Network(design).components == ()
    assert set(least_depths(design).values()) == {1}
    assert {stream.depth for stream in size_fifos(design).streams if stream.name != "last_s"} == {2}


def test_components() -> None:
    """One per residual block; a block's FIFOs are in it and nothing else is."""
    graph = resnet()
    found = Network(lower(graph, Schedule())).components
    assert len(found) == 2
    assert not set(found[0]) & set(found[1])
    assert "last_s" not in found[0] + found[1]
    assert {name for name in found[0] if name.startswith(("a_q", "b_q"))} == {"a_q_s"}  # the sum is b's own
    assert "stem_s" not in found[0]


def test_depths_reach_every_process() -> None:
    graph = unet()
    design = with_depths(lower(graph, Schedule()), {stream.name: 7 for stream in lower(graph, Schedule()).streams})
    assert {stream.depth for process in design.processes for stream in (*d.inputs(process), *d.outputs(process))} == {7}
    assert {stream.depth for stream in design.streams} == {7}


def test_a_frame_too_long_to_simulate_waits_behind_every_fork() -> None:
    graph = resnet()
    design = lower(graph, Schedule())
    long = replace(design, streams=(*design.streams[:-1], replace(design.streams[-1], words=MAX_WORDS + 1)))
    found = plan(long)
    assert (found.design, found.timing) == (long, None)
    assert "too long to simulate" in headline(found, 5.0)
    assert not stops(design)  # the depths that lowering gives


def test_tables() -> None:
    graph = resnet()
    found = plan(lower(graph, folded(graph)))
    assert found.timing is not None
    table = schedule_table(found.timing, found.design, 5.0)
    assert table.row_count == len(found.design.processes)
    assert f"{found.timing.interval} cycles" in str(table.title)
    rows = sizings(found.design)
    assert fifo_table(rows, found.design).row_count == sum(row.depth > 2 for row in rows)
