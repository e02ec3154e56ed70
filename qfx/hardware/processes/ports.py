"""The ends of a design: AXI4-Stream ports, one each or all inputs and all outputs in one, with the TLAST that goes round the network."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from qfx.hardware.cost import pieces
from qfx.hardware.cost import resources as r
from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.design.streams import IntArray, Stream
from qfx.hardware.emit import spelling
from qfx.hardware.emit.spelling import Unit, words_of
from qfx.hardware.folding.option import MAX_PORT_BITS, Option, Role, port_widths
from qfx.hardware.processes.process import Front, Setting
from qfx.hardware.processes.traits import Passing, Widening
from qfx.hardware.timing.delays import Recurrence, choice, loops, recurrence
from qfx.hardware.timing.program import Turns, every, held, last

_LIMIT = f"a port carries at most {MAX_PORT_BITS} bits, and a power of two of numbers that divides those of a frame"


@dataclass(frozen=True, slots=True)
class FromPort(Passing, Widening):
    """``last`` carries one word a frame to the ToPorts: the TLAST that came with the frame's last word. None: that of another input goes there.

    ``port`` names the top function's stream where there are several.
    """

    name: str
    output: Stream
    last: Stream | None
    slot: int
    port: str = ""

    @property
    def sources(self) -> tuple[Stream, ...]:
        return ()

    @property
    def targets(self) -> tuple[Stream, ...]:
        return (self.output, *self.marks)

    @property
    def marks(self) -> tuple[Stream, ...]:
        return () if self.last is None else (self.last,)

    @property
    def cycles(self) -> int:
        return self.output.words

    def turns(self) -> Turns:
        words = self.output.words
        return words, (), (every(words), *(last(words) for _ in self.marks))

    @property
    def recurrences(self) -> tuple[Recurrence, ...]:
        return (loops(self.output.words),)

    def logic(self, on: Device) -> Resources:
        return self.control() + pieces.port(self.slot, self.output)

    def unit(self, ports: tuple[str, str]) -> Unit:
        out, marks = self.output, self.marks
        call = f"qfx::from_port<{out.words}, {self.slot}>(in, out{', last' * len(marks)});"
        parameters = (f"{spelling.port(self.slot, out)}& in", f"{words_of(out)}& out", *(f"{words_of(mark)}& last" for mark in marks))
        return Unit(self.name, (), "", parameters, (self.port or ports[0], out.name, *(mark.name for mark in marks)), (), (call,))

    @property
    def role(self) -> Role:
        return Role.PORT

    def widths(self, setting: Setting) -> list[int]:
        return port_widths(setting.ports[0].numbers, self.slot)

    def limit(self, setting: Setting) -> str:
        return _LIMIT


@dataclass(frozen=True, slots=True)
class ToPort(Passing, Widening):
    """``last``: as in FromPort; it becomes the TLAST of the frame's last word."""

    name: str
    input: Stream
    last: Stream
    slot: int
    port: str = ""

    @property
    def sources(self) -> tuple[Stream, ...]:
        return (self.input, self.last)

    @property
    def targets(self) -> tuple[Stream, ...]:
        return ()

    @property
    def marks(self) -> tuple[Stream, ...]:
        return (self.last,)

    @property
    def cycles(self) -> int:
        return self.input.words

    def turns(self) -> Turns:
        words = self.input.words
        return words, (every(words), last(words)), ()

    @property
    def recurrences(self) -> tuple[Recurrence, ...]:
        return (loops(self.input.words),)

    def logic(self, on: Device) -> Resources:
        return self.control() + pieces.port(self.slot, self.input)

    def unit(self, ports: tuple[str, str]) -> Unit:
        source, mark = self.input, self.last
        call = f"qfx::to_port<{source.words}, {self.slot}>(in, last, out);"
        parameters = (f"{words_of(source)}& in", f"{words_of(mark)}& last", f"{spelling.port(self.slot, source)}& out")
        return Unit(self.name, (), "", parameters, (source.name, mark.name, self.port or ports[1]), (), (call,))

    @property
    def role(self) -> Role:
        return Role.PORT

    def widths(self, setting: Setting) -> list[int]:
        return port_widths(setting.ports[1].numbers, self.slot)

    def limit(self, setting: Setting) -> str:
        return _LIMIT


@dataclass(frozen=True, slots=True)
class SplitPort(Passing):
    """A frame of every input in words of ``bits``, in order, each padded to whole words. ``slots``: the bits of a number of each input; a word of
    ``bits`` holds whole words of every output. ``last`` carries the TLAST of the frame's last word."""

    rewinds: ClassVar[bool] = False

    name: str
    outputs: tuple[Stream, ...]
    last: Stream
    slots: tuple[int, ...]
    bits: int
    port: str

    @property
    def sources(self) -> tuple[Stream, ...]:
        return ()

    @property
    def targets(self) -> tuple[Stream, ...]:
        return (*self.outputs, self.last)

    @property
    def marks(self) -> tuple[Stream, ...]:
        return (self.last,)

    @property
    def cycles(self) -> int:
        return sum(stream.words for stream in self.outputs)

    def turns(self) -> Turns:
        return self.cycles, (), (*_in_turn(tuple(stream.words for stream in self.outputs)), last(self.cycles))

    @property
    def recurrences(self) -> tuple[Recurrence, ...]:
        return (loops(max(stream.words for stream in self.outputs)), recurrence("the word that shifts", choice()))

    def logic(self, on: Device) -> Resources:
        return self.control() + pieces.register_slice(self.bits) + r.multiplexer(2, self.bits)  # words, then what is left of them

    def unit(self, ports: tuple[str, str]) -> Unit:
        calls = [
            f"qfx::from_merged<{out.words}, {slot}, {self.bits}>(in, out{i}{', last' * (i + 1 == len(self.outputs))});"
            for i, (out, slot) in enumerate(zip(self.outputs, self.slots, strict=True))
        ]
        parameters = [f"{words_of(out)}& out{i}" for i, out in enumerate(self.outputs)]
        arguments = (self.port, *(stream.name for stream in self.targets))
        return Unit(self.name, (), "", (f"{spelling.axi(self.bits)}& in", *parameters, f"{words_of(self.last)}& last"), arguments, (), tuple(calls))

    @property
    def role(self) -> Role:
        return Role.PORT

    @property
    def front(self) -> Front | None:
        return None

    def options(self, setting: Setting) -> list[Option]:
        return []  # the search chooses the widths of separate ports

    def limit(self, setting: Setting) -> str:
        return "the inputs come one after the other"


@dataclass(frozen=True, slots=True)
class JoinPort(Passing):
    """A frame of every output in words of ``bits``, in order, each padded with zeros to whole words; ``slots``: as in SplitPort. ``last`` becomes the
    TLAST of the frame's last word."""

    rewinds: ClassVar[bool] = False

    name: str
    inputs: tuple[Stream, ...]
    last: Stream
    slots: tuple[int, ...]
    bits: int
    port: str

    @property
    def sources(self) -> tuple[Stream, ...]:
        return (*self.inputs, self.last)

    @property
    def targets(self) -> tuple[Stream, ...]:
        return ()

    @property
    def marks(self) -> tuple[Stream, ...]:
        return (self.last,)

    @property
    def cycles(self) -> int:
        return sum(stream.words for stream in self.inputs)

    def turns(self) -> Turns:
        return self.cycles, (*_in_turn(tuple(stream.words for stream in self.inputs)), last(self.cycles)), ()

    @property
    def recurrences(self) -> tuple[Recurrence, ...]:
        return (loops(max(stream.words for stream in self.inputs)), recurrence("the word that fills", choice(len(self.inputs))))

    def logic(self, on: Device) -> Resources:
        return self.control() + pieces.register_slice(self.bits) + r.multiplexer(len(self.inputs), self.bits)

    def unit(self, ports: tuple[str, str]) -> Unit:
        calls = [
            f"qfx::to_merged<{source.words}, {slot}, {self.bits}>(in{i}, {'last, ' * (i + 1 == len(self.inputs))}out);"
            for i, (source, slot) in enumerate(zip(self.inputs, self.slots, strict=True))
        ]
        parameters = [f"{words_of(source)}& in{i}" for i, source in enumerate(self.inputs)]
        arguments = (*(stream.name for stream in self.sources), self.port)
        return Unit(self.name, (), "", (*parameters, f"{words_of(self.last)}& last", f"{spelling.axi(self.bits)}& out"), arguments, (), tuple(calls))

    @property
    def role(self) -> Role:
        return Role.PORT

    @property
    def front(self) -> Front | None:
        return None

    def options(self, setting: Setting) -> list[Option]:
        return []  # the search chooses the widths of separate ports

    def limit(self, setting: Setting) -> str:
        return "the outputs leave one after the other"


@lru_cache(maxsize=64)
def _in_turn(words: tuple[int, ...]) -> tuple[IntArray, ...]:
    """The turns of streams of so many words: one word a turn, all of the first, then all of the second and so on."""
    ends = np.cumsum(words)
    return tuple(held(np.arange(end - count, end, dtype=np.int64)) for count, end in zip(words, ends, strict=True))
