"""Building the fixed-point network of a traced float model: modules attached under the names that users know, the graph between them, and every
binary point started from the data that reaches it. What stands where is decided in ``qfx.nn.placement``."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, fx, nn

from qfx.capture.inputs import Inputs
from qfx.capture.refusals.blockers import output_problems
from qfx.capture.traced import KEPT, MADE, ONCE, Traced
from qfx.errors import QfxError, UnsupportedError
from qfx.nn import placement
from qfx.nn.accumulator import Accumulating
from qfx.nn.call import Call, Part, parts_of, tensors_of
from qfx.nn.fixed_layer import FixedLayer
from qfx.nn.layers import FoldedNorm, QFoldedBatchNorm, QInput, Weighted
from qfx.nn.layers.products.weights import computed_together
from qfx.nn.layers.selecting.embedding import rows_addressed
from qfx.nn.layers.tables.lookup import Tabled
from qfx.nn.lookup import find, multiplies, only_moves
from qfx.nn.model import QuantizedModel
from qfx.nn.qtensor import QTensor
from qfx.nn.quantizer import Quantizer
from qfx.recipe import Recipe


@dataclass
class _Value:
    """A tensor of the network under construction: its node, its data on the example, whether a Cast is still due, the name and the role of that Cast,
    whether it has one binary point for all, what operation it is the result of, and the role of the Cast that its numbers come from as they are."""

    node: fx.Node
    data: QTensor
    due: bool
    path: str
    role: str
    one_point: bool = False
    kind: str = ""
    cast_as: str = ""


class Builder:
    """Builds the fixed-point network node by node, running it on the example as it grows: every binary point starts from the data that
    reaches it."""

    traced: Traced
    recipe: Recipe
    root: nn.Module
    graph: fx.Graph
    paths: set[str]

    def __init__(self, traced: Traced, recipe: Recipe) -> None:
        self.traced, self.recipe = traced, recipe
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.values: dict[fx.Node | Part, _Value] = {}
        self.paths = {name for name, _ in traced.module.named_modules()} | {name for name, _ in traced.module.named_parameters()}
        read = (node for node in traced.module.graph.nodes if any(user not in traced.shapes for user in node.users))
        self.paths |= {name for node in read for name in node.meta.get(KEPT, ())}  # what is computed of others stays under its name
        self.used: set[str] = set()
        self.raw: dict[fx.Node, fx.Node] = {}  # arguments that hold several tensors
        self.first: dict[str, str] = {}  # of a layer that is a module's second call or a later one: what the first is called
        self.sites: dict[tuple[str, str, int], str] = {}
        self.once: dict[Any, str] = {}  # of layers that are there once, by their weights
        self.operands: Counter[str] = Counter()  # how many casts stand in front of a layer
        self.partners: dict[str, tuple[FoldedNorm, fx.Node]] = {}  # of layers, by the path of the norm

    def build(self, inputs: Inputs) -> QuantizedModel:
        """The network, started from ``inputs``, with which the trace was made."""
        nodes = self.traced.module.graph.nodes
        arguments = iter((*inputs.args, *inputs.kwargs.values()))
        given: dict[fx.Node, Any] = {}
        placeholders = {
            node: self.graph.placeholder(str(node.target)) for node in nodes if node.op == "placeholder"
        }  # first, so that no other takes a name
        for node in nodes:
            if node.op == "placeholder":
                self._given(node, next(arguments), placeholders[node], given)
            elif node.target is operator.getitem and node.args[0] in given and node not in given:
                source, place = node.args
                self._given(node, given[source][place], self.graph.call_function(operator.getitem, (self.raw[source], place)), given)
            elif node.op == "output":
                self._output(node)
            elif node in self.traced.shapes and node not in self.values and self.traced.tensor_users(node):
                self._operation(node)
        for layer in self.root.modules():
            if isinstance(layer, Tabled):
                layer.settle()
        return QuantizedModel(self.root, self.graph, class_name="QuantizedModel")

    def _given(self, node: fx.Node, data: Any, raw: fx.Node, given: dict[fx.Node, Any]) -> None:
        """An argument of the model, or a part of one that holds several tensors: a tensor gets its cast."""
        if not isinstance(data, Tensor):
            given[node], self.raw[node] = data, raw
            return
        if not self.traced.tensor_users(node):
            raise UnsupportedError(f"the input {self._label(node)!r} is never read", where=self._label(node), remedy="leave it out of the example")
        label = self._label(node) if self._several() else "input"
        layer = QInput(self.traced.shapes[node], self.recipe, label, rows_addressed(node, self.traced, only_moves))
        layer.left_out = self.traced.left_out
        path = self._attach(self._free(layer.label), layer)
        layer.initialize(data)
        self.values[node] = _Value(self.graph.call_module(path, (raw,)), layer(data), due=False, path=path, role="input", cast_as="input")

    def _several(self) -> bool:
        """Whether the model reads more than one tensor."""
        placeholders = [node for node in self.traced.module.graph.nodes if node.op == "placeholder"]
        return len(placeholders) > 1 or any(node not in self.traced.shapes for node in placeholders)

    def _label(self, node: fx.Node) -> str:
        if node.op == "placeholder":
            return str(node.target)
        source, place = node.args
        return f"{self._label(source)}_{place}"  # type: ignore[arg-type]

    def _operation(self, node: fx.Node) -> None:
        path = str(node.target) if node.op == "call_module" else self._functional_path(node)
        try:
            self._convert(node, path)
        except QfxError as error:
            if error.where:
                raise
            raise type(error)(error.what, where=path, remedy=error.remedy) from error

    def _convert(self, node: fx.Node, path: str) -> None:
        rule, call = find(node, path, self.traced, self.recipe)
        call = self._placed(call)
        sources = [source for source in call.inputs if source in self.values]
        parts = parts_of(rule(call), len(sources))
        if not parts:
            self.values[node] = self.values[sources[0]]
            return
        parts[-1].layer.float_tensors = tensors_of(node, self.traced)
        for part in parts:
            if isinstance(part.layer, Weighted) and node.meta.get(MADE):
                part.layer.compute_own(computed_together(self.traced, node.meta[MADE]))
        readers, multiplied = placement.readers(parts), self._multiplied(node, call, sources)
        for part in parts:
            places = [sources[source] if isinstance(source, int) else source for source in part.sources]
            alone = [readers[source] == 1 and self._has_one_user(place) for source, place in zip(part.sources, places, strict=True)]
            inputs = [multiplied.get(place) or self._ready(place, part.layer, only) for place, only in zip(places, alone, strict=True)]
            if placement.lie_far_apart(part.layer, [value.data.interval for value in inputs]):
                inputs = [self._settled(value) for value in inputs]
            norm = placement.norm_to_fold(node, self.traced, self.recipe) if part is parts[-1] and isinstance(part.layer, Weighted) else None
            role = placement.role_of_part(part, parts, placement.role(norm or node, self.traced, self.recipe))
            value = self._apply(part.layer, call.path + part.suffix, inputs, role, norm)
            value.kind = inputs[0].kind if part.layer.traits.named_by_source else call.name
            for quantizer in part.layer.modules():
                if isinstance(quantizer, Quantizer):
                    quantizer.kind = call.name
            self.values[part] = self._cast(value) if part is parts[-1] and part.layer.traits.ends_chain else value
            if norm is not None:
                self.values[norm] = self.values[part]
        self.values[node] = self.values[parts[-1]]
        for part in parts:
            del self.values[part]
        shape = tuple(self.values[node].data.shape[1:])
        if shape != call.out_shape and not parts[-1].layer.traits.leaves_out:
            raise call.refuse(f"{call.name} gives {call.out_shape} in float and {shape} here", "please report this defect")

    def _placed(self, call: Call) -> Call:
        """The call under the path that its layers get, which a later call of a module may have to itself."""
        if call.node.meta.get(ONCE):
            return replace(call, path=self.once.setdefault((call.node.target, *call.node.args[1:]), call.path))
        site, path = self.traced.site(call.node), call.path
        first = path if site is None else self.sites.setdefault(site, path)
        if site is None and path in self.used and self._layer(path).traits.called_again == "new":
            path = self._free(path)
        if path == first:
            return call
        self.first[path] = first
        return replace(call, path=path, first=first)

    def _has_one_user(self, place: fx.Node | Part) -> bool:
        return isinstance(place, Part) or len(self.traced.tensor_users(place)) == 1

    def _layer(self, path: str) -> FixedLayer:
        layer = self.root.get_submodule(path)
        assert isinstance(layer, FixedLayer)  # nothing else is attached
        return layer

    def _apply(self, layer: FixedLayer, path: str, inputs: list[_Value], role: str, norm: fx.Node | None) -> _Value:
        """Attach the layer, start its constants, and run it on the example. ``norm``: the BatchNorm that goes into it."""
        again = layer.traits.called_again if path in self.used else "new"
        if again == "shared":  # the same module called again keeps its one set of constants
            layer = self._layer(path)
            if isinstance(layer, Weighted) and isinstance(layer.weight_cast, Accumulating):
                layer.weight_cast.share()
        else:
            path = self._attach(path, layer)
        if isinstance(layer, Tabled):
            layer.table_error = self.recipe.table_error
        arguments: tuple[QTensor | FoldedNorm, ...] = tuple(value.data for value in inputs)
        extra: tuple[fx.Node, ...] = ()
        if norm is not None:
            assert isinstance(layer, Weighted)
            folded, partner = self._fold(layer, norm, inputs[0].data)
            arguments, extra = (*arguments, folded), (partner,)
        initialize = getattr(layer, "initialize", None)
        if again != "shared" and initialize is not None:
            initialize(*arguments)
        data = layer(*arguments)
        result = self.graph.call_module(path, (*(value.node for value in inputs), *extra))
        name = inputs[0].path if layer.traits.named_by_source else path
        due = placement.is_due(layer, (value.due for value in inputs))
        kept = inputs[0].cast_as if len(inputs) == 1 and not due and placement.keeps_numbers(layer) else ""
        return _Value(result, data, due, name, role, layer.traits.one_point, cast_as=kept)

    def _fold(self, layer: Weighted, norm: fx.Node, x: QTensor) -> tuple[FoldedNorm, fx.Node]:
        """Make the BatchNorm of node ``norm`` a partner of the layer before it, which reads ``x``; of all calls of that layer."""
        known = self.partners.get(str(norm.target))
        if known is not None:
            return known
        source = self.traced.module.get_submodule(str(norm.target))
        folded = QFoldedBatchNorm(source, str(norm.target))  # type: ignore[arg-type]
        if folded.is_untrained:
            folded.start_from(layer.in_float(x))
        path = self._attach(str(norm.target), folded)
        self.partners[str(norm.target)] = folded(), self.graph.call_module(path)
        return self.partners[str(norm.target)]

    def _multiplied(self, node: fx.Node, call: Call, sources: Sequence[fx.Node]) -> dict[fx.Node | Part, _Value]:
        """What a call that multiplies by weights reads instead of its source, where the recipe wants a Cast in front: one of its own, unless the
        source is cast for products already, or is the model's input."""
        if self.recipe.operand is None or not multiplies(node, self.traced):
            return {}
        value = self._settled(self.values[sources[0]])
        if value.cast_as in ("input", "operand"):
            return {}
        count = self.operands[call.path]
        self.operands[call.path] += 1
        suffix = f"_{count}" if count else ""
        path = self._free(f"{call.path}_operand")
        also = f"{self.first.get(call.path, call.path)}.operand"
        return {sources[0]: self._cast_at(path, f"{call.path}.operand{suffix}", also, "operand", call.name, value)}

    def _ready(self, place: fx.Node | Part, layer: FixedLayer, alone: bool) -> _Value:
        """The value as the layer may read it: cast first where that is due."""
        value = self.values[place]
        if not value.due or placement.may_read_uncast(layer, value.data.interval, self.recipe, alone=alone):
            return value
        return self._settled(value)

    def _settled(self, value: _Value) -> _Value:
        """The value after the Cast that is due, from here on for all who read it."""
        if not value.due:
            return value
        cast = self._cast(value)
        for other, known in self.values.items():
            if known is value:
                self.values[other] = cast
        return cast

    def _cast(self, value: _Value) -> _Value:
        if not value.due:
            return value
        name = value.path
        path, count = f"{name}.output_cast", 1
        while path in self.used:
            path, count = f"{name}.output_cast_{count}", count + 1
        label = f"{name}.output" + path.removeprefix(f"{name}.output_cast")
        return self._cast_at(path, label, f"{self.first.get(name, name)}.output", value.role, value.kind, value)

    def _cast_at(self, path: str, label: str, also: str, role: str, kind: str, value: _Value) -> _Value:
        """The value after a Cast at ``path``, which recipes call ``label``."""
        spec = self.recipe.of_kind(kind).spec(label, role, also)
        quantizer = Quantizer(replace(spec, granularity="tensor") if value.one_point else spec, name=label, also=also)
        quantizer.kind = kind
        self._attach(path, quantizer)
        quantizer.initialize(value.data)
        node = self.graph.call_module(path, (value.node,))
        return _Value(node, quantizer(value.data), due=False, path=value.path, role=role, kind=kind, cast_as=role)

    def _output(self, node: fx.Node) -> None:
        for problem in output_problems(node, self.traced):
            raise problem
        results: dict[fx.Node, fx.Node] = {}

        def result(source: fx.Node) -> fx.Node:
            if source not in results:
                results[source] = self.graph.call_method("tensor", (self._settled(self.values[source]).node,))
            return results[source]

        self.graph.output(fx.map_arg(node.args[0], result))

    def _functional_path(self, node: fx.Node) -> str:
        """Where a functional call gets its place: below the module that makes it, under the operation's name."""
        parent = self.traced.path(node)
        base = str(node.kwargs.get("label") or getattr(node.target, "__name__", str(node.target))).strip("_")
        path = f"{parent}.{base}" if parent else base
        return self._free(path)

    def _free(self, path: str) -> str:
        candidate, count = path, 1
        while candidate in self.paths or candidate in self.used:
            candidate, count = f"{path}_{count}", count + 1
        return candidate

    def _attach(self, path: str, layer: FixedLayer) -> str:
        """Put the layer at a dotted path (or, if that is taken, one beside it) and return where it is."""
        if path in self.used:
            path = self._free(path)
        *parents, leaf = path.split(".")
        holder = self.root
        for name in parents:
            if not hasattr(holder, name):
                holder.add_module(name, nn.Module())
            holder = getattr(holder, name)
        if hasattr(holder, leaf):
            raise UnsupportedError(f"the name {path!r} is taken", where=path, remedy="rename the module")
        layer.name = layer.name or path
        holder.add_module(leaf, layer.eval())  # while it is built, nothing drops out and no statistics move
        self.used.add(path)
        return path
