"""Structured pruning by second-order importance: channels leave the float model, and with them weights, norms and what reads them.

A *chain* is a layer whose channels go, each by itself, through norms, activations and poolings into one other layer. Of such channels any can be left
out: rows of the first layer's weight, entries of the norms, columns of the second's. Two measures say which.

"surgeon" and "apoptosis" are those of ``second_order``. Quantized models: ``qfx.ptq.channels``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from qfx.capture.trace import trace
from qfx.capture.traced import Traced, base_layer
from qfx.errors import QfxError, UnsupportedError
from qfx.nn.layers.products.own import plain_copy
from qfx.nn.model import QuantizedModel
from qfx.ptq.channels import prune_quantized, without_chains
from qfx.ptq.floating.equalize import layers_of
from qfx.ptq.floating.fold import channels_first, layers_alone
from qfx.ptq.floating.second_order import by_loss, count_of, narrow, operate, spread

Importance = Literal["surgeon", "apoptosis"]
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_ONE_BY_ONE = (nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Hardswish, nn.Hardsigmoid, nn.ReLU6, nn.ELU, nn.Softplus, nn.Mish)
"""Activations that work on each number by itself, beside those that commute with a factor."""

_FUNCTIONS = (F.gelu, F.silu, F.hardswish, F.hardsigmoid, F.relu6, F.elu, F.softplus, F.mish, torch.sigmoid, torch.tanh)
"""The same as calls."""


@dataclass(frozen=True)
class PruningChain:
    """The layer whose channels go, the norms that they go through, the layer that reads them, and how many of its inputs are of one channel."""

    first: str
    norms: tuple[str, ...]
    second: str
    repeat: int


def pruning_chains(traced: Traced) -> list[PruningChain]:
    """Every chain of the model, in its order."""
    alone = layers_alone(traced)
    found = (_chain(node, traced, alone) for node in traced.module.graph.nodes if _prunable(node, traced, alone))
    return [chain for chain in found if chain is not None]


def _prunable(node: fx.Node, traced: Traced, alone: set[str]) -> bool:
    path = str(node.target)
    if node.op != "call_module" or path not in alone or not channels_first(node, traced):
        return False
    layer = traced.module.get_submodule(path)
    return base_layer(layer) in LAYERS and getattr(layer, "groups", 1) == 1 and getattr(layer, "padding_mode", "zeros") == "zeros"


def _chain(start: fx.Node, traced: Traced, alone: set[str]) -> PruningChain | None:
    norms: list[str] = []
    channels, node = traced.shapes[start][0], start
    while True:
        users = traced.tensor_users(node)
        if len(users) != 1 or users[0].op == "output":
            return None
        node = users[0]
        module: Any = traced.module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if _prunable(node, traced, alone):
            assert module is not None
            return PruningChain(str(start.target), tuple(norms), str(node.target), module.weight.shape[1] // channels)
        if isinstance(module, _NORMS):
            if str(node.target) in norms or sum(str(other.target) == str(node.target) for other in traced.module.graph.nodes) > 1:
                return None
            norms.append(str(node.target))
        elif not isinstance(module, _ONE_BY_ONE) and node.target not in _FUNCTIONS:
            layers = layers_of(node, traced)
            if layers is None or not all(layer.scales_channels(channels) for layer in layers):
                return None


def prune_channels(
    model: nn.Module,
    example_input: Tensor,
    *,
    keep: float = 0.5,
    method: Importance = "surgeon",
    loss: Callable[[nn.Module], Tensor] | None = None,
    make_up: bool = True,
) -> nn.Module:
    """A copy of ``model`` in evaluation mode, with the share ``keep`` of the channels of each chain (rounded up, one at least) and smaller layers.

    ``example_input``: some hundred inputs, on which is measured how to make up for what goes. ``loss``, for "apoptosis": from a model to the
    loss whose second derivatives count, on labelled data. ``make_up``: whether what stays makes up for what goes. Channels that shortcuts add,
    inputs, outputs and grouped layers stay. Names of parameters stay; their shapes do not. Quantize the copy, or train it first.

    ``model`` may be quantized (what ``qfx.quantize`` gave, wrapped or not): importance is that of its fixed-point numbers then, and the copy is a
    quantized model, whose casts are those of the channels that stay: see ``qfx.ptq.channels``. Without ``make_up`` its results are, bit by bit, those
    of ``model`` with the weights of the channels that went at 0 where they are read.

    Raises UnsupportedError for a model without chains, for what a quantized one cannot leave out, by name, and for a loss without second derivatives;
    QfxError for another share, method or a loss that is missing, and for a float model with a quantized part.
    """
    if not isinstance(keep, int | float) or not 0 < keep <= 1:
        raise QfxError(f"keep is {keep!r}", where="prune_channels", remedy="use a share above 0, at most 1")
    if method not in ("surgeon", "apoptosis"):
        raise QfxError(f"the method is {method!r}", where="prune_channels", remedy='use "surgeon" or "apoptosis"')
    if method == "apoptosis" and loss is None:
        raise QfxError("apoptosis needs a loss", where="prune_channels", remedy="give loss=lambda net: F.cross_entropy(net(x), y), or use surgeon")
    if any(isinstance(module, QuantizedModel) for module in model.modules()):
        return prune_quantized(model, example_input, keep, loss if method == "apoptosis" else None, make_up=make_up)
    result = plain_copy(model)
    found = pruning_chains(trace(result, example_input))
    if not found:
        raise without_chains(model)
    chosen = None if loss is None or method == "surgeon" else by_loss(result.eval(), [list(_parts(result, chain)) for chain in found], loss, keep)
    for place, chain in enumerate(found):  # in order, so that each sees what the pruned layers before it give
        second: Any = result.get_submodule(chain.second)
        rows, channels = _inputs(result, second, example_input), second.weight.shape[1] // chain.repeat
        told: dict[str, Any] = {"chosen": None if chosen is None else chosen[place], "has_bias": second.bias is not None, "make_up": make_up}
        operated = operate(second.weight, rows, rows.shape[1] // channels, count_of(keep, channels), **told)
        with torch.no_grad():
            if second.bias is not None:
                second.bias.add_(operated.bias.to(second.bias.dtype))
            second.weight.copy_(operated.weight.reshape(second.weight.shape))
        _remove(result, chain, operated.kept)
    return result.eval()


def _inputs(model: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
    """What the layer's weights meet, (rows, K)."""
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    with torch.no_grad():
        model(x)
    handle.remove()
    (value,) = seen
    if isinstance(layer, nn.Conv1d):
        value = F.pad(value, _padding(layer) * 2)
        value = F.unfold(value.unsqueeze(2), (1, layer.kernel_size[0]), (1, layer.dilation[0]), 0, (1, layer.stride[0]))
    elif isinstance(layer, nn.Conv2d):
        value = F.unfold(value, layer.kernel_size, layer.dilation, _padding(layer), layer.stride)
    return value if value.dim() == 2 else value.transpose(1, 2).reshape(-1, value.shape[1])


def _padding(layer: nn.Conv1d | nn.Conv2d) -> tuple[int, ...]:
    if isinstance(layer.padding, str):
        raise UnsupportedError(f"padding is {layer.padding!r}", where=type(layer).__name__, remedy="give it in numbers")
    return layer.padding


def _parts(model: nn.Module, chain: PruningChain) -> Iterator[tuple[Tensor, int]]:
    """The parameters of a chain's channels, and the axis of the channels in each."""
    first, second = model.get_submodule(chain.first), model.get_submodule(chain.second)
    for module in (first, *(model.get_submodule(path) for path in chain.norms)):
        for parameter in (module.weight, module.bias):
            if parameter is not None:
                yield parameter, 0  # type: ignore[misc]
    yield second.weight, 1  # type: ignore[misc]


def _remove(model: nn.Module, chain: PruningChain, kept: Tensor) -> None:
    first: Any = model.get_submodule(chain.first)
    second: Any = model.get_submodule(chain.second)
    narrow(first, ("weight", "bias"), kept, 0)
    setattr(first, "out_features" if isinstance(first, nn.Linear) else "out_channels", len(kept))
    for path in chain.norms:
        norm: Any = model.get_submodule(path)
        narrow(norm, ("weight", "bias", "running_mean", "running_var"), kept, 0)
        norm.num_features = len(kept)
    columns = spread(kept, chain.repeat)
    narrow(second, ("weight",), columns, 1)
    setattr(second, "in_features" if isinstance(second, nn.Linear) else "in_channels", len(columns))
