"""The loop over the steps of a sequence: what a step does is built once, and its states lie in arrays between the steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from qfx.hardware.cost import pieces
from qfx.hardware.cost import resources as r
from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.design.loadable import Loadable
from qfx.hardware.design.schedule import Folding
from qfx.hardware.design.storage import Memory
from qfx.hardware.design.streams import IntArray, Stream
from qfx.hardware.emit.spelling import Unit, queue, raw, words, words_of
from qfx.hardware.folding.option import AS_FAR_AS_IT_GOES, Option, Role, divisors
from qfx.hardware.processes.process import Process, Setting, Stored
from qfx.hardware.processes.sequences.ends import array
from qfx.hardware.processes.traits import OneToOne
from qfx.hardware.timing.delays import Recurrence, loops, named
from qfx.hardware.timing.program import READ_WRITE, RESTART, Turns, held

_CHOICES = 7


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What is done at each step: ``parts``, one after the other, each for a node of the body (``nodes``), which the ``fifos`` join, and the
    ``states``: frames of which each lies in one array and, once it is the next one, in another. A step takes ``turns`` cycles from its first word
    until the next step can begin; it reads and writes its words in the turns ``reads`` and ``writes``, all of the former before the latter.
    ``name``: of its function."""

    name: str
    parts: tuple[Process, ...]
    nodes: tuple[str, ...]
    fifos: tuple[Stream, ...]
    states: tuple[Stream, ...]
    turns: int
    reads: IntArray
    writes: IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Loop(OneToOne):
    """``step`` for each of ``steps`` steps of a sequence: a frame of its own for each. ``widest``: what PE and SIMD of ``folding`` divide; every part
    of a step that has no folding of its own has as much of them as its own numbers have divisors for. ``again``: the same loop in another folding;
    None where no tool takes it."""

    rewinds: ClassVar[bool] = False

    name: str
    input: Stream
    output: Stream
    steps: int
    step: Step
    folding: Folding
    widest: tuple[int, int]
    again: Callable[[Folding], Loop | None] = field(repr=False)

    @property
    def inside(self) -> tuple[tuple[Process, str], ...]:
        return tuple(zip(self.step.parts, self.step.nodes, strict=True))

    @property
    def within(self) -> tuple[Stream, ...]:
        return self.step.fifos

    # Time.

    @property
    def _passes(self) -> int:
        """Cycles of a pass over all states, one after the other: before the first step, and behind each."""
        return sum(state.words + READ_WRITE + RESTART for state in self.step.states)

    @property
    def _period(self) -> int:
        return self.step.turns + self._passes

    @property
    def cycles(self) -> int:
        return self._passes + self.steps * self._period

    @property
    def latency(self) -> int:
        return READ_WRITE

    def turns(self) -> Turns:
        starts = self._passes + np.arange(self.steps)[:, None] * self._period
        reads, writes = ((starts + turns).reshape(-1) for turns in (self.step.reads, self.step.writes))
        return self.cycles, (held(reads),), (held(writes),)

    @property
    def recurrences(self) -> tuple[Recurrence, ...]:
        passes = [named(loops(state.words), "a pass over a state") for state in self.step.states]
        return (*(found for part in self.step.parts for found in part.recurrences), *passes)

    # Resources.

    @property
    def memories(self) -> tuple[Memory, ...]:
        return (*(memory for part in self.step.parts for memory in part.memories), *map(_memory, self.step.states), *map(_memory, self.step.states))

    def logic(self, on: Device) -> Resources:
        """What its parts and their FIFOs take, a counter of the steps, and one of the words of each state."""
        parts = [part.logic(on) for part in self.step.parts]
        fifos = [r.fifo(stream.depth, stream.bits, stream.storage) for stream in self.step.fifos]
        counters = [r.counter(max(count, 2)) for count in (self.steps, *(state.words for state in self.step.states))]
        return r.total([r.handshake(2, self.latency), *parts, *fifos, *counters])

    # Constants.

    @property
    def loads(self) -> tuple[Loadable, ...]:
        return tuple(load for part in self.step.parts for load in part.loads)

    @property
    def stored(self) -> Stored | None:
        found = [stored for part in self.step.parts if (stored := part.stored) is not None]
        if not found:
            return None
        bits, least, blocks = (sum(getattr(one, name) for one in found) for name in ("bits", "least_bits", "bram18"))
        return Stored(
            bits, least, any(one.in_one_row for one in found), blocks, all(one.loaded for one in found)
        )  # what one part could do counts for all: a bound

    # Text.

    def unit(self, ports: tuple[str, str]) -> Unit:
        states = self.step.states
        calls = [f"qfx::forget<{state.words}, {raw(state.type)}, {state.parallel}>(now{i});" for i, state in enumerate(states)]
        moves = [f"  qfx::advance<{state.words}>(next{i}, now{i});" for i, state in enumerate(states)]
        arrays = [line for i, state in enumerate(states) for name in (f"now{i}", f"next{i}") for line in _declared(state, name)]
        arguments = ", ".join(["in", "out", *(f"now{i}, next{i}" for i in range(len(states)))])
        loop = ("steps:", f"for (int step = 0; step < {self.steps}; step++) {{", f"  {self.step.name}({arguments});", *moves, "}")
        parameters = (f"{words_of(self.input)}& in", f"{words_of(self.output)}& out")
        inner = (*(part.unit(("in", "out")) for part in self.step.parts), self._function())
        return Unit(self.name, (), "", parameters, (self.input.name, self.output.name), (), (*arrays, *calls, *loop), inner)

    def _function(self) -> Unit:
        """A step: a dataflow region of its own, whose states come in one array and go in another."""
        states = [part for i, state in enumerate(self.step.states) for part in (f"const {array(state, f'now{i}')}", array(state, f"next{i}"))]
        parameters = (f"{words_of(self.input)}& in", f"{words_of(self.output)}& out", *states)
        streams = [line for stream in self.step.fifos for line in _stream(stream)]
        units = [part.unit(("in", "out")) for part in self.step.parts]
        calls = [f"{unit.name}({', '.join(unit.arguments)});" for unit in units]
        return Unit(self.step.name, (), "", parameters, (), ("#pragma HLS DATAFLOW",), (*streams, *calls))

    # Folding.

    @property
    def role(self) -> Role:
        return Role.MATVEC

    @property
    def front(self) -> None:
        return None

    def options(self, setting: Setting) -> list[Option]:
        pinned, (outputs, inputs) = setting.pinned, map(_some, map(divisors, self.widest))
        arithmetic = "shift" if setting.shift_and_add else "auto"
        wanted = [pinned] if pinned else [Folding(pe, simd, arithmetic) for pe in outputs for simd in inputs]
        made = [loop for folding in wanted if (loop := self.again(folding)) is not None]
        on = setting.on
        return [
            Option(
                loop.folding, loop.input.parallel, loop.output.parallel, loop.busy, loop.cost(on) + pieces.queue(loop.output, loop.output.parallel)
            )
            for loop in made
        ]

    def limit(self, setting: Setting) -> str:
        return AS_FAR_AS_IT_GOES


def _some(numbers: list[int]) -> list[int]:
    """At most _CHOICES of them, the first and the last among them: each is a design of its own, made and simulated."""
    if len(numbers) <= _CHOICES:
        return numbers
    return [numbers[round(i * (len(numbers) - 1) / (_CHOICES - 1))] for i in range(_CHOICES)]


def _memory(state: Stream) -> Memory:
    return Memory(state.words, state.bits)


def _declared(state: Stream, name: str) -> list[str]:
    """The array of a state, a word of it an element."""
    return [*words(name, raw(state.type), state.parallel, _memory(state))]


def _stream(stream: Stream) -> list[str]:
    declared = f'{words_of(stream)} {stream.name}("{stream.name}");'
    return [
        declared,
        f"#pragma HLS STREAM variable={stream.name} depth={stream.depth}",
        queue(stream.name, stream.depth, stream.bits, stream.storage),
    ]
