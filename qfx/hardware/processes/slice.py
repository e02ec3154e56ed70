"""A part of a frame."""

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
from qfx.hardware.timing.delays import Recurrence, choice, comparison, gates, loops, recurrence
from qfx.hardware.timing.program import Turns, every, held

_ABREAST = (1, 2, 4, 8)
"""Pixels a word that are looked at, beside a row."""


@dataclass(frozen=True, slots=True)
class SliceFrame(OneToOne, Passing, WholePixels):
    """``spans``: (start, stop, step) for H, W, C. ``lanes``: as in PadFrame.

    Words of whole pixels hold a row on either side, or those that come as many as stand for the ones that leave.
    """

    name: str
    input: Stream
    output: Stream
    size: tuple[int, int, int]
    spans: tuple[tuple[int, int, int], ...]
    lanes: int = 0
    abreast: int = 0

    @property
    def _along(self) -> tuple[int, int, int, int]:
        """Of whole pixels: words of a row that come and that leave, the turn of a row that writes the first one, and where in the two words that came
        last it begins."""
        come = self.size[1] * self.size[2] // self.input.parallel
        together, (start, _, step) = self.size[1] // come, self.spans[1]
        if come == 1:
            return 1, 1, 0, together + start
        first, begin = divmod(start, together)
        both = begin + (self.abreast - 1) * step >= together
        return come, len(range(*self.spans[1])) // self.abreast, first + both, begin + (0 if both else together)

    @property
    def cycles(self) -> int:
        return self.input.words

    def turns(self) -> Turns:
        if self.abreast:
            come, leave, first, _ = self._along
            return _turns((self.size[0], come, 1), (self.spans[0], (first, first + leave, 1), (0, 1, 1)), 1)
        return _turns(self.size, self.spans, self.output.parallel)

    @property
    def recurrences(self) -> tuple[Recurrence, ...]:
        if self.abreast:
            row = recurrence("the next row of a slice", comparison(self.size[0].bit_length()), gates(), gates(), choice(), choice())
            return (loops(self.size[0], self._along[0]), row)
        cursor = recurrence("the next index of a slice", comparison(max(self.size).bit_length()), gates(), gates(), choice(), choice())
        return (loops(*self.size[:2], self.size[2] // self.output.parallel), cursor)

    def logic(self, on: Device) -> Resources:
        if self.abreast:  # registers for the two words that came last
            return self.control() + pieces.place((self.size[0], self._along[0])) + Resources(ff=2 * self.input.bits)
        return self.control() + r.multiplexer(2, self.output.bits) + pieces.place(self.size)

    def unit(self, ports: tuple[str, str]) -> Unit:
        parallel, (height, width, channels) = self.output.parallel, self.size
        if self.abreast:
            come, leave, first, base = self._along
            rows, _, of = (f"qfx::span<{a}, {b}, {c}>" for a, b, c in self.spans)
            return self.call(
                f"qfx::slice_abreast<{height}, {come}, {channels}, {rows}, {first}, {leave}, {base}, {self.spans[1][2]}, {of} >(in, out);"
            )
        *plane, (start, stop, step) = self.spans
        taken = (*plane, (start // parallel, stop // parallel, step))
        spans = ", ".join(f"qfx::span<{a}, {b}, {c}>" for a, b, c in taken)
        return self.call(f"qfx::slice<{height}, {width}, {channels // parallel}, {spans} >(in, out);")

    def widths(self, setting: Setting) -> list[int]:
        start, stop, step = self.spans[2]
        return common_widths(gcd(self.lanes or self.size[2], start, stop) if step == 1 else 1, (*self.sources, *self.targets))

    @property
    def leaving(self) -> int:
        return len(range(*self.spans[2]))

    @property
    def counts(self) -> tuple[int, ...]:
        row = len(range(*self.spans[1]))
        return (*_ABREAST, row) if row not in _ABREAST else _ABREAST

    def wide(self, pixels: int) -> SliceFrame | None:
        width, row, step = self.size[1], len(range(*self.spans[1])), self.spans[1][2]
        together = width if pixels == row else pixels * step
        if self.lanes or row % pixels or width % together:
            return None
        source, target = self.input.with_parallel(together * self.size[2]), self.output.with_parallel(pixels * self.leaving)
        return replace(self, input=source, output=target, abreast=pixels)


@lru_cache(maxsize=64)
def _turns(size: tuple[int, int, int], spans: tuple[tuple[int, int, int], ...], parallel: int) -> Turns:
    grid = every(prod(size) // parallel).reshape(size[0], size[1], size[2] // parallel)
    rows, columns, (start, stop, step) = slice(*spans[0]), slice(*spans[1]), spans[2]
    channels = slice(start, stop, step) if parallel == 1 else slice(start // parallel, -(-stop // parallel))
    return grid.size, (every(grid.size),), (held(grid[rows, columns, channels].flatten()),)
