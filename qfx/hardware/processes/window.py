"""The window unit: a line buffer in front of a convolution or a pool."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from qfx.hardware.cost import resources as r
from qfx.hardware.cost.pieces import PROCESS
from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.design.storage import Memory
from qfx.hardware.design.streams import Stream
from qfx.hardware.emit.spelling import Unit, literal, place_tag, raw
from qfx.hardware.processes.process import Front
from qfx.hardware.processes.traits import Between, Buffering, OneToOne
from qfx.hardware.timing.program import Turns, held
from qfx.hardware.timing.window_turns import window_turns


@dataclass(frozen=True, slots=True)
class Window(OneToOne, Buffering, Between, Front):
    """``shape``: the arguments of qfx::window_shape; ``padding``: the raw outside the frame; ``buffer``: as in Folding."""

    name: str
    input: Stream
    output: Stream
    shape: tuple[int, ...]
    padding: int
    buffer: str = "auto"

    @property
    def cycles(self) -> int:
        return window_turns(self.shape).turns

    def turns(self) -> Turns:
        return _turns(self.shape)

    @property
    def line(self) -> Memory:
        """The line buffer: as many rows as a window spans."""
        chunks, _, _, w, _, _, kh, _, _, _, _, _, dh, _ = self.shape
        return Memory(((kh - 1) * dh + 1) * w * chunks, self.input.bits, asked=self.buffer)

    @property
    def memories(self) -> tuple[Memory, ...]:
        return (self.line,)

    def logic(self, on: Device) -> Resources:
        """The counters and comparisons that say what to read and write, and a register for each word."""
        chunks, outer, h, w, oh, ow, kh, kw, sh, sw, top, left, dh, dw = self.shape
        rows, width = (kh - 1) * dh + 1, self.input.bits
        row, size = w * chunks, rows * w * chunks
        counters = [r.counter(loop) for loop in (oh, ow, kh, kw, outer, chunks // outer, size) if loop > 1]
        bits = Resources()
        # y, top; column, left, next left; bottom, need, limit, their successors and the sums and comparisons in between
        for count, reach in ((2, top + oh * sh + rows + kh * dh), (3, (left + ow * sw + kw * dw) * chunks), (9, h * row + size), (3, 2 * size)):
            bits += r.adder((reach - 1).bit_length()) * count
        comparisons = r.comparison((h * row).bit_length()) * 6
        return r.total([PROCESS, *counters, bits, comparisons, r.multiplexer(2, width), Resources(ff=2 * width)])

    def unit(self, ports: tuple[str, str]) -> Unit:
        shape = f"qfx::window_shape<{', '.join(map(str, (*self.shape, self.cycles)))}, {place_tag(self.line)}>"
        return self.call(f"qfx::window<{shape} >(in, out, {raw(self.input.type)}({literal(self.padding)}));")

    @property
    def front(self) -> Window:
        return self

    @property
    def channels(self) -> int:
        return self.shape[0] * self.input.parallel

    def widened(self, parallel: int) -> Window:
        chunks, outer, *rest = self.shape
        fewer = chunks // parallel
        # Channel by channel, as many loops as words; group by group, as many as groups.
        shape = (fewer, fewer if outer == chunks else outer, *rest)
        return replace(self, input=self.input.with_parallel(parallel), output=self.output.with_parallel(parallel), shape=shape)


@lru_cache(maxsize=32)
def _turns(shape: tuple[int, ...]) -> Turns:
    found = window_turns(shape)
    read_only, both = found.read_only, found.both
    begin = np.cumsum(read_only + found.words) - found.words  # the turn of each window's first write
    writes = (begin[:, None] + np.arange(found.words)[None, :]).reshape(-1)
    # The reads of a window are the turns before its first write and the first of its writes: one run of turns.
    runs = read_only + both
    reads = np.repeat(begin - read_only - (np.cumsum(runs) - runs), runs) + np.arange(int(runs.sum()))
    end = int(begin[-1]) + found.words
    return found.turns, (held(np.concatenate([reads, np.arange(end, end + found.rest)])),), (held(writes),)
