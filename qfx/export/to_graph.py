"""Torch -> Graph: each fixed-point layer as the exact operators that it says it is, with the constants that the emulator uses."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from qfx.distributed.ranks import refuse_shards
from qfx.errors import DataError, QfxError, UnsupportedError
from qfx.ir.graph import LEFT_OUT_KEY, OUTPUTS_KEY, Graph, Node, graph_name
from qfx.ir.passes.vanish import constant_outputs
from qfx.ir.values import Info
from qfx.nn.accumulator import Accumulating, check_width
from qfx.nn.fixed_layer import FixedLayer
from qfx.nn.layers import FoldedNorm, QFoldedBatchNorm, QInput, Weighted
from qfx.nn.layers.elementwise.rounding import QWhole
from qfx.nn.layers.sequences.loop import QScan
from qfx.nn.layers.tables.lookup import Tabled
from qfx.nn.model import graph_module, left_out_of, quantizers, recipe_of
from qfx.nn.quantizer import Quantizer
from qfx.operators import Conv, Linear

_LISTED = 8
"""An error lists so many names."""


def refuse_off(qmodel: nn.Module) -> None:
    """Raise UnsupportedError, naming them, if any quantizers of the model are off (``qfx.switch``)."""
    layers = graph_module(qmodel).modules()  # whatever was put in among them by hand
    off = [layer.name for layer in layers if isinstance(layer, Quantizer) and layer.is_initialized and layer.off]
    if off:
        told = f"{len(off)} quantizers are off: {', '.join(off[:_LISTED])}{', ...' if len(off) > _LISTED else ''}"
        raise UnsupportedError(told, where=off[0], remedy="switch them on: qfx.switch(qmodel, on=True)")


def to_graph(qmodel: nn.Module, name: str = "model") -> Graph:
    """The hardware-side graph of a quantized model as it is now (binary points rounded, BatchNorm statistics as they stand, dropout gone).

    ``name`` names the graph. Its metadata carries the recipe as TOML, and what that left out. Raises QfxError if ``qmodel`` did not come from
    ``qfx.quantize``, and for word lengths that were driven to 0 until no input reaches an output; DataError for NaN or infinity in a parameter,
    UnsupportedError for a module that was put in by hand and has no operator.
    """
    module = graph_module(qmodel)
    refuse_off(module)
    refuse_shards(module, "export", "take get_model_state_dict(..., full_state_dict=True) into a model that is not sharded, and export that")
    for path, tensor in (*module.named_parameters(), *module.named_buffers()):
        hides = not isinstance(tensor, nn.Parameter) and bool(((tensor == -torch.inf) | torch.isfinite(tensor)).all())  # a mask of attention
        if not hides and not bool(torch.isfinite(tensor).all()):
            raise DataError("NaN or infinity", where=path, remedy="load an earlier checkpoint; a lower learning rate may help")
    lowering = _Lowering(module)
    with torch.no_grad():
        _make_tables(module)
        for node in module.graph.nodes:
            lowering.visit(node)
    metadata = {"recipe": recipe_of(module).to_toml()}
    if any(lowering.outputs):
        metadata[OUTPUTS_KEY] = "\n".join(lowering.outputs)
    if left_out_of(module):
        metadata[LEFT_OUT_KEY] = "\n".join(left_out_of(module))
    outputs = tuple(lowering.values[node] for node in lowering.outputs.values())
    graph = Graph(name, tuple(lowering.nodes), outputs, metadata)
    _refuse_collapsed(module, graph)
    return graph


def _refuse_collapsed(module: fx.GraphModule, graph: Graph) -> None:
    """A branch may be pruned as a whole; not all that lies between an output and the input."""
    pruned = [name for name, cast in quantizers(module) if cast.learned_ints is not None and cast.word_length == 0]
    constant = constant_outputs(graph) if pruned else ()
    if constant:
        what = "the result" if len(graph.outputs) == 1 else f"the result {constant[0]!r}"
        others = f" (nor have {', '.join(pruned[1:9])}{', ...' if len(pruned) > 9 else ''})" if pruned[1:] else ""
        raise QfxError(
            f"has no bits left{others}, and {what} no longer depends on the input",
            where=pruned[0],
            remedy="load an earlier checkpoint, and train on with a smaller weight of the cost or a larger budget",
        )


def _make_tables(module: fx.GraphModule) -> None:
    """Let every table, loop, accumulator and whole number follow from the types as they are now: by a forward of one sample, in evaluation mode."""
    if not any(isinstance(layer, Tabled | QScan | QWhole | Accumulating) for layer in module.modules()):
        return
    casts = [next(iter(node.users)) for node in module.graph.nodes if node.op == "placeholder"]
    inputs = [layer for cast in casts if isinstance(layer := module.get_submodule(str(cast.target)), QInput)]
    modes = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        module(*(torch.zeros(1, *layer.shape, device=next(layer.parameters()).device) for layer in inputs))
    finally:
        for part, training in modes:
            part.training = training


def _named(results: Any, name: str = "") -> Iterator[tuple[str, fx.Node]]:
    """Every result of a model with a name: none for the only one, keys and places for those in dicts, tuples and lists."""
    if isinstance(results, fx.Node):
        yield name, results
        return
    for place, part in results.items() if isinstance(results, dict) else enumerate(results):
        yield from _named(part, f"{name}_{place}" if name else f"y{place}" if isinstance(place, int) else str(place))


@dataclass
class _Lowering:
    module: fx.GraphModule
    nodes: list[Node] = field(default_factory=list)
    values: dict[fx.Node, str] = field(default_factory=dict)
    norms: dict[fx.Node, FoldedNorm] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    outputs: dict[str, fx.Node] = field(default_factory=dict)
    infos: dict[str, Info] = field(default_factory=dict)

    def visit(self, node: fx.Node) -> None:
        if node.op == "placeholder" or (node.op == "call_function" and node.target is operator.getitem):
            return  # an argument, or a part of one
        if node.op == "call_method" and node.target == "tensor":
            (source,) = node.args
            self.values[node] = self.values[source]  # type: ignore[index]
            return
        if node.op == "output":
            self.outputs = dict(_named(node.args[0]))
            return
        layer = self.module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, QFoldedBatchNorm):
            self.norms[node] = FoldedNorm(*layer.affine(), None)
            return
        if not isinstance(layer, FixedLayer):
            raise UnsupportedError(
                f"{type(layer).__name__} has no operator", where=str(node.target), remedy="change the float model, then quantize it"
            )
        inputs = tuple(self.values[source] for source in node.args if source in self.values)  # type: ignore[index]
        norm = next((self.norms[source] for source in node.args if source in self.norms), None)  # type: ignore[index]
        label = layer.name if isinstance(layer, Quantizer) else str(node.target)
        if isinstance(layer, QScan):
            steps = layer.operators_on(self._info(inputs[0]))
        else:
            steps = layer.operators(norm) if isinstance(layer, Weighted) else layer.operators()
        for suffix, op in steps:
            value = self._free(label + suffix)
            self.nodes.append(Node(value, op, inputs))
            if isinstance(layer, Weighted) and isinstance(op, Conv | Linear):
                check_width(layer.weight_cast, op, self._info(inputs[0]))
            inputs = (value,)
        self.values[node] = inputs[0]

    def _info(self, name: str) -> Info:
        """What is known of a node that is there."""
        for node in self.nodes[len(self.infos) :]:
            self.infos[node.name] = node.op.infer(node.name, tuple(self.infos[source] for source in node.inputs))
        return self.infos[name]

    def _free(self, name: str) -> str:
        """The name as a graph can hold it, or one beside it for a layer that is called again."""
        name = graph_name(name)
        candidate, count = name, 1
        while candidate in self.names:
            candidate, count = f"{name}_{count}", count + 1
        self.names.add(candidate)
        return candidate
