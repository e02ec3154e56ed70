"""Two values, number by number."""

from __future__ import annotations

from dataclasses import dataclass, replace

from qfx.hardware.cost import pieces
from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.design import storage
from qfx.hardware.design.storage import Memory
from qfx.hardware.design.streams import Epilogue, Stream
from qfx.hardware.emit.spelling import Unit
from qfx.hardware.folding.option import common_widths
from qfx.hardware.processes.process import Setting
from qfx.hardware.processes.traits import TwoToOne, Unweighted, WholePixels
from qfx.hardware.timing.delays import Recurrence, loops
from qfx.hardware.timing.program import READ_WRITE, Turns, epilogue_latency, every


@dataclass(frozen=True, slots=True)
class Binary(TwoToOne, Unweighted, WholePixels):
    """The epilogue's first step joins the two numbers."""

    name: str
    inputs: tuple[Stream, Stream]
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
        return words.size, (words, words), (words,)

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
        streams = {"a": self.inputs[0], "b": self.inputs[1], "out": self.output}
        call = f"qfx::binary<{self.name}_epilogue, {self.pixels}, {self.channels}{more}>(a, b, out);"
        return self.call_with_epilogue(streams, call, self._lanes)

    def widths(self, setting: Setting) -> list[int]:
        return common_widths(self.channels, (*self.sources, *self.targets))

    @property
    def leaving(self) -> int:
        return self.channels

    @property
    def counts(self) -> tuple[int, ...]:
        return (2, 4, 8)

    def wide(self, pixels: int) -> Binary | None:
        if self.pixels % pixels or self.epilogue.by_pixel:
            return None
        word, (a, b) = self.channels * pixels, self.inputs
        return replace(self, inputs=(a.with_parallel(word), b.with_parallel(word)), output=self.output.with_parallel(word), abreast=pixels)
