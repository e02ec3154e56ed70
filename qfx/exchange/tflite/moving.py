"""Numbers at other places."""

from __future__ import annotations

import numpy as np

from qfx import operators as ops
from qfx.errors import UnsupportedError
from qfx.exchange.tflite.file import Op
from qfx.exchange.tflite.network import Network
from qfx.ir.values import Const


def reshape(network: Network, op: Op) -> None:
    """By the shape that the file gives the result. TFLite counts channels last."""
    x, y = op.inputs[0], op.outputs[0]
    _same(network, op, x)
    network.hold(y, network.reordered(network.name(y), network.held(x), network.shape(y)))


def concatenation(network: Network, op: Op) -> None:
    y = op.outputs[0]
    rank = len(network.tensor(y).shape)
    axis = op.options["Axis"] % rank
    if axis == 0 or op.options["FusedActivationFunction"]:
        raise UnsupportedError(
            "joins samples, or has an activation", where=network.where(op), remedy="join along another axis, the activation behind"
        )
    for x in op.inputs:
        _same(network, op, x)
    name, parts = network.name(y), [network.held(x) for x in op.inputs]
    swap = (axis, *(0 if place == axis else place for place in range(1, rank - 1))) if axis < rank - 1 else None
    if swap:
        parts = [network.emit(f"{name}.part{place}", ops.Transpose(swap), part) for place, part in enumerate(parts)]
    joined = network.emit(f"{name}.joined" if swap else name, ops.Concat(), *parts)
    network.hold(y, network.emit(name, ops.Transpose(swap), joined) if swap else joined)


def pad(network: Network, op: Op) -> None:
    """With the zero point, or (PADV2) a constant."""
    x, y = op.inputs[0], op.outputs[0]
    _same(network, op, x)
    sides = network.constant(op.inputs[1], "padding", op)
    assert sides.data is not None
    pairs = tuple((int(before), int(after)) for before, after in sides.data.reshape(-1, 2))
    if any(pairs[0]) or len(pairs) != len(network.tensor(x).shape):
        raise UnsupportedError(f"pads by {pairs}", where=network.where(op), remedy="pad every axis but the first")
    value = network.quantized(x)[1]
    if len(op.inputs) > 2 and op.inputs[2] >= 0:
        given = network.constant(op.inputs[2], "value", op)
        assert given.data is not None
        value = int(given.data.reshape(-1)[0])
    name, node = network.name(y), network.held(x)
    if value:
        node = network.emit(f"{name}.less", ops.Affine(None, Const(np.array(-value), 0)), node)
    node = network.emit(f"{name}.padded" if value else name, ops.Pad((pairs[-1], *pairs[1:-1])), node)
    if value:
        node = network.emit(name, ops.Affine(None, Const(np.array(value), 0)), node)
    network.hold(y, node)


def resize_nearest_neighbor(network: Network, op: Op) -> None:
    """To whole multiples of height and width."""
    x, y = op.inputs[0], op.outputs[0]
    _same(network, op, x)
    before, after = network.shape(x), network.shape(y)
    factors = tuple(new // old for old, new in zip(before[:-1], after[:-1], strict=True))
    whole = all(old * factor == new for old, new, factor in zip(before, after, factors, strict=False))
    if not whole or (op.options["AlignCorners"] and max(factors) > 1):
        raise UnsupportedError(f"resizes {before} to {after}", where=network.where(op), remedy="resize by whole factors, corners not aligned")
    network.hold(y, network.emit(network.name(y), ops.Upsample(factors), network.held(x)))


def _same(network: Network, op: Op, x: int) -> None:
    """UnsupportedError unless the value keeps its scale and zero point."""
    if network.quantized(x) != network.quantized(op.outputs[0]):
        remedy = "requantize in front of it: only numbers are moved here"
        raise UnsupportedError(f"{network.tensor(x).name} has another scale than the result", where=network.where(op), remedy=remedy)
