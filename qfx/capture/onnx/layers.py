"""ONNX operators with weights and windows: products, convolutions, pools."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from qfx.capture.assemble import Value
from qfx.capture.onnx import recognized
from qfx.capture.onnx.node import Handler, Node
from qfx.capture.onnx.shapes import permute

_MAX: dict[int, Any] = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
_AVG: dict[int, Any] = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
_LP: dict[int, Any] = {1: functional.lp_pool1d, 2: functional.lp_pool2d, 3: functional.lp_pool3d}


def _conv(node: Node) -> Value:
    if isinstance(node.arguments[1], Value):
        raise node.refuse(f"an argument {node.proto.input[1]!r} that depends on data", "let weights be constants")
    weight = node.weight()
    ones = (1,) * (weight.dim() - 2)
    stride, dilation = node.ints("strides", ones), node.ints("dilations", ones)
    pads = node.pads(tuple(weight.shape[2:]), stride, dilation)
    return node.make.conv(node.name, node.x(), weight, node.tensor(2), stride, pads, dilation, node.integer("group", 1))


def _conv_transpose(node: Node) -> Value:
    weight, x = node.weight(), node.x()
    kernel = tuple(weight.shape[2:])
    ones = (1,) * len(kernel)
    stride, dilation = node.ints("strides", ones), node.ints("dilations", ones)
    extra, how, sizes = node.ints("output_padding", [0] * len(ones)), node.text("auto_pad", "NOTSET"), list(x.data.shape[2:])
    full = [s * (n - 1) + e + (k - 1) * d + 1 for n, s, e, k, d in zip(sizes, stride, extra, kernel, dilation, strict=True)]
    pads = list(node.pads(kernel, stride, dilation)) if how == "NOTSET" else [(0, 0)] * len(ones)
    if "output_shape" in node.attributes or how.startswith("SAME"):
        wanted = node.ints("output_shape", [n * s for n, s in zip(sizes, stride, strict=True)])[-len(ones) :]
        totals = [whole - size for whole, size in zip(full, wanted, strict=True)]
        pads = [(t // 2, t - t // 2) if how == "SAME_UPPER" else (t - t // 2, t // 2) for t in totals]
    group = node.integer("group", 1)
    if all(before == after >= 0 for before, after in pads):
        return node.make.conv_transpose(node.name, x, weight, node.tensor(2), stride, pads, extra, dilation, group)
    if any(side < 0 for pair in pads for side in pair):
        raise node.refuse(f"pads {pads}", "give an output shape that the kernel fills")
    none = [(0, 0)] * len(ones)
    result = node.make.conv_transpose(node.name, x, weight, node.tensor(2), stride, none, extra, dilation, group)
    for axis, ((before, after), size) in enumerate(zip(pads, full, strict=True)):
        result = node.make.slice(f"{node.name}_crop", result, axis + 2, before, size - after, 1)
    return result


def _gemm(node: Node) -> Value:
    alpha, beta = node.number("alpha", 1.0), node.number("beta", 1.0)
    bias = node.arguments[2] if len(node.arguments) > 2 else None
    if isinstance(node.arguments[0], Value) and not isinstance(node.arguments[1], Value) and not node.integer("transA", 0):
        weight = node.weight() if node.integer("transB", 0) else node.weight().T
        constant = None if isinstance(bias, Value) else node.tensor(2)
        if bias is None or (constant is not None and constant.numel() in (1, weight.shape[0])):
            shift = None if constant is None else (constant * beta).reshape(-1).expand(weight.shape[0])
            return node.make.linear(node.name, node.x(), weight * alpha, shift)
    left = permute(node, node.x(0), (1, 0)) if node.integer("transA", 0) else node.x(0)
    right = node.call(torch.permute, node.x(1), (1, 0)) if node.integer("transB", 0) else node.x(1)
    result = node.call(torch.matmul, left, right)
    result = result if alpha == 1.0 else node.call(torch.mul, result, alpha)
    if bias is None:
        return result
    return node.call(torch.add, result, node.operand(2) if beta == 1.0 else node.call(torch.mul, node.x(2), beta))


def _matmul(node: Node) -> Value:
    constant = node.arguments[1]
    if isinstance(node.arguments[0], Value) and not isinstance(constant, Value) and constant is not None and constant.ndim == 2:
        return node.make.linear(node.name, node.x(), node.weight().mT, None)
    return recognized.attention(node) or node.call(torch.matmul, node.x(0), node.x(1))


def _einsum(node: Node) -> Value:
    return node.call(torch.einsum, node.text("equation", "").replace(" ", ""), *(node.x(index) for index in range(len(node.arguments))))


def _batch_norm(node: Node) -> Value:
    if node.integer("training_mode", 0):
        raise node.refuse("training_mode", "export the model in evaluation mode: model.eval()")
    scale, shift, mean, var = (node.weight(index) for index in range(1, 5))
    return node.make.batch_norm(node.name, node.x(), scale, shift, mean, var, node.number("epsilon", 1e-5))


def _pooling(node: Node) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], list[tuple[int, int]]]:
    kernel = node.ints("kernel_shape", ())
    ones = (1,) * len(kernel)
    stride, dilation = node.ints("strides", ones), node.ints("dilations", ones)
    if len(kernel) not in _MAX:
        raise node.refuse(f"{len(kernel)} axes", "pool over one to three axes")
    return kernel, stride, dilation, list(node.pads(kernel, stride, dilation))


def _max_pool(node: Node) -> Value:
    kernel, stride, dilation, pads = _pooling(node)
    if len(node.proto.output) > 1:
        raise node.refuse("the places of the maxima", "give the values alone")
    ceil, x = bool(node.integer("ceil_mode", 0)), node.x()
    before = tuple(first for first, _ in pads)
    if all(first == last for first, last in pads):
        return node.layer(_MAX[len(kernel)](kernel, stride, before, dilation, ceil_mode=ceil))
    # Padding never wins: symmetric pads, or partial windows at the end, give the same values and perhaps more of them, which are cut off.
    ends = [_count(n, f + b, k, s, d, ceil) for n, (f, b), k, s, d in zip(x.data.shape[2:], pads, kernel, stride, dilation, strict=True)]
    for partial in (False, True):
        most = [_count(n, 2 * f, k, s, d, partial) for n, f, k, s, d in zip(x.data.shape[2:], before, kernel, stride, dilation, strict=True)]
        if all(have >= want for have, want in zip(most, ends, strict=True)) and all(2 * f <= k for f, k in zip(before, kernel, strict=True)):
            result = node.layer(_MAX[len(kernel)](kernel, stride, before, dilation, ceil_mode=partial))
            for axis, end in enumerate(ends):
                result = node.make.slice(f"{node.name}_crop", result, axis + 2, 0, end, 1)
            return result
    flat = tuple(side for pair in reversed(pads) for side in pair)
    padded = node.call(functional.pad, x, flat, value=-math.inf)
    return node.make.layer(node.name, _MAX[len(kernel)](kernel, stride, 0, dilation, ceil_mode=ceil), padded)


def _count(size: int, pads: int, kernel: int, stride: int, dilation: int, partial: bool) -> int:
    """The windows along an axis."""
    free = size + pads - dilation * (kernel - 1) - 1
    return (math.ceil(free / stride) if partial else free // stride) + 1


def _average_pool(node: Node) -> Value:
    kernel, stride, dilation, pads = _pooling(node)
    counted, ceil, x = bool(node.integer("count_include_pad", 0)), bool(node.integer("ceil_mode", 0)), node.x()
    if set(dilation) != {1}:
        raise node.refuse("dilations", "pool without dilation")
    if all(first == last for first, last in pads):
        return node.layer(_AVG[len(kernel)](kernel, stride, tuple(first for first, _ in pads), ceil, counted))
    padded = node.make.pad(f"{node.name}_pad", x, pads)
    pool = _AVG[len(kernel)](kernel, stride, 0, ceil, True)
    result = node.make.layer(node.name, pool, padded)
    if counted:
        return result
    flat = tuple(side for pair in reversed(pads) for side in pair)
    inside = pool(functional.pad(torch.ones(1, 1, *x.data.shape[2:]), flat))
    return node.call(torch.mul, result, node.make.constant(f"{node.name}_inside", 1 / inside))


def _lp_pool(node: Node) -> Value:
    kernel, stride, dilation, pads = _pooling(node)
    if set(dilation) != {1}:
        raise node.refuse("dilations", "pool without dilation")
    x = node.make.pad(f"{node.name}_pad", node.x(), pads)
    size: Any = kernel if len(kernel) > 1 else kernel[0]
    step: Any = stride if len(kernel) > 1 else stride[0]
    if node.integer("p", 2) % 2:
        x = node.call(torch.abs, x)
    return node.call(_LP[len(kernel)], x, float(node.integer("p", 2)), size, step, bool(node.integer("ceil_mode", 0)))


def _global_pool(kinds: Sequence[Callable[[int], nn.Module]]) -> Handler:
    def handle(node: Node) -> Value:
        if node.x().rank not in (1, 2, 3):
            raise node.refuse(f"{node.x().rank} axes", "pool over one to three axes")
        return node.layer(kinds[node.x().rank - 1](1))

    return handle


HANDLERS: dict[str, Handler] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Einsum": _einsum,
    "BatchNormalization": _batch_norm,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "LpPool": _lp_pool,
    "GlobalAveragePool": _global_pool((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)),
    "GlobalMaxPool": _global_pool((nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)),
}
