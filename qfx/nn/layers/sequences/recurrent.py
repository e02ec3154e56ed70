"""One layer of a recurrent network in one direction, as capture records it, and what it becomes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.overrides import handle_torch_function, has_torch_function

from qfx.nn.call import Call, Family, Layers, Part
from qfx.nn.layers.elementwise.expand import QExpand
from qfx.nn.layers.linear import QLinear
from qfx.nn.layers.pad import QPad
from qfx.nn.layers.permute import QPermute
from qfx.nn.layers.products.weights import Weights, weights_of
from qfx.nn.layers.reshape import QReshape
from qfx.nn.layers.sequences import cells
from qfx.nn.layers.sequences.cells import CELL, HIDDEN
from qfx.nn.layers.sequences.first import QGiven, QStarted, started
from qfx.nn.layers.sequences.loop import QScan
from qfx.nn.layers.slice import QSlice


def recurrent(
    input: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    weight_hr: Tensor | None,
    h0: Tensor | None = None,
    c0: Tensor | None = None,
    *,
    kind: str,
    label: str,
    place: int = 0,
) -> Tensor:
    """One layer in one direction in float, from the states ``h0`` and ``c0``, zeros where they are None: (batch, T, features) to (batch, T, H),
    for an LSTM h and c one after the other. Weights and gates as torch has them; ``kind``: the name of torch's function; ``label``: what the layer
    is called within its module. First states are (batch, H), or those of all layers and directions, of which this one is at ``place``."""
    arguments = (input, weight_ih, weight_hh, bias_ih, bias_hh, weight_hr, h0, c0)
    tensors = tuple(tensor for tensor in arguments if tensor is not None)
    if has_torch_function(tensors):
        result: Tensor = handle_torch_function(recurrent, tensors, *arguments, kind=kind, label=label, place=place)
        return result
    h = input.new_zeros(input.shape[0], weight_hh.shape[1]) if h0 is None else h0 if h0.dim() == 2 else h0[place]
    c = input.new_zeros(input.shape[0], weight_hh.shape[0] // 4) if c0 is None else c0 if c0.dim() == 2 else c0[place]
    found = []
    for x in F.linear(input, weight_ih, bias_ih).unbind(1):
        u = F.linear(h, weight_hh, bias_hh)
        if kind == "lstm":
            i, f, g, o = (x + u).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            h = h if weight_hr is None else F.linear(h, weight_hr)
        elif kind == "gru":
            (x_r, x_z, x_n), (u_r, u_z, u_n) = x.chunk(3, 1), u.chunk(3, 1)
            n = torch.tanh(x_n + torch.sigmoid(x_r + u_r) * u_n)
            h = n + torch.sigmoid(x_z + u_z) * (h - n)
        else:
            h = torch.tanh(x + u) if kind == "rnn_tanh" else torch.relu(x + u)
        found.append(torch.cat([h, c], 1) if kind == "lstm" else h)
    return torch.stack(found, 1)


def hidden_of(states: Tensor, size: int) -> Tensor:
    """h of an LSTM's h and c."""
    if has_torch_function((states,)):
        result: Tensor = handle_torch_function(hidden_of, (states,), states, size)
        return result
    return states[..., :size]


def cell_of(states: Tensor, size: int) -> Tensor:
    """c of an LSTM's h and c; ``size`` is that of h."""
    if has_torch_function((states,)):
        result: Tensor = handle_torch_function(cell_of, (states,), states, size)
        return result
    return states[..., size:]


def _recurrent(call: Call) -> Layers:
    product = QLinear(_weights(call, "weight_ih", "bias_ih"), call.recipe, f"{call.path}_input", positions=True)
    turned = Part(QPermute((1, 0)), (0,), "_turned")
    summed = Part(product, (turned,), "_input")
    states = tuple(name for name in (HIDDEN, CELL) if call.arguments.get(f"{name}0") is not None)
    if not states:
        return [turned, summed, Part(_loop(call, call.get("kind"), states), (summed,))]
    rows, columns = call.traced.fixed[call.arguments["weight_hh"]].shape
    sizes = {HIDDEN: columns, CELL: rows // 4}
    joined = started(call, summed, [(name, sizes[name]) for name in states])
    return [*_above(joined), Part(_loop(call, call.get("kind"), states), (joined,))]


def _above(part: Part) -> list[Part]:
    """A part and all that it reads, in order."""
    found: dict[int, Part] = {}
    for source in part.sources:
        if isinstance(source, Part):
            found |= {id(other): other for other in _above(source)}
    return [*found.values(), part]


def _loop(call: Call, kind: str, states: tuple[str, ...]) -> QScan:
    hidden = _weights(call, "weight_hh", "bias_hh")
    if kind == "lstm":
        projection = None if call.get("weight_hr") is None else weights_of(call, call.get("weight_hr"))
        return cells.lstm(call, hidden, projection, states, with_cell=_reads_cell(call, call.node))
    return cells.gru(call, hidden, states) if kind == "gru" else cells.rnn(call, hidden, states, relu=kind == "rnn_relu")


def _weights(call: Call, weight: str, bias: str) -> Weights:
    return weights_of(call, call.arguments.get(weight), call.arguments.get(bias))


def _reads_cell(call: Call, states: fx.Node) -> bool:
    return any(user.target is cell_of and bool(user.users) for user in call.traced.tensor_users(states))


def _hidden(call: Call) -> Layers:
    """Where nothing reads the cell, the loop gives h alone."""
    size, (steps, _) = call.get("size"), call.in_shape
    return [QSlice((0, 0), (steps, size), (1, 1))] if _reads_cell(call, call.arguments["states"]) else []


def _cell(call: Call) -> Layers:
    size, (steps, width) = call.get("size"), call.in_shape
    return [QSlice((0, size), (steps, width), (1, 1))]


_ARGUMENTS = "input weight_ih weight_hh bias_ih bias_hh weight_hr h0 c0 kind label place"

FAMILY = Family(
    layers=(QScan, QLinear, QPermute, QSlice, QGiven, QStarted, QPad, QReshape, QExpand),
    functions={recurrent: (_ARGUMENTS, _recurrent), hidden_of: ("states size", _hidden), cell_of: ("states size", _cell)},
    takes_constants=True,
)
