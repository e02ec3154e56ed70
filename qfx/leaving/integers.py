"""Pieces of ONNX files that compute with integers alone: raws moved between grids, rounded, wrapped, multiplied."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from qfx.errors import UnsupportedError
from qfx.fixed.arith import Interval
from qfx.fixed.arraytype import ArrayType
from qfx.fixed.type import OMode, QMode
from qfx.ir import sums
from qfx.ir.graph import Graph, Node
from qfx.ir.values import Const, Info, RawArray, Shape
from qfx.ir.windows import Windows
from qfx.leaving.rounding import overflows

_ONNX = {8: onnx.TensorProto.UINT8, 32: onnx.TensorProto.INT32, 64: onnx.TensorProto.INT64}
_UNSIGNED: dict[int, tuple[int, type[np.integer[Any]]]] = {32: (onnx.TensorProto.UINT32, np.uint32), 64: (onnx.TensorProto.UINT64, np.uint64)}
_MIDDLE = 128
"""The zero point of 8-bit words with a sign. All factors are unsigned: where a processor multiplies unsigned words by signed ones in pairs (x86
without VNNI), the sums of two products saturate at 16 bits."""

_HALF, _LESS, _ONES = "half", "half - 1", "step - 1"
_ADDED: dict[QMode, tuple[str | None, int | str, int]] = {
    QMode.TRN: (None, 0, 0),
    QMode.RND: (_HALF, 0, 0),
    QMode.RND_MIN_INF: (_LESS, 0, 0),
    QMode.RND_CONV: (_LESS, 0, 1),
    QMode.TRN_ZERO: (None, _ONES, 0),
    QMode.RND_INF: (_HALF, -1, 0),
    QMode.RND_ZERO: (_LESS, 1, 0),
}
"""What is added before the places fall away: always, to negative numbers, and times the last bit of what stays."""


class TooNarrowError(Exception):
    """A number needs more bits than the words that were chosen."""


class Integers:
    """Collects nodes whose tensors are raws on the grids of their Infos, in words of 32 or 64 bits throughout."""

    graph: Graph
    bits: int

    def __init__(self, graph: Graph, bits: int) -> None:
        self.graph, self.bits = graph, bits
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._dtype = np.int32 if bits == 32 else np.int64
        self._number = itertools.count()
        self._taken: set[str] = set()

    # Words

    def need(self, node: Node, lo: int, hi: int) -> None:
        """Raise TooNarrowError unless the words hold both; UnsupportedError if none do."""
        if not -(1 << (self.bits - 1)) <= lo <= hi < 1 << (self.bits - 1):
            if self.bits == 64:
                raise UnsupportedError("needs integers of more than 64 bits", where=node.name, remedy="cast its inputs to narrower types")
            raise TooNarrowError

    def stored(self, name: str) -> Interval:
        """What a raw of any channel can be."""
        return self.graph.infos[name].stored.hull if not self.graph.infos[name].per_channel else _raws(self.graph.infos[name])

    # Nodes

    def op(self, node: Node, op_type: str, inputs: Sequence[str], role: str = "", **attributes: Any) -> str:
        """A node; its tensor bears the node's name, or with a role one of its own."""
        name = self._free(f"{node.name}#{role}") if role else node.name
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], name=name, **dict(sorted(attributes.items()))))
        return name

    def _free(self, name: str) -> str:
        """The name, or where it is taken the same with a number."""
        free = name if name not in self._taken else next(made for i in itertools.count(2) if (made := f"{name}{i}") not in self._taken)
        self._taken.add(free)
        return free

    def held(self, node: Node, role: str, values: npt.ArrayLike, dtype: type[np.integer[Any]] | None = None) -> str:
        """An initializer, in the words of the file unless a dtype says otherwise."""
        array = np.asarray(values)
        if dtype is None and array.size:
            self.need(node, int(array.min()), int(array.max()))
        name = self._free(f"{node.name}#{role}")
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array, dtype or self._dtype).reshape(array.shape), name))
        return name

    def ints(self, node: Node, role: str, values: Sequence[int]) -> str:
        """Sizes, places and axes, which ONNX wants as int64."""
        return self.held(node, role, np.array(values, dtype=np.int64), np.int64)

    def as_word(self, node: Node, x: str, kind: int | None = None, role: str = "") -> str:
        """The tensor in the words of the file, or of a kind of TensorProto's."""
        return self.op(node, "Cast", [x], role, to=kind or _ONNX[self.bits])

    # Grids

    def moved(self, node: Node, x: str, by: RawArray, role: str = "moved") -> str:
        """``x * 2**by``, where zeros alone fall away; ``by`` broadcasts against (batch, *shape)."""
        up, down = np.maximum(by, 0), np.maximum(-by, 0)
        if up.any():
            x = self.op(node, "Mul", [x, self.held(node, "up", self.power(node, up))], role)
        if down.any():
            x = self.op(node, "Div", [x, self.held(node, "down", self.power(node, down))], role)
        return x

    def power(self, node: Node, exponents: RawArray) -> RawArray:
        """2**exponents."""
        if exponents.max() >= self.bits - 1:
            self.need(node, 0, 1 << int(exponents.max()))
        return np.left_shift(np.int64(1), exponents)

    def aligned(self, node: Node, position: int, to: Info) -> str:
        """The raws that the node reads at ``position`` on the grids of ``to``."""
        name = node.inputs[position]
        return self.moved(node, name, np.asarray(to.grids - self.graph.infos[name].grids), f"aligned{position}")

    def beside(self, const: Const, rank: int) -> tuple[RawArray, RawArray]:
        """The raws and grids of a constant, shaped to broadcast against a value of ``rank`` axes."""
        return sums.per_channel(const.raw, rank), sums.per_channel(const.grids if const.raw.ndim != 1 else const.grids.reshape(-1), rank)

    # Casts

    def cast(self, node: Node, cast: ArrayType) -> None:
        """Rounding, then overflow."""
        x, out = self.graph.infos[node.inputs[0]], self.graph.infos[node.name]
        if cast.element.o is OMode.WRAP_SM or cast.element.n:
            what = f"the cast to {cast.element} has no form in integer operators"
            if overflows(x.interval, cast, out.shape):
                raise UnsupportedError(what, where=node.name, remedy="train with AP_SAT or AP_WRAP without saturated bits")
        points = cast.frac_bits
        name = node.inputs[0]
        falls = np.asarray(x.grids - points)
        held = self.stored(name)
        name = self.moved(node, name, np.maximum(-falls, 0), "raised")
        up = 1 << max(int(-falls.min()), 0)
        held = Interval(min(held.lo * up, held.lo), max(held.hi * up, held.hi), 0)
        self.need(node, held.lo, held.hi)
        name = self._rounded(node, name, np.maximum(falls, 0), cast.element.q, held)
        if overflows(x.interval, cast, out.shape):
            name = self._overflown(node, name, cast)
        name = self.moved(node, name, out.type.frac_bits - points, "placed")
        self.op(node, "Identity", [name])

    def _rounded(self, node: Node, x: str, falls: RawArray, mode: QMode, held: Interval) -> str:
        if not falls.any():
            return x
        deepest = int(falls.max())
        if deepest >= self.bits - 2:
            self.need(node, 0, 1 << (deepest + 1))
        falling = falls > 0
        step = np.where(falling, self.power(node, falls), 0)
        sizes = {None: 0 * step, _HALF: step // 2, _LESS: np.where(falling, step // 2 - 1, 0), _ONES: np.where(falling, step - 1, 0)}
        always, negative, odd = _ADDED[mode]
        total = Interval(held.lo, held.hi + (1 << deepest), 0)
        added = x
        if negative:
            below = self.as_word(node, self.op(node, "Less", [x, self.held(node, "zero", 0)], "negative"), role="below")
            more = sizes[_ONES] if negative == _ONES else np.where(falling, int(negative), 0)
            added = self.op(node, "Add", [added, self.op(node, "Mul", [below, self.held(node, "more", more)], "for_below")], "with_below")
            total = Interval(total.lo - 1, total.hi, 0)
        if odd:
            kept = self.op(node, "BitwiseAnd", [self._floor(node, x, falls, held), self.held(node, "one", 1)], "odd")
            added = self.op(
                node, "Add", [added, self.op(node, "Mul", [kept, self.held(node, "falls", falling.astype(np.int64))], "even")], "with_even"
            )
        if sizes[always].any():
            added = self.op(node, "Add", [added, self.held(node, "ties", sizes[always])], "with_ties")
        return self._floor(node, added, falls, total)

    def _floor(self, node: Node, x: str, falls: RawArray, held: Interval) -> str:
        """``x >> falls``. ONNX shifts unsigned words: what may be negative is moved up by whole steps before, and down behind."""
        deepest = int(falls.max())
        steps = -(held.lo >> deepest) if held.lo < 0 else 0
        offset = steps << deepest
        self.need(node, min(held.lo, 0), held.hi + offset)
        if offset:
            x = self.op(node, "Add", [x, self.held(node, "offset", offset)], "above_0")
        kind, dtype = _UNSIGNED[self.bits]
        by = self.held(node, "places", falls, dtype)
        x = self.op(node, "BitShift", [self.as_word(node, x, kind, "unsigned"), by], "shifted", direction="RIGHT")
        x = self.as_word(node, x, role="signed")
        if offset:
            x = self.op(node, "Sub", [x, self.held(node, "back", offset >> falls)], "floor")
        return x

    def _overflown(self, node: Node, x: str, cast: ArrayType) -> str:
        element = cast.element
        low, high = self.held(node, "low", element.min_raw), self.held(node, "high", element.max_raw)
        if element.o is OMode.WRAP:
            # x - min_raw may leave the words, and the remainder does not: both are taken for themselves.
            size = self.held(node, "size", 1 << element.width)
            rest = self.op(node, "Mod", [x, size], "rest")
            if not element.signed:
                return rest
            above = self.as_word(node, self.op(node, "Greater", [rest, high], "is_above"), role="above")
            return self.op(node, "Sub", [rest, self.op(node, "Mul", [above, size], "turn")], "wrapped")
        clipped = self.op(node, "Clip", [x, low, high], "clipped")
        if element.o is not OMode.SAT_ZERO:
            return clipped
        inside = self.as_word(node, self.op(node, "Equal", [x, clipped], "is_inside"), role="inside")
        return self.op(node, "Mul", [x, inside], "kept")

    # Sums of products

    def weighted(self, node: Node, x: str, held: Interval, weight: RawArray, windows: Windows | None, groups: int) -> str:
        """The sums of products of raws that lie in ``held`` with the raws of a weight, as Conv and Linear have it; not yet on the result's grids."""
        mag = max(-held.lo, held.hi)
        largest = int(np.abs(weight.reshape(len(weight), -1)).sum(axis=1, dtype=np.float64).max()) * mag
        small = held.lo >= -128 and held.hi <= (127 if held.lo < 0 else 255) and weight.min() >= -128 and weight.max() <= 127
        if small and largest < 1 << 31:
            return self._in_bytes(node, x, held, weight, windows, groups)
        self.need(node, -largest, largest)
        if windows is None:
            return self.op(node, "MatMul", [x, self.held(node, "weight", weight.T)], "products")
        return self._gathered(node, x, weight, windows, groups)

    def _in_bytes(self, node: Node, x: str, held: Interval, weight: RawArray, windows: Windows | None, groups: int) -> str:
        middle = _MIDDLE if held.lo < 0 else 0
        if middle:
            x = self.op(node, "Add", [x, self.held(node, "middle", middle)], "above_0")
        x = self.as_word(node, x, onnx.TensorProto.UINT8, "bytes")
        factors = (weight if windows is not None else weight.T) + _MIDDLE
        read = [x, self.held(node, "weight", factors, np.uint8), self.held(node, "x_zero", middle, np.uint8)]
        read.append(self.held(node, "weight_zero", _MIDDLE, np.uint8))
        if windows is None:
            made = self.op(node, "MatMulInteger", read, "products")
        else:
            made = self.op(
                node, "ConvInteger", read, "products", dilations=list(windows.dilation), group=groups, kernel_shape=list(windows.kernel),
                pads=_onnx_pads(windows), strides=list(windows.stride),
            )  # fmt: skip
        return made if self.bits == 32 else self.as_word(node, made, role="words")

    def _gathered(self, node: Node, x: str, weight: RawArray, windows: Windows, groups: int) -> str:
        """A convolution as a matrix product over what each window meets."""
        outputs, per_group = weight.shape[:2]
        points = math.prod(windows.out)
        shape = self.ints(node, "by_group", [0, groups, per_group, points])
        met = [self.op(node, "Reshape", [tap, shape], "met") for tap in self.taps(node, x, windows, 0)]
        rows = self.op(node, "Concat", met, "windows", axis=2) if len(met) > 1 else met[0]
        factors = np.moveaxis(weight.reshape(groups, outputs // groups, per_group, -1), 3, 2).reshape(1, groups, outputs // groups, -1)
        made = self.op(node, "MatMul", [self.held(node, "weight", factors), rows], "sums")
        return self.op(node, "Reshape", [made, self.ints(node, "places", [0, outputs, *windows.out])], "products")

    def taps(self, node: Node, x: str, windows: Windows, fill: int) -> list[str]:
        """For each position of the kernel what it meets, (batch, channels, *windows)."""
        if any(map(any, windows.pads)):
            pads = self.ints(node, "pads", [0, 0, *(b for b, _ in windows.pads), 0, 0, *(a for _, a in windows.pads)])
            x = self.op(node, "Pad", [x, pads, self.held(node, "fill", fill)], "padded", mode="constant")
        axes = self.ints(node, "axes", range(2, 2 + len(windows.size)))
        steps = self.ints(node, "steps", windows.stride)
        made = []
        for tap in itertools.product(*map(range, windows.kernel)):
            starts = [place * dilation for place, dilation in zip(tap, windows.dilation, strict=True)]
            ends = [start + (count - 1) * step + 1 for start, count, step in zip(starts, windows.out, windows.stride, strict=True)]
            made.append(self.op(node, "Slice", [x, self.ints(node, "starts", starts), self.ints(node, "ends", ends), axes, steps], "tap"))
        return made

    def joined(self, node: Node, op_type: str, parts: Sequence[str]) -> str:
        """Two at a time: Add, Max or Min."""
        made = parts[0]
        for part in parts[1:]:
            made = self.op(node, op_type, [made, part], "joined") if op_type == "Add" else self.extreme(node, op_type, made, part, "joined")
        return made

    def extreme(self, node: Node, op_type: str, a: str, b: str, role: str = "") -> str:
        """Max or Min of two tensors. Those of ONNX Runtime (1.31) are wrong for int64 beyond 31 bits: max(2**31, 0) is 0 there."""
        if self.bits == 32:
            return self.op(node, op_type, [a, b], role)
        first = self.op(node, "Greater" if op_type == "Max" else "Less", [a, b], "is_first")
        return self.op(node, "Where", [first, a, b], role)


def _raws(info: Info) -> Interval:
    """The raws of every channel, each on its own grid."""
    channels = info.interval.spread(info.shape[0])
    return Interval(min(part.lo for part in channels), max(part.hi for part in channels), 0)


def _onnx_pads(windows: Windows) -> list[int]:
    return [before for before, _ in windows.pads] + [after for _, after in windows.pads]


def shape_of(shape: Shape) -> list[int]:
    """As ONNX's Reshape takes it: the batch stays."""
    return [0, *shape]
