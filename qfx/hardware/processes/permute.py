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
from qfx.hardware.design.streams import IntArray, Stream, Table
from qfx.hardware.emit.spelling import Unit, bound, raw, table
from qfx.hardware.folding.option import Option, Role
from qfx.hardware.processes.process import Setting
from qfx.hardware.processes.traits import Buffering, OneToOne
from qfx.hardware.timing.delays import Recurrence, adder, choice, comparison, gates, loops, recurrence
from qfx.hardware.timing.program import Turns, every, held

Nest = tuple[tuple[int, int], ...]


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
        nests = (self.read,) if isinstance(self.write, Table) else (self.read, self.write)
        sizes = [(size - 1).bit_length() for nest in nests for size, _ in nest]
        # Whether the inner loops end decides what is added to the address.
        steps = (comparison(max(*sizes, 1)), gates(), choice(), choice(), adder(self.input.words.bit_length()))
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
        size, read = self.input.words, _nest(self.read)
        frame = (f"{raw(self.input.type)} frame[{size}];", *(line.strip() for line in bound("frame", self.frame)))
        if isinstance(self.write, Table):
            unit = self.call(f"qfx::permute_by_table<{size}, {read} >(in, out, {self.write.name}, frame);")
            unit = replace(unit, constants=(table(self.write),), pragmas=bound(self.write.name, _places(self.write)))
        else:
            unit = self.call(f"qfx::permute<{size}, {_nest(self.write)}, {read} >(in, out, frame);")
        return replace(unit, body=(*frame, *unit.body))

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


def loop_nest(sequence: IntArray) -> tuple[tuple[int, int], ...] | None:
    """Up to four nested (size, stride) loops, outermost first, that count through ``sequence`` (which starts at 0); None if there are none.

    >>> loop_nest(np.array([0, 3, 1, 4, 2, 5]))
    ((3, 1), (2, 3))
    """
    loops: list[tuple[int, int]] = []
    rest = sequence
    while rest.size > 1:
        steps = np.diff(rest)
        breaks = np.flatnonzero(steps != steps[0])
        size = int(breaks[0]) + 1 if breaks.size else rest.size
        if rest.size % size:
            return None
        rows = rest.reshape(-1, size)
        if not (np.diff(rows, axis=1) == steps[0]).all() or size == 1:
            return None
        loops.append((size, int(steps[0])))
        rest = rows[:, 0]
    return tuple(reversed(loops)) if len(loops) <= 4 and int(sequence[0]) == 0 else None
