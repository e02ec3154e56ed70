"""The simulation of tokens: against a second, slow one written from the rules, and by hand where that is short."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hardware_models import DIRECTED, chain, conv, scalar
from random_schedules import random_schedule
from schedule_models import folded, resnet

from qfx.errors import ProjectError
from qfx.hardware.design import design as d
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Schedule
from qfx.hardware.timing.fifo import size_fifos, with_depths
from qfx.hardware.timing.program import RESTART, REWIND
from qfx.hardware.timing.simulate import MAX_WORDS, DeadlockError, Timing, simulate
from qfx.ir.graph import Graph, Node
from qfx.operators import Add, Input, Relu, Transpose


def slow(design: d.Design, frames: int) -> tuple[list[int], int]:
    """The cycles in which the frames' last words leave, and of the first word's read: the model's rules as inequalities, raised until all hold."""
    programs = [process.program for process in design.processes]
    periods = [found.turns + found.pause for found in programs]
    starts = [np.concatenate([np.arange(f.turns) + i * period for i in range(frames)]) for f, period in zip(programs, periods, strict=True)]
    rules = []  # (process, turn) starts at least `lag` after (process, turn)
    for p, found in enumerate(programs):
        for t in range(frames * found.turns - 1):
            rules.append((p, t + 1, p, t, 1 if (t + 1) % found.turns else 1 + found.pause))
    for stream in design.streams:
        p = next(i for i, process in enumerate(design.processes) if stream in d.outputs(process))
        c = next(i for i, process in enumerate(design.processes) if stream in d.inputs(process))
        wrote = programs[p].writes[d.outputs(design.processes[p]).index(stream)]
        read = programs[c].reads[d.inputs(design.processes[c]).index(stream)]
        wrote, read = (np.concatenate([turns + i * f.turns for i in range(frames)]) for turns, f in ((wrote, programs[p]), (read, programs[c])))
        for n in range(wrote.size):
            rules.append((c, read[n], p, wrote[n], programs[p].latency + 1))
            if n >= stream.depth:
                rules.append((p, wrote[n], c, read[n - stream.depth], 1 - programs[p].latency))
    for _ in range(10_000):
        changed = False
        for a, t, b, u, lag in rules:
            if starts[a][t] < starts[b][u] + lag:
                starts[a][t] = starts[b][u] + lag
                changed = True
        if not changed:
            exit_ = next(i for i, process in enumerate(design.processes) if isinstance(process, d.ToPort))
            return [int(starts[exit_][(i + 1) * programs[exit_].turns - 1]) + programs[exit_].latency for i in range(frames)], int(starts[0][0])
    raise AssertionError("no fixed point: the design deadlocks")


def joined() -> Graph:
    """A convolution and what it convolves, added."""
    x = Node("x", Input((2, 4, 4), scalar("ap_fixed<6,3,AP_RND,AP_SAT>")))
    return Graph("joined", (x, Node("conv", conv(60, 2, 2, 3, 3, pads=(1, 1)), ("x",)), Node("sum", Add(), ("conv", "x"))), "sum")


@pytest.mark.parametrize("make", [joined, *DIRECTED[3:6], DIRECTED[17]])
def test_against_a_slow_simulation(make: Callable[[], Graph]) -> None:
    graph = make()
    for seed in range(2):
        design = size_fifos(lower(graph, random_schedule(graph, np.random.default_rng(seed))))
        done, first = slow(design, 3)
        found = simulate(design, 3)
        assert (found.latency, found.interval, found.steady) == (done[0] - first + 1, done[2] - done[1], done[2] - done[1] == done[1] - done[0])


def test_the_slow_simulation_tells_depths_apart() -> None:
    """Or the comparison above would say little about FIFOs."""
    design = size_fifos(lower(joined(), Schedule()))
    shallow = with_depths(design, {stream.name: 1 for stream in design.streams if stream.depth == 2})
    done, _ = slow(shallow, 3)
    assert simulate(shallow, 3).interval == done[2] - done[1] > simulate(design, 3).interval


def test_a_chain_by_hand() -> None:
    """Ports and a ReLU of ten words: each process takes ten turns, the word its latency, and a frame follows without waiting for the pipeline."""
    design = lower(chain("relu", (10,), Relu()), Schedule())
    pipeline = [process.latency for process in design.processes]
    found = simulate(design)
    assert found.latency == 10 + sum(pipeline) + len(pipeline) - 1  # a FIFO costs a cycle
    assert found.interval == 10 + REWIND == found.bottleneck.busy
    assert found.steady
    assert found.frames_per_second(5.0) == 1e9 / (5.0 * found.interval)


def test_a_process_of_two_loops_empties_its_pipeline() -> None:
    """What a permutation reads after it has written the frame before is the only wait of the two."""
    design = lower(chain("turned", (2, 5), Transpose((1, 0))), Schedule())
    slowest = next(process for process in design.processes if isinstance(process, d.Permute))
    found = simulate(design)
    assert found.interval == slowest.cycles + slowest.latency + RESTART == found.bottleneck.busy


def test_the_slowest_process_bounds_the_interval() -> None:
    for make in DIRECTED:
        graph = make()
        design = lower(graph, random_schedule(graph, np.random.default_rng(3)))
        found = simulate(design)
        assert found.interval >= max(process.cycles for process in design.processes)
        assert found.bottleneck.busy <= found.interval
        assert [row.turns for row in found.processes] == [process.cycles for process in design.processes]


def test_peaks_are_the_depths_that_change_nothing() -> None:
    graph = resnet()
    design = size_fifos(lower(graph, folded(graph)))
    found = simulate(design, 4)
    assert all(1 <= peak <= stream.depth for peak, stream in zip(found.peaks, design.streams, strict=True))
    tight = {stream.name: peak for stream, peak in zip(design.streams, found.peaks, strict=True)}
    assert simulate(design, 4, depths=tight) == found


def starved() -> tuple[d.Design, str]:
    """A residual network whose shortcut's FIFO holds two words."""
    design = size_fifos(lower(resnet(), Schedule()))
    shortcut = max((s for s in design.streams if s.name.startswith("stem_q")), key=lambda stream: stream.depth)
    return with_depths(design, {shortcut.name: 2}), shortcut.name


def test_a_deadlock_names_who_waits_for_what() -> None:
    design, shortcut = starved()
    with pytest.raises(DeadlockError) as caught:
        simulate(design)
    error = caught.value
    assert any((wait.stream, wait.state) == (shortcut, "full") for wait in error.circle)
    # It is a circle, each waits for the next, and the word or the room comes from just that one.
    for wait, follower in zip(error.circle, (*error.circle[1:], error.circle[0]), strict=True):
        assert wait.other == follower.process
        ends = {p.name: (d.inputs(p), d.outputs(p)) for p in design.processes}
        mine, theirs = (1, 0) if wait.state == "full" else (0, 1)
        assert wait.stream in {s.name for s in ends[wait.process][mine]} & {s.name for s in ends[wait.other][theirs]}
    assert set(error.circle) <= set(error.waits)
    assert f"{shortcut} is full" in str(error)
    assert f"make {shortcut} deeper" in error.remedy


def test_depths_override() -> None:
    design, shortcut = starved()
    assert isinstance(simulate(design, depths={shortcut: 1000}), Timing)


def test_too_long_a_frame_is_refused() -> None:
    design = lower(chain("relu", (4,), Relu()), Schedule())
    long = replace(design, streams=(replace(design.streams[0], words=MAX_WORDS + 1), *design.streams[1:]))
    with pytest.raises(ProjectError, match="too many to simulate"):
        simulate(long)
