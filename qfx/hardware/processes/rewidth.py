"""Wider or narrower words."""

from __future__ import annotations

from dataclasses import dataclass

from qfx.hardware.cost import resources as r
from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.design.streams import Stream
from qfx.hardware.emit.spelling import Unit
from qfx.hardware.processes.traits import Between, OneToOne, Passing
from qfx.hardware.timing.delays import Recurrence, choice, loops, recurrence
from qfx.hardware.timing.program import Turns, reduce, spread


@dataclass(frozen=True, slots=True)
class Rewidth(OneToOne, Passing, Between):
    """The same numbers with another ``parallel``; one of the two divides the other."""

    name: str
    input: Stream
    output: Stream

    @property
    def cycles(self) -> int:
        return max(self.input.words, self.output.words)

    def turns(self) -> Turns:
        taken, given = self.input.words, self.output.words
        return reduce(given, taken // given) if taken >= given else spread(taken, given // taken)

    @property
    def recurrences(self) -> tuple[Recurrence, ...]:
        wide, narrow = sorted((self.input.parallel, self.output.parallel), reverse=True)
        return (loops(min(self.input.words, self.output.words), wide // narrow), recurrence("the word that shifts", choice()))

    def logic(self, on: Device) -> Resources:
        wide = max(self.input.parallel, self.output.parallel) * self.input.type.width
        choice = r.multiplexer(2, wide) if self.input.parallel > self.output.parallel else Resources()
        return self.control() + choice + Resources(ff=wide)

    def unit(self, ports: tuple[str, str]) -> Unit:
        source, out = self.input, self.output
        function, words = ("widen", out.words) if out.parallel > source.parallel else ("narrow", source.words)
        return self.call(f"qfx::{function}<{words}, {source.parallel}, {out.parallel}>(in, out);")
