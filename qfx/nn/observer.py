"""Observers: from data to the position of a binary point, by one of four criteria, over any number of batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qfx.distributed.ranks import Ranks
from qfx.fixed.kernel import CastMode, quantize
from qfx.fixed.type import OMode
from qfx.recipe import ObserverName

SEARCH_DEPTH = 6
"""How many positions beyond the one that just holds the largest value are tried: each trades one bit of range for one of resolution."""

MAX_SPREAD = 16
"""No binary point starts more than so many positions finer than the coarsest of its tensor: a channel that training has switched off (weights of
1e-30) would otherwise ask for a grid that no accumulator holds."""

HEADROOM = 2
"""With ``negligible``, so many positions coarser are tried too."""

SAMPLE = 1 << 18
"""Of larger data with one binary point, about so many evenly spread elements decide (and the smallest and the largest number of all)."""

FRAC_BITS = (-100, 64)
"""Binary points start between these: numbers below 2**-64 count as zero."""

OUTLIER_OCTAVES = 12
"""What a percentile leaves out may be 2**12 times as large as the rest."""

KL_OCTAVES = 4
"""The finest range that "kl" tries is 1/16 of the whole, as in its source (128 of 2048 bins)."""

KL_LONGEST = 11
"""A word of more bits is finer than any histogram: it is placed by "mse"."""


@dataclass(frozen=True, eq=False)
class Extent:
    """The smallest and the largest number for each binary point (float64), how many numbers there are in all, and their dtype."""

    low: Tensor
    high: Tensor
    count: int
    dtype: torch.dtype

    @property
    def is_finite(self) -> bool:
        return bool(torch.isfinite(self.low).all() and torch.isfinite(self.high).all())


def extent(parts: Iterable[Tensor], shape: tuple[int, ...], ranks: Ranks | None = None) -> Extent:
    """What ``parts`` span, those of all ``ranks`` if given, for each binary point of ``shape``. NaN anywhere shows as NaN."""
    seen: Extent | None = None
    for x in parts:
        axes = _reduced_axes(x, shape)
        low, high = ((f(x.detach(), dim=axes, keepdim=True) if axes else x.detach()).reshape(shape).double() for f in (torch.amin, torch.amax))
        if seen is None:
            seen = Extent(low, high, x.numel(), x.dtype)
        else:
            seen = Extent(torch.minimum(seen.low, low), torch.maximum(seen.high, high), seen.count + x.numel(), seen.dtype)
    assert seen is not None, "the caller has at least one batch"
    if ranks is None:
        return seen
    return Extent(ranks.least(seen.low), ranks.greatest(seen.high), ranks.count(seen.count, seen.low.device), seen.dtype)


def choose_frac_bits(
    parts: Iterable[Tensor],
    width: int,
    mode: CastMode,
    shape: tuple[int, ...],
    *,
    observer: ObserverName = "mse",
    percentile: float = 99.99,
    most: int | Tensor | None = None,
    negligible: float = 0.0,
    seen: Extent | None = None,
    project: Callable[[Tensor, Tensor], Tensor] | None = None,
    ranks: Ranks | None = None,
) -> Tensor:
    """The number of fractional bits for each binary point of ``shape``, from all numbers in ``parts`` (gone through up to twice: no iterator).

    ``shape`` broadcasts against each part (() for one binary point); the result is integral, of the parts' dtype and of that shape. ``observer``:

    * "mse": the least squared error of Cast(x), from the position that just holds the largest magnitude to SEARCH_DEPTH positions finer, so that
      rare large values may saturate; ties go to the wider range. Squared errors of at most ``negligible`` times the sum of squares count as
      none, so that a word that is long enough spends its bits on range for data yet unseen.
    * "minmax": the finest position at which nothing overflows.
    * "percentile": the finest at which at most ``100 - percentile`` percent of the numbers overflow.
    * "kl": the least Kullback-Leibler divergence between the histogram of magnitudes and that of the cast ones, over KL_OCTAVES halvings of the
      range; numbers that are nearly zero count no more than their neighbours. Source: Migacz, "8-bit Inference with TensorRT", GTC 2017. Words
      of more than KL_LONGEST bits take "mse".

    Positions start within FRAC_BITS and, of several binary points, at most MAX_SPREAD positions finer than the coarsest; where all of a part is
    zero it starts there too (at ``width - 1``, or ``width`` if unsigned, where everything is zero). ``most`` bounds the result from above (one
    number, or one for each binary point). Of very large data with one binary point a SAMPLE decides. ``seen``: ``extent(parts, shape)``, if known.
    ``project``: what takes the place of Cast in "mse", from numbers and binary points, where not all numbers of the word are in the type; then one
    coarser position is tried as well. ``ranks``: ``parts`` are this rank's, and those of all of them decide. No gradient.
    """
    with torch.no_grad():
        seen = extent(parts, shape, ranks) if seen is None else seen
        first = _first(seen, width, mode, shape, most)
        step = seen.count // SAMPLE | 1 if not shape and seen.count > SAMPLE else 1  # odd, so that it does not keep to one column of an image
        sampled = _Sampled(parts, step)
        if observer == "mse" or (observer == "kl" and width > KL_LONGEST):
            return _least_error(sampled, first, width, mode, shape, most, negligible, project, ranks)
        if observer == "minmax":
            found = _holding(seen, first, width, mode)
        elif observer == "percentile":
            found = _mostly_holding(sampled, first, width, mode, shape, percentile, ranks)
        else:
            found = _least_divergence(sampled, first, width, mode, shape, ranks)
        return _capped(torch.where((seen.low == 0) & (seen.high == 0), first, found), most)


def min_error_frac_bits(x: Tensor, width: int, mode: CastMode, shape: tuple[int, ...], *, most: int | None = None, negligible: float = 0.0) -> Tensor:
    """``choose_frac_bits`` by "mse" from one tensor."""
    return choose_frac_bits((x.detach(),), width, mode, shape, most=most, negligible=negligible)


@dataclass(frozen=True, eq=False)
class _Sampled:
    """Every ``step``-th element of each part."""

    parts: Iterable[Tensor]
    step: int

    def __iter__(self) -> Iterator[Tensor]:
        for part in self.parts:
            yield part.detach() if self.step == 1 else part.detach().reshape(-1)[:: self.step]


def _first(seen: Extent, width: int, mode: CastMode, shape: tuple[int, ...], most: int | Tensor | None) -> Tensor:
    """The position that just holds the largest magnitude."""
    largest = torch.maximum(seen.high, -seen.low)
    magnitude_bits = torch.where(largest > 0, torch.frexp(largest).exponent, 0)  # largest < 2**magnitude_bits
    first = (width - (1 if mode.signed else 0) - magnitude_bits).clamp(*FRAC_BITS)
    if shape and bool((largest > 0).any()):
        coarsest = first[largest > 0].min()
        first = torch.where(largest > 0, first, coarsest).clamp(max=coarsest + MAX_SPREAD)
    return _capped(first.to(seen.dtype), most)


def _least_error(
    parts: Iterable[Tensor],
    first: Tensor,
    width: int,
    mode: CastMode,
    shape: tuple[int, ...],
    most: int | Tensor | None,
    negligible: float,
    project: Callable[[Tensor, Tensor], Tensor] | None,
    ranks: Ranks | None,
) -> Tensor:
    cast = project or (lambda x, frac_bits: quantize(x, frac_bits, width, mode))
    candidates = [_capped(first + step, most) for step in range(-HEADROOM if negligible else -1 if project else 0, SEARCH_DEPTH + 1)]
    errors = [torch.zeros(shape, dtype=torch.float64, device=first.device) for _ in candidates]
    squares = torch.zeros(shape, dtype=torch.float64, device=first.device)
    for x in parts:
        axes = _reduced_axes(x, shape)
        squares += _summed(x.double().square(), axes, shape)
        for candidate, error in zip(candidates, errors, strict=True):
            error += _summed((cast(x, candidate).double() - x).square(), axes, shape)
    if ranks is not None:
        squares, *errors = ranks.sum(torch.stack([squares, *errors])).unbind()
    bound = negligible * squares
    return _least(candidates, [torch.where(error <= bound, 0.0, error) for error in errors])


def _least(candidates: list[Tensor], errors: list[Tensor]) -> Tensor:
    """For each binary point the candidate of least error; the earlier of two."""
    best, best_error = candidates[0], errors[0]
    for candidate, error in zip(candidates[1:], errors[1:], strict=True):
        better = error < best_error
        best, best_error = torch.where(better, candidate, best), torch.where(better, error, best_error)
    return best


def _overflows(x: Tensor, frac_bits: Tensor, width: int, mode: CastMode) -> Tensor:
    """Where a cast saturates. What is negative in an unsigned type counts as zero: no range holds it."""
    saturating = replace(mode, o=OMode.SAT_SYM if mode.o is OMode.SAT_SYM else OMode.SAT, n=0)
    x = x if mode.signed else x.clamp(min=0)
    far = x.abs().double() >= torch.exp2(width - frac_bits.double())  # where wrapping may come round to the same end
    return far | (quantize(x, frac_bits, width, saturating) != quantize(x, frac_bits, width, replace(mode, o=OMode.WRAP, n=0)))


def _finest(first: Tensor, steps: range, holds: list[Tensor]) -> Tensor:
    """The last of the steps up to which all hold; the first of them where none does."""
    found, still = first + steps[0], torch.ones_like(first, dtype=torch.bool)
    for step, holding in zip(steps, holds, strict=True):
        still = still & holding
        found = torch.where(still, first + step, found)
    return found


def _holding(seen: Extent, first: Tensor, width: int, mode: CastMode) -> Tensor:
    ends, steps = torch.stack([seen.low, seen.high]).to(first.dtype), range(-1, 2)
    return _finest(first, steps, [~_overflows(ends, first + step, width, mode).any(0) for step in steps])


def _mostly_holding(
    parts: Iterable[Tensor], first: Tensor, width: int, mode: CastMode, shape: tuple[int, ...], percentile: float, ranks: Ranks | None
) -> Tensor:
    steps = range(-1, OUTLIER_OCTAVES + 1)
    over = [torch.zeros(shape, dtype=torch.float64, device=first.device) for _ in steps]
    count = 0
    for x in parts:
        axes = _reduced_axes(x, shape)
        count += x.numel() // max(first.numel(), 1)
        for step, total in zip(steps, over, strict=True):
            total += _summed(_overflows(x, first + step, width, mode).double(), axes, shape)
    if ranks is not None:
        over, count = list(ranks.sum(torch.stack(over)).unbind()), ranks.count(count, first.device)
    allowed = count * (100.0 - percentile) / 100.0
    return _finest(first, steps, [total <= allowed for total in over])


def _least_divergence(parts: Iterable[Tensor], first: Tensor, width: int, mode: CastMode, shape: tuple[int, ...], ranks: Ranks | None) -> Tensor:
    levels = 1 << (width - 1 if mode.signed else width)
    bins, points = levels << KL_OCTAVES, max(first.numel(), 1)
    offset = (torch.arange(points, device=first.device) * bins).reshape(shape)
    scale = torch.exp2(first.double() + KL_OCTAVES)
    counts = torch.zeros(points * bins, dtype=torch.float64, device=first.device)
    for x in parts:
        place = (x.abs().double() * scale).floor().clamp(max=bins - 1).long() + offset
        counts += torch.bincount(place.reshape(-1), minlength=points * bins)
    if ranks is not None:
        counts = ranks.sum(counts)
    counts = counts.reshape(points, bins)
    counts[:, 0] = counts[:, 1]  # zero is held by every range
    steps = range(KL_OCTAVES + 1)
    return _least([first + step for step in steps], [_divergence(counts, step, levels).reshape(shape) for step in steps])


def _divergence(counts: Tensor, step: int, levels: int) -> Tensor:
    """Of the histogram clipped to 2**-step of its range against the same in ``levels`` steps, for each row."""
    points, bins = counts.shape
    kept = counts[:, : bins >> step]
    clipped = kept.clone()
    clipped[:, -1] += counts[:, bins >> step :].sum(1)
    grouped = kept.reshape(points, levels, -1)
    filled = grouped > 0
    spread = (grouped.sum(2, keepdim=True) / filled.sum(2, keepdim=True).clamp(min=1) * filled).reshape(points, -1)
    p = clipped / clipped.sum(1, keepdim=True).clamp(min=1.0)
    q = (spread / spread.sum(1, keepdim=True).clamp(min=1.0)).clamp(min=1e-12)
    return torch.where(p > 0, p * (p.clamp(min=1e-300) / q).log(), 0.0).sum(1)


def _capped(frac_bits: Tensor, most: int | Tensor | None) -> Tensor:
    if isinstance(most, Tensor):
        return torch.minimum(frac_bits, most.to(frac_bits))
    return frac_bits if most is None else frac_bits.clamp(max=most)


def _summed(x: Tensor, axes: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    return (x.sum(axes, keepdim=True) if axes else x).reshape(shape)


def _reduced_axes(x: Tensor, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes of x along which one binary point is shared."""
    padded = (1,) * (x.dim() - len(shape)) + shape
    return tuple(axis for axis in range(x.dim()) if padded[axis] == 1 and x.shape[axis] != 1) if shape else tuple(range(x.dim()))
