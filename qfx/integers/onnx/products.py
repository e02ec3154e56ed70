"""QLinearConv, QLinearMatMul and QGemm."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from qfx import operators as ops
from qfx.errors import UnsupportedError
from qfx.integers.growing import Function, Weighted
from qfx.integers.onnx.file import Array, Fused
from qfx.integers.onnx.network import Network
from qfx.integers.steps import Ints


def qlinear_conv(network: Network, node: Fused) -> None:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = node.inputs[:8]
    kernel, scales = _weights(network, node, w, w_scale, w_zero, 0)
    source = network.centered(x, x_zero, node)
    sizes, taps = network.infos[source].shape[1:], kernel.shape[2:]
    rank = len(taps)
    stride, dilation = (tuple(node.attributes.get(name, (1,) * rank)) for name in ("strides", "dilations"))
    sides = node.attributes.get("pads", (0,) * (2 * rank))
    automatic = node.attributes.get("auto_pad", b"NOTSET").decode()
    pads = tuple(zip(sides[:rank], sides[rank:], strict=True))
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        pads = tuple(_same(*each, automatic == "SAME_LOWER") for each in zip(sizes, taps, stride, dilation, strict=True))
    elif automatic == "VALID":
        pads = ((0, 0),) * rank
    bias = network.constant(node.inputs[8], node).astype(np.int64) if len(node.inputs) > 8 and node.inputs[8] else None
    functions = _functions(network, node, x_scale, scales, y_scale)
    result = network.result(node, y_zero)
    of = Weighted.of(kernel, bias, network.infos[source].interval.hull, functions, result.centered)
    conv = ops.Conv(of.weight, of.bias, stride, pads, dilation, int(node.attributes.get("group", 1)))
    sums = network.emit(f"{result.name}.sum", conv, source)
    network.hold(node, network.stepped(result, sums, of.functions, of.ranges), result.signed)


def qlinear_mat_mul(network: Network, node: Fused) -> None:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = node.inputs
    _linear(network, node, (x, x_scale, x_zero), (w, w_scale, w_zero), (y_scale, y_zero), None, transposed=False)


def q_gemm(network: Network, node: Fused) -> None:
    x, x_scale, x_zero, w, w_scale, w_zero, bias, y_scale, y_zero = (*node.inputs, "", "")[:9]
    if node.attributes.get("alpha", 1.0) != 1.0 or node.attributes.get("transA", 0) or not y_zero:
        remedy = "use alpha 1, the first operand as it is, and a quantized result"
        raise UnsupportedError("scales or turns its operands, or gives floats", where=network.where(node), remedy=remedy)
    _linear(network, node, (x, x_scale, x_zero), (w, w_scale, w_zero), (y_scale, y_zero), bias, transposed=bool(node.attributes.get("transB", 0)))


def _linear(network: Network, node: Fused, x: Sequence[str], w: Sequence[str], y: Sequence[str], bias: str | None, *, transposed: bool) -> None:
    rows, scales = _weights(network, node, w[0], w[1], w[2], 0 if transposed else 1)
    rows = rows if transposed else rows.T
    source = network.centered(x[0], x[2], node)
    if network.infos[source].shape != (rows.shape[1],):
        what = f"multiplies a value of shape {network.infos[source].shape}"
        raise UnsupportedError(what, where=network.where(node), remedy=f"flatten it to {rows.shape[1]} numbers a sample")
    offsets = network.constant(bias, node).astype(np.int64).reshape(-1) if bias else None
    functions = _functions(network, node, x[1], scales, y[0])
    result = network.result(node, y[1])
    of = Weighted.of(np.ascontiguousarray(rows), offsets, network.infos[source].interval.hull, functions, result.centered)
    sums = network.emit(f"{result.name}.sum", ops.Linear(of.weight, of.bias), source)
    network.hold(node, network.stepped(result, sums, of.functions, of.ranges), result.signed)


def _weights(network: Network, node: Fused, w: str, w_scale: str, w_zero: str, axis: int) -> tuple[Ints, Array]:
    """The weights less their zero points, and their scales: one, or one for each output."""
    weight, scales, zeros = (network.constant(name, node) for name in (w, w_scale, w_zero))
    if scales.size not in (1, weight.shape[axis]) or zeros.size not in (1, weight.shape[axis]) or weight.ndim < 2:
        what = f"{scales.size} scales and {zeros.size} zero points for weights of shape {weight.shape}"
        raise UnsupportedError(what, where=network.where(node), remedy="give one, or one for each output")
    if not (np.isfinite(scales) & (scales > 0)).all():
        raise UnsupportedError(
            f"its weights' scales {w_scale} are not positive numbers", where=network.where(node), remedy="quantize the model again"
        )
    place = [1] * weight.ndim
    place[axis] = zeros.size
    return weight.astype(np.int64) - zeros.astype(np.int64).reshape(place), scales.astype(np.float32).reshape(-1)


def _functions(network: Network, node: Fused, x_scale: str, scales: Array, y_scale: str) -> list[Function]:
    """As MLAS requantizes: the factor in float32, the sum as a float32, their product rounded to the nearest integer, ties to the even one."""
    return [nearest_function(network.scale(x_scale, node) * scale / network.scale(y_scale, node)) for scale in scales]


FRACTIONS = (17, 16, 18, 15, 14, 19, 20, 13, 12, 11, 10, 9, 8)
"""Bits behind results of which a float32 has hardly any more: what a float32 takes for a half becomes one there."""


def nearest_function(factor: np.float32) -> Function:
    """Sums times a float32. Where no line with one rounding goes, that to a fraction of few bits does, whose halves are rounded to the even integer.

    Near it is the product without the rounding of float32: it differs where that makes a half of what is none.
    """
    mantissa, exponent = math.frexp(float(factor))
    whole, shift = int(math.ldexp(mantissa, 24)), 24 - exponent
    while not whole & 1:
        whole, shift = whole >> 1, shift - 1

    def exact(sums: Ints) -> Ints:
        if shift <= 0:
            return sums * (whole << -shift)
        products, half = sums * whole, 1 << (shift - 1)
        nearest: Ints = (products + half - 1 + (products >> shift & 1)) >> shift
        return nearest

    near = Function(exact, (max(shift, 0),), even=True)
    return Function(lambda sums: np.rint(sums.astype(np.float32) * factor).astype(np.int64), FRACTIONS, even=True, near=near)


def _same(size: int, taps: int, step: int, spread: int, lower: bool) -> tuple[int, int]:
    total = max((math.ceil(size / step) - 1) * step + (taps - 1) * spread + 1 - size, 0)
    less, more = total // 2, total - total // 2
    return (more, less) if lower else (less, more)
