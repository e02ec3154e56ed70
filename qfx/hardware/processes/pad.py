"""Zeros around a frame."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import gcd, prod

from qfx.hardware.cost import pieces
from qfx.hardware.cost import resources as r
from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.design.streams import Stream
from qfx.hardware.emit.spelling import Unit
from qfx.hardware.folding.option import common_widths
from qfx.hardware.processes.process import Setting
from qfx.hardware.processes.traits import OneToOne, Passing, Widening
from qfx.hardware.timing.delays import Recurrence, loops
from qfx.hardware.timing.program import Turns, every, held


@dataclass(frozen=True, slots=True)
class PadFrame(OneToOne, Passing, Widening):
    """``size``: H, W, C of the input; ``result``: of the result; ``before``: zeros before, per axis in that order.

    ``lanes``: where a value of many axes is seen as one of three, the channels proper, of which a word holds a part; 0: all of C.
    """

    name: str
    input: Stream
    output: Stream
    size: tuple[int, int, int]
    result: tuple[int, int, int]
    before: tuple[int, int, int]
    lanes: int = 0

    @property
    def cycles(self) -> int:
        return self.output.words

    def turns(self) -> Turns:
        return _turns(self.size, self.result, self.before, self.output.parallel)

    @property
    def recurrences(self) -> tuple[Recurrence, ...]:
        return (loops(*self.result[:2], self.result[2] // self.output.parallel),)

    def logic(self, on: Device) -> Resources:
        return self.control() + r.multiplexer(2, self.output.bits) + pieces.place(self.size)

    def unit(self, ports: tuple[str, str]) -> Unit:
        places = [f"{y}, {x}, {c // self.output.parallel}" for y, x, c in (self.size, self.result, self.before)]
        return self.call(f"qfx::pad<{', '.join(places)}>(in, out);")

    def widths(self, setting: Setting) -> list[int]:
        first = self.before[2]
        return common_widths(gcd(self.lanes or self.size[2], first, self.result[2] - self.size[2] - first), (*self.sources, *self.targets))


@lru_cache(maxsize=64)
def _turns(size: tuple[int, int, int], result: tuple[int, int, int], before: tuple[int, int, int], parallel: int) -> Turns:
    grid = every(prod(result) // parallel).reshape(result[0], result[1], result[2] // parallel)
    first = before[2] // parallel
    y, x = before[0], before[1]
    inside = grid[y : y + size[0], x : x + size[1], first : first + size[2] // parallel]
    return grid.size, (held(inside.flatten()),), (every(grid.size),)
