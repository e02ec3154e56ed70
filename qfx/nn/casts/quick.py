"""The common case of a cast in training, with as little Python as possible: one learned binary point near its start, and before it nothing but an
activation. Whatever is otherwise goes the whole way, ``Quantizer.forward``, which gives the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from qfx.fixed import native
from qfx.fixed.arith import FLOAT32_BITS
from qfx.fixed.kernel import CastMode
from qfx.fixed.recorded import recorded
from qfx.nn.casts.digits import leaves_out
from qfx.nn.qtensor import QTensor
from qfx.recipe import Spec

if TYPE_CHECKING:
    from qfx.nn.quantizer import Quantizer


class Quick(NamedTuple):
    """What such a cast needs besides its binary point, and what it follows from: the spec, the sign and the activation before it.

    ``address``: of the entry of ``native.flat_bound``; 0 where the cast is none of the common case. ``bound`` keeps it alive.
    """

    spec: Spec
    signed: bool | None
    negative_slope: float
    upper: float | None
    address: int
    mode: CastMode
    bound: native.Bound | None

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """None for a copy, or another process: an address is one of this process."""
        return type(None), ()


def cast(by: Quantizer, x: QTensor | Tensor) -> QTensor | None:
    """``by(x)`` where autograd records; None if that is not the common case."""
    if isinstance(x, QTensor):
        if x.scale is not None or x.shift is not None or x.addend is not None:
            return None
        value, slope, upper = x.value, x.negative_slope, x.upper
    else:
        value, slope, upper = x, 1.0, None
    quick, spec = by._quick, by.spec
    if quick is None or quick.spec is not spec or quick.signed is not by.signed or quick.negative_slope != slope or quick.upper != upper:
        quick = by._quick = _quick(by, slope, upper)
    frac_bits = by._parameters["frac_bits"]
    if not quick.address or frac_bits is None or by.behind or not frac_bits.requires_grad:
        return None
    native_step = None if torch.compiler.is_dynamo_compiling() else recorded()
    if native_step is None:
        return None
    point = native_step.point(frac_bits, by._buffers["frac_start"], spec.reach)
    if point is None:
        return None
    found = native_step.cast(quick.address, by.frac_grad_scale, value, frac_bits)
    return None if found is None else QTensor(found, by._interval(point, spec.width, quick.mode))


def holds(by: Quantizer, constant: Tensor, limit: float) -> bool:
    """Whether no |number| * 2**point of a constant lies beyond ``limit``, where that can be seen at a glance; False: look closely."""
    frac_bits = by._parameters["frac_bits"]
    native_step = None if frac_bits is None or not frac_bits.requires_grad or torch.compiler.is_dynamo_compiling() else recorded()
    if native_step is None or frac_bits is None:
        return False
    near = native_step.point(frac_bits, by._buffers["frac_start"], by.spec.reach) is not None
    return native_step.holds(constant, frac_bits if near else by.points(), limit) is True


def is_repeatable(by: Quantizer) -> bool:
    """Whether it casts the same numbers to the same, again and again, as long as its binary points stay, and changes nothing by it."""
    plain = bool(vars(type(by)).get("has_plain_casts", False))  # first: what stands where a cast stood has none of what follows
    return plain and by.is_initialized and not (by.off or by.behind or by.spec.learn_width)


def _quick(by: Quantizer, slope: float, upper: float | None) -> Quick:
    spec, mode = by.spec, by.mode
    common = spec.learn and not spec.learn_width and spec.width <= FLOAT32_BITS and not leaves_out(spec, mode.signed)
    common = common and vars(type(by)).get("has_plain_casts", False)  # its own: a subclass does more, unless it says the same
    bound = native.flat_bound(mode, spec.width, slope, upper) if common else None
    return Quick(spec, by.signed, slope, upper, 0 if bound is None else bound.flat_address, mode, bound)
