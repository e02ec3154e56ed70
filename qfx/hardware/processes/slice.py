"""A part of a frame."""

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
from qfx.hardware.timing.delays import Recurrence, choice, comparison, gates, loops, recurrence
from qfx.hardware.timing.program import Turns, every, held


@dataclass(frozen=True, slots=True)
class SliceFrame(OneToOne, Passing, Widening):
    """``spans``: (start, stop, step) for H, W, C. ``lanes``: as in PadFrame."""

    name: str
    input: Stream
    output: Stream
    size: tuple[int, int, int]
    spans: tuple[tuple[int, int, int], ...]
    lanes: int = 0

    @property
    def cycles(self) -> int:
        return self.input.words

    def turns(self) -> Turns:
        return _turns(self.size, self.spans, self.output.parallel)

    @property
    def recurrences(self) -> tuple[Recurrence, ...]:
        cursor = recurrence("the next index of a slice", comparison(max(self.size).bit_length()), gates(), gates(), choice(), choice())
        return (loops(*self.size[:2], self.size[2] // self.output.parallel), cursor)

    def logic(self, on: Device) -> Resources:
        return self.control() + r.multiplexer(2, self.output.bits) + pieces.place(self.size)

    def unit(self, ports: tuple[str, str]) -> Unit:
        parallel, (height, width, channels) = self.output.parallel, self.size
        *plane, (start, stop, step) = self.spans
        taken = (*plane, (start // parallel, stop // parallel, step))
        spans = ", ".join(f"qfx::span<{a}, {b}, {c}>" for a, b, c in taken)
        return self.call(f"qfx::slice<{height}, {width}, {channels // parallel}, {spans} >(in, out);")

    def widths(self, setting: Setting) -> list[int]:
        start, stop, step = self.spans[2]
        return common_widths(gcd(self.lanes or self.size[2], start, stop) if step == 1 else 1, (*self.sources, *self.targets))


@lru_cache(maxsize=64)
def _turns(size: tuple[int, int, int], spans: tuple[tuple[int, int, int], ...], parallel: int) -> Turns:
    grid = every(prod(size) // parallel).reshape(size[0], size[1], size[2] // parallel)
    rows, columns, (start, stop, step) = slice(*spans[0]), slice(*spans[1]), spans[2]
    channels = slice(start, stop, step) if parallel == 1 else slice(start // parallel, -(-stop // parallel))
    return grid.size, (every(grid.size),), (held(grid[rows, columns, channels].flatten()),)
