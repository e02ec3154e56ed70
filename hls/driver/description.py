"""What the driver must know of the accelerator: ``accelerator.json``, which qfx wrote beside this file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from .errors import DataError, ProjectError
from .fixed.arraytype import ArrayType
from .fixed.packing import Port
from .fixed.type import FixedType
from .fixed.vectors import Place

FORMAT = 1


@dataclass(frozen=True)
class OutputPort:
    """A stream port: its name in the model, that of the stream, the DMA that it is a channel of, and the words."""

    name: str
    stream: str
    dma: str
    port: Port


@dataclass(frozen=True)
class InputPort(OutputPort):
    """``cast`` makes raws of the floats."""

    cast: ArrayType


@dataclass(frozen=True)
class Wire:
    """A stream of the accelerator: the ports that it carries, one after the other in a frame, each padded with zeros to whole words of ``bits``."""

    ends: tuple[OutputPort, ...]
    bits: int

    @property
    def dma(self) -> str:
        return self.ends[0].dma

    @property
    def name(self) -> str:
        """The model's names for what it carries."""
        return ", ".join(end.name for end in self.ends)

    @property
    def places(self) -> tuple[tuple[int, int], ...]:
        """For every port where its bytes lie in a frame: from, and how many without the padding."""
        found, at = [], 0
        for end in self.ends:
            found.append((at, end.port.frame_bytes))
            at += self._padded(end)
        return tuple(found)

    @property
    def frame_bytes(self) -> int:
        return sum(self._padded(end) for end in self.ends)

    def _padded(self, end: OutputPort) -> int:
        word = self.bits // 8
        return -(-end.port.frame_bytes // word) * word


@dataclass(frozen=True)
class Memory:
    """Weights that the accelerator reads from memory while it runs: the file ``memory/NAME.bin`` beside this one, of so many ``bytes`` with this
    SHA-256; where the address of their first byte is written (``register``, its upper half behind it); and the bytes that are read in a frame.
    Without a SHA-256: memory that the accelerator writes and reads itself, which needs room and no file."""

    name: str
    register: int
    bytes: int
    sha256: str
    frame_bytes: int


@dataclass(frozen=True)
class MasterPort:
    """An AXI master of a layer engine: the process that moves words through it, by its number, and the bytes of a word."""

    name: str
    process: int
    bytes: int


@dataclass(frozen=True)
class Engine:
    """A layer engine: it runs ``steps`` instructions over a region of ``value_bytes`` bytes, in which the ``frames`` of a run lie at their ``inputs``
    and results at their ``outputs``. The number of steps goes into ``steps_register``, the region's address into each of ``value_registers``."""

    frames: int
    steps: int
    steps_register: int
    value_bytes: int
    value_registers: tuple[int, ...]
    inputs: tuple[Place, ...]
    outputs: tuple[Place, ...]
    ports: tuple[MasterPort, ...]


_End = TypeVar("_End", bound=OutputPort)


@dataclass(frozen=True)
class Description:
    """``inputs`` and ``outputs`` are the stream ports, in the model's order; of an ``engine``, which has none, the arrays that the processor lays
    into memory and takes from there. ``weights`` is the port of the constants, if they are loaded while the hardware runs.

    ``length_bits`` is the width of the DMA's length registers, ``alignment`` what the addresses of its buffers must be multiples of, in bytes.
    """

    top: str
    model: str
    board: str
    clock_ns: float
    inputs: tuple[InputPort, ...]
    outputs: tuple[OutputPort, ...]
    length_bits: int
    alignment: int
    weights: Port | None = None
    merged: tuple[int, int] = (0, 0)
    """The bits of the one stream that carries all inputs, and of that of all outputs; 0: each has its own."""
    memories: tuple[Memory, ...] = ()
    engine: Engine | None = None
    batch: int = 1
    """The frames that a call of an accelerator with streams takes: a transfer has a multiple of them."""

    @property
    def max_bytes(self) -> int:
        """The longest transfer."""
        return (1 << self.length_bits) - 1

    @property
    def several(self) -> bool:
        """Whether there is more than one input or output."""
        return len(self.inputs) + len(self.outputs) > 2

    @property
    def sends(self) -> tuple[Wire, ...]:
        """The streams into the accelerator."""
        return _wires(self.inputs, self.merged[0])

    @property
    def receives(self) -> tuple[Wire, ...]:
        """The streams out of it."""
        return _wires(self.outputs, self.merged[1])

    @property
    def dmas(self) -> tuple[str, ...]:
        """The names of the DMAs of inputs and outputs."""
        return () if self.engine else tuple(dict.fromkeys(end.dma for end in (*self.inputs, *self.outputs)))

    @property
    def input(self) -> Port:
        """The only input. DataError where there are several, as with ``output`` and ``cast``."""
        return self._only(self.inputs).port

    @property
    def output(self) -> Port:
        return self._only(self.outputs).port

    @property
    def cast(self) -> ArrayType:
        """What makes raws of the only input's floats."""
        return self._only(self.inputs).cast

    def frames(self, counts: Sequence[int]) -> int:
        """How many frames there are, given how many of every input. Raises DataError unless they are as many of each."""
        if len(set(counts)) > 1:
            told = ", ".join(f"{end.name} has {count}" for end, count in zip(self.inputs, counts, strict=True))
            raise DataError(f"the inputs have different numbers of frames: {told}", where=self.top, remedy="give as many of each")
        return counts[0]

    def _only(self, ends: Sequence[_End]) -> _End:
        if len(ends) != 1:
            names = ", ".join(end.name for end in ends)
            raise DataError(f"has {len(ends)} ports of this kind: {names}", where=self.top, remedy="name the one that you mean")
        return ends[0]


def load_description(path: Path | None = None) -> Description:
    """The description in ``path`` (default: the one beside this file). Raises ProjectError if it is missing or cannot be read."""
    source = Path(__file__).resolve().parent / "accelerator.json" if path is None else path
    try:
        data: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            raise ProjectError(f"its format is {data['format']}, this driver reads {FORMAT}", where=str(source), remedy="write the project again")
        return Description(
            top=str(data["top"]),
            model=str(data["model"]),
            board=str(data["board"]),
            clock_ns=float(data["clock_ns"]),
            inputs=tuple(InputPort(*_end(end), _cast(end["cast"])) for end in data.get("inputs") or [{**_ONE, "stream": "in", **data["input"]}]),
            outputs=tuple(OutputPort(*_end(end)) for end in data.get("outputs") or [{**_ONE, "stream": "out", **data["output"]}]),
            length_bits=0 if "engine" in data else int(data["length_bits"]),
            alignment=int(data["alignment"]),
            weights=_port(data["weights"]) if "weights" in data else None,
            merged=(int(data["merged"]["input"]), int(data["merged"]["output"])) if "merged" in data else (0, 0),
            memories=tuple(
                Memory(str(one["name"]), int(one["register"]), int(one["bytes"]), str(one.get("sha256", "")), int(one["frame_bytes"]))
                for one in data.get("memories", [])
            ),
            engine=_engine(data) if "engine" in data else None,
            batch=int(data.get("batch", 1)),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ProjectError(f"cannot be read: {error}", where=str(source), remedy="write the project again") from error


def _engine(data: dict[str, Any]) -> Engine:
    own = data["engine"]

    def places(side: str) -> tuple[Place, ...]:
        return tuple(_place(place, end, own) for place, end in zip(own[side], data[side], strict=True))

    return Engine(
        frames=int(own["frames"]),
        steps=int(own["steps"]),
        steps_register=int(own["steps_register"]),
        value_bytes=int(own["value_bytes"]),
        value_registers=tuple(map(int, own["value_registers"])),
        inputs=places("inputs"),
        outputs=places("outputs"),
        ports=tuple(MasterPort(str(one["name"]), int(one["process"]), int(one["bytes"])) for one in own["ports"]),
    )


def _place(place: dict[str, int], end: dict[str, Any], own: dict[str, Any]) -> Place:
    numbers = {name: number for name, number in place.items() if name not in ("width", "signed")}
    type_ = FixedType(place["width"], place["width"], bool(place["signed"]))
    return Place(type_, tuple(end["shape"]), lanes=int(own["lanes"]), bits=int(own["bits"]), frames=int(own["frames"]), **numbers)


def _wires(ends: Sequence[OutputPort], merged: int) -> tuple[Wire, ...]:
    return (Wire(tuple(ends), merged),) if merged else tuple(Wire((end,), end.port.word_bits) for end in ends)


_ONE = {"name": "", "dma": "dma"}  # where there is one input and one output


def _end(data: dict[str, Any]) -> tuple[str, str, str, Port]:
    return str(data["name"]), str(data["stream"]), str(data["dma"]), _port(data)


def _cast(data: dict[str, Any]) -> ArrayType:
    return ArrayType(FixedType.parse(data["type"]), tuple(data["int_bits"]), tuple(data["int_bits_shape"]))


def _port(data: dict[str, Any]) -> Port:
    return Port(FixedType.parse(data["type"]), tuple(data["shape"]), int(data["slot"]), int(data["parallel"]))
