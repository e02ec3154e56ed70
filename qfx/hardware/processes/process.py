"""What every process kind says of itself, and is asked by those above: simulation, estimate, folding, emission.

A kind is a frozen dataclass in a file of its own, derived from ``Process`` and from the traits (``traits.py``) that answer for it what several kinds
answer alike. It cannot be imported while an answer is missing.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

from qfx.fixed.packing import Port
from qfx.hardware.cost import pieces
from qfx.hardware.cost import resources as r
from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.design.loadable import Loadable
from qfx.hardware.design.schedule import BUFFER_STORAGE, Folding
from qfx.hardware.design.storage import Memory, dense
from qfx.hardware.design.streams import Stream
from qfx.hardware.emit.spelling import Unit
from qfx.hardware.folding.option import Option, Options, Role
from qfx.hardware.timing.delays import Recurrence
from qfx.hardware.timing.program import RESTART, REWIND, Program, Turns
from qfx.homes import unanswered


class Process:
    """One pipelined loop of the hardware: it reads ``sources``, writes ``targets``, and does the same in every frame.

    What is marked as abstract, here or in a trait that it has, every kind must define, itself or by a trait: else its class statement raises
    TypeError. A trait is a class with ``abstract=True``.
    """

    __slots__ = ()

    name: str

    rewinds: ClassVar[bool] = True
    """Whether it is one loop nest (QFX_PIPELINE_FRAMES in the C++) and nothing else."""

    level: ClassVar[bool] = False
    """Whether, where a word that it writes has more numbers than one that it reads, the words of all its sources have as many pixels."""

    def __init_subclass__(cls, *, abstract: bool = False, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        missing = [] if abstract else unanswered(cls, Process)
        if missing:
            raise TypeError(f"the process kind {cls.__name__} does not define {', '.join(missing)} (see {__name__}.Process)")

    # Streams.

    @property
    @abstractmethod
    def sources(self) -> tuple[Stream, ...]:
        """The streams that it reads, in the order of its fields; a port is none."""

    @property
    @abstractmethod
    def targets(self) -> tuple[Stream, ...]:
        """The streams that it writes, in the order of its fields; a port is none."""

    @property
    @abstractmethod
    def marks(self) -> tuple[Stream, ...]:
        """Those of its streams that carry no numbers but the TLAST of a frame."""

    @property
    def paired(self) -> tuple[Stream, ...]:
        """Those of its sources whose words have as many numbers as those that it writes, where the words of others are of another size."""
        return ()

    @property
    def inside(self) -> tuple[tuple[Process, str], ...]:
        """The processes that it is made of, each with the graph node that it works for; most kinds are one loop and have none."""
        return ()

    @property
    def within(self) -> tuple[Stream, ...]:
        """The FIFOs between those."""
        return ()

    def with_streams(self, change: Callable[[Stream], Stream]) -> Self:
        """The process with ``change`` made to every stream that it holds."""
        held = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]  # every kind is a dataclass
        changed: dict[str, Any] = {name: change(value) for name, value in held.items() if isinstance(value, Stream)}
        for name, value in held.items():
            if isinstance(value, tuple) and value and all(isinstance(item, Stream) for item in value):
                changed[name] = tuple(map(change, value))
        return replace(self, **changed)  # type: ignore[type-var]

    # Time.

    @property
    @abstractmethod
    def cycles(self) -> int:
        """The turns of a frame: the least number of cycles between two frames as far as this process goes. As many as ``turns`` has."""

    @property
    @abstractmethod
    def latency(self) -> int:
        """Cycles from the start of a turn to its write, assumed (``timing/program.py``)."""

    @abstractmethod
    def turns(self) -> Turns:
        """The turns of a frame, and in which of them every word of every source is read and of every target written."""

    @property
    def program(self) -> Program:
        """The program of one frame."""
        turns, reads, writes = self.turns()
        return Program(turns, self.latency, reads, writes, self.pause)

    @property
    def pause(self) -> int:
        """Cycles between the last turn of a frame and the first of the next. Where the loop is all that the process does (``rewinds``), no frame
        waits for the one before to leave the pipeline; loading constants comes between two frames, so that one does."""
        return REWIND if self.rewinds and not self.loads else self.latency + RESTART

    @property
    def busy(self) -> int:
        """Cycles of a frame if it never waits: turns and pause."""
        return self.cycles + self.pause

    @property
    @abstractmethod
    def recurrences(self) -> tuple[Recurrence, ...]:
        """The paths from a turn to the next in its C++, which no pipelining breaks: its clock period is none shorter (``timing/clock.py``). What is
        there in every process, such as the enable of its pipeline, is not among them."""

    # Resources.

    @property
    @abstractmethod
    def memories(self) -> tuple[Memory, ...]:
        """The arrays that it keeps words in: constants, tables, buffers."""

    @abstractmethod
    def logic(self, on: Device) -> Resources:
        """What it takes beside its memories and FIFOs."""

    def cost(self, on: Device) -> Resources:
        """What it takes without its FIFOs."""
        return r.total([self.logic(on), *(pieces.memory(memory, on) for memory in self.memories)])

    def control(self) -> Resources:
        """The part of ``logic`` that nearly all kinds have: handshake, counter of turns, registers of the words."""
        return pieces.control(self.cycles, (*self.sources, *self.targets), self.latency)

    # Constants.

    @property
    @abstractmethod
    def loads(self) -> tuple[Loadable, ...]:
        """Its constants that are loaded while the hardware runs, in the order in which they come."""

    @property
    @abstractmethod
    def stored(self) -> Stored | None:
        """What its weights take; None if it has none."""

    # Text.

    @abstractmethod
    def unit(self, ports: tuple[str, str]) -> Unit:
        """It as C++, as if all of its constants were there; ``ports`` are the names of the top function's streams."""

    # Folding.

    @property
    @abstractmethod
    def role(self) -> Role:
        """What it is in the folding of its layer."""

    @property
    @abstractmethod
    def front(self) -> Front | None:
        """Itself if it is the window unit of the process behind it, which is then asked for both; else None."""

    @abstractmethod
    def options(self, setting: Setting) -> Sequence[Option] | Options:
        """How its layer can be folded, told by the process as it is with one number at a time; the first of equals is preferred. None if BETWEEN."""

    @abstractmethod
    def limit(self, setting: Setting) -> str:
        """What keeps the fastest option from being faster, in words that follow "it takes 7 cycles"."""


REQUIRED = tuple(unanswered(Process, Process))
"""What every kind must define."""


class Front(Process, abstract=True):
    """A window unit: it cuts the frames of another process of its layer into windows, and is folded with it."""

    __slots__ = ()

    @property
    @abstractmethod
    def channels(self) -> int:
        """Of a pixel."""

    @property
    @abstractmethod
    def taps(self) -> int:
        """Of a window."""

    @abstractmethod
    def widened(self, parallel: int) -> Front:
        """It with ``parallel`` channels a word; it has one."""

    @abstractmethod
    def whole(self) -> Front:
        """The unit in its place that writes all taps of a window in one word."""

    @property
    @abstractmethod
    def possible(self) -> bool:
        """Whether there is such a unit in hardware."""

    def buffers(self, on: Device, places: Iterable[str]) -> dict[str, Resources]:
        """What its memories take in each of ``places``, some of BUFFER_STORAGE: the first, and those that may be chosen."""
        first, *others = places
        chosen = [place for place in others if place != "uram" or all(dense(memory.depth, memory.width) for memory in self.memories)]
        return {place: r.total([pieces.memory(replace(memory, asked=place), on) for memory in self.memories]) for place in (first, *chosen)}


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """Where a process stands when it is asked for ``options``: on which family of parts, with which window unit in front, folded as the user wishes
    (``pinned``), and between which ports of the design, input and output; whether products with constants are ``shift_and_add`` alone; whether there
    is UltraRAM (``uram``); into how many tiles a frame may be cut whose weights are read for each (``memory_tiles``)."""

    on: Device
    front: Front | None
    pinned: Folding | None
    ports: tuple[Port, Port]
    shift_and_add: bool = False
    uram: bool = False
    memory_tiles: int = 1

    @property
    def buffer_places(self) -> tuple[str, ...]:
        """Where line buffers may lie, "auto" first, or the place that is asked for."""
        if self.pinned is not None:
            return (self.pinned.buffer,)
        return tuple(place for place in BUFFER_STORAGE if place != "uram" or self.uram)


@dataclass(frozen=True, slots=True)
class Stored:
    """The weights of one process: their ``bits``, and those in the narrowest form that can be chosen for them; whether in some folding one row holds
    all (they then are constants of the multipliers); the block RAMs that they take as they are; and whether they are ``loaded``, so that UltraRAM can
    hold them."""

    bits: int
    least_bits: int
    in_one_row: bool
    bram18: int
    loaded: bool = False
