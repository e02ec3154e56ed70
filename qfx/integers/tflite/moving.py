"""Numbers at other places."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qfx import operators as ops
from qfx.errors import ModelFileError, UnsupportedError
from qfx.fixed.type import QMode
from qfx.integers.tflite.file import Op
from qfx.integers.tflite.network import Network, channels_first
from qfx.ir.values import Const

_ONE = 1 << 10
"""The weights of two neighbours together, where values are interpolated."""


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


def transpose(network: Network, op: Op) -> None:
    """Axes in another order, the batch in front as before."""
    x, y = op.inputs[0], op.outputs[0]
    _same(network, op, x)
    perm = _numbers(network, op, 1, "order")
    rank = len(network.tensor(x).shape)
    if sorted(perm) != list(range(rank)) or perm[0] != 0:
        raise UnsupportedError(f"orders the axes {perm}", where=network.where(op), remedy="keep the batch in front")
    place = {axis: 0 if axis == rank - 1 else axis for axis in range(1, rank)}  # where an axis lies with channels first
    order = [place[axis] for axis in perm[1:]]
    network.hold(y, network.emit(network.name(y), ops.Transpose((order[-1], *order[:-1])), network.held(x)))


def slice_(network: Network, op: Op) -> None:
    x = op.inputs[0]
    starts, sizes = _numbers(network, op, 1, "start"), _numbers(network, op, 2, "size")
    whole = network.tensor(x).shape
    stops = [at + size if size >= 0 else end for at, size, end in zip(starts, sizes, whole, strict=True)]
    _sliced(network, op, x, op.outputs[0], starts, stops, [1] * len(whole))


def strided_slice(network: Network, op: Op) -> None:
    x, y = op.inputs[0], op.outputs[0]
    whole = network.tensor(x).shape
    starts, stops, steps = (_numbers(network, op, place, what) for place, what in ((1, "start"), (2, "end"), (3, "step")))
    if any(op.options[mask] for mask in ("EllipsisMask", "NewAxisMask", "ShrinkAxisMask")) or min(steps) < 1 or len(starts) != len(whole):
        remedy = "give start, end and a step of at least 1 for every axis"
        raise UnsupportedError("adds or leaves out axes, or goes backwards", where=network.where(op), remedy=remedy)
    for axis, size in enumerate(whole):
        starts[axis] = 0 if op.options["BeginMask"] >> axis & 1 else starts[axis] + size * (starts[axis] < 0)
        stops[axis] = size if op.options["EndMask"] >> axis & 1 else min(stops[axis] + size * (stops[axis] < 0), size)
    _sliced(network, op, x, y, starts, stops, steps)


def split(network: Network, op: Op) -> None:
    """Into parts of one size along an axis."""
    x = op.inputs[1]
    whole = network.tensor(x).shape
    axis = _numbers(network, op, 0, "axis")[0] % len(whole)
    if whole[axis] % len(op.outputs):
        raise ModelFileError(f"splits {whole[axis]} into {len(op.outputs)}", where=network.where(op), remedy="the file is damaged; convert it again")
    size = whole[axis] // len(op.outputs)
    for place, y in enumerate(op.outputs):
        starts, stops = [0] * len(whole), list(whole)
        starts[axis], stops[axis] = place * size, (place + 1) * size
        _sliced(network, op, x, y, starts, stops, [1] * len(whole))


def _sliced(network: Network, op: Op, x: int, y: int, starts: list[int], stops: list[int], steps: list[int]) -> None:
    """Bounds for every axis, the batch and channels last."""
    _same(network, op, x, y)
    if starts[0] or stops[0] < 1:
        raise UnsupportedError("takes a part of the batch", where=network.where(op), remedy="keep the whole batch")
    bounds = (channels_first(tuple(each[1:])) for each in (starts, stops, steps))
    network.hold(y, network.emit(network.name(y), ops.Slice(*bounds), network.held(x)))


def _numbers(network: Network, op: Op, place: int, what: str) -> list[int]:
    """Those of a constant input."""
    tensor = network.constant(op.inputs[place], what, op)
    assert tensor.data is not None
    return [int(number) for number in tensor.data.reshape(-1)]


def pad(network: Network, op: Op) -> None:
    """With the zero point, or (PADV2) a constant."""
    x, y = op.inputs[0], op.outputs[0]
    _same(network, op, x)
    sides = _numbers(network, op, 1, "padding")
    pairs = tuple(zip(sides[::2], sides[1::2], strict=True))
    if any(pairs[0]) or len(pairs) != len(network.tensor(x).shape):
        raise UnsupportedError(f"pads by {pairs}", where=network.where(op), remedy="pad every axis but the first")
    value = network.quantized(x)[1]
    if len(op.inputs) > 2 and op.inputs[2] >= 0:
        (value,) = _numbers(network, op, 2, "value")
    name, node = network.name(y), network.held(x)
    less = network.plus(f"{name}.less", node, -value)
    padded = network.emit(f"{name}.padded" if value else name, ops.Pad((pairs[-1], *pairs[1:-1])), less)
    network.hold(y, network.plus(name, padded, value))


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


def resize_bilinear(network: Network, op: Op) -> None:
    """Along each axis two neighbours by weights of 10 bits, and one rounding, ties away from zero (reference/resize_bilinear.h of TFLite)."""
    x, y = op.inputs[0], op.outputs[0]
    _same(network, op, x)
    before, after, name, node = network.shape(x), network.shape(y), network.name(y), network.held(x)
    if len(before) != 3 or len(after) != 3:
        raise UnsupportedError(f"resizes {before} to {after}", where=network.where(op), remedy="give (height, width, channels)")
    for axis, side in ((1, "rows"), (2, "columns")):
        size, wanted = before[axis - 1], after[axis - 1]
        corners = bool(op.options["AlignCorners"]) and wanted > 1
        step = ((size - corners) * _ONE + (wanted - corners) // 2) // (wanted - corners)
        places = np.arange(wanted) * step + (step // 2 - _ONE // 2 if op.options["HalfPixelCenters"] else 0)
        first, second = np.maximum(np.sign(places) * (np.abs(places) // _ONE), 0), np.minimum((places + _ONE - 1) // _ONE, size - 1)
        share = places - _ONE * first
        parts = []
        for end, taken, weight in (("first", first, _ONE - share), ("second", second, share)):
            part = network.emit(f"{name}.{side}.{end}", ops.Take(axis, tuple(taken.tolist())), node)
            shaped = weight.reshape(()) if wanted == 1 else weight.reshape((1, -1, 1) if axis == 1 else (1, 1, -1))
            parts.append(network.emit(f"{name}.{side}.{end}.weighted", ops.Affine(Const(shaped, 10), None), part))
        node = network.emit(f"{name}.{side}", ops.Add(), *parts)
    network.hold(y, network.rounded(replace(network.result(y, op), zero=0), node, QMode.RND_INF))  # stored integers, zero point and all


def _same(network: Network, op: Op, x: int, y: int | None = None) -> None:
    """UnsupportedError unless the value keeps its scale and zero point."""
    if network.quantized(x) != network.quantized(op.outputs[0] if y is None else y):
        remedy = "requantize in front of it: only numbers are moved here"
        raise UnsupportedError(f"{network.tensor(x).name} has another scale than the result", where=network.where(op), remedy=remedy)
