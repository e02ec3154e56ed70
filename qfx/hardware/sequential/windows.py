"""Operators as the one thing that a layer engine does with windows: a product with a matrix, or a sum or the greatest of each channel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from qfx.errors import UnsupportedError
from qfx.fixed.arith import Interval
from qfx.hardware.sequential.values import PIXEL, Integers, Kind, Value, Window, integers
from qfx.ir.graph import Node
from qfx.ir.sums import products
from qfx.ir.values import Const, Info, LoadableConst, Pads, RawArray, Shape
from qfx.operators import Conv, Linear, MaxPool, Pad, ReduceMax, ReduceSum, Slice, SumPool

INSTEAD = "use --style streaming, or cast and arrange the layer as docs/sequential.md says"


@dataclass(frozen=True, eq=False, slots=True)
class Main:
    """Windows and what is made of them: sums on ``grid`` (fractional bits) within ``bounds``, and ``partial``: of any terms of them."""

    kind: Kind
    window: Window
    weight: RawArray | None
    shape: Shape  # (channels, height, width)
    grid: Integers
    bounds: tuple[Interval, ...]
    partial: tuple[Interval, ...]
    bias: Const | None = None


def shape3(shape: Shape, name: str) -> Shape:
    """Channels, height and width of a value. Raises UnsupportedError, naming the node, for more axes."""
    if len(shape) > 3:
        raise UnsupportedError(
            f"a value of shape {shape}", where=name, remedy="a layer engine holds channels, rows and columns; use --style streaming"
        )
    return (shape[0], 1, 1) if len(shape) == 1 else (shape[0], 1, shape[1]) if len(shape) == 2 else shape


def pair(sizes: tuple[Any, ...], missing: Any) -> tuple[Any, Any]:
    """Those of two axes; a line has one row."""
    return sizes if len(sizes) == 2 else (missing, sizes[0])


def main_of(node: Node, x: Value, info: Info, out: Info) -> Main | None:
    """The windows of the operator over the value ``x``, of which the graph knows ``info``; None of one that has none."""
    make = _MADE.get(type(node.op))
    return None if make is None else make(node, x, info, out)


def plain(x: Value, info: Info) -> Main:
    """Every number as it is."""
    met = info.stored.spread(x.channels)
    grid = integers(np.broadcast_to(info.grids.reshape(-1), (x.channels,)) if info.grids.size > 1 else info.grids, x.channels)
    weight = np.ones((x.channels, 1, 1), dtype=np.int64)
    return Main(Kind.SUM, PIXEL, weight, (x.channels, x.height, x.columns), grid, met, tuple(one.with_zero() for one in met))


def _matrix(node: Node, x: Value, info: Info, out: Info, weight: Const, window: Window, shape: Shape, bias: Const | None) -> Main:
    if isinstance(weight, LoadableConst):
        raise UnsupportedError("weights that are loaded while it runs", where=node.name, remedy="weights are in memory anyway: leave --weights out")
    stored = info.on_one_grid()
    met = stored.interval.at(stored.type.frac_bits).with_zero()
    pairs = products(weight, met)
    grid = integers([row + stored.type.frac_bits for row in weight.rows(len(weight.raw))], len(weight.raw))
    bounds, partial = zip(*pairs, strict=True)
    return Main(Kind.MATRIX, window, weight.raw, shape, grid, bounds, partial, bias)


def _conv(node: Node, x: Value, info: Info, out: Info) -> Main:
    op = node.op
    assert isinstance(op, Conv)
    if len(op.stride) > 2:
        raise UnsupportedError("windows over three axes", where=node.name, remedy="no style of hardware has them; use one or two axes")
    weight = op.weight.raw.reshape(*op.weight.shape[:2], *pair(op.weight.shape[2:], 1))
    pads = pair(op.pads, (0, 0))
    window = Window(weight.shape[2:], pair(op.stride, 1), (pads[0][0], pads[1][0]), pair(op.dilation, 1))
    shape = shape3(out.shape, node.name)
    outputs, each = weight.shape[:2]
    if op.groups == 1 or outputs != op.groups or each != 1:
        made = _matrix(node, x, info, out, op.weight, window, shape, op.bias)
        return Main(Kind.MATRIX, window, _dense(weight, op.groups), shape, made.grid, made.bounds, made.partial, op.bias)
    one = _matrix(node, x, info, out, op.weight, window, shape, op.bias)  # depthwise
    return Main(Kind.SUM, window, weight[:, 0], shape, one.grid, one.bounds, one.partial, op.bias)


def _dense(weight: RawArray, groups: int) -> RawArray:
    """The weights of a convolution in groups with the zeros between them."""
    if groups == 1:
        return weight
    outputs, each = len(weight) // groups, weight.shape[1]
    dense = np.zeros((len(weight), each * groups, *weight.shape[2:]), dtype=np.int64)
    for group in range(groups):
        rows = slice(group * outputs, (group + 1) * outputs)
        dense[rows, group * each : (group + 1) * each] = weight[rows]
    return dense


def _linear(node: Node, x: Value, info: Info, out: Info) -> Main:
    """A convolution whose window is the whole value."""
    op = node.op
    assert isinstance(op, Linear)
    window = Window((x.height, x.columns), (1, 1), (0, 0), (1, 1))
    made = _matrix(node, x, info, out, op.weight, window, (len(op.weight.raw), 1, 1), op.bias)
    weight = op.weight.raw.reshape(-1, x.channels, x.height, x.columns)
    return Main(Kind.MATRIX, window, weight, made.shape, made.grid, made.bounds, made.partial, op.bias)


def _pooled(
    x: Value, info: Info, out: Info, name: str, kernel: Shape, stride: Shape, pads: Pads, dilation: Shape | None
) -> tuple[Window, Main, Shape]:
    around = pair(pads, (0, 0))
    window = Window(pair(kernel, 1), pair(stride, 1), (around[0][0], around[1][0]), pair(dilation or (1,) * len(kernel), 1))
    return window, plain(x, info), shape3(out.shape, name)


def _max_pool(node: Node, x: Value, info: Info, out: Info) -> Main:
    op = node.op
    assert isinstance(op, MaxPool)
    window, one, shape = _pooled(x, info, out, node.name, op.kernel, op.stride, op.pads, op.dilation)
    return Main(Kind.MAXIMUM, window, None, shape, one.grid, one.bounds, one.partial)


def _sum(window: Window, one: Main, shape: Shape) -> Main:
    """Of each channel."""
    taps = window.kernel[0] * window.kernel[1]
    bounds = tuple(interval.with_zero().times(taps) for interval in one.bounds)
    return Main(Kind.SUM, window, np.ones((shape[0], *window.kernel), dtype=np.int64), shape, one.grid, bounds, bounds)


def _sum_pool(node: Node, x: Value, info: Info, out: Info) -> Main:
    op = node.op
    assert isinstance(op, SumPool)
    return _sum(*_pooled(x, info, out, node.name, op.kernel, op.stride, op.pads, None))


def _reduced(node: Node, x: Value, info: Info, out: Info) -> Main:
    """Over all pixels: a window as large as the value."""
    op = node.op
    assert isinstance(op, ReduceSum | ReduceMax)
    if op.axes != tuple(range(1, len(info.shape))) or not op.axes:
        raise UnsupportedError(
            f"reduces the axes {op.axes} of {info.shape}", where=node.name, remedy=f"reduce all axes but the channels, or {INSTEAD}"
        )
    window, one, shape = Window((x.height, x.columns), (1, 1), (0, 0), (1, 1)), plain(x, info), (x.channels, 1, 1)
    if isinstance(op, ReduceMax):
        return Main(Kind.MAXIMUM, window, None, shape, one.grid, one.bounds, one.partial)
    return _sum(window, one, shape)


def chosen(node: Node, x: Value, info: Info, out: Info, window: Window, places: dict[int, int]) -> Main:
    """Channel ``places[c]`` of the value as channel c: a matrix of zeros and ones, or every channel by itself if they stay where they are."""
    shape = shape3(out.shape, node.name)
    if places == {channel: channel for channel in range(x.channels)} and shape[0] == x.channels:
        one = plain(x, info)
        return Main(Kind.SUM, window, one.weight, shape, one.grid, tuple(bound.with_zero() for bound in one.bounds), one.partial)
    weight = np.zeros((shape[0], x.channels, 1, 1), dtype=np.int64)
    for to, source in places.items():
        weight[to, source] = 1
    return _matrix(node, x, info, out, Const(weight, 0), window, shape, None)


def _slice(node: Node, x: Value, info: Info, out: Info) -> Main:
    op = node.op
    assert isinstance(op, Slice)
    taken = range(op.starts[0], op.stops[0], op.steps[0])
    first, step = pair(op.starts[1:] or (0, 0), 0), pair(op.steps[1:] or (1, 1), 1)
    return chosen(node, x, info, out, Window((1, 1), step, (-first[0], -first[1]), (1, 1)), dict(enumerate(taken)))


def _pad(node: Node, x: Value, info: Info, out: Info) -> Main:
    op = node.op
    assert isinstance(op, Pad)
    before = pair(tuple(pair[0] for pair in op.pads[1:]) or (0, 0), 0)
    return chosen(node, x, info, out, Window((1, 1), (1, 1), before, (1, 1)), {op.pads[0][0] + c: c for c in range(x.channels)})


_MADE: dict[type, Callable[[Node, Value, Info, Info], Main]] = {
    Conv: _conv,
    Linear: _linear,
    MaxPool: _max_pool,
    SumPool: _sum_pool,
    ReduceSum: _reduced,
    ReduceMax: _reduced,
    Slice: _slice,
    Pad: _pad,
}
