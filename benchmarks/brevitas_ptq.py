"""Brevitas' post-training flow on a float model, with power-of-two scales and its own passes, as its example for ImageNet drives them.

Merging of BatchNorm, 20 iterations of equalization with merged biases, quantization, calibration, GPTQ or learned rounding, bias correction, in that
order and with the options of its best published configurations for power-of-two scales per channel (``RESULTS_TORCHVISION_BEST_CONFIGS.csv`` in its
wheel). Weights and activations of all layers have the given word lengths, biases 16 bits; the result of the last layer is not cast at all.

Where its defaults cost accuracy that fixed point need not lose, it gets the better choice (``_quantize`` and ``_scales`` say what that is worth).
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from contextlib import suppress

os.environ.setdefault("BREVITAS_JIT", "0")

import brevitas.nn as qnn  # type: ignore[import-untyped, unused-ignore]
import torch
from brevitas import config  # type: ignore[import-untyped, unused-ignore]
from brevitas.core.function_wrapper.ops_ste import RoundSte  # type: ignore[import-untyped, unused-ignore]
from brevitas.core.scaling.standalone import ParameterFromStatsFromParameterScaling  # type: ignore[import-untyped, unused-ignore]
from brevitas.graph.calibrate import (  # type: ignore[import-untyped, unused-ignore]
    bias_correction_mode,
    calibration_mode,
    quantization_status_manager,
)
from brevitas.graph.gptq import gptq_mode  # type: ignore[import-untyped, unused-ignore]
from brevitas.graph.quantize import preprocess_for_quantize  # type: ignore[import-untyped, unused-ignore]
from brevitas.graph.quantize_impl import act_handler, inp_placeholder_handler, layer_handler  # type: ignore[import-untyped, unused-ignore]
from brevitas.inject.enum import LearnedRoundImplType  # type: ignore[import-untyped, unused-ignore]
from brevitas.quant.fixed_point import (  # type: ignore[import-untyped, unused-ignore]
    Int8ActPerTensorFixedPoint,
    Int8ActPerTensorFixedPointMSE,
    Int8BiasPerTensorFixedPointInternalScaling,
    Int8WeightPerChannelFixedPoint,
    Int8WeightPerChannelFixedPointMSE,
    Uint8ActPerTensorFixedPoint,
    Uint8ActPerTensorFixedPointMSE,
)
from brevitas.utils.torch_utils import StopFwdException  # type: ignore[import-untyped, unused-ignore]
from brevitas_examples.common.learned_round.learned_round_method import (  # type: ignore[import-untyped, unused-ignore]
    MSELoss,
    RoundRegularisationLoss,
    insert_learned_round_quantizers,
    return_learned_round_quantizers,
)
from torch import Tensor, nn

EQUALIZATIONS, PERCENTILE = 20, 99.99
STEPS, RATE, DRAWN = 1000, 1e-2, 32
"""Of learned rounding: steps for each layer, as in its example, of Adam (the rate there, 1e-3, gives a point less at 4/4), and images in a step."""


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
    learn_rounding: bool = False,
    steps: int = STEPS,
    correct_bias: bool = True,
    batch: int = 64,
) -> nn.Module:
    """``model`` in Brevitas' fixed point, in evaluation mode.

    ``least_error``: scales by least squared error instead of the maximum (weights) and a percentile (activations). ``quantized_inputs``: GPTQ sees
    quantized activations. ``learn_rounding``: ``steps`` of it for each layer.
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
        quantized = _quantize(prepared, weight, activation, least_error)
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
    if learn_rounding:
        _learn_rounding(quantized, parts, steps)
    if correct_bias:
        with torch.no_grad(), bias_correction_mode(quantized):
            for part in parts:
                quantized(part)
    return quantized


def _quantize(prepared: nn.Module, weight: int, activation: int, least_error: bool) -> nn.Module:
    """Casts behind the input, every ReLU and the average, and nowhere else.

    ``brevitas.graph.quantize`` is the same and three things more, which cost 5 points at 4/4: it casts convolutions in front of additions, too; it
    gives both operands of an addition one scale, for signed numbers, so that what ReLU gives loses a bit; it casts the result to the activations'
    word length.
    """
    weights, signed, unsigned = _scales(weight, activation, least_error)
    layer = {"weight_quant": weights, "bias_quant": Int8BiasPerTensorFixedPointInternalScaling.let(bit_width=16), "return_quant_tensor": False}
    behind_relu = {nn.ReLU: (qnn.QuantReLU, {"act_quant": unsigned, "return_quant_tensor": False})}
    config.IGNORE_MISSING_KEYS = True  # here and in learned rounding states are loaded into layers that have parameters besides
    model = inp_placeholder_handler(prepared, input_quantizer=(qnn.QuantIdentity, {"act_quant": signed, "return_quant_tensor": False}))
    model = act_handler(model, layer_map=behind_relu)
    model = layer_handler(
        model,
        layer_map={nn.Conv2d: (qnn.QuantConv2d, layer), nn.Linear: (qnn.QuantLinear, layer)},
        requantize_output=False,
        quant_identity_map={"signed": (qnn.QuantIdentity, {"act_quant": unsigned, "return_quant_tensor": False})},  # the average of what ReLU gives
        quant_act_map=behind_relu,
    )
    return model.eval()  # type: ignore[no-any-return]


def _scales(weight: int, activation: int, least_error: bool) -> tuple[type, type, type]:
    """Quantizers of weights, of signed and of unsigned activations.

    Brevitas looks for the float scale of least error; the next power of two is nearer to it than the next greater one, its default: 5 points at 4/4.
    """
    if least_error:
        found = Int8WeightPerChannelFixedPointMSE, Int8ActPerTensorFixedPointMSE, Uint8ActPerTensorFixedPointMSE
        weights, signed, unsigned = (quantizer.let(restrict_value_float_to_int_impl=RoundSte) for quantizer in found)
    else:
        weights = Int8WeightPerChannelFixedPoint
        signed, unsigned = (q.let(high_percentile_q=PERCENTILE) for q in (Int8ActPerTensorFixedPoint, Uint8ActPerTensorFixedPoint))
    weights = weights.let(bit_width=weight, narrow_range=False, scaling_impl=ParameterFromStatsFromParameterScaling)
    return weights, signed.let(bit_width=activation), unsigned.let(bit_width=activation)


def _learn_rounding(model: nn.Module, parts: Sequence[Tensor], steps: int) -> None:
    """Brevitas' AdaRound, layer after layer: its parameters and losses, inputs from the quantized network, outputs from the float one.

    The loop is that of its ``LearnedRoundTrainer``, which cannot be imported without packages for several GPUs (``accelerate``).
    """
    insert_learned_round_quantizers(model, LearnedRoundImplType.HARD_SIGMOID)
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for layer in [module for module in model.modules() if return_learned_round_quantizers(module) and hasattr(module, "weight_quant")]:
        inputs, _ = _seen(model, layer, parts)
        with quantization_status_manager(model, disable_act_quant=True, disable_weight_quant=True, disable_bias_quant=True, is_training=False):
            _, outputs = _seen(model, layer, parts)
        _learn_layer(layer, inputs, outputs, steps, generator)


def _seen(model: nn.Module, layer: nn.Module, parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """What ``layer`` gets and gives on all data."""
    inputs, outputs = [], []

    def keep(_: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
        inputs.append(given[0])
        outputs.append(result)
        raise StopFwdException

    handle = layer.register_forward_hook(keep)
    with torch.no_grad():
        for part in parts:
            with suppress(StopFwdException):
                model(part)
    handle.remove()
    return torch.cat(inputs), torch.cat(outputs)


def _learn_layer(layer: nn.Module, inputs: Tensor, outputs: Tensor, steps: int, generator: torch.Generator) -> None:
    """Adam on the roundings of one layer; everything else stays in evaluation mode."""
    [rounding] = return_learned_round_quantizers(layer)
    losses = RoundRegularisationLoss(layer, max_count=steps), MSELoss(layer, reduction="none", dim=1)
    optimizer = torch.optim.Adam([rounding.value.requires_grad_()], lr=RATE)
    rounding.train()
    for _ in range(steps):
        drawn = torch.randint(len(inputs), (DRAWN,), generator=generator)
        result, wanted = layer(inputs[drawn]), outputs[drawn]
        optimizer.zero_grad()
        torch.stack([loss(result, wanted) for loss in losses]).sum().backward()  # type: ignore[no-untyped-call, unused-ignore]
        optimizer.step()
    rounding.eval().requires_grad_(False)
