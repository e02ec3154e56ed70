"""Pixels that are repeated."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod

from qfx.hardware.cost import pieces
from qfx.hardware.cost import resources as r
from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.design.storage import Memory
from qfx.hardware.design.streams import Stream
from qfx.hardware.emit.spelling import Unit, raw, words
from qfx.hardware.folding.option import common_widths
from qfx.hardware.processes.process import Setting
from qfx.hardware.processes.rows.abreast import places, waiting
from qfx.hardware.processes.traits import Buffering, OneToOne, WholePixels
from qfx.hardware.timing.delays import Recurrence, choice, comparison, loops, recurrence
from qfx.hardware.timing.program import Turns, every, held


@dataclass(frozen=True, slots=True)
class Repeat(OneToOne, Buffering, WholePixels):
    """Every pixel ``factors`` = (rows, columns) times: nearest-neighbour upsampling. ``size``: H, W, C of the input. ``lanes``: as in PadFrame.
    Whole pixels leave with all their copies of a row side by side."""

    name: str
    input: Stream
    output: Stream
    size: tuple[int, int, int]
    factors: tuple[int, int]
    lanes: int = 0
    abreast: int = 0

    @property
    def cycles(self) -> int:
        return self.output.words

    def turns(self) -> Turns:
        if self.abreast:
            height, words, _ = self._words
            return _turns((height, words, 1), (self.factors[0], 1), 1)
        return _turns(self.size, self.factors, self.output.parallel)

    @property
    def _words(self) -> tuple[int, int, int]:
        """Rows, and of whole pixels the words of one that come, and the numbers that each of them has."""
        height, width, channels = self.size
        return height, width * channels // self.input.parallel, self.input.parallel

    @property
    def _kept(self) -> int:
        """The words that wait for the further rows, of whole pixels."""
        return self._words[1] if self.factors[0] > 1 else 0

    @property
    def recurrences(self) -> tuple[Recurrence, ...]:
        height, width, channels = self.size
        rows, columns = self.factors
        if self.abreast:
            return (loops(height, rows, self._words[1]),)
        steps = (comparison(max(columns, width, channels).bit_length()), choice(), choice(), choice())
        return (loops(height, rows, width, columns, channels // self.output.parallel), recurrence("the place in the row", *steps))

    @property
    def row(self) -> Memory:
        """The row of pixels that is repeated."""
        _, width, channels = self.size
        words = width * channels // self.input.parallel
        return waiting(self._kept, self.input.bits) if self.abreast else Memory(words, self.input.bits)

    @property
    def memories(self) -> tuple[Memory, ...]:
        return (self.row,)

    def logic(self, on: Device) -> Resources:
        height, width, channels = self.size
        if self.abreast:
            kept = Resources(ff=self._kept * self.input.bits) if not self.row.depth else Resources()
            return self.control() + pieces.place(self._words[:2]) + r.multiplexer(min(self.factors[0], 2), self.input.bits) + kept
        return self.control() + pieces.place((height, width, channels // self.output.parallel))

    def unit(self, ports: tuple[str, str]) -> Unit:
        height, width, channels = self.size
        if self.abreast:
            numbers = f"{height}, {self._words[1]}, {self.input.parallel // channels}, {channels}, {self.factors[0]}, {self.factors[1]}"
            unit = self.call(f"qfx::repeat_abreast<{numbers}>(in, out, kept);")
            kept = places("kept", raw(self.output.type), self.input.parallel, max(self._kept, 1), self.row)
        else:
            kept = words("kept", raw(self.output.type), self.input.parallel, self.row)
            unit = self.call(
                f"qfx::repeat<{height}, {width}, {channels // self.output.parallel}, {self.factors[0]}, {self.factors[1]}>(in, out, kept);"
            )
        return replace(unit, body=(*kept, *unit.body))

    def widths(self, setting: Setting) -> list[int]:
        return common_widths(self.lanes or self.size[2], (*self.sources, *self.targets))

    @property
    def leaving(self) -> int:
        return self.size[2]

    @property
    def counts(self) -> tuple[int, ...]:
        columns = 1 if self.size[:2] == (1, 1) else self.factors[1]
        return tuple(columns * together for together in (1, 2, 4, 8) if columns * together > 1)

    def wide(self, pixels: int) -> Repeat | None:
        height, width, channels = self.size
        if height == width == 1 and pixels != self.factors[1] and prod(self.factors) % pixels == 0:  # the same copies, in rows of so many
            return replace(self, factors=(prod(self.factors) // pixels, pixels)).wide(pixels)
        together, rest = divmod(pixels, self.factors[1])
        if self.lanes or rest or not together or width % together:
            return None
        source, target = self.input.with_parallel(together * channels), self.output.with_parallel(pixels * channels)
        return replace(self, input=source, output=target, abreast=pixels)


@lru_cache(maxsize=64)
def _turns(size: tuple[int, int, int], factors: tuple[int, int], parallel: int) -> Turns:
    """A pixel is read when its first copy leaves; the further rows come from a buffer of one row."""
    height, width, channels = size
    grid = every(prod(size) * prod(factors) // parallel).reshape(height, factors[0], width, factors[1], channels // parallel)
    return grid.size, (held(grid[:, 0, :, 0].flatten()),), (every(grid.size),)
