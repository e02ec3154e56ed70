"""One operation on values whose batch is not in front, as its rule sees it, and what it becomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Protocol

import torch
from torch import fx, nn

from qfx.capture.batch.layout import Layout, Shape, following

MIXES = "let every sample be worked on alone: use another axis, or keep this outside of the model"


class NotFollowedError(Exception):
    """An operation that cannot be written with the batch in front: why, and what to do; nothing for what is just not known."""

    what: str
    remedy: str

    def __init__(self, what: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what, self.remedy = what, remedy


@dataclass(frozen=True)
class Written:
    """An operation on turned tensors, and the layout that the user's result has. Without a target, the result is ``args[0]``."""

    layout: Layout
    target: Callable[..., Any] | str | None
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)


class Put(Protocol):
    """Adds an operation in front of the one that is written; without a target the same one, with other arguments."""

    def __call__(self, target: Callable[..., Any] | None, args: tuple[Any, ...]) -> fx.Node: ...


@dataclass(frozen=True)
class Operation:
    """A node whose sources or result have their batch elsewhere. ``names``: its arguments, as rules name them; ``shapes``: of the user's tensors, in
    both runs; ``turned``: the nodes that hold dependent tensors turned; ``put``: adds an operation in front. ``module``: the layer;
    ``users``: all its calls; ``framed``: puts another in its place."""

    node: fx.Node
    name: str
    names: tuple[str, ...]
    batches: tuple[int, int]
    shapes: Mapping[fx.Node, tuple[Shape, Shape]]
    layouts: Mapping[fx.Node, Layout]
    turned: Mapping[fx.Node, fx.Node]
    put: Put
    module: nn.Module | None = None
    users: tuple[fx.Node, ...] = ()
    framed: Callable[[nn.Module], None] = lambda _: None

    # What it reads

    @property
    def sources(self) -> list[fx.Node]:
        return [node for node in self.node.all_input_nodes if node in self.layouts]

    @property
    def source(self) -> fx.Node:
        """The one value that it reads."""
        found = self.sources
        if len(found) != 1 or not self.node.args or self.node.args[0] is not found[0]:
            raise NotFollowedError
        return found[0]

    @property
    def layout(self) -> Layout:
        return self.layouts[self.source]

    @property
    def shape(self) -> Shape:
        return self.shapes[self.source][0]

    @property
    def result(self) -> Shape:
        return self.shapes[self.node][0]

    def get(self, name: str, default: Any = None) -> Any:
        """An argument by the name that its rule has for it; behind a star the rest."""
        for position, own in enumerate(self.names):
            if own == f"*{name}":
                rest = self.node.args[position:]
                return rest[0] if len(rest) == 1 and isinstance(rest[0], tuple | list) else rest or self.node.kwargs.get(name, default)
            if own == name and position < len(self.node.args):
                return self.node.args[position]
        return self.node.kwargs.get(name, default)

    def with_(self, changes: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments, some of them changed, by position where they are given so."""
        args, kwargs = list(self.node.args), dict(self.node.kwargs)
        for name, value in changes.items():
            position = self.names.index(name) if name in self.names else len(args)
            if position < len(args):
                args[position] = value
            else:
                kwargs[name] = value
        return tuple(args), kwargs

    def again(self, layout: Layout, changes: Mapping[str, Any] | None = None) -> Written:
        """The same operation on the turned source."""
        args, kwargs = self.with_(changes or {})
        return Written(layout, self.node.target, (self.turned[self.source], *args[1:]), kwargs)

    # Moves

    def have(self, node: fx.Node, index: Sequence[Any]) -> Shape:
        """The axes behind the batch of a part of a turned tensor, by an index whose lists are of one axis."""
        source = next(source for source, turned in self.turned.items() if turned is node)
        sizes = self.layouts[source].turned(self.shapes[source][0])
        found: list[int] = []
        for size, part in zip(sizes, [*index[1:], *(slice(None),) * (len(sizes) - len(index) + 1)], strict=True):
            if isinstance(part, slice):
                found.append(len(range(*part.indices(size))))
            elif not isinstance(part, int):
                found.append(self.shapes[part][0][0] if isinstance(part, fx.Node) else len(part))
        return tuple(found)

    def reshaped(self, node: fx.Node, sizes: Shape, have: Shape) -> fx.Node:
        """A turned tensor of ``have`` axes behind the batch, under other sizes."""
        return node if sizes == have else self.put(torch.reshape, (node, (-1, *sizes)))

    def finished(self, layout: Layout, node: fx.Node, have: Shape) -> Written:
        """The result is ``node``, of ``have`` behind the batch, under the sizes that the user's result has when it is turned."""
        sizes = layout.turned(self.result)
        return Written(layout, None, (node,)) if sizes == have else Written(layout, torch.reshape, (node, (-1, *sizes)))

    def aligned(self, value: fx.Node, rank: int, layout: Layout) -> fx.Node:
        """An operand that is repeated as torch does to ``rank`` axes, the batch where ``layout`` says: turned, with axes of length 1 in front."""
        if value not in self.layouts:
            return self._constant(value, rank, layout)
        own, shape = self.layouts[value], self.shapes[value][0]
        by = rank - len(shape)
        if layout.inner and not own.inner and own == replace(layout, inner=False) and not by:
            return self.put(torch.permute, (self.turned[value], own.inward(rank)))
        if own.moved(by) != layout or (own.inner and by):
            raise NotFollowedError("joins values whose samples lie on different axes", MIXES)
        return self.reshaped(self.turned[value], layout.turned(((1,) * by) + shape), own.turned(shape))

    def _constant(self, value: fx.Node, rank: int, layout: Layout) -> fx.Node:
        if value not in self.shapes:
            raise NotFollowedError
        shape, other = self.shapes[value]
        place = layout.axis - (rank - len(shape))
        if layout.inner:
            whole = (1,) * (rank - len(shape)) + shape
            if whole[0] != 1:
                raise NotFollowedError("has other constants for every sample", "let constants be the same for every sample")
            return (
                value
                if len(shape) < 2 and prod(shape) == 1
                else self.put(torch.reshape, (value, (whole[1], *(1,) * len(layout.factors), *whole[2:])))
            )
        if place < 0 or not shape:
            return value
        if shape[place] == 1:
            sizes = (*shape[:place], *(1,) * len(layout.factors), *shape[place + 1 :])
            return value if shape == (1,) else self.put(torch.reshape, (value, sizes))
        if following(shape, other) != place or not Layout(place, layout.before, layout.behind).fits(shape, self.batches[0]):
            raise NotFollowedError("has other constants for every sample", "let constants be the same for every sample")
        apart = value
        if layout.factors:
            apart = self.put(torch.reshape, (value, (*shape[:place], layout.before, -1, layout.behind, *shape[place + 1 :])))
            place += 1
        front = self.put(torch.movedim, (apart, place, 0))
        return self.put(torch.reshape, (front, (-1, *Layout(place - bool(layout.factors), layout.before, layout.behind).turned(shape))))

    def axes(self, dims: Sequence[int]) -> list[int]:
        """Axes of the user's source, none of them the batch's."""
        rank = len(self.shape)
        found = [dim % rank for dim in dims]
        if self.layout.axis in found:
            raise NotFollowedError(f"{self.name} along axis {self.layout.axis}, which holds the batch", MIXES)
        return found
