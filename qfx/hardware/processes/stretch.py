"""Zeros between the pixels of a frame."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from qfx.hardware.cost import pieces
from qfx.hardware.cost import resources as r
from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.design.streams import Stream
from qfx.hardware.emit.spelling import Unit
from qfx.hardware.folding.option import common_widths
from qfx.hardware.processes.process import Setting
from qfx.hardware.processes.traits import OneToOne, Passing, Widening
from qfx.hardware.timing.delays import Recurrence, choice, comparison, gates, loops, recurrence
from qfx.hardware.timing.program import Turns, every, held


@dataclass(frozen=True, slots=True)
class Stretch(OneToOne, Passing, Widening):
    """Zeros between the pixels: pixel (y, x) goes to (y * rows, x * columns); the result has (H - 1) * rows + 1 by (W - 1) * columns + 1 pixels.
    ``lanes``: as in PadFrame."""

    name: str
    input: Stream
    output: Stream
    size: tuple[int, int, int]
    factors: tuple[int, int]
    lanes: int = 0

    @property
    def cycles(self) -> int:
        return self.output.words

    def turns(self) -> Turns:
        return _turns(self.size, self.factors, self.output.parallel)

    @property
    def recurrences(self) -> tuple[Recurrence, ...]:
        height, width = ((count - 1) * factor + 1 for count, factor in zip(self.size, self.factors, strict=False))
        column = recurrence("the columns since the last pixel", comparison(width.bit_length()), gates(), choice(), choice())
        return (loops(height, width, self.size[2] // self.output.parallel), column)

    def logic(self, on: Device) -> Resources:
        return self.control() + r.multiplexer(2, self.output.bits) + pieces.place(self.size)

    def unit(self, ports: tuple[str, str]) -> Unit:
        height, width, channels = self.size
        return self.call(f"qfx::stretch<{height}, {width}, {channels // self.output.parallel}, {self.factors[0]}, {self.factors[1]}>(in, out);")

    def widths(self, setting: Setting) -> list[int]:
        return common_widths(self.lanes or self.size[2], (*self.sources, *self.targets))


@lru_cache(maxsize=64)
def _turns(size: tuple[int, int, int], factors: tuple[int, int], parallel: int) -> Turns:
    height, width, channels = (size[0] - 1) * factors[0] + 1, (size[1] - 1) * factors[1] + 1, size[2] // parallel
    grid = every(height * width * channels).reshape(height, width, channels)
    return grid.size, (held(grid[:: factors[0], :: factors[1]].flatten()),), (every(grid.size),)
