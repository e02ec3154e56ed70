"""Cross-layer equalization: factors moved from one layer into the next, so that the channels of a layer span ranges of one size.

Where per-channel functions with f(s * x) = s * f(x), s > 0 (ReLU, pooling), lie between two layers, channel i of the first may be divided by any
s_i and the second's weights that read it multiplied by s_i. Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
Correction", 2019. Every pass here takes a float model and gives a new one; fold BatchNorm first (``fold_batch_norm``): one that stays ends a chain.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from qfx.capture.trace import trace
from qfx.capture.traced import Traced, base_layer
from qfx.errors import UnsupportedError
from qfx.nn.call import Part
from qfx.nn.fixed_layer import FixedLayer
from qfx.nn.layers import QDropout, QMaxPool, QReLU, QReshape, conv_pads
from qfx.nn.layers.products.own import detached_copy, plain_copy
from qfx.nn.lookup import find
from qfx.ptq.floating.fold import (
    WEIGHTED,
    Folded,
    Statistics,
    along_inputs,
    along_outputs,
    channels_first,
    folded_statistics,
    layers_alone,
    replace_module,
)
from qfx.ptq.floating.hooks import run_watched
from qfx.recipe import Recipe

LARGEST_FACTOR = 10
"""No channel is scaled by more than 2**10 either way, however faint: its bias is scaled too."""

FAINT = 2.0**-16
"""A channel whose weights are all smaller than this part of its layer's largest counts as switched off, and is left alone."""


@dataclass(frozen=True)
class Chain:
    """Two layers whose scales may be traded: the paths of both, what lies between them in qfx's terms, the paths of the folded BatchNorms there,
    and how many inputs of the second (side by side) come from one output of the first."""

    first: str
    second: str
    between: tuple[FixedLayer, ...]
    folded: tuple[str, ...]
    repeat: int


def chains(traced: Traced) -> list[Chain]:
    """Every chain of the model, in its order. A layer that is called twice, or shares its weight with another, is in none; nor is a linear layer on
    several axes, whose outputs are no channels of what follows."""
    alone = layers_alone(traced)
    found = (_chain_from(node, traced, alone) for node in traced.module.graph.nodes if _weighted(node, traced, alone))
    return [chain for chain in found if chain is not None]


def _weighted(node: fx.Node, traced: Traced, alone: set[str]) -> bool:
    path = str(node.target)
    return node.op == "call_module" and path in alone and base_layer(traced.module.get_submodule(path)) in WEIGHTED and channels_first(node, traced)


def _chain_from(start: fx.Node, traced: Traced, alone: set[str]) -> Chain | None:
    between: list[FixedLayer] = []
    folded: list[str] = []
    node = start
    while True:
        users = traced.tensor_users(node)
        if len(users) != 1 or users[0].op == "output":
            return None
        node = users[0]
        if _weighted(node, traced, alone):
            repeat = _input_channels(traced.module.get_submodule(str(node.target))) // traced.shapes[start][0]
            return Chain(str(start.target), str(node.target), tuple(between), tuple(folded), repeat)
        layers = layers_of(node, traced)
        if layers is None or not all(layer.scales_channels(traced.shapes[start][0]) for layer in layers):
            return None
        between += layers
        if node.op == "call_module" and isinstance(traced.module.get_submodule(str(node.target)), Folded):
            folded.append(str(node.target))


def layers_of(node: fx.Node, traced: Traced) -> list[FixedLayer] | None:
    """What the node becomes in qfx, one layer behind the other; None if it has no form there, reads several tensors, or becomes more than a chain."""
    with contextlib.suppress(UnsupportedError):
        rule, call = find(node, node.name, traced, Recipe())
        found = rule(call)
        layers = [layer for layer in found if not isinstance(layer, Part)]
        return layers if len(call.inputs) == 1 and len(layers) == len(found) else None
    return None


def _input_channels(layer: nn.Module) -> int:
    return int(layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels)  # type: ignore[arg-type]


def equalize(model: nn.Module, example_input: Tensor, *, rounds: int = 50, tolerance: float = 1e-4) -> nn.Module:
    """A copy of ``model`` in evaluation mode that computes the same (but for float rounding) with equalized weights.

    Channel i of each chain is scaled so that its largest weights in both layers are equally large, s_i = sqrt(r1_i / r2_i), over all chains in
    turn until no factor moves by more than ``tolerance`` (relative) or ``rounds`` are done. A channel that is switched off in either layer
    stays; no factor leaves 2**-10..2**10. A model without chains comes back as it is. The weights of layers that compute them (``weight_norm``,
    pruning, parametrizations) are plain parameters in the copy.

    It is for weights with one binary point per tensor whose channels lie far apart, as in depthwise layers. Where they do not, the larger factors of
    unimportant channels only cost: ResNet-20 with 4-bit weights per tensor falls from 86.3 % to 85.0 (1,000 images).

    Source: Nagel et al. 2019, section 4.1. Raises UnsupportedError or DataError for a model that cannot be traced on the example.
    """
    return _scaled(model, example_input, rounds, tolerance, exact=False)


def equalize_exactly(model: nn.Module, example_input: Tensor, *, rounds: int = 50, tolerance: float = 1e-4) -> nn.Module:
    """``equalize`` with every factor rounded to a power of two: the float results do not change by a bit (short of underflow).

    In fixed point it costs nothing either: a channel's binary point moves by as many places in the first layer as it moves back in the second,
    which brings the channels of a layer under one binary point without the loss of bits.
    """
    return _scaled(model, example_input, rounds, tolerance, exact=True)


def _scaled(model: nn.Module, example_input: Tensor, rounds: int, tolerance: float, *, exact: bool) -> nn.Module:
    result = plain_copy(model)
    found = chains(trace(result, example_input))
    for chain, factors in zip(found, _factors(result, found, rounds, tolerance), strict=True):
        logs = factors.log2().clamp(-LARGEST_FACTOR, LARGEST_FACTOR)
        _scale(result, chain, torch.exp2(logs.round() if exact else logs))
    return result


def _factors(model: nn.Module, found: list[Chain], rounds: int, tolerance: float) -> list[Tensor]:
    """What the outputs of each chain's first layer are to be divided by."""
    layers = {path: model.get_submodule(path) for chain in found for path in (chain.first, chain.second)}
    weights = {path: _weight(layer).detach().double() for path, layer in layers.items()}
    totals = [torch.ones(_output_channels(layers[chain.first]), dtype=torch.float64) for chain in found]
    for _ in range(rounds):
        moved = 0.0
        for number, chain in enumerate(found):
            first, second = layers[chain.first], layers[chain.second]
            above = output_ranges(first, weights[chain.first])
            below = input_ranges(second, weights[chain.second]).reshape(-1, chain.repeat).amax(1)
            alive = (above > FAINT * above.max()) & (below > FAINT * below.max())
            step = torch.where(alive, above / below, 1.0).sqrt()
            weights[chain.first] = weights[chain.first] / along_outputs(first, step)
            weights[chain.second] = weights[chain.second] * along_inputs(second, step.repeat_interleave(chain.repeat))
            totals[number] = totals[number] * step
            moved = max(moved, float(step.log().abs().max()))
        if moved <= tolerance:
            break
    return totals


def _scale(model: nn.Module, chain: Chain, factors: Tensor) -> None:
    """Divide the first layer's outputs by the factors (float64), and multiply the second's weights."""
    first, second = model.get_submodule(chain.first), model.get_submodule(chain.second)
    with torch.no_grad():
        weight, bias = _weight(first), first.bias
        weight.copy_(weight.double() / along_outputs(first, factors))
        if bias is not None:
            assert isinstance(bias, Tensor)
            bias.copy_(bias.double() / factors)
        weight = _weight(second)
        weight.copy_(weight.double() * along_inputs(second, factors.repeat_interleave(chain.repeat)))
        for path in chain.folded:
            known = model.get_submodule(path)
            assert isinstance(known, Folded)
            known.mean.div_(factors)
            known.std.div_(factors)


def output_ranges(layer: nn.Module, weight: Tensor) -> Tensor:
    """The largest magnitude among the weights of each output channel."""
    if base_layer(layer) in _TRANSPOSED:  # (in, out / groups, *kernel)
        return weight.abs().reshape(_groups(layer), -1, weight.shape[1], *weight.shape[2:]).flatten(3).amax((1, 3)).reshape(-1)
    return weight.abs().flatten(1).amax(1)


def input_ranges(layer: nn.Module, weight: Tensor) -> Tensor:
    """The largest magnitude among the weights that read each input channel."""
    if base_layer(layer) in _TRANSPOSED:
        return weight.abs().flatten(1).amax(1)
    groups = _groups(layer)
    return weight.abs().reshape(groups, weight.shape[0] // groups, weight.shape[1], -1).amax((1, 3)).reshape(-1)


_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def _groups(layer: nn.Module) -> int:
    return int(getattr(layer, "groups", 1))


def _weight(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def _output_channels(layer: nn.Module) -> int:
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)  # type: ignore[arg-type]


def replace_relu6(model: nn.Module, example_input: Tensor, *, data: Tensor | Iterable[Tensor] | None = None, most_clipped: float = 0.0) -> nn.Module:
    """A copy of ``model`` in evaluation mode with ReLU in place of every ReLU6 module, as equalization needs it.

    This changes what the model computes wherever a number exceeds 6. With ``data``, only those modules are replaced of whose numbers on it at most
    the share ``most_clipped`` (0 to 1) reaches 6: at the default of 0, nothing changes on that data. ``clipped_shares`` tells the shares. A call of
    ``torch.nn.functional.relu6`` stays.
    """
    result = detached_copy(model).eval()
    traced = trace(result, example_input)
    shares = None if data is None else clipped_shares(result, data)
    for path in {str(node.target) for node in traced.module.graph.nodes if node.op == "call_module"}:
        if _is_relu6(result.get_submodule(path)) and (shares is None or shares[path] <= most_clipped):
            replace_module(result, path, nn.ReLU())
    return result


def clipped_shares(model: nn.Module, data: Tensor | Iterable[Tensor]) -> dict[str, float]:
    """For every ReLU6 module of the float model, by its path: the share of numbers in ``data`` that reach 6 there (0 for one that never runs)."""
    sites = {path: module for path, module in model.named_modules() if _is_relu6(module)}
    above, total = dict.fromkeys(sites, 0), dict.fromkeys(sites, 0)

    def see(path: str, x: Tensor, result: Tensor) -> None:
        above[path] += int((result >= 6).sum())  # x itself may have been overwritten (inplace=True)
        total[path] += result.numel()

    run_watched(model, sites, data, see)
    return {path: above[path] / max(total[path], 1) for path in sites}


def _is_relu6(module: nn.Module) -> bool:
    base = base_layer(module)
    return base is nn.ReLU6 or (isinstance(module, nn.Hardtanh) and base is nn.Hardtanh and (module.min_val, module.max_val) == (0.0, 6.0))


def absorb_bias(
    model: nn.Module, example_input: Tensor, *, statistics: Mapping[str, Statistics] | None = None, deviations: float = 3.0, padded: bool = False
) -> nn.Module:
    """A copy of ``model`` in evaluation mode whose high biases have moved through a ReLU into the next layer.

    Where a channel's result lies above c = max(0, mean - ``deviations`` * std) nearly always, ReLU(x) = ReLU(x - c) + c there: c leaves the bias and
    enters the next layer's as weight @ c, and the range to be quantized begins at 0. The model changes only for the rare numbers below c.
    ``statistics``: of the layers' results, by path; default ``folded_statistics(model)``, or ``measured_statistics(model, data)``. Works on
    chains of a ReLU alone (max pooling and reshaping may join it) into a linear layer or a convolution, which gets a bias if it has none. A second
    layer that pads with zeros would see c missing at its borders: it is left out unless ``padded``, which accepts that error as the paper does.

    Source: Nagel et al. 2019, section 4.1.3.
    """
    result = plain_copy(model)
    known = folded_statistics(result) if statistics is None else statistics
    for chain in chains(trace(result, example_input)):
        second = result.get_submodule(chain.second)
        kinds = [kind for kind in map(type, chain.between) if kind not in (QMaxPool, QReshape, QDropout)]
        if chain.first not in known or kinds != [QReLU]:
            continue
        if base_layer(second) in _TRANSPOSED or (not padded and _pads(second)):
            continue
        there = known[chain.first]
        constant = (there.mean.double() - deviations * there.std.double()).clamp(min=0)
        _absorb(result, chain, constant)
    return result


def _absorb(model: nn.Module, chain: Chain, constant: Tensor) -> None:
    first, second = model.get_submodule(chain.first), model.get_submodule(chain.second)
    bias = first.bias
    if not isinstance(bias, Tensor) or not bool((constant > 0).any()):
        return
    with torch.no_grad():
        bias.copy_(bias.double() - constant)
        weight = _weight(second).double() * along_inputs(second, constant.repeat_interleave(chain.repeat))
        moved = weight.flatten(1).sum(1)
        old = second.bias
        if isinstance(old, Tensor):
            old.copy_(old.double() + moved)
        else:
            second.bias = nn.Parameter(moved.to(_weight(second).dtype))
        for path in chain.folded:
            known = model.get_submodule(path)
            assert isinstance(known, Folded)
            known.mean.sub_(constant)


def _pads(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) and any(side for pair in conv_pads(layer) for side in pair)


def measured_statistics(model: nn.Module, data: Tensor | Iterable[Tensor]) -> dict[str, Statistics]:
    """Mean and standard deviation, per output channel, of the result of every layer with weights, over ``data``."""
    sites = {path: module for path, module in model.named_modules() if base_layer(module) in WEIGHTED}
    sums: dict[str, tuple[int, Tensor, Tensor]] = {}

    def see(path: str, x: Tensor, result: Tensor) -> None:
        features = result.movedim(-1, 0) if base_layer(sites[path]) is nn.Linear else result.transpose(0, 1)
        rows = features.double().flatten(1)
        count, total, squares = sums.get(path, (0, torch.zeros(()), torch.zeros(())))
        sums[path] = count + rows.shape[1], total + rows.sum(1), squares + rows.square().sum(1)

    run_watched(model, sites, data, see)
    result = {}
    for path, (count, total, squares) in sums.items():
        mean = total / count
        result[path] = Statistics(mean, (squares / count - mean.square()).clamp(min=0).sqrt())
    return result
