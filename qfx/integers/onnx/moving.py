"""Numbers at other places, averages and extremes of windows."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx

from qfx import operators as ops
from qfx.errors import UnsupportedError
from qfx.integers.growing import Function
from qfx.integers.onnx.file import Fused
from qfx.integers.onnx.network import Network, View
from qfx.integers.onnx.products import FRACTIONS
from qfx.integers.steps import Ints
from qfx.ir.values import Const


def identity(network: Network, node: Fused) -> None:
    network.views[node.outputs[0]] = network.view(node.inputs[0], node)


def reshape(network: Network, node: Fused) -> None:
    """Reshape, Flatten, Squeeze and Unsqueeze: the batch stays in front."""
    view = network.view(node.inputs[0], node)
    shape = network.infos[view.node].shape
    whole = (1, *shape)
    zeros = np.zeros(whole, dtype=np.int8)
    made = network.model.measured(node, {node.inputs[0]: zeros if view.floats is None and view.signed else zeros.astype(_dtype(view))}).shape
    if made[:1] != (1,) or math.prod(made) != math.prod(shape):
        raise UnsupportedError(f"gives the shape {made}", where=network.where(node), remedy="keep the batch in front")
    network.moved(node, network.emit(network.name(node.outputs[0]), ops.Reshape(made[1:]), view.node) if made[1:] != shape else view.node, view)


def transpose(network: Network, node: Fused) -> None:
    view = network.view(node.inputs[0], node)
    rank = len(network.infos[view.node].shape) + 1
    perm = tuple(node.attributes.get("perm", reversed(range(rank))))
    if perm[0] != 0:
        raise UnsupportedError(f"orders the axes {perm}", where=network.where(node), remedy="keep the batch in front")
    network.moved(node, network.emit(network.name(node.outputs[0]), ops.Transpose(tuple(axis - 1 for axis in perm[1:])), view.node), view)


def slice_(network: Network, node: Fused) -> None:
    view = network.view(node.inputs[0], node)
    shape = (1, *network.infos[view.node].shape)
    starts, stops = (network.constant(name, node).tolist() for name in node.inputs[1:3])
    axes = network.constant(node.inputs[3], node).tolist() if len(node.inputs) > 3 and node.inputs[3] else range(len(starts))
    steps = network.constant(node.inputs[4], node).tolist() if len(node.inputs) > 4 and node.inputs[4] else [1] * len(starts)
    bounds = [[0, size, 1] for size in shape]
    for start, stop, axis, step in zip(starts, stops, axes, steps, strict=True):
        if step < 1:
            raise UnsupportedError(f"goes backwards ({step})", where=network.where(node), remedy="use steps of at least 1")
        bounds[axis] = [*slice(start, stop, step).indices(shape[axis])]
    if bounds[0] != [0, 1, 1]:
        raise UnsupportedError("takes a part of the batch", where=network.where(node), remedy="keep the whole batch")
    taken = ops.Slice(*(tuple(each) for each in zip(*bounds[1:], strict=True)))
    network.moved(node, network.emit(network.name(node.outputs[0]), taken, view.node), view)


def max_pool(network: Network, node: Fused) -> None:
    """Of integers, or of floats that rise with them."""
    view = network.view(node.inputs[0], node)
    if view.floats is not None and (np.diff(view.floats) < 0).any():
        raise UnsupportedError("reads a function that falls", where=network.where(node), remedy="quantize its input")
    kernel = tuple(node.attributes["kernel_shape"])
    rank = len(kernel)
    stride, dilation = (tuple(node.attributes.get(name, (1,) * rank)) for name in ("strides", "dilations"))
    sides = node.attributes.get("pads", (0,) * (2 * rank))
    automatic = node.attributes.get("auto_pad", b"NOTSET").decode()
    if node.attributes.get("ceil_mode", 0) or automatic not in ("NOTSET", "VALID") or len(node.outputs) > 1:
        remedy = "give pads, without ceil_mode"
        raise UnsupportedError("has ceil_mode, automatic pads or indices", where=network.where(node), remedy=remedy)
    pads = tuple(zip(sides[:rank], sides[rank:], strict=True))
    network.moved(node, network.emit(network.name(node.outputs[0]), ops.MaxPool(kernel, stride, pads, dilation), view.node), view)


def qlinear_global_average_pool(network: Network, node: Fused) -> None:
    """The kernel adds integers and scales their sum: measured for every sum."""
    if node.attributes.get("channels_last", 0):
        raise UnsupportedError("has its channels last", where=network.where(node), remedy="keep them in front")
    view = network.integers(node.inputs[0], node)
    shape = network.infos[view.node].shape
    count = math.prod(shape[1:])
    low = int(view.numbers[0])
    sums = np.arange(low * count, (low + 255) * count + 1)
    each = np.full((sums.size, count), 0, dtype=np.int64)  # above the least number: as many of 255 as go, and the rest
    full, rest = np.divmod(sums - low * count, 255)
    places = np.arange(count)[None, :]
    each += np.where(places < full[:, None], 255, np.where(places == full[:, None], rest[:, None], 0)) + low
    images = each.reshape(1, sums.size, *shape[1:]).astype(view.stored.dtype)
    table = network.model.measured(node, {node.inputs[0]: images}).astype(np.int64).reshape(-1)
    result = network.result(node, node.inputs[4])

    def call(asked: Ints) -> Ints:
        found: Ints = table[asked - sums[0]] - result.zero
        return found

    total = network.emit(f"{result.name}.sum", ops.ReduceSum(tuple(range(1, len(shape)))), view.node)
    network.hold(node, network.stepped(result, total, [Function(call, FRACTIONS, even=True)]), result.signed)


def qlinear_concat(network: Network, node: Fused) -> None:
    """Each part on the scale of the result, by a table that is measured."""
    rank = len(network.infos[network.integers(node.inputs[2], node).node].shape) + 1
    axis = int(node.attributes["axis"]) % rank
    if axis == 0:
        raise UnsupportedError("joins samples", where=network.where(node), remedy="join along another axis")
    signed = network.zero(node.inputs[1], node)[1]
    parts = []
    for place in range(2, len(node.inputs), 3):
        view = network.integers(node.inputs[place], node)
        parts.append(_rescaled(network, node, view, place, signed))
    swap = (axis - 1, *(0 if other == axis - 1 else other for other in range(1, rank - 1))) if axis > 1 else None
    name = network.name(node.outputs[0])
    if swap:
        parts = [network.emit(f"{name}.part{place}", ops.Transpose(swap), part) for place, part in enumerate(parts)]
    joined = network.emit(f"{name}.joined" if swap else name, ops.Concat(), *parts) if len(parts) > 1 else parts[0]
    network.hold(node, network.emit(name, ops.Transpose(swap), joined) if swap else joined, signed)


def _rescaled(network: Network, node: Fused, view: View, place: int, signed: bool) -> str:
    """One part of a concatenation: the kernel alone with this one."""
    proto = onnx.NodeProto()
    proto.CopyFrom(node.proto)
    del proto.input[:]
    proto.input.extend([*node.inputs[:2], *node.inputs[place : place + 3]])
    for attribute in proto.attribute:
        if attribute.name == "axis":
            attribute.i = 0
    alone = Fused(node.kind, tuple(proto.input), node.outputs, {}, proto)
    entries = network.model.measured(alone, {node.inputs[place]: view.stored}).astype(np.int64)
    if signed == view.signed and (entries == view.numbers).all():
        return view.node
    name = f"{network.name(node.outputs[0])}.scaled{place}"
    return network.emit(name, ops.Lookup(Const(entries, 0), int(view.numbers[0]), 0), view.node)


def _dtype(view: View) -> type[np.generic]:
    if view.floats is not None:
        return np.float32
    return np.int8 if view.signed else np.uint8


def split(network: Network, node: Fused) -> None:
    """Parts along an axis, of one size or of the sizes given."""
    view = network.view(node.inputs[0], node)
    shape = network.infos[view.node].shape
    axis = int(node.attributes.get("axis", 0)) % (len(shape) + 1) - 1
    if axis < 0:
        raise UnsupportedError("takes a part of the batch", where=network.where(node), remedy="keep the whole batch")
    given = network.constant(node.inputs[1], node).tolist() if len(node.inputs) > 1 and node.inputs[1] else None
    even = -(-shape[axis] // len(node.outputs))
    start = 0
    for place, output in enumerate(node.outputs):
        stop = min(start + even, shape[axis]) if given is None else start + int(given[place])
        ends = [(start, stop, 1) if other == axis else (0, size, 1) for other, size in enumerate(shape)]
        taken = ops.Slice(*(tuple(each) for each in zip(*ends, strict=True)))
        network.views[output] = replace(view, node=network.emit(network.name(output), taken, view.node))
        start = stop


def resize(network: Network, node: Fused) -> None:
    """To the nearest pixel, along each axis as the kernel is measured to choose it."""
    view = network.view(node.inputs[0], node)
    shape, name, held = network.infos[view.node].shape, network.name(node.outputs[0]), view.node
    mode = node.attributes.get("mode", b"nearest").decode()
    if mode != "nearest" or node.attributes.get("coordinate_transformation_mode", b"").decode() == "tf_crop_and_resize":
        what = "computes floats of several numbers, or crops"
        raise UnsupportedError(what, where=network.where(node), remedy="resize to the nearest pixel, or by a transposed convolution")
    taken = [_places(network, node, shape, axis) for axis in range(len(shape))]
    factors = tuple(len(each) // size for each, size in zip(taken, shape, strict=True))
    whole = all(each == [at // factor for at in range(size * factor)] for each, size, factor in zip(taken, shape, factors, strict=True) if factor)
    if min(factors) >= 1 and factors[0] == 1 and whole and len(shape) == 3:
        network.moved(node, network.emit(name, ops.Upsample(factors[1:]), held) if max(factors) > 1 else held, view)
        return
    for axis, each in enumerate(taken):
        if each != list(range(shape[axis])):
            held = network.emit(f"{name}.axis{axis}", ops.Take(axis, tuple(each)), held)
    network.moved(node, held, view)


def _places(network: Network, node: Fused, shape: tuple[int, ...], axis: int) -> list[int]:
    """Which place along an axis each place of the result is taken from: what the kernel makes of the places' numbers."""
    ramp = np.arange(shape[axis], dtype=np.float32).reshape(1, *(shape[axis] if other == axis else 1 for other in range(len(shape))))
    made = network.model.measured(node, {node.inputs[0]: np.broadcast_to(ramp, (1, *shape)).copy()})
    if made.shape[0] != 1 or made.ndim != len(shape) + 1:
        raise UnsupportedError(f"gives the shape {made.shape}", where=network.where(node), remedy="keep the batch in front")
    line = np.moveaxis(made, axis + 1, 0).reshape(made.shape[axis + 1], -1)[:, 0]
    return [int(place) for place in line]
