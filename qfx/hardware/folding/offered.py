"""Which foldings of a matrix a search looks at: all that divide, and of the others those that do as much in fewer lanes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from qfx.hardware.folding.ragged import words


@lru_cache(maxsize=256)
def ragged_pairs(
    outputs: int, inputs: int, pes: Sequence[int], simds: Sequence[int], dividing: frozenset[tuple[int, int]], packs: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    """The PE of ``pes`` and SIMD of ``simds`` for ``outputs`` sums of ``inputs`` products that are not among ``dividing`` and take fewer multipliers
    than all other pairs that are as fast; a multiplier may make as many products of neighbouring outputs as any of ``packs`` says.

    >>> ragged_pairs(16, 144, (1, 2), (18, 21, 24), frozenset({(1, 18), (1, 24), (2, 18), (2, 24)}), (1,))
    ((1, 21), (2, 21))
    """
    all_pairs = [(words(outputs, pe) * words(inputs, simd), pe, simd) for pe in pes for simd in simds]
    found = set()
    for count in packs:
        ordered = sorted((turns, simd * words(pe, count), (pe, simd) not in dividing, pe, simd) for turns, pe, simd in all_pairs)
        least = None
        for _, taken, is_ragged, pe, simd in ordered:
            if least is None or taken < least:
                least = taken
                if is_ragged:
                    found.add((pe, simd))
    return tuple(sorted(found))
