"""Pixels side by side in a word, and one after the other again."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import lru_cache

from qfx.hardware.cost import resources as r
from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.design.storage import Memory
from qfx.hardware.design.streams import Stream
from qfx.hardware.emit.spelling import Unit, raw, words
from qfx.hardware.folding.option import fits_word
from qfx.hardware.processes.traits import Between, Buffering, OneToOne, Passing
from qfx.hardware.timing.delays import Recurrence, choice, loops, recurrence
from qfx.hardware.timing.program import Turns, every, held

_LEAST_DEPTH = 8
"""The least words of a memory that is read and written in the same turn; fewer are registers that shift (abreast.h)."""


class _Abreast(OneToOne, Buffering, Between, abstract=True):
    """``words`` of a pixel on the side where pixels follow each other."""

    __slots__ = ()

    words: int

    @property
    @abstractmethod
    def single(self) -> Stream:
        """The stream of words of one pixel."""

    @property
    @abstractmethod
    def joined(self) -> Stream:
        """The stream of words of several."""

    @property
    def pixels(self) -> int:
        """That lie side by side."""
        return self.joined.parallel // self.single.parallel

    @property
    def cycles(self) -> int:
        return self.single.words

    @property
    def recurrences(self) -> tuple[Recurrence, ...]:
        return (loops(self.joined.words // self.words, self.pixels, self.words),)

    @property
    def memories(self) -> tuple[Memory, ...]:
        return (self.line,)

    @property
    def line(self) -> Memory:
        """The words that wait; no words where they are registers."""
        return waiting(self.words, self.joined.bits - self.single.bits)

    def logic(self, on: Device) -> Resources:
        """As of a change of width, with a counter for each loop; the registers that shift."""
        counters = [r.counter(loop) for loop in (self.pixels, self.words) if loop > 1]
        kept = Resources() if self.line.depth else Resources(ff=self.words * self.line.width)
        return r.total([self.control(), *counters, kept, self._choice])

    @property
    @abstractmethod
    def _choice(self) -> Resources:
        """Between what comes and what waits."""

    def _call(self, function: str, more: str = "") -> Unit:
        kept = places("line", raw(self.single.type), self.single.parallel * (self.pixels - 1), self.words, self.line)
        shape = f"qfx::abreast_shape<{self.joined.words // self.words}, {self.words}, {self.pixels}>"
        unit = self.call(f"qfx::{function}<{shape}{more} >(in, out, line);")
        return replace(unit, body=(*kept, *unit.body))


@dataclass(frozen=True, slots=True)
class Gather(_Abreast):
    """Of pixels that follow each other, as many as ``output`` has room for, their first words side by side, then their second ones, and so on."""

    name: str
    input: Stream
    output: Stream
    words: int

    @property
    def single(self) -> Stream:
        return self.input

    @property
    def joined(self) -> Stream:
        return self.output

    @property
    def _choice(self) -> Resources:
        return Resources()

    def turns(self) -> Turns:
        return _turns(self.joined.words // self.words, self.pixels, self.words, last=True)

    def unit(self, ports: tuple[str, str]) -> Unit:
        return self._call("gather")


@dataclass(frozen=True, slots=True)
class Scatter(_Abreast):
    """The words of pixels that come side by side, all of the first pixel before those of the next one. ``together``: how many groups of pixels, one
    after the other, a word has; what leaves together is then a pixel of each group."""

    name: str
    input: Stream
    output: Stream
    words: int
    together: int = 1

    @property
    def single(self) -> Stream:
        return self.output

    @property
    def joined(self) -> Stream:
        return self.input

    @property
    def _choice(self) -> Resources:
        return r.multiplexer(2, self.joined.bits)

    def turns(self) -> Turns:
        turns, all_, first = _turns(self.joined.words // self.words, self.pixels, self.words, last=False)
        return turns, first, all_

    def unit(self, ports: tuple[str, str]) -> Unit:
        return self._call("scatter", f", {self.together}" if self.together > 1 else "")


@dataclass(frozen=True, slots=True)
class Deal(OneToOne, Passing, Between):
    """As Scatter, all ``words`` of a pixel in one: while they leave the next pixels come."""

    name: str
    input: Stream
    output: Stream
    words: int

    @property
    def _shape(self) -> tuple[int, int, int]:
        """Blocks of pixels, words of each, and pixels of a block."""
        return self.input.words // self.words, self.words, self.output.words * self.words // self.input.words

    @property
    def cycles(self) -> int:
        return self.input.words + self.words

    def turns(self) -> Turns:
        blocks, words, pixels = self._shape
        leaving = every(self.cycles).reshape(blocks + 1, words)[1:, :pixels]
        return self.cycles, (every(self.input.words),), (held(leaving.flatten()),)

    @property
    def recurrences(self) -> tuple[Recurrence, ...]:
        blocks, words, _ = self._shape
        return (loops(blocks + 1, words), recurrence("the word that shifts", choice()))

    def logic(self, on: Device) -> Resources:
        """A counter for each loop, the words of a block that come and those that leave, and the choice between the two."""
        _, words, pixels = self._shape
        bits = pixels * self.output.bits
        return r.total([self.control(), r.counter(words), r.multiplexer(2, bits - self.output.bits), Resources(ff=2 * bits)])

    def unit(self, ports: tuple[str, str]) -> Unit:
        return self.call(f"qfx::deal<qfx::abreast_shape<{', '.join(map(str, self._shape))}> >(in, out);")


def waiting(words: int, bits: int) -> Memory:
    """The memory of so many words, each read and written again in one turn; no words where they are registers."""
    return Memory(words if words >= _LEAST_DEPTH else 0, bits)


def places(name: str, type_: str, numbers: int, count: int, memory: Memory) -> tuple[str, ...]:
    """The declaration of the array ``name`` of ``count`` such words of so many ``numbers`` in a layer's function, and what it is built of."""
    declared = words(name, type_, numbers, Memory(count, memory.width))[0]
    if memory.depth:
        return declared, *words(name, type_, 1, memory)[1:], f"#pragma HLS DEPENDENCE variable={name} inter false"
    return declared, f"#pragma HLS ARRAY_PARTITION variable={name} complete dim=1"


def behind(joined: Stream, words: int, pixels: int, turns: int, *, whole: bool) -> Scatter | Deal | None:
    """What takes pixels apart, nameless, behind a unit that takes ``turns`` turns for a word of ``pixels`` of them, which have ``words`` words each.
    None where a word is all of a pixel: they stay side by side. ``whole``: whether the words of a pixel may leave in one."""
    if pixels == 1 or words == 1:
        return None
    if whole and turns < pixels <= words and fits_word(joined.parallel // pixels * words, joined):
        return Deal("", joined, joined.with_parallel(joined.parallel // pixels * words), words)
    return Scatter("", joined, joined.with_parallel(joined.parallel // pixels), words)


@lru_cache(maxsize=64)
def _turns(groups: int, pixels: int, words: int, *, last: bool) -> Turns:
    """A word of one pixel in every turn, one of all in those of the last pixel, or of the first."""
    turns = every(groups * pixels * words)
    joined = turns.reshape(groups, pixels, words)[:, -1 if last else 0]
    return turns.size, (turns,), (held(joined.flatten()),)
