"""Lowering of the operators with weights: window, matrix-vector unit, and how the weights are laid out for it."""

from __future__ import annotations

import numpy as np

from qfx.codegen import arithmetic
from qfx.codegen import design as d
from qfx.codegen.build import Builder, Value
from qfx.codegen.epilogue import Frame, Steps
from qfx.errors import ProjectError
from qfx.fixed.type import FixedType
from qfx.ir.graph import Node
from qfx.ir.ops import Const, Conv, Linear, accumulator


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
    stream = build.take_stream(node.inputs[0], word)
    if taps > 1 or set(windows.stride) != {1} or any(map(any, windows.pads)):
        stream = build.window(node.name, stream, source.shape[0], windows, 0 if depthwise else op.groups, 0)
    if not depthwise:
        stream = build.rewidth(node.name, stream, simd)
    frame = Frame.of(info.shape)
    # (outputs, per_group, *kernel) -> (outputs, taps, per_group): the order in which a window arrives
    rows = np.moveaxis(op.weight.raw.reshape(outputs, per_group, taps), 1, 2).reshape(outputs, taps * per_group)
    weights = _depthwise_rows(rows, pe) if depthwise else _rows(rows, op.groups, pe, simd)
    arithmetic.check(folding.arithmetic, weights, stream.type, pe=pe, depthwise=depthwise, where=node.name)
    acc = _product_type(accumulator(op, source), stream.type, op.weight)
    steps = Steps(build.names, node.name, (acc,), frame)
    steps.bias(op.bias, info.type)
    epilogue, out, name = build.finish(node, chain, steps, frame, pe)
    process = d.MatVec(
        build.names.new(node.name, "depthwise" if depthwise else "matvec"),
        stream,
        out,
        depthwise=depthwise,
        pixels=frame.pixels,
        groups=op.groups,
        outputs=outputs // op.groups,
        inputs=rows.shape[1],
        pe=pe,
        simd=simd,
        weights=weights,
        weight_type=arithmetic.weight_type(weights),
        acc=acc,
        epilogue=epilogue,
        arithmetic=folding.arithmetic,
    )
    build.add(process)
    build.give(name, Value(out, frame))


def lower_linear(build: Builder, node: Node, chain: tuple[Node, ...]) -> None:
    """A matrix-vector unit whose weight columns follow the order in which the input travels."""
    op = node.op
    assert isinstance(op, Linear)
    source, info = build.graph.infos[node.inputs[0]], build.graph.infos[node.name]
    outputs, inputs = op.weight.shape
    folding = build.schedule.folding(node.name)
    _check(node, "PE", folding.pe, outputs, "outputs")
    _check(node, "SIMD", folding.simd, inputs, "inputs")
    value = build.take(node.inputs[0])
    stream = build.rewidth(node.inputs[0], value.stream, folding.simd)
    frame = Frame.of(info.shape)
    weights = _rows(op.weight.raw[:, value.frame.order], 1, folding.pe, folding.simd)
    arithmetic.check(folding.arithmetic, weights, stream.type, pe=folding.pe, depthwise=False, where=node.name)
    acc = _product_type(accumulator(op, source), stream.type, op.weight)
    steps = Steps(build.names, node.name, (acc,), frame)
    steps.bias(op.bias, info.type)
    epilogue, out, name = build.finish(node, chain, steps, frame, folding.pe)
    process = d.MatVec(
        build.names.new(node.name, "matvec"),
        stream,
        out,
        depthwise=False,
        pixels=1,
        groups=1,
        outputs=outputs,
        inputs=inputs,
        pe=folding.pe,
        simd=folding.simd,
        weights=weights,
        weight_type=arithmetic.weight_type(weights),
        acc=acc,
        epilogue=epilogue,
        arithmetic=folding.arithmetic,
    )
    build.add(process)
    build.give(name, Value(out, frame))


def _product_type(acc: FixedType, x: FixedType, weight: Const) -> FixedType:
    """``acc`` read on the grid of the products, before the bias brings them to the grid of the result."""
    return FixedType(acc.width, acc.width - x.frac_bits - weight.frac_bits, acc.signed)


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
