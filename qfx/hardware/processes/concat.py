"""Two values side by side, along their channels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import gcd

from qfx.fixed.type import FixedType
from qfx.hardware.cost import pieces
from qfx.hardware.cost import resources as r
from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.design.storage import Memory
from qfx.hardware.design.streams import Epilogue, Stream
from qfx.hardware.emit.spelling import Unit, raw
from qfx.hardware.folding.option import common_widths
from qfx.hardware.processes.process import Setting
from qfx.hardware.processes.traits import TwoToOne, Unweighted, Widening
from qfx.hardware.timing.delays import Recurrence, loops
from qfx.hardware.timing.program import READ_WRITE, Turns, epilogue_latency, every, held


@dataclass(frozen=True, slots=True)
class Concat(TwoToOne, Unweighted, Widening):
    """The channels of a pixel of the one, then of the other, each moved up by its ``shifts`` into the type ``joined``."""

    name: str
    inputs: tuple[Stream, Stream]
    output: Stream
    shifts: tuple[int, int]
    joined: FixedType
    pixels: int
    channels: tuple[int, int]
    epilogue: Epilogue

    @property
    def cycles(self) -> int:
        return self.output.words

    @property
    def latency(self) -> int:
        return READ_WRITE + epilogue_latency(self.epilogue)

    def turns(self) -> Turns:
        a, b = (channels // self.output.parallel for channels in self.channels)
        return _turns(self.pixels, a, b)

    @property
    def recurrences(self) -> tuple[Recurrence, ...]:
        return (loops(self.pixels, sum(self.channels) // self.output.parallel),)

    @property
    def memories(self) -> tuple[Memory, ...]:
        return self.tables

    def logic(self, on: Device) -> Resources:
        lanes = self.output.parallel
        return self.control() + r.multiplexer(2, lanes * self.joined.width) + pieces.epilogue(self.epilogue, lanes, on)

    def unit(self, ports: tuple[str, str]) -> Unit:
        streams = {"a": self.inputs[0], "b": self.inputs[1], "out": self.output}
        numbers = ", ".join(map(str, (*self.shifts, self.pixels, *self.channels)))
        return self.call_with_epilogue(streams, f"qfx::concat<{self.name}_epilogue, {raw(self.joined)}, {numbers}>(a, b, out);")

    def widths(self, setting: Setting) -> list[int]:
        return common_widths(gcd(*self.channels), (*self.sources, *self.targets))


@lru_cache(maxsize=64)
def _turns(pixels: int, a: int, b: int) -> Turns:
    turns = every(pixels * (a + b)).reshape(pixels, a + b)
    return turns.size, (held(turns[:, :a].flatten()), held(turns[:, a:].flatten())), (every(turns.size),)
