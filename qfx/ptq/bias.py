"""Bias correction: the mean error that quantized weights (and inputs) leave in a layer's result goes into its bias; in place."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from qfx.nn.layers import QBatchNorm
from qfx.nn.layers.products.materialize import materialize
from qfx.nn.model import graph_module
from qfx.nn.observer import choose_frac_bits
from qfx.nn.quantizer import Quantizer
from qfx.ptq.activations import ActivationCache, LayerCall, batches, evaluating, layer_calls
from qfx.ptq.float_reference import reference_of


@dataclass(frozen=True, slots=True)
class BiasResult:
    """What was done to one layer: the root mean square over its channels of the mean error ``before`` and ``after``. ``corrected`` is False for a
    layer that has no bias, nor a BatchNorm behind it that has one."""

    path: str
    before: float
    after: float
    corrected: bool


def correct_bias(
    qmodel: nn.Module,
    data: Tensor | Iterable[Tensor],
    *,
    reference: fx.GraphModule | None = None,
    layers: Iterable[str] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    twin: fx.GraphModule | None = None,
) -> tuple[BiasResult, ...]:
    """Take from each layer's bias the mean difference, per output channel, of its result to the float model's on ``data``; in place.

    Layer by layer, each one reading what the corrected quantized layers before it give, so that their errors count too. ``reference``: the float
    model to compare with (default: ``float_reference(qmodel)``; ``twin`` is its earlier name). ``layers``: the paths to work on (default: all). Where
    the bias is that of a BatchNorm kept behind the layer, it is corrected there. A binary point of a bias that the new numbers outgrow moves to the
    left; none moves to the right. Weights and biases that the model computes of other parameters become parameters (``materialize``).

    Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, appendix D. Raises UnsupportedError for a
    layer whose BatchNorm is folded on the fly, DataError for bad data.
    """
    module = graph_module(qmodel)
    reference = reference_of(module, reference, twin)
    results = []
    todo = layer_calls(module, layers)
    materialize(module)
    with evaluating(module), torch.no_grad(), ActivationCache((module, reference), batches(data)) as cache:
        for number, call in enumerate(todo):
            if progress is not None:
                progress("bias correction", number, len(todo))
            cache.advance_to(call.node)
            results.append(corrected(module, call, _mean_error(cache, call, reference)))
    if progress is not None:
        progress("bias correction", len(todo), len(todo))
    return tuple(results)


def _mean_error(cache: ActivationCache, call: LayerCall, reference: fx.GraphModule) -> Tensor:
    """Of the layer's present result against the reference's, per output channel, in float64."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for index in range(cache.batches):
        quantized, exact = cache.inputs(call.node, index)
        difference = call.layer(quantized).tensor().double() - reference.get_submodule(call.path)(exact).tensor().double()
        rows = difference.transpose(0, 1).flatten(1)
        total, count = total + rows.sum(1), count + rows.shape[1]
    return total / count


def corrected(module: fx.GraphModule, call: LayerCall, error: Tensor) -> BiasResult:
    """Subtract ``error``, the mean error of the layer's result as it is now, from the bias that applies to it; in place."""
    layer, path = call.layer, call.path
    before = _rms(error)
    if layer.bias is not None:
        old = layer.bias_cast(layer.bias).value.double()
        layer.bias.copy_(old - error)
        _hold(layer.bias_cast, layer.bias)
        return BiasResult(path, before, _rms(error + layer.bias_cast(layer.bias).value.double() - old), True)
    norm = _norm_behind(module, call.node)
    if norm is None or norm.bias is None:
        return BiasResult(path, before, before, False)
    scale = norm.scale_cast(norm.affine()[0]).value.double()
    old = norm.shift_cast(norm.affine()[1]).value.double()
    norm.bias.add_(old - norm.affine()[1] - scale * error)
    shift = norm.affine()[1]
    _hold(norm.shift_cast, shift)
    left = scale * error + norm.shift_cast(shift).value.double() - old
    return BiasResult(path, before, _rms(torch.where(scale == 0, 0.0, left / scale)), True)


def _norm_behind(module: fx.GraphModule, node: fx.Node) -> QBatchNorm | None:
    users = list(node.users)
    target = module.get_submodule(str(users[0].target)) if len(users) == 1 and users[0].op == "call_module" else None
    if isinstance(target, Quantizer):
        return _norm_behind(module, users[0])
    return target if isinstance(target, QBatchNorm) else None


def _hold(cast: Quantizer, constant: Tensor) -> None:
    """Move the binary points of ``cast`` to the left as far as ``constant`` needs it to be held; in place."""
    with torch.no_grad():
        shape = tuple(cast.frac_bits.shape)
        needed = choose_frac_bits((constant.detach(),), cast.word_length, cast.mode, shape, observer="minmax")
        cast.place(torch.minimum(cast.points(), needed.to(cast.frac_bits)))


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())
