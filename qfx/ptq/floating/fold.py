"""Folding BatchNorm into the layer before it, in the float model."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from qfx.capture.trace import trace
from qfx.capture.traced import Traced, base_layer
from qfx.nn.layers.products.own import plain_copy

WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
"""torch's layers with weights, by the class whose forward runs."""

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True, eq=False)
class Statistics:
    """What a layer's result was in training, per output channel: ``mean`` and standard deviation ``std`` (at least 0)."""

    mean: Tensor
    std: Tensor


class Folded(nn.Identity):
    """Stands where a BatchNorm stood that went into the layer at the path ``layer``, and remembers the statistics of its result."""

    mean: Tensor
    std: Tensor

    def __init__(self, layer: str, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)


def folded_statistics(model: nn.Module) -> dict[str, Statistics]:
    """What the BatchNorms that ``fold_batch_norm`` folded said of the results of their layers, by the layers' paths.

    A BatchNorm's result has its ``bias`` as mean and (but for its ``eps``) the magnitude of its ``weight`` as standard deviation, on the data that it
    was trained with.
    """
    folded = (module for module in model.modules() if isinstance(module, Folded))
    return {module.layer: Statistics(module.mean.clone(), module.std.clone()) for module in folded}


def fold_batch_norm(model: nn.Module, example_input: Tensor) -> nn.Module:
    """A copy of ``model`` in evaluation mode that computes the same with every BatchNorm folded that can be.

    A BatchNorm is folded if it is called once, has running statistics, and reads a linear or convolutional layer that is called once, shares no
    parameter and has no other reader: ``weight * scale`` and ``(bias - mean) * scale + shift``, computed in float64. It becomes an ``nn.Identity``
    that keeps what ``folded_statistics`` gives; all other names stay, and a layer without a bias gets one. Every other BatchNorm stays as it is.
    The weights of layers that compute them (``weight_norm``, ``spectral_norm``, pruning, parametrizations) are plain parameters in the copy.
    ``example_input``: what ``qfx.quantize`` takes.

    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018, section 3.2.
    Raises UnsupportedError or DataError for a model that cannot be traced on the example.
    """
    folded = plain_copy(model)
    traced = trace(folded, example_input)
    for layer, norm in foldable(traced):
        _fold(folded, layer, norm)
    return folded


def foldable(traced: Traced) -> list[tuple[str, str]]:
    """(path of the layer, path of the BatchNorm) for each pair that ``fold_batch_norm`` folds."""
    nodes = [node for node in traced.module.graph.nodes if node.op == "call_module"]
    calls = Counter(str(node.target) for node in nodes)
    alone = layers_alone(traced)
    pairs = []
    for node in nodes:
        path = str(node.target)
        users = traced.tensor_users(node)
        if path not in alone or len(users) != 1 or users[0].op != "call_module" or not channels_first(node, traced):
            continue
        norm = str(users[0].target)
        module = traced.module.get_submodule(norm)
        if calls[norm] == 1 and base_layer(module) in _NORMS and getattr(module, "running_mean", None) is not None:
            pairs.append((path, norm))
    return pairs


def channels_first(node: fx.Node, traced: Traced) -> bool:
    """Whether the outputs of the layer of the node are channels, axis 1 of its result: those of a linear layer on several axes are the last one."""
    return base_layer(traced.module.get_submodule(str(node.target))) is not nn.Linear or len(traced.shapes[node]) == 1


def layers_alone(traced: Traced) -> set[str]:
    """The paths of the layers with weights that are called once and share no parameter with another module, nor with an operation that reads it by
    itself: those that a pass may change."""
    calls = Counter(str(node.target) for node in traced.module.graph.nodes if node.op == "call_module")
    owners = Counter(id(parameter) for module in traced.module.modules() for parameter in module.parameters(recurse=False))
    held = dict(traced.module.named_parameters(remove_duplicate=False))
    owners.update(id(held[str(node.target)]) for node in traced.module.graph.nodes if node.op == "get_attr" and str(node.target) in held)
    once = {path: traced.module.get_submodule(path) for path, count in calls.items() if count == 1}
    return {path for path, layer in once.items() if base_layer(layer) in WEIGHTED and all(owners[id(own)] == 1 for own in layer.parameters())}


def _fold(model: nn.Module, layer_path: str, norm_path: str) -> None:
    layer, norm = model.get_submodule(layer_path), model.get_submodule(norm_path)
    assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        scale = (norm.running_var.double() + norm.eps).rsqrt()
        if norm.weight is not None:
            scale = scale * norm.weight.double()
        shift = torch.zeros_like(scale) if norm.bias is None else norm.bias.double()
        weight, bias = layer.weight, layer.bias
        assert isinstance(weight, Tensor)
        offset = norm.running_mean.double() if bias is None else norm.running_mean.double() - bias.double()  # type: ignore[operator]
        weight.copy_(weight.double() * along_outputs(layer, scale))
        layer.bias = nn.Parameter((shift - offset * scale).to(weight.dtype))
        spread = (norm.running_var.double() * scale.square()).sqrt()
    replace_module(model, norm_path, Folded(layer_path, shift.to(weight.dtype), spread.to(weight.dtype)))


def along_outputs(layer: nn.Module, values: Tensor) -> Tensor:
    """One number per output channel, shaped to multiply the layer's weight (whose outputs lie on axis 1 if it is transposed, group by group)."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if base_layer(layer) not in (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d):
        return values.reshape(-1, *(1,) * (weight.dim() - 1))
    groups = int(layer.groups)  # type: ignore[arg-type]
    per_input = values.reshape(groups, 1, -1).expand(groups, weight.shape[0] // groups, -1)
    return per_input.reshape(weight.shape[0], -1, *(1,) * (weight.dim() - 2))


def along_inputs(layer: nn.Module, values: Tensor) -> Tensor:
    """One number per input channel, shaped to multiply the layer's weight."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    taps = (1,) * (weight.dim() - 2)
    if base_layer(layer) in (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d):
        return values.reshape(-1, 1, *taps)
    groups = int(getattr(layer, "groups", 1))
    per_output = values.reshape(groups, 1, -1).expand(groups, weight.shape[0] // groups, -1)
    return per_output.reshape(weight.shape[0], -1, *taps)


def replace_module(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put ``module`` where the one at the dotted ``path`` was."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
