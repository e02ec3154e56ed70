"""Two recorded runs while their graph is written anew: what every node gives in both, and operations added to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from qfx.capture.recording import Recording
from qfx.capture.traced import CALLER, INTERNAL, SITE, SPARE


class Runs:
    """``run``, merged with ``other`` of another batch size."""

    run: Recording
    other: Recording

    def __init__(self, run: Recording, other: Recording) -> None:
        self.run, self.other = run, other
        self.added: list[fx.Node] = []

    def value(self, node: fx.Node, which: int = 0) -> Any:
        """What a node gives in the one run or the other."""
        if which == 0 and node in self.run.values:
            return self.run.values[node]
        twin = self.run.twins.get(node)
        if which == 1 and twin in self.other.values:
            return self.other.values[twin]
        return self._carried_out(node, which)  # a size

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """Of a tensor in the first run; () for what is none."""
        found = self.value(node)
        return tuple(found.shape) if isinstance(found, Tensor) else ()

    def _carried_out(self, node: fx.Node, which: int) -> Any:
        args, kwargs = map_arg((node.args, dict(node.kwargs)), lambda source: self.value(source, which))
        with torch.no_grad():
            if node.op == "call_module":
                return self.run.module(str(node.target))(*args, **kwargs)
            return getattr(args[0], node.target)(*args[1:], **kwargs) if isinstance(node.target, str) else node.target(*args, **kwargs)

    def put(self, like: fx.Node, op: str, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None, name: str = "") -> fx.Node:
        """An operation before ``like``, called in the same module, of use only where it is read. ``name``: of its place there, else its own."""
        with self.run.graph.inserting_before(like):
            new = self.run.graph.create_node(op, target, args, dict(kwargs or {}))
        own = f"{like.meta.get(SITE, ('', like.name, 0))[1]}:{name}{len(self.added)}"
        path = like.meta.get(CALLER, "")
        new.meta |= {key: value for key, value in like.meta.items() if isinstance(key, str) and key in _CARRIED}
        new.meta |= {CALLER: path, SITE: (path, own, 0), INTERNAL: False, SPARE: True}
        self.added.append(new)
        self.run.dependent.add(new)
        self.run.twins[new] = new
        self.run.values[new], self.other.values[new] = self._carried_out(new, 0), self._carried_out(new, 1)
        return new

    def call(self, like: fx.Node, target: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        return self.put(like, "call_function", target, args, kwargs)

    def same(self, a: fx.Node, b: fx.Node, part: Callable[[Tensor], Tensor] = lambda x: x) -> bool:
        """Whether ``part`` of what ``a`` gives is what ``b`` gives, in both runs, but for rounding."""
        return all(_near(part(self.value(a, which)), self.value(b, which)) for which in (0, 1))


_CARRIED = ("qfx_opened", "qfx_kind")


def _near(a: Tensor, b: Tensor) -> bool:
    scale = float(b.double().nan_to_num(0.0, 0.0, 0.0).abs().max()) if b.numel() else 0.0
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=0.0, atol=1e-4 * scale, equal_nan=True)
