"""How the products of a matrix-vector unit are built: which of schedule.ARITHMETIC a layer can have, and what each of them puts into the ROM.

"auto", "dsp" and "lut" are possible everywhere. "shift" adds a shifted input for every signed digit of a weight, which pays while a weight has few;
the ROM then holds the digits. "pair", "triple", "quad" and their wider forms make so many products that share their input in one DSP block, "grid"
and its wider form those of two outputs and two pixels, where ``dsp`` proves that they can be told apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qfx.errors import ProjectError
from qfx.fixed.arith import Interval
from qfx.fixed.digits import csd_arrays, most_digits
from qfx.fixed.type import FixedType
from qfx.hardware.design import dsp
from qfx.hardware.design.schedule import ARITHMETIC
from qfx.hardware.design.streams import IntArray, Slot

ELEMENT_BITS = 64
"""The most bits of an element of a ROM word: what a C++11 integer literal can say."""

ROM_SLACK = 1.05
"""The most that a ROM may take, as a multiple of the bits of its weights. Whatever the number of lanes, one lane per element wastes nothing."""

MAX_DIGITS = 4
"""The most signed digits of a weight for "shift": as many adders as an 8-bit multiplier in LUTs has."""

MAX_DIGIT_BITS = 24
"""The most bits of a weight's digits in the ROM."""

FACTOR_DIGITS = 3
"""The most signed digits of the constants of an epilogue for which products are sums of shifted numbers."""


@dataclass(frozen=True, slots=True)
class Digits:
    """The signed digits of a layer's weights, a slot for each that the longest of them has. The greatest shift lies in a code's lowest bits."""

    slots: tuple[Slot, ...]

    @property
    def width(self) -> int:
        """The bits of a weight's code in the ROM."""
        return max(sum(slot.width for slot in self.slots), 1)

    def codes(self, weights: IntArray) -> IntArray:
        """What the ROM holds for each weight. The weights are those that the slots were made for."""
        signs, shifts = _columns(weights)
        codes, offset = np.zeros(weights.shape, dtype=np.int64), 0
        for k, slot in enumerate(self.slots):
            field = np.where(signs[..., k] == 0, slot.span, shifts[..., k] - slot.low)
            codes |= (field | (signs[..., k] < 0).astype(np.int64) << slot.field) << offset
            offset += slot.width
        return codes


def digit_form(weights: IntArray) -> Digits:
    """The narrowest slots that hold the canonical signed digits of the weights."""
    signs, shifts = _columns(_distinct(weights))
    slots = []
    for k in range(signs.shape[-1]):
        sign, shift = signs[..., k], shifts[..., k][signs[..., k] != 0]
        low, high = (int(shift.min()), int(shift.max())) if shift.size else (0, -1)
        slots.append(Slot(low, high - low + 1, bool((sign == 0).any()), bool((sign < 0).any())))
    return Digits(tuple(slots))


def factor_form(factors: IntArray) -> Digits | None:
    """The digits of an epilogue's constant factors where they take the place of a multiplier: one or two of them, or FACTOR_DIGITS in a word that can
    need more or of a single number; None elsewhere."""
    form = digit_form(factors)
    count, range_ = len(form.slots), bounds(factors)
    few = count <= 2 or (count <= FACTOR_DIGITS and (range_.lo == range_.hi or count < most_digits(range_.width, range_.signed)))
    return form if few and form.width <= MAX_DIGIT_BITS else None


def _distinct(weights: IntArray) -> IntArray:
    """Every number that occurs; without a sort where they lie close together, as weights do."""
    least, span = int(weights.min()), int(weights.max()) - int(weights.min())
    if span >= max(weights.size, 1 << 16):
        return np.unique(weights)
    return np.flatnonzero(np.bincount(weights.ravel() - least, minlength=span + 1)) + least


def _columns(weights: IntArray) -> tuple[IntArray, IntArray]:
    """``csd_arrays``, with at least one digit."""
    signs, shifts = csd_arrays(weights)
    if not signs.shape[-1]:
        signs = shifts = np.zeros((*weights.shape, 1), dtype=np.int64)
    return signs, shifts


def product_type(weights: IntArray, x: FixedType) -> FixedType:
    """The raw type of the products of the weights with any raw of ``x``."""
    return (bounds(weights) * Interval.of(x.with_frac_bits(0))).type()


def sum_type(weights: IntArray, x: FixedType, terms: int) -> FixedType:
    """The raw type of any sum of so many products."""
    return (bounds(weights) * Interval.of(x.with_frac_bits(0))).times(terms).type()


def turn_type(rows: IntArray, x: FixedType, simd: int) -> FixedType:
    """The raw type of what a turn sums: that of any of ``rows`` (words, ``simd`` weights for each output, the outputs innermost) with any raws of
    ``x``."""
    low = high = 0
    step = max(_AT_ONCE // rows.shape[1], 1)  # a hundred million weights need not lie in memory many times over
    for start in range(0, len(rows), step):
        weights = rows[start : start + step].astype(np.int64).reshape(-1, simd, rows.shape[1] // simd)
        ends = weights * x.min_raw, weights * x.max_raw
        lowest, highest = int(np.minimum(*ends).sum(axis=1).min()), int(np.maximum(*ends).sum(axis=1).max())
        low, high = (lowest, highest) if start == 0 else (min(low, lowest), max(high, highest))
    return Interval(low, high, 0).type()


_AT_ONCE = 1 << 20  # weights


def weight_type(weights: IntArray) -> FixedType:
    """The smallest type that holds the weights' raws."""
    return bounds(weights).type()


def rom_contents(weights: IntArray, type_: FixedType, arithmetic: str) -> tuple[IntArray, FixedType]:
    """(rows, lanes) of what the ROM holds of the weights, raws of ``type_``, and its type: themselves, or the codes of their digits."""
    if arithmetic != "shift":
        return weights, type_
    form = digit_form(weights)
    return form.codes(weights), FixedType(form.width, form.width, signed=False)


def choices(weights: IntArray, x: FixedType, *, pe: int, depthwise: bool = False, loaded: bool = False, pixels: int = 1) -> tuple[str, ...]:
    """The members of ARITHMETIC that a layer can have, in that order.

    ``weights``: its raws, in any shape, or, if they are ``loaded`` while the hardware runs, the least and the greatest possible; ``x``: the type of
    its input; ``pe``, ``pixels``: the outputs and the pixels that are worked on in parallel.
    """
    return tuple(name for name in ARITHMETIC if _refusal(name, weights, x, (pe, pixels), depthwise, loaded) is None)


def check(arithmetic: str, weights: IntArray, x: FixedType, *, pe: int, depthwise: bool, where: str, loaded: bool = False, pixels: int = 1) -> None:
    """Raises ProjectError, naming the node ``where`` and what stands in the way, if ``arithmetic`` is not among the ``choices``."""
    refusal = _refusal(arithmetic, weights, x, (pe, pixels), depthwise, loaded)
    if refusal is not None:
        what, remedy = refusal
        raise ProjectError(f"arithmetic {arithmetic!r}: {what}", where=where, remedy=remedy)


def check_product(arithmetic: str, *, where: str) -> None:
    """Raises ProjectError, naming the node ``where``, if ``arithmetic`` needs constants: two values are multiplied."""
    if arithmetic not in ("auto", "dsp", "lut"):
        raise ProjectError(
            f"arithmetic {arithmetic!r}: it multiplies two values, and this form needs constants", where=where, remedy="use dsp or lut"
        )


def lanes_per_element(lanes: int, width: int) -> int:
    """How many weights of ``width`` bits an element of a ROM word holds: as many as possible with little waste (ROM_SLACK).

    >>> lanes_per_element(9, 8), lanes_per_element(45, 3), lanes_per_element(64, 8)
    (3, 15, 8)
    """
    most = min(ELEMENT_BITS // width, lanes)
    return next(count for count in range(most, 0, -1) if -(-lanes // count) * count <= lanes * ROM_SLACK)


def rom_shape(rows: int, lanes: int, width: int) -> tuple[int, int, int]:
    """(rows, elements of a row, bits of an element) of the ROM of ``rows`` words of ``lanes`` raws of ``width`` bits. Each element has a memory.

    >>> rom_shape(288, 9, 8)
    (288, 3, 24)
    """
    count = lanes_per_element(lanes, width)
    return rows, -(-lanes // count), count * width


def pack_rows(weights: IntArray, type_: FixedType) -> tuple[list[list[int]], int]:
    """The elements of each row of (rows, lanes) raws of ``type_``, and the bits of an element; as ``rom_shape`` says, the first lane lowest."""
    _, _, bits = rom_shape(len(weights), weights.shape[1], type_.width)
    return packed_rows(weights, type_).tolist(), bits


def packed_rows(weights: IntArray, type_: FixedType) -> npt.NDArray[np.uint64]:
    """As ``pack_rows``, the elements (rows, elements) as an array."""
    lanes = weights.shape[1]
    _, elements, bits = rom_shape(len(weights), lanes, type_.width)
    count, mask = bits // type_.width, np.uint64((1 << type_.width) - 1)
    packed = np.zeros((len(weights), elements), dtype=np.uint64)
    for place in range(count):
        there = weights[:, place::count].astype(np.int64).view(np.uint64) & mask
        packed[:, : there.shape[1]] |= there << np.uint64(place * type_.width)
    return packed


def _shift(weights: IntArray, x: FixedType, at_once: tuple[int, int], depthwise: bool) -> tuple[str, str] | None:
    digits = digit_form(weights)
    remedy = "quantize the weights to fewer signed digits, or choose another arithmetic"
    if len(digits.slots) > MAX_DIGITS:
        return f"its weights need {len(digits.slots)} signed digits, more than {MAX_DIGITS}", remedy
    if digits.width > MAX_DIGIT_BITS:
        return f"the {len(digits.slots)} signed digits of a weight take {digits.width} bits, more than {MAX_DIGIT_BITS}", remedy
    return _short_product(weights, x)


_APART = ("its outputs share no input (a depthwise convolution, or one without the zeros of n:m weights)", "choose another arithmetic")


def _packed(name: str) -> Callable[[IntArray, FixedType, tuple[int, int], bool], tuple[str, str] | None]:
    count, _ = dsp.PACKED[name]

    def refuse(weights: IntArray, x: FixedType, at_once: tuple[int, int], depthwise: bool) -> tuple[str, str] | None:
        pe, pixels = at_once
        if dsp.across(name, weight_type(weights), x, pixels):
            return None
        if depthwise:
            return _APART
        if pe < count:
            return f"PE={pe} outputs do not fill a DSP block of {count} products", f"use a PE of at least {count}, or choose another arithmetic"
        what = dsp.refusal(name, bounds(weights), x)
        return None if what is None else (what, "use shorter words, or choose another arithmetic")

    return refuse


def _grid(name: str) -> Callable[[IntArray, FixedType, tuple[int, int], bool], tuple[str, str] | None]:
    outputs, side = dsp.sides(name)

    def refuse(weights: IntArray, x: FixedType, at_once: tuple[int, int], depthwise: bool) -> tuple[str, str] | None:
        pe, pixels = at_once
        if depthwise:
            return _APART
        if pixels % side:
            return (
                f"it makes the products of {side} pixels in a block, which do not divide pixels={pixels}",
                "use pixels=2, or choose another arithmetic",
            )
        if pe < outputs:
            return f"PE={pe} outputs do not fill a DSP block of {outputs} outputs", f"use a PE of at least {outputs}, or choose another arithmetic"
        what = dsp.refusal(name, bounds(weights), x)
        return None if what is None else (what, "use shorter words, or choose another arithmetic")

    return refuse


def _short_product(weights: IntArray, x: FixedType) -> tuple[str, str] | None:
    width = product_type(weights, x).width
    return None if width <= ELEMENT_BITS else (f"its products have {width} bits, more than {ELEMENT_BITS}", "use shorter words")


_REFUSALS: dict[str, Callable[[IntArray, FixedType, tuple[int, int], bool], tuple[str, str] | None]] = {
    "shift": _shift,
    **{name: _packed(name) for name in dsp.PACKED},
    **{name: _grid(name) for name in dsp.GRIDS},
}
"""Why an arithmetic is impossible: what stands in the way, and the remedy."""


def _refusal(arithmetic: str, weights: IntArray, x: FixedType, at_once: tuple[int, int], depthwise: bool, loaded: bool) -> tuple[str, str] | None:
    if arithmetic == "shift" and loaded:
        return "its digits are made for the weights at hand, but weights are loaded", "choose another arithmetic, or leave the weights in ROM"
    refuse = _REFUSALS.get(arithmetic)
    return refuse(weights, x, at_once, depthwise) if refuse else None


def bounds(weights: IntArray) -> Interval:
    """Of the raws."""
    return Interval(int(weights.min()), int(weights.max()), 0)
