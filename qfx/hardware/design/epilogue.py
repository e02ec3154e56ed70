"""Pointwise operators as steps of an epilogue, with every shift and constant worked out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from qfx.errors import ProjectError
from qfx.fixed.type import MAX_WIDTH, FixedType
from qfx.hardware.design import arithmetic
from qfx.hardware.design.design import Epilogue, Operand, Step, Table, Tag
from qfx.hardware.design.names import Names
from qfx.hardware.design.streams import Slot
from qfx.ir.graph import Graph, Info, Node
from qfx.ir.values import Const, LoadableConst


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
        grid = self._grid(values)
        if (grid == grid[:, :1]).all() and not (grid == grid[0, 0]).all():
            inner, entries = _line(grid[:, 0])
            if entries.size < grid.size:
                return Table(name, tuple(entries.tolist()), "pixel", None, inner, self.pixels)
        return self._indexed(name, grid)

    def _grid(self, values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """(pixels, channels), as they travel."""
        return np.broadcast_to(values, self.shape).reshape(-1)[self.order].reshape(self.pixels, self.channels)

    @staticmethod
    def _indexed(name: str, grid: npt.NDArray[np.int64]) -> Table:
        if (grid == grid[0, 0]).all():
            return Table(name, (int(grid[0, 0]),), "scalar")
        if (grid == grid[0]).all():
            return Table(name, tuple(grid[0].tolist()), "channel")
        return Table(name, tuple(grid.reshape(-1).tolist()), "element")

    def loaded(self, name: str, values: npt.NDArray[np.int64], type_: FixedType) -> Table:
        """As ``table``, but of values that may become any of ``type_``: its index follows from the shapes alone."""
        places = self._indexed(name, self._grid(np.arange(values.size, dtype=np.int64).reshape(values.shape)))
        flat = values.reshape(-1)
        if places.index == "scalar":  # one entry: one channel
            return Table(name, (int(flat[0]),) * self.channels, "channel", type_)
        return Table(name, tuple(flat[list(places.values)].tolist()), places.index, type_)


def _line(column: npt.NDArray[np.int64]) -> tuple[int, npt.NDArray[np.int64]]:
    """How many pixels in a row have the same number, and the fewest numbers, one for each such row, that come again and again."""
    inner = int(np.gcd.reduce([column.size, *(np.flatnonzero(np.diff(column)) + 1).tolist()]))
    entries = column[::inner]
    size = next(n for n in range(1, entries.size + 1) if not entries.size % n and (entries.reshape(-1, n) == entries[:n]).all())
    return inner, entries[:size]


def with_filled_rows(epilogue: Epilogue, row: int, parallel: int) -> Epilogue:
    """The epilogue of channels in rows of ``row``, each in words of ``parallel`` of its own: what fills up the last word of a row has the entries of
    the row's last channel, so that no table holds other numbers than before."""
    missing = -row % parallel
    if not missing:
        return epilogue

    def filled(table: Table) -> Table:
        if table.index not in ("channel", "element"):
            return table
        values = np.pad(np.array(table.values).reshape(-1, row), ((0, 0), (0, missing)), mode="edge")
        return replace(table, values=tuple(values.reshape(-1).tolist()))

    steps = tuple(
        replace(step, operands=tuple(replace(operand, table=filled(operand.table)) for operand in step.operands)) for step in epilogue.steps
    )
    return replace(epilogue, steps=steps, channels=epilogue.channels // row * (row + missing))


Grids = npt.NDArray[np.int64]
"""The fractional bits of a number on its way: one grid (shape ()), or one for each channel, shaped to broadcast against the frame's shape."""


class Steps:
    """Collects the steps of one epilogue. ``stem``, the present operator's name, names its tables.

    ``type`` is the type of the number so far; ``grids`` are its fractional bits, those of ``type`` unless its channels have grids of their own.
    """

    stem: str
    type: FixedType

    def __init__(self, names: Names, stem: str, inputs: tuple[FixedType, ...], frame: Frame, grids: Grids | None = None) -> None:
        self._names, self.stem, self._inputs, self._frame = names, stem, inputs, frame
        self._steps: list[Step] = []
        self._beside: FixedType | None = None
        self._joining = -1
        self.type = inputs[0]
        self.grids = np.array(self.type.frac_bits) if grids is None else simple(grids)

    def done(self) -> Epilogue:
        return Epilogue(self._inputs, tuple(self._steps), self.type, self._frame.channels, beside=self._beside)

    def join(self, beside: FixedType, place: int) -> None:
        """Let the next step take a number of the second stream, of the type ``beside``, as its first or its second one (``place``: 0, 1)."""
        self._beside, self._joining = beside, place

    def add(self, function: str, out: FixedType, arguments: tuple[int | FixedType | Tag | Slot, ...], operands: tuple[Operand, ...] = ()) -> None:
        for part in (out, *(a.type if isinstance(a, Tag) else a for a in arguments)):
            if isinstance(part, FixedType) and part.width > MAX_WIDTH:
                raise ProjectError(f"needs {part.width} bits", where=self.stem, remedy=f"use less distant binary points: at most {MAX_WIDTH} bits")
        self._steps.append(Step(function, out, arguments, operands, self._joining))
        self._joining = -1
        self.type, self.grids = out, np.array(out.frac_bits)

    def operand(self, suffix: str, const: Const) -> Operand:
        """A constant of shape (), of one entry per channel (axis 0 of the value), or with an axis for each of the value's."""
        raw = self.channels(const.raw)
        if isinstance(const, LoadableConst):
            return Operand(self._frame.loaded(self._names.new(self.stem, suffix), raw, const.type), const.type)
        interval = const.interval
        return Operand(self.table(suffix, raw), FixedType(interval.width, interval.width - interval.hull.frac_bits, interval.signed))

    def times(self, out: FixedType, suffix: str, const: Const) -> None:
        """The product with a constant as in ``operand``, modulo 2**width of ``out``: with its digits where those are few."""
        slots, factor = self.factor(suffix, const)
        self.add("mul_digits" if slots else "mul", out, slots or (0,), (factor,))

    def factor(self, suffix: str, const: Const) -> tuple[tuple[Slot, ...], Operand]:
        """The digits of a constant as in ``operand`` where they take the place of a multiplier, and their codes; else none, and the constant."""
        form = None if isinstance(const, LoadableConst) else arithmetic.factor_form(const.raw)
        if form is None:
            return (), self.operand(suffix, const)
        codes = self.table(suffix, self.channels(form.codes(const.raw)))
        return form.slots, Operand(codes, FixedType(form.width, form.width, signed=False))

    def rom(self, suffix: str, values: npt.NDArray[np.int64]) -> Operand:
        """A table of which the number on its way says the entry."""
        return Operand(Table(self._names.new(self.stem, suffix), tuple(values.tolist()), "number"))

    def channels(self, values: Grids) -> Grids:
        """Values of shape (), one for each channel, or with an axis for each of the frame's, shaped to broadcast against the frame's shape."""
        return values.reshape(-1, *(1,) * (len(self._frame.shape) - 1)) if values.ndim == 1 else values

    def table(self, suffix: str, values: npt.NDArray[np.int64]) -> Table:
        """A table of ``values``, which broadcast to the frame's shape, called after the operator and ``suffix``."""
        return self._frame.table(self._names.new(self.stem, suffix), values)

    def fit(self, out: FixedType) -> None:
        """Bring the number to the type ``out``, exactly."""
        shift = upward(out, self.type.frac_bits)
        if shift or (out.width, out.signed) != (self.type.width, self.type.signed):
            self.add("align", out, (shift,))

    def move(self, grids: Grids, out: FixedType) -> None:
        """Bring each channel to its grid in ``grids``, exactly, in a number of ``out``'s word."""
        shift = simple(grids) - self.grids
        if not shift.any() and (out.width, out.signed) == (self.type.width, self.type.signed):
            return
        if shift.min() == shift.max() >= 0:
            self.add("align", out, (int(shift.min()),))
        else:
            self.add("shl_by" if shift.min() >= 0 else "move_by", out, (), (Operand(self.table("up", shift)),))
        self.grids = simple(grids)

    def sum(self, function: str, out: Info, infos: tuple[Info, ...]) -> None:
        """``function`` ("add" or "sub") of the two inputs, of which ``infos`` tells."""
        shifts = [simple(out.grids - info.grids) for info in infos]
        if all(shift.ndim == 0 and shift >= 0 for shift in shifts):
            self.add(function, out.word, tuple(int(shift) for shift in shifts))
        else:
            tables = zip(("up_a", "up_b"), shifts, strict=True)
            self.add(f"{function}_by", out.word, (), tuple(Operand(self.table(suffix, shift)) for suffix, shift in tables))
        self.grids = simple(out.grids)

    def product(self, out: Info, infos: tuple[Info, ...]) -> None:
        """The product of the two inputs, which lie on grids that add up to those of ``out``, or to a coarser one."""
        shift = simple(out.grids - infos[0].grids - infos[1].grids)
        self.add("mul", out.word, (int(shift),))
        self.grids = simple(out.grids)

    def raise_channels(self, up: npt.NDArray[np.int64], out: FixedType) -> None:
        """Move each channel ``up[channel]`` bits up, onto the grid of ``out``, which holds the result."""
        self.add("shl_by", out, (), (Operand(self.table("up", self.channels(up))),))

    def bias(self, bias: Const | None, out: Info) -> None:
        """Add the bias, if there is one: the number of ``out``."""
        if not out.per_channel and not self.grids.ndim and (bias is None or not bias.grids.ndim):
            to = out.type
            if bias is None:
                self.fit(to)
            else:
                self.add("add", to, (upward(to, self.type.frac_bits), upward(to, bias.grid)), (self.operand("bias", bias),))
            return
        # Both on the grids of the result, the constants beforehand.
        self.move(out.grids, out.word)
        if bias is not None:
            aligned = Const(self.channels(bias.raw) << (self.grids - self.channels(bias.grids)), 0)
            self.add("add", out.word, (0, 0), (self.operand("bias", aligned),))
            self.grids = simple(out.grids)

    def read_on(self, grids: Grids) -> None:
        """The same raws on other grids: the binary point moves, and nothing is computed."""
        self.type = FixedType(self.type.width, self.type.width - int(grids.max()), self.type.signed)
        self.grids = simple(grids)

    def lie_on(self, grids: Grids) -> None:
        """Say on which grids the number lies after the last step."""
        self.grids = simple(grids)

    def take_op(self, node: Node, source: Info, out: Info, site: int) -> None:
        """Append the pointwise operator of ``node``; ``source``: of what it reads; ``site``: the number that simulations know a cast by."""
        self.stem = node.name
        node.op.epilogue(self, source, out, site)
        if out.per_channel:
            self.type, self.grids = out.word, simple(out.grids)


@dataclass(frozen=True, slots=True)
class Beside:
    """What a chain of fused nodes joins: the node ``join`` of it takes the value of another process as well, whose numbers come on a second stream as
    ``type``. ``place``: of that value among the node's inputs."""

    join: str
    place: int
    type: FixedType


def append_ops(steps: Steps, graph: Graph, nodes: tuple[Node, ...], sites: Mapping[str, int], beside: Beside | None = None) -> None:
    """Append the fused nodes, each of which reads the one before. The site of a cast is its node's place in the whole model."""
    for node in nodes:
        if beside is not None and node.name == beside.join:
            _append_join(steps, graph, node, beside)
        else:
            steps.take_op(node, graph.infos[node.inputs[0]], graph.infos[node.name], sites[node.name])


def _append_join(steps: Steps, graph: Graph, node: Node, beside: Beside) -> None:
    joined = node.op.joins(tuple(graph.infos[name] for name in node.inputs), graph.infos[node.name])
    assert joined is not None, "lowering fuses no other operator on two values"
    wanted, append = joined
    steps.stem = node.name
    own = wanted[1 - beside.place]
    steps.move(own.grids, own.word)
    steps.join(beside.type, beside.place)
    append(steps)


def simple(grids: Grids) -> Grids:
    """One grid where all channels have the same."""
    return np.array(grids.flat[0]) if (grids == grids.flat[0]).all() else grids


def upward(to: FixedType, frac_bits: int) -> int:
    """How far a number with ``frac_bits`` moves up to lie on the grid of ``to``."""
    shift = to.frac_bits - frac_bits
    if shift < 0:
        raise ProjectError(f"a result on {to} cannot hold {frac_bits} fractional bits", remedy="this is a defect in qfx; please report it")
    return shift


def check_abreast(where: str, epilogue: Epilogue, pixels: int, behind: str) -> None:
    """Raises ProjectError, naming the node ``where``, unless the epilogue, behind its ``behind``, takes so many ``pixels`` at once."""
    if pixels > 1 and epilogue.by_pixel:
        what = f"pixels={pixels}: it has constants for each pixel behind its {behind}, of which one is read in a turn"
        raise ProjectError(what, where=where, remedy="use pixels=1")
