"""Linear layers behind each other, each with the cast of its result and perhaps a ReLU between: a model's forward in which they are called as one.

Of a small layer most of the time goes into the calls of its modules, not into its numbers. Here ``shortened`` writes a model's forward once more:
where linear layers follow each other that nothing else reads, one function takes their place, which does of each all in one step (``whole.cast_of``)
where that is its common case, and calls its modules where it is not: in the first forward, when a binary point has moved, or when somebody has hooked
himself in. Numbers, gradients and errors are the same. Whoever goes through the graph node by node meets the modules as ever.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.fx import graph_module as torch_graph_module
from torch.nn.modules import module as torch_module

from qfx.nn.backends import refuse_inexact
from qfx.nn.casts import quick
from qfx.nn.casts.lean import hooked
from qfx.nn.layers.input import QInput
from qfx.nn.layers.linear import QLinear
from qfx.nn.layers.products import whole
from qfx.nn.layers.relu import QReLU
from qfx.nn.qtensor import QTensor
from qfx.nn.quantizer import Quantizer

_MODEL = "qfx_whole_model_"
"""What the model is called in the graph of its short forward."""

Path = tuple[str, ...]
"""Names of modules, each in the one before."""


@dataclass(frozen=True, slots=True)
class Link:
    """Where in the model a linear layer lies, the ReLU behind it, if there is one, and the cast of the result."""

    linear: Path
    relu: Path | None
    cast: Path


@dataclass(frozen=True, slots=True)
class Chain:
    """Linear layers behind each other, and the input before them where nothing else reads it."""

    head: Path | None
    links: tuple[Link, ...]

    def called(self, model: nn.Module, x: Any) -> QTensor:
        """What the modules give of ``x``, one behind the other."""
        if not torch.is_grad_enabled() or torch.compiler.is_dynamo_compiling() or _hooked_everywhere() or hooked():
            return self._one_by_one(model, x)
        given: QTensor = x if self.head is None else _input(_at(model, self.head), x)
        value, interval = (given.value, given.interval) if given.is_plain else (None, given.interval)
        looked = False
        for link in self.links:
            linear, relu, cast = _at(model, link.linear), None if link.relu is None else _at(model, link.relu), _at(model, link.cast)
            is_plain = _is_plain(linear, QLinear) and _is_plain(cast, Quantizer) and (relu is None or _is_plain(relu, QReLU))
            found: whole.Followed | None = linear._followed if is_plain else None
            if value is not None and found is not None and found.by.negative_slope == (1.0 if relu is None else 0.0):
                if not looked:
                    refuse_inexact(value, linear.name)
                    looked = True
                result = whole.cast_of(linear, cast, found, value, interval)
                if result is not None:
                    value, interval = result, found.result
                    continue
            before = given if value is None else QTensor(value, interval)
            given = _called(linear, relu, cast, before)
            if is_plain:
                linear._followed = whole.followed(linear, cast, before, given)
            value, interval = (given.value, given.interval) if given.is_plain else (None, given.interval)
        return given if value is None else QTensor(value, interval)

    def _one_by_one(self, model: nn.Module, x: Any) -> QTensor:
        given: QTensor = x if self.head is None else _at(model, self.head)(x)
        for link in self.links:
            given = _called(_at(model, link.linear), None if link.relu is None else _at(model, link.relu), _at(model, link.cast), given)
        return given


def shortened(model: fx.GraphModule) -> Callable[..., Any] | None:
    """The forward of ``model``, by its graph, in which chains are called as one; None if it has none."""
    if not _chains(model, model.graph):
        return None
    graph = copy.deepcopy(model.graph)
    for head, links in _chains(model, graph):
        first, last = head or links[0][0], links[-1][-1]
        chain = Chain(
            None if head is None else _path(head),
            tuple(Link(_path(one[0]), _path(one[1]) if len(one) == 3 else None, _path(one[-1])) for one in links),
        )
        with graph.inserting_before(first):
            itself = graph.create_node("get_attr", _MODEL)
            node = graph.call_function(_calling(chain), (itself, first.args[0]))
        last.replace_all_uses_with(node)
        for old in reversed([*([head] if head else []), *itertools.chain(*links)]):
            graph.erase_node(old)
    code = graph.python_code("self")
    source = code.src.replace(f"self.{_MODEL}", "self")
    found: Callable[..., Any] = torch_graph_module._forward_from_src(source, dict(code.globals))
    return found


def _chains(model: fx.GraphModule, graph: fx.Graph) -> list[tuple[fx.Node | None, list[list[fx.Node]]]]:
    """The chains in the model's graph, or a copy of it: of each the input's node, if it begins there, and the nodes of its links."""
    layers = {node: model.get_submodule(str(node.target)) for node in graph.nodes if node.op == "call_module"}
    found: list[tuple[fx.Node | None, list[list[fx.Node]]]] = []
    within: set[fx.Node] = set()
    for node in graph.nodes:
        if node in within:
            continue
        links: list[list[fx.Node]] = []
        follower: fx.Node | None = node
        while follower is not None and (link := _link(layers, follower)):
            links.append(link)
            follower = _only(link[-1])
        if not links:
            continue
        before = node.args[0]
        is_head = isinstance(before, fx.Node) and type(layers.get(before)) is QInput and _only(before) is node
        found.append((before if is_head else None, links))
        within.update(itertools.chain(*links))
    return found


def _link(layers: dict[fx.Node, nn.Module], node: fx.Node) -> list[fx.Node]:
    """The nodes of a link that begins at ``node``; none if none does."""
    link = [node] if type(layers.get(node)) is QLinear and len(node.args) == 1 and not node.kwargs else []
    for kind in (QReLU, Quantizer) if link else ():
        follower = _only(link[-1])
        if follower is not None and type(layers.get(follower)) is kind and len(follower.args) == 1 and not follower.kwargs:
            link.append(follower)
    return link if link and type(layers[link[-1]]) is Quantizer else []


def _only(node: fx.Node) -> fx.Node | None:
    """The one node that reads this one."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def _calling(chain: Chain) -> Callable[[nn.Module, Any], QTensor]:
    """As a function: what has no name cannot stand in generated code."""

    def linear_layers(model: nn.Module, x: Any) -> QTensor:
        return chain.called(model, x)

    return linear_layers


def _path(node: fx.Node) -> Path:
    return tuple(str(node.target).split("."))


def _at(model: nn.Module, path: Path) -> Any:
    found: Any = model
    for name in path:
        found = found._modules[name]
    return found


def _is_plain(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether to call it is to run the forward of that class, and nothing else."""
    own = layer.__dict__
    hooks = own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]
    return type(layer) is kind and not hooks and own.get("_compiled_call_impl") is None and "forward" not in own


def _hooked_everywhere() -> bool:
    """Whether there are hooks of all modules."""
    return bool(torch_module._has_any_global_hook())  # type: ignore[no-untyped-call]


def _called(linear: Any, relu: Any, cast: Any, x: QTensor) -> QTensor:
    sums = linear(x)
    result: QTensor = cast(sums if relu is None else relu(sums))
    return result


def _input(layer: Any, x: Any) -> QTensor:
    if _is_plain(layer, QInput) and _is_plain(layer.cast, Quantizer) and not layer.cast.off:
        x = layer.checked(x)  # once: it may wait for a device
        found = quick.cast(layer.cast, x)
        result: QTensor = layer.cast(x) if found is None else found
    else:
        result = layer(x)
    return result
