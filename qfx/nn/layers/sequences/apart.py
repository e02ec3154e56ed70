"""Recurrent networks taken apart: ``torch.lstm``, ``gru``, ``rnn_tanh`` and ``rnn_relu``, which ``nn.LSTM`` and its like call and exported programs
hold, into layers of one direction each; the cells into their arithmetic."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from qfx.capture.loops.chains import CALL, CellCall
from qfx.capture.refusals.apart import NotTakenApartError
from qfx.capture.traced import KEPT, ONCE, SPARE
from qfx.nn.layers.sequences.recurrent import cell_of, hidden_of, recurrent


@dataclass(frozen=True)
class Computed:
    """Whether a tensor is computed from the model's input (the call), and whether it is ``kept``: computed of what checkpoints have."""

    node_of: Callable[[Tensor], fx.Node]
    dependent: Set[fx.Node]

    def __call__(self, tensor: Tensor) -> bool:
        return _from_data(self.node_of(tensor), self.dependent)

    def kept(self, tensor: Tensor) -> bool:
        left, seen = [self.node_of(tensor)], set[fx.Node]()
        while left:
            node = left.pop()
            if node.meta.get(KEPT):
                return True
            left += [source for source in node.all_input_nodes if source not in seen and source not in self.dependent]
            seen.add(node)
        return False

    def note(
        self, kind: str, results: Sequence[Tensor], weights: Sequence[Tensor | None], first: Sequence[Tensor | None], **steps: Tensor | None
    ) -> None:
        """Note at the h that a cell gives which call it is of: ``first``, its states, and the ``steps`` that it was taken apart into."""
        nodes = tuple(self.node_of(result) for result in results)
        constants = {place: self.node_of(state) for place, state in enumerate(first) if state is not None and not self(state)}
        found = {name: None if step is None else self.node_of(step) for name, step in steps.items() if step is None or self(step)}
        tensors = tuple(None if weight is None else self.node_of(weight) for weight in weights)
        for node in found.values():
            if node is not None and node.target is F.linear:
                node.meta[ONCE] = True
        nodes[0].meta[CALL] = CellCall(kind, results=nodes, constants=constants, weights=tensors, **found)  # type: ignore[arg-type]


def _layers(kind: str) -> Callable[..., tuple[Tensor, ...]]:
    """torch's function of that name, on whole sequences."""

    def layers(
        input: Tensor,
        hx: Any,
        params: Any,
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool = False,
        *,
        computed: Computed,
    ) -> tuple[Tensor, ...]:
        """For each layer and direction a linear layer over all steps and a loop (``QScan``); the last states as slices of what the loops give."""
        if input.dim() != 3:
            raise NotTakenApartError(f"runs over a sequence of {input.dim()} axes", remedy="give it (batch, steps, features)")
        first = [None if _zeros(state, computed) else state for state in ([hx] if isinstance(hx, Tensor) else hx)]
        ways = 2 if bidirectional else 1
        count = len(params) // (num_layers * ways)
        x = input if batch_first else input.transpose(0, 1)
        ends: list[list[Tensor]] = []
        for layer in range(num_layers):
            found = []
            for way in range(ways):
                place = layer * ways + way
                weights = _weights(params[place * count : (place + 1) * count], has_biases)
                own = [state[place] if state is not None and computed(state) else state for state in first]
                states = _one_way(kind, torch.flip(x, (1,)) if way else x, weights, own, f"l{layer}" + "_reverse" * way, place)
                ends.append([part[:, -1] for part in states])
                found.append(torch.flip(states[0], (1,)) if way else states[0])
            x = found[0] if ways == 1 else torch.cat(found, 2)
            if dropout and layer < num_layers - 1:
                x = F.dropout(x, dropout, training=False)
        return x if batch_first else x.transpose(0, 1), *(torch.stack(parts, 0) for parts in zip(*ends, strict=True))

    return layers


_Weights = tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]


def _weights(params: Sequence[Tensor], has_biases: bool) -> _Weights:
    """Of one layer in one direction: W, U, their biases, and the projection."""
    biases = (params[2], params[3]) if has_biases else (None, None)
    rest = params[4:] if has_biases else params[2:]
    return params[0], params[1], *biases, rest[0] if rest else None


def _one_way(kind: str, x: Tensor, weights: _Weights, first: Sequence[Tensor | None], label: str, place: int) -> list[Tensor]:
    """The states after every step: h, and for an LSTM c. ``first``: those before, constants for all layers, of which this is the one at ``place``."""
    states = recurrent(x, *weights, *first, kind=kind, label=label, place=place)
    size = weights[1].shape[1]
    return [hidden_of(states, size), cell_of(states, size)] if kind == "lstm" else [states]


def _zeros(state: Tensor, computed: Computed) -> bool:
    """Whether a state is the zeros that a sequence starts with. What a checkpoint may change is not, whatever it is now."""
    if computed(state) or computed.kept(state):
        return False
    with torch._C.DisableTorchFunction():  # nothing of the model
        return not bool(state.any())


def _first(states: Sequence[Tensor], computed: Computed) -> list[Tensor | None]:
    """The states that a cell starts from, None for zeros."""
    return [None if _zeros(state, computed) else state for state in states]


def _once(state: Tensor | None, computed: Computed) -> Tensor | None:
    """A constant state, which is the same for all samples, for one; any other as it is."""
    if state is None or computed(state):
        return state
    with torch._C.DisableTorchFunction():
        same = state.dim() == 1 or bool((state == state[:1]).all())
    if not same:
        raise NotTakenApartError(
            "starts from a state that is another for each sample", remedy="let it be the same for all, or compute it from the input"
        )
    return state if state.dim() == 1 else state[:1]


def _hidden(h: Tensor | None, weight: Tensor, bias: Tensor | None) -> Tensor | None:
    """U h + v; of zeros v."""
    return bias if h is None else F.linear(h, weight, bias)


def _sum(x: Tensor, y: Tensor | None) -> Tensor:
    return x if y is None else x + y


_Bias = Tensor | None


def _lstm_cell(
    input: Tensor, hx: Any, w_ih: Tensor, w_hh: Tensor, b_ih: _Bias = None, b_hh: _Bias = None, *, computed: Computed
) -> tuple[Tensor, Tensor]:
    """Two linear layers, and the gates as they are written."""
    first = _first(hx, computed)
    h, c = (_once(state, computed) for state in first)
    product, hidden = F.linear(input, w_ih, b_ih), _hidden(h, w_hh, b_hh)
    i, f, g, o = _sum(product, hidden).chunk(4, 1)
    written = torch.sigmoid(i) * torch.tanh(g)
    kept = None if c is None else torch.sigmoid(f) * c
    cell = written if kept is None else kept + written
    state = torch.sigmoid(o) * torch.tanh(cell)
    computed.note("lstm", (state, cell), (w_ih, w_hh, b_ih, b_hh), first, product=product, hidden=None if h is None else hidden, kept=kept)
    return state, cell


def _gru_cell(input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: _Bias = None, b_hh: _Bias = None, *, computed: Computed) -> Tensor:
    """Two linear layers, and the gates as they are written: n + z * (h - n)."""
    first = _first([hx], computed)
    h, size = _once(first[0], computed), w_hh.shape[1]
    x, u = F.linear(input, w_ih, b_ih), _hidden(h, w_hh, b_hh)
    gates = torch.sigmoid(_sum(x[:, : 2 * size], None if u is None else u[..., : 2 * size]))
    r, z = gates[:, :size], gates[:, size:]
    n = torch.tanh(_sum(x[:, 2 * size :], None if u is None else r * u[..., 2 * size :]))
    state = n - z * n if h is None else n + z * (h - n)
    computed.note("gru", (state,), (w_ih, w_hh, b_ih, b_hh), first, product=x, hidden=None if h is None else u)
    return state


def _rnn_cell(function: Callable[[Tensor], Tensor], kind: str) -> Callable[..., Tensor]:
    def cell(input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: _Bias = None, b_hh: _Bias = None, *, computed: Computed) -> Tensor:
        """Two linear layers and the function of their sum."""
        first = _first([hx], computed)
        h = _once(first[0], computed)
        product, hidden = F.linear(input, w_ih, b_ih), _hidden(h, w_hh, b_hh)
        state = function(_sum(product, hidden))
        computed.note(kind, (state,), (w_ih, w_hh, b_ih, b_hh), first, product=product, hidden=None if h is None else hidden)
        return state

    return cell


_EMPTY = ("new_zeros", "zeros_like", "new_full", "full_like")
"""Of a tensor they take no more than its shape, type or device."""

_OF_FIRST = ("type_as", "to", "expand_as", "view_as", "reshape_as")
"""Of all tensors but the first likewise."""


def _from_data(node: fx.Node, dependent: Set[fx.Node]) -> bool:
    """Whether what a node gives follows from the model's input, not from its shape alone. Where it does not, it is of use only where it is read."""
    if node not in dependent:
        return False
    name = getattr(node.target, "__name__", node.target)
    sources = [] if name in _EMPTY else node.all_input_nodes[:1] if name in _OF_FIRST else node.all_input_nodes
    if node.op == "placeholder" or any(_from_data(source, dependent) for source in sources):
        return True
    node.meta[SPARE] = True
    return False


def taken_apart(target: Any, arguments: Sequence[Any], node_of: Callable[[Tensor], fx.Node], dependent: Set[fx.Node]) -> Callable[..., Any] | None:
    """What runs in place of a function of torch, for these arguments. None for what is no recurrent network, and for packed sequences, which are
    refused where they are packed. ``dependent``: the nodes that are computed of the model's input."""
    name = str(getattr(target, "__name__", target))
    packed = len(arguments) > 3 and isinstance(arguments[3], list | tuple)  # (data, batch_sizes, hx, params, ...)
    if name not in RECURRENT or packed:
        return None
    return functools.partial(RECURRENT[name], computed=Computed(node_of, dependent))


CELLS = ("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")

RECURRENT: Mapping[str, Callable[..., Any]] = MappingProxyType({
    **{name: _layers(name) for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")},
    "lstm_cell": _lstm_cell,
    "gru_cell": _gru_cell,
    "rnn_tanh_cell": _rnn_cell(torch.tanh, "rnn_tanh"),
    "rnn_relu_cell": _rnn_cell(torch.relu, "rnn_relu"),
})  # fmt: skip
"""By the name of torch's function, arguments as ATen's; besides, they ask what is computed from the model's input."""
