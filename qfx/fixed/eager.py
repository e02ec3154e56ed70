"""Cast in torch operators: any device, any layout; the bits of the fused executor (``native.py``) at a lower speed."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qfx.fixed.plan import FLOAT32_FRAC_BITS, FLOAT64_FRAC_BITS, Gradients, Plan, along_channels, is_here, refuse_frac_bits, result_dtype
from qfx.fixed.type import OMode, QMode

_LN2 = math.log(2.0)
_HUGE = 2.0**1000  # every number as large is a multiple of 2**53, so a wrap sees no difference; infinity - infinity would be NaN


def forward(
    plan: Plan, x: Tensor, frac_bits: Tensor, int_bits: Tensor | None, scale: Tensor | None, shift: Tensor | None, addend: Tensor | None
) -> Tensor:
    """Cast(upper-clipped activation(x * scale + shift + addend)): see ``kernel.quantize``. ``x`` and ``addend`` are float32 or float64."""
    dtype = result_dtype(x, addend, plan.width)
    f = _checked_frac_bits(frac_bits, dtype)
    v = _activated(plan, _affine(x, scale, shift, addend))
    raw, _, _ = _cast(plan, v, f, _range(plan, f, frac_bits, int_bits, dtype))
    return (raw * _power_of_two(-f) + 0.0).to(dtype)  # + 0.0 turns -0.0 into +0.0


def backward(
    plan: Plan,
    grad: Tensor,
    x: Tensor,
    frac_bits: Tensor,
    int_bits: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    addend: Tensor | None,
    frac_grad_scale: float = 1.0,
) -> Gradients:
    """Gradients by x, frac_bits (its shape), int_bits, scale, shift and addend, each in its own dtype; None for what is not there."""
    dtype = result_dtype(x, addend, plan.width)
    f = _checked_frac_bits(frac_bits, dtype)
    range_ = _range(plan, f, frac_bits, int_bits, dtype)
    lsb = _power_of_two(-f)
    u = _affine(x, scale, shift, addend)
    v = _activated(plan, u)
    raw, slope, side = _cast(plan, v, f, range_)
    g = grad.double()
    grad_int: Tensor | None = None
    held = raw
    if int_bits is not None:
        bound = side * (range_.hi + 1.0)
        held = raw - bound  # the range stays where it is
        grad_int = (g * bound * lsb * (_LN2 * frac_grad_scale)).sum_to_size(int_bits.shape).to(int_bits.dtype)
    grad_frac = (g * (held * lsb - slope * v) * (-_LN2 * frac_grad_scale)).sum_to_size(frac_bits.shape)
    gu = g * slope
    if plan.upper != math.inf:
        gu = torch.where(torch.where(u < 0, u * plan.negative_slope, u) < plan.upper, gu, 0.0)
    if plan.negative_slope != 1.0:
        gu = torch.where(u > 0, gu, gu * plan.negative_slope)
    gx = gu if scale is None else gu * along_channels(scale, x, "scale").double()
    grad_scale = None if scale is None else _reduced(gu * x.double(), scale, x)
    grad_shift = None if shift is None else _reduced(gu, shift, x)
    grad_addend = None if addend is None else gu.to(addend.dtype)
    return gx.to(x.dtype), grad_frac.to(frac_bits.dtype), grad_int, grad_scale, grad_shift, grad_addend


def channel_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over all axes but 1, in float64."""
    rows = x.detach().double().transpose(0, 1).reshape(x.shape[1], -1)
    mean = rows.mean(1)
    return mean, (rows - mean[:, None]).square().mean(1)


def _reduced(grad: Tensor, parameter: Tensor, x: Tensor) -> Tensor:
    return grad.sum_to_size(along_channels(parameter, x, "parameter").shape).reshape(parameter.shape).to(parameter.dtype)


def _affine(x: Tensor, scale: Tensor | None, shift: Tensor | None, addend: Tensor | None) -> Tensor:
    v = x.double()
    if scale is not None:
        v = v * along_channels(scale, x, "scale").double()
    if shift is not None:
        v = v + along_channels(shift, x, "shift").double()
    return v if addend is None else v + addend.double()


def _activated(plan: Plan, u: Tensor) -> Tensor:
    v = u if plan.negative_slope == 1.0 else torch.where(u < 0, u * plan.negative_slope, u)
    return v if plan.upper == math.inf else v.clamp(max=plan.upper)


def _checked_frac_bits(frac_bits: Tensor, dtype: torch.dtype) -> Tensor:
    """Rounded to int64. Raises ExactnessError on the CPU; elsewhere (no cheap look at the data) a bad one becomes a NaN scale."""
    low, high = FLOAT32_FRAC_BITS if dtype is torch.float32 else FLOAT64_FRAC_BITS
    f = torch.round(frac_bits.detach().double())
    good = (f >= low) & (f <= high)
    if is_here(f) and not bool(good.all()):
        refuse_frac_bits(frac_bits, dtype)
    return torch.where(good, f, 1024.0).to(torch.int64)


def _power_of_two(exponent: Tensor) -> Tensor:
    """2**exponent for -1022..1023, from the bits: no device's pow needs to be trusted. 1024 and -1024 (a bad binary point) give NaN."""
    normal = ((exponent + 1023).clamp(1, 2046) << 52).view(torch.float64)
    return torch.where(exponent.abs() == 1024, math.nan, normal)


class _Range(NamedTuple):
    """The least and the greatest raw: numbers, or float64 tensors of the shape of the binary points."""

    lo: Any
    hi: Any


def _range(plan: Plan, f: Tensor, frac_bits: Tensor, int_bits: Tensor | None, dtype: torch.dtype) -> _Range:
    if int_bits is None:
        return _Range(plan.min_raw, plan.max_raw)
    integer = int_bits.detach().double()
    if is_here(integer) and bool(integer.isnan().any()):
        refuse_frac_bits(frac_bits, dtype, int_bits)
    width = (f.double() + torch.round(integer)).clamp(0, plan.width)
    above = _power_of_two((width - int(plan.mode.signed)).clamp(min=0).to(torch.int64))
    low = ((width > 1).double() * float(plan.mode.o is OMode.SAT_SYM) - above) * float(plan.mode.signed)
    return _Range(torch.where(width > 0, low, 0.0), above - 1)


def _cast(plan: Plan, v: Tensor, f: Tensor, range_: _Range) -> tuple[Tensor, Tensor | float, Tensor | float]:
    """The raw, dq/dv (1, 0 or -1) and the side that saturates (1, 0 or -1: the derivative by the integer bits).

    Rounding starts from nearest-even and mends the ties: s - rint(s) is exact, where floor(s + 0.5) and s - floor(s) are not.
    """
    mode = plan.mode
    s = v * _power_of_two(f)
    raw = _rounded(mode.q, s, v)
    if mode.o in (OMode.SAT, OMode.SAT_SYM):
        q = raw.clamp(range_.lo, range_.hi)
        high, low = raw > range_.hi, raw < range_.lo
        if isinstance(range_.hi, Tensor):
            some = range_.lo != range_.hi  # more than 0
            high, low = high & some, low & some
        side = high.double() - low.double() if mode.signed else high.double()
        return q, (~(high | low)).double(), side
    over = (raw > range_.hi) | (raw < range_.lo)
    if mode.o is OMode.SAT_ZERO:
        return raw.masked_fill(over, 0.0), (~over).double(), 0.0
    raw = raw.clamp(-_HUGE, _HUGE)
    if mode.o is OMode.WRAP:
        if isinstance(range_.hi, Tensor):
            return _wrapped_into(range_, raw), 1.0, 0.0
        return (_wrapped(plan, raw) if mode.n == 0 else torch.where(over, _pinned(plan, raw, _low_bits(raw, plan.width - mode.n)), raw)), 1.0, 0.0
    return (*_wrapped_sign_magnitude(plan, raw, over, s.clamp(-_HUGE, _HUGE)), 0.0)


def _rounded(q: QMode, s: Tensor, v: Tensor) -> Tensor:
    if q is QMode.TRN:
        floor = s.floor()
        return torch.where(v < 0, floor.clamp(max=-1.0), floor)  # v < 0 whose scaling underflowed to -0.0 is still below 0
    if q is QMode.TRN_ZERO:
        return s.trunc()
    raw = s.round()
    if q is QMode.RND_CONV:
        return raw
    error = s - raw
    up, down = error == 0.5, error == -0.5  # ties that nearest-even sent down and up
    if q is QMode.RND:
        return raw + up.double()
    if q is QMode.RND_MIN_INF:
        return raw - down.double()
    if q is QMode.RND_ZERO:
        return raw + (up & (s < 0)).double() - (down & (s > 0)).double()
    return raw + (up & (s > 0)).double() - (down & (s < 0)).double()  # RND_INF


def _low_bits(raw: Tensor, count: int) -> Tensor:
    """raw modulo 2**count, in 0..2**count - 1: exact for every float64 integer and count <= 54."""
    return raw - (raw * 2.0**-count).floor() * 2.0**count


def _wrapped(plan: Plan, raw: Tensor) -> Tensor:
    low = _low_bits(raw, plan.width)
    return torch.where(low > plan.max_raw, low - 2.0**plan.width, low) if plan.mode.signed else low


def _wrapped_into(range_: _Range, raw: Tensor) -> Tensor:
    modulus = range_.hi - range_.lo + 1
    low = raw - (raw / modulus).floor() * modulus
    return torch.where(low > range_.hi, low - modulus, low)


def _pinned(plan: Plan, raw: Tensor, low: Tensor) -> Tensor:
    """N >= 1 saturated bits above the kept low bits: the sign bit keeps the sign, the others oppose it; all ones when unsigned."""
    half, kept = 2.0 ** (plan.width - 1), 2.0 ** (plan.width - plan.mode.n)
    if not plan.mode.signed:
        return low + (2 * half - kept)
    return low + (half - kept) - (raw < 0).double() * (2 * half - kept)  # torch.where of two numbers would be float32


def _wrapped_sign_magnitude(plan: Plan, raw: Tensor, over: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    width, n = plan.width, plan.mode.n
    if n <= 1:
        wrapped = _wrapped(plan, raw)
        wanted = _low_bits((s.floor() * 2.0**-width).floor(), 1) == 1 if n == 0 else raw < 0  # the lost bit is that of the unrounded source
        flipped = over & ((wrapped < 0) != wanted)
        return torch.where(flipped, -1 - wrapped, wrapped), torch.where(flipped, -1.0, 1.0).double()
    kept = width - n
    low = _low_bits(raw, kept)
    flipped = over & ((_low_bits(raw, kept + 1) >= 2.0**kept) == (raw < 0))
    low = torch.where(flipped, 2.0**kept - 1 - low, low)
    return torch.where(over, _pinned(plan, raw, low), raw), torch.where(flipped, -1.0, 1.0).double()
