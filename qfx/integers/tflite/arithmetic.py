"""Sums and products of two tensors, and one tensor on another scale."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qfx import operators as ops
from qfx.errors import UnsupportedError
from qfx.integers.growing import Result
from qfx.integers.plane import Plane, plane
from qfx.integers.steps import Ints
from qfx.integers.tflite.file import Op
from qfx.integers.tflite.network import Network, channels_first
from qfx.integers.tflite.rounding import Rounding, Scaling
from qfx.ir.values import Const

_LEFT_SHIFT = 20
"""Bits by which both operands are raised before they are scaled (tensorflow/lite/kernels/add.cc)."""
_NUMBERS = np.arange(-128, 128, dtype=np.int64)


def add(network: Network, op: Op) -> None:
    _sum(network, op, 1)


def sub(network: Network, op: Op) -> None:
    _sum(network, op, -1)


def mul(network: Network, op: Op) -> None:
    (a, b), y = op.inputs, op.outputs[0]
    (a_scale, _), (b_scale, _), (out, _) = (network.quantized(index) for index in (a, b, y))
    name = f"{network.name(y)}.product"
    if network.tensor(a).data is not None:
        a, b = b, a
    if network.tensor(b).data is not None:
        product = network.emit(name, ops.Affine(_beside(network, op, b, a), None), network.centered(a))
    else:
        product = network.emit(name, ops.Mul(), *_alike(network, name, *((index, network.centered(index)) for index in (a, b))))
    network.scaled(y, op, product, a_scale * b_scale / out, op.options["FusedActivationFunction"])


def maximum(network: Network, op: Op) -> None:
    _extreme(network, op, ops.Max())


def minimum(network: Network, op: Op) -> None:
    _extreme(network, op, ops.Min())


def _extreme(network: Network, op: Op, which: ops.Max | ops.Min) -> None:
    """Kernels compare the stored integers, which have one scale."""
    (a, b), y = op.inputs, op.outputs[0]
    if len({network.quantized(index) for index in (a, b, y)}) > 1:
        raise UnsupportedError("compares numbers of several scales", where=network.where(op), remedy="give operands and result one scale")
    name = network.name(y)
    network.hold(y, network.emit(name, which, *_alike(network, name, *((index, network.held(index)) for index in (a, b)))))


def quantize(network: Network, op: Op) -> None:
    """One tensor of int8 on the scale of another."""
    _rescaled(network, op, 0)


def relu(network: Network, op: Op) -> None:
    _rescaled(network, op, 1)


def relu_n1_to_1(network: Network, op: Op) -> None:
    _rescaled(network, op, 2)


def relu6(network: Network, op: Op) -> None:
    _rescaled(network, op, 3)


def _rescaled(network: Network, op: Op, activation: int) -> None:
    x, y = op.inputs[0], op.outputs[0]
    (scale, _), (out, _) = network.quantized(x), network.quantized(y)
    network.scaled(y, op, network.centered(x), scale / out, activation)


def _sum(network: Network, op: Op, sign: int) -> None:
    """What the kernel gives for every pair of int8 numbers is a table of 65,536; a plane gives the same."""
    (a, b), y = op.inputs, op.outputs[0]
    (a_scale, a_zero), (b_scale, b_zero), (out, _) = (network.quantized(index) for index in (a, b, y))
    twice = 2 * max(a_scale, b_scale)
    *each, last = network.functions([a_scale / twice, b_scale / twice, twice / ((1 << _LEFT_SHIFT) * out)], Rounding.DOUBLE)
    one, two = (scaling((_NUMBERS - offset) << _LEFT_SHIFT) for scaling, offset in zip(each, (a_zero, b_zero), strict=True))
    result = network.result(y, op, op.options["FusedActivationFunction"])
    table: Ints = np.clip(last(one[:, None] + sign * two[None, :]), *result.centered)
    factors = (a_scale / out, sign * b_scale / out)
    found = plane(_NUMBERS - a_zero, _NUMBERS - b_zero, table, factors, result.centered)
    if found is None:  # its scales make halves, which the roundings of the operands decide
        _from_tables(network, op, (one, sign * two), last, result)
    else:
        _plane(network, op, found, result)


def _from_tables(network: Network, op: Op, tables: tuple[Ints, Ints], last: Scaling, result: Result) -> None:
    """Step by step as the kernel does it: the scaled operands by table, their sum, and that scaled."""
    y, name = op.outputs[0], result.name
    parts: list[tuple[int, Ints | str]] = []
    for index, entries, side in zip(op.inputs, tables, ("one", "two"), strict=True):
        if network.tensor(index).data is not None:
            parts.append((index, entries))
        else:
            parts.append((index, network.emit(f"{name}.{side}", ops.Lookup(Const(entries, 0), -128, 0), network.held(index))))
    (a, one), (b, two) = sorted(parts, key=lambda part: not isinstance(part[1], str))  # a constant comes last
    if not isinstance(one, str):
        raise UnsupportedError("adds two constants", where=network.where(op), remedy="fold them in the converter")
    if not isinstance(two, str):
        total = network.emit(f"{name}.sum", ops.Affine(None, _beside(network, op, b, a, two)), one)
    else:
        total = network.emit(f"{name}.sum", ops.Add(), *_alike(network, name, (a, one), (b, two)))
    network.hold(y, network.stepped(result, total, [last.function]))


def _plane(network: Network, op: Op, found: Plane, result: Result) -> None:
    (a, b), y = op.inputs, op.outputs[0]
    if network.tensor(a).data is not None:
        a, b, found = b, a, replace(found, factors=found.factors[::-1])
    if network.tensor(b).data is not None:
        network.hold(y, network.on_plane(result, found, network.centered(a), _beside(network, op, b, a)))
    else:
        both = _alike(network, result.name, *((index, network.centered(index)) for index in (a, b)))
        network.hold(y, network.on_plane(result, found, *both))


def _beside(network: Network, op: Op, constant: int, value: int, entries: Ints | None = None) -> Const:
    """A constant operand, less its zero point or as ``entries`` has its numbers, so that it goes with a value of the shape of ``value``."""
    tensor, shape = network.tensor(constant), network.shape(value)
    assert tensor.data is not None
    entries = _NUMBERS - network.quantized(constant)[1] if entries is None else entries
    numbers = entries[tensor.data.astype(np.int64) + 128]
    while numbers.ndim > len(shape) and numbers.shape[0] == 1:
        numbers = numbers[0]
    numbers = numbers.reshape((1,) * (len(shape) - numbers.ndim) + numbers.shape)
    if any(size not in (1, whole) for size, whole in zip(numbers.shape, shape, strict=True)):
        what = f"a constant of shape {tensor.shape} beside a value of {shape}"
        raise UnsupportedError(what, where=network.where(op), remedy="let the constant have the value's shape, or repeat along its axes")
    numbers = np.moveaxis(numbers, -1, 0)
    return Const(numbers.reshape(()) if numbers.size == 1 else numbers.reshape(-1) if numbers.size == numbers.shape[0] else numbers, 0)


def _alike(network: Network, name: str, a: tuple[int, str], b: tuple[int, str]) -> tuple[str, str]:
    """Both operands, tensors and the nodes that stand for them, repeated so that they have one shape."""
    shapes = [network.shape(index) for index, _ in (a, b)]
    rank = max(map(len, shapes))
    if any(len(shape) < rank for shape in shapes):
        raise UnsupportedError(f"operands of shapes {shapes[0]} and {shapes[1]}", where=name, remedy="give both the same number of axes")
    whole = channels_first(tuple(map(max, *shapes)))
    one, two = (
        node if network.infos[node].shape == whole else network.emit(f"{name}.{side}", ops.Expand(whole), node)
        for (_, node), side in ((a, "wide_a"), (b, "wide_b"))
    )
    return one, two
