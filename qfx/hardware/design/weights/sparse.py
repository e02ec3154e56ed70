"""Weights of which at most n of each m neighbours along the inputs are not 0, stored and multiplied without the others.

A ROM lane holds a weight and says which input of its group it meets. The k-th weight that is kept of a group meets its k-th input or one of the m - n
behind that, so that a multiplexer of m - n + 1 ways chooses it. What is left out is 0: the sums are the same. (Mishra et al., "Accelerating Sparse
Deep Neural Networks", 2021, store 2:4 weights likewise, with two bits each.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qfx.errors import ProjectError, RecipeError
from qfx.fixed.type import FixedType
from qfx.hardware.design.streams import IntArray
from qfx.spec import n_of_m

MOST = 16
"""The greatest m that ``found_in`` looks for."""

WORTH = 0.75
"""The greatest share n / m that it takes for sparse: what is saved pays for the places and the multiplexers."""


@dataclass(frozen=True, slots=True)
class Kept:
    """``n`` of each ``m``, n < m."""

    n: int
    m: int

    @classmethod
    def parse(cls, text: str) -> Kept:
        """Of "n:m". Raises ProjectError for anything else, and for what leaves nothing out.

        >>> Kept.parse("2:4").ways
        3
        """
        try:
            n, m = n_of_m(text)
        except RecipeError as error:
            raise ProjectError(error.what, remedy='use "n:m" with n < m, such as "2:4"') from error
        if n == m:
            raise ProjectError(f"sparsity {text!r} leaves nothing out", remedy='use "n:m" with n < m, such as "2:4", or leave sparsity out')
        return cls(n, m)

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    @property
    def ways(self) -> int:
        """The inputs that a weight may meet."""
        return self.m - self.n + 1

    @property
    def place_bits(self) -> int:
        """Bits that say which of them it meets."""
        return (self.ways - 1).bit_length()

    def lanes(self, simd: int) -> int:
        """The weights that are left of so many inputs, whole groups."""
        return simd // self.m * self.n

    def misfit(self, rows: IntArray) -> tuple[int, int] | None:
        """(output, first input) of the first group of ``rows`` (outputs, inputs) with more than n weights; None if none has. Whole groups.

        >>> Kept(1, 2).misfit(np.array([[0, 3, 2, 0], [1, 0, 5, 5]]))
        (1, 2)
        """
        counts = np.count_nonzero(rows.reshape(len(rows), -1, self.m), axis=2)
        over = np.argwhere(counts > self.n)
        return (int(over[0, 0]), int(over[0, 1]) * self.m) if len(over) else None

    def compressed(self, rows: IntArray, pe: int) -> tuple[IntArray, IntArray]:
        """Of ROM ``rows`` (words, simd * pe), the PEs innermost, what is kept and the ways (words, lanes * pe): of a group with fewer weights than n
        also zeros.

        >>> [part.tolist() for part in Kept(2, 4).compressed(np.array([[0, 7, 0, 9], [0, 0, 0, 5]]), 1)]
        [[[7, 9], [0, 5]], [[1, 2], [0, 2]]]
        """
        groups = rows.reshape(len(rows), -1, self.m, pe)
        first = np.argsort(groups == 0, axis=2, kind="stable")[:, :, : self.n]  # those that are not 0, then the first zeros
        places = np.sort(first, axis=2)
        held = np.take_along_axis(groups, places, axis=2)
        ways = places - np.arange(self.n)[:, None]
        return held.reshape(len(rows), -1), ways.reshape(len(rows), -1)

    def coded(self, codes: IntArray, type_: FixedType, ways: IntArray) -> tuple[IntArray, FixedType]:
        """What the ROM holds, and its type: the weights' raws or codes of ``type_`` in the lowest bits, the ways above."""
        width = type_.width
        held = (codes & ((1 << width) - 1)) | ways << width
        return held, FixedType(width + self.place_bits, width + self.place_bits, signed=False)


def found_in(rows: IntArray) -> tuple[Kept, ...]:
    """How sparse ``rows`` (outputs, inputs) are: for each m up to MOST that divides the inputs the least n that there is, if none with a smaller m
    leaves out as large a share, and it is worth it.

    >>> [str(kept) for kept in found_in(np.array([[0, 1, 2, 0, 0, 3, 0, 0]]))]
    ['1:2', '3:8']
    """
    outputs, inputs = rows.shape
    found: list[Kept] = []
    if np.count_nonzero(rows) > WORTH * rows.size:
        return ()
    share = WORTH
    for m in (m for m in range(2, min(MOST, inputs) + 1) if inputs % m == 0):
        n = max(int(np.count_nonzero(rows.reshape(outputs, -1, m), axis=2).max()), 1)
        if n <= share * m and (not found or n < share * m):
            found.append(Kept(n, m))
            share = n / m
    return tuple(found)
