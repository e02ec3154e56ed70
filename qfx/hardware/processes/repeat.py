"""Pixels that are repeated."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod

from qfx.hardware.cost import pieces
from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.design.storage import Memory
from qfx.hardware.design.streams import Stream
from qfx.hardware.emit.spelling import Unit, raw, words
from qfx.hardware.folding.option import common_widths
from qfx.hardware.processes.process import Setting
from qfx.hardware.processes.traits import Buffering, OneToOne, Widening
from qfx.hardware.timing.delays import Recurrence, choice, comparison, loops, recurrence
from qfx.hardware.timing.program import Turns, every, held


@dataclass(frozen=True, slots=True)
class Repeat(OneToOne, Buffering, Widening):
    """Every pixel ``factors`` = (rows, columns) times: nearest-neighbour upsampling. ``size``: H, W, C of the input. ``lanes``: as in PadFrame."""

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
        height, width, channels = self.size
        rows, columns = self.factors
        steps = (comparison(max(columns, width, channels).bit_length()), choice(), choice(), choice())
        return (loops(height, rows, width, columns, channels // self.output.parallel), recurrence("the place in the row", *steps))

    @property
    def row(self) -> Memory:
        """The row of pixels that is repeated."""
        _, width, channels = self.size
        return Memory(width * channels // self.output.parallel, self.output.bits)

    @property
    def memories(self) -> tuple[Memory, ...]:
        return (self.row,)

    def logic(self, on: Device) -> Resources:
        height, width, channels = self.size
        return self.control() + pieces.place((height, width, channels // self.output.parallel))

    def unit(self, ports: tuple[str, str]) -> Unit:
        height, width, channels = self.size
        size = f"{height}, {width}, {channels // self.output.parallel}"
        unit = self.call(f"qfx::repeat<{size}, {self.factors[0]}, {self.factors[1]}>(in, out, kept);")
        return replace(unit, body=(*words("kept", raw(self.output.type), self.output.parallel, self.row), *unit.body))

    def widths(self, setting: Setting) -> list[int]:
        return common_widths(self.lanes or self.size[2], (*self.sources, *self.targets))


@lru_cache(maxsize=64)
def _turns(size: tuple[int, int, int], factors: tuple[int, int], parallel: int) -> Turns:
    """A pixel is read when its first copy leaves; the further rows come from a buffer of one row."""
    height, width, channels = size
    grid = every(prod(size) * prod(factors) // parallel).reshape(height, factors[0], width, factors[1], channels // parallel)
    return grid.size, (held(grid[:, 0, :, 0].flatten()),), (every(grid.size),)
