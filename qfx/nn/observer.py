"""Observers: from data to the position of a binary point."""

from __future__ import annotations

import torch
from torch import Tensor

from qfx.fixed.kernel import CastMode, quantize

SEARCH_DEPTH = 6
"""How many positions beyond the one that just holds the largest value are tried: each trades one bit of range for one of resolution."""

MAX_SPREAD = 16
"""No binary point starts more than so many positions finer than the coarsest of its tensor: a channel that training has switched off (weights of
1e-30) would otherwise ask for a grid that no accumulator holds."""

HEADROOM = 2
"""With ``negligible``, so many positions coarser are tried too."""

SAMPLE = 1 << 18
"""Of a larger tensor with one binary point, about so many evenly spread elements decide (and the largest magnitude of all)."""

FRAC_BITS = (-100, 64)
"""Binary points start between these: numbers below 2**-64 count as zero."""


def min_error_frac_bits(x: Tensor, width: int, mode: CastMode, shape: tuple[int, ...], *, most: int | None = None, negligible: float = 0.0) -> Tensor:
    """The number of fractional bits with the least squared error of Cast(x), for each binary point of ``shape``.

    ``shape`` broadcasts against ``x`` (() for one binary point); the result is integral, of x's dtype and of that shape. The search runs
    from the position that just holds the largest magnitude to SEARCH_DEPTH positions finer, so that rare large values may saturate; ties go
    to the wider range. It starts within FRAC_BITS and, of several binary points, at most MAX_SPREAD positions finer than the coarsest; a
    part of x that is all zeros starts there too (at ``width - 1``, or ``width`` if unsigned, where all of x is zero). ``most`` bounds the
    result from above. Squared errors of at most ``negligible`` times the sum of squares count as none, so that a word that is long
    enough spends its bits on range for data yet unseen. Of very large tensors a SAMPLE decides. No gradient.
    """
    with torch.no_grad():
        x = x.detach()
        axes = _reduced_axes(x, shape)
        largest = (x.abs().amax(axes, keepdim=True) if axes else x.abs()).reshape(shape).double()
        magnitude_bits = torch.where(largest > 0, torch.frexp(largest).exponent, 0)  # largest < 2**magnitude_bits
        first = (width - (1 if mode.signed else 0) - magnitude_bits).clamp(*FRAC_BITS)
        if shape and bool((largest > 0).any()):
            coarsest = first[largest > 0].min()
            first = torch.where(largest > 0, first, coarsest).clamp(max=coarsest + MAX_SPREAD)
        first = first.to(x.dtype)
        if most is not None:
            first = first.clamp(max=most)
        if not shape and x.numel() > SAMPLE:
            x = x.reshape(-1)[:: x.numel() // SAMPLE | 1]  # an odd step, so that it does not keep to one column of an image
            axes = (0,)
        best, best_error = first, torch.full(shape, torch.inf, dtype=torch.float64, device=x.device)
        bound = negligible * _summed(x.double().square(), axes, shape)
        for step in range(-HEADROOM if negligible else 0, SEARCH_DEPTH + 1):
            candidate = first + step if most is None else (first + step).clamp(max=most)
            error = _summed((quantize(x, candidate, width, mode).double() - x).square(), axes, shape)
            error = torch.where(error <= bound, 0.0, error)
            better = error < best_error
            best, best_error = torch.where(better, candidate, best), torch.where(better, error, best_error)
        return best


def _summed(x: Tensor, axes: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    return (x.sum(axes, keepdim=True) if axes else x).reshape(shape)


def _reduced_axes(x: Tensor, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes of x along which one binary point is shared."""
    padded = (1,) * (x.dim() - len(shape)) + shape
    return tuple(axis for axis in range(x.dim()) if padded[axis] == 1 and x.shape[axis] != 1) if shape else tuple(range(x.dim()))
