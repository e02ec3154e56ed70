"""A linear layer in training with as little Python as possible: the casts of its weight and bias and its product as one step of autograd, in C++.

It is the common case: constants of the layer's own, each with one learned binary point near its start, an input and sums that float32 holds. What
was found out in a forward that went the whole way is kept (``Whole``) and stays true as long as the binary points do, which the step looks at;
whatever is otherwise goes the whole way again, which gives the same numbers and gradients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeGuard

import torch
from torch import nn

from qfx.fixed.arith import Bounds
from qfx.fixed.recorded import recorded
from qfx.nn.backends import refuse_inexact
from qfx.nn.casts import quick, room, told
from qfx.nn.casts.lean import LARGE, hooked
from qfx.nn.qtensor import QTensor
from qfx.nn.quantizer import Quantizer

if TYPE_CHECKING:
    from qfx.nn.layers.linear import QLinear


class Held(NamedTuple):
    """A constant's cast: what it needs, its binary point, and of the bias what no number may be beyond, times two to that point."""

    by: quick.Quick
    makes_room: bool
    reach: float
    point: int
    limit: float


class Whole(NamedTuple):
    """What a forward found: the interval of its input, the shape of its weight, the casts of weight and bias, and the interval of its result."""

    x: Bounds
    shape: torch.Size
    weight: Held
    bias: Held
    result: Bounds


def learned(layer: QLinear, x: QTensor, result: QTensor) -> Whole | None:
    """What holds after the forward of ``x`` to ``result``; None if it was none of the common case."""
    parts = layer._modules
    weight, bias = parts["weight_cast"], parts["bias_cast"]
    known, own = layer._known, layer._parameters
    if layer.positions or layer.form is not None or not isinstance(weight, Quantizer) or not isinstance(bias, Quantizer) or not x.is_plain:
        return None
    if told.is_far(x.value):
        return None
    kept, offset = own.get("weight"), own.get("bias")
    if kept is None or offset is None or kept.numel() >= LARGE or known is None or not known.fits or known.total is not result.interval:
        return None
    of_weight, of_bias = _held(weight), _held(bias)
    if of_weight is None or of_bias is None or known.x is not x.interval:
        return None
    return Whole(x.interval, kept.shape, of_weight, of_bias, result.interval)


def forward(layer: QLinear, found: Whole, x: QTensor) -> QTensor | None:
    """The layer's result on ``x``, and None where what was found may not be true of it. Where hooks see what is saved, None too: a forward that
    is computed again has to save what the first one did, which may have gone the whole way."""
    if x.interval is not found.x or not x.is_plain or torch.compiler.is_dynamo_compiling() or hooked():
        return None
    parts, own = layer._modules, layer._parameters
    weight, bias = parts["weight_cast"], parts["bias_cast"]
    (a, _, a_reach, a_point, _), (b, makes_room, b_reach, b_point, limit) = found.weight, found.bias
    if not _stands(weight, a) or not _stands(bias, b) or bias.makes_room is not makes_room:
        return None
    native_step, kept = recorded(), own.get("weight")
    if native_step is None or kept is None or kept.shape != found.shape:
        return None
    value = x.value
    refuse_inexact(value, layer.name)
    of_weight = (
        a.address,
        weight.frac_grad_scale,
        a_reach,
        a_point,
        own.get("weight"),
        weight._parameters["frac_bits"],
        weight._buffers["frac_start"],
    )
    of_bias = (b.address, bias.frac_grad_scale, b_reach, b_point, own.get("bias"), bias._parameters["frac_bits"], bias._buffers["frac_start"])
    sums = native_step.linear(value, *of_weight, *of_bias, limit)
    return None if sums is None else QTensor(sums, found.result)


def _stands(by: nn.Module | None, found: quick.Quick) -> TypeGuard[Quantizer]:
    """Whether a cast is still what was found, its binary point apart."""
    return isinstance(by, Quantizer) and by._quick is found and by.spec is found.spec and by.signed is found.signed and not by.off and not by.behind


def _held(by: Quantizer) -> Held | None:
    found, frac_bits = by._quick, by._parameters["frac_bits"]
    if found is None or not found.address or found.negative_slope != 1.0 or found.upper is not None or frac_bits is None or frac_bits.dim():
        return None
    if not frac_bits.requires_grad or not _stands(by, found):
        return None
    point = by.points()
    return Held(found, by.makes_room, by.spec.reach, int(point), room.limit(by))
