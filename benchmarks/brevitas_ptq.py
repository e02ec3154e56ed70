"""Brevitas' post-training flow on a float model: its fx backend with power-of-two scales, as its own example for ImageNet drives it.

Merging of BatchNorm, 20 iterations of equalization with merged biases, quantization, calibration, GPTQ, bias correction, in that order and with the
options of its best published configurations for power-of-two scales per channel (``RESULTS_TORCHVISION_BEST_CONFIGS.csv`` in its wheel). Weights and
activations of all layers have the given word lengths, biases 16
bits; the result of the last layer is not cast at all. Its tensors that know their scale cannot be sliced, which the shortcuts of ResNet-20 need, so
that plain ones go from layer to layer.
"""

from __future__ import annotations

import copy
import os

os.environ.setdefault("BREVITAS_JIT", "0")

import brevitas.nn as qnn  # type: ignore[import-untyped, unused-ignore]
import torch
from brevitas.core.scaling.standalone import ParameterFromStatsFromParameterScaling  # type: ignore[import-untyped, unused-ignore]
from brevitas.graph.calibrate import bias_correction_mode, calibration_mode  # type: ignore[import-untyped, unused-ignore]
from brevitas.graph.gptq import gptq_mode  # type: ignore[import-untyped, unused-ignore]
from brevitas.graph.quantize import preprocess_for_quantize, quantize  # type: ignore[import-untyped, unused-ignore]
from brevitas.quant.fixed_point import (  # type: ignore[import-untyped, unused-ignore]
    Int8ActPerTensorFixedPoint,
    Int8ActPerTensorFixedPointMSE,
    Int8BiasPerTensorFixedPointInternalScaling,
    Int8WeightPerChannelFixedPoint,
    Int8WeightPerChannelFixedPointMSE,
)
from torch import Tensor, nn

EQUALIZATIONS, PERCENTILE = 20, 99.99


def post_training(
    model: nn.Module,
    data: Tensor,
    weight: int,
    activation: int,
    *,
    least_error: bool = False,
    equalize: bool = True,
    gptq: bool = True,
    quantized_inputs: bool = True,
    correct_bias: bool = True,
    batch: int = 64,
) -> nn.Module:
    """``model`` in Brevitas' fixed point, in evaluation mode.

    ``least_error``: scales by least squared error instead of the maximum (weights) and a percentile (activations). ``quantized_inputs``: GPTQ sees
    quantized activations.
    """
    parts = torch.split(data, batch)
    with torch.no_grad():
        prepared = preprocess_for_quantize(
            copy.deepcopy(model).eval(),
            trace_model=True,
            equalize_iters=EQUALIZATIONS if equalize else 0,
            equalize_merge_bias=equalize,
            merge_bn=True,
        )
        quantized = quantize(prepared, **_maps(weight, activation, least_error)).eval()
        quantized(parts[0])  # which makes the scales of the weights
        with calibration_mode(quantized):
            for part in parts:
                quantized(part)
        if gptq:
            with gptq_mode(quantized, use_quant_activations=quantized_inputs, create_weight_orig=False) as work:
                for _ in range(work.num_layers):
                    for part in parts:
                        work.model(part)
                    work.update()
        if correct_bias:
            with bias_correction_mode(quantized):
                for part in parts:
                    quantized(part)
    return quantized  # type: ignore[no-any-return]


def _maps(weight: int, activation: int, least_error: bool) -> dict[str, object]:
    """What becomes of each kind of layer."""
    weights = Int8WeightPerChannelFixedPointMSE if least_error else Int8WeightPerChannelFixedPoint
    weights = weights.let(bit_width=weight, narrow_range=False, scaling_impl=ParameterFromStatsFromParameterScaling)
    casts = Int8ActPerTensorFixedPointMSE if least_error else Int8ActPerTensorFixedPoint.let(high_percentile_q=PERCENTILE)
    casts = casts.let(bit_width=activation)
    layer = {"weight_quant": weights, "bias_quant": Int8BiasPerTensorFixedPointInternalScaling.let(bit_width=16), "return_quant_tensor": False}
    signed = {"act_quant": casts, "return_quant_tensor": False}
    unsigned = {**signed, "signed": False}
    return {
        "compute_layer_map": {nn.Conv2d: (qnn.QuantConv2d, layer), nn.Linear: (qnn.QuantLinear, layer)},
        "quant_act_map": {nn.ReLU: (qnn.QuantReLU, unsigned)},
        "quant_identity_map": {"signed": (qnn.QuantIdentity, signed), "unsigned": (qnn.QuantIdentity, unsigned)},
    }
