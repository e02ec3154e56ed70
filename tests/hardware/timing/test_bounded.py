"""The generated C++ with bounded, blocking FIFOs: same numbers, the turns that the cycle model says, and deadlock just where the analysis says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hardware_models import DIRECTED, memories
from random_schedules import random_schedule
from schedule_models import BRANCHED, folded, upsampling
from support.bounded import BoundedBundle, BoundedRun, build, differences

from qfx.hardware.design import design as d
from qfx.hardware.design.lower import lower
from qfx.hardware.timing.fifo import least_depths, size_fifos, with_depths
from qfx.hardware.timing.simulate import DeadlockError, simulate
from qfx.ir.graph import Graph
from qfx.ir.interpret import quantize_input, run_from_raw
from qfx.ir.values import RawArray
from qfx.testing import adversarial_inputs, assert_bit_exact, random_graph

FRAMES = 3


@dataclass(frozen=True)
class Compiled:
    """All designs of this module in one executable."""

    graphs: tuple[Graph, ...]
    bundle: BoundedBundle

    def x_raw(self, index: int) -> RawArray:
        graph = self.graphs[index]
        return quantize_input(graph, adversarial_inputs(graph, np.random.default_rng(index), FRAMES))

    def stops(self, index: int, depths: dict[str, int]) -> DeadlockError | None:
        try:
            self.bundle.run(index, self.x_raw(index), depths)
        except DeadlockError as error:
            return error
        return None


@pytest.fixture(scope="module")
def compiled(gxx: str, tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    seed = int(np.random.default_rng().integers(1 << 32))
    print(f"seed {seed}")  # shown by pytest if a test fails
    rng = np.random.default_rng(seed)
    graphs = [*(make() for make in BRANCHED), upsampling(), *(make() for make in DIRECTED[::2]), *(random_graph(rng) for _ in range(6))]
    schedules = [folded(graph) if i < len(BRANCHED) else random_schedule(graph, rng) for i, graph in enumerate(graphs)]
    graphs, schedules = [*graphs, memories()[0]], [*schedules, memories()[1]]
    designs = [size_fifos(lower(graph, schedule)) for graph, schedule in zip(graphs, schedules, strict=True)]
    return Compiled(tuple(graphs), build(designs, tmp_path_factory.mktemp("bounded"), flags=("-Werror", "-O0")))


def everything(compiled: Compiled) -> list[tuple[Graph, d.Design, RawArray, BoundedRun]]:
    rows = []
    for index, (graph, design) in enumerate(zip(compiled.graphs, compiled.bundle.designs, strict=True)):
        x_raw = compiled.x_raw(index)
        rows.append((graph, design, x_raw, compiled.bundle.run(index, x_raw)))
    return rows


def test_numbers_turns_and_depths(compiled: Compiled) -> None:
    for graph, design, x_raw, found in everything(compiled):
        assert_bit_exact(found.y_raw, run_from_raw(graph, x_raw), names=(f"bounded simulation of {graph.name}", "interpreter"))
        assert differences(design, found) == [], graph.name
        assert len(found.ports[0]) == FRAMES
        assert all(1 <= peak <= stream.depth for peak, stream in zip(found.peaks, design.streams, strict=True))


def test_one_word_less_than_the_least_deadlocks_in_both(compiled: Compiled) -> None:
    """And both stop with the same processes waiting for the same FIFOs: where a design stops does not depend on the order of its processes."""
    told = 0
    for index, design in enumerate(compiled.bundle.designs):
        for name, least in least_depths(design).items():
            if least == 1:
                continue
            assert compiled.stops(index, {name: least}) is None
            stopped = compiled.stops(index, {name: least - 1})
            assert stopped is not None, name
            with pytest.raises(DeadlockError) as caught:
                simulate(design, FRAMES, depths={name: least - 1})
            assert (stopped.waits, stopped.circle) == (caught.value.waits, caught.value.circle)
            told += 1
    assert told >= len(BRANCHED)


def test_any_depths_stop_both_or_neither(compiled: Compiled) -> None:
    rng = np.random.default_rng(5)
    found = set()
    for index in range(len(BRANCHED)):
        design = compiled.bundle.designs[index]
        least = least_depths(design)
        for _ in range(10):
            depths = {name: max(1, depth + int(rng.integers(-2, 4))) for name, depth in least.items()}
            below = any(depths[name] < depth for name, depth in least_depths(with_depths(design, depths)).items())
            assert (compiled.stops(index, depths) is not None) == below
            found.add(below)
    assert found == {True, False}


def test_a_planted_turn_is_seen(compiled: Compiled) -> None:
    """The comparison of turns sees a word that is read a turn late, one that is written a turn early, and a turn too many."""
    design = compiled.bundle.designs[0]
    found = compiled.bundle.run(0, compiled.x_raw(0))
    for field in ("reads", "writes", "turns"):
        index = next(i for i, process in enumerate(design.processes) if isinstance(process, d.Window))
        frame = found.ports[index][1]
        if field == "turns":
            wrong = replace(frame, turns=frame.turns + 1)
        else:
            turns = getattr(frame, field)[0].copy()
            turns[3] += 1 if field == "reads" else -1
            wrong = replace(frame, **{field: (turns, *getattr(frame, field)[1:])})
        ports = list(found.ports)
        ports[index] = (found.ports[index][0], wrong, found.ports[index][2])
        planted = replace(found, ports=tuple(ports))
        assert [design.processes[index].name in line for line in differences(design, planted)] == [True]


def test_a_design_that_differs_from_its_code_is_seen(compiled: Compiled) -> None:
    """The cycle model of another folding does not fit the code."""
    design = compiled.bundle.designs[1]
    found = compiled.bundle.run(1, compiled.x_raw(1))
    units = [i for i, process in enumerate(design.processes) if isinstance(process, d.MatVec)]
    unit = design.processes[units[0]]
    assert isinstance(unit, d.MatVec)
    processes = list(design.processes)
    processes[units[0]] = replace(unit, pe=1)
    assert differences(replace(design, processes=tuple(processes)), found)


def test_a_planted_lsb_is_seen(compiled: Compiled) -> None:
    x_raw = compiled.x_raw(1)
    y_raw = compiled.bundle.run(1, x_raw).y_raw.copy()
    y_raw.flat[7] += 1
    with pytest.raises(AssertionError):
        assert_bit_exact(y_raw, run_from_raw(compiled.graphs[1], x_raw), names=("bounded simulation", "interpreter"))


def test_runs_repeat(compiled: Compiled) -> None:
    first, second = (compiled.bundle.run(2, compiled.x_raw(2)) for _ in range(2))
    assert first.peaks == second.peaks


def test_the_folder_is_all_that_is_written(compiled: Compiled) -> None:
    assert {path.name for path in Path(compiled.bundle.executable).parent.iterdir() if path.is_file()} == {"bounded", "bounded.cpp"}
