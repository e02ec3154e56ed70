"""Zeros around a frame."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import gcd, prod

from qfx.hardware.cost import pieces
from qfx.hardware.cost import resources as r
from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.design.streams import Stream
from qfx.hardware.emit.spelling import Unit
from qfx.hardware.folding.option import common_widths
from qfx.hardware.processes.process import Setting
from qfx.hardware.processes.traits import OneToOne, Passing, WholePixels
from qfx.hardware.timing.delays import Recurrence, loops
from qfx.hardware.timing.program import Turns, every, held

_ABREAST = (1, 2, 4, 8)
"""Pixels a word that are looked at, beside a row."""


@dataclass(frozen=True, slots=True)
class PadFrame(OneToOne, Passing, WholePixels):
    """``size``: H, W, C of the input; ``result``: of the result; ``before``: zeros before, per axis in that order.

    ``lanes``: where a value of many axes is seen as one of three, the channels proper, of which a word holds a part; 0: all of C.

    Words of whole pixels hold as many on either side, or a row; they move along by what lies before a row.
    """

    name: str
    input: Stream
    output: Stream
    size: tuple[int, int, int]
    result: tuple[int, int, int]
    before: tuple[int, int, int]
    lanes: int = 0
    abreast: int = 0

    @property
    def _along(self) -> tuple[int, int, int, int]:
        """Of whole pixels: words of a row that come and that leave, the turn of a row that reads the first one, and where in the two words that came
        last a word of the result begins."""
        come = self.size[1] * self.size[2] // self.input.parallel
        leave, (together, left) = self.result[1] // self.abreast, (self.size[1] // come, self.before[1])
        if leave == 1:
            return come, leave, 0, together - left
        return come, leave, left // together, -left % together or together

    @property
    def cycles(self) -> int:
        return self.output.words

    def turns(self) -> Turns:
        if self.abreast:
            come, leave, first, _ = self._along
            return _turns((self.size[0], come, 1), (self.result[0], leave, 1), (self.before[0], first, 0), 1)
        return _turns(self.size, self.result, self.before, self.output.parallel)

    @property
    def recurrences(self) -> tuple[Recurrence, ...]:
        if self.abreast:
            return (loops(self.result[0], self._along[1]),)
        return (loops(*self.result[:2], self.result[2] // self.output.parallel),)

    def logic(self, on: Device) -> Resources:
        if self.abreast:  # of the two words that came last registers for both, and what is outside is chosen at each number
            return (
                self.control() + r.multiplexer(2, self.output.bits) + pieces.place((self.size[0], self._along[1])) + Resources(ff=2 * self.input.bits)
            )
        return self.control() + r.multiplexer(2, self.output.bits) + pieces.place(self.size)

    def unit(self, ports: tuple[str, str]) -> Unit:
        if self.abreast:
            come, leave, first, base = self._along
            sizes = (self.size[0], come, self.size[2], self.result[0], leave, self.result[2], *self.before, first, base)
            return self.call(f"qfx::pad_abreast<{', '.join(map(str, sizes))}>(in, out);")
        places = [f"{y}, {x}, {c // self.output.parallel}" for y, x, c in (self.size, self.result, self.before)]
        return self.call(f"qfx::pad<{', '.join(places)}>(in, out);")

    def widths(self, setting: Setting) -> list[int]:
        first = self.before[2]
        return common_widths(gcd(self.lanes or self.size[2], first, self.result[2] - self.size[2] - first), (*self.sources, *self.targets))

    @property
    def leaving(self) -> int:
        return self.result[2]

    @property
    def counts(self) -> tuple[int, ...]:
        return (*_ABREAST, self.result[1]) if self.result[1] not in _ABREAST else _ABREAST

    def wide(self, pixels: int) -> PadFrame | None:
        width = self.size[1]
        together = width if pixels == self.result[1] else pixels
        if self.lanes or self.result[1] % pixels or width % together:
            return None
        source, target = self.input.with_parallel(together * self.size[2]), self.output.with_parallel(pixels * self.result[2])
        return replace(self, input=source, output=target, abreast=pixels)


@lru_cache(maxsize=64)
def _turns(size: tuple[int, int, int], result: tuple[int, int, int], before: tuple[int, int, int], parallel: int) -> Turns:
    grid = every(prod(result) // parallel).reshape(result[0], result[1], result[2] // parallel)
    first = before[2] // parallel
    y, x = before[0], before[1]
    inside = grid[y : y + size[0], x : x + size[1], first : first + size[2] // parallel]
    return grid.size, (held(inside.flatten()),), (every(grid.size),)
