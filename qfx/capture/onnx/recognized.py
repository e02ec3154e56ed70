"""Functions that exporters write out, recognized in what they wrote: only an expression that is that function over the real numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional

from qfx.capture.assemble import Value
from qfx.capture.onnx.node import Node


def _read_by(node: Any, *functions: Callable[..., Any]) -> tuple[Any, ...] | None:
    """What a call of one of these functions reads; None for anything else."""
    return node.args if isinstance(node, fx.Node) and node.op == "call_function" and node.target in functions else None


def _beside(pair: Sequence[Any] | None, number: float) -> fx.Node | None:
    """The other of two operands of which one is this number."""
    for place in (0, 1):
        if pair is not None and isinstance(pair[1 - place], fx.Node) and not isinstance(pair[place], fx.Node) and pair[place] == number:
            found: fx.Node = pair[1 - place]
            return found
    return None


def product(node: Node) -> Value | None:
    """x * sigmoid(x), which is SiLU."""
    a, b = node.arguments
    if not isinstance(a, Value) or not isinstance(b, Value):
        return None
    for x, gate in ((a, b), (b, a)):
        if _read_by(gate.node, torch.sigmoid) == (x.node,):
            return node.call(functional.silu, x)
    return None


def scaled_length(node: Node) -> Value | None:
    """x * 1 / sqrt(mean(x^2) + eps) times a gain for each number of the last axes, which is RMSNorm."""
    at = 0 if isinstance(node.arguments[0], Value) else 1
    normal, gain = node.arguments[at], node.arguments[1 - at]
    if not isinstance(normal, Value) or not isinstance(gain, np.ndarray):
        return None
    for x, inverse in _both_ways(_read_by(normal.node, torch.mul)):
        summed = _read_by((_read_by(inverse, torch.rsqrt) or (None,))[0], torch.add)
        mean, eps = summed if summed is not None else (None, None)
        square, axes, keep = _read_by(mean, torch.mean) or (None, (), False)
        rank, shape = normal.data.dim(), tuple(gain.shape)
        last = keep and tuple(axes) == tuple(range(rank - len(shape), rank)) and shape == tuple(normal.data.shape[rank - len(shape) :])
        if shape and last and isinstance(eps, float) and _read_by(square, torch.square) == (x,):
            module = nn.RMSNorm(shape, eps)
            with torch.no_grad():
                module.weight.copy_(torch.from_numpy(np.array(gain, dtype=np.float32)))
            return node.make.layer(node.name, module, node.make.value_of(x))
    return None


def _both_ways(pair: tuple[Any, ...] | None) -> list[tuple[fx.Node, fx.Node]]:
    return [pair, pair[::-1]] if pair is not None and all(isinstance(part, fx.Node) for part in pair) else []


def variance(node: Node) -> Value | None:
    """The mean of (x - mean)^2 times n over n - c, which is the variance with the correction c."""
    rest, scaled = node.operand(1), node.arguments[0]
    if isinstance(rest, Value) or not isinstance(scaled, Value):
        return None
    pair = _read_by(scaled.node, torch.mul) or ()
    for mean, count in (pair, pair[::-1]) if len(pair) == 2 else ():
        square, axes, keep = _read_by(mean, torch.mean) or (None, (), False)
        centred = _read_by(square, torch.mul)
        x, middle = (_read_by(centred[0], torch.sub) if centred is not None and centred[0] is centred[1] else None) or (None, None)
        if not isinstance(x, fx.Node) or isinstance(count, fx.Node) or _read_by(middle, torch.mean) != (x, axes, True):
            continue
        source = node.make.value_of(x)
        if count == prod(source.data.shape[axis] for axis in axes) and float(rest).is_integer() and 0 < rest <= count:
            return node.call(torch.var, source, tuple(axes), correction=int(count - rest), keepdim=keep)
    return None


def logarithm(node: Node) -> Value | None:
    """log(sigmoid(x)) and log(1 + x)."""
    inner = node.x().node
    source = _read_by(inner, torch.sigmoid)
    if source is not None:
        return node.call(functional.logsigmoid, node.make.value_of(source[0]))
    more = _beside(_read_by(inner, torch.add), 1)
    return None if more is None else node.call(torch.log1p, node.make.value_of(more))


def reciprocal(node: Node) -> Value | None:
    """1 / sqrt(x)."""
    source = _read_by(node.x().node, torch.sqrt)
    return None if source is None else node.call(torch.rsqrt, node.make.value_of(source[0]))


def softplus(node: Node) -> Value | None:
    """x above 20, else softplus(x): torch's softplus."""
    condition, taken, rest = node.arguments
    if not isinstance(condition, Value) or not isinstance(taken, Value) or not isinstance(rest, Value):
        return None
    same = _read_by(condition.node, torch.gt) == (taken.node, 20.0) and _read_by(rest.node, functional.softplus) == (taken.node,)
    return rest if same else None


def attention(node: Node) -> Value | None:
    """Queries and keys times the same number each, which is the queries times its square."""
    left, right = node.arguments
    if not isinstance(left, Value) or not isinstance(right, Value):
        return None
    pairs = [_read_by(side.node, torch.mul) for side in (left, right)]
    numbers = [next((part for part in pair or () if not isinstance(part, fx.Node)), None) for pair in pairs]
    if numbers[0] is None or numbers[0] != numbers[1] or not isinstance(numbers[0], float):
        return None
    queries, keys = (next(part for part in pair or () if isinstance(part, fx.Node)) for pair in pairs)
    scaled = node.call(torch.mul, node.make.value_of(queries), numbers[0] ** 2)
    return node.call(torch.matmul, scaled, node.make.value_of(keys))
