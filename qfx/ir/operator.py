"""What an operator is: all that any part of qfx asks of one. The operators themselves are ``qfx.operators``, a file each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import gcd
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from qfx.fixed.type import FixedType
from qfx.ir.rules import Infos
from qfx.ir.values import Const, Info, RawArray

if TYPE_CHECKING:  # what is built upon this file, and handed to the operators when they are asked
    from qfx.export.bounds import Value
    from qfx.export.writer import Writer
    from qfx.hardware.design.build import Builder
    from qfx.hardware.design.epilogue import Steps
    from qfx.ir.drawing import Drawing
    from qfx.ir.graph import Graph, Node
    from qfx.ir.onnx_node import OnnxNode


class Operator:
    """The base of every operator: a frozen dataclass of attributes. Every operator but Input and Cast is exact.

    A subclass defines all of ``pieces``; one that lacks a piece is refused when it is imported, with a TypeError that names the piece. A class
    between this one and operators, which settles some pieces for a family of them, says ``family=True``.

    Shapes leave the batch out; channels are axis 0.
    """

    __slots__ = ()

    pieces: ClassVar[tuple[str, ...]] = (
        "reads", "forms", "infer", "evaluate", "words", "constants", "accumulator", "macs", "does_nothing",
        "write", "read", "pointwise", "any_order", "fuses", "renames", "build", "parallel", "draw",
    )  # fmt: skip

    def __init_subclass__(cls, *, family: bool = False) -> None:
        super().__init_subclass__()
        if family:
            return
        defined = {name for base in cls.__mro__ if base not in (Operator, object) for name in vars(base)}
        for piece in cls.pieces:
            if piece not in defined:
                raise TypeError(f"the operator {cls.__name__} lacks {piece!r}: see qfx.ir.operator.Operator")

    # What it computes

    reads: ClassVar[int | None]
    """How many values it reads: 0 for the input of a model, None for two or more."""

    def infer(self, name: str, inputs: Infos) -> Info:
        """What is known of the result. Checks attributes, arity and shapes: raises ModelFileError for what is wrong and ExactnessError for what int64
        could not hold; both name the node ``name``."""
        raise NotImplementedError

    def evaluate(self, inputs: Any, infos: Infos, out: Info) -> RawArray:
        """The integer meaning: int64 raws with the batch as the first axis, each on the grid of its Info, to raws on the grid of ``out``. ``infos``
        and ``out`` are those of ``infer``. Input alone reads floats."""
        raise NotImplementedError

    def does_nothing(self, x: Info) -> bool:
        """Whether the result of the one input ``x`` is ``x``, for every number in its range."""
        raise NotImplementedError

    # What people see of it

    def words(self) -> Iterable[str]:
        """Its attributes in a few characters each, for listings; those at their default are empty or left out."""
        raise NotImplementedError

    def constants(self) -> Mapping[str, Const]:
        """The constant tensors that hardware must store, by the name of their field: of an operator with two, the factors come first."""
        raise NotImplementedError

    def accumulator(self, x: Info) -> FixedType | None:
        """The type that holds every partial sum, whatever the order of its terms, for an input ``x``; it has the frac_bits of the result (the finest,
        where its channels have grids of their own: then it holds the raws of each). None where nothing is accumulated."""
        raise NotImplementedError

    def macs(self, out: Info) -> int:
        """Multiply-accumulates by constants per sample, for the result ``out``."""
        raise NotImplementedError

    def columns(self, out: Info) -> int:
        """Numbers per sample that the interpreter lays out besides operands and result."""
        return 0

    # Its form in an ONNX file

    forms: ClassVar[tuple[str, ...]]
    """The ONNX operators that ``write`` makes and ``read`` takes: ``Conv``, or ``ai.qfx.Scale``; what follows a ``_`` is left out."""

    functions: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """The functions of ``ai.qfx`` that it brings, as ONNX text by name: part of the version of the operator set (``qfx.export.opset``)."""

    def write(self, writer: Writer, node: Node) -> Value:
        """Write the node; what is known of the tensor that holds its result."""
        raise NotImplementedError

    @classmethod
    def read(cls, proto: OnnxNode) -> Operator:
        """The operator that was written as ``proto``, one of ``forms``."""
        raise NotImplementedError

    # Its form in hardware

    pointwise: ClassVar[bool]
    """Whether it is a few steps on each number, which ride in the epilogue of the process that gives the number."""

    any_order: ClassVar[bool]
    """Whether it takes the numbers of a value in whatever order they travel; else they come pixel by pixel, channels innermost."""

    fuses: ClassVar[bool]
    """Whether its process has an epilogue, which the pointwise operators behind it may join."""

    renames: ClassVar[bool]
    """Whether it only says how the elements of a value are addressed, so that nothing is built."""

    def epilogue(self, steps: Steps, source: Info, out: Info, site: int) -> None:
        """Of a pointwise operator: append its steps. ``source``: of what it reads; ``site``: the number that simulations know a cast by."""
        raise NotImplementedError

    def build(self, builder: Builder, node: Node, chain: tuple[Node, ...]) -> None:
        """Take its operands from the builder, add its processes, and give its result, with the pointwise nodes of ``chain`` in the epilogue."""
        raise NotImplementedError

    def parallel(self, graph: Graph, node: Node) -> tuple[int, int]:
        """What may be worked on in parallel as the node stands in ``graph``: PE divides the first number, SIMD the second."""
        raise NotImplementedError

    # For tests

    @classmethod
    def draw(cls, drawing: Drawing) -> tuple[Self, tuple[str, ...]]:
        """A random one that mostly fits, and the nodes that it reads. QfxError where it does not fit: another one is drawn."""
        raise NotImplementedError


def travelling_channels(graph: Graph, node: Node) -> int:
    """A divisor of the channels of the frame that ``node`` reads, whether or not the renames in front of it changed how it travels."""
    channels = graph.infos[node.name].shape[0]
    while node.op.reads != 0:
        source = graph.node(node.inputs[0])
        channels = gcd(channels, graph.infos[source.name].shape[0])
        if not source.op.renames:
            break
        node = source
    return channels


class Plain(Operator, family=True):
    """Operators without constants that accumulate nothing."""

    __slots__ = ()

    def constants(self) -> Mapping[str, Const]:
        return {}

    def accumulator(self, x: Info) -> FixedType | None:
        return None

    def macs(self, out: Info) -> int:
        return 0


class Pointwise(Operator, family=True):
    """Operators on each number by itself: they define ``epilogue``."""

    __slots__ = ()

    pieces: ClassVar[tuple[str, ...]] = (*Operator.pieces, "epilogue")
    reads: ClassVar[int | None] = 1
    pointwise: ClassVar[bool] = True
    any_order: ClassVar[bool] = True
    fuses: ClassVar[bool] = True
    renames: ClassVar[bool] = False

    def build(self, builder: Builder, node: Node, chain: tuple[Node, ...]) -> None:
        builder.pointwise(node, chain)

    def parallel(self, graph: Graph, node: Node) -> tuple[int, int]:
        return travelling_channels(graph, node), 1


class Mover(Plain, family=True):
    """Operators that move numbers and compute nothing."""

    __slots__ = ()

    reads: ClassVar[int | None] = 1
    pointwise: ClassVar[bool] = False
    renames: ClassVar[bool] = False
    fuses: ClassVar[bool] = False
