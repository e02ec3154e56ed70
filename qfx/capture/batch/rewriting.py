"""The batch in front of every value: a recorded graph is written so where the user's is not, an operation at a time, and each is held against what
the user's model computed. A graph in which the batch is in front everywhere is left as it is."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from qfx.capture.batch.layout import Layout, Shape
from qfx.capture.batch.operation import NotFollowedError, Operation, Put, Written
from qfx.capture.batch.rules import KEEPS_INNER, RULES, elementwise
from qfx.capture.recording import Recording
from qfx.capture.refusals.remedies import plain_remedy
from qfx.capture.traced import CALLER, INTERNAL, SITE, WHOLE, base_layer, place_of
from qfx.errors import UnsupportedError
from qfx.nn.rules import FAMILY_OF, FUNCTIONS, METHODS, MODULES

_REMEDY = "keep the batch as the first axis here, and move it behind: x.transpose(0, 1) before and after"
_AN_AXIS = "give it one: keepdim=True where it is made, or x.unsqueeze(1)"


def batch_in_front(run: Recording, other: Recording) -> None:
    """Write the graph of ``run``, merged with ``other`` of another batch size, so that the batch is the first axis of every value where the model's
    code has it elsewhere. What cannot be written so stays, and is refused where its shape does not tell."""
    pairs = [(node, value, other.values.get(run.twins.get(node))) for node, value in run.values.items()]  # type: ignore[arg-type]
    found = [(node, value, twin) for node, value, twin in pairs if isinstance(value, Tensor) and isinstance(twin, Tensor)]
    batches = tuple(next(each.inputs.named())[1].shape[0] for each in (run, other))
    dependent = [each for each in found if each[0] in run.dependent]
    if all(_in_front(value.shape, twin.shape, batches) for _, value, twin in dependent):
        return
    _Rewriting(run, other, batches, {node: (tuple(value.shape), tuple(twin.shape)) for node, value, twin in found}).all()


def _in_front(small: Shape, large: Shape, batches: tuple[int, ...]) -> bool:
    return len(small) > 1 and small[0] == batches[0] and tuple(large) == (batches[1], *small[1:])


class _Rewriting:
    """``shapes``: of the user's tensors in both runs. ``turned``: by the user's nodes, those that hold their values with the batch in front."""

    def __init__(
        self,
        run: Recording,
        other: Recording,
        batches: tuple[int, ...],
        shapes: dict[fx.Node, tuple[Shape, Shape]],
    ) -> None:
        self.run, self.other, self.shapes = run, other, shapes
        self.batches = (batches[0], batches[1])
        self.layouts: dict[fx.Node, Layout] = {}
        self.turned: dict[fx.Node, fx.Node] = {}
        self.added: list[fx.Node] = []

    def all(self) -> None:
        for node in list(self.run.graph.nodes):
            if node in self.run.dependent and node.op != "placeholder":
                self._node(node)
            elif node in self.run.dependent and self._plain(node):
                self.layouts[node], self.turned[node] = Layout(), node
        self._clear()

    def _plain(self, node: fx.Node) -> bool:
        return node in self.shapes and _in_front(*self.shapes[node], self.batches)

    def _node(self, node: fx.Node) -> None:
        sources = [source for source in node.all_input_nodes if source in self.run.dependent]
        known = all(source in self.layouts for source in sources)
        if self._plain(node) and (not known or all(self._is_plain(source) for source in sources)):
            self.layouts[node], self.turned[node] = Layout(), node
            return
        if not known:  # what is behind a refusal, or of several tensors
            return
        try:
            if node not in self.shapes:
                raise NotFollowedError
            self._write(node, self._rule(node))
        except NotFollowedError as error:
            self._refuse(node, error)

    def _is_plain(self, node: fx.Node) -> bool:
        return self.layouts[node].plain(len(self.shapes[node][0]))

    def _refuse(self, node: fx.Node, error: NotFollowedError) -> None:
        """Say what stands in the way, where the shape of the result alone would not."""
        odd = [source for source in node.all_input_nodes if source in self.layouts and not self._is_plain(source)]
        if not odd or not (self._plain(node) or error.what or node not in self.shapes):
            return
        source = odd[0]
        shape, axis = self.shapes[source][0], self.layouts[source].axis
        if len(shape) == 1:
            what, others = "reads one number of each sample, which has no axis behind the batch", _AN_AXIS
        else:
            what, others = f"reads a value of shape {shape} for a batch of {self.batches[0]}, which is on axis {axis}", _REMEDY
        remedy = error.remedy or plain_remedy(self._name(node), others)
        problem = UnsupportedError(error.what or what, where=place_of(node), remedy=remedy)
        self.run.refused.setdefault(node, problem)

    # One operation

    def _rule(self, node: fx.Node) -> Written:
        name = self._name(node)
        if node.op == "call_module":
            names, own = "input", MODULES.get(base_layer(self.run.module(str(node.target))))
        else:
            table: dict[Any, Any] = FUNCTIONS if node.op == "call_function" else METHODS
            names, own = table.get(node.target, ("", None))
        rule = RULES.get(name)
        if rule is None and own is not None and FAMILY_OF[own].elementwise:
            rule = elementwise
        if rule is None:
            raise NotFollowedError

        def put(target: Callable[..., Any] | None, args: tuple[Any, ...]) -> fx.Node:
            return self._put(node, target, args)

        def framed(module: torch.nn.Module) -> None:
            self.run.replaced[str(node.target)] = module

        layouts, turned = (self.layouts, self.turned) if rule in KEEPS_INNER else self._outer(node, put)
        module = self.run.module(str(node.target)) if node.op == "call_module" else None
        users = tuple(user for user in self.run.graph.nodes if user.op == "call_module" and user.target == node.target) if module is not None else ()
        return rule(Operation(node, name, tuple(names.split()), self.batches, self.shapes, layouts, turned, put, module, users, framed))

    def _outer(self, node: fx.Node, put: Put) -> tuple[Mapping[fx.Node, Layout], Mapping[fx.Node, fx.Node]]:
        """The sources with their frames in front of the channels."""
        layouts, turned = dict[fx.Node, Layout](), dict[fx.Node, fx.Node]()
        for source in node.all_input_nodes:
            if source in self.layouts and self.layouts[source].inner:
                layouts[source] = replace(self.layouts[source], inner=False)
                turned[source] = put(torch.permute, (self.turned[source], layouts[source].outward(len(self.shapes[source][0]))))
        return (ChainMap(layouts, self.layouts), ChainMap(turned, self.turned)) if layouts else (self.layouts, self.turned)

    def _put(self, node: fx.Node, target: Callable[..., Any] | None, args: tuple[Any, ...]) -> fx.Node:
        """An operation in front of ``node``, in its name; without a target the same with other arguments."""
        graph = self.run.graph
        with graph.inserting_before(node):
            new = graph.create_node(node.op, node.target, args, node.kwargs) if target is None else graph.call_function(target, args)
        if target is None:
            new.meta |= node.meta
            node.meta[SITE] = (node.meta.get(CALLER, ""), f"{node.target}:result", node.meta.get(SITE, ("", "", 0))[2])
            node.meta.pop(WHOLE, None)
            self._count(new)
            return new
        name = target.__name__
        path, own, count = node.meta.get(SITE, (node.meta.get(CALLER, ""), str(node.target), 0))
        before = sum(str(each.meta.get(SITE, ("", ""))[1]).startswith(f"{own}:{name}") for each in self.added)
        new.meta |= {key: value for key, value in node.meta.items() if key != WHOLE}
        new.meta[SITE] = (path, f"{own}:{name}:{before}", count)
        self._count(new)
        return new

    def _count(self, new: fx.Node) -> None:
        self.added.append(new)
        if any(source in self.run.dependent for source in new.all_input_nodes):
            self.run.dependent.add(new)
        self.run.twins[new] = new
        self.run.values[new], self.other.values[new] = self._computed(new)

    def _write(self, node: fx.Node, written: Written) -> None:
        layout = written.layout
        if not all(layout.fits(shape, batch) for shape, batch in zip(self.shapes[node], self.batches, strict=True)):
            raise NotFollowedError
        expected = [layout.turn(self._value(node, which)) for which in (0, 1)]
        if written.target is None:
            (source,) = written.args
            self._same(expected, [self._value(source, which) for which in (0, 1)])
            if not node.meta.get(INTERNAL):
                source.meta[INTERNAL] = False
            self.layouts[node], self.turned[node] = layout, source
            return
        before = node.op, node.target, node.args, node.kwargs
        if written.target is not node.target:
            if node.op == "call_module":
                node.meta.setdefault(SITE, (str(node.target), "moved", 0))
            node.op = "call_method" if isinstance(written.target, str) else "call_function"
            node.target = written.target
        node.args, node.kwargs = written.args, dict(written.kwargs)
        try:
            found = self._computed(node)
            self._same(expected, found)
        except NotFollowedError:
            node.op, node.target, node.args, node.kwargs = before
            raise
        self.run.values[node], self.other.values[self.run.twins[node]] = found
        self.layouts[node], self.turned[node] = layout, node

    def _same(self, expected: list[Tensor], found: Any) -> None:
        """Refuse what is not what the user's model computed."""
        for a, b in zip(expected, found, strict=True):
            scale = float(a.double().nan_to_num(0.0, 0.0, 0.0).abs().max()) if a.numel() else 0.0
            if a.shape != b.shape or not torch.allclose(a.double(), b.double(), rtol=0.0, atol=1e-4 * scale, equal_nan=True):
                raise NotFollowedError

    # Numbers

    def _value(self, node: fx.Node, which: int) -> Any:
        if which == 0 and node in self.run.values:
            return self.run.values[node]
        twin = self.run.twins.get(node)
        if which == 1 and twin in self.other.values:
            return self.other.values[twin]
        return self._carried_out(node, which)  # a size

    def _computed(self, node: fx.Node) -> tuple[Any, Any]:
        return self._carried_out(node, 0), self._carried_out(node, 1)

    def _carried_out(self, node: fx.Node, which: int) -> Any:
        """The operation, on tensors of its own: it may work in place."""

        def value(source: fx.Node) -> Any:
            found = self._value(source, which)
            return found.clone() if isinstance(found, Tensor) else found

        args, kwargs = map_arg((node.args, dict(node.kwargs)), value)
        try:
            with torch.no_grad():
                if node.op == "call_module":
                    return self.run.module(str(node.target))(*args, **kwargs)
                return getattr(args[0], node.target)(*args[1:], **kwargs) if isinstance(node.target, str) else node.target(*args, **kwargs)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:  # torch does not take it so
            raise NotFollowedError from error

    # The end

    def _clear(self) -> None:
        """Let everyone read what holds the values now, and take out what is read no longer. Results stay as the user has them."""
        for node, turned in self.turned.items():
            if node is not turned:
                node.replace_all_uses_with(turned)
        given = set[fx.Node]()

        def result(node: fx.Node) -> fx.Node:
            kept = self.turned.get(node, node)
            if node in self.layouts and not self._is_plain(node):
                kept = node
                self.run.refused.setdefault(node, self._behind(node))
            given.add(kept)
            return kept

        self.run.result = map_arg(self.run.result, result)
        for node in reversed(list(self.run.graph.nodes)):
            moved = node in self.turned and self.turned[node] is not node
            size = node not in self.run.values and node.op != "placeholder"
            unread = node in self.added or moved or size
            if unread and not node.users and node not in given:
                self.run.graph.erase_node(node)
                self.run.values.pop(node, None)
        self.run.values = {node: self.run.values[node] for node in self.run.graph.nodes if node in self.run.values}

    def _behind(self, node: fx.Node) -> UnsupportedError:
        small, large = self.shapes[node]
        remedy = "keep the batch as the first axis of what the model returns, with at least one axis behind it"
        if len(small) == 1:
            remedy = "leave one axis behind the batch: shape (batch, 1), which the host may squeeze"
        what = f"gives shape {small} for a batch of {self.batches[0]} and {large} for a batch of {self.batches[1]}"
        return UnsupportedError(what, where=place_of(node), remedy=remedy)

    def _name(self, node: fx.Node) -> str:
        """What the user calls the operation."""
        if node.op == "call_module":
            return base_layer(self.run.module(str(node.target))).__name__
        return str(getattr(node.target, "__name__", node.target)).strip("_")
