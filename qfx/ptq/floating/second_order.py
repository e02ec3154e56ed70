"""Second-order importance of channels: which of a layer's inputs to leave out, and how its other weights make up for them.

"surgeon": Optimal Brain Surgeon (Hassibi and Stork, 1992) for a group of weights, layer by layer. With H = E[x x^T] of what the layer reads
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

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from qfx.errors import QfxError, UnsupportedError

Parts = Sequence[tuple[Tensor, int]]
"""The parameters of a chain's channels, and the axis of the channels in each."""

_ROWS = 1 << 16
"""So many inputs say what a layer reads."""


class Operated(NamedTuple):
    """Which channels stay, in order; the layer's weight (outputs, K), 0 in the columns of the others; and what is added to its bias."""

    kept: Tensor
    weight: Tensor
    bias: Tensor


def operate(weight: Tensor, rows: Tensor, group: int, count: int, *, chosen: Tensor | None, has_bias: bool, make_up: bool) -> Operated:
    """Leave all but ``count`` groups of ``group`` columns out, ``chosen`` or the surgeon's. ``rows``: what the weights meet, (samples, K).
    ``make_up``: whether what stays makes up for what goes; ``has_bias``: whether a bias can take up the mean."""
    weight, rows = weight.detach().double().flatten(1), rows.detach().double()
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:_ROWS]]
    mean = rows.mean(0) if has_bias else torch.zeros_like(rows[0])
    about = rows - mean
    hessian = about.T @ about / len(rows)
    if chosen is None:
        kept, after = surgeon(weight, hessian, group, count)
    else:
        kept, after = chosen, made_up(weight, hessian, group, chosen)
    if not make_up:
        after = torch.zeros_like(weight)
        columns = spread(kept, group)
        after[:, columns] = weight[:, columns]
        return Operated(kept, after, torch.zeros(len(weight), dtype=torch.float64))
    return Operated(kept, after, (weight - after) @ mean)


def spread(kept: Tensor, each: int) -> Tensor:
    """The places of channels that have ``each`` numbers side by side."""
    return (kept[:, None] * each + torch.arange(each)).reshape(-1)


def count_of(keep: float, channels: int) -> int:
    """How many of so many channels the share ``keep`` is."""
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


def importance(model: nn.Module, parameters: list[Tensor], loss: Callable[[nn.Module], Tensor]) -> list[Tensor]:
    """-t dL/dt + t (H t) / 2 for each entry t of the parameters; H is the loss' Hessian by all of them. Raises UnsupportedError where a step of the
    loss has one derivative alone, QfxError for a loss that is no number, or none of this model."""
    with torch.enable_grad():
        value = loss(model)
        if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
            told = "the loss is no number that depends on the model"
            raise QfxError(told, where=type(model).__name__, remedy="return a mean or a sum of what the model that it is given computes")
        slopes = torch.autograd.grad(value, parameters, create_graph=True, materialize_grads=True)
        if not any(bool(slope.any()) for slope in slopes):
            told = "the loss does not change with any weight that could go"
            raise QfxError(told, where=type(model).__name__, remedy="compute it with the model that it is given, a copy")
        along = sum(((slope * parameter.detach()).sum() for slope, parameter in zip(slopes, parameters, strict=True)), torch.zeros(()))
        _refuse_first_order(along, type(model).__name__)
        curves = torch.autograd.grad(along, parameters, allow_unused=True)
    found = zip(parameters, slopes, curves, strict=True)
    return [(t * (-g + (0 if h is None else h / 2))).detach() for t, g, h in found]


def _refuse_first_order(result: Tensor, where: str) -> None:
    """Autograd, asked for the gradient by parameters, passes steps over that are differentiable once, as if they were constants: so look for them."""
    todo, seen = [result.grad_fn], set[Any]()
    while todo:
        step = todo.pop()
        if step is None or step in seen:
            continue
        if step.name().endswith("Error"):
            told = "the loss has no second derivative: a step of it is differentiable once"
            raise UnsupportedError(told, where=where, remedy='use method="surgeon", which needs none')
        seen.add(step)
        todo.extend(source for source, _ in step.next_functions)


def by_loss(model: nn.Module, chains: Sequence[Parts], loss: Callable[[nn.Module], Tensor], keep: float) -> list[Tensor]:
    """Of each chain the channels that stay, by apoptosis. ``model`` is in evaluation mode; the parts are its parameters."""
    parameters = list({id(part): part for chain in chains for part, _ in chain}.values())
    flags = [part.requires_grad for part in parameters]
    for part in parameters:
        part.requires_grad_(True)
    counted = dict(zip(map(id, parameters), importance(model, parameters, loss), strict=True))
    for part, flag in zip(parameters, flags, strict=True):
        part.requires_grad_(flag)
    chosen = []
    for chain in chains:
        channels = chain[0][0].shape[chain[0][1]]
        total = torch.zeros(channels)
        for part, axis in chain:
            total += counted[id(part)].movedim(axis, 0).reshape(channels, -1).sum(1)
        chosen.append(total.abs().argsort(descending=True)[: count_of(keep, channels)].sort().values)
    return chosen


def narrow(module: nn.Module, names: tuple[str, ...], kept: Tensor, axis: int) -> None:
    """Keep those entries of the module's tensors along ``axis``."""
    for name in names:
        tensor = getattr(module, name)
        if tensor is None:
            continue
        less = tensor.detach().index_select(axis, kept).clone()
        setattr(module, name, nn.Parameter(less, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else less)
