"""One value for two readers."""

from __future__ import annotations

from dataclasses import dataclass

from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.design.streams import Stream
from qfx.hardware.emit.spelling import Unit, plain
from qfx.hardware.processes.traits import Between, Passing
from qfx.hardware.timing.delays import Recurrence, loops
from qfx.hardware.timing.program import Turns, every


@dataclass(frozen=True, slots=True)
class Fork(Passing, Between):
    """Every word goes to both outputs in the same turn. ``mark``: the words are TLAST on their way to several ports."""

    name: str
    input: Stream
    outputs: tuple[Stream, Stream]
    mark: bool = False

    @property
    def sources(self) -> tuple[Stream, ...]:
        return (self.input,)

    @property
    def targets(self) -> tuple[Stream, ...]:
        return self.outputs

    @property
    def marks(self) -> tuple[Stream, ...]:
        return (self.input, *self.outputs) if self.mark else ()

    @property
    def cycles(self) -> int:
        return self.input.words

    def turns(self) -> Turns:
        words = every(self.input.words)
        return words.size, (words,), (words, words)

    @property
    def recurrences(self) -> tuple[Recurrence, ...]:
        return (loops(self.input.words),)

    def logic(self, on: Device) -> Resources:
        return self.control()

    def unit(self, ports: tuple[str, str]) -> Unit:
        streams = {"in": self.input, "out0": self.outputs[0], "out1": self.outputs[1]}
        return plain(self.name, streams, f"qfx::fork<{self.input.words}>(in, out0, out1);")
