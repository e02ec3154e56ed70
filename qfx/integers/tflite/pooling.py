"""Averages and extremes of windows and of whole axes."""

from __future__ import annotations

import math

import numpy as np

from qfx import operators as ops
from qfx.errors import ExactnessError, UnsupportedError
from qfx.integers.steps import Ints, Steps, line
from qfx.integers.tflite.file import Op
from qfx.integers.tflite.network import Network
from qfx.integers.tflite.products import padding
from qfx.integers.tflite.rounding import Rounding, nearest_quotient
from qfx.ir.values import Const, Pads, Shape


def max_pool_2d(network: Network, op: Op) -> None:
    x, y = op.inputs[0], op.outputs[0]
    kernel, stride, pads = _windows(network, op)
    name = network.name(y)
    pooled = network.emit(f"{name}.greatest", ops.MaxPool(kernel, stride, pads, (1, 1)), network.held(x))
    _same_scale(network, op)
    network.hold(y, network.finish(network.result(y, op, op.options["FusedActivationFunction"]), pooled))


def average_pool_2d(network: Network, op: Op) -> None:
    """Windows at the border count what lies inside them, so that each place has a line of its own."""
    x, y = op.inputs[0], op.outputs[0]
    kernel, stride, pads = _windows(network, op)
    _same_scale(network, op)
    name, source = network.name(y), network.held(x)
    sums = network.emit(f"{name}.sum", ops.SumPool(kernel, stride, pads), source)
    inside = [
        _inside(size, taps, step, before, out)
        for size, taps, step, (before, _), out in zip(
            network.infos[source].shape[1:], kernel, stride, pads, network.infos[sums].shape[1:], strict=True
        )
    ]
    counts = inside[0][:, None] * inside[1][None, :]
    result = network.result(y, op, op.options["FusedActivationFunction"])
    ends, end = result.ends, 1 << (result.width - 1)
    found = {}
    for count in np.unique(counts).tolist():
        quotient = nearest_quotient(count)
        steps = Steps.of(lambda sums, quotient=quotient: np.clip(quotient(sums), *ends), -end * count, (end - 1) * count, *ends)  # type: ignore[misc]
        drawn = line(steps)
        if drawn is None:
            raise ExactnessError(f"no line divides by {count}", where=network.where(op), remedy="this is a defect in qfx; please report it")
        found[count] = drawn
    shift = max(one.shift for one in found.values())
    multipliers, offsets = (
        np.array([[getattr(found[count].at(shift), field) for count in row] for row in counts.tolist()])[None] for field in ("multiplier", "offset")
    )
    if len(found) == 1:
        multipliers, offsets = multipliers.reshape(-1)[0], offsets.reshape(-1)[0]
    quotients = network.emit(f"{name}.line", ops.Affine(Const(multipliers, shift), Const(offsets, shift) if offsets.any() else None), sums)
    network.hold(y, network.finish(result, quotients))


def mean(network: Network, op: Op) -> None:
    """Over height and width."""
    x, y = op.inputs[0], op.outputs[0]
    axes = network.constant(op.inputs[1], "axes", op)
    rank = len(network.tensor(x).shape)
    assert axes.data is not None
    over = sorted(int(axis) % rank for axis in axes.data.reshape(-1))
    if 0 in over or rank - 1 in over:
        raise UnsupportedError(f"is taken over the axes {over}", where=network.where(op), remedy="take it over height and width")
    (scale, _), (out, _) = network.quantized(x), network.quantized(y)
    source = network.centered(x)
    name, shape = network.name(y), network.infos[source].shape
    count = math.prod(shape[axis] for axis in over)
    sums = network.emit(f"{name}.sum", ops.ReduceSum(tuple(over)), source)
    target = (shape[0], *(1 if axis in over else shape[axis] for axis in range(1, len(shape)))) if op.options["KeepDims"] else None
    kept = target or (shape[0], *(shape[axis] for axis in range(1, len(shape)) if axis not in over))
    if network.infos[sums].shape != kept:
        sums = network.emit(f"{name}.shape", ops.Reshape(kept), sums)
    (scaling,) = network.functions([scale / out], Rounding.DOUBLE)
    network.hold(y, network.stepped(network.result(y, op), sums, [scaling.over(count).function]))


def _windows(network: Network, op: Op) -> tuple[Shape, Shape, Pads]:
    kernel = (op.options["FilterHeight"], op.options["FilterWidth"])
    stride = (op.options["StrideH"], op.options["StrideW"])
    shape = network.infos[network.held(op.inputs[0])].shape
    if len(shape) != 3:
        raise UnsupportedError(f"reads a value of shape {shape}", where=network.where(op), remedy="give (height, width, channels)")
    return kernel, stride, padding(op, shape[1:], kernel, stride, (1, 1), network)


def _inside(size: int, taps: int, stride: int, before: int, out: int) -> Ints:
    """How many taps of each window along an axis lie inside."""
    firsts = np.arange(out) * stride - before
    inside: Ints = np.minimum(firsts + taps, size) - np.maximum(firsts, 0)
    return inside


def _same_scale(network: Network, op: Op) -> None:
    """UnsupportedError unless input and output have one scale and zero point, without which the kernels of pools refuse them too."""
    if network.quantized(op.inputs[0]) != network.quantized(op.outputs[0]):
        raise UnsupportedError("has another scale behind it than in front", where=network.where(op), remedy="give input and output the same one")
