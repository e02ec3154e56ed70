"""Numbers that go one by one through an epilogue."""

from __future__ import annotations

from dataclasses import dataclass, replace

from qfx.hardware.cost import pieces
from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.design import storage
from qfx.hardware.design.storage import Memory
from qfx.hardware.design.streams import Epilogue, Stream
from qfx.hardware.emit.spelling import Unit
from qfx.hardware.folding.option import Option, Role, common_widths
from qfx.hardware.processes.process import Setting
from qfx.hardware.processes.traits import OneToOne, Unweighted, WholePixels
from qfx.hardware.timing.delays import Recurrence, loops
from qfx.hardware.timing.program import READ_WRITE, Turns, epilogue_latency, every


@dataclass(frozen=True, slots=True)
class Pointwise(OneToOne, Unweighted, WholePixels):
    """The epilogue alone: what no other process could take over."""

    name: str
    input: Stream
    output: Stream
    pixels: int
    channels: int
    epilogue: Epilogue
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
        words = every(self.output.words)
        return words.size, (words,), (words,)

    @property
    def recurrences(self) -> tuple[Recurrence, ...]:
        return (loops(self.pixels // max(self.abreast, 1), self.channels // self._lanes),)

    @property
    def memories(self) -> tuple[Memory, ...]:
        return self.tables

    def logic(self, on: Device) -> Resources:
        return self.control() + pieces.epilogue(self.epilogue, self.output.parallel, on)

    def unit(self, ports: tuple[str, str]) -> Unit:
        more = f", {self.abreast}" if self.abreast else ""
        call = f"qfx::pointwise<{self.name}_epilogue, {self.pixels}, {self.channels}{more}>(in, out);"
        return self.call_with_epilogue({"in": self.input, "out": self.output}, call, self._lanes)

    def widths(self, setting: Setting) -> list[int]:
        return common_widths(self.channels, (*self.sources, *self.targets))

    @property
    def leaving(self) -> int:
        return self.channels

    @property
    def counts(self) -> tuple[int, ...]:
        return (2, 4, 8)

    def wide(self, pixels: int) -> Pointwise | None:
        if self.pixels % pixels or self.epilogue.by_pixel:
            return None
        word = self.channels * pixels
        return replace(self, input=self.input.with_parallel(word), output=self.output.with_parallel(word), abreast=pixels)


@dataclass(frozen=True, slots=True)
class Regrid(Pointwise):
    """Brings the channels of a value, which lie on grids of their own, onto those that a reader wants. It has words of the size that come to it."""

    @property
    def role(self) -> Role:
        return Role.BETWEEN

    def options(self, setting: Setting) -> list[Option]:
        return []
