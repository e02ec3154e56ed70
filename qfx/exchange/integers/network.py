"""The graph of integers of a fake-quantized network, as it grows node by node."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from qfx import operators as ops
from qfx.capture.traced import Traced, called
from qfx.errors import ExactnessError, UnsupportedError
from qfx.exchange.affine import Affine, AffineCast
from qfx.exchange.integers.rounding import doubtful, ends, function
from qfx.exchange.integers.values import UNIT, Joined, Move, Pair, Sums, Value, View
from qfx.fixed.type import FixedType, OMode, QMode
from qfx.integers.growing import Growing, Result
from qfx.integers.plane import plane
from qfx.integers.steps import Ints
from qfx.ir.graph import graph_name
from qfx.ir.values import ArrayType, Const

_WIDEST = 10
"""So many bits results have at most: their steps are compared pair by pair."""

_DECIDES = "accept what exact arithmetic gives, which differs by one at most there (nearest=True, --nearest), or use scales that are powers of two"


class Network(Growing):
    """``values``: what each node of the traced network is. ``constants``: of weights and biases by name, integers less zero points, and scales."""

    traced: Traced
    constants: dict[str, tuple[Ints, tuple[float, ...]]]

    def __init__(self, traced: Traced, constants: dict[str, tuple[Ints, tuple[float, ...]]], *, nearest: bool) -> None:
        super().__init__(nearest=nearest)
        self.traced, self.constants = traced, constants
        self.values: dict[fx.Node, Value] = {}
        self._cast: dict[tuple[fx.Node, Affine], View] = {}
        self.doubtful: dict[str, tuple[int, int]] = {}

    def where(self, node: fx.Node) -> str:
        return self.traced.place(node)

    def name(self, label: str) -> str:
        """A name for a node, not yet in use."""
        name = graph_name(label)
        while any(one == name or one.startswith(f"{name}.") for one in self.infos):
            name = f"{graph_name(label)}_{len(self.nodes)}"
        return name

    def refuse(self, node: fx.Node, what: str, remedy: str) -> UnsupportedError:
        return UnsupportedError(what, where=self.where(node), remedy=remedy)

    def view(self, node: fx.Node, source: fx.Node) -> View:
        """A value that must be quantized."""
        value = self.values[source]
        if not isinstance(value, View):
            what = f"{called(node)} reads what is not quantized: floats of several numbers depend on the order of additions"
            raise self.refuse(node, what, "quantize what it reads")
        return value

    def given(self, node: fx.Node, cast: AffineCast) -> None:
        """An input, of stored integers."""
        affine = cast.affine
        result = self.result_type(affine, cast.label)
        kind = replace(result, q=QMode.RND)
        held = self.emit(self.name(node.name), ops.Input(self.traced.shapes[node], ArrayType.of(kind)))
        if (affine.low, affine.high) != (kind.min_raw, kind.max_raw):  # what a user feeds is not held back by its type
            held = self.emit(f"{held}.whole", ops.Clip(*(Const(np.array(end), 0) for end in (affine.low, affine.high))), held)
        self.values[node] = self.stored(held, cast)

    def stored(self, held: str, cast: AffineCast) -> View:
        integers = torch.arange(cast.affine.low, cast.affine.high + 1, dtype=torch.float32)
        return View(held, cast.affine.low, cast.numbers(integers).numpy(), cast)

    def result_type(self, affine: Affine, where: str) -> FixedType:
        """The words of stored integers."""
        if affine.axis is not None:
            raise UnsupportedError("has a scale for each channel of an activation", where=where, remedy="give activations one")
        signed = affine.low < 0
        width = max(affine.high.bit_length(), (-affine.low - 1).bit_length() if signed else 1) + signed
        if width > _WIDEST:
            raise UnsupportedError(f"has words of {width} bits", where=where, remedy=f"use at most {_WIDEST}, or scales that are powers of two")
        return FixedType(width, width, signed, QMode.TRN, OMode.SAT)

    def centered(self, view: View) -> str:
        """The node that holds stored integers less their zero point."""
        assert view.cast is not None
        name = f"{view.node}.centered"
        zero = view.cast.affine.zeros[0]
        return name if name in self.infos else self.plus(name, view.node, -zero)

    # Casts

    def cast(self, node: fx.Node, source: fx.Node, cast: AffineCast) -> None:
        """What a quantization makes of a value."""
        value, affine = self.values[source], cast.affine
        if (source, affine) in self._cast:  # twice the same
            self.values[node] = self._cast[source, affine]
            return
        kind = self.result_type(affine, cast.label)
        result = Result(self.name(cast.label), cast.label, affine.zeros[0], (affine.low, affine.high), kind.signed, kind.width)
        if isinstance(value, View):
            held = self._tabled(result, value, cast)
        elif isinstance(value, Sums):
            held = self._of_sums(result, value, cast)
        elif isinstance(value, Pair):
            held = self._of_pair(result, value, cast)
        else:
            parts = [self._tabled(replace(result, name=f"{result.name}.part{place}"), part, cast) for place, part in enumerate(value.parts)]
            held = self.joined(result.name, parts, value.axis)
        self.values[node] = self._cast[source, affine] = self.stored(held, cast)

    def _tabled(self, result: Result, view: View, cast: AffineCast) -> str:
        with torch.no_grad():
            entries = cast.integers(torch.from_numpy(view.floats)).numpy().astype(np.int64)
        if (entries == view.integers).all():
            return view.node
        if (entries == np.clip(view.integers, *result.ends)).all() and self.infos[view.node].type.signed == result.signed:
            return self.finish(result, view.node)
        return self.emit(result.name, ops.Lookup(Const(entries, 0), view.low, 0), view.node)

    def _of_sums(self, result: Result, sums: Sums, cast: AffineCast) -> str:
        count = doubtful(cast.affine, sums)
        if count:
            total = sum(high - low + 1 for low, high in sums.ranges)
            if not self._nearest:
                what = f"float32 may decide {count} of {total} sums by its last bits, in an order of additions that nobody knows"
                raise ExactnessError(what, where=result.where, remedy=_DECIDES)
            self.doubtful[result.where] = count, total
        signs = np.array([-1 if factor < 0 else 1 for factor in sums.factors], dtype=np.int64)
        inner = f"{result.name}.at" if sums.moves else result.name
        held = sums.in_graph(f"{inner}.sum", signs)
        result = replace(result, ends=ends(cast, sums.clamp))
        functions = [function(cast.affine, abs(factor), offset) for factor, offset in zip(sums.factors, sums.offsets, strict=True)]
        ranges = [range_ if sign > 0 else (-range_[1], -range_[0]) for range_, sign in zip(sums.ranges, signs, strict=True)]
        one = len(set(zip(sums.factors, sums.offsets, sums.ranges, strict=True))) == 1
        made = self.stepped(replace(result, name=inner), held, functions[:1] if one else functions, ranges[:1] if one else ranges)
        return self._moved(result.name, made, sums.moves)

    def _of_pair(self, result: Result, pair: Pair, cast: AffineCast) -> str:
        with torch.no_grad():
            table = cast.integers(torch.from_numpy(pair.table)).numpy().astype(np.int64) - result.zero
        result = replace(result, ends=(int(table.min()) + result.zero, int(table.max()) + result.zero))
        zeros = [view.cast.affine.zeros[0] for view in (pair.a, pair.b) if view.cast is not None]
        scales = [view.cast.affine.scales[0] for view in (pair.a, pair.b) if view.cast is not None]
        slopes = tuple(scale / cast.affine.scales[0] for scale in scales)
        found = plane(pair.a.integers - zeros[0], pair.b.integers - zeros[1], table, slopes, result.centered)  # type: ignore[arg-type]
        if found is None:
            remedy = "its halves are decided by the last bits of float32; give operands and result other scales"
            raise ExactnessError("no fixed-point plane gives its integers for every pair", where=result.where, remedy=remedy)
        inner = f"{result.name}.at" if pair.moves else result.name
        made = self.on_plane(replace(result, name=inner), found, self.centered(pair.a), self.centered(pair.b))
        return self._moved(result.name, made, pair.moves)

    def _moved(self, name: str, held: str, moves: Sequence[Move]) -> str:
        for place, move in enumerate(moves):
            held = move(self, name if place == len(moves) - 1 else f"{name}.at{place}", held)
        return held

    # Numbers at other places

    def move(self, node: fx.Node, source: fx.Node, move: Move) -> None:
        """The numbers of a value moved, or the greatest of windows."""
        value = self.values[source]
        if isinstance(value, View):
            self.values[node] = replace(value, node=move(self, self.name(self.where(node)), value.node))
        elif isinstance(value, Joined):
            raise self.refuse(node, "moves what is put together before it is quantized", "quantize the concatenation")
        else:
            self.values[node] = replace(value, moves=(*value.moves, move))

    def joined(self, name: str, parts: Sequence[str], axis: int) -> str:
        """Parts side by side along an axis (the batch left out)."""
        rank = len(self.infos[parts[0]].shape)
        if len(parts) == 1:
            return parts[0]
        if axis == 0:
            return self.emit(name, ops.Concat(), *parts)
        swap = (axis, *(0 if other == axis else other for other in range(1, rank)))
        turned = [self.emit(f"{name}.turned{place}", ops.Transpose(swap), part) for place, part in enumerate(parts)]
        return self.emit(name, ops.Transpose(swap), self.emit(f"{name}.joined", ops.Concat(), *turned))

    # Floats

    def run(self, node: fx.Node, values: dict[fx.Node, Tensor]) -> Tensor:
        """What the source computes at ``node``, in float32."""
        traced = self.traced

        def argument(source: fx.Node) -> Any:
            if source in values:
                return values[source]
            if source in traced.fixed:
                return traced.fixed[source]
            return traced.constants.get(source, source)

        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), argument)
        with torch.no_grad():
            if node.op == "call_module":
                result: Any = traced.module.get_submodule(str(node.target))(*args, **kwargs)
            elif node.op == "call_method":
                result = getattr(args[0], str(node.target))(*args[1:], **kwargs)
            else:
                result = node.target(*args, **kwargs)  # type: ignore[operator]
        assert isinstance(result, Tensor)
        return result


def error_of_sums(kernel: Ints, held: tuple[int, int], scales: Sequence[float], bias: Sequence[float], powers: bool) -> np.typing.NDArray[np.float64]:
    """How far float32 may be from the sums of products of dequantized numbers, plus a bias, whatever the order of additions.

    With powers of two (``powers``) all products are exact, and so are the sums where 24 bits hold them; a bias off their grid is rounded to the last
    place of partial sums, each time only where that is coarser than before. Else each number, product and partial sum is rounded.
    """
    rows = np.abs(kernel.reshape(len(kernel), -1)).sum(1).astype(np.float64) * max(abs(held[0]), abs(held[1]))
    terms = kernel[0].size + 1
    factor, offset = np.array(scales, dtype=np.float64), np.abs(np.array(bias, dtype=np.float64))
    most = rows * factor + offset
    if powers and bool((rows + offset / factor < 2**24).all()):
        on_grid = np.array([float(Fraction(b) / Fraction(s)).is_integer() for b, s in zip(bias, scales, strict=True)])
        return np.where(on_grid, 0.0, 2 * UNIT * most)
    return np.asarray((terms + 4) * UNIT * 1.001 * most)


def power_of_two(*scales: float) -> bool:
    """Whether all are."""
    return all(math.frexp(scale)[0] == 0.5 for scale in scales)
