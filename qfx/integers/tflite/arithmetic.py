"""Sums and products of two tensors, and one tensor on another scale."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from qfx import operators as ops
from qfx.errors import UnsupportedError
from qfx.fixed.type import FixedType, OMode, QMode
from qfx.integers.growing import Result, nearest
from qfx.integers.plane import Plane, plane
from qfx.integers.steps import Ints
from qfx.integers.tflite.file import Op
from qfx.integers.tflite.network import Network, channels_first
from qfx.integers.tflite.rounding import Rounding, Scaling
from qfx.ir.values import ArrayType, Const

_LEFT_SHIFT = 20
"""Bits by which both operands are raised before they are scaled (tensorflow/lite/kernels/add.cc)."""
_WIDE_SHIFT = 15
"""The same for operands of 16 bits."""
_NUMBERS = np.arange(-128, 128, dtype=np.int64)


def add(network: Network, op: Op) -> None:
    _sum(network, op, 1)


def sub(network: Network, op: Op) -> None:
    _sum(network, op, -1)


def mul(network: Network, op: Op) -> None:
    (a, b), y = op.inputs, op.outputs[0]
    factor, name = network.ratio(a, b, under=y), f"{network.name(y)}.product"
    if network.tensor(a).data is not None:
        a, b = b, a
    if network.tensor(b).data is not None:
        product = network.emit(name, ops.Affine(beside(network, op, b, a), None), network.centered(a))
    else:
        product = network.emit(name, ops.Mul(), *_alike(network, name, *((index, network.centered(index)) for index in (a, b))))
    network.scaled(y, op, product, factor, op.options["FusedActivationFunction"])


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
    """One tensor on the scale of another."""
    x, y = op.inputs[0], op.outputs[0]
    network.scaled(y, op, network.centered(x), network.quantized(x)[0] / network.quantized(y)[0], 0)


def relu(network: Network, op: Op) -> None:
    _rescaled(network, op, 1)


def relu_n1_to_1(network: Network, op: Op) -> None:
    _rescaled(network, op, 2)


def relu6(network: Network, op: Op) -> None:
    _rescaled(network, op, 3)


def _rescaled(network: Network, op: Op, activation: int) -> None:
    x, y = op.inputs[0], op.outputs[0]
    network.scaled(y, op, network.centered(x), network.ratio(x, under=y), activation)


def _sum(network: Network, op: Op, sign: int) -> None:
    """What the kernel gives for every pair of int8 numbers is a table of 65,536; a plane gives the same."""
    (a, b), y = op.inputs, op.outputs[0]
    if network.width(y) == 16:
        _wide_sum(network, op, sign)
        return
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


def _wide_sum(network: Network, op: Op, sign: int) -> None:
    """Of 16 bits, step by step as the kernel does it: each operand scaled (a multiplication, and a division by a power of two, both rounded), their
    sum, and that scaled."""
    (a, b), y = op.inputs, op.outputs[0]
    (a_scale, _), (b_scale, _), (out, _) = (network.quantized(index) for index in (a, b, y))
    if op.options["PotScaleInt16"] and all(math.frexp(scale)[0] == 0.5 for scale in (a_scale, b_scale, out)):
        remedy = "convert the model with a current converter"
        raise UnsupportedError("adds int16 on scales that are powers of two, as old converters had it", where=network.where(op), remedy=remedy)
    if any(network.width(index) != 16 for index in (a, b)):
        raise UnsupportedError("adds int8 and int16", where=network.where(op), remedy="give both operands one type")
    result = network.result(y, op, op.options["FusedActivationFunction"])
    twice = 2 * max(a_scale, b_scale)
    *each, last = network.functions([a_scale / twice, b_scale / twice, twice / ((1 << _WIDE_SHIFT) * out)], Rounding.DOUBLE)
    name = result.name
    if network.tensor(a).data is not None and sign > 0:
        a, b, each = b, a, each[::-1]
    if network.tensor(a).data is not None:
        raise UnsupportedError("subtracts from a constant", where=network.where(op), remedy="negate the constant and the value, and add")
    one = _scaled_operand(network, f"{name}.one", network.held(a), each[0])
    if network.tensor(b).data is not None:
        numbers = beside(network, op, b, a)
        total = network.emit(f"{name}.sum", ops.Affine(None, Const(sign * each[1](numbers.raw << _WIDE_SHIFT), 0)), one)
    else:
        two = _scaled_operand(network, f"{name}.two", network.held(b), each[1])
        total = network.emit(f"{name}.sum", ops.Add() if sign > 0 else ops.Sub(), *_alike(network, name, (a, one), (b, two)))
    network.hold(y, network.stepped(result, total, [last.function]))


def _scaled_operand(network: Network, name: str, source: str, scaling: Scaling) -> str:
    """``scaling`` of a number of 16 bits, raised by _WIDE_SHIFT before."""
    grid, bits = 31 - _WIDE_SHIFT, scaling.bits
    if scaling.multiplier == 1 << 30 and not bits:
        return network.emit(name, ops.Affine(Const(np.array(1 << (30 - grid)), 0), None), source)
    factor, half = (Const(np.array(number), grid + bits) for number in (scaling.multiplier, 1 << (grid - 1)))
    product = network.emit(f"{name}.product", ops.Affine(factor, half), source)
    high = FixedType(32, 32 - bits, True, QMode.TRN, OMode.WRAP)
    floored = network.emit(f"{name}.high" if bits else name, ops.Cast(ArrayType.of(high)), product)
    return network.emit(name, ops.Cast(ArrayType.of(nearest(QMode.RND_INF, 31))), floored) if bits else floored


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
        total = network.emit(f"{name}.sum", ops.Affine(None, beside(network, op, b, a, two)), one)
    else:
        total = network.emit(f"{name}.sum", ops.Add(), *_alike(network, name, (a, one), (b, two)))
    network.hold(y, network.stepped(result, total, [last.function]))


def _plane(network: Network, op: Op, found: Plane, result: Result) -> None:
    (a, b), y = op.inputs, op.outputs[0]
    if network.tensor(a).data is not None:
        a, b, found = b, a, replace(found, factors=found.factors[::-1])
    if network.tensor(b).data is not None:
        network.hold(y, network.on_plane(result, found, network.centered(a), beside(network, op, b, a)))
    else:
        both = _alike(network, result.name, *((index, network.centered(index)) for index in (a, b)))
        network.hold(y, network.on_plane(result, found, *both))


def beside(network: Network, op: Op, constant: int, value: int, entries: Ints | None = None) -> Const:
    """A constant operand, less its zero point or as ``entries`` has its numbers, so that it goes with a value of the shape of ``value``."""
    tensor, shape = network.tensor(constant), network.shape(value)
    assert tensor.data is not None
    stored = tensor.data.astype(np.int64)
    numbers = stored - network.quantized(constant)[1] if entries is None else entries[stored + 128]
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
