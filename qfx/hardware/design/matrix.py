"""Lowering of the operators with weights: window, matrix-vector unit, and how the weights are laid out for it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from qfx.errors import ProjectError
from qfx.fixed.type import FixedType
from qfx.hardware.design import arithmetic
from qfx.hardware.design import design as d
from qfx.hardware.design.build import Builder, Value
from qfx.hardware.design.epilogue import Frame, Steps
from qfx.ir.graph import Node
from qfx.ir.ops import Const, Conv, Linear, accumulator
from qfx.ir.values import LoadableConst


def lower_conv(build: Builder, node: Node, chain: tuple[Node, ...]) -> None:
    """Window (unless every window is one pixel), then a matrix-vector unit; depthwise convolutions have a unit of their own."""
    op = node.op
    assert isinstance(op, Conv)
    source, info = build.graph.infos[node.inputs[0]], build.graph.infos[node.name]
    windows = op.windows(node.name, source.shape)
    outputs, per_group = op.weight.shape[:2]
    taps = int(np.prod(windows.kernel))
    folding = build.schedule.folding(node.name)
    depthwise = op.groups > 1 and op.groups == source.shape[0] == outputs
    pe, simd = folding.pe, folding.simd
    if depthwise:
        _check(node, "PE", pe, outputs, "channels")
        _check(node, "SIMD", simd, 1, "input channels of a group")
        word = pe
    else:
        _check(node, "PE", pe, outputs // op.groups, "outputs of a group")
        _check(node, "SIMD", simd, taps * per_group, "inputs of an output")
        if per_group % simd and simd % per_group:
            raise ProjectError(f"SIMD={simd} with {per_group} input channels in a group", where=node.name, remedy="let one divide the other")
        word = min(simd, per_group)
    stream = build.rewidth(node.inputs[0], build.take_on_one_grid(node.inputs[0]).stream, word)
    if taps > 1 or set(windows.stride) != {1} or any(map(any, windows.pads)):
        stream = build.window(node.name, stream, source.shape[0], windows, 0 if depthwise else op.groups, 0)
    if not depthwise:
        stream = build.rewidth(node.name, stream, simd)
    frame = Frame.of(info.shape)
    # (outputs, per_group, *kernel) -> (outputs, taps, per_group): the order in which a window arrives
    rows = np.moveaxis(op.weight.raw.reshape(outputs, per_group, taps), 1, 2).reshape(outputs, taps * per_group)
    unit = _Unit(node, chain, stream, frame, depthwise, op.groups, pe, simd)
    _add_unit(build, unit, rows)


def lower_linear(build: Builder, node: Node, chain: tuple[Node, ...]) -> None:
    """A matrix-vector unit whose weight columns follow the order in which the input travels."""
    op = node.op
    assert isinstance(op, Linear)
    info = build.graph.infos[node.name]
    outputs, inputs = op.weight.shape
    folding = build.schedule.folding(node.name)
    _check(node, "PE", folding.pe, outputs, "outputs")
    _check(node, "SIMD", folding.simd, inputs, "inputs")
    value = build.take_on_one_grid(node.inputs[0])
    stream = build.rewidth(node.inputs[0], value.stream, folding.simd)
    frame = Frame.of(info.shape)
    unit = _Unit(node, chain, stream, frame, False, 1, folding.pe, folding.simd)
    _add_unit(build, unit, op.weight.raw[:, value.frame.order])


@dataclass(frozen=True, eq=False)
class _Unit:
    """A matrix-vector unit to be: the operator and what is fused behind it, its stream, the frame that it gives, and its folding."""

    node: Node
    chain: tuple[Node, ...]
    stream: d.Stream
    frame: Frame
    depthwise: bool
    groups: int
    pe: int
    simd: int


def _add_unit(build: Builder, unit: _Unit, rows: d.IntArray) -> None:
    """The process; ``rows`` (outputs, inputs): the raw weights in the order in which their inputs arrive.

    With a binary point per channel the ROM holds the words as they were trained. Else it holds what is left of an output's weights when the zeros
    that they all end in are gone, and the sum is moved up by as many bits behind the accumulator.
    """
    node, op = unit.node, unit.node.op
    assert isinstance(op, Conv | Linear)
    source, info = build.graph.infos[node.inputs[0]], build.graph.infos[node.name]
    loaded = isinstance(op.weight, LoadableConst)
    up = np.zeros(len(rows), dtype=np.int64) if loaded or isinstance(op.weight.frac_bits, tuple) else trailing_zeros(rows)
    rows = rows >> up[:, None]
    weights = _depthwise_rows(rows, unit.pe) if unit.depthwise else _rows(rows, unit.groups, unit.pe, unit.simd)
    possible = np.array([[op.weight.type.min_raw, op.weight.type.max_raw]]) if isinstance(op.weight, LoadableConst) else weights
    chosen = build.schedule.folding(node.name).arithmetic
    arithmetic.check(chosen, possible, unit.stream.type, pe=unit.pe, depthwise=unit.depthwise, where=node.name, loaded=loaded)
    grids = np.array(op.weight.rows(len(rows)), dtype=np.int64).reshape(-1, *(1,) * (len(info.shape) - 1)) + unit.stream.type.frac_bits
    if up.any():
        shape = (-1, *(1,) * (op.weight.raw.ndim - 1))
        short = replace(op, weight=Const(op.weight.raw >> up.reshape(shape), op.weight.grid), bias=None)
        acc = _product_type(accumulator(short, source), grids)
        steps = Steps(build.names, node.name, (acc,), unit.frame)
        steps.raise_channels(up, _product_type(accumulator(replace(op, bias=None), source), grids))
    else:
        own = isinstance(op.weight.frac_bits, tuple) or info.per_channel  # then the bias comes behind the shifts that bring both onto one grid
        acc = _product_type(accumulator(replace(op, bias=None) if own else op, source), grids)
        steps = Steps(build.names, node.name, (acc,), unit.frame, grids)
    steps.bias(op.bias, info)
    epilogue, out, name = build.finish(node, unit.chain, steps, unit.frame, unit.pe)
    process = d.MatVec(
        build.names.new(node.name, "depthwise" if unit.depthwise else "matvec"),
        unit.stream,
        out,
        depthwise=unit.depthwise,
        pixels=unit.frame.pixels,
        groups=unit.groups,
        outputs=rows.shape[0] // unit.groups,
        inputs=rows.shape[1],
        pe=unit.pe,
        simd=unit.simd,
        weights=weights,
        weight_type=arithmetic.weight_type(possible),
        acc=acc,
        epilogue=epilogue,
        arithmetic=chosen,
        loaded=loaded,
    )
    build.add(process)
    build.give(name, Value(out, unit.frame))


def trailing_zeros(rows: d.IntArray) -> d.IntArray:
    """For each row, how many zero bits all its numbers end in; 0 for a row of zeros.

    >>> trailing_zeros(np.array([[4, -12], [1, 8], [0, 0]])).tolist()
    [2, 0, 0]
    """
    joined = np.bitwise_or.reduce(rows, axis=1)
    lowest = joined & -joined
    return np.where(joined == 0, 0, np.frexp(lowest.astype(np.float64))[1] - 1).astype(np.int64)


def _product_type(acc: FixedType, grids: d.IntArray) -> FixedType:
    """``acc`` read on the (finest) grid of the products, before the bias brings them to the grid of the result."""
    return FixedType(acc.width, acc.width - int(grids.max()), acc.signed)


def _rows(rows: d.IntArray, groups: int, pe: int, simd: int) -> d.IntArray:
    """(outputs, inputs) -> (words, simd * pe), in the order in which qfx::matvec walks them: PEs innermost."""
    outputs, inputs = rows.shape
    folded = rows.reshape(groups, outputs // groups // pe, pe, inputs // simd, simd)
    return folded.transpose(0, 1, 3, 4, 2).reshape(-1, simd * pe)


def _depthwise_rows(rows: d.IntArray, pe: int) -> d.IntArray:
    """(channels, taps) -> (channels / pe * taps, pe)."""
    return rows.reshape(-1, pe, rows.shape[1]).transpose(0, 2, 1).reshape(-1, pe)


def _check(node: Node, field: str, value: int, total: int, what: str) -> None:
    if total % value:
        divisors = ", ".join(str(n) for n in range(1, total + 1) if total % n == 0)
        raise ProjectError(f"{field}={value} does not divide its {total} {what}", where=node.name, remedy=f"use one of {divisors}")
