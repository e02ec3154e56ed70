"""How many thresholds a number has reached (QONNX' MultiThreshold, which FINN makes of quantizers and of what stands before them), as casts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from qfx.errors import UnsupportedError
from qfx.exchange.grid import Grid
from qfx.fixed.arith import Bounds, Interval
from qfx.fixed.type import QMode
from qfx.integers.steps import Line, Steps, line

MOST_CASTS = 15
"""Of one count. Thresholds at even distances take one cast, or two where their number is not 1, 3, 7, ..."""

Floats = npt.NDArray[np.float64]


class Thresholds(nn.Module):
    """For each number how many thresholds of its channel it has reached, on a line ``along``. ``thresholds``: (channels or 1, number). It stands in
    networks that ``qfx.exchange`` makes; ``casts``, and the fractional bits of what each channel reads, ``grids``, are there once that is known."""

    thresholds: Tensor

    one_piece = True
    """For capture, which does not look inside."""

    def __init__(self, thresholds: Floats, label: str, along: Line | None = None) -> None:
        super().__init__()
        self.along = along
        self.register_buffer("thresholds", torch.from_numpy(np.sort(np.asarray(thresholds, dtype=np.float32), axis=1)))
        self.label = label
        self.casts: tuple[tuple[Grid, tuple[Line, ...]], ...] = ()
        self.grids: tuple[int, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        form = (1, len(self.thresholds), *(1,) * (x.dim() - 2), self.thresholds.shape[1])
        count = (x.unsqueeze(-1) >= self.thresholds.reshape(form)).sum(-1)
        return (count if self.along is None else (count * self.along.multiplier + self.along.offset) * 2.0**-self.along.shift).to(x.dtype)

    def read(self, bounds: Bounds, channels: int) -> None:
        """Find the ``casts`` whose sum the count is, for all numbers within ``bounds``. Raises UnsupportedError where too many would be needed."""
        rows = self.thresholds.double().numpy()
        intervals = bounds.spread(channels)
        firsts = [_firsts(rows[place % len(rows)], own) for place, own in enumerate(intervals)]
        found: list[tuple[Grid, tuple[Line, ...]]] = []
        at, count = 0, rows.shape[1]
        while at < count:
            taken = next((made for bits in range((count - at).bit_length(), 0, -1) if (made := _cast(firsts, intervals, at, bits)) is not None), None)
            if taken is None or len(found) == MOST_CASTS:
                what = f"has {count} thresholds at uneven distances, of which {MOST_CASTS} casts give {at}"
                raise UnsupportedError(what, where=self.label, remedy="give the file before FINN streamlines it, with Quant in place of thresholds")
            found.append(taken)
            at += 2 ** taken[0].width - 1
        self.casts, self.grids = tuple(found), tuple(own.frac_bits for own in intervals)


def exactly(scale: float, shift: float, count: int) -> Line | None:
    """``scale * n + shift`` for n up to ``count`` where float32 rounds none of it."""
    bits = max(max(part.as_integer_ratio()[1].bit_length() - 1, 0) for part in (scale, shift))
    found = Line(int(math.ldexp(scale, bits)), int(math.ldexp(shift, bits)), bits)
    return found if abs(found.multiplier) * count + abs(found.offset) <= 2**24 else None


def channels_second(layout: str, rank: int) -> tuple[int, ...] | None:
    """The order of a tensor's axes with the channels second, as qonnx understands ``data_layout``; None where the two do not go together."""
    told = layout or {2: "NC", 3: "NWC", 4: "NCHW"}.get(rank, "")
    axis = told.index("C") if "C" in told else 1
    if axis >= rank or (told and len(told) != rank):
        return None
    return 0, axis, *(place for place in range(1, rank) if place != axis)


def of_integers(numbers: npt.NDArray[Any]) -> Grid | None:
    """The grid of a constant of whole numbers; None of others."""
    if not numbers.size or not np.isfinite(numbers).all() or (numbers != np.rint(numbers)).any():
        return None
    return Grid(int(max(numbers.max(), -numbers.min() - 1, 0)).bit_length() + 1, True, (0,))


def _firsts(thresholds: Floats, interval: Interval) -> npt.NDArray[np.int64]:
    """The first raw number on the interval's grid that reaches each; one beyond the interval's end where none does."""
    scaled = np.ceil(np.ldexp(thresholds, interval.frac_bits))
    return np.clip(scaled, interval.lo, interval.hi + 1).astype(np.int64)


def _cast(firsts: Sequence[npt.NDArray[np.int64]], intervals: Sequence[Interval], at: int, bits: int) -> tuple[Grid, tuple[Line, ...]] | None:
    """The word of ``bits`` bits that counts the thresholds from ``at`` on, as many as it can, cut off from a line in each channel; None if there are
    not so many, or a channel has no such line."""
    count = 2**bits - 1
    if at + count > len(firsts[0]):
        return None
    lines: dict[tuple[int, ...], Line | None] = {}
    result = []
    for own, interval in zip(firsts, intervals, strict=True):
        part = own[at : at + count]
        key = (interval.lo, interval.hi, *part.tolist())
        if key not in lines:

            def reached(raws: npt.NDArray[np.int64], part: npt.NDArray[np.int64] = part) -> npt.NDArray[np.int64]:
                return np.searchsorted(part, raws, side="right").astype(np.int64)

            lines[key] = _line(Steps.of(reached, interval.lo, interval.hi, 0, count))
        found = lines[key]
        if found is None:
            return None
        result.append(found)
    return Grid(bits, False, (0,), q=QMode.TRN), tuple(result)


def _line(steps: Steps) -> Line | None:
    return Line(0, steps.bottom, 0) if steps.bottom == steps.top else line(steps)
