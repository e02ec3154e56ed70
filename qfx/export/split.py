"""How a convolution that float32 would round is split into convolutions that float32 holds exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qfx.export.opset import MAX_PIECES
from qfx.fixed.arith import FLOAT32_BITS


@dataclass(frozen=True, slots=True)
class Split:
    """Where weight and input are cut, as numbers of raw bits right of each cut, coarse first; n cuts make n + 1 pieces.

    A piece is the nearest multiple of 2**cut to what the pieces before it left over, the last piece is the rest. ``total`` bounds the sum of the
    magnitudes of all terms of all pieces, in raws of the product.
    """

    w_cuts: tuple[int, ...]
    x_cuts: tuple[int, ...]
    total: int


def plan_split(weight_raw: npt.NDArray[np.int64], x_mag: int) -> Split | None:
    """The cheapest split (fewest convolutions) of sums of ``weight_raw`` (out, in/groups, *kernel) times inputs of magnitude at most ``x_mag``.

    Magnitudes are at most 2**53. None if no split into ``MAX_PIECES`` pieces each makes every partial sum fit float32.
    """
    rows = weight_raw.reshape(weight_raw.shape[0], -1).astype(np.float64)
    w_largest = int(np.abs(weight_raw).max())
    w_best: dict[int, _Pieces] = {}
    x_best: dict[int, _Pieces] = {}
    counts = [(w, x) for w in range(1, MAX_PIECES + 1) for x in range(1, MAX_PIECES + 1)]
    for w_count, x_count in sorted(counts, key=lambda count: (count[0] * count[1], sum(count), count)):
        if w_count not in w_best:
            w_best[w_count] = _best(w_largest, w_count, lambda cuts: _weight_sums(rows, cuts))
        if x_count not in x_best:
            x_best[x_count] = _best(x_mag, x_count, lambda cuts: _digits(x_mag, cuts))
        w, x = w_best[w_count], x_best[x_count]
        if max(w.sums) * max(x.sums) <= 1 << FLOAT32_BITS:
            return Split(w.cuts, x.cuts, w.total * x.total)
    return None


@dataclass(frozen=True, slots=True)
class _Pieces:
    cuts: tuple[int, ...]
    sums: tuple[int, ...]  # for each piece: the greatest sum of magnitudes, in multiples of its cut

    @property
    def total(self) -> int:
        return sum(count << cut for count, cut in zip(self.sums, (*self.cuts, 0), strict=True))


def _best(largest: int, count: int, measure: Callable[[tuple[int, ...]], tuple[int, ...]]) -> _Pieces:
    """``count`` pieces of equally many bits, their number chosen so that the greatest sum is least."""
    middle = largest.bit_length() // count
    candidates = []
    for bits in range(max(middle - 1, 1), middle + 3) if count > 1 else (1,):
        cuts = tuple(bits * i for i in range(count - 1, 0, -1))
        candidates.append(_Pieces(cuts, measure(cuts)))
    return min(candidates, key=lambda pieces: (max(pieces.sums), pieces.cuts))


def _weight_sums(rows: npt.NDArray[np.float64], cuts: tuple[int, ...]) -> tuple[int, ...]:
    rest, sums = rows, []
    for cut in cuts:
        digit = np.rint(np.ldexp(rest, -cut))
        rest = rest - np.ldexp(digit, cut)
        sums.append(digit)
    return tuple(max(map(int, np.abs(piece).sum(axis=1))) for piece in (*sums, rest))


def _digits(largest: int, cuts: tuple[int, ...]) -> tuple[int, ...]:
    """The greatest magnitude of each piece of a number of magnitude at most ``largest``."""
    rest, digits = largest, []
    for cut in cuts:
        half = 1 << (cut - 1)
        digits.append((rest + half) >> cut)
        rest = min(rest, half)
    return (*digits, rest)
