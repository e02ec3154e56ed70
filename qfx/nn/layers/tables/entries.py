"""The entries of a table: a function evaluated once, by one code, for every number that can come, and lines through them where they are too many."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qfx.errors import DataError, ExactnessError
from qfx.fixed.arith import FLOAT64_BITS, Interval
from qfx.fixed.type import FixedType, OMode
from qfx.operators.lookup import MAX_ENTRIES

Function = Callable[[Tensor], Tensor]
"""A function of one number, number by number, on tensors of any shape. For models to be copied and pickled: one of a module, or a partial of one."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MAX_BITS = 20
"""An input of more has no table: it would take 2**20 evaluations, and its lines would be far too long to be near."""

GREATEST = 2.0**200
"""Values beyond count as this: no type reaches them, and float64 can still cast them."""

_CHUNK = 1024
"""Numbers are evaluated in blocks of so many, which start at a multiple of it: a number always lies at the same place of a block, so that what it
gives does not depend on which others can come (a vectorized function may round otherwise at the end of a block)."""

_GUARD = 2
"""Fractional bits of a line's value beyond those of half a least significant bit of the output, or of the error that is wanted: rounding costs an
eighth of it."""


@dataclass(frozen=True, eq=False)
class Entries:
    """A function on all raws from ``low`` on: its ``values`` and its ``slopes`` (derivatives), float64, finite."""

    low: int
    values: Floats
    slopes: Floats


def evaluate(function: Function, reach: Interval, label: str) -> Entries:
    """``function`` for every number of ``reach``.

    Where it has no finite value (1/0, the logarithm of what is not positive), it has that of the nearest number with one (of two, the greater), and
    slope 0. Raises ExactnessError for a reach of too many numbers, DataError for a function with no finite value in it, or with another shape.
    """
    count = reach.hi - reach.lo + 1
    if count > 1 << MAX_BITS:
        what = f"a table for the {count} numbers from {reach.lo} to {reach.hi} times 2^{-reach.frac_bits}"
        raise ExactnessError(what, where=label, remedy=f"cast its input to at most {MAX_BITS} bits: an override of the activation before it does")
    first = reach.lo // _CHUNK * _CHUNK
    values, slopes = [], []
    for start in range(first, reach.hi + 1, _CHUNK):
        x = torch.ldexp(torch.arange(start, start + _CHUNK, dtype=torch.float64), torch.tensor(-reach.frac_bits))
        y, slope = _with_slope(function, x, label)
        values.append(y.numpy())
        slopes.append(slope.numpy())
    inside = slice(reach.lo - first, reach.hi + 1 - first)
    return Entries(reach.lo, *_finite(np.concatenate(values)[inside], np.concatenate(slopes)[inside], label))


def _with_slope(function: Function, x: Tensor, label: str) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False), torch.enable_grad():
        x = x.clone().requires_grad_(True)
        y = function(x)
        if not isinstance(y, Tensor) or y.shape != x.shape or y.is_complex():
            gives = f"shape {tuple(y.shape)}" if isinstance(y, Tensor) else f"a {type(y).__name__}"
            raise DataError(
                f"gives {gives} for numbers of shape {tuple(x.shape)}", where=label, remedy="give a real function of each number by itself"
            )
        slope = torch.autograd.grad(y.sum(), x)[0] if y.requires_grad else torch.zeros_like(x)
    return y.detach().double(), slope


def _finite(values: Floats, slopes: Floats, label: str) -> tuple[Floats, Floats]:
    held = np.isfinite(values)
    if not held.all():
        (places,) = held.nonzero()
        if not places.size:
            raise DataError("has no finite value for any number that can come", where=label, remedy="let other numbers come: add a constant first")
        missing = (~held).nonzero()[0]
        after = np.searchsorted(places, missing)
        above, below = places[np.minimum(after, places.size - 1)], places[np.maximum(after - 1, 0)]
        near = np.where(np.abs(above - missing) <= np.abs(missing - below), above, below)
        values, slopes = values.copy(), slopes.copy()
        values[missing], slopes[missing] = values[near], 0.0
    return np.clip(values, -GREATEST, GREATEST), np.where(np.isfinite(slopes), slopes, 0.0)


@dataclass(frozen=True, eq=False)
class Lines:
    """A line for every 2**``shift`` raws from the first on: ``values`` on the grid of ``frac_bits`` bits, ``slopes`` on that of ``fine`` bits.

    ``results``: what they give for every raw, on the grid of the slopes. ``error``: the greatest distance from the function over all raws, both
    limited to what the output type holds where that saturates.
    """

    shift: int
    values: Ints
    slopes: Ints
    frac_bits: int
    results: Ints
    error: float

    @property
    def fine(self) -> int:
        """The fractional bits of the slopes, and of the results."""
        return self.frac_bits + self.shift


def lines(values: Floats, out: FixedType, wanted: float | None, label: str) -> Lines:
    """The fewest lines that come within ``wanted`` of all values (default: half a least significant bit of ``out``).

    Where no number of them up to ``MAX_ENTRIES`` does: as many as there may be, or, if ``wanted`` is given, an ExactnessError that names the error.
    """
    least, most = (float(np.ldexp(float(raw), -out.frac_bits)) for raw in (out.min_raw, out.max_raw))
    if out.o not in (OMode.SAT, OMode.SAT_SYM):
        least, most = -np.inf, np.inf
    else:  # no further than training could want the type to reach
        values = np.clip(values, 4 * least - 3 * most, 4 * most - 3 * least)
    limit = math.ldexp(0.5, -out.frac_bits) if wanted is None else wanted
    frac_bits = max(out.frac_bits - 1, -math.frexp(limit)[1]) + _GUARD + 1
    found: Lines | None = None
    for shift in range((values.size - 1).bit_length(), -1, -1):
        if (values.size - 1 >> shift) + 1 > MAX_ENTRIES:
            break
        found = _lines(values, shift, frac_bits, (least, most), label)
        if found.error <= limit:
            return found
    assert found is not None  # one line is always possible
    if wanted is not None:
        what = f"an error of {wanted:g} is out of reach: {found.values.size} lines leave {found.error:.3g}"
        raise ExactnessError(
            what,
            where=label,
            remedy="allow a larger max_error or table_error, cast the input to fewer bits, or give a smoother function",
        )
    return found


def _lines(values: Floats, shift: int, frac_bits: int, limits: tuple[float, float], label: str) -> Lines:
    """Through the ends of every stretch of 2**shift values, then moved so that the greatest errors above and below are equal: the best there is for
    a function that is convex or concave there. Errors beyond ``limits`` do not count."""
    place = np.arange(values.size)
    low = place & (1 << shift) - 1
    starts = place[:: 1 << shift]
    ends = np.minimum(starts + (1 << shift), values.size) - 1
    fine = frac_bits + shift
    if np.abs(values).max() >= 2.0 ** (FLOAT64_BITS - 3 - fine):
        what = f"its values up to {np.abs(values).max():g} need too many bits on a grid of 2^-{fine}"
        raise ExactnessError(what, where=label, remedy="let its output saturate (AP_SAT), or use a shorter word for it")
    slopes = np.rint(np.ldexp((values[ends] - values[starts]) / np.maximum(ends - starts, 1), fine))
    rises = np.repeat(slopes, 1 << shift)[: values.size] * low
    rest = np.ldexp(values, fine) - rises
    middle = (np.maximum.reduceat(rest, starts) + np.minimum.reduceat(rest, starts)) / 2
    levels = np.rint(np.ldexp(middle, -shift))
    results = np.repeat(np.ldexp(levels, shift), 1 << shift)[: values.size] + rises
    error = float(np.abs(np.clip(np.ldexp(results, -fine), *limits) - np.clip(values, *limits)).max())
    whole = (part.astype(np.int64) for part in (levels, slopes, results))
    held_levels, held_slopes, held_results = whole
    return Lines(shift, held_levels, held_slopes, frac_bits, held_results, error * (1 + 2.0**-48))
