"""QONNX files with the channels last (``qonnx.custom_op.channels_last``) as files of standard operators with the channels first."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from copy import deepcopy
from typing import TypeVar

import numpy as np
import onnx
from onnx import helper, numpy_helper

_T = TypeVar("_T")

DOMAIN = "qonnx.custom_op.channels_last"

_STANDARD = ("", "ai.onnx")
_WRAPPED = ("Conv", "MaxPool", "BatchNormalization")
_NUMBER_BY_NUMBER = (
    "Relu",
    "LeakyRelu",
    "Sigmoid",
    "Tanh",
    "Identity",
    "Clip",
    "Quant",
    "IntQuant",
    "BipolarQuant",
    "Trunc",
    "Add",
    "Sub",
    "Mul",
    "Div",
)

_OF_NUMBERS = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
"""Attributes of a Constant, and the type of what it then gives."""


def channels_first(model: onnx.ModelProto) -> None:
    """Rewrite ``model``: its operators with the channels last become those of ONNX, between transposes.

    Operators between them that do not ask where the channels lie go along, so that transposes stand at the ends of such a stretch alone. Names of
    nodes, of inputs and of outputs stay. What else is of that domain stays as it is.
    """
    if any(node.domain == DOMAIN for node in model.graph.node):
        _Rewriting(model.graph).carry_out()


class _Rewriting:
    """``first``: of values, the name under which they lie with the channels first, and their number of axes. ``owed``: which of them lie so alone.
    ``moved``: of constants with an entry for each axis, and a number of axes, the name of that with the channels first. ``taken``: all names."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.nodes: list[onnx.NodeProto] = []
        self.first: dict[str, tuple[str, int]] = {}
        self.owed: set[str] = set()
        self.shapes = {
            value.name: [deepcopy(dim) for dim in value.type.tensor_type.shape.dim] for value in (*graph.input, *graph.value_info, *graph.output)
        }
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.constants |= {
            node.output[0]: made
            for node in graph.node
            if node.op_type == "Constant" and node.domain in _STANDARD
            if (made := _held(node)) is not None
        }
        self.moved: dict[tuple[str, int], str] = {}
        self.taken = {name for node in graph.node for name in (node.name, *node.input, *node.output)} | {*self.shapes, *self.constants}

    def carry_out(self) -> None:
        for node in self.graph.node:
            if not (self._wrapped(node) or self._concat(node) or self._resize(node) or self._along(node)):
                self._give(node.input)
                self.nodes.append(node)
        self._give([value.name for value in self.graph.output])
        kept = [value for value in self.graph.value_info if value.name not in self.owed]
        kept += [
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [dim.dim_value or None for dim in _moved(self.shapes[source])])
            for source, (name, rank) in self.first.items()
            if len(self.shapes.get(source, ())) == rank
        ]
        for held, found in ((self.graph.node, list(self.nodes)), (self.graph.value_info, kept)):
            del held[:]  # type: ignore[attr-defined, unused-ignore]
            held.extend(found)  # type: ignore[attr-defined, unused-ignore]

    def _unused(self, name: str) -> str:
        """``name``, or one that nothing has yet."""
        free = next(each for count in itertools.count() if (each := name + "_" * count) not in self.taken)
        self.taken.add(free)
        return free

    def _give(self, names: Sequence[str]) -> None:
        """Let values lie with the channels last too, for who reads them so."""
        for name in names:
            if name in self.owed:
                source, rank = self.first[name]
                self.nodes.append(helper.make_node("Transpose", [source], [name], name=self._unused(f"{name}.last"), perm=(0, *range(2, rank), 1)))
                self.owed.remove(name)

    def _turned(self, name: str, rank: int) -> str:
        """The name of a value with the channels first."""
        if name not in self.first:
            turned = self._unused(f"{name}.first")
            self.first[name] = turned, rank
            self.nodes.append(helper.make_node("Transpose", [name], [turned], name=turned, perm=_moved(range(rank))))
        return self.first[name][0]

    def _becomes(self, node: onnx.NodeProto, inputs: Sequence[str], rank: int) -> bool:
        """``node`` with these inputs and the channels first. True: it is done."""
        made = deepcopy(node)
        del made.input[:]
        made.input.extend(inputs)
        made.output[0] = self._unused(f"{node.output[0]}.first")
        self.first[node.output[0]] = made.output[0], rank
        self.owed.add(node.output[0])
        self.nodes.append(made)
        return True

    def _wrapped(self, node: onnx.NodeProto) -> bool:
        if node.domain != DOMAIN or node.op_type not in _WRAPPED or len(node.output) != 1:
            return False
        kernel = next((len(found.ints) for found in node.attribute if found.name == "kernel_shape"), None)
        known = self.first[node.input[0]][1] if node.input[0] in self.first else len(self.shapes.get(node.input[0], ()))
        rank = known if kernel is None else kernel + 2
        if rank < 3:
            return False
        moved = 2 if node.op_type == "Conv" else 1
        self._becomes(node, [self._turned(name, rank) if place < moved else name for place, name in enumerate(node.input)], rank)
        self.nodes[-1].domain = ""
        return True

    def _along(self, node: onnx.NodeProto) -> bool:
        """Whether it makes each number of one number, or of two at one place."""
        rank = next((self.first[name][1] for name in node.input if name in self.first), None)
        if rank is None or node.op_type not in _NUMBER_BY_NUMBER or len(node.output) != 1:
            return False
        others = [name for name in node.input if name and self.first.get(name, ("", 0))[1] != rank]
        if any(name not in self.constants or np.prod(self.constants[name].dims) != 1 for name in others):
            return False
        return self._becomes(node, [self.first[name][0] if name in self.first else name for name in node.input], rank)

    def _concat(self, node: onnx.NodeProto) -> bool:
        ranks = {self.first[name][1] if name in self.first else 0 for name in node.input}
        axis = next((found.i for found in node.attribute if found.name == "axis"), None)
        if node.op_type != "Concat" or node.domain or len(ranks) != 1 or 0 in ranks or axis is None:
            return False
        rank = ranks.pop()
        if not -rank <= axis < rank:
            return False
        self._becomes(node, [self.first[name][0] for name in node.input], rank)
        for found in self.nodes[-1].attribute:
            if found.name == "axis":
                found.i = _moved(range(rank)).index(axis % rank)
        return True

    def _resize(self, node: onnx.NodeProto) -> bool:
        """Its sizes, or by what it multiplies each axis, are constants in the order of the axes."""
        if node.op_type != "Resize" or node.domain or node.input[0] not in self.first or any(found.name == "axes" for found in node.attribute):
            return False
        source, rank = self.first[node.input[0]]
        inputs = [source, *node.input[1:]]
        for place, name in enumerate(node.input[1:], 1):
            if name and name not in self.constants:
                return False
            if name and place > 1 and np.prod(self.constants[name].dims) == rank:
                inputs[place] = self._in_order(name, rank)
        return self._becomes(node, inputs, rank)

    def _in_order(self, name: str, rank: int) -> str:
        """The name of a constant whose entries belong to the axes, with the channels first."""
        if (name, rank) not in self.moved:
            moved = self.moved[name, rank] = self._unused(f"{name}.first")
            numbers = numpy_helper.to_array(self.constants[name]).reshape(rank)[list(_moved(range(rank)))]
            self.graph.initializer.append(numpy_helper.from_array(numbers, moved))
        return self.moved[name, rank]


def _held(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """What a Constant holds, in whichever of its attributes; None for strings and sparse tensors."""
    for found in node.attribute:
        if found.name == "value":
            held: onnx.TensorProto = found.t
            return held
        if found.name in _OF_NUMBERS:
            made: onnx.TensorProto = numpy_helper.from_array(np.asarray(helper.get_attribute_value(found), dtype=_OF_NUMBERS[found.name]))
            return made
    return None


def _moved(axes: Sequence[_T]) -> tuple[_T, ...]:
    """What stands last, as what stands behind the first."""
    return (axes[0], axes[-1], *axes[1:-1])
