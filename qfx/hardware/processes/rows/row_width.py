"""Wider or narrower words over rows whose last word is filled up with zeros."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from qfx.hardware.cost import resources as r
from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.design.streams import Stream
from qfx.hardware.emit.spelling import Unit
from qfx.hardware.processes.traits import Between, OneToOne, Passing
from qfx.hardware.timing.delays import Recurrence, choice, loops, recurrence
from qfx.hardware.timing.program import Turns, every, held


@dataclass(frozen=True, slots=True)
class RowWidth(OneToOne, Passing, Between):
    """The same rows of ``row`` numbers each with another ``parallel``. A row begins with a word of its own on either side, and its last word is
    filled up with zeros, which are counted among the numbers of the stream. One ``parallel`` divides the other, or the greater holds a row."""

    name: str
    input: Stream
    output: Stream
    row: int

    @property
    def rows(self) -> int:
        """Of a frame."""
        return self.input.words // -(-self.row // self.input.parallel)

    @property
    def _widens(self) -> bool:
        return self.output.parallel > self.input.parallel

    @property
    def _loops(self) -> tuple[int, int]:
        """Of a row: the wide words, and the narrow ones that make one."""
        narrow, wide = sorted((self.input.parallel, self.output.parallel))
        return -(-self.row // wide), -(-wide // narrow)

    @property
    def cycles(self) -> int:
        words, parts = self._loops
        return self.rows * words * parts

    def turns(self) -> Turns:
        return _turns(self.rows, self.row, self.input.parallel, self.output.parallel)

    @property
    def recurrences(self) -> tuple[Recurrence, ...]:
        return (loops(self.rows, *self._loops), recurrence("the word that shifts", choice()))

    def logic(self, on: Device) -> Resources:
        """As of ``Rewidth``, with three counters for one, a comparison that finds the words that are not there, and a register for all parts."""
        (words, parts), width = self._loops, self.input.type.width
        narrow, wide = sorted((self.input.parallel, self.output.parallel))
        chosen = r.multiplexer(2, (narrow if self._widens else wide) * width)
        counters = [r.counter(loop) for loop in (words, parts) if loop > 1]
        there = r.comparison(words.bit_length() + parts.bit_length())
        return r.total([self.control(), chosen, *counters, there, Resources(ff=parts * narrow * width)])

    def unit(self, ports: tuple[str, str]) -> Unit:
        function = "widen_rows" if self._widens else "narrow_rows"
        return self.call(f"qfx::{function}<{self.rows}, {self.row}, {self.input.parallel}, {self.output.parallel}>(in, out);")


@lru_cache(maxsize=64)
def _turns(rows: int, row: int, source: int, target: int) -> Turns:
    come, leave = -(-row // source), -(-row // target)
    parts = -(-max(source, target) // min(source, target))
    turns = every(rows * min(come, leave) * parts).reshape(rows, -1)
    if target > source:
        return turns.size, (held(turns[:, :come].flatten()),), (held(turns[:, parts - 1 :: parts].flatten()),)
    return turns.size, (held(turns[:, ::parts].flatten()),), (held(turns[:, :leave].flatten()),)
