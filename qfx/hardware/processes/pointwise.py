"""Numbers that go one by one through an epilogue."""

from __future__ import annotations

from dataclasses import dataclass

from qfx.hardware.cost import pieces
from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.design.storage import Memory
from qfx.hardware.design.streams import Epilogue, Stream
from qfx.hardware.emit.spelling import Unit
from qfx.hardware.folding.option import Option, Role, common_widths
from qfx.hardware.processes.process import Setting
from qfx.hardware.processes.traits import OneToOne, Unweighted, Widening
from qfx.hardware.timing.delays import Recurrence, loops
from qfx.hardware.timing.program import READ_WRITE, Turns, epilogue_latency, every


@dataclass(frozen=True, slots=True)
class Pointwise(OneToOne, Unweighted, Widening):
    """The epilogue alone: what no other process could take over."""

    name: str
    input: Stream
    output: Stream
    pixels: int
    channels: int
    epilogue: Epilogue

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
        return (loops(self.pixels, self.channels // self.output.parallel),)

    @property
    def memories(self) -> tuple[Memory, ...]:
        return self.tables

    def logic(self, on: Device) -> Resources:
        return self.control() + pieces.epilogue(self.epilogue, self.output.parallel, on)

    def unit(self, ports: tuple[str, str]) -> Unit:
        call = f"qfx::pointwise<{self.name}_epilogue, {self.pixels}, {self.channels}>(in, out);"
        return self.call_with_epilogue({"in": self.input, "out": self.output}, call)

    def widths(self, setting: Setting) -> list[int]:
        return common_widths(self.channels, (*self.sources, *self.targets))


@dataclass(frozen=True, slots=True)
class Regrid(Pointwise):
    """Brings the channels of a value, which lie on grids of their own, onto those that a reader wants. It has words of the size that come to it."""

    @property
    def role(self) -> Role:
        return Role.BETWEEN

    def options(self, setting: Setting) -> list[Option]:
        return []
