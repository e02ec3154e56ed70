"""What lowering makes of a graph: processes joined by streams. Values only; ``emit`` writes them out as C++.

Streams and epilogues are in ``streams.py``, the process kinds in ``qfx.hardware.processes``; this module has the design, and names them all.
"""

from __future__ import annotations

from dataclasses import dataclass

from qfx.fixed.packing import Port as Port  # part of this module's vocabulary, as are the streams and the processes
from qfx.hardware.design.streams import Epilogue as Epilogue
from qfx.hardware.design.streams import IntArray as IntArray
from qfx.hardware.design.streams import Operand as Operand
from qfx.hardware.design.streams import Step as Step
from qfx.hardware.design.streams import Stream as Stream
from qfx.hardware.design.streams import Table as Table
from qfx.hardware.design.streams import Tag as Tag
from qfx.hardware.design.wires import Wire as Wire
from qfx.hardware.processes import Binary as Binary
from qfx.hardware.processes import Concat as Concat
from qfx.hardware.processes import Deal as Deal
from qfx.hardware.processes import Embedding as Embedding
from qfx.hardware.processes import Enter as Enter
from qfx.hardware.processes import Fork as Fork
from qfx.hardware.processes import FromMemory as FromMemory
from qfx.hardware.processes import FromPort as FromPort
from qfx.hardware.processes import Gather as Gather
from qfx.hardware.processes import Interleave as Interleave
from qfx.hardware.processes import JoinPort as JoinPort
from qfx.hardware.processes import Keep as Keep
from qfx.hardware.processes import Leave as Leave
from qfx.hardware.processes import Loop as Loop
from qfx.hardware.processes import MatMul as MatMul
from qfx.hardware.processes import MatVec as MatVec
from qfx.hardware.processes import PadFrame as PadFrame
from qfx.hardware.processes import Permute as Permute
from qfx.hardware.processes import Pointwise as Pointwise
from qfx.hardware.processes import Pool as Pool
from qfx.hardware.processes import Process as Process
from qfx.hardware.processes import Recall as Recall
from qfx.hardware.processes import Regrid as Regrid
from qfx.hardware.processes import Repeat as Repeat
from qfx.hardware.processes import Rewidth as Rewidth
from qfx.hardware.processes import RowWidth as RowWidth
from qfx.hardware.processes import Scatter as Scatter
from qfx.hardware.processes import SliceFrame as SliceFrame
from qfx.hardware.processes import Spill as Spill
from qfx.hardware.processes import SplitPort as SplitPort
from qfx.hardware.processes import Stretch as Stretch
from qfx.hardware.processes import TakeFrame as TakeFrame
from qfx.hardware.processes import Tiles as Tiles
from qfx.hardware.processes import Top as Top
from qfx.hardware.processes import ToPort as ToPort
from qfx.hardware.processes import WholeWindow as WholeWindow
from qfx.hardware.processes import WideWindow as WideWindow
from qfx.hardware.processes import Window as Window
from qfx.hardware.processes.matmul import ProductShape as ProductShape
from qfx.hardware.processes.memory.tiles import Plane as Plane
from qfx.hardware.processes.memory.tiles import Tiling as Tiling
from qfx.hardware.timing.program import Program, repeated


def inputs(process: Process) -> tuple[Stream, ...]:
    """The streams that a process reads, in the order of its fields; a port is none."""
    return process.sources


def outputs(process: Process) -> tuple[Stream, ...]:
    """The streams that a process writes, in the order of its fields; a port is none."""
    return process.targets


@dataclass(frozen=True, slots=True, eq=False)
class Travel:
    """Where a value of the graph can be seen: number i of the stream called ``stream`` is element ``order[i]`` (row-major) of the value of ``node``,
    which the process of ``layer`` computes: the same node, or one that it is fused with."""

    node: str
    layer: str
    stream: str
    order: IntArray


@dataclass(frozen=True, slots=True)
class Load:
    """How a process gets its constants: a FIFO ``flags`` with one bit a frame, whether they come before that frame, and the FIFO ``words``."""

    process: str
    flags: str
    words: str


@dataclass(frozen=True, slots=True)
class Loader:
    """The process ``name`` that takes all constants from ``port`` (the shape: one number for each element of every memory) to the processes."""

    name: str
    port: Port
    loads: tuple[Load, ...]


@dataclass(frozen=True, slots=True)
class Design:
    """Processes in topological order, the streams between them, and the ports: of a graph with several inputs the others are
    ``more_inputs``, of one with several outputs ``more_outputs``, in the graph's order. ``nodes``: the graph node that each process works for;
    ``travels``: the values of the graph that travel on a stream, in the graph's order. ``loader``: where constants are loaded while it runs; it and
    its FIFOs stand beside the processes and streams, which are those of a frame."""

    processes: tuple[Process, ...]
    nodes: tuple[str, ...]
    streams: tuple[Stream, ...]
    input: Port
    output: Port
    travels: tuple[Travel, ...] = ()
    loader: Loader | None = None
    more_inputs: tuple[Port, ...] = ()
    more_outputs: tuple[Port, ...] = ()
    port_names: tuple[tuple[str, ...], tuple[str, ...]] = (("in",), ("out",))
    """What the C++ calls the ports: the inputs, then the outputs."""
    merged: tuple[int, int] = (0, 0)
    """The width in bits of the one stream that carries all inputs, and of that of all outputs; 0: each has a stream of its own."""
    batch: int = 1
    """The frames of a call of the top function: every process goes over one after the other, but for those of ``once``."""
    once: frozenset[str] = frozenset()
    """The processes that take all frames of a call together, and those that bring their weights, with the streams between them."""

    def __repr__(self) -> str:
        return f"Design({len(self.processes)} processes, {len(self.streams)} streams, {len(self.inputs)} inputs, {len(self.outputs)} outputs)"

    @property
    def inputs(self) -> tuple[Port, ...]:
        return (self.input, *self.more_inputs)

    @property
    def outputs(self) -> tuple[Port, ...]:
        return (self.output, *self.more_outputs)

    def rounds(self, process: Process) -> int:
        """How often a call goes through the process's program."""
        return 1 if process.name in self.once else self.batch

    def program(self, process: Process) -> Program:
        """That of the process in a call."""
        return repeated(process.program, self.rounds(process))

    def busy(self, process: Process) -> int:
        """The cycles that a call takes it if it never waits."""
        return self.rounds(process) * process.busy

    def words(self, stream: Stream) -> int:
        """That go through the stream in a call."""
        return stream.words * (1 if stream.name in self.once else self.batch)

    @property
    def masters(self) -> tuple[FromMemory | Spill, ...]:
        """The processes that read the board's memory, or write it too."""
        return tuple(process for process in self.processes if isinstance(process, FromMemory | Spill))

    @property
    def weights_in_memory(self) -> tuple[FromMemory, ...]:
        """Those of them whose weights lie there before anything runs."""
        return tuple(process for process in self.processes if isinstance(process, FromMemory))

    @property
    def several(self) -> bool:
        """Whether there is more than one input or output."""
        return bool(self.more_inputs or self.more_outputs)

    @property
    def wires(self) -> tuple[tuple[Wire, ...], tuple[Wire, ...]]:
        """The streams of the top function: those that come in, and those that leave."""
        sides = zip((self.sources, self.sinks), ("in", "out"), self.merged, strict=True)
        into, out = (
            (Wire(name, bits, ports),) if bits else tuple(Wire(own, port.word_bits, ((own, port),)) for own, port in ports)
            for ports, name, bits in sides
        )
        return into, out

    @property
    def wire_names(self) -> tuple[str, ...]:
        """The names of all of them, in order."""
        return tuple(wire.name for wires in self.wires for wire in wires)

    @property
    def sources(self) -> tuple[tuple[str, Port], ...]:
        """The inputs with their names."""
        return tuple(zip(self.port_names[0], self.inputs, strict=True))

    @property
    def sinks(self) -> tuple[tuple[str, Port], ...]:
        """The outputs with their names."""
        return tuple(zip(self.port_names[1], self.outputs, strict=True))
