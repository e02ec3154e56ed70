"""Designs as RTL: every word of every stream as C simulation has it, every turn as the cycle model has it, and planted errors found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hardware_models import from_ddr
from rtl_models import ALL, FRAMES, QUICK, WIDE_POOL, Case, frames
from support.rtl import check
from support.rtl.check import Rtl
from support.rtl.period import least_period

from qfx.hardware.design import design as d
from qfx.hardware.design.lower import lower
from qfx.hardware.emit.emit import emit_sources
from qfx.hardware.processes import PROCESSES
from qfx.hardware.processes.memory.spill import Spill
from qfx.hardware.project.project import prepare
from qfx.hardware.rtl.machines import sources
from qfx.hardware.rtl.machines.machine import translate
from qfx.hardware.rtl.machines.netlist import Machine, Node
from qfx.hardware.timing.fifo import least_depths
from qfx.hardware.timing.simulate import DeadlockError, simulate

SEED = 20261129


@cache
def design_of(case: Case) -> d.Design:
    return case.make(np.random.default_rng(SEED))


def prepared(case: Case, folder: Path) -> Rtl:
    return check.prepare(design_of(case), frames(design_of(case), np.random.default_rng(SEED)), folder)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory, gxx: str) -> Callable[[str], Rtl]:
    """The RTL of one of the cases that several tests look at, made once."""
    cases = {case.name: case for case in QUICK}
    return cache(lambda name: prepared(cases[name], tmp_path_factory.mktemp(name)))


def has_loop(design: d.Design) -> bool:
    return any(isinstance(process, d.Loop) for process in design.processes)


def compare(rtl: Rtl) -> None:
    """Each process by itself at full speed and with stalls at random, and all with their FIFOs, beside C simulation and the cycle model."""
    seen = rtl.alone()
    assert check.word_differences(rtl, seen) == []
    assert check.turn_differences(rtl, seen) == []
    assert check.word_differences(rtl, rtl.alone(stalls=True)) == []
    whole = rtl.together()
    assert check.word_differences(rtl, whole) == []
    assert check.word_differences(rtl, rtl.together(stalls=True)) == []
    if rtl.design.loader is None and not has_loop(rtl.design):
        timing = simulate(check.instant(rtl.design), rtl.frames)
        assert check.pace(rtl, whole) == (timing.interval, timing.latency)


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_words_and_turns(case: Case, tmp_path: Path, thorough: bool, quick: Callable[[str], Rtl]) -> None:
    if case not in QUICK and not thorough:
        pytest.skip("all designs are compared with --thorough")
    compare(quick(case.name) if case in QUICK else prepared(case, tmp_path))


def test_every_kind_of_process_is_covered(thorough: bool) -> None:
    if not thorough:
        pytest.skip("with the designs themselves, by --thorough")
    graph, schedule = from_ddr()
    with_masters = lower(prepare(graph), schedule)  # compared by test_weights_in_memory
    kinds = set()
    for design in (*(design_of(case) for case in ALL), with_masters):
        for process in design.processes:
            kinds |= {type(process), *(type(part) for part, _ in process.inside)}
    assert kinds == set(PROCESSES) - {Spill}  # which writes memory, and has no Verilog


@pytest.fixture
def residual(quick: Callable[[str], Rtl]) -> Rtl:
    return quick("residual")


@pytest.fixture
def arithmetics(quick: Callable[[str], Rtl]) -> Rtl:
    return quick("arithmetics")


def found(rtl: Rtl, machine: Machine) -> bool:
    """Whether the comparison of this process sees that it is another."""
    other = only(rtl.with_machine(machine), machine.name)
    seen = other.alone()
    return bool(check.word_differences(other, seen) or check.turn_differences(other, seen))


def only(rtl: Rtl, name: str) -> Rtl:
    calls = tuple(call for call in rtl.region.calls if call.name == name)
    processes = tuple(process for process in rtl.design.processes if process.name == name)
    return replace(rtl, region=replace(rtl.region, calls=calls), design=replace(rtl.design, processes=processes))


def with_node(machine: Machine, place: int, node: Node) -> Machine:
    return replace(machine, nodes=(*machine.nodes[:place], node, *machine.nodes[place + 1 :]))


def with_word(machine: Machine, place: int, row: int, bit: int) -> Machine:
    memory = machine.memories[place]
    assert memory.initial is not None
    words = list(memory.initial)
    words[row] ^= 1 << bit
    return replace(machine, memories=(*machine.memories[:place], replace(memory, initial=tuple(words)), *machine.memories[place + 1 :]))


def test_a_flipped_bit_of_a_constant_is_found(arithmetics: Rtl, thorough: bool) -> None:
    """One of a few in each ROM, and in each table of biases and scales. (The lowest bits of a bias may be rounded off, an input be always zero.)"""
    told = 0
    for machine in arithmetics.machines.values():
        if machine.name != "conv2_matvec" and not thorough:
            continue
        assert not found(arithmetics, machine)
        for place, memory in enumerate(machine.memories):
            if memory.initial is None or memory.updates:
                continue
            planted = (with_word(machine, place, row, bit) for row in (0, memory.depth - 1, memory.depth // 2) for bit in range(min(8, memory.width)))
            assert any(found(arithmetics, one) for one in planted), memory.name
            told += 1
    assert told >= (7 if thorough else 2)


def test_a_comparison_that_is_off_by_one_is_found(residual: Rtl) -> None:
    """Every comparison for equality of every process but those that another one makes superfluous: loops end, rows and windows wrap."""
    told, missed = 0, list[str]()
    for name in ("conv_window", "conv_matvec", "x_width", "join_concat", "output_port"):
        machine = residual.machines[name]
        for place, node in enumerate(machine.nodes):
            if node.op != "icmp" or node.name != "eq" or machine.nodes[node.args[1]].op != "const":
                continue
            bound = machine.nodes[node.args[1]]
            wrong = replace(bound, value=(bound.value - 1) % (1 << bound.width))
            # The number may have other users: a node of its own in front of all others.
            if sum(node.args[1] in other.args for other in machine.nodes) > 1:
                continue
            told += 1
            if not found(residual, with_node(machine, node.args[1], wrong)):
                missed.append(f"{name}: {bound.value} at {place}")
    assert missed == []
    assert told >= 8


def test_a_comparison_with_the_wrong_sense_is_found(residual: Rtl) -> None:
    """``<`` for ``<=``: one word more or less read, or the border of a frame taken for its inside."""
    machine = residual.machines["conv_window"]
    strict = [place for place, node in enumerate(machine.nodes) if node.op == "icmp" and node.name == "ult"]
    wrong = [with_node(machine, place, replace(machine.nodes[place], name="ule")) for place in strict]
    assert len(wrong) >= 3
    assert sum(found(residual, planted) for planted in wrong) >= len(wrong) - 1  # one whose equality never comes


def test_a_fifo_that_is_too_shallow_deadlocks(residual: Rtl) -> None:
    """As deep as the analysis says a design passes its frames, with a word less it stops."""
    told = 0
    for name, least in least_depths(residual.design).items():
        if least == 1:
            continue
        assert check.word_differences(residual, residual.together({name: least})) == []
        stopped = check.word_differences(residual, residual.together({name: least - 1}))
        assert any("out" in line for line in stopped)
        with pytest.raises(DeadlockError):
            simulate(residual.design, FRAMES, depths={name: least - 1})
        told += 1
    assert told >= 3


def test_a_fifo_that_is_too_shallow_costs_pace(residual: Rtl) -> None:
    """And just as much as the cycle model says."""
    name, least = max(least_depths(residual.design).items(), key=lambda item: item[1])
    depths = {name: least}
    whole = residual.together(depths)
    assert check.word_differences(residual, whole) == []
    timing = simulate(check.instant(residual.design), FRAMES, depths=depths)
    assert check.pace(residual, whole) == (timing.interval, timing.latency)
    assert timing.interval > simulate(check.instant(residual.design), FRAMES).interval


def test_a_planted_bit_of_the_reference_is_found(residual: Rtl) -> None:
    """In every stream that a process writes."""
    for stream in residual.region.depths:
        words = dict(residual.words)
        words[stream] = [words[stream][0] ^ 1, *words[stream][1:]]
        writer = next(call.name for call in residual.region.calls if stream in call.arguments and stream in _written(residual, call.name))
        other = only(replace(residual, words=words), writer)
        assert check.word_differences(other, other.alone()), stream


def _written(rtl: Rtl, name: str) -> set[str]:
    machine = rtl.machines[name]
    (call,) = [call for call in rtl.region.calls if call.name == name]
    ports = {port.name for port in machine.outputs}
    return {given for parameter, given in zip(machine.parameters, call.arguments, strict=True) if parameter in ports}


def test_a_memory_is_read_and_written_once_a_turn(arithmetics: Rtl, residual: Rtl) -> None:
    """What is written while it runs has a port for each: so much a block RAM or a RAM of LUTs has, and II = 1 needs."""
    told = 0
    for rtl in (arithmetics, residual):
        for machine in rtl.machines.values():
            for memory in machine.memories:
                if memory.depth > 1 and memory.updates:
                    assert max(memory.ports) == 1, (machine.name, memory.name)
                    told += 1
    assert told >= 4


def test_what_the_pragmas_say_of_dependences_holds(residual: Rtl, tmp_path: Path) -> None:
    """``DEPENDENCE``: no turn of a window loads from the place that it stores to (window.h); what a pool stores is loaded 16 turns later at least
    (pool.h), so that its sum has as many cycles to come round."""
    seen = only(residual, "conv_window").alone()["conv_window"]
    assert seen.clashes == set()
    assert min(seen.distances.values()) >= 1
    pool = prepared(WIDE_POOL, tmp_path)
    machine = next(machine for name, machine in pool.machines.items() if name.endswith("pool"))
    whole = pool.alone()
    assert check.word_differences(pool, whole) == []
    seen = whole[machine.name]
    assert seen.clashes == {"%many"}  # loaded first, then stored
    assert seen.distances == {"%many": 18}
    assert least_period(machine, distances=seen.distances).period_ns < least_period(machine).period_ns


def test_one_addition_lies_between_a_turn_and_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the sums are joined: sums of turns are narrower than the accumulator, or LLVM makes a chain of all of them that begins at it."""

    def periods(folder: Path) -> dict[str, float]:
        design = next(case for case in QUICK if case.name == "arithmetics").make(np.random.default_rng(SEED))
        sources.write(emit_sources(design, "design"), folder)
        names = ["linear15_matvec", "linear17_matvec"]  # whose turns sum as much as the accumulator holds
        module, functions = sources.processes(folder, "design", names)
        return {name: least_period(translate(module, functions[name], name), balanced=False).period_ns for name in names}

    assert max(periods(tmp_path / "own").values()) < 1.6
    monkeypatch.setattr(d.MatVec, "_headroom", 0)  # an accumulator no wider than what a turn adds
    assert max(periods(tmp_path / "chains").values()) > 2.5


def test_the_lanes_of_a_row_are_written_together(arithmetics: Rtl, residual: Rtl) -> None:
    """Whatever is kept in arrays of lanes is stored at one address under one condition: a word as wide as the row does it."""
    told = 0
    for rtl in (arithmetics, residual):
        for machine in rtl.machines.values():
            rows: dict[str, set[tuple[tuple[int, int], ...]]] = {}
            lanes: dict[str, int] = {}
            for memory in machine.memories:
                if memory.depth > 1 and memory.updates:
                    rows.setdefault(memory.array, set()).add(tuple((update.enable, update.address) for update in memory.updates))
                    lanes[memory.array] = lanes.get(memory.array, 0) + 1
            assert all(len(ways) == 1 for ways in rows.values()), machine.name
            told += sum(count > 1 for count in lanes.values())
    assert told >= 3
