"""A quantized network as a plain module of torch: for what records or compiles programs (``torch.export``, AOTInductor)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from qfx.errors import UnsupportedError
from qfx.export.bounds import FLOAT
from qfx.export.export import to_graph
from qfx.export.onnx_file import to_model
from qfx.export.opset import DOMAIN
from qfx.export.programs.operations import NUMBERS, OPERATIONS, Scan, conv
from qfx.ir.graph import Graph

_SPLIT, _SUMS = ("Conv_", "ConvBias_"), "SumPool_"
"""Functions that split operands for want of a float64 convolution, which torch has."""


def to_module(model: nn.Module | Graph) -> nn.Module:
    """A quantized model, or its graph, as a module that computes the same numbers by torch's own operators in float64, each of them exact.

    The module takes the inputs of the model as (batch, *shape), in the order of the graph, and gives its result, a tuple where there are several:
    float32 where that holds every number that can come, else float64, as the ONNX file does. Weights are buffers; nothing learns, and no gradient
    passes the casts. Any batch length; the steps of a sequence are unrolled. ``torch.export.export(qfx.to_module(qmodel), (x,))`` gives a program
    that needs no qfx to run. Numbers that are not finite, which the quantized model refuses, are not looked for. On a GPU it is exact where torch
    convolves float64 directly (deterministic algorithms).

    Raises what ``qfx.export_onnx`` raises, and UnsupportedError, naming the node, for an operator that has no such form.
    """
    graph = model if isinstance(model, Graph) else to_graph(model)
    file = to_model(graph)
    kept = [(function.domain, function.name) for function in file.functions if function.name.startswith((*_SPLIT, _SUMS))]
    program = onnx.inliner.inline_selected_functions(file, kept, exclude=True) if kept else onnx.inliner.inline_local_functions(file)
    dtypes = [torch.float32 if value.type.tensor_type.elem_type == FLOAT else torch.float64 for value in program.graph.output]
    return _Program(_Steps(program.graph), dtypes)


class _Program(nn.Module):
    """From the numbers of a user to float64, and back."""

    def __init__(self, steps: _Steps, dtypes: list[torch.dtype]) -> None:
        super().__init__()
        self.steps, self.dtypes = steps, dtypes

    def forward(self, x: Tensor, *others: Tensor) -> Any:
        found = self.steps(*(one.double() for one in (x, *others)))
        results = tuple(value.to(dtype) for value, dtype in zip(found, self.dtypes, strict=True))
        return results[0] if len(results) == 1 else results


class _Steps(nn.Module):
    """The nodes of an ONNX graph, one after the other. What depends on no input is computed when it is made."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        super().__init__()
        known: dict[str, Any] = {"": None, **{tensor.name: _tensor(tensor) for tensor in graph.initializer}}
        self.inputs = [value.name for value in graph.input]
        self.outputs = [value.name for value in graph.output]
        self.nodes: list[tuple[Callable[..., Any], list[Any], dict[str, Any], list[str]]] = []
        for node in graph.node:
            function, attributes = _function(node), _attributes(node)
            lists = NUMBERS.get(node.op_type, ())
            given: list[Any] = [_numbers(known[name]) if place in lists and name in known else name for place, name in enumerate(node.input)]
            if all(not isinstance(one, str) or one in known for one in given):
                results = function(*(known[one] if isinstance(one, str) else one for one in given), **attributes)
                known.update(zip(node.output, results if isinstance(results, tuple) else (results,), strict=False))
                continue
            if isinstance(function, nn.Module):
                self.add_module(f"scan_{len(self.nodes)}", function)
            self.nodes.append((function, given, attributes, list(node.output)))
        read = {one for _, given, _, _ in self.nodes for one in given if isinstance(one, str)} | set(self.outputs)
        self.held: dict[str, str] = {}
        for name in sorted(read & set(known) - {""}):
            self.held[name] = f"constant_{len(self.held)}"
            self.register_buffer(self.held[name], known[name].contiguous())

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        values: dict[str, Any] = {"": None, **{name: getattr(self, buffer) for name, buffer in self.held.items()}}
        values.update(zip(self.inputs, inputs, strict=True))
        for function, given, attributes, outputs in self.nodes:
            results = function(*(values[one] if isinstance(one, str) else one for one in given), **attributes)
            values.update(zip(outputs, results if isinstance(results, tuple) else (results,), strict=False))
        return tuple(values[name] for name in self.outputs)


def _function(node: onnx.NodeProto) -> Callable[..., Any]:
    if node.domain == DOMAIN and node.op_type.startswith(_SPLIT):
        biased = node.op_type.startswith("ConvBias_")
        return lambda x, weight, *steps, **attributes: conv(x, weight, steps[-1].reshape(-1) if biased else None, **attributes)
    if node.domain == DOMAIN and node.op_type.startswith(_SUMS):
        return lambda x, *steps, window, **attributes: conv(x, x.new_ones(window), **attributes)
    if node.op_type == "Scan":
        return Scan(_Steps(helper.get_node_attr_value(node, "body")))
    if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATIONS:
        what = f"{node.op_type} has no form in torch's operators"
        raise UnsupportedError(what, where=node.name.split("#")[0], remedy="use qfx.export_onnx(qmodel, path), which ONNX Runtime executes")
    return OPERATIONS[node.op_type]


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """As Python has them; those of Scan are in its module."""
    if node.op_type == "Scan":
        return {}
    found = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    return {name: _tensor(value) if isinstance(value, onnx.TensorProto) else value for name, value in found.items()}


def _tensor(proto: onnx.TensorProto) -> Tensor:
    array = numpy_helper.to_array(proto)
    is_whole = array.dtype.kind in "biu" or (not np.issubdtype(array.dtype, np.floating) and "int" in array.dtype.name)
    return torch.from_numpy(np.array(array, dtype=bool if array.dtype.kind == "b" else np.int64 if is_whole else np.float64))


def _numbers(value: Tensor | list[Any] | None) -> list[Any] | None:
    return value.reshape(-1).tolist() if isinstance(value, Tensor) else value
