"""What operations become on values that are turned, the batch in front: by the kind of operation."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from math import prod
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from qfx.capture.batch.frames import channelwise, convolution, normalization
from qfx.capture.batch.layout import Layout
from qfx.capture.batch.operation import MIXES, NotFollowedError, Operation, Written

Rule = Callable[[Operation], Written]


def elementwise(op: Operation) -> Written:
    """Number by number, operands repeated as torch does."""
    rank = len(op.result)
    first = next((node for node in op.sources if op.layouts[node].inner), op.sources[0])
    layout = op.layouts[first].moved(rank - len(op.shapes[first][0]))
    args, kwargs = map_arg((op.node.args, dict(op.node.kwargs)), lambda node: op.aligned(node, rank, layout))
    return Written(layout, op.node.target, args, kwargs)


def _prelu(op: Operation) -> Written:
    weights = [node for node in op.node.all_input_nodes if node not in op.layouts]
    if any(op.shapes[node][0] not in ((), (1,)) for node in weights) or (op.node.op == "call_module"):
        raise NotFollowedError("has a slope for each channel", "use one slope: nn.PReLU()")
    return op.again(op.layout)


def _view(op: Operation) -> Written:
    source = op.source
    layout = op.layout.viewed(op.shape, op.shapes[op.node], op.batches)
    if layout is None:
        raise NotFollowedError
    return op.finished(layout, op.turned[source], op.layout.turned(op.shape))


def _permute(op: Operation) -> Written:
    rank = len(op.shape)
    numbers: Tensor = torch.empty(tuple(range(2, rank + 2)), device="meta")
    args, kwargs = (numbers, *op.node.args[1:]), dict(op.node.kwargs)
    target: Any = op.node.target
    moved = getattr(numbers, target)(*args[1:], **kwargs) if isinstance(target, str) else target(*args, **kwargs)
    perm = [size - 2 for size in moved.shape]
    layout = Layout(perm.index(op.layout.axis), op.layout.before, op.layout.behind)
    order = [place for axis in perm for place in op.layout.places(axis)]
    turned = op.turned[op.source]
    return Written(layout, None, (turned,)) if order == sorted(order) else Written(layout, torch.permute, (turned, (0, *order)))


def _linear(op: Operation) -> Written:
    if op.layout.axis == len(op.shape) - 1:
        raise NotFollowedError("adds up along the axis that holds the batch", MIXES)
    return op.again(op.layout)


def _rows(op: Operation) -> Written:
    """A row of a table for each number, along a new last axis."""
    rows = op.put(None, (op.turned[op.source], *op.node.args[1:]))
    return op.finished(op.layout, rows, (*op.layout.turned(op.shape), op.result[-1]))


def _reduce(op: Operation) -> Written:
    """Along some axes, which may stay with length 1."""
    dims = op.get("dim")
    given = [dims] if isinstance(dims, int) else list(dims or range(len(op.shape)))
    axes = op.axes(given)
    gone = axes if len(op.result) < len(op.shape) else []
    layout = Layout(op.layout.axis - sum(axis < op.layout.axis for axis in gone), op.layout.before, op.layout.behind)
    places = [op.layout.place(axis) for axis in axes]
    changes: dict[str, Any] = {"dim": places[0] if isinstance(dims, int) else tuple(places)}
    if gone and len(op.result) == 1 and not layout.factors:  # one axis stays behind the batch
        sizes = op.layout.turned(op.shape)
        args, kwargs = op.with_({"dim": 1, "keepdim": True})
        return Written(layout, op.node.target, (op.reshaped(op.turned[op.source], (prod(sizes),), sizes), *args[1:]), kwargs)
    return op.again(layout, changes)


def _along(op: Operation) -> Written:
    """Along one axis, which stays; its length may change."""
    dim = op.get("dim")
    if not isinstance(dim, int) or len(op.result) != len(op.shape):
        raise NotFollowedError
    return op.again(op.layout, {"dim": op.layout.place(op.axes([dim])[0])})


def _along_several(op: Operation) -> Written:
    dims = op.get("dims")
    given = [dims] if isinstance(dims, int) else list(dims or range(len(op.shape)))
    places = tuple(op.layout.place(axis) for axis in op.axes(given))
    if "*dims" in op.names:
        return Written(op.layout, op.node.target, (op.turned[op.source], places), {})
    return op.again(op.layout, {"dims": places})


def _select(op: Operation) -> Written:
    dim = op.axes([op.get("dim")])[0]
    return _taken(op, [*(slice(None),) * dim, op.get("index")])


def _getitem(op: Operation) -> Written:
    index = op.node.args[1]
    return _taken(op, list(index) if isinstance(index, tuple) else [index])


def _taken(op: Operation, index: list[Any]) -> Written:
    rank, layout = len(op.shape), op.layout
    used = sum(part is not None and part is not Ellipsis for part in index)
    if Ellipsis in [part for part in index if not isinstance(part, fx.Node | Tensor | list)]:
        at = next(place for place, part in enumerate(index) if part is Ellipsis)
        index = [*index[:at], *(slice(None),) * (rank - used), *index[at + 1 :]]
    else:
        index = [*index, *(slice(None),) * (rank - used)]
    parts: list[Any] = [slice(None)] * (1 + len(layout.turned(op.shape)))
    axis = at = 0
    for part in index:
        if part is None:
            at += 1
            continue
        if axis == layout.axis:
            whole = isinstance(part, slice) and part.step in (None, 1) and part.start in (None, 0) and part.stop is None
            if not whole:
                raise NotFollowedError("takes a part of the axis that holds the batch", "take the whole batch")
            found = at
        else:
            parts[layout.place(axis)] = part
        at += not isinstance(part, int)
        axis += 1
    listed = [part for part in parts if not isinstance(part, int | slice)]
    if len(listed) > 1:
        raise NotFollowedError
    result = Layout(found, layout.before, layout.behind)
    if len(layout.turned(op.shape)) == sum(isinstance(part, int) for part in parts):  # one axis stays behind the batch
        last = parts[-1]
        parts[-1] = slice(last, last + 1 or None)
    while len(parts) > 1 and parts[-1] == slice(None):
        parts.pop()
    turned = op.turned[op.source]
    have = op.have(turned, parts)
    node = turned if parts == [slice(None)] else op.put(operator.getitem, (turned, tuple(parts)))
    if node is not turned and have == result.turned(op.result):
        return Written(result, operator.getitem, (turned, tuple(parts)))
    return op.finished(result, node, have)


def _cat(op: Operation) -> Written:
    tensors = list(op.get("tensors"))
    rank, layout = len(op.result), op.layouts[op.sources[0]]
    dim = op.node.kwargs.get("axis", op.get("dim", 0)) % rank
    if dim == layout.axis:
        raise NotFollowedError("joins values along the axis that holds the batch", MIXES)
    return Written(layout, op.node.target, ([op.aligned(tensor, rank, layout) for tensor in tensors], layout.place(dim)))


def _stack(op: Operation) -> Written:
    tensors = list(op.get("tensors"))
    own = op.layouts[op.sources[0]]
    rank = len(op.result) - 1
    dim = op.get("dim", 0) % (rank + 1)
    layout = own.moved(int(dim <= own.axis))
    parts = [op.aligned(tensor, rank, own) for tensor in tensors]
    if rank == 1 and not own.factors:
        return Written(layout, torch.cat, (parts, 1))
    return Written(layout, op.node.target, (parts, layout.place(dim)))


def _expand(op: Operation) -> Written:
    source, by = op.source, len(op.result) - len(op.shape)
    layout = op.layout.moved(by)
    node = op.aligned(source, len(op.result), layout)
    if layout.turned(op.result) == layout.turned(((1,) * by) + op.shape):
        return Written(layout, None, (node,))
    return Written(layout, "expand", (node, -1, *layout.turned(op.result)))


def _repeat(op: Operation) -> Written:
    times = tuple(op.get("repeats", op.get("dims")))
    rank = max(len(op.result), len(op.shape))
    times = (*(1,) * (rank - len(times)), *times)
    layout = op.layout.moved(rank - len(op.shape))
    if times[layout.axis] != 1:
        raise NotFollowedError("repeats the axis that holds the batch", MIXES)
    node = op.aligned(op.source, rank, layout)
    return Written(layout, "repeat", (node, 1, *layout.turned(times)))


def _matmul(op: Operation) -> Written:
    return _product(op, op.node.args[0], op.get("other", op.get("mat2")), op.node.target)


def _product(op: Operation, a: Any, b: Any, target: Any) -> Written:
    """Matrices on the last two axes, which the batch is in front of, or rows that are samples times a constant."""
    ranks = [len(op.shapes[side][0]) for side in (a, b)]
    rank, layout = max(ranks), None
    sides: list[fx.Node] = []
    if a in op.layouts and op.layouts[a].axis == ranks[0] - 1:
        raise NotFollowedError("adds up along the axis that holds the batch", MIXES)
    if min(ranks) < 2:
        raise NotFollowedError
    for side, own in zip((a, b), ranks, strict=True):
        if side in op.layouts:
            layout = op.layouts[side].moved(rank - own)
    if layout is None or (layout.axis >= rank - 2 and (b in op.layouts or ranks[1] > 2)):
        raise NotFollowedError("multiplies by rows or columns that are samples", MIXES)
    sides = [op.aligned(side, rank, layout) if side in op.layouts or len(op.shapes[side][0]) > 2 else side for side in (a, b)]
    return Written(layout, torch.matmul if target in (torch.bmm, torch.mm, "bmm", "mm") else target, tuple(sides))


def _added(op: Operation) -> Written:
    """input * beta + alpha * (a @ b)."""
    if op.get("beta", 1) != 1 or op.get("alpha", 1) != 1:
        raise NotFollowedError(f"has beta={op.get('beta', 1)} and alpha={op.get('alpha', 1)}", "leave both at 1")
    found = _product(op, op.get("mat1", op.get("batch1")), op.get("mat2", op.get("batch2")), torch.matmul)
    product = op.put(torch.matmul, found.args)
    return Written(found.layout, torch.add, (product, op.aligned(op.get("input"), len(op.result), found.layout)))


def _einsum(op: Operation) -> Written:
    """The letters of an operand in the order of its axes when it is turned."""
    equation, operands = op.node.args[0], list(op.get("operands"))
    if not isinstance(equation, str) or "->" not in equation or "." in equation:
        raise NotFollowedError("is an einsum without all letters", "write all of them: 'tnd,de->tne'")
    left, _, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    batch = {term[op.layouts[node].axis] for term, node in zip(terms, operands, strict=True) if node in op.layouts}
    if len(batch) != 1 or any(op.layouts[node].factors for node in operands if node in op.layouts):
        raise NotFollowedError("joins values whose samples lie on different axes", MIXES)
    letter = batch.pop()
    if letter not in right or any(letter in term for term, node in zip(terms, operands, strict=True) if node not in op.layouts):
        raise NotFollowedError("sums over the batch", MIXES)
    if any(len(term) == 1 for term, node in zip(terms, operands, strict=True) if node in op.layouts) or len(right) == 1:
        raise NotFollowedError
    front = [letter + term.replace(letter, "") if node in op.layouts else term for term, node in zip(terms, operands, strict=True)]
    text = f"{','.join(front)}->{letter}{right.replace(letter, '')}"
    return Written(Layout(right.index(letter)), torch.einsum, (text, *(op.turned.get(node, node) for node in operands)))


def _pad(op: Operation) -> Written:
    """The last axes; those behind the batch's are the last of the turned tensor too."""
    sides = list(op.get("pad"))
    pairs = [tuple(sides[place : place + 2]) for place in range(0, len(sides), 2)]
    if op.get("mode", "constant") != "constant":
        raise NotFollowedError
    rank, found = len(op.shape), [(0, 0)] * len(op.layout.turned(op.shape))
    for place, pair in enumerate(pairs):
        axis = rank - 1 - place
        if axis != op.layout.axis:
            found[op.layout.place(axis) - 1] = pair
        elif pair != (0, 0):
            raise NotFollowedError("pads the axis that holds the batch", MIXES)
    while found and found[0] == (0, 0):
        found.pop(0)
    return op.again(op.layout, {"pad": tuple(side for pair in reversed(found) for side in pair)})


def _names(rule: Rule, *names: str) -> dict[str, Rule]:
    return dict.fromkeys(names, rule)


RULES: Mapping[str, Rule] = MappingProxyType({
    **_names(_view, "view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "reshape_as", "view_as", "Flatten", "Unflatten"),
    **_names(_permute, "permute", "transpose", "movedim", "moveaxis", "swapaxes", "swapdims", "t"),
    **_names(elementwise, "contiguous", "clone", "cpu", "cuda", "detach", "float", "double", "to", "type", "type_as"),
    **_names(elementwise, "Identity", "Dropout", "dropout", "masked_fill"),
    **_names(_linear, "Linear", "linear"),
    **_names(_rows, "Embedding", "embedding", "one_hot"),
    **_names(_reduce, "sum", "mean", "amax", "amin", "argmax", "argmin", "prod", "any", "all", "max", "min"),
    **_names(_along, "cumsum", "cumprod", "index_select", "narrow", "repeat_interleave", "softmax", "log_softmax"),
    **_names(_along_several, "flip", "roll"),
    **_names(_expand, "expand", "broadcast_to", "expand_as"),
    **_names(_repeat, "repeat", "tile"),
    **_names(_matmul, "matmul", "bmm", "mm"),
    **_names(_added, "baddbmm", "addmm", "addbmm"),
    **_names(_cat, "cat", "concat", "concatenate"),
    **_names(convolution, "Conv1d", "Conv2d", "conv1d", "conv2d", "OverFrames"),
    **_names(normalization, "BatchNorm1d", "BatchNorm2d", "SyncBatchNorm"),
    **_names(channelwise, *(f"{kind}Pool{rank}d" for kind in ("Max", "Avg", "AdaptiveAvg", "AdaptiveMax") for rank in (1, 2, 3))),
    **_names(channelwise, *(f"{kind}_pool{rank}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max") for rank in (1, 2, 3))),
    **_names(channelwise, *(f"{kind}Pad{rank}d" for kind in ("Zero", "Constant", "Reflection", "Replication", "Circular") for rank in (1, 2))),
    **_names(channelwise, "Upsample", "UpsamplingNearest2d", "UpsamplingBilinear2d", "interpolate"),
    "stack": _stack,
    "select": _select,
    "getitem": _getitem,
    "einsum": _einsum,
    "pad": _pad,
    "PReLU": _prelu,
    "prelu": _prelu,
})  # fmt: skip
"""By what the user calls the operation; what works number by number, a family says itself."""

KEEPS_INNER = (elementwise, convolution, normalization, channelwise)
"""Those that take frames behind the channels; the others get them in front."""
