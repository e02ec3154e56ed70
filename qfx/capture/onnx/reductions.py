"""ONNX operators over axes: sums, extremes, softmax, normalization."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional

from qfx.capture.assemble import Value
from qfx.capture.onnx.node import Handler, Node


def _reduced(step: Callable[[Node, Value, tuple[int, ...], bool], Value]) -> Handler:
    def handle(node: Node) -> Value:
        axes, x = node.axes(), node.x()
        if not axes:
            if node.integer("noop_with_empty_axes", 0):
                return x
            axes = list(range(x.data.dim()))
        return step(node, x, tuple(axes), bool(node.integer("keepdims", 1)))

    return handle


def _by(function: Callable[..., Any], before: Callable[..., Any] | None = None, after: Callable[..., Any] | None = None) -> Handler:
    def step(node: Node, x: Value, axes: tuple[int, ...], keep: bool) -> Value:
        result = node.call(function, x if before is None else node.call(before, x), axes, keep)
        return result if after is None else node.call(after, result)

    return _reduced(step)


def _product(node: Node, x: Value, axes: tuple[int, ...], keep: bool) -> Value:
    for axis in reversed(axes):
        x = node.call(torch.prod, x, axis, keep)
    return x


def _arg(function: Callable[..., Any]) -> Handler:
    def handle(node: Node) -> Value:
        if node.integer("select_last_index", 0):
            raise node.refuse("select_last_index", "take the first of equal values")
        return node.call(function, node.x(), node.integer("axis", 0), bool(node.integer("keepdims", 1)))

    return handle


def _top_k(node: Node) -> list[Value]:
    count = node.numbers(1, "k")
    if not count:
        raise node.refuse("no count", "export it again")
    found = node.call(torch.topk, node.x(), count[0], node.integer("axis", -1), bool(node.integer("largest", 1)), True)
    return [node.call(operator.getitem, found, place) for place in range(2)]


def _softmax(function: Callable[..., Any]) -> Handler:
    def handle(node: Node) -> Value:
        x = node.x()
        if node.opset >= 13:
            return node.call(function, x, node.integer("axis", -1))
        axis = node.integer("axis", 1) % x.data.dim()  # over all axes from here on
        if axis == x.data.dim() - 1:
            return node.call(function, x, axis)
        flat = node.call(torch.flatten, x, axis)
        return node.call(torch.reshape, node.call(function, flat, axis), (-1, *x.data.shape[1:]))

    return handle


def _layer_norm(node: Node) -> Value:
    x = node.x()
    axis = node.integer("axis", -1) % x.data.dim()
    module = torch.nn.LayerNorm(tuple(x.data.shape[axis:]), node.number("epsilon", 1e-5), bias=node.tensor(2) is not None)
    return node.layer(_filled(node, module, tuple(x.data.shape[axis:])))


def _filled(node: Node, module: Any, shape: Sequence[int]) -> Any:
    with torch.no_grad():
        module.weight.copy_(node.weight().expand(tuple(shape)))
        bias = node.tensor(2)
        if bias is not None:
            module.bias.copy_(bias.expand(tuple(shape)))
    return module


def _instance_norm(node: Node) -> Value:
    x = node.x()
    kinds: dict[int, Any] = {1: torch.nn.InstanceNorm1d, 2: torch.nn.InstanceNorm2d, 3: torch.nn.InstanceNorm3d}
    if x.rank not in kinds:
        raise node.refuse(f"{x.rank} axes behind the channels", "use one to three")
    channels = x.data.shape[1]
    return node.layer(_filled(node, kinds[x.rank](channels, node.number("epsilon", 1e-5), affine=True), (channels,)))


def _group_norm(node: Node) -> Value:
    x, groups = node.x(), node.integer("num_groups", 1)
    channels = x.data.shape[1]
    module = torch.nn.GroupNorm(groups, channels, node.number("epsilon", 1e-5))
    with torch.no_grad():
        for parameter, values in ((module.weight, node.weight(1)), (module.bias, node.weight(2))):
            parameter.copy_(values if len(values) == channels else values.repeat_interleave(channels // groups))
    return node.layer(module)


def _rms_norm(node: Node) -> Value:
    x = node.x()
    shape = tuple(x.data.shape[node.integer("axis", -1) % x.data.dim() :])
    return node.layer(_filled(node, torch.nn.RMSNorm(shape, node.number("epsilon", 1e-5)), shape))


def _lp_norm(node: Node) -> Value:
    return node.call(functional.normalize, node.x(), float(node.integer("p", 2)), node.integer("axis", -1))


def _lrn(node: Node) -> Value:
    alpha, beta, bias = node.number("alpha", 1e-4), node.number("beta", 0.75), node.number("bias", 1.0)
    return node.call(functional.local_response_norm, node.x(), node.integer("size", 1), alpha, beta, bias)


def _mean_variance(node: Node) -> Value:
    axes, x = node.ints("axes", (0, 2, 3)), node.x()
    centred = node.call(torch.sub, x, node.call(torch.mean, x, axes, True))
    variance = node.call(torch.mean, node.call(torch.square, centred), axes, True)
    return node.call(torch.div, centred, node.call(torch.sqrt, node.call(torch.add, variance, 1e-9)))


def _cumsum(node: Node) -> Value:
    axis = node.numbers(1)
    if node.integer("exclusive", 0) or axis is None:
        raise node.refuse("exclusive", "sum up to and with each place")
    if not node.integer("reverse", 0):
        return node.call(torch.cumsum, node.x(), axis[0])
    return node.call(torch.flip, node.call(torch.cumsum, node.call(torch.flip, node.x(), (axis[0],)), axis[0]), (axis[0],))


HANDLERS: dict[str, Handler] = {
    "ReduceMean": _by(torch.mean),
    "ReduceSum": _by(torch.sum),
    "ReduceMax": _by(torch.amax),
    "ReduceMin": _by(torch.amin),
    "ReduceProd": _reduced(_product),
    "ReduceL1": _by(torch.sum, before=torch.abs),
    "ReduceL2": _reduced(lambda node, x, axes, keep: node.call(torch.norm, x, 2, axes, keep)),
    "ReduceSumSquare": _by(torch.sum, before=torch.square),
    "ReduceLogSum": _by(torch.sum, after=torch.log),
    "ReduceLogSumExp": _by(torch.logsumexp),
    "ArgMax": _arg(torch.argmax),
    "ArgMin": _arg(torch.argmin),
    "TopK": _top_k,
    "Softmax": _softmax(functional.softmax),
    "LogSoftmax": _softmax(functional.log_softmax),
    "LayerNormalization": _layer_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "RMSNormalization": _rms_norm,
    "LpNormalization": _lp_norm,
    "LRN": _lrn,
    "MeanVarianceNormalization": _mean_variance,
    "CumSum": _cumsum,
}
