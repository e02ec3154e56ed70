"""A file's graph for any batch, of one that was exported for a single batch size: which of its numbers follow the batch is found by where the batch
lies, an operation after the other, and the result is held against the file's own, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, Protocol

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves

from qfx.capture.batch.joining import BATCHES, Sizes, joined
from qfx.capture.batch.layout import Layout, Shape, following
from qfx.errors import UnsupportedError

TIMES = 3
"""How many of the file's batches one of another size has."""

_RESHAPES = ("reshape", "view", "_unsafe_view")
_REMEDY = "export it with a batch of any size (dynamic_shapes, dynamic_axes), or keep the batch as the first axis of every tensor"


class _NotFreeError(Exception):
    """An operation for which it is not known what it does on another batch."""


class Assembled(Protocol):
    """What is known of a module while it is put together: its inputs, and whether the batch may lie elsewhere than in front in what is left of it."""

    @property
    def feeds(self) -> Mapping[str, Tensor]: ...

    def is_odd(self) -> bool: ...


class Reader(Protocol):
    """Reads a file on an example of a certain number of samples."""

    @property
    def assembly(self) -> Assembled: ...

    def read(self) -> fx.GraphModule: ...


def for_any_batch(first: Reader, literal: Callable[[int], Reader], batch: int | None, where: str) -> fx.GraphModule:
    """A file's module, read once; where its batch leaves the first axis, for two batches, or for the one that the file insists on (``batch``), with
    sizes as they are: ``literal``, for a number of samples."""
    found: fx.GraphModule | None = None
    try:
        found = first.read()
    except UnsupportedError:
        if not first.assembly.is_odd():
            raise
    if found is not None and not first.assembly.is_odd():
        return found
    if batch is None:
        small, large = (literal(count).read() for count in BATCHES)
        return joined(small, large, where)
    reader = literal(batch)
    try:
        return freed(reader.read(), reader.assembly.feeds, where)
    except UnsupportedError:
        if found is None:
            raise
        return found


def freed(module: fx.GraphModule, feeds: Mapping[str, Tensor], where: str) -> fx.GraphModule:
    """``module``, written for the one batch of ``feeds`` (by the names of its arguments), for any. Raises UnsupportedError where none is found."""
    batch = len(next(iter(feeds.values())))
    many = {name: _more(data) for name, data in feeds.items()}
    try:
        with torch.no_grad():
            parts = [module(**{name: data[start : start + batch] for name, data in many.items()}) for start in range(0, TIMES * batch, batch)]
            _Freeing(module, (batch, TIMES * batch), feeds, many).all()
            found = module(**many)
    except (_NotFreeError, RuntimeError, TypeError, ValueError, IndexError) as error:
        raise UnsupportedError("moves the batch, and holds one size of it alone", where=where, remedy=_REMEDY) from error
    for result, *expected in zip(tree_leaves(found), *(tree_leaves(part) for part in parts), strict=True):
        whole = torch.cat(list(expected))
        if result.shape != whole.shape or not torch.allclose(result.double(), whole.double(), rtol=0.0, atol=1e-4 * float(whole.abs().max() or 1.0)):
            raise UnsupportedError("moves the batch, and holds one size of it alone", where=where, remedy=_REMEDY)
    return module


def _more(data: Tensor) -> Tensor:
    """Several batches of the same samples, each a little smaller than the one before where they are no whole numbers."""
    whole = torch.cat([data] * TIMES)
    return whole * torch.linspace(1.0, 0.5, len(whole)).reshape(-1, *(1,) * (data.dim() - 1)) if data.is_floating_point() else whole


class _Freeing:
    """``values``: what every node gives, on the file's batch and on another."""

    def __init__(self, module: fx.GraphModule, batches: tuple[int, int], *feeds: Mapping[str, Tensor]) -> None:
        self.module, self.batches, self.feeds = module, batches, feeds
        self.values: tuple[dict[fx.Node, Any], dict[fx.Node, Any]] = ({}, {})
        self.layouts: dict[fx.Node, Layout] = {}
        self.sizes = Sizes(module.graph, batches)

    def all(self) -> None:
        changes: dict[fx.Node, tuple[Sequence[int], Sequence[int]]] = {}
        for node in list(self.module.graph.nodes):
            if node.op == "output":
                continue
            if _name(node) in _RESHAPES:
                changes[node] = self._reshape(node)
            elif _name(node) in ("expand", "broadcast_to"):
                changes[node] = self._expand(node)
            else:
                for which in (0, 1):
                    self.values[which][node] = self._run(node, which)
            self._place(node)
        for node, (small, large) in changes.items():
            sizes = tuple(a if a == b else self.sizes.of(a, b) for a, b in zip(small, large, strict=True))
            node.args = (node.args[0], sizes)
        self.module.recompile()

    def _run(self, node: fx.Node, which: int) -> Any:
        values = self.values[which]
        if node.op == "placeholder":
            return self.feeds[which][str(node.target)]
        if node.op == "get_attr":
            found: Any = self.module
            for name in str(node.target).split("."):
                found = getattr(found, name)
            return found
        args, kwargs = map_arg((node.args, dict(node.kwargs)), lambda source: values[source])
        if node.op == "call_module":
            return self.module.get_submodule(str(node.target))(*args, **kwargs)
        return getattr(args[0], node.target)(*args[1:], **kwargs) if isinstance(node.target, str) else node.target(*args, **kwargs)

    def _given(self, node: fx.Node) -> tuple[fx.Node, list[int]]:
        """The source and the sizes of an operation that has both."""
        source, sizes = node.args[0], node.args[1] if len(node.args) == 2 else node.args[1:]
        if not isinstance(source, fx.Node) or not isinstance(sizes, list | tuple) or not all(isinstance(size, int) for size in sizes):
            raise _NotFreeError
        return source, list(sizes)

    def _reshape(self, node: fx.Node) -> tuple[Sequence[int], Sequence[int]]:
        source, _ = self._given(node)
        wanted = list(self._run(node, 0).shape)
        self.values[0][node] = self._run(node, 0)
        layout, shape = self.layouts.get(source), tuple(self.values[0][source].shape)
        large = list(wanted)
        if layout is not None:
            new = self._landing(layout, shape, wanted)
            large[new.axis] = new.before * self.batches[1] * new.behind
            self.layouts[node] = new
        self.values[1][node] = self.values[1][source].reshape(large)
        return wanted, large

    def _landing(self, layout: Layout, shape: Shape, wanted: Sequence[int]) -> Layout:
        """Where the batch is under other sizes. One of length 1 may lie on several axes: on its own, on the one that it was on, else on the first."""
        first, last = prod(shape[: layout.axis]) * layout.before, layout.behind * prod(shape[layout.axis + 1 :])
        found = []
        for axis, size in enumerate(wanted):
            outer, inner = prod(wanted[:axis]), prod(wanted[axis + 1 :])
            if outer and inner and not first % outer and not last % inner and size == first // outer * self.batches[0] * (last // inner):
                found.append(Layout(axis, first // outer, last // inner))
        if not found:
            raise _NotFreeError
        same = len(shape) == len(wanted)
        return min(found, key=lambda each: (bool(each.factors), not (same and each.axis == layout.axis), each.axis))

    def _expand(self, node: fx.Node) -> tuple[Sequence[int], Sequence[int]]:
        source, sizes = self._given(node)
        small = tuple(self.values[0][source].shape)
        by = len(sizes) - len(small)
        axes = [-1 if place >= by and small[place - by] == size else size for place, size in enumerate(sizes)]
        for values in self.values:
            values[node] = values[source].expand(axes)
        return axes, axes

    def _place(self, node: fx.Node) -> None:
        """Find where the batch is: on the axis that is longer, with the factors that sources have beside it."""
        small, large = (self.values[which][node] for which in (0, 1))
        if node in self.layouts or not isinstance(small, Tensor):
            return
        axis = following(tuple(small.shape), tuple(large.shape))
        if axis is None:
            if small.shape != large.shape:
                raise _NotFreeError
            return
        beside, rest = divmod(small.shape[axis], self.batches[0])
        if rest or large.shape[axis] != beside * self.batches[1]:
            raise _NotFreeError
        known = [self.layouts[source] for source in node.all_input_nodes if source in self.layouts]
        alike = [layout for layout in known if layout.before * layout.behind == beside]
        if beside != 1 and not alike:
            raise _NotFreeError
        self.layouts[node] = Layout(axis, alike[0].before, alike[0].behind) if beside != 1 else Layout(axis)


def _name(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target)).partition(".")[0] if node.op in ("call_function", "call_method") else ""
