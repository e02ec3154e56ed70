"""Values of single steps as what they are steps of: slices of one value along one axis, and what every step computes of such alike."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from qfx.capture.loops.runs import Runs
from qfx.capture.traced import MADE, base_layer, called
from qfx.nn.rules import FAMILY_OF, FUNCTIONS, METHODS, MODULES

_LAST_AXIS = (nn.Linear, nn.Embedding)
"""Layers that work on the last axis, or number by number, whatever axes lie before."""

_WHOLE = slice(None)


class Sequences:
    """Finds, and adds to the graph, the value whose steps, on axis 1, are given nodes."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs

    def of(self, steps: Sequence[fx.Node]) -> fx.Node | None:
        """The value with these ``steps``; None if they have nothing in common."""
        found = self._sliced(steps) or self._flat(steps) or self._beside(steps) or self._alike(steps)
        if found is None:
            return None
        if not all(self.runs.same(found, step, operator.itemgetter((_WHOLE, place))) for place, step in enumerate(steps)):
            return None
        return found

    def stacked(self, steps: Sequence[fx.Node]) -> fx.Node:
        """The value with these ``steps``, whatever they are."""
        return self.of(steps) or self.runs.call(steps[-1], torch.stack, list(steps), 1)

    # Slices of one value

    def _sliced(self, steps: Sequence[fx.Node]) -> fx.Node | None:
        parts = [self._place(step) for step in steps]
        source, axis, first = parts[0] or (None, 0, 0)
        if source is None or any(part is None or not _equal(part[0], source) or part[1] != axis for part in parts):
            return None
        places = [part[2] for part in parts if part is not None]
        apart = places[1] - first if len(places) > 1 else 1
        if apart == 0 or places != list(range(first, first + apart * len(places), apart)):
            return None
        like, shape = steps[-1], self.runs.shape(source)
        if len(places) != shape[axis]:
            part = slice(min(places), max(places) + 1, abs(apart)) if abs(apart) > 1 else slice(min(places), max(places) + 1)
            source = self.runs.call(like, operator.getitem, source, (*(_WHOLE,) * axis, part))
        if axis != 1:
            order = [own for own in range(len(shape)) if own != axis]
            source = self.runs.call(like, torch.permute, source, (order[0], axis, *order[1:]))
        return source if apart > 0 else self.runs.call(like, torch.flip, source, (1,))

    def _place(self, step: fx.Node) -> tuple[fx.Node, int, int] | None:
        """What a node is a slice of, along which axis behind the batch, and where."""
        if called(step) in ("squeeze", "reshape", "view", "flatten"):
            inner = step.args[0]
            found = self._index(inner, length=1) if isinstance(inner, fx.Node) else None
            if found is None or not isinstance(inner, fx.Node):
                return None
            shape = self.runs.shape(inner)
            if self.runs.shape(step) != (*shape[: found[1]], *shape[found[1] + 1 :]):
                return None
            return found
        if called(step) == "select" and len(step.args) == 3 and not step.kwargs:
            source, axis, place = step.args
            if not isinstance(source, fx.Node) or not isinstance(axis, int) or not isinstance(place, int):
                return None
            shape = self.runs.shape(source)
            axis %= len(shape)
            return (source, axis, place % shape[axis]) if axis else None
        return self._index(step)

    def _index(self, step: fx.Node, length: int = 0) -> tuple[fx.Node, int, int] | None:
        """Of ``source[:, ..., place, ...]``, or of a slice of ``length``."""
        source, index = (*step.args, None)[:2] if step.target is operator.getitem else (None, None)
        if not isinstance(source, fx.Node):
            return None
        shape = self.runs.shape(source)
        parts = list(index) if isinstance(index, tuple) else [index]
        if parts.count(Ellipsis) == 1 and None not in parts:
            at = parts.index(Ellipsis)
            parts[at : at + 1] = [_WHOLE] * (len(shape) - len(parts) + 1)
        chosen = [axis for axis, part in enumerate(parts) if part != _WHOLE]
        if len(chosen) != 1 or chosen[0] == 0 or len(parts) > len(shape):
            return None
        axis, part = chosen[0], parts[chosen[0]]
        if isinstance(part, slice) and length and all(isinstance(end, int | None) for end in (part.start, part.stop, part.step)):
            found = range(shape[axis])[part]
            return (source, axis, found[0]) if len(found) == length else None
        return (source, axis, part % shape[axis]) if isinstance(part, int) and not isinstance(part, bool) and not length else None

    # What every step computes alike

    def _flat(self, steps: Sequence[fx.Node]) -> fx.Node | None:
        """All numbers of a step in one row."""
        sources = [step.args[0] for step in steps if called(step) in ("flatten", "reshape", "view") and isinstance(step.args[0], fx.Node)]
        nodes = [source for source in sources if isinstance(source, fx.Node) and len(self.runs.shape(source)) > 2]
        if len(nodes) < len(steps) or any(len(self.runs.shape(step)) != 2 for step in steps):
            return None
        whole = self.of(nodes)
        return None if whole is None else self.runs.call(steps[-1], torch.flatten, whole, 2)

    def _beside(self, steps: Sequence[fx.Node]) -> fx.Node | None:
        """Rows one behind the other, some of which may be the same in all steps."""
        found = [_row(step) for step in steps]
        rows = [row for row in found if row]
        if len(rows) < len(steps) or len({len(row) for row in rows}) > 1 or any(len(self.runs.shape(node)) != 2 for row in rows for node in row):
            return None
        parts: list[fx.Node] = []
        for nodes in zip(*rows, strict=True):
            whole = self._repeated(nodes[0], len(steps), steps[-1]) if all(node is nodes[0] for node in nodes) else self.of(nodes)
            if whole is None:
                return None
            parts.append(whole)
        return self.runs.call(steps[-1], torch.cat, parts, 2)

    def _repeated(self, node: fx.Node, count: int, like: fx.Node) -> fx.Node | None:
        if node not in self.runs.run.dependent:
            return None
        return self.runs.put(like, "call_method", "expand", (self.runs.call(like, torch.unsqueeze, node, 1), -1, count, -1))

    def _alike(self, steps: Sequence[fx.Node]) -> fx.Node | None:
        first = steps[0]
        if any((step.op, step.target) != (first.op, first.target) or step.kwargs != first.kwargs for step in steps) or not self._goes_over(first):
            return None
        args = []
        for parts in zip(*(step.args for step in steps), strict=True) if len({len(step.args) for step in steps}) == 1 else ():
            if all(isinstance(part, fx.Node) and part in self.runs.run.dependent and self.runs.shape(part) for part in parts):
                args.append(self.of(parts))
            elif all(part is parts[0] or (isinstance(part, int | float) and part == parts[0]) for part in parts):
                args.append(parts[0])
            else:
                return None
        if not any(isinstance(arg, fx.Node) and arg in self.runs.run.dependent for arg in args) or None in args[:1]:
            return None
        return self.runs.put(first, first.op, first.target, tuple(args), first.kwargs)

    def _goes_over(self, node: fx.Node) -> bool:
        """Whether the operation is the same for every step, on values that have an axis of steps behind the batch."""
        if len(node.args) == 0 or any(isinstance(arg, fx.Node) for arg in node.kwargs.values()):
            return False
        if node.op == "call_module":
            module = self.runs.run.module(str(node.target))
            rule = MODULES.get(base_layer(module))
            return not node.meta.get(MADE) and len(node.args) == 1 and (isinstance(module, _LAST_AXIS) or _elementwise(rule))
        if node.target is F.linear:
            return True
        if len([arg for arg in node.args if isinstance(arg, fx.Node)]) != 1:
            return False
        table: Any = METHODS if node.op == "call_method" else FUNCTIONS
        return _elementwise(table.get(node.target, ("", None))[1])


def _row(node: fx.Node) -> list[fx.Node]:
    """The values of two axes each that a node joins along the last; none if it does not."""
    parts, axis = (*node.args, node.kwargs.get("dim", 0))[:2] if node.args else (None, 0)
    if called(node) != "cat" or axis not in (1, -1) or not isinstance(parts, list | tuple):
        return []
    found = [part for part in parts if isinstance(part, fx.Node)]
    return found if len(found) == len(parts) else []


def _equal(a: fx.Node, b: fx.Node) -> bool:
    """Whether two nodes give the same: one, or the same operation again."""
    return a is b or (a.op in ("call_function", "call_method") and (a.op, a.target, a.args, a.kwargs) == (b.op, b.target, b.args, b.kwargs))


def _elementwise(rule: Any) -> bool:
    return rule is not None and FAMILY_OF[rule].elementwise


def joined(node: fx.Node, rank: int) -> tuple[list[fx.Node], int] | None:
    """The values that a node of ``rank`` axes puts side by side along a new axis, and which that is."""
    parts, axis = (*node.args, node.kwargs.get("dim", 0))[:2] if node.args else (None, 0)
    if called(node) not in ("stack", "cat") or not isinstance(parts, list | tuple) or not isinstance(axis, int):
        return None
    found = [part for part in parts if isinstance(part, fx.Node)]
    if len(found) < len(parts) or not found:
        return None
    axis %= rank
    if called(node) == "stack":
        return found, axis
    inner = [_unsqueezed(part, axis, rank) for part in found]
    return ([part for part in inner if part is not None], axis) if None not in inner else None


def _unsqueezed(node: fx.Node, axis: int, rank: int) -> fx.Node | None:
    """What a node gives one more axis, if it is that one."""
    source, places = (*node.args, None)[:2] if node.args else (None, None)
    if not isinstance(source, fx.Node):
        return None
    if called(node) == "unsqueeze" and isinstance(places, int):
        return source if places % rank == axis else None
    index = list(places) if isinstance(places, tuple) and node.target is operator.getitem else []
    return source if index[: axis + 1] == [*(_WHOLE,) * axis, None] and all(part == _WHOLE for part in index[axis + 1 :]) else None
