"""ATen's recurrent networks as torch's layers, under the path that the exported module had."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, nn

from qfx.capture.assemble import Value
from qfx.capture.aten_operators import Call, Handler

_KINDS: dict[str, Any] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn_tanh": nn.RNN, "rnn_relu": nn.RNN}


def _recurrent(call: Call) -> list[Value]:
    params, hx = call.get("params"), call.get("hx")
    if not isinstance(params, list) or not all(isinstance(part, Tensor) for part in params) or "batch_sizes" in call.arguments:
        raise call.refuse("weights that depend on data, or a packed sequence", "let weights be constants, and all sequences as long")
    states = [hx] if not isinstance(hx, list) else hx
    if not all(isinstance(state, Tensor) and not bool(state.any()) for state in states):
        raise call.refuse("a state other than zeros", "start from zeros: leave the initial state out")
    found = call.make.layer(call.name, _module(call, params), call.x)
    result, ends = (call.make.call(call.name, operator.getitem, found, place) for place in (0, 1))
    return [result, *(ends if isinstance(ends, list) else [ends])]


def _module(call: Call, params: list[Tensor]) -> nn.Module:
    more: dict[str, Any] = {"nonlinearity": call.operator.removeprefix("rnn_")} if call.operator.startswith("rnn") else {}
    hidden, size = params[0].shape[0] // {"lstm": 4, "gru": 3}.get(call.operator, 1), params[1].shape[1]
    if call.operator == "lstm" and size != hidden:
        more["proj_size"] = size
    options = {name: call.get(name, False) for name in ("num_layers", "dropout", "bidirectional", "batch_first")}
    module = _KINDS[call.operator](params[0].shape[1], hidden, bias=bool(call.get("has_biases", False)), **options, **more)
    with torch.no_grad():
        for name, values in zip(module._flat_weights_names, params, strict=True):
            getattr(module, name).copy_(values)
    found: nn.Module = module
    return found


RECURRENT: dict[str, Handler] = dict.fromkeys(_KINDS, _recurrent)
"""By the operator's name without its overload."""
