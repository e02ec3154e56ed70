"""A file's graph for any batch, of the same graph read for two: what differs between them follows the batch."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from qfx.capture.batch.layout import following
from qfx.errors import UnsupportedError

BATCHES = (2, 3)
"""For which a graph is read where its batch leaves the first axis."""

_PERMUTES = ("permute", "transpose", "movedim", "moveaxis", "swapaxes", "swapdims", "t")


def moves_batch(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call takes the first axis elsewhere, though a result may have as many rows as the batch."""
    name = getattr(function, "__name__", "").partition(".")[0]
    if name == "stack":
        return bool((args[1] if len(args) > 1 else kwargs.get("dim", 0)) == 0)
    if name not in _PERMUTES or not isinstance(args[0], Tensor):
        return False
    numbers = torch.empty(tuple(range(2, args[0].dim() + 2)), device="meta")
    return int(function(numbers, *args[1:], **kwargs).shape[0]) != 2


def rows(data: Tensor, count: int) -> Tensor:
    """The first samples, from the start again where there are fewer."""
    return data[torch.arange(count) % len(data)]


def joined(small: fx.GraphModule, large: fx.GraphModule, where: str) -> fx.GraphModule:
    """``small``, read for ``BATCHES[0]`` samples, for any number of them. Raises UnsupportedError where ``large``, read for ``BATCHES[1]``, does
    something else."""
    pairs = list(zip(small.graph.nodes, large.graph.nodes, strict=False))
    twins = dict(pairs)
    sizes = Sizes(small.graph)
    if len(small.graph.nodes) != len(large.graph.nodes):
        raise _differs(where)
    for node, twin in pairs:
        if node.op != twin.op or node.target != twin.target:
            raise _differs(node.name)
        try:
            node.args = tuple(_joined(a, b, twins, sizes) for a, b in zip(node.args, twin.args, strict=True))
            node.kwargs = {key: _joined(value, twin.kwargs[key], twins, sizes) for key, value in node.kwargs.items()}
        except (ValueError, KeyError) as error:
            raise _differs(node.name) from error
        if node.op == "get_attr" and (held := _hold(small, large, str(node.target))) is not None:
            twins[_spread(small.graph, node, *held, sizes)] = twin
    small.recompile()
    return small


def _differs(where: str) -> UnsupportedError:
    return UnsupportedError("does something else for another batch size", where=where, remedy="let nothing but sizes depend on the batch size")


def _hold(small: nn.Module, large: nn.Module, target: str) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Let a constant that was made for the batch, alike along one axis, be as long as 1 there; the shapes that it had, or None for any other."""
    path, _, leaf = target.rpartition(".")
    holder, other = small.get_submodule(path), getattr(large.get_submodule(path), leaf)
    value = getattr(holder, leaf)
    if value.shape == other.shape and bool(torch.equal(value, other)):
        return None
    shapes = tuple(value.shape), tuple(other.shape)
    axis = following(*shapes)
    one = value if axis is None else value.narrow(axis, 0, 1)
    if axis is None or not bool((value == one).all()) or not bool((other == one).all()):
        raise UnsupportedError("holds constants that differ from sample to sample", where=target, remedy="let constants be the same for every sample")
    if isinstance(value, nn.Parameter):
        setattr(holder, leaf, nn.Parameter(one.detach().clone()))
    else:
        setattr(holder, leaf, one.clone())
    return shapes


def _spread(graph: fx.Graph, node: fx.Node, small: tuple[int, ...], large: tuple[int, ...], sizes: Sizes) -> fx.Node:
    """Let who reads a constant that was made for the batch read it as long as the batch."""
    axes = [a if a == b else sizes.of(a, b) for a, b in zip(small, large, strict=True)]
    with graph.inserting_after(node):
        spread = graph.call_method("expand", (node, *axes))
    node.replace_all_uses_with(spread, delete_user_cb=lambda user: user is not spread)
    return spread


class Sizes:
    """Nodes that give numbers which follow the batch, behind the placeholders."""

    graph: fx.Graph
    batches: tuple[int, int]

    def __init__(self, graph: fx.Graph, batches: tuple[int, int] = BATCHES) -> None:
        self.graph, self.batches = graph, batches
        self.made: dict[tuple[int, int], fx.Node] = {}

    def of(self, small: int, large: int) -> fx.Node:
        factor, rest = divmod(large - small, self.batches[1] - self.batches[0])
        offset = small - factor * self.batches[0]
        if rest:
            raise ValueError
        if (factor, offset) not in self.made:
            self.made[factor, offset] = list(self._steps(factor, offset))[-1]
        return self.made[factor, offset]

    def _steps(self, factor: int, offset: int) -> Iterator[fx.Node]:
        inputs = [node for node in self.graph.nodes if node.op == "placeholder"]
        with self.graph.inserting_before(next(node for node in self.graph.nodes if node.op != "placeholder")):
            shape = self.graph.call_function(getattr, (inputs[0], "shape"))
            size = self.graph.call_function(operator.getitem, (shape, 0))
            yield size
            if factor != 1:
                size = self.graph.call_function(operator.mul, (size, factor))
                yield size
            if offset:
                yield self.graph.call_function(operator.add, (size, offset))


def _joined(a: Any, b: Any, twins: Mapping[fx.Node, fx.Node], sizes: Sizes) -> Any:
    """An argument of both. Raises ValueError for a difference that is no size."""
    if isinstance(a, fx.Node):
        if twins.get(a) is not b:
            raise ValueError
        return a
    if isinstance(a, slice) and isinstance(b, slice):
        return slice(*(_joined(getattr(a, part), getattr(b, part), twins, sizes) for part in ("start", "stop", "step")))
    if isinstance(a, tuple | list) and isinstance(b, tuple | list) and len(a) == len(b):
        parts = [_joined(x, y, twins, sizes) for x, y in zip(a, b, strict=True)]
        return parts if isinstance(a, list) else tuple(parts)
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return {key: _joined(value, b[key], twins, sizes) for key, value in a.items()}
    if type(a) is not type(b):
        raise ValueError
    if a == b or a is b:
        return a
    if isinstance(a, int) and not isinstance(a, bool):
        return sizes.of(a, b)
    raise ValueError
