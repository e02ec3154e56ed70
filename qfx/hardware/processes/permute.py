"""A frame in another order."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

import numpy as np

from qfx.hardware.cost import resources as r
from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.design.schedule import Folding
from qfx.hardware.design.storage import Memory
from qfx.hardware.design.streams import Stream, Table
from qfx.hardware.emit.spelling import Unit, bound, place_tag, table
from qfx.hardware.folding.option import Option, Role
from qfx.hardware.processes.process import Setting
from qfx.hardware.processes.traits import Buffering, OneToOne
from qfx.hardware.timing.delays import Recurrence, choice, comparison, loops, recurrence
from qfx.hardware.timing.program import Turns, every, held

Nest = tuple[tuple[int, int], ...]

_COUNTER_BITS = 32
"""Of the counters of qfx::nest, which are int."""


@dataclass(frozen=True, slots=True)
class Permute(OneToOne, Buffering):
    """Number i of the stream goes to ``write[i]``; the result reads the loop nest ``read`` of (size, stride) pairs, outermost first."""

    rewinds: ClassVar[bool] = False

    name: str
    input: Stream
    output: Stream
    write: Nest | Table
    read: Nest

    @property
    def cycles(self) -> int:
        return self.input.words + self.output.words

    def turns(self) -> Turns:
        return _turns(self.input.words, self.output.words)

    @property
    def recurrences(self) -> tuple[Recurrence, ...]:
        steps = (comparison(_COUNTER_BITS), choice(), choice(), choice())
        return (loops(self.input.words), recurrence("the address of a nest of loops", *steps))

    @property
    def frame(self) -> Memory:
        """The frame that is put into another order."""
        return Memory(self.input.words, self.input.bits)

    @property
    def memories(self) -> tuple[Memory, ...]:
        return (self.frame, _places(self.write)) if isinstance(self.write, Table) else (self.frame,)

    def logic(self, on: Device) -> Resources:
        """A loop for each level of the nests, and the sum that makes its place."""
        words = self.input.words
        loops = self.read if isinstance(self.write, Table) else (*self.read, *self.write)
        return r.total([self.control(), *(r.counter(size) + r.adder(words.bit_length()) for size, _ in loops)])

    def unit(self, ports: tuple[str, str]) -> Unit:
        words, read, frame = self.input.words, _nest(self.read), place_tag(self.frame)
        if isinstance(self.write, Table):
            unit = self.call(f"qfx::permute_by_table<{words}, {read}, {frame} >(in, out, {self.write.name});")
            return replace(unit, constants=(table(self.write),), pragmas=bound(self.write.name, _places(self.write)))
        return self.call(f"qfx::permute<{words}, {_nest(self.write)}, {read}, {frame} >(in, out);")

    @property
    def role(self) -> Role:
        return Role.FIXED

    @property
    def front(self) -> None:
        return None

    def options(self, setting: Setting) -> list[Option]:
        return [Option(Folding(), 1, 1, self.busy, self.cost(setting.on))]

    def limit(self, setting: Setting) -> str:
        return "it reorders a whole frame, number by number"


def _places(write: Table) -> Memory:
    """The table of where numbers go."""
    words = len(write.values)
    return Memory(words, max(words - 1, 0).bit_length(), constant=True)


def _nest(loops: Nest) -> str:
    padded = ((1, 0),) * (4 - len(loops)) + loops
    return f"qfx::nest<{', '.join(f'{size}, {stride}' for size, stride in padded)}>"


@lru_cache(maxsize=64)
def _turns(words_in: int, words_out: int) -> Turns:
    return words_in + words_out, (every(words_in),), (held(np.arange(words_in, words_in + words_out)),)
