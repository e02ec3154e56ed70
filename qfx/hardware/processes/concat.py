"""Two values side by side, along their channels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import gcd
from typing import ClassVar

from qfx.fixed.type import FixedType
from qfx.hardware.cost import pieces
from qfx.hardware.cost import resources as r
from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.design import storage
from qfx.hardware.design.storage import Memory
from qfx.hardware.design.streams import Epilogue, Stream
from qfx.hardware.emit.spelling import Unit, raw
from qfx.hardware.folding.option import common_widths
from qfx.hardware.processes.process import Setting
from qfx.hardware.processes.traits import TwoToOne, Unweighted, WholePixels
from qfx.hardware.timing.delays import Recurrence, loops
from qfx.hardware.timing.program import READ_WRITE, Turns, epilogue_latency, every, held


@dataclass(frozen=True, slots=True)
class Concat(TwoToOne, Unweighted, WholePixels):
    """The channels of a pixel of the one, then of the other, each moved up by its ``shifts`` into the type ``joined``. Whole pixels of both come in
    the same turn. ``of``: the channels that the layer joins in all."""

    level: ClassVar[bool] = True

    name: str
    inputs: tuple[Stream, Stream]
    output: Stream
    shifts: tuple[int, int]
    joined: FixedType
    pixels: int
    channels: tuple[int, int]
    epilogue: Epilogue
    of: int
    abreast: int = 0

    @property
    def tables(self) -> tuple[Memory, ...]:
        return storage.tables(self.epilogue, self._lanes)

    @property
    def _lanes(self) -> int:
        """The channels of a pixel that leave at once."""
        return self.output.parallel // max(self.abreast, 1)

    @property
    def cycles(self) -> int:
        return self.output.words

    @property
    def latency(self) -> int:
        return READ_WRITE + epilogue_latency(self.epilogue)

    def turns(self) -> Turns:
        if self.abreast:
            words = every(self.output.words)
            return words.size, (words, words), (words,)
        a, b = (channels // self.output.parallel for channels in self.channels)
        return _turns(self.pixels, a, b)

    @property
    def recurrences(self) -> tuple[Recurrence, ...]:
        if self.abreast:
            return (loops(self.pixels // self.abreast),)
        return (loops(self.pixels, sum(self.channels) // self.output.parallel),)

    @property
    def memories(self) -> tuple[Memory, ...]:
        return self.tables

    def logic(self, on: Device) -> Resources:
        lanes = self.output.parallel
        chosen = Resources() if self.abreast else r.multiplexer(2, lanes * self.joined.width)
        return self.control() + chosen + pieces.epilogue(self.epilogue, lanes, on)

    def unit(self, ports: tuple[str, str]) -> Unit:
        streams = {"a": self.inputs[0], "b": self.inputs[1], "out": self.output}
        numbers = ", ".join(map(str, (*self.shifts, self.pixels, *self.channels)))
        function, more = ("concat_abreast", f", {self.abreast}") if self.abreast else ("concat", "")
        call = f"qfx::{function}<{self.name}_epilogue, {raw(self.joined)}, {numbers}{more}>(a, b, out);"
        return self.call_with_epilogue(streams, call, self._lanes)

    def widths(self, setting: Setting) -> list[int]:
        return common_widths(gcd(*self.channels), (*self.sources, *self.targets))

    @property
    def leaving(self) -> int:
        return self.of

    @property
    def counts(self) -> tuple[int, ...]:
        return (1, 2, 4, 8)

    def wide(self, pixels: int) -> Concat | None:
        if self.pixels % pixels or (pixels > 1 and self.epilogue.by_pixel):
            return None
        a, b = (stream.with_parallel(count * pixels) for stream, count in zip(self.inputs, self.channels, strict=True))
        return replace(self, inputs=(a, b), output=self.output.with_parallel(sum(self.channels) * pixels), abreast=pixels)


@lru_cache(maxsize=64)
def _turns(pixels: int, a: int, b: int) -> Turns:
    turns = every(pixels * (a + b)).reshape(pixels, a + b)
    return turns.size, (held(turns[:, :a].flatten()), held(turns[:, a:].flatten())), (every(turns.size),)
