"""Casts of whole tensors: ``ArrayType``, the types of one, and the raws that it gives.

Imports of this module, and of those that it imports, are relative and reach no further than ``errors``: projects carry copies for the board.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ..errors import ModelFileError
from .array import Int64Array, cast_float_array, cast_raw_array
from .type import FixedType

_T = TypeVar("_T", Int64Array, npt.NDArray[np.floating])


@dataclass(frozen=True, slots=True)
class ArrayType:
    """The fixed-point types of a cast: one word length, signedness and pair of modes, and a binary point per tensor, channel or element.

    ``int_bits`` lists the integer bits in row-major order over ``shape``, which broadcasts against the value's shape by numpy's rules: () for one
    binary point, (C, 1, 1) for one per channel of a (C, H, W) value. ``element`` carries everything else (its own int_bits is the greatest of them).
    Raises ModelFileError if the three disagree.
    """

    element: FixedType
    int_bits: tuple[int, ...]
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if any(size < 1 for size in self.shape) or len(self.int_bits) != math.prod(self.shape):
            raise ModelFileError(
                f"{len(self.int_bits)} binary points for the shape {self.shape}", where=str(self.element), remedy="give one per entry of the shape"
            )
        if max(self.int_bits) != self.element.int_bits:
            raise ModelFileError(
                f"the greatest int_bits is {max(self.int_bits)}, the element's is {self.element.int_bits}",
                where=str(self.element),
                remedy="let the element carry the greatest int_bits",
            )

    @classmethod
    def of(cls, type_: FixedType) -> ArrayType:
        """One binary point for the whole tensor."""
        return cls(type_, (type_.int_bits,))

    @property
    def types(self) -> tuple[FixedType, ...]:
        """The type of each entry, row-major over ``shape``."""
        return tuple(self.with_int_bits(int_bits) for int_bits in self.int_bits)

    @property
    def distinct(self) -> tuple[FixedType, ...]:
        """The different types among ``types``, by rising int_bits."""
        return tuple(self.with_int_bits(int_bits) for int_bits in sorted(set(self.int_bits)))

    def with_int_bits(self, int_bits: int) -> FixedType:
        return replace(self.element, int_bits=int_bits)

    @property
    def frac_bits(self) -> npt.NDArray[np.int64]:
        """The frac_bits of each entry, in ``shape``."""
        return self.element.width - np.array(self.int_bits, dtype=np.int64).reshape(self.shape)

    @property
    def hull(self) -> FixedType:
        """The one type that stores the tensor: the element's where all binary points agree, else the finest grid with the most integer bits.

        Nothing is ever rounded into the latter, hence its default modes.
        """
        low, high = min(self.int_bits), self.element.int_bits
        if low == high:
            return self.element
        return FixedType(self.element.width + high - low, high, self.element.signed)

    def __str__(self) -> str:
        if len(set(self.int_bits)) == 1:
            return str(self.element)
        low, high = min(self.int_bits), self.element.int_bits
        return f"{self.element} with int_bits {low}..{high} over {self.shape}"


def cast_raws(x_raw: Int64Array, frac_bits: int | Int64Array, cast: ArrayType) -> Int64Array:
    """(N, *shape) raws of any grid, cast: raws on the grid of ``cast.hull``. ``frac_bits`` is one grid, or several that broadcast against shape."""
    if not isinstance(frac_bits, np.ndarray) or frac_bits.ndim == 0:
        return _per_type(x_raw, cast, lambda part, _, type_: cast_raw_array(part, frac_bits, type_))
    grids = np.broadcast_to(frac_bits, x_raw.shape[1:])
    return _per_type(x_raw, cast, lambda part, where, type_: cast_raw_array(part, grids[where].reshape(part.shape[1:]), type_))


def cast_floats(x: npt.NDArray[np.floating], cast: ArrayType) -> Int64Array:
    """(N, *shape) float32 or float64 numbers, cast: raws on the grid of ``cast.hull``. Raises DataError for NaN and infinity."""
    return _per_type(x, cast, lambda part, _, type_: cast_float_array(part, type_))


def _per_type(x: _T, cast: ArrayType, convert: Callable[[_T, npt.NDArray[np.bool_], FixedType], Int64Array]) -> Int64Array:
    """``convert(part, where, type)`` for the elements, ``where`` (over shape), of each type."""
    grid = cast.hull.frac_bits
    if len(cast.distinct) == 1:
        return convert(x, np.ones(x.shape[1:], dtype=np.bool_), cast.element)
    frac_bits = np.broadcast_to(cast.frac_bits, x.shape[1:])
    out_raw = np.empty(x.shape, dtype=np.int64)
    for type_ in cast.distinct:
        where = frac_bits == type_.frac_bits
        out_raw[:, where] = convert(x[:, where], where, type_) << (grid - type_.frac_bits)
    return out_raw
