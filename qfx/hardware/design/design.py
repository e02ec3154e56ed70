"""What lowering makes of a graph: processes joined by streams. Values only; ``emit`` writes them out as C++."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qfx.fixed.packing import Port as Port  # part of this module's vocabulary
from qfx.fixed.type import FixedType

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Stream:
    """A FIFO of ``words`` words a frame; a word holds ``parallel`` raws of ``type``, neighbours in the order pixel by pixel, channel by channel."""

    name: str
    type: FixedType
    parallel: int
    words: int
    depth: int


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Constants that an epilogue reads: one (``index`` is "scalar"), one per channel, or one per element of the frame in stream order."""

    name: str
    values: tuple[int, ...]
    index: str  # "scalar", "channel", "element"
    loaded: FixedType | None = None
    """The type of values that are loaded while the hardware runs; ``values`` are then those at hand. Never "scalar"."""


@dataclass(frozen=True, slots=True)
class Step:
    """One call of a pointwise template: ``out x = qfx::<function><out, *arguments>(x, *operands)``.

    An argument is an int, a FixedType (its raw type) or a Tag (a fixed-point type with its modes).
    """

    function: str
    out: FixedType
    arguments: tuple[int | FixedType | Tag, ...]
    operands: tuple[Operand, ...] = ()


@dataclass(frozen=True, slots=True)
class Tag:
    """A template argument ``qfx::fixed<...>``: the type with its modes, where FixedType alone stands for its raw."""

    type: FixedType


@dataclass(frozen=True, slots=True)
class Operand:
    """A constant operand: the entry of ``table`` at the present channel or element; ``type`` is its raw type, None for a plain C++ int."""

    table: Table
    type: FixedType | None = None


@dataclass(frozen=True, slots=True)
class Epilogue:
    """What happens to a number before it leaves a process. ``inputs`` are the types that come (Add, Sub, Mul: two), ``out`` the one that leaves."""

    inputs: tuple[FixedType, ...]
    steps: tuple[Step, ...]
    out: FixedType
    channels: int  # of the frame, to address tables per element


@dataclass(frozen=True, slots=True)
class FromPort:
    """``last`` carries one word a frame to the ToPort: the TLAST that came with the frame's last word."""

    name: str
    output: Stream
    last: Stream
    slot: int


@dataclass(frozen=True, slots=True)
class ToPort:
    """``last``: as in FromPort; it becomes the TLAST of the frame's last word."""

    name: str
    input: Stream
    last: Stream
    slot: int


@dataclass(frozen=True, slots=True)
class Fork:
    name: str
    input: Stream
    outputs: tuple[Stream, Stream]


@dataclass(frozen=True, slots=True)
class Rewidth:
    """The same numbers with another ``parallel``; one of the two divides the other."""

    name: str
    input: Stream
    output: Stream


@dataclass(frozen=True, slots=True)
class Window:
    """``shape``: the arguments of qfx::window_shape; ``padding``: the raw outside the frame."""

    name: str
    input: Stream
    output: Stream
    shape: tuple[int, ...]
    padding: int


@dataclass(frozen=True, slots=True, eq=False)
class MatVec:
    """``weights``: (rows, lanes) raws, as qfx::matvec or, if ``depthwise``, qfx::depthwise reads them; lane = simd * pe_count + pe.

    ``arithmetic``: as in Folding. For "shift" and "pair" lowering has made sure that it is exact. ``loaded``: the weights are loaded while the
    hardware runs, any of ``weight_type``; ``weights`` are then those at hand.
    """

    name: str
    input: Stream
    output: Stream
    depthwise: bool
    pixels: int
    groups: int
    outputs: int
    inputs: int
    pe: int
    simd: int
    weights: IntArray
    weight_type: FixedType
    acc: FixedType
    epilogue: Epilogue
    arithmetic: str
    loaded: bool = False

    @property
    def possible(self) -> IntArray:
        """Raws between which all weights lie that the hardware must compute with."""
        return np.array([[self.weight_type.min_raw, self.weight_type.max_raw]], dtype=np.int64) if self.loaded else self.weights


@dataclass(frozen=True, slots=True)
class Pool:
    name: str
    input: Stream
    output: Stream
    join: str  # "sum", "max"
    whole_frame: bool
    pixels: int  # of the result; of the input if ``whole_frame``
    channels: int
    taps: int
    acc: FixedType
    epilogue: Epilogue


@dataclass(frozen=True, slots=True)
class Pointwise:
    name: str
    input: Stream
    output: Stream
    pixels: int
    channels: int
    epilogue: Epilogue


@dataclass(frozen=True, slots=True)
class Regrid(Pointwise):
    """Brings the channels of a value, which lie on grids of their own, onto those that a reader wants. It has words of the size that come to it."""


@dataclass(frozen=True, slots=True)
class Binary:
    """The epilogue's first step joins the two numbers."""

    name: str
    inputs: tuple[Stream, Stream]
    output: Stream
    pixels: int
    channels: int
    epilogue: Epilogue


@dataclass(frozen=True, slots=True)
class Concat:
    name: str
    inputs: tuple[Stream, Stream]
    output: Stream
    shifts: tuple[int, int]
    joined: FixedType
    pixels: int
    channels: tuple[int, int]
    epilogue: Epilogue


@dataclass(frozen=True, slots=True)
class Permute:
    """Number i of the stream goes to ``write[i]``; the result reads the loop nest ``read`` of (size, stride) pairs, outermost first."""

    name: str
    input: Stream
    output: Stream
    write: tuple[tuple[int, int], ...] | Table
    read: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class PadFrame:
    """``size``: H, W, C of the input; ``result``: of the result; ``before``: zeros before, per axis in that order."""

    name: str
    input: Stream
    output: Stream
    size: tuple[int, int, int]
    result: tuple[int, int, int]
    before: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class SliceFrame:
    """``spans``: (start, stop, step) for H, W, C."""

    name: str
    input: Stream
    output: Stream
    size: tuple[int, int, int]
    spans: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """Every pixel ``factors`` = (rows, columns) times: nearest-neighbour upsampling. ``size``: H, W, C of the input."""

    name: str
    input: Stream
    output: Stream
    size: tuple[int, int, int]
    factors: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Zeros between the pixels: pixel (y, x) goes to (y * rows, x * columns); the result has (H - 1) * rows + 1 by (W - 1) * columns + 1 pixels."""

    name: str
    input: Stream
    output: Stream
    size: tuple[int, int, int]
    factors: tuple[int, int]


Process = (
    FromPort | ToPort | Fork | Rewidth | Window | MatVec | Pool | Pointwise | Regrid | Binary | Concat | Permute | PadFrame | SliceFrame | Repeat
    | Stretch
)  # fmt: skip


def inputs(process: Process) -> tuple[Stream, ...]:
    """The streams that a process reads, in the order of its fields; a port is none."""
    if isinstance(process, FromPort):
        return ()
    if isinstance(process, ToPort):
        return (process.input, process.last)
    return process.inputs if isinstance(process, Binary | Concat) else (process.input,)


def outputs(process: Process) -> tuple[Stream, ...]:
    """The streams that a process writes, in the order of its fields; a port is none."""
    if isinstance(process, FromPort):
        return (process.output, process.last)
    if isinstance(process, ToPort):
        return ()
    return process.outputs if isinstance(process, Fork) else (process.output,)


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
    """Processes in topological order, the streams between them, and the two ports. ``nodes``: the graph node that each process works for;
    ``travels``: the values of the graph that travel on a stream, in the graph's order. ``loader``: where constants are loaded while it runs; it and
    its FIFOs stand beside the processes and streams, which are those of a frame."""

    processes: tuple[Process, ...]
    nodes: tuple[str, ...]
    streams: tuple[Stream, ...]
    input: Port
    output: Port
    travels: tuple[Travel, ...] = ()
    loader: Loader | None = None
