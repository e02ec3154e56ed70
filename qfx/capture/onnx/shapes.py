"""ONNX operators that move numbers. The batch may lie on another axis between two transpositions: these are then made one, or gone round."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from qfx.capture.assemble import Value
from qfx.capture.onnx.node import Handler, Node


def permute(node: Node, x: Value, perm: Sequence[int]) -> Value:
    """Two permutations in a row are one, and none if nothing moves."""
    source, first = _unpermuted(x)
    whole = [first[axis] for axis in perm]
    return source if whole == sorted(whole) else node.call(torch.permute, source, tuple(whole))


def _unpermuted(x: Value) -> tuple[Value, list[int]]:
    if x.node.target is not torch.permute:
        return x, list(range(x.data.dim()))
    perm: list[int] = list(x.node.args[1])  # type: ignore[arg-type]
    return Value(x.node.args[0], x.data.permute(tuple(np.argsort(perm)))), perm  # type: ignore[arg-type]


def reshape(node: Node, x: Value, shape: Sequence[int]) -> Value:
    """To ``shape`` on the example; of other batches the axis differs that the batch is on."""
    wanted = list(torch.empty(x.data.shape, device="meta").reshape(tuple(shape)).shape)
    if node.make.literal:
        return node.call(torch.reshape, x, tuple(wanted))
    if wanted == list(x.data.shape):
        return x
    source, perm = _unpermuted(x)
    at = perm.index(0)
    if at and wanted[: at + 1] == list(x.data.shape[: at + 1]):  # the batch is on an axis that stays
        front = [at, *(axis for axis in range(x.data.dim()) if axis != at)]
        moved = reshape(node, permute(node, x, front), [wanted[at], *wanted[:at], *wanted[at + 1 :]])
        return permute(node, moved, [*range(1, at + 1), 0, *range(at + 1, len(wanted))])
    if at and source.data.numel() and [size for size in wanted if size != 1] == [size for size in x.data.shape if size != 1]:
        return _ones(node, x, wanted)
    if wanted and wanted[0] == x.data.shape[0] and len(wanted) == 2:
        return node.call(torch.flatten, x, 1)
    samples = node.make.input.data.shape[0]
    axis = 0 if not wanted or wanted[0] % samples == 0 or samples not in wanted else wanted.index(samples)
    return node.call(torch.reshape, x, tuple(-1 if place == axis else size for place, size in enumerate(wanted)))


def _ones(node: Node, x: Value, wanted: Sequence[int]) -> Value:
    """Take out and put in axes of one number, before the permutation in place of behind it."""
    source, perm = _unpermuted(x)
    keep = [axis for axis in perm if source.data.shape[axis] != 1 or axis == 0]
    order = sorted(keep)
    small = reshape(node, source, [source.data.shape[axis] for axis in order])
    result = permute(node, small, [order.index(axis) for axis in keep])
    for axis, size in enumerate(wanted):
        if axis >= result.data.dim() or result.data.shape[axis] != size:
            result = node.call(torch.unsqueeze, result, axis)
    return result


def _reshape(node: Node) -> Value:
    wanted, x = node.numbers(1, "shape") or [], node.x()
    if not node.integer("allowzero", 0):
        wanted = [x.data.shape[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    return reshape(node, x, wanted)


def _flatten(node: Node) -> Value:
    x = node.x()
    return reshape(node, x, (math.prod(x.data.shape[: node.integer("axis", 1) % (x.data.dim() + 1)]), -1))


def _squeeze(node: Node) -> Value:
    axes, x = node.axes(), node.x()
    gone = [axis for axis, size in enumerate(x.data.shape) if size == 1 and axis] if axes is None else axes
    source, perm = _unpermuted(x)
    at = perm.index(0)
    if at and at not in gone:  # before the permutation
        left = [axis for place, axis in enumerate(perm) if place not in gone]
        small = reshape(node, source, [size for axis, size in enumerate(source.data.shape) if axis in left])
        return permute(node, small, [sorted(left).index(axis) for axis in left])
    return reshape(node, x, [size for axis, size in enumerate(x.data.shape) if axis not in gone])


def _unsqueeze(node: Node) -> Value:
    x, axes = node.x(), node.numbers(1, "axes") or []
    shape = list(x.data.shape)
    for axis in sorted(axis % (len(shape) + len(axes)) for axis in axes):
        shape.insert(axis, 1)
        x = node.call(torch.unsqueeze, x, axis)
    return x


def _transpose(node: Node) -> Value:
    return permute(node, node.x(), node.ints("perm", tuple(reversed(range(node.x().data.dim())))))


def _concat(node: Node) -> Value:
    parts = [node.sample_wise(index) for index in range(len(node.arguments))]
    return node.call(torch.cat, parts, node.integer("axis", 1))


def _cut(node: Node, name: str, x: Value, axis: int, start: int, stop: int, step: int) -> Value:
    """A slice of one axis, before a permutation in place of behind it."""
    source, perm = _unpermuted(x)
    if perm.index(0) == 0:
        return node.make.slice(name, x, axis, start, stop, step)
    return permute(node, node.make.slice(name, source, perm[axis], start, stop, step), perm)


def _slice(node: Node) -> Value:
    starts, stops, axes, steps = node.numbers(1, "starts"), node.numbers(2, "ends"), node.numbers(3, "axes"), node.numbers(4)
    x = node.x()
    if starts is None or stops is None:
        raise node.refuse("no bounds", "export it again")
    axes = list(range(len(starts))) if axes is None else axes
    for number, (axis, start, stop, step) in enumerate(zip(axes, starts, stops, steps or [1] * len(starts), strict=True)):
        name = f"{node.name}_{number}" if number else node.name
        if step > 0:
            x = _cut(node, name, x, axis, start, stop, step)
            continue
        places = list(range(*slice(start, stop if stop >= -(2**31) else None, step).indices(x.data.shape[axis])))
        if places == list(range(x.data.shape[axis]))[::-1]:
            x = node.make.call(name, torch.flip, x, (axis,))
        else:
            x = node.make.call(name, torch.index_select, x, axis, node.make.constant(f"{name}_places", torch.tensor(places)))
    return x


def _split(node: Node) -> list[Value]:
    x, axis, count = node.x(), node.integer("axis", 0), len(node.proto.output)
    sizes, total = node.numbers(1, "split"), node.x().data.shape[node.integer("axis", 0)]
    size = math.ceil(total / count)
    lengths = [min(size, total - size * place) for place in range(count)] if sizes is None else sizes
    ends = np.cumsum(lengths)
    return [_cut(node, f"{node.name}_{i}", x, axis, int(end - size), int(end), 1) for i, (end, size) in enumerate(zip(ends, lengths, strict=True))]


def _gather(node: Node) -> Value:
    axis = node.integer("axis", 0)
    if isinstance(node.arguments[1], Value):  # rows of a table
        table = node.tensor(0)
        if table is None or axis % table.dim() or table.dim() != 2:
            raise node.refuse("places that depend on data, in other than the rows of a table", "use an embedding (nn.Embedding)")
        return node.make.layer(node.name, torch.nn.Embedding(table.shape[0], table.shape[1], _weight=table), node.x(1))
    x, places = node.x(), node.constant(1)
    if places is None:
        raise node.refuse("no places", "export it again")
    axis, flat = axis % x.data.dim(), [int(place) for place in np.ravel(places)]
    source, perm = _unpermuted(x)
    if places.ndim == 0 and perm.index(0) not in (0, axis):  # before the permutation
        small = node.call(torch.select, source, perm[axis], flat[0])
        left = [each for place, each in enumerate(perm) if place != axis]
        return permute(node, small, [sorted(left).index(each) for each in left])
    if places.ndim == 0:
        return node.call(torch.select, x, axis, flat[0])
    flat = [place % x.data.shape[axis] for place in flat]
    result = node.call(torch.index_select, x, axis, node.make.constant(f"{node.name}_places", torch.tensor(flat)))
    shape = list(x.data.shape)
    return result if places.ndim == 1 else reshape(node, result, [*shape[:axis], *places.shape, *shape[axis + 1 :]])


def _gather_nd(node: Node) -> Value:
    """Numbers of the first axis, of which a list of places is left: what an index by a list becomes, between two transpositions."""
    places = node.constant(1)
    x, at = node.x(), node.integer("batch_dims", 0)
    source, perm = _unpermuted(x)
    if places is not None and places.ndim > 1 and places.shape[1:] != (1,) and not at and 0 not in perm[: places.shape[-1]]:
        return _along_several(node, source, perm, places)
    if places is None or places.shape[1:] != (1,) or at or perm[0] == 0:
        raise node.refuse("places along several axes, or along the samples", "index one axis, behind the batch, by a list")
    flat = torch.tensor([int(place) % x.data.shape[0] for place in np.ravel(places)])
    return permute(node, node.call(torch.index_select, source, perm[0], node.make.constant(f"{node.name}_places", flat)), perm)


def _along_several(node: Node, source: Value, perm: Sequence[int], places: np.ndarray[Any, Any]) -> Value:
    """Places along the first axes of a permuted value, one list for each combination: of these axes made one, behind all others."""
    count, samples = places.shape[-1], source.data.shape[0]
    rest = [0, *(axis for axis in perm[count:] if axis != 0)]
    sizes, others = [source.data.shape[axis] for axis in perm[:count]], [source.data.shape[axis] for axis in rest[1:]]
    flat = np.ravel_multi_index(tuple(np.moveaxis(places % np.array(sizes), -1, 0)), sizes)
    turned = permute(node, source, [*rest, *perm[:count]])
    line = reshape(node, turned, [samples, *others, math.prod(sizes)])
    taken = node.call(torch.index_select, line, len(rest), node.make.constant(f"{node.name}_places", torch.from_numpy(np.ravel(flat))))
    found = reshape(node, taken, [samples, *others, *flat.shape])
    behind = [rest.index(axis) for axis in perm[count:]]
    return permute(node, found, [*range(len(rest), len(rest) + flat.ndim), *behind])


def _replaced(node: Node, x: Value, axis: int, places: list[int], source: Value) -> Value:
    """A value, others in its places along one axis."""
    step = places[1] - places[0] if len(places) > 1 else 1
    if axis == 0 or step < 1 or places != list(range(places[0], places[-1] + 1, step)):
        raise node.refuse(f"places {places} along axis {axis}", "replace a slice of one axis behind the batch: torch.slice_scatter")
    return node.call(torch.slice_scatter, x, source, axis, places[0], places[-1] + 1, step)


def _scatter_nd(node: Node) -> Value:
    """Along the first axis, between transpositions: what an index by a list that is written to becomes."""
    places = node.constant(1)
    source, perm = _unpermuted(node.x())
    if places is None or places.ndim != 2 or places.shape[1:] != (1,) or not places.size or node.text("reduction", "none") != "none":
        raise node.refuse("places along several axes, or a reduction", "replace a slice of one axis behind the batch: torch.slice_scatter")
    size = source.data.shape[perm[0]]
    given = permute(node, node.x(2), [int(place) for place in np.argsort(perm)])
    return permute(node, _replaced(node, source, perm[0], [int(place) % size for place in np.ravel(places)], given), perm)


def _scatter_elements(node: Node) -> Value:
    """Where all places of a row along the axis are one."""
    x, places, axis, given = node.x(), node.constant(1), node.integer("axis", 0), node.x(2)
    axis %= x.data.dim()
    if places is None or not places.size or node.text("reduction", "none") != "none":
        raise node.refuse("no places, or a reduction", "replace a slice of one axis: torch.slice_scatter")
    rows = np.moveaxis(places, axis, 0).reshape(places.shape[axis], -1)
    whole = [size for at, size in enumerate(x.data.shape) if at != axis] == [size for at, size in enumerate(places.shape) if at != axis]
    if not whole or tuple(given.data.shape) != tuple(places.shape) or (rows != rows[:, :1]).any():
        raise node.refuse("places that differ along other axes", "replace a slice of one axis: torch.slice_scatter")
    return _replaced(node, x, axis, [int(place) % x.data.shape[axis] for place in rows[:, 0]], given)


def _gather_elements(node: Node) -> Value:
    places = node.constant(1)
    if places is None:
        raise node.refuse("no places", "export it again")
    x, axis = node.x(), node.integer("axis", 0)
    index = node.sample_wise(1)
    if (places < 0).any():
        index = node.call(torch.remainder, index, x.data.shape[axis])
    return node.call(torch.gather, x, axis, index)


def _expand(node: Node) -> Value:
    x, shape = node.x(), node.numbers(1) or []
    sizes = list(np.broadcast_shapes(tuple(x.data.shape), tuple(shape)))
    if list(x.data.shape) == sizes:
        return x
    extra = len(sizes) - x.data.dim()
    kept = [-1 if place >= extra and x.data.shape[place - extra] == size else size for place, size in enumerate(sizes)]
    return node.call(torch.Tensor.expand, x, tuple(kept))


def _tile(node: Node) -> Value:
    times = node.numbers(1) or []
    return node.x() if set(times) == {1} else node.call(torch.Tensor.repeat, node.x(), tuple(times))


def _depth_to_space(node: Node) -> Value:
    x, block = node.x(), node.integer("blocksize", 2)
    if node.text("mode", "DCR") == "CRD":
        return node.call(functional.pixel_shuffle, x, block)
    channels = x.data.shape[1] // block**2
    order = [s * channels + c for c in range(channels) for s in range(block**2)]
    sorted_ = node.call(torch.index_select, x, 1, node.make.constant(f"{node.name}_places", torch.tensor(order)))
    return node.call(functional.pixel_shuffle, sorted_, block)


def _space_to_depth(node: Node) -> Value:
    x, block = node.x(), node.integer("blocksize", 2)
    channels = x.data.shape[1]
    order = [c * block**2 + s for s in range(block**2) for c in range(channels)]
    result = node.call(functional.pixel_unshuffle, x, block)
    return node.call(torch.index_select, result, 1, node.make.constant(f"{node.name}_places", torch.tensor(order)))


def _pad(node: Node) -> Value:
    x = node.x()
    flat, value, axes = node.numbers(1, "pads"), node.constant(2, "value"), node.numbers(3)
    rank, mode = x.data.dim(), node.text("mode", "constant")
    if flat is None:
        raise node.refuse("no pads", "export it again")
    wanted = list(range(rank)) if axes is None else [axis % rank for axis in axes]
    pairs = [(0, 0)] * rank
    for place, axis in enumerate(wanted):
        pairs[axis] = flat[place], flat[place + len(wanted)]
    if not any(side for pair in pairs for side in pair):
        return x
    fill = 0.0 if value is None else float(np.ravel(value)[0])
    zeros = mode == "constant" and fill == 0.0 and pairs[:2] == [(0, 0)] * 2
    if zeros and all(side >= 0 for pair in pairs for side in pair):
        return node.make.pad(node.name, x, pairs[2:])
    while pairs and pairs[0] == (0, 0):
        pairs.pop(0)
    sides = tuple(side for pair in reversed(pairs) for side in pair)
    if mode == "constant":
        return node.call(functional.pad, x, sides, value=fill)
    modes = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    return node.call(functional.pad, x, sides, mode=modes[mode])


def _trilu(node: Node) -> Value:
    diagonal = node.numbers(1)
    return node.call(torch.triu if node.integer("upper", 1) else torch.tril, node.x(), (diagonal or [0])[0])


def element(node: Node, several: Value, place: int) -> Value:
    """One of the tensors that an operation gives."""
    return node.call(operator.getitem, several, place)


HANDLERS: dict[str, Handler] = {
    "Concat": _concat,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Pad": _pad,
    "Slice": _slice,
    "Split": _split,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "ScatterND": _scatter_nd,
    "ScatterElements": _scatter_elements,
    "Expand": _expand,
    "Tile": _tile,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Trilu": _trilu,
}
