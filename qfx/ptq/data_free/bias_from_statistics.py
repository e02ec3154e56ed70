"""Bias correction without data: the mean error of rounded weights, from the statistics that BatchNorm remembers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import fx, nn

from qfx.nn.layers import Weighted
from qfx.nn.layers.products.materialize import materialize
from qfx.nn.model import graph_module
from qfx.ptq.activations import layer_calls
from qfx.ptq.bias import BiasResult, corrected
from qfx.ptq.data_free.moments import Clipped, distributions
from qfx.ptq.float_reference import reference_of
from qfx.ptq.floating.fold import Statistics


def correct_bias_from_statistics(
    qmodel: nn.Module,
    statistics: Mapping[str, Statistics],
    *,
    reference: fx.GraphModule | None = None,
    layers: Iterable[str] | None = None,
    input_mean: float = 0.0,
    twin: fx.GraphModule | None = None,
) -> tuple[BiasResult, ...]:
    """``correct_bias`` without data, in place: the mean error of rounding the weights, from the mean of each layer's input according to BatchNorm.

    ``statistics``: of the results of layers, by path (``folded_statistics`` of the float model that was quantized); those of BatchNorms that are
    kept are known anyway. What a ReLU leaves of a normal distribution has its mean in closed form. Zero padding is not accounted for, and of the
    model's input only the mean is known, as far as ``input_mean`` gives it. Source: Nagel et al. 2019, section 4.2.
    """
    module = graph_module(qmodel)
    reference = reference_of(module, reference, twin)
    nothing = torch.zeros(1, dtype=torch.float64)
    found = distributions(module, statistics, Clipped.normal(nothing + input_mean, nothing))
    results = []
    with torch.no_grad():
        todo = layer_calls(module, layers)
        materialize(module)
        for call in todo:
            source = call.node.args[0]
            assert isinstance(source, fx.Node)
            layer, teacher = call.layer, reference.get_submodule(call.path)
            assert isinstance(teacher, Weighted)
            moved = layer.weight_cast(layer.cast_weight()).value.double() - teacher.cast_weight().double()
            mean, _ = found[source.name].moments()
            error = (layer.taps(moved) * layer.per_weight(mean.expand(moved.shape[1] * layer.groups))).sum(1)
            if layer.bias is not None:  # rounding it counts as well
                assert teacher.bias is not None
                error = error + layer.bias_cast(layer.bias).value.double() - teacher.bias.double()
            results.append(corrected(module, call, error))
    return tuple(results)
