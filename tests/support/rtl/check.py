"""The RTL of a design beside its C simulation and its cycle model: every word of every stream, and the turn of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from qfx.hardware.board import Board
from qfx.hardware.design import design as d
from qfx.hardware.design import loading
from qfx.hardware.emit.emit import emit_sources
from qfx.hardware.rtl.machines import sources
from qfx.hardware.rtl.machines.machine import translate
from qfx.hardware.rtl.machines.netlist import Machine
from qfx.hardware.rtl.machines.streaming import instant
from qfx.hardware.timing.program import Program
from qfx.hardware.timing.simulate import RESTART
from qfx.hardware.unrolled.emit import sources as unrolled_sources
from qfx.hardware.unrolled.plan import plan
from qfx.ir.graph import Graph
from qfx.ir.values import RawArray
from support.rtl import bench, reference


@dataclass(frozen=True)
class Rtl:
    """A design as machines, with the words of its C simulation. ``folder`` is scratch space."""

    design: d.Design
    region: sources.Region
    machines: Mapping[str, Machine]
    words: reference.Words
    frames: int
    folder: Path

    def with_machine(self, machine: Machine) -> Rtl:
        """With another machine in the place of the one of that name."""
        return replace(self, machines={**self.machines, machine.name: machine})

    def alone(self, *, stalls: bool = False) -> dict[str, bench.Seen]:
        load = self.design.loader is not None
        return bench.alone(self.machines, self.region.calls, self.words, self.folder, frames=self.frames, load=load, stalls=stalls)

    def together(self, depths: Mapping[str, int] | None = None, *, stalls: bool = False) -> dict[str, bench.Seen]:
        chosen = {**self.region.depths, **(depths or {})}
        load = self.design.loader is not None
        return bench.together(
            self.machines, self.region.calls, chosen, self.words, self.folder, frames=self.frames, load=load, pauses=self.pauses, stalls=stalls
        )

    @property
    def pauses(self) -> dict[str, int]:
        """Cycles between two frames of each process, its pipeline left out."""
        return {process.name: getattr(process.program, "pause", RESTART) for process in self.design.processes}

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        return tuple(wire.name for wire in self.design.wires[1])


def prepare(design: d.Design, raws: Sequence[RawArray], folder: Path, top: str = "design") -> Rtl:
    """``raws``: frames (N, *shape) for each input of a design of streaming processes whose FIFOs are sized. Raises RtlError for code that has no such
    hardware, ProjectError where g++ refuses it."""
    sources.write(emit_sources(design, top), folder)
    region = sources.region(folder, top)
    names = [call.name for call in region.calls]
    module, functions = sources.processes(folder, top, names)
    machines = {name: translate(module, functions[name], name) for name in names}
    fed = reference.port_words(design, raws)
    bits = {wire.name: wire.bits for wires in design.wires for wire in wires}
    if design.loader is not None:
        bits["weights"] = design.loader.port.slot
    results = [wire.name for wire in design.wires[1]]
    words = reference.record(folder, top, bits, fed, results, len(raws[0]), load=design.loader is not None)
    return Rtl(design, region, machines, words, len(raws[0]), folder)


def prepare_unrolled(graph: Graph, board: Board, raws: Sequence[RawArray], folder: Path, top: str = "design") -> Rtl:
    """The one function that an unrolled design is; a turn reads and writes one word of each port."""
    made = plan(graph, board, clock_ns=5)
    sources.write(unrolled_sources(made.program, made.design, top, made.interval), folder)
    module, function = sources.whole(folder, top)
    machine = translate(module, function, top, serial=True)
    fed = reference.port_words(made.design, raws)
    bits = {wire.name: wire.bits for wires in made.design.wires for wire in wires}
    words = reference.record(folder, top, bits, fed, [wire.name for wire in made.design.wires[1]], len(raws[0]), load=False)
    region = sources.Region(top, (sources.Call(top, machine.parameters),), {})
    return Rtl(made.design, region, {top: machine}, words, len(raws[0]), folder)


def prepare_ports(graph: Graph, board: Board) -> d.Design:
    """The ports of the unrolled design of a graph."""
    return plan(graph, board, clock_ns=5).design


__all__ = ["Rtl", "instant", "pace", "prepare", "prepare_ports", "prepare_unrolled", "turn_differences", "word_differences"]


def pace(rtl: Rtl, seen: Mapping[str, bench.Seen]) -> tuple[int, int]:
    """Cycles between the last words of the last two frames, and from the first word in to the last word of the first frame out: ``Timing`` of the
    cycle model. Of a design that has run ``together``, and whose words are right."""
    ports = seen[""]
    ends = np.max([np.array(ports.writes[name]).reshape(rtl.frames, -1)[:, -1] for name in rtl.outputs], axis=0)
    first = min(moments[0] for moments in ports.reads.values())
    return int(ends[-1] - ends[-2]), int(ends[0]) - first + 1


def word_differences(rtl: Rtl, seen: Mapping[str, bench.Seen]) -> list[str]:
    """Streams whose words are not those of C simulation, one line each."""
    lines = []
    for name, one in seen.items():
        for stream, digits in one.words.items():
            found, want = list(map(bench.text_of, digits)), list(rtl.words[stream])
            if found != want:
                wrong = sum(a != b for a, b in zip(found, want, strict=False))
                lines.append(f"{name or 'design'}: {stream} has {len(found)} words of {len(want)}, of which {wrong} differ")
    for call in rtl.region.calls if "" not in seen else ():
        outputs = {
            given for name, given in zip(rtl.machines[call.name].parameters, call.arguments, strict=True) if _writes(rtl.machines[call.name], name)
        }
        lines += [f"{call.name}: nothing leaves on {stream}" for stream in outputs - set(seen[call.name].words) if rtl.words[stream]]
    lines += [f"design: nothing leaves on {stream}" for stream in rtl.outputs if "" in seen and stream not in seen[""].words]
    return lines


def turn_differences(rtl: Rtl, seen: Mapping[str, bench.Seen]) -> list[str]:
    """Processes that take their turns otherwise than their ``program`` says, one line each; loops otherwise than the programs of their parts,
    one after the other (in hardware those of a step overlap)."""
    lines = []
    for process in rtl.design.processes:
        want, one = _in_sequence(process) if isinstance(process, d.Loop) else process.program, seen[process.name]
        loaded = sum(memory.size for memory in loading.memories(process))
        turns = [want.turns + (loaded if frame == 0 else 0) for frame in range(rtl.frames)]
        if one.frames != turns:
            lines.append(f"{process.name}: frames of {one.frames} turns, the model has {turns}")
        for streams, programs, moments in ((process.sources, want.reads, one.reads), (process.targets, want.writes, one.writes)):
            for stream, program in zip(streams, programs, strict=True):
                expected = np.concatenate([program + (loaded if frame == 0 else 0) for frame in range(rtl.frames)])
                if not np.array_equal(np.array(moments.get(stream.name, [])), expected):
                    lines.append(f"{process.name}: other turns at {stream.name}")
    return lines


def _in_sequence(loop: d.Loop) -> Program:
    """A loop as C++ runs it: the states set to zero, then for each step its parts and the states handed on."""
    at = states = sum(state.words for state in loop.step.states)
    reads, writes = list[d.IntArray](), list[d.IntArray]()
    for _ in range(loop.steps):
        for part in loop.step.parts:
            if isinstance(part, d.Enter):
                reads.append(at + part.program.writes[0])
            elif isinstance(part, d.Leave):
                writes.append(at + part.program.reads[0])
            at += part.cycles
        at += states
    return replace(loop.program, turns=at, reads=(np.concatenate(reads),), writes=(np.concatenate(writes),))


def _writes(machine: Machine, parameter: str) -> bool:
    return any(port.name == parameter for port in machine.outputs)
