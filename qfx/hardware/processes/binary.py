"""Two values, number by number."""

from __future__ import annotations

from dataclasses import dataclass

from qfx.hardware.cost import pieces
from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.design.storage import Memory
from qfx.hardware.design.streams import Epilogue, Stream
from qfx.hardware.emit.spelling import Unit
from qfx.hardware.folding.option import common_widths
from qfx.hardware.processes.process import Setting
from qfx.hardware.processes.traits import TwoToOne, Unweighted, Widening
from qfx.hardware.timing.delays import Recurrence, loops
from qfx.hardware.timing.program import READ_WRITE, Turns, epilogue_latency, every


@dataclass(frozen=True, slots=True)
class Binary(TwoToOne, Unweighted, Widening):
    """The epilogue's first step joins the two numbers."""

    name: str
    inputs: tuple[Stream, Stream]
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
        return words.size, (words, words), (words,)

    @property
    def recurrences(self) -> tuple[Recurrence, ...]:
        return (loops(self.pixels, self.channels // self.output.parallel),)

    @property
    def memories(self) -> tuple[Memory, ...]:
        return self.tables

    def logic(self, on: Device) -> Resources:
        return self.control() + pieces.epilogue(self.epilogue, self.output.parallel, on)

    def unit(self, ports: tuple[str, str]) -> Unit:
        streams = {"a": self.inputs[0], "b": self.inputs[1], "out": self.output}
        return self.call_with_epilogue(streams, f"qfx::binary<{self.name}_epilogue, {self.pixels}, {self.channels}>(a, b, out);")

    def widths(self, setting: Setting) -> list[int]:
        return common_widths(self.channels, (*self.sources, *self.targets))
