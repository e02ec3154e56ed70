"""The ends of what a step of a sequence does: its numbers come and go, and so do the states, which lie in arrays between the steps.

They stand in the region of a step (``loop.py``), which they are the ports of: to its analyses they read or write one stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qfx.fixed.type import FixedType
from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.design.streams import Stream
from qfx.hardware.emit.spelling import Unit, raw, stream, words_of
from qfx.hardware.folding.option import Option, Role
from qfx.hardware.processes.process import Process, Setting
from qfx.hardware.processes.traits import Passing
from qfx.hardware.timing.delays import Recurrence, loops
from qfx.hardware.timing.program import Turns, every


class _End(Passing, abstract=True):
    """A word of its one stream in every turn."""

    __slots__ = ()

    @property
    def marks(self) -> tuple[Stream, ...]:
        return ()

    @property
    def role(self) -> Role:
        return Role.PORT

    @property
    def front(self) -> None:
        return None

    def options(self, setting: Setting) -> list[Option]:
        return []

    def limit(self, setting: Setting) -> str:
        return ""

    @property
    def recurrences(self) -> tuple[Recurrence, ...]:
        return (loops(self.cycles),)

    def logic(self, on: Device) -> Resources:
        return self.control()


class _First(_End, Process, abstract=True):
    """It gives the step something: it writes ``output``."""

    __slots__ = ()

    name: str
    output: Stream

    @property
    def sources(self) -> tuple[Stream, ...]:
        return ()

    @property
    def targets(self) -> tuple[Stream, ...]:
        return (self.output,)

    @property
    def cycles(self) -> int:
        return self.output.words

    def turns(self) -> Turns:
        return self.output.words, (), (every(self.output.words),)


class _Last(_End, Process, abstract=True):
    """It takes what the step gives: it reads ``input``."""

    __slots__ = ()

    name: str
    input: Stream

    @property
    def sources(self) -> tuple[Stream, ...]:
        return (self.input,)

    @property
    def targets(self) -> tuple[Stream, ...]:
        return ()

    @property
    def cycles(self) -> int:
        return self.input.words

    def turns(self) -> Turns:
        return self.input.words, (every(self.input.words),), ()


@dataclass(frozen=True, slots=True)
class Enter(_First):
    """The numbers of a step, which come as ``type``, as many a word as they go on with."""

    rewinds: ClassVar[bool] = False

    name: str
    output: Stream
    type: FixedType

    def unit(self, ports: tuple[str, str]) -> Unit:
        parameters = (f"{stream(self.type, self.output.parallel)}& in", f"{words_of(self.output)}& out")
        return Unit(self.name, (), "", parameters, (ports[0], self.output.name), (), (f"qfx::hand_over<{self.output.words}>(in, out);",))


@dataclass(frozen=True, slots=True)
class Leave(_Last):
    """The results of a step, which go on as ``type``."""

    rewinds: ClassVar[bool] = False

    name: str
    input: Stream
    type: FixedType

    def unit(self, ports: tuple[str, str]) -> Unit:
        parameters = (f"{words_of(self.input)}& in", f"{stream(self.type, self.input.parallel)}& out")
        return Unit(self.name, (), "", parameters, (self.input.name, ports[1]), (), (f"qfx::hand_over<{self.input.words}>(in, out);",))


@dataclass(frozen=True, slots=True)
class Recall(_First):
    """The state that lies in the array ``state``."""

    rewinds: ClassVar[bool] = False

    name: str
    output: Stream
    state: str

    def unit(self, ports: tuple[str, str]) -> Unit:
        parameters = (f"const {array(self.output)}", f"{words_of(self.output)}& out")
        return Unit(self.name, (), "", parameters, (self.state, self.output.name), (), (f"qfx::recall<{self.output.words}>(kept, out);",))


@dataclass(frozen=True, slots=True)
class Keep(_Last):
    """The next state, kept in the array ``state`` of numbers of ``type``."""

    rewinds: ClassVar[bool] = False

    name: str
    input: Stream
    type: FixedType
    state: str

    def unit(self, ports: tuple[str, str]) -> Unit:
        kept = Stream("kept", self.type, self.input.parallel, self.input.words, 0)
        return Unit(
            self.name,
            (),
            "",
            (f"{words_of(self.input)}& in", array(kept)),
            (self.input.name, self.state),
            (),
            (f"qfx::keep<{self.input.words}, {raw(self.type)}>(in, kept);",),
        )


def array(frame: Stream, name: str = "kept") -> str:
    """The declaration of a reference to an array for a frame of the stream."""
    return f"qfx::memory_word<{raw(frame.type)}, {frame.parallel}>::type (&{name})[{frame.words}]"
