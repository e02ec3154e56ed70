"""Pools: sums and maxima over windows, or over a whole frame."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from qfx.fixed.type import FixedType
from qfx.hardware.cost import pieces
from qfx.hardware.cost import resources as r
from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.design.storage import SHIFT_DEPTH, Memory
from qfx.hardware.design.streams import Epilogue, Stream
from qfx.hardware.emit.spelling import Unit, place_tag, raw
from qfx.hardware.folding.option import common_widths
from qfx.hardware.processes.process import Setting
from qfx.hardware.processes.traits import OneToOne, Unweighted, Widening
from qfx.hardware.timing.program import READ_WRITE, Turns, epilogue_latency, every, held, reduce


@dataclass(frozen=True, slots=True)
class Pool(OneToOne, Unweighted, Widening):
    """``taps`` numbers of each channel joined into one, in an accumulator of type ``acc``."""

    name: str
    input: Stream
    output: Stream
    join: str  # "sum", "max"
    whole_frame: bool
    pixels: int  # of the result; of the input if ``whole_frame``
    channels: int
    taps: int
    acc: FixedType
    epilogue: Epilogue

    @property
    def cycles(self) -> int:
        return self.input.words

    @property
    def latency(self) -> int:
        return READ_WRITE + 1 + epilogue_latency(self.epilogue)

    def turns(self) -> Turns:
        return _tail(self.input.words, self.output.words) if self.whole_frame else reduce(self.output.words, self.taps)

    @property
    def sums(self) -> Memory:
        """The accumulators of a global pool; no words if they are registers that shift."""
        words = self.channels // self.output.parallel
        return Memory(words if self.whole_frame and words > SHIFT_DEPTH else 0, self.acc.width * self.output.parallel)

    @property
    def memories(self) -> tuple[Memory, ...]:
        return (self.sums, *self.tables)

    def logic(self, on: Device) -> Resources:
        lanes, width = self.output.parallel, self.acc.width
        join = r.adder(width) if self.join == "sum" else r.greater(width) + Resources(ff=width)
        shifting = Resources(ff=width * self.channels) if self.whole_frame and not self.sums.depth else Resources()
        return r.total([self.control(), join * lanes, shifting, pieces.epilogue(self.epilogue, lanes, on)])

    def unit(self, ports: tuple[str, str]) -> Unit:
        numbers = f"{self.pixels}, {self.channels}" + ("" if self.whole_frame else f", {self.taps}")
        function = "pool_global" if self.whole_frame else "pool"
        kept = f", {place_tag(self.sums)}" if self.whole_frame else ""
        call = f"qfx::{function}<qfx::pool_{self.join}, {self.name}_epilogue, {raw(self.acc)}{kept}, {numbers}>(in, out);"
        return self.call_with_epilogue({"in": self.input, "out": self.output}, call)

    def widths(self, setting: Setting) -> list[int]:
        return common_widths(self.channels, (*self.sources, *self.targets))


@lru_cache(maxsize=64)
def _tail(words_in: int, words_out: int) -> Turns:
    """Results while the last ``words_out`` words come."""
    return words_in, (every(words_in),), (held(np.arange(words_in - words_out, words_in)),)
