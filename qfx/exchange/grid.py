"""``Grid``: what a fake-quantization of another tool makes of numbers, as a fixed-point type; and the refusal of what no type is. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qfx.errors import UnsupportedError
from qfx.fixed.type import FixedType, OMode, QMode
from qfx.recipe import LONGEST_WORD, Spec

Array = npt.NDArray[Any]

ROUNDING: dict[str, QMode] = {
    "ROUND": QMode.RND_CONV,
    "HALF_EVEN": QMode.RND_CONV,
    "FLOOR": QMode.TRN,
    "DOWN": QMode.TRN_ZERO,
    "ROUND_TO_ZERO": QMode.TRN_ZERO,
    "HALF_UP": QMode.RND_INF,
    "HALF_DOWN": QMode.RND_ZERO,
}
"""The rounding modes of QONNX by their names (``qonnx.custom_op.general.intquant.resolve_rounding_mode``): HALF_UP and HALF_DOWN go by the magnitude,
DOWN is towards zero. CEIL and UP (away from zero) are no mode of ``ap_fixed`` (UG1399, "Quantization Modes")."""

_FARTHEST = 100
"""Binary points lie so far from the units at most (``Spec.frac_bits``)."""

_CUT = 1.1
"""A power of two that would cut the range of a scale by more than this gives way to the next, which costs up to one bit of resolution instead."""


@dataclass(frozen=True, slots=True)
class Grid:
    """One fake-quantization: ``width`` bits, modes, and the binary point of the tensor or of each of its channels.

    ``frac_bits``: one, or one for each index along ``axis`` of the tensor. ``bipolar``: not rounded, but its sign is taken: plus or minus
    ``2**-frac_bits`` (0 counts as positive); ``width`` is then 2, as of the numbers that come of it. ``scales``: those of the source, where they are
    no powers of two and one near it stands for each.
    """

    width: int
    signed: bool
    frac_bits: tuple[int, ...]
    axis: int | None = None
    q: QMode = QMode.RND_CONV
    o: OMode = OMode.SAT
    bipolar: bool = False
    scales: tuple[float, ...] = ()

    @property
    def spec(self) -> Spec:
        """Of a Quantizer that casts to it, the binary points apart. They are learned, but those of a sign, whose two numbers belong together."""
        granularity = "tensor" if self.axis is None else "channel"
        return Spec(self.width, q=self.q, o=self.o, signed=self.signed, granularity=granularity, learn=not self.bipolar)  # type: ignore[arg-type]

    @property
    def type(self) -> FixedType:
        """The type of the tensor, or of its first channel."""
        return self.spec.type(signed=self.signed, frac_bits=self.frac_bits[0])

    def __str__(self) -> str:
        points = f", {len(set(self.frac_bits))} binary points" if len(set(self.frac_bits)) > 1 else ""
        return f"{'the sign, as ' * self.bipolar}{self.type}{points}"

    @classmethod
    def of_type(cls, kind: FixedType) -> Grid:
        return cls(kind.width, kind.signed, (kind.frac_bits,), q=kind.q, o=kind.o)


def grid(
    scale: Any,
    zero_point: Any,
    bit_width: Any,
    *,
    signed: bool,
    narrow: bool,
    rounding: str,
    where: str,
    nearest: bool = False,
    axis_of: int | None = None,
    rank: int | None = None,
) -> Grid:
    """The grid of ``clip(round(x / scale + zero_point)) - zero_point) * scale``.

    ``scale``: an array with one entry, or with more than one along a single axis; of arrays with one axis that is ``axis_of``. ``rank``: the axes of
    the tensor, where those of the scale are its last ones. ``rounding``: a key of ROUNDING, in any case. ``nearest``: the power of two nearest to a
    scale stands for it (or the next one above, where that would cut the range by more than a tenth), which is noted in ``scales``.
    Raises UnsupportedError, naming ``where``, for whatever ``ap_fixed`` cannot say.
    """
    q = ROUNDING.get(rounding.upper())
    if q is None:
        known = ", ".join(sorted(ROUNDING))
        raise UnsupportedError(f"rounds by {rounding}, which is no mode of ap_fixed", where=where, remedy=f"use one of {known}")
    width = _width(bit_width, where)
    signed, shifted = _zero_point(zero_point, width, signed, where)
    if narrow and (shifted or not signed or width < 2):
        what = "a narrow range without a sign" if not signed else "a narrow range of one bit" if width < 2 else "a narrow range beside a zero point"
        raise UnsupportedError(f"has {what}, which is no mode of ap_fixed", where=where, remedy="switch the narrow range off (narrow_range=False)")
    points, axis, scales = _points(scale, where, nearest, axis_of, rank)
    return Grid(width, signed, points, axis, q, OMode.SAT_SYM if narrow else OMode.SAT, scales=scales)


def bipolar(scale: Any, *, where: str, nearest: bool = False, axis_of: int | None = None, rank: int | None = None) -> Grid:
    """The grid of ``scale`` where x >= 0, else ``-scale``."""
    points, axis, scales = _points(scale, where, nearest, axis_of, rank)
    return Grid(2, True, points, axis, QMode.RND_CONV, OMode.SAT_SYM, bipolar=True, scales=scales)


def _width(bit_width: Any, where: str) -> int:
    found = np.unique(np.asarray(bit_width, dtype=np.float64))
    if found.size != 1 or not float(found[0]).is_integer() or not 1 <= found[0] <= LONGEST_WORD:
        told = ", ".join(f"{value:g}" for value in found[:4])
        raise UnsupportedError(f"has words of {told} bits", where=where, remedy=f"use one whole number of bits, 1 to {LONGEST_WORD}, for the tensor")
    return int(found[0])


def _zero_point(zero_point: Any, width: int, signed: bool, where: str) -> tuple[bool, bool]:
    """Whether the grid has a sign in the end, and whether a zero point gave or took it: in the middle of the range it makes a grid with a sign of one
    without, at its end the other way round."""
    found = np.unique(np.asarray(zero_point, dtype=np.float64))
    if found.size == 1 and found[0] == 0:
        return signed, False
    middle = -(2.0 ** (width - 1)) if signed else 2.0 ** (width - 1)
    if found.size == 1 and found[0] == middle and width > 1:
        return not signed, True
    told = ", ".join(f"{value:g}" for value in found[:4])
    raise UnsupportedError(
        f"has the zero point {told}, where a fixed-point grid has none",
        where=where,
        remedy="quantize symmetrically, or without a sign (zero point 0)",
    )


def _points(scale: Any, where: str, nearest: bool, axis_of: int | None, rank: int | None) -> tuple[tuple[int, ...], int | None, tuple[float, ...]]:
    scales = np.asarray(scale, dtype=np.float64)
    if not scales.size or not np.isfinite(scales).all() or not (scales > 0).all():
        raise UnsupportedError(f"has the scale {scales.ravel()[:1]}", where=where, remedy="give a scale that is a finite number above 0")
    mantissas, exponents = np.frexp(scales)
    exact = bool((mantissas == 0.5).all())
    if not exact and not nearest:
        wrong = scales[mantissas != 0.5].ravel()
        raise UnsupportedError(
            f"has the scale {wrong[0]:.9g}{f' and {wrong.size - 1} more' if wrong.size > 1 else ''}, which is no power of two",
            where=where,
            remedy="train with power-of-two scales (RestrictValueType.POWER_OF_TWO in Brevitas), or take the nearest binary point: strict=False "
            "(--nearest), or the integers as they are: qfx.integers_of (`qfx import --integers`)",
        )
    points = (1 - exponents) if exact else -np.round(np.log2(scales)).astype(np.int64)
    points = points - (scales * 2.0**points > _CUT)
    if int(np.abs(points).max()) > _FARTHEST:
        raise UnsupportedError(f"has the scale {scales.ravel()[np.abs(points).argmax()]:g}", where=where, remedy="use 2**-100 to 2**100")
    told = () if exact else tuple(float(value) for value in scales.ravel())
    if scales.size == 1:
        return (int(points.ravel()[0]),), None, told
    long = [axis for axis, size in enumerate(scales.shape) if size > 1]
    if len(long) != 1:
        raise UnsupportedError(f"has scales of shape {scales.shape}", where=where, remedy="use one scale for the tensor, or one for each channel")
    axis = axis_of if scales.ndim == 1 and axis_of is not None else long[0] + (0 if rank is None else rank - scales.ndim)
    return tuple(int(point) for point in points.ravel()), axis, told


def along(scale: Array, value: Array, axis: int | None) -> Array:
    """A scale for each channel, in a shape that goes with ``value``."""
    if scale.size == 1 or axis is None:
        return scale.reshape(-1)[:1]
    shape = [1] * value.ndim
    shape[axis] = -1
    return scale.reshape(shape)


def narrowest(low: int, high: int, where: str) -> tuple[int, bool, bool]:
    """(bits, sign, narrow) of the integers ``low`` to ``high``, bounds as a clip has them. Raises UnsupportedError where they are no such range."""
    width = max(math.ceil(math.log2(high + 1)), 1) if high > 0 else 1
    if low == 0 and high == 2**width - 1:
        return width, False, False
    if low == -high - 1 and high + 1 == 2 ** (width if high else 0):
        return (width + 1 if high else 1), True, False
    if low == -high and high + 1 == 2**width and high > 0:
        return width + 1, True, True
    remedy = "clip to all integers of a word, or to a symmetric range of them; with other zero points take the integers: `qfx import --integers`"
    raise UnsupportedError(f"clips integers to {low} ... {high}, counted from the zero point", where=where, remedy=remedy)
