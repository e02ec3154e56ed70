"""ONNX's Resize: which pixels it reads, by its own words for it, and the function of torch that reads the same."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from qfx.capture.assemble import Value
from qfx.capture.onnx.node import Array, Handler, Node

_LINEAR = ("linear", "bilinear", "trilinear")
_PLACES = ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric", "asymmetric", "align_corners", "tf_half_pixel_for_nn")
_CLOSE = 1e-5
"""Weights that differ by less are equal: ONNX's and torch's are float32."""


def _resize(node: Node) -> Value:
    x, upsample = node.x(), node.proto.op_type == "Upsample"
    mode, rank, old = node.text("mode", "nearest"), node.x().rank, upsample or node.opset < 11
    how = "asymmetric" if old else node.text("coordinate_transformation_mode", "half_pixel")
    rounding = "floor" if old else node.text("nearest_mode", "round_prefer_floor")
    out, scales = _target(node, x, at=1 if old else 2)
    if rank not in (1, 2, 3):
        raise node.refuse(f"a value of shape {tuple(x.data.shape)}", "resize the axes behind the channels")
    if mode not in ("nearest", "linear") or how not in _PLACES or node.integer("antialias", 0):
        raise node.refuse(f"mode {mode!r} by {how}", "use nearest, or linear by half_pixel, asymmetric or align_corners, without antialias")
    size = x.data.shape[2:]
    places = [_places(how, n, count, scale) for n, count, scale in zip(size, out, scales, strict=True)]
    if mode == "nearest":
        orders = [_rounded(where, rounding).clip(0, n - 1).astype(int) for where, n in zip(places, size, strict=True)]
        return _nearest(node, x, [order.tolist() for order in orders], scales)
    maps = [_between(where.astype(np.float64).clip(0, n - 1), n) for where, n in zip(places, size, strict=True)]
    return _linear(node, x, maps, scales, how)


def _target(node: Node, x: Value, at: int) -> tuple[list[int], list[float]]:
    """The size behind the channels, and the factors by which the places are found."""
    given, sizes = node.constant(at, "scales"), node.numbers(3) if at == 2 else None
    axes = list(node.ints("axes", range(x.data.dim())))
    target, factors = list(x.data.shape), [1.0] * x.data.dim()
    if given is not None and given.size:
        for axis, scale in zip(axes, np.ravel(given), strict=True):
            target[axis], factors[axis] = math.floor(target[axis] * float(scale)), float(scale)
    for axis, size in zip(axes, sizes or (), strict=False):
        target[axis], factors[axis] = size, size / x.data.shape[axis]
    if target[:2] != list(x.data.shape[:2]):
        raise node.refuse(f"a size from {tuple(x.data.shape)} to {tuple(target)}", "resize the axes behind the channels")
    if node.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise node.refuse("keep_aspect_ratio_policy", "give the size that it comes to, or scales")
    return target[2:], factors[2:]


def _places(how: str, size: int, out: int, scale: float) -> Array:
    """Where each number of an axis of ``out`` lies on that of ``size``, in float32 as ONNX Runtime computes it."""
    number, factor = np.arange(out, dtype=np.float32), np.float32(scale)
    half = np.float32(0.5)
    if how == "align_corners":
        return number * np.float32(size - 1) / np.float32(out - 1) if out > 1 else number * 0
    if how == "asymmetric":
        return number / factor
    if how == "tf_half_pixel_for_nn":
        return (number + half) / factor
    if how == "pytorch_half_pixel" and out == 1:
        return number * 0
    middle = np.float32(size / 2 * (1 - out / (scale * size))) if how == "half_pixel_symmetric" else np.float32(0)
    return middle + (number + half) / factor - half


def _rounded(places: Array, how: str) -> Array:
    half = np.float32(0.5)
    ways = {"floor": np.floor(places), "ceil": np.ceil(places), "round_prefer_floor": np.ceil(places - half)}
    rounded: Array = ways.get(how, np.floor(places + half))
    return rounded


def _between(places: Array, size: int) -> Tensor:
    """The matrix (result, input) of an axis: each place between its two neighbours."""
    low = np.minimum(np.floor(places).astype(int), size - 1)
    high, part = np.minimum(low + 1, size - 1), torch.from_numpy(places - low)
    found = torch.zeros(len(places), size, dtype=torch.float64)
    rows = torch.arange(len(places))
    found.index_put_((rows, torch.from_numpy(low)), 1 - part, accumulate=True)
    found.index_put_((rows, torch.from_numpy(high)), part, accumulate=True)
    return found


def _nearest(node: Node, x: Value, orders: list[list[int]], scales: Sequence[float]) -> Value:
    size = x.data.shape[2:]
    for mode in ("nearest", "nearest-exact"):
        for given in _given(size, [len(order) for order in orders], scales):
            if all(_taken(n, axis, mode, given) == order for axis, (n, order) in enumerate(zip(size, orders, strict=True))):
                return node.call(functional.interpolate, x, mode=mode, **given)
    for axis, (n, order) in enumerate(zip(size, orders, strict=True), start=2):
        if order != [*range(n)]:
            x = node.call(torch.index_select, x, axis, node.make.constant(f"{node.name}_places", torch.tensor(order)))
    return x


def _linear(node: Node, x: Value, maps: list[Tensor], scales: Sequence[float], how: str) -> Value:
    size, out = x.data.shape[2:], [len(each) for each in maps]
    mode = _LINEAR[len(size) - 1]
    for corners in (False, True):
        for given in _given(size, out, scales):
            if all(_alike(_torchs(n, axis, given, corners), each) for axis, (n, each) in enumerate(zip(size, maps, strict=True))):
                return node.call(functional.interpolate, x, mode=mode, align_corners=corners, **given)
    by_size = {"size": tuple(count + 1 for count in out)}
    if how == "asymmetric" and all(
        _alike(_folded(_torchs(n + 1, axis, by_size, True)), each) for axis, (n, each) in enumerate(zip(size, maps, strict=True))
    ):
        # With the last pixel once more, and one number more, what is from corner to corner begins every number where ONNX does.
        padded = node.call(functional.pad, x, (0, 1) * len(size), mode="replicate")
        found = node.call(functional.interpolate, padded, mode=mode, align_corners=True, **by_size)
        return node.call(operator.getitem, found, (slice(None), slice(None), *(slice(0, count) for count in out)))
    raise node.refuse(f"mode 'linear' by {how} from {tuple(size)} to {tuple(out)}", "resize by whole factors, or to a size")


def _given(size: Sequence[int], out: Sequence[int], scales: Sequence[float]) -> list[dict[str, Any]]:
    """The arguments of F.interpolate that give ``out``: its factor where all axes have one, its size, its factors."""
    ways: list[dict[str, Any]] = [{"size": tuple(out)}]
    if [math.floor(n * scale) for n, scale in zip(size, scales, strict=True)] == list(out):
        whole = len(set(scales)) == 1 and float(scales[0]).is_integer()
        ways.insert(0 if whole else 1, {"scale_factor": scales[0] if whole else tuple(scales)})
    return ways


def _of_axis(given: dict[str, Any], axis: int) -> dict[str, Any]:
    return {name: value[axis] if isinstance(value, tuple) else value for name, value in given.items()}


def _taken(size: int, axis: int, mode: str, given: dict[str, Any]) -> list[int]:
    numbers = torch.arange(size, dtype=torch.float32)[None, None]
    found: list[int] = functional.interpolate(numbers, mode=mode, **_of_axis(given, axis)).reshape(-1).long().tolist()
    return found


def _torchs(size: int, axis: int, given: dict[str, Any], corners: bool) -> Tensor:
    unit = torch.eye(size, dtype=torch.float64)[:, None]
    return functional.interpolate(unit, mode="linear", align_corners=corners, **_of_axis(given, axis))[:, 0].T


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() < _CLOSE)


def _folded(longer: Tensor) -> Tensor:
    """The map of a line whose last number is once more at its end, without its own last number, as one of the line."""
    found = longer[:-1, :-1].clone()
    found[:, -1] += longer[:-1, -1]
    return found


HANDLERS: dict[str, Handler] = {"Resize": _resize, "Upsample": _resize}
