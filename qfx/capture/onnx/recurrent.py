"""ONNX's LSTM, GRU and RNN as torch's layers, batch first."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qfx.capture.assemble import Value
from qfx.capture.onnx.node import Handler, Node
from qfx.capture.onnx.shapes import permute

_ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
"""torch's gates among ONNX's: input, forget, cell, output of input, output, forget, cell; reset, update, new of update, reset, new."""

_USUAL = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}


def _recurrent(node: Node) -> list[Value]:
    kind, direction = node.proto.op_type, node.text("direction", "forward")
    hidden, both = node.integer("hidden_size", 0), direction == "bidirectional"
    module = _module(node, kind, hidden, both)
    batch_first = bool(node.integer("layout", 0))
    x = node.x() if batch_first else permute(node, node.x(), (1, 0, 2))
    if direction == "reverse":
        x = node.call(torch.flip, x, (1,))
    found = node.make.layer(node.name, module, x, *_states(node, x, batch_first))
    result = node.call(operator.getitem, found, 0)
    if direction == "reverse":
        result = node.call(torch.flip, result, (1,))
    directions, steps = 2 if both else 1, x.data.shape[1]
    apart = node.call(torch.reshape, result, (-1, steps, directions, hidden))
    outputs = [apart if batch_first else permute(node, apart, (1, 2, 0, 3))]
    if len(node.proto.output) > 1 and node.proto.output[1]:
        last = node.call(operator.getitem, result, (slice(None), slice(-1, None), slice(0, hidden)))
        first = node.call(operator.getitem, result, (slice(None), slice(0, 1), slice(hidden * (directions - 1), None)))
        ends = node.call(torch.cat, [last, first], 1) if both else first if direction == "reverse" else last
        outputs.append(ends if batch_first else permute(node, ends, (1, 0, 2)))
    if len(node.proto.output) > 2 and node.proto.output[2]:
        outputs = [*outputs, outputs[0]][:2]
        cell = node.call(operator.getitem, node.call(operator.getitem, found, 1), 1)
        outputs.append(node.call(torch.permute, cell, (1, 0, 2)) if batch_first else cell)
    return outputs


def _states(node: Node, x: Value, batch_first: bool) -> tuple[Any, ...]:
    """The first states as torch's layers take them, none where all are zeros. Refuses what those layers do not take."""
    lengths = node.constant(4)
    if lengths is not None and bool((np.ravel(lengths) != x.data.shape[1]).any()):
        raise node.refuse("sequences of different lengths", "let all sequences be as long")
    peepholes = node.constant(7)
    if peepholes is not None and np.any(peepholes):
        raise node.refuse("peepholes", "leave them out")
    given = [node.arguments[index] if index < len(node.arguments) else None for index in (5, 6)][: 2 if node.proto.op_type == "LSTM" else 1]
    if not any(isinstance(state, Value) or (state is not None and np.any(state)) for state in given):
        return ()
    states = [_state(node, state, batch_first) for state in given]
    return (states[0] if len(states) == 1 else tuple(states),)


def _state(node: Node, state: Any, batch_first: bool) -> Value:
    """One of (directions, samples, features), zeros where none is given."""
    order = (1, 0, 2) if batch_first else (0, 1, 2)
    if isinstance(state, Value):
        return node.call(torch.permute, state, order) if batch_first else state
    if state is None:
        directions = 2 if node.text("direction", "forward") == "bidirectional" else 1
        return node.make.state(node.name, torch.zeros(directions, 1, node.integer("hidden_size", 0)))
    return node.make.state(node.name, torch.from_numpy(np.array(state, dtype=np.float32)).permute(order))


def _module(node: Node, kind: str, hidden: int, both: bool) -> nn.Module:
    activations = tuple(str(name, "ascii") for name in node.attributes.get("activations", ()))
    usual, relu = _USUAL[kind] * (2 if both else 1), ("Relu",) * (2 if both else 1)
    if activations not in ((), usual) and not (kind == "RNN" and activations == relu):
        raise node.refuse(f"activations {activations}", "use the usual ones")
    if "clip" in node.attributes or node.integer("input_forget", 0):
        raise node.refuse("clip or input_forget", "leave them out")
    if kind == "GRU" and not node.integer("linear_before_reset", 0):
        raise node.refuse("linear_before_reset = 0", "use nn.GRU of torch, or reset_after in Keras")
    weights, recurrent, bias = node.weight(1), node.weight(2), node.tensor(3)
    kinds: dict[str, Any] = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}
    more = {"nonlinearity": "relu"} if activations == relu and kind == "RNN" else {}
    module = kinds[kind](weights.shape[2], hidden, bias=bias is not None, batch_first=True, bidirectional=both, **more)
    gates = len(_ORDER[kind]) * hidden
    with torch.no_grad():
        for place, suffix in enumerate(("_l0", "_l0_reverse")[: 1 + both]):
            parts = {"weight_ih": weights[place], "weight_hh": recurrent[place]}
            if bias is not None:
                parts |= {"bias_ih": bias[place][:gates], "bias_hh": bias[place][gates:]}
            for name, values in parts.items():
                getattr(module, name + suffix).copy_(_reordered(values, _ORDER[kind]))
    found: nn.Module = module
    return found


def _reordered(values: Tensor, order: tuple[int, ...]) -> Tensor:
    gates = values.chunk(len(order))
    return torch.cat([gates[place] for place in order])


HANDLERS: dict[str, Handler] = {"LSTM": _recurrent, "GRU": _recurrent, "RNN": _recurrent}
