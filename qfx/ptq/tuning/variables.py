"""What tuning moves, and how far: weights by their units in the last place, biases by their layer's results, binary points by bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from qfx.nn.layers import QFoldedBatchNorm, Weighted
from qfx.nn.quantizer import Quantizer
from qfx.ptq.activations import Env, run_node
from qfx.ptq.rounding.grid import units


@dataclass(frozen=True, slots=True)
class Reach:
    """How far all steps together go: in units in the last place of each ``weight``, as a share of each layer's results for its ``bias``, in bits for
    a ``binary_point``."""

    weight: float
    bias: float
    binary_point: float


@dataclass(frozen=True, eq=False)
class Variables:
    """What may move: the layers whose weight, the layers, by path, whose bias, and the binary points; and where these start, which moves with a
    constant that outgrows its range."""

    weights: tuple[Weighted, ...]
    biases: dict[str, Weighted]
    points: tuple[nn.Parameter, ...]
    starts: tuple[Tensor, ...]

    @property
    def state(self) -> list[Tensor]:
        """``parameters``, and all else that steps change."""
        return [*self.parameters, *self.starts]

    @property
    def parameters(self) -> list[Tensor]:
        """All of them, in the order of ``sizes``."""
        return [*(layer.weight for layer in self.weights), *(layer.bias for layer in self.biases.values() if layer.bias is not None), *self.points]

    def sizes(self, module: fx.GraphModule, reference: fx.GraphModule, x: Tensor, reach: Reach, rate: float) -> list[Tensor]:
        """How far one step goes, for each of ``parameters``: a share ``rate`` of its ``reach``. ``x``: a batch to see the layers' results on."""
        spread, norms = _spread(reference, x), _folded_norms(module)
        return [
            *(rate * reach.weight * own_units(layer, norms.get(layer.name)) for layer in self.weights),
            *(torch.tensor(rate * reach.bias * spread[path]) for path, layer in self.biases.items() if layer.bias is not None),
            *(torch.tensor(rate * reach.binary_point) for _ in self.points),
        ]


@contextmanager
def only_variables(module: fx.GraphModule) -> Iterator[Variables]:
    """The variables of a quantized model: weights, biases and binary points that take gradients. In this context nothing else does."""
    layers = {path: layer for path, layer in module.named_modules() if isinstance(layer, Weighted)}
    weights = tuple(layer for layer in layers.values() if layer.weight.requires_grad)
    biases = {path: layer for path, layer in layers.items() if layer.bias is not None and layer.bias.requires_grad}
    casts = [part for part in module.modules() if isinstance(part, Quantizer)]
    starts = tuple(cast.frac_start for cast in casts if cast.frac_start is not None)
    points = tuple(cast.frac_bits for cast in casts if isinstance(cast.frac_bits, nn.Parameter) and cast.frac_bits.requires_grad)
    variables = Variables(weights, biases, points, starts)
    flags = {parameter: parameter.requires_grad for parameter in module.parameters()}
    chosen = {id(parameter) for parameter in variables.parameters}
    try:
        for parameter in flags:
            parameter.requires_grad_(id(parameter) in chosen)
        yield variables
    finally:
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
            parameter.grad = None


def own_units(layer: Weighted, norm: QFoldedBatchNorm | None = None) -> Tensor:
    """The value of one unit in the last place of each weight, in the layout of ``layer.weight``, which must take gradients. A weight that is
    multiplied by the scale of ``norm`` before it is cast must move by as much less."""
    with torch.enable_grad():
        weight = layer.cast_weight()
        unit = units(layer).to(weight.dtype).expand(weight.shape)
        if norm is not None:
            unit = unit / norm.affine()[0].detach().abs().clamp(min=1e-6).reshape(-1, *(1,) * (weight.dim() - 1))
        (own,) = torch.autograd.grad((weight * unit).sum(), layer.weight)  # which knows the layout
    return own


def _folded_norms(module: fx.GraphModule) -> dict[str, QFoldedBatchNorm]:
    """The BatchNorms that are folded on the fly, by the name of the layer that they are folded into."""
    norms: dict[str, QFoldedBatchNorm] = {}
    for node in module.graph.nodes:
        layer = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, Weighted) and len(node.args) > 1:
            norm = module.get_submodule(str(node.args[1].target))
            assert isinstance(norm, QFoldedBatchNorm)
            norms[layer.name] = norm
    return norms


def _spread(reference: fx.GraphModule, x: Tensor) -> dict[str, float]:
    """The root mean square of the results of each layer with weights, by its path; of one inside a loop that of the step where it is largest."""
    nodes = list(reference.graph.nodes)
    env: Env = {next(node.name for node in nodes if node.op == "placeholder"): x}
    spread: dict[str, float] = {}

    def seen(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(layer: nn.Module, arguments: Any, result: Any) -> None:
            found = float(result.tensor().square().mean().sqrt())
            spread[path] = max(found, spread.get(path, 1e-12))

        return hook

    layers = {path: layer for path, layer in reference.named_modules() if isinstance(layer, Weighted)}
    hooks = [layer.register_forward_hook(seen(path)) for path, layer in layers.items()]
    try:
        with torch.no_grad():
            for node in nodes:
                run_node(reference, node, env)
                for source in node.all_input_nodes:
                    if all(user.name in env for user in source.users):
                        env.pop(source.name, None)
    finally:
        for hook in hooks:
            hook.remove()
    return spread
