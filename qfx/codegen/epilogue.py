"""Pointwise operators as steps of an epilogue, with every shift and constant worked out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qfx.codegen.design import Epilogue, Operand, Step, Table, Tag
from qfx.codegen.names import Names
from qfx.errors import ProjectError
from qfx.fixed.arith import Interval
from qfx.fixed.type import MAX_WIDTH, FixedType
from qfx.ir.graph import Graph, Info, Node
from qfx.ir.ops import Affine, Cast, Clip, Const, LeakyRelu, Op, Relu, accumulator
from qfx.ir.values import ArrayType, LoadableConst

POINTWISE = (Affine, Cast, Clip, LeakyRelu, Relu)


@dataclass(frozen=True, eq=False)
class Frame:
    """The order in which the elements of a value of ``shape`` travel: number i of the stream is element ``order[i]`` (row-major).

    ``pixels`` * ``channels`` numbers make a frame; the loops of a process run over both.
    """

    shape: tuple[int, ...]
    pixels: int
    channels: int
    order: npt.NDArray[np.int64]

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> Frame:
        """The canonical order: pixel by pixel, all channels of each."""
        size = int(np.prod(shape, dtype=np.int64))
        order = np.moveaxis(np.arange(size).reshape(shape), 0, -1).reshape(-1)
        return cls(shape, size // shape[0], shape[0], order)

    @property
    def canonical(self) -> bool:
        return np.array_equal(self.order, Frame.of(self.shape).order)

    def table(self, name: str, values: npt.NDArray[np.int64]) -> Table:
        """``values``, broadcast to the shape, in stream order: the smallest table that tells them."""
        grid = np.broadcast_to(values, self.shape).reshape(-1)[self.order].reshape(self.pixels, self.channels)
        if (grid == grid[0, 0]).all():
            return Table(name, (int(grid[0, 0]),), "scalar")
        if (grid == grid[0]).all():
            return Table(name, tuple(grid[0].tolist()), "channel")
        return Table(name, tuple(grid.reshape(-1).tolist()), "element")

    def loaded(self, name: str, values: npt.NDArray[np.int64], type_: FixedType) -> Table:
        """As ``table``, but of values that may become any of ``type_``: its index follows from the shapes alone."""
        places = self.table(name, np.arange(values.size, dtype=np.int64).reshape(values.shape))
        flat = values.reshape(-1)
        if places.index == "scalar":  # one entry: one channel
            return Table(name, (int(flat[0]),) * self.channels, "channel", type_)
        return Table(name, tuple(flat[list(places.values)].tolist()), places.index, type_)


class Steps:
    """Collects the steps of one epilogue. ``stem``, the present operator's name, names its tables."""

    def __init__(self, names: Names, stem: str, inputs: tuple[FixedType, ...], frame: Frame) -> None:
        self._names, self.stem, self._inputs, self._frame = names, stem, inputs, frame
        self._steps: list[Step] = []
        self.type = inputs[0]

    def done(self) -> Epilogue:
        return Epilogue(self._inputs, tuple(self._steps), self.type, self._frame.channels)

    def add(self, function: str, out: FixedType, arguments: tuple[int | FixedType | Tag, ...], operands: tuple[Operand, ...] = ()) -> None:
        for part in (out, *(a.type if isinstance(a, Tag) else a for a in arguments)):
            if isinstance(part, FixedType) and part.width > MAX_WIDTH:
                raise ProjectError(f"needs {part.width} bits", where=self.stem, remedy=f"use less distant binary points: at most {MAX_WIDTH} bits")
        self._steps.append(Step(function, out, arguments, operands))
        self.type = out

    def operand(self, suffix: str, const: Const) -> Operand:
        """A constant of shape () or one entry per channel (axis 0 of the value)."""
        raw = const.raw.reshape(-1, *(1,) * (len(self._frame.shape) - 1)) if const.raw.ndim else const.raw
        if isinstance(const, LoadableConst):
            return Operand(self._frame.loaded(self._names.new(self.stem, suffix), raw, const.type), const.interval.type())
        return Operand(self._table(suffix, raw), const.interval.type())

    def _table(self, suffix: str, values: npt.NDArray[np.int64]) -> Table:
        return self._frame.table(self._names.new(self.stem, suffix), values)

    def fit(self, out: FixedType) -> None:
        """Bring the number to the type ``out``, exactly."""
        shift = _shift(out, self.type.frac_bits)
        if shift or (out.width, out.signed) != (self.type.width, self.type.signed):
            self.add("align", out, (shift,))

    def raise_channels(self, up: npt.NDArray[np.int64], out: FixedType) -> None:
        """Move each channel ``up[channel]`` bits up, onto the grid of ``out``, which holds the result."""
        self.add("shl_by", out, (), (Operand(self._table("up", up.reshape(-1, *(1,) * (len(self._frame.shape) - 1)))),))

    def bias(self, bias: Const | None, out: FixedType) -> None:
        if bias is None:
            self.fit(out)
        else:
            self.add("add", out, (_shift(out, self.type.frac_bits), _shift(out, bias.frac_bits)), (self.operand("bias", bias),))

    def op(self, op: Op, source: Info, out: Info, site: int) -> None:
        """Append a pointwise operator; ``source`` is the Info of what it reads, ``site`` the number that simulations know a cast by."""
        to = out.type
        if isinstance(op, Relu):
            self.add("relu", to, (_shift(to, self.type.frac_bits),))
        elif isinstance(op, LeakyRelu):
            shift = _shift(to, self.type.frac_bits)
            self.add("leaky_relu", to, (shift, shift + op.log2_slope))
        elif isinstance(op, Clip):
            self._clip(op, to, _shift(to, self.type.frac_bits))
        elif isinstance(op, Affine):
            wide = accumulator(op, source)
            product = FixedType(wide.width, wide.width - self.type.frac_bits - op.scale.frac_bits, wide.signed)
            self.add("mul", product, (0,), (self.operand("scale", op.scale),))
            self.bias(op.shift, to)
        elif isinstance(op, Cast):
            self._cast(op.cast, site)
        else:
            raise TypeError(f"{type(op).__name__} is not pointwise")

    def _clip(self, op: Clip, to: FixedType, shift: int) -> None:
        grid = to.frac_bits
        low, high = op.low.interval.at(grid), op.high.interval.at(grid)
        x = Interval.of(FixedType(self.type.width, self.type.int_bits, self.type.signed)).at(grid)
        bounds = tuple(Operand(Table("", (bound.lo,), "scalar")) for bound in (low, high))
        self.add("clip", to, ((x | low | high).type(), shift), bounds)

    def _cast(self, cast: ArrayType, site: int) -> None:
        source = self.type
        if len(set(cast.int_bits)) == 1:
            self.add("cast", cast.element, (_tag(source), Tag(cast.element), site))
            return
        # F = width - int_bits of each entry; the least of them belongs to the element's int_bits, the greatest to the hull.
        up = cast.frac_bits - cast.element.frac_bits
        fine = cast.hull.frac_bits - cast.frac_bits
        room = int(up.max())
        moved = FixedType(min(source.width + room, MAX_WIDTH), source.int_bits + room, source.signed)
        if source.width + room > MAX_WIDTH:
            raise ProjectError(f"needs {source.width + room} bits", where=self.stem, remedy="use binary points that lie closer together")
        operands = (Operand(self._table("up", up)), Operand(self._table("fine", fine)))
        self.add("cast_moved", cast.hull, (_tag(moved), Tag(cast.element), site), operands)


def append_ops(steps: Steps, graph: Graph, nodes: tuple[Node, ...]) -> None:
    """Append the fused pointwise nodes, each of which reads the one before. The site of a cast is its node's place in the graph."""
    sites = {node.name: site for site, node in enumerate(graph.nodes)}
    for node in nodes:
        steps.stem = node.name
        steps.op(node.op, graph.infos[node.inputs[0]], graph.infos[node.name], sites[node.name])


def _tag(source: FixedType) -> Tag:
    return Tag(FixedType(source.width, source.int_bits, source.signed))


def _shift(to: FixedType, frac_bits: int) -> int:
    shift = to.frac_bits - frac_bits
    if shift < 0:
        raise ProjectError(f"a result on {to} cannot hold {frac_bits} fractional bits", remedy="this is a defect in qfx; please report it")
    return shift
