"""What an operator is: all that any part of qfx asks of one. The operators themselves are ``qfx.operators``, a file each."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import gcd
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from qfx.errors import UnsupportedError
from qfx.fixed.arith import Interval
from qfx.fixed.type import FixedType
from qfx.homes import unanswered
from qfx.ir.channels import Carried, Mask
from qfx.ir.rules import Infos
from qfx.ir.values import Const, Info, RawArray
from qfx.ir.windows import Windows

if TYPE_CHECKING:  # what is built upon this file, and handed to the operators when they are asked
    from qfx.export.bounds import Value
    from qfx.export.writer import Writer
    from qfx.hardware.design.build import Builder
    from qfx.hardware.design.epilogue import Steps
    from qfx.hardware.unrolled.scalars import Numbers, Scalars
    from qfx.ir.drawing import Drawing
    from qfx.ir.graph import Graph, Node
    from qfx.ir.onnx_node import OnnxNode


class Operator:
    """The base of every operator: a frozen dataclass of attributes. Every operator but Input and Cast is exact.

    A subclass defines every class attribute that is declared here without a value and every abstract method, of its own or by a base between; one
    that does not is a TypeError when it is imported. A base between, which answers for a family of operators, says ``abstract=True``.

    Shapes leave the batch out; channels are axis 0.
    """

    __slots__ = ()

    def __init_subclass__(cls, *, abstract: bool = False) -> None:
        super().__init_subclass__()
        missing = [] if abstract else unanswered(cls, Operator)
        if missing:
            raise TypeError(f"the operator {cls.__name__} does not define {', '.join(missing)} (see {__name__}.Operator)")

    # What it computes

    reads: ClassVar[int | None]
    """How many values it reads: 0 for the input of a model, None for two or more."""

    @abstractmethod
    def infer(self, name: str, inputs: Infos) -> Info:
        """What is known of the result. Checks attributes, arity and shapes: raises ModelFileError for what is wrong and ExactnessError for what int64
        could not hold; both name the node ``name``."""

    @abstractmethod
    def evaluate(self, inputs: Any, infos: Infos, out: Info) -> RawArray:
        """The integer meaning: int64 raws with the batch as the first axis, each on the grid of its Info, to raws on the grid of ``out``. ``infos``
        and ``out`` are those of ``infer``. Input alone reads floats."""

    @abstractmethod
    def does_nothing(self, x: Info) -> bool:
        """Whether the result of the one input ``x`` is ``x``, for every number in its range."""

    def carries(self, inputs: Infos, out: Info) -> Carried:
        """How it carries channels, so that those that are always 0, or needed by nothing, leave the graph with what they alone need. None, for an
        operator that does not define it: its channels mix, and all of them stay, with all that it reads."""
        return None

    def narrowed(self, made: Mask, read: tuple[Mask, ...]) -> Operator:
        """The operator on the channels ``made`` of its result and ``read`` of each value, as ``carries`` lets them be chosen. One that has nothing of
        a channel alone is itself."""
        return self

    # What people see of it

    @abstractmethod
    def words(self) -> Iterable[str]:
        """Its attributes in a few characters each, for listings; those at their default are empty or left out."""

    @abstractmethod
    def constants(self) -> Mapping[str, Const]:
        """The constant tensors that hardware must store, by the name of their field: of an operator with two, the factors come first."""

    loadable: ClassVar[bool] = True
    """Whether hardware may get other constants while it runs (``qfx.ir.passes.loadable``)."""

    @abstractmethod
    def accumulator(self, x: Info) -> FixedType | None:
        """The type that holds every partial sum, whatever the order of its terms, for an input ``x``; it has the frac_bits of the result (the finest,
        where its channels have grids of their own: then it holds the raws of each). None where nothing is accumulated."""

    @abstractmethod
    def macs(self, out: Info) -> int:
        """Multiply-accumulates by constants per sample, for the result ``out``."""

    def columns(self, out: Info) -> int:
        """Numbers per sample that the interpreter lays out besides operands and result."""
        return 0

    def inner(self) -> Graph | None:
        """The graph that it carries out again and again, if it is made of one."""
        return None

    # Its form in an ONNX file

    forms: ClassVar[tuple[str, ...]]
    """The ONNX operators that ``write`` makes and ``read`` takes: ``Conv``, or ``ai.qfx.Scale``; what follows a ``_`` is left out."""

    functions: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """The functions of ``ai.qfx`` that it brings, as ONNX text by name: part of the version of the operator set (``qfx.export.opset``)."""

    @abstractmethod
    def write(self, writer: Writer, node: Node) -> Value:
        """Write the node; what is known of the tensor that holds its result."""

    def operands(self, inputs: Sequence[str]) -> Sequence[str]:
        """Those of the inputs of what ``write`` made that are the values that it reads; others are initializers and helpers."""
        return inputs if self.reads is None else inputs[: self.reads]

    @classmethod
    @abstractmethod
    def read(cls, proto: OnnxNode) -> Operator:
        """The operator that was written as ``proto``, one of ``forms``."""

    # Its form in hardware

    pointwise: ClassVar[bool]
    """Whether it is a few steps on each number, which ride in the epilogue of the process that gives the number."""

    any_order: ClassVar[bool]
    """Whether it takes the numbers of a value in whatever order they travel; else they come pixel by pixel, channels innermost."""

    fuses: ClassVar[bool]
    """Whether its process has an epilogue, which the pointwise operators behind it may join."""

    renames: ClassVar[bool]
    """Whether it only says how the elements of a value are addressed, so that nothing is built."""

    def travelling(self, out: Info) -> int:
        """How many numbers of its result ``out`` travel as the channels of a pixel."""
        return out.shape[0]

    def epilogue(self, steps: Steps, source: Info, out: Info, site: int) -> None:
        """Of a pointwise operator: append its steps. ``source``: of what it reads; ``site``: the number that simulations know a cast by."""
        raise TypeError(f"{type(self).__name__} is not pointwise")

    @abstractmethod
    def build(self, builder: Builder, node: Node, chain: tuple[Node, ...]) -> None:
        """Take its operands from the builder, add its processes, and give its result, with the pointwise nodes of ``chain`` in the epilogue."""

    @abstractmethod
    def parallel(self, graph: Graph, node: Node) -> tuple[int, int]:
        """What may be worked on in parallel as the node stands in ``graph``: PE divides the first number, SIMD the second."""

    spreads: ClassVar[bool] = False
    """Whether it puts zeros between numbers, which a convolution that reads it may do without: that gives its numbers in an order of its own, and
    takes none beside them."""

    takes_beside: ClassVar[bool] = False
    """Whether its process can take the numbers of a second stream, so that what joins its value with another one number by number may be part of its
    epilogue."""

    def joins(self, sources: Infos, out: Info) -> tuple[Infos, Callable[[Steps], None]] | None:
        """Of an operator on two values, number by number, and nothing else: on which grids it takes them, and what appends the one step that joins
        them with those that follow. None: it is another."""
        return None

    def sees(self, x: Info) -> Windows | None:
        """The windows that it lays over the value ``x`` in hardware, by a window unit in front of its process; of single pixels, which ones it takes.
        None: it lays none."""
        return None

    def looks_at(self, grids: npt.NDArray[np.int64]) -> int | None:
        """How many of the last bits of a number on ``grids`` (one, or one for each channel) the result depends on alone, so that the number may wrap
        there; None: on all of them."""
        return None

    def unroll(self, scalars: Scalars, node: Node, inputs: tuple[Numbers, ...], infos: Infos) -> Numbers:
        """Its form in fully unrolled designs: the numbers of its result, made of those of what it reads; shapes without the batch. An operator that
        does not define it has none: UnsupportedError."""
        raise UnsupportedError(f"{type(self).__name__} has no unrolled form", where=node.name, remedy="use --style streaming")

    # For tests

    @classmethod
    @abstractmethod
    def draw(cls, drawing: Drawing) -> tuple[Self, tuple[str, ...]]:
        """A random one that mostly fits, and the nodes that it reads. QfxError where it does not fit: another one is drawn."""


def travelling_channels(graph: Graph, node: Node) -> int:
    """A divisor of the channels of the frame that ``node`` reads, whether or not the renames in front of it changed how it travels. Pointwise
    operators leave it as it comes."""
    channels = graph.infos[node.name].shape[0]
    while node.op.reads != 0:
        source = graph.node(node.inputs[0])
        channels = gcd(channels, graph.infos[source.name].shape[0], source.op.travelling(graph.infos[source.name]))
        if not source.op.renames and not source.op.pointwise:
            break
        node = source
    return channels


class Plain(Operator, abstract=True):
    """Operators without constants that accumulate nothing."""

    __slots__ = ()

    def constants(self) -> Mapping[str, Const]:
        return {}

    def accumulator(self, x: Info) -> FixedType | None:
        return None

    def macs(self, out: Info) -> int:
        return 0


class Pointwise(Operator, abstract=True):
    """Operators on each number by itself: they define ``epilogue``."""

    __slots__ = ()

    reads: ClassVar[int | None] = 1
    pointwise: ClassVar[bool] = True
    any_order: ClassVar[bool] = True
    fuses: ClassVar[bool] = True
    renames: ClassVar[bool] = False

    @abstractmethod
    def epilogue(self, steps: Steps, source: Info, out: Info, site: int) -> None:
        """Append its steps."""

    def build(self, builder: Builder, node: Node, chain: tuple[Node, ...]) -> None:
        builder.pointwise(node, chain)

    def parallel(self, graph: Graph, node: Node) -> tuple[int, int]:
        return travelling_channels(graph, node), 1


class Mover(Plain, abstract=True):
    """Operators that move numbers and compute nothing."""

    __slots__ = ()

    def unroll(self, scalars: Scalars, node: Node, inputs: tuple[Numbers, ...], infos: Infos) -> Numbers:
        """Their places moved; what comes from nowhere is 0."""
        (x,) = inputs
        places = Interval(0, x.size, 0)
        info = Info(x.shape, places.type(), places)
        moved = self.evaluate((np.arange(1, x.size + 1).reshape(1, *x.shape),), (info,), self.infer(node.name, (info,)))
        numbers: Numbers = np.empty(x.size + 1, dtype=object)
        numbers[0], numbers[1:] = scalars.zero, x.reshape(-1)
        result: Numbers = numbers[moved[0]]
        return result

    reads: ClassVar[int | None] = 1
    pointwise: ClassVar[bool] = False
    renames: ClassVar[bool] = False
    fuses: ClassVar[bool] = False
