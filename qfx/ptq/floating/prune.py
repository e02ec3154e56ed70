"""Structured pruning by second-order importance: channels leave the float model, and with them weights, norms and what reads them.

A *chain* is a layer whose channels go, each by itself, through norms, activations and poolings into one other layer. Of such channels any can be left
out: rows of the first layer's weight, entries of the norms, columns of the second's. Two measures say which.

"surgeon": Optimal Brain Surgeon (Hassibi and Stork, 1992) for a group of weights, layer by layer. With H = E[x x^T] of what the second layer reads
(about its mean, where a bias takes up the mean), W its weight and q the columns of a channel, leaving q out costs

    tr(W_q [H^-1]_qq^-1 W_q^T),   and then   W -= W_q [H^-1]_qq^-1 [H^-1]_q

is the best that the other weights can do. Channels go one by one, the cheapest first, with W and H^-1 brought up to date. No labels are needed.

"apoptosis": Optimal Brain Apoptosis (Sun et al., 2025, arXiv 2502.17941): the second-order Taylor expansion of the loss for each parameter t,
-t dL/dt + t (H t) / 2, with the Hessian of the whole loss times all parameters that are looked at, computed exactly by differentiating twice. A
channel counts for the magnitude of the sum over its parameters in both layers and the norms between. What stays then makes up for what goes as
above, which is ours. (The paper works H t out layer by layer, by
Jacobians sent forward; autograd gives the same numbers.)
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
from qfx.ptq.floating.equalize import layers_of
from qfx.ptq.floating.fold import channels_first, layers_alone

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
) -> nn.Module:
    """A copy of ``model`` in evaluation mode, with the share ``keep`` of the channels of each chain (rounded up, one at least) and smaller layers.

    ``example_input``: some hundred inputs, on which is measured how to make up for what goes. ``loss``, for "apoptosis": from a model to the
    loss whose second derivatives count, on labelled data. Channels that shortcuts add, inputs, outputs and grouped layers stay. Names of parameters
    stay; their shapes do not. Quantize the copy, or train it first. Importance is that of the float model: of one that was trained in fixed point,
    prune the float model with its ``qfx.float_state``.

    Raises UnsupportedError for a model without chains or one that is quantized already, QfxError for another share, method or a loss that is missing.
    """
    if not 0 < keep <= 1:
        raise QfxError(f"keep is {keep!r}", where="prune_channels", remedy="use a share above 0, at most 1")
    if method not in ("surgeon", "apoptosis"):
        raise QfxError(f"the method is {method!r}", where="prune_channels", remedy='use "surgeon" or "apoptosis"')
    if method == "apoptosis" and loss is None:
        raise QfxError("apoptosis needs a loss", where="prune_channels", remedy="give loss=lambda net: F.cross_entropy(net(x), y), or use surgeon")
    if any(isinstance(module, QuantizedModel) for module in model.modules()):
        told = "prune the float model, then quantize; what was trained in fixed point: float_model.load_state_dict(qfx.float_state(qmodel)) before"
        raise UnsupportedError("is quantized already", where=type(model).__name__, remedy=told)
    result = plain_copy(model)
    found = pruning_chains(trace(result, example_input))
    if not found:
        told = "no layer's channels are read by one other layer alone"
        raise UnsupportedError(told, where=type(model).__name__, remedy="channels that shortcuts add cannot go; prune by word lengths (learn_width)")
    chosen = None if loss is None or method == "surgeon" else _by_loss(result, found, loss, keep)
    for place, chain in enumerate(found):  # in order, so that each sees what the pruned layers before it give
        second = result.get_submodule(chain.second)
        rows = _inputs(result, second, example_input)
        kept = _operate(second, rows, chain.repeat, keep, None if chosen is None else chosen[place])
        _remove(result, chain, kept)
    return result.eval()


# ---- surgeon ----


def _inputs(model: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
    """What the layer's weights meet, (rows, K), float64."""
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
    rows = value if value.dim() == 2 else value.transpose(1, 2).reshape(-1, value.shape[1])
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[: 1 << 16]].double()


def _padding(layer: nn.Conv1d | nn.Conv2d) -> tuple[int, ...]:
    if isinstance(layer.padding, str):
        raise UnsupportedError(f"padding is {layer.padding!r}", where=type(layer).__name__, remedy="give it in numbers")
    return layer.padding


def _operate(layer: Any, rows: Tensor, repeat: int, keep: float, chosen: Tensor | None) -> Tensor:
    """The channels that stay, in order, ``chosen`` or the surgeon's; the layer's weights and bias make up for those that go."""
    weight = layer.weight.detach().double().flatten(1)
    group = weight.shape[1] // (layer.weight.shape[1] // repeat)  # columns of a channel
    mean = rows.mean(0) if layer.bias is not None else torch.zeros_like(rows[0])
    about = rows - mean
    hessian = about.T @ about / len(rows)
    if chosen is None:
        kept, after = surgeon(weight, hessian, group, _count(keep, weight.shape[1] // group))
    else:
        kept, after = chosen, made_up(weight, hessian, group, chosen)
    with torch.no_grad():
        if layer.bias is not None:
            layer.bias.add_(((weight - after) @ mean).to(layer.bias.dtype))
        layer.weight.copy_(after.reshape(layer.weight.shape))
    return kept


def _count(keep: float, channels: int) -> int:
    return max(-int(-keep * channels // 1), 1)


def surgeon(weight: Tensor, hessian: Tensor, group: int, count: int, damping: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Of ``weight`` (outputs, K), K in groups of ``group`` columns, leave out the cheapest groups until ``count`` are left: (the groups that stay,
    ascending; the weight that makes up for the others, whose columns are 0). float64. ``damping``, a share of the mean curvature, is added to the
    diagonal of ``hessian`` (K, K)."""
    size = weight.shape[1] // group
    inverse = _inverse(hessian, damping)
    weight, stay = weight.clone(), list(range(size))
    while len(stay) > count:
        places = torch.tensor([[index * group + offset for offset in range(group)] for index in stay])
        blocks = torch.linalg.inv(inverse[places[:, :, None], places[:, None, :]])
        parts = weight[:, places].transpose(0, 1)  # (groups, outputs, group)
        cost = ((parts @ blocks) * parts).sum((1, 2))
        least = int(cost.argmin())
        own = places[least]
        weight = weight - parts[least] @ blocks[least] @ inverse[own]
        inverse = inverse - inverse[:, own] @ blocks[least] @ inverse[own]
        weight[:, own] = 0.0
        inverse[own, :], inverse[:, own] = 0.0, 0.0
        inverse[own, own] = 1.0  # of no use any more, but not singular
        del stay[least]
    return torch.tensor(stay), weight


def made_up(weight: Tensor, hessian: Tensor, group: int, kept: Tensor, damping: float = 1e-6) -> Tensor:
    """The weight with 0 in all groups but ``kept`` that is nearest to what ``weight`` gives."""
    inverse, gone = _inverse(hessian, damping), torch.ones(weight.shape[1], dtype=torch.bool)
    gone[(kept[:, None] * group + torch.arange(group)).reshape(-1)] = False
    if not bool(gone.any()):
        return weight
    after: Tensor = weight - weight[:, gone] @ torch.linalg.inv(inverse[gone][:, gone]) @ inverse[gone]
    after[:, gone] = 0.0
    return after


def _inverse(hessian: Tensor, damping: float) -> Tensor:
    mean = float(hessian.diagonal().mean())
    found: Tensor = torch.linalg.inv(hessian + torch.eye(len(hessian), dtype=hessian.dtype) * (damping * mean if mean > 0 else 1.0))
    return found


# ---- apoptosis ----


def importance(model: nn.Module, parameters: list[Tensor], loss: Callable[[nn.Module], Tensor]) -> list[Tensor]:
    """-t dL/dt + t (H t) / 2 for each entry t of the parameters; H is the loss' Hessian by all of them."""
    with torch.enable_grad():
        value = loss(model)
        slopes = torch.autograd.grad(value, parameters, create_graph=True)
        along = sum(((slope * parameter.detach()).sum() for slope, parameter in zip(slopes, parameters, strict=True)), torch.zeros(()))
        curves = torch.autograd.grad(along, parameters, allow_unused=True)
    found = zip(parameters, slopes, curves, strict=True)
    return [(t * (-g + (0 if h is None else h / 2))).detach() for t, g, h in found]


def _parts(model: nn.Module, chain: PruningChain) -> Iterator[tuple[Tensor, int]]:
    """The parameters of a chain's channels, and the axis of the channels in each."""
    first, second = model.get_submodule(chain.first), model.get_submodule(chain.second)
    for module in (first, *(model.get_submodule(path) for path in chain.norms)):
        for parameter in (module.weight, module.bias):
            if parameter is not None:
                yield parameter, 0  # type: ignore[misc]
    yield second.weight, 1  # type: ignore[misc]


def _by_loss(model: nn.Module, found: list[PruningChain], loss: Callable[[nn.Module], Tensor], keep: float) -> list[Tensor]:
    parameters = list({id(part): part for chain in found for part, _ in _parts(model, chain)}.values())
    flags = [part.requires_grad for part in parameters]
    for part in parameters:
        part.requires_grad_(True)
    counted = dict(zip(map(id, parameters), importance(model.eval(), parameters, loss), strict=True))
    for part, flag in zip(parameters, flags, strict=True):
        part.requires_grad_(flag)
    chosen = []
    for chain in found:
        channels = len(model.get_submodule(chain.first).weight)  # type: ignore[arg-type]
        total = torch.zeros(channels)
        for part, axis in _parts(model, chain):
            total += counted[id(part)].movedim(axis, 0).reshape(channels, -1).sum(1)
        chosen.append(total.abs().argsort(descending=True)[: _count(keep, channels)].sort().values)
    return chosen


# ---- removal ----


def _remove(model: nn.Module, chain: PruningChain, kept: Tensor) -> None:
    first: Any = model.get_submodule(chain.first)
    second: Any = model.get_submodule(chain.second)
    _narrow(first, ("weight", "bias"), kept, 0)
    setattr(first, "out_features" if isinstance(first, nn.Linear) else "out_channels", len(kept))
    for path in chain.norms:
        norm: Any = model.get_submodule(path)
        _narrow(norm, ("weight", "bias", "running_mean", "running_var"), kept, 0)
        norm.num_features = len(kept)
    columns = (kept[:, None] * chain.repeat + torch.arange(chain.repeat)).reshape(-1)
    _narrow(second, ("weight",), columns, 1)
    setattr(second, "in_features" if isinstance(second, nn.Linear) else "in_channels", len(columns))


def _narrow(module: nn.Module, names: tuple[str, ...], kept: Tensor, axis: int) -> None:
    for name in names:
        tensor = getattr(module, name)
        if tensor is None:
            continue
        less = tensor.detach().index_select(axis, kept).clone()
        setattr(module, name, nn.Parameter(less, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else less)
