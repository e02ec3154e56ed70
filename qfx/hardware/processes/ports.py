"""The ends of a design: AXI4-Stream ports, with the TLAST that goes round the network."""

from __future__ import annotations

from dataclasses import dataclass

from qfx.hardware.cost import pieces
from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.design.streams import Stream
from qfx.hardware.emit import spelling
from qfx.hardware.emit.spelling import Unit, words_of
from qfx.hardware.folding.option import MAX_PORT_BITS, Role, port_widths
from qfx.hardware.processes.process import Setting
from qfx.hardware.processes.traits import Passing, Widening
from qfx.hardware.timing.program import Turns, every, last

_LIMIT = f"a port carries at most {MAX_PORT_BITS} bits, and a power of two of numbers that divides the channels"


@dataclass(frozen=True, slots=True)
class FromPort(Passing, Widening):
    """``last`` carries one word a frame to the ToPorts: the TLAST that came with the frame's last word. None: that of another input goes there.

    ``port`` names the top function's stream where there are several.
    """

    name: str
    output: Stream
    last: Stream | None
    slot: int
    port: str = ""

    @property
    def sources(self) -> tuple[Stream, ...]:
        return ()

    @property
    def targets(self) -> tuple[Stream, ...]:
        return (self.output, *self.marks)

    @property
    def marks(self) -> tuple[Stream, ...]:
        return () if self.last is None else (self.last,)

    @property
    def cycles(self) -> int:
        return self.output.words

    def turns(self) -> Turns:
        words = self.output.words
        return words, (), (every(words), *(last(words) for _ in self.marks))

    def logic(self, on: Device) -> Resources:
        return self.control() + pieces.port(self.slot, self.output)

    def unit(self, ports: tuple[str, str]) -> Unit:
        out, marks = self.output, self.marks
        call = f"qfx::from_port<{out.words}, {self.slot}>(in, out{', last' * len(marks)});"
        parameters = (f"{spelling.port(self.slot, out)}& in", f"{words_of(out)}& out", *(f"{words_of(mark)}& last" for mark in marks))
        return Unit(self.name, (), "", parameters, (self.port or ports[0], out.name, *(mark.name for mark in marks)), (), (call,))

    @property
    def role(self) -> Role:
        return Role.PORT

    def widths(self, setting: Setting) -> list[int]:
        return port_widths(setting.ports[0].channels, self.slot)

    def limit(self, setting: Setting) -> str:
        return _LIMIT


@dataclass(frozen=True, slots=True)
class ToPort(Passing, Widening):
    """``last``: as in FromPort; it becomes the TLAST of the frame's last word."""

    name: str
    input: Stream
    last: Stream
    slot: int
    port: str = ""

    @property
    def sources(self) -> tuple[Stream, ...]:
        return (self.input, self.last)

    @property
    def targets(self) -> tuple[Stream, ...]:
        return ()

    @property
    def marks(self) -> tuple[Stream, ...]:
        return (self.last,)

    @property
    def cycles(self) -> int:
        return self.input.words

    def turns(self) -> Turns:
        words = self.input.words
        return words, (every(words), last(words)), ()

    def logic(self, on: Device) -> Resources:
        return self.control() + pieces.port(self.slot, self.input)

    def unit(self, ports: tuple[str, str]) -> Unit:
        source, mark = self.input, self.last
        call = f"qfx::to_port<{source.words}, {self.slot}>(in, last, out);"
        parameters = (f"{words_of(source)}& in", f"{words_of(mark)}& last", f"{spelling.port(self.slot, source)}& out")
        return Unit(self.name, (), "", parameters, (source.name, mark.name, self.port or ports[1]), (), (call,))

    @property
    def role(self) -> Role:
        return Role.PORT

    def widths(self, setting: Setting) -> list[int]:
        return port_widths(setting.ports[1].channels, self.slot)

    def limit(self, setting: Setting) -> str:
        return _LIMIT
