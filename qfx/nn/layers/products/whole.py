"""A linear layer in training with as little Python as possible: the casts of its weight and bias, its product, and the cast of its result where that
stands right behind it or behind a ReLU (``chain.py``), as one step of autograd, in C++.

It is the common case: constants of the layer's own, each with one learned binary point near its start, an input and sums that float32 holds. What
was found out in a forward that went the whole way is kept (``Whole``) and stays true as long as the binary points do, which the step looks at;
whatever is otherwise goes the whole way again, which gives the same numbers and gradients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

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
    of_weight = a.address, weight.frac_grad_scale, a_reach, a_point, weight._parameters["frac_bits"], weight._buffers["frac_start"], kept
    of_bias = b.address, bias.frac_grad_scale, b_reach, b_point, bias._parameters["frac_bits"], bias._buffers["frac_start"], own.get("bias")
    sums = native_step.linear(value, limit, *of_weight, *of_bias)
    return None if sums is None else QTensor(sums, found.result)


class Followed(NamedTuple):
    """A linear layer whose result is cast: what a forward found of both, and the interval of what the cast gave."""

    sums: Whole
    by: quick.Quick
    reach: float
    point: int
    result: Bounds


def followed(layer: QLinear, cast: Quantizer, x: QTensor, result: QTensor) -> Followed | None:
    """What holds after ``layer`` gave of ``x`` what ``cast`` (behind a ReLU, if one is there) made ``result``; None if either was none of the common
    case. The ReLU is known by what the cast's common case says."""
    found, by, frac_bits = layer._whole, cast._quick, cast._parameters["frac_bits"]
    if found is None or found.x is not x.interval or by is None or not by.address or frac_bits is None or frac_bits.dim():
        return None
    known = cast._known
    if by.upper is not None or not frac_bits.requires_grad or not _stands(cast, by) or known is None or known.interval is not result.interval:
        return None
    return Followed(found, by, cast.spec.reach, int(cast.points()), result.interval)


def cast_of(layer: QLinear, cast: Quantizer, found: Followed, value: Tensor, interval: Bounds) -> Tensor | None:
    """What ``cast`` gives of the layer's result on numbers (all that is to be done to them is done) in this interval; None where what was found
    may not be true of them. Whoever calls has seen that autograd records, that no hook sees what is saved, and that no product would be rounded."""
    whole = found.sums
    if interval is not whole.x:
        return None
    parts, own = layer._modules, layer._parameters
    weight, bias = parts["weight_cast"], parts["bias_cast"]
    (a, _, a_reach, a_point, _), (b, makes_room, b_reach, b_point, limit) = whole.weight, whole.bias
    if not _stands(weight, a) or not _stands(bias, b) or bias.makes_room is not makes_room or not _stands(cast, found.by):
        return None
    native_step, kept = recorded(), own.get("weight")
    if native_step is None or kept is None or kept.shape != whole.shape:
        return None
    learned = cast._parameters["frac_bits"]
    if learned is None or not learned.requires_grad:
        return None
    return native_step.linear(
        value,
        limit,
        a.address,
        weight.frac_grad_scale,
        a_reach,
        a_point,
        weight._parameters["frac_bits"],
        weight._buffers["frac_start"],
        kept,
        b.address,
        bias.frac_grad_scale,
        b_reach,
        b_point,
        bias._parameters["frac_bits"],
        bias._buffers["frac_start"],
        own.get("bias"),
        found.by.address,
        cast.frac_grad_scale,
        found.reach,
        found.point,
        learned,
        cast._buffers["frac_start"],
        None,
    )


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
