"""Masks of attention: scores that are not to be seen get a number far below the others, where the model has minus infinity or the like. In front of
a softmax alone: there it makes no difference. A mask is constant, or a comparison that is computed of the input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from qfx.capture.apart.decompositions import FAR_BELOW
from qfx.capture.recording import Recording
from qfx.capture.traced import INTERNAL, SITE, called

CHOOSES = "masked_fill"
"""Has no rule: it is taken as a mask of attention alone."""

_ADDS, _SCALES = ("add", "iadd"), ("mul", "imul")
_MOVED = ("view", "reshape", "transpose", "permute", "contiguous", "squeeze", "unsqueeze", "flatten", "unflatten", "dropout")
_MOVES = (*_MOVED, "expand", "getitem", "clamp")
_HIDES = -1000.0
"""A factor of zeros and ones that is no greater makes a mask of them."""


def soften(run: Recording, other: Recording) -> None:
    """Write masks in ``run``, merged with ``other`` of another batch size, with ``FAR_BELOW``."""
    for node in list(run.graph.nodes):
        if node in run.dependent and node.op != "call_module" and called(node) in (*_ADDS, *_SCALES, CHOOSES, "where"):
            _Mask(run, other, node).soften()


class _Mask:
    def __init__(self, run: Recording, other: Recording, node: fx.Node) -> None:
        self.run, self.other, self.node = run, other, node

    def soften(self) -> None:
        name, args = called(self.node), list(self.node.args)
        if len(args) < 2 or self.node.kwargs.keys() - {"value", "mask"}:
            return
        if name in _ADDS and len(args) == 2:
            for place, argument in enumerate(args):
                if self._lowest(argument) < FAR_BELOW and self._low_alone(argument) and _before_softmax(self.node):
                    args[place] = self._put(torch.clamp, (argument, FAR_BELOW))
                    self.node.args = tuple(args)
        elif name in _SCALES and len(args) == 2:
            self._scaled(args)
        elif name == CHOOSES:
            value = args[2] if len(args) > 2 else self.node.kwargs.get("value")
            self._chosen(args[0], args[1], value, hidden=True)
        elif name == "where" and len(args) == 3:
            condition, first, second = args if callable(self.node.target) else (args[1], args[0], args[2])
            if self._highest(second) <= FAR_BELOW:
                self._chosen(first, condition, second, hidden=False)
            else:
                self._chosen(second, condition, first, hidden=True)

    def _chosen(self, scores: Any, mask: Any, value: Any, *, hidden: bool) -> None:
        """``value`` where the mask is ``hidden``, else ``scores``."""
        held = self.run.values.get(mask) if isinstance(mask, fx.Node) else mask
        if not isinstance(held, Tensor) or held.dtype != torch.bool or not self._highest(value) <= FAR_BELOW or not _before_softmax(self.node):
            return
        if isinstance(scores, fx.Node) and scores in self.run.dependent:
            low = self._put(torch.where, (mask, FAR_BELOW, 0.0) if hidden else (mask, 0.0, FAR_BELOW))
            self._become(torch.add, (scores, low))
        elif self._all_zero(scores):  # a mask that is added
            self._become(torch.where, (mask, FAR_BELOW, 0.0) if hidden else (mask, 0.0, FAR_BELOW))

    def _scaled(self, args: list[Any]) -> None:
        """Zeros and ones times a number far below: what is added to scores."""
        for value, factor in (args, args[::-1]):
            number, held = self._fixed(factor), self.run.values.get(value) if isinstance(value, fx.Node) else None
            if number is None or held is None or value not in self.run.dependent or torch.as_tensor(number).numel() != 1 or held.is_complex():
                continue
            bits = bool(((held == 0) | (held == 1)).all())
            if bits and float(number) <= _HIDES and _before_softmax(self.node):
                self._become(torch.mul, (value, FAR_BELOW))

    def _become(self, target: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.node.op, self.node.target, self.node.args, self.node.kwargs = "call_function", target, args, {}

    def _all_zero(self, argument: Any) -> bool:
        found = self._fixed(argument)
        return found is not None and not bool(torch.as_tensor(found).any())

    def _fixed(self, argument: Any) -> Any:
        """A number or a tensor that does not depend on the input; else None."""
        if isinstance(argument, fx.Node):
            found = None if argument in self.run.dependent else self.run.values.get(argument)
            return found.detach() if isinstance(found, Tensor) else found
        return argument if isinstance(argument, int | float) else None

    def _lowest(self, argument: Any) -> float:
        found = self._fixed(argument)
        return float(found.min()) if isinstance(found, Tensor) and found.is_floating_point() and found.numel() else 0.0

    def _low_alone(self, argument: Any) -> bool:
        """Whether there is no NaN in a constant, nor plus infinity."""
        return bool((self._fixed(argument) < torch.inf).all())

    def _highest(self, argument: Any) -> float:
        found = self._fixed(argument)
        if isinstance(found, Tensor) and found.numel() and found.dtype != torch.bool:
            return float(found.max())
        return float(found) if isinstance(found, int | float) else torch.inf

    def _put(self, target: Callable[..., Any], args: tuple[Any, ...]) -> fx.Node:
        with self.run.graph.inserting_before(self.node):
            new = self.run.graph.call_function(target, args)
        new.meta |= {key: value for key, value in self.node.meta.items() if key != SITE}
        self.run.values[new] = target(*map_arg(args, lambda source: self.run.values[source]))
        self.other.values[new] = target(*map_arg(args, lambda source: self.other.values[self.run.twins[source]]))
        self.run.twins[new] = new
        if any(source in self.run.dependent for source in new.all_input_nodes):
            self.run.dependent.add(new)
        return new


def _before_softmax(node: fx.Node) -> bool:
    """Whether nothing reads a value but softmax, maybe behind moves and other sums."""
    return bool(node.users) and all(_is_softmax(user, node) for user in node.users)


def _is_softmax(user: fx.Node, node: fx.Node) -> bool:
    name = called(user) if user.op != "call_module" else ""
    if name in _MOVES or name in _ADDS:
        return _before_softmax(user)
    if not user.meta.get(INTERNAL):
        return False
    if name == "amax":
        return all(called(each) == "sub" and each.args[0] is node for each in user.users)
    return name == "sub" and user.args[0] is node and all(called(each) == "exp" for each in user.users)
