"""Sums in the column of DSP blocks: how many lanes are summed there, and how several products share a block.

A DSP48 adds its product to what comes from the block below it (P = A * B + PCIN; UG479, UG579). A chain of them sums lanes without a LUT, each one a
cycle after the one before, for which its factors wait in registers. Chains are joined by adders.

Where a unit works on K neighbouring pixels, their numbers share the weights, and what follows holds with the roles of the two changed (``roles``).

Weights of K neighbouring outputs w0 .. wK-1 that share their input x can be one factor (Xilinx WP486 for two, WP521 for four products):

    (w0 + w1 * 2**S + w2 * 2**(2 * S) ...) * x = w0 * x + w1 * x * 2**S + ...

The products of a chain are added as they are, and the sum is split once. What is in field k is F(k) = s(k) + c(k - 1): the k-th sum, and what the one
below has carried, c(k) = F(k) >> S. As long as F(k) is a signed number of S bits it is read from them. If it has T bits more, those lie under the
lowest bits of s(k + 1). They are known when these are, which takes the lowest T bits of the factors alone: (P >> (k + 1) * S) - s(k + 1), modulo
2**T. (Of such corrections: Sommer et al., "DSP-Packing: Squeezing Low-precision Arithmetic into FPGA DSP Blocks", 2022.) So each F(k) follows from
the one below, without an error. ``packing`` proves from bounds that all fit, or gives nothing.

Where a unit works on several outputs of several pixels, both factors can be made of several numbers (Xilinx WP521): those of two pixels S bits apart
on the narrow port, the weights of two outputs twice as far on the wide one,

    (w0 + w1 * 2**(2 * S)) * (x0 + x1 * 2**S) = w0 * x0 + w0 * x1 * 2**S + w1 * x0 * 2**(2 * S) + w1 * x1 * 2**(3 * S)

four fields S bits apart, summed and split as the others are (``GRIDS``).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil

from qfx.fixed.arith import Interval
from qfx.fixed.type import FixedType

DSP_WIDE, DSP_NARROW = 25, 18
"""The signed multiplier of a DSP48E1 (UG479), in bits: what fits it fits every board."""

DSP_WIDER = 27
"""The wide factor of a DSP48E2 (UG579), as UltraScale and UltraScale+ parts have."""

DSP_SUM = 48
"""Bits of the sum (the P register) of either."""

CHAIN = 8
"""The most lanes of a chain. A longer one saves few adders more, and takes a cycle more for each lane."""

_COUNTS = {"pair": 2, "triple": 3, "quad": 4}

PACKED = {f"{name}{suffix}": (count, wide) for suffix, wide in (("", DSP_WIDE), (DSP_WIDER, DSP_WIDER)) for name, count in _COUNTS.items()}
"""How many products share a block, and the bits of the port that their weights lie on, by arithmetic: "pair", "triple" and "quad" fit every block,
"pair27", "triple27" and "quad27" a DSP48E2."""

GRIDS = {"grid": DSP_WIDE, "grid27": DSP_WIDER}
"""The bits of the port that the weights lie on where a block makes the products of SIDE outputs and SIDE pixels, each with each, by arithmetic."""

SIDE = 2

MAX_KNOWN = 2
"""The most bits that are found outside the block (T above). More would take multipliers."""

PACK, SPLIT = 1, 1
"""Cycles of the pre-adder that makes a factor of several weights, and of splitting a sum."""


@dataclass(frozen=True, slots=True)
class Packing:
    """``count`` products in one, ``split`` bits apart: of as many weights as one factor, in ``packed``, or, of a grid, of fewer and of the
    ``numbers`` of neighbouring pixels as the other. ``wide`` holds the sum of ``chain`` products, which is split with the help of ``known`` bits
    from outside."""

    count: int
    chain: int
    split: int
    known: int
    packed: FixedType
    wide: FixedType
    numbers: FixedType | None = None

    @property
    def sum_bits(self) -> int:
        """Bits of a sum that was split off."""
        return self.split + self.known

    @property
    def luts(self) -> int:
        """LUTs that split the sum of a chain: for each field above another the bits known from outside, which wait for the block in a shift register,
        and the carry that is taken back. One known bit is a parity: a LUT for three products, and one that compares. Two take 2.5 LUTs a product."""
        known = (0, ceil(self.chain / 3) + (self.chain > 2) + 1, 2 * self.chain + self.chain // 2 + 1)[self.known]
        return (self.count - 1) * (known + self.sum_bits)


@lru_cache(maxsize=4096)
def chain(weight: FixedType, x: FixedType, lanes: int) -> int:
    """How many of the lanes a chain of single products has: 1 where a product does not fit a block.

    >>> [chain(FixedType(8, 8), FixedType(8, 8), lanes) for lanes in (1, 8, 9, 24)], chain(FixedType(26, 26), FixedType(8, 8), 8)
    ([1, 8, 5, 8], 1)
    """
    factors = sorted(type_.width + (not type_.signed) for type_ in (weight, x))
    if factors[0] > DSP_NARROW or factors[1] > DSP_WIDE:
        return 1
    most = min(CHAIN, 1 << DSP_SUM - sum(factors))
    return ceil(lanes / ceil(lanes / most))


@lru_cache(maxsize=4096)
def packing(arithmetic: str, weights: Interval, x: FixedType, lanes: int) -> Packing | None:
    """That of PACKED or GRIDS, for weights within the bounds, which takes the fewest LUTs to sum so many lanes, exact for any raw of ``x``; None if
    none is.

    >>> eight = packing("pair", Interval(-127, 127, 0), FixedType(8, 8, False), 8)
    >>> eight.chain, eight.split, eight.known, packing("triple", Interval(-128, 127, 0), FixedType(8, 8), 1)
    (8, 17, 2, None)
    >>> four = packing("grid27", Interval(-8, 7, 0), FixedType(4, 4, False), 8)
    >>> four.count, four.chain, four.split, four.known, four.packed.width, four.numbers.width, four.wide.width
    (4, 8, 11, 0, 27, 16, 44)
    """
    numbers = Interval.of(x.with_frac_bits(0))
    lengths = sorted({ceil(lanes / ceil(lanes / most)) for most in range(1, CHAIN + 1)})
    found = [made for made in (_chained(arithmetic, weights, numbers, length) for length in lengths) if made is not None]
    return min(found, key=lambda made: (_luts(made, lanes), made.chain), default=None)


def sums(arithmetic: str) -> bool:
    """Whether the products are in DSP blocks, whose column sums them."""
    return arithmetic == "dsp" or packs(arithmetic)


def packs(arithmetic: str) -> bool:
    """Whether a block makes several products."""
    return arithmetic in PACKED or arithmetic in GRIDS


def port(arithmetic: str) -> int:
    """The bits of the port that packed weights lie on; 0 where none are packed."""
    return GRIDS.get(arithmetic, PACKED.get(arithmetic, (0, 0))[1])


def sides(arithmetic: str) -> tuple[int, int]:
    """The outputs, and the pixels, whose products one that packs several makes in a block (or the roles of the two changed)."""
    return (SIDE, SIDE) if arithmetic in GRIDS else (PACKED[arithmetic][0], 1)


def pays(arithmetic: str, pe: int) -> bool:
    """Whether so many outputs take fewer blocks than with fewer products in each; so does every arithmetic that packs none."""
    count, _ = (SIDE, 0) if arithmetic in GRIDS else PACKED.get(arithmetic, (0, 0))
    return count == 0 or ceil(pe / count) < ceil(pe / (count - 1))


def worth(arithmetic: str, weights: Interval, x: FixedType, wide: int) -> bool:
    """Whether to try it on a part whose blocks have a port of ``wide`` bits: not if the weights need more, nor if they need no more than on every
    other."""
    if port(arithmetic) <= DSP_WIDE:
        return True
    return wide >= DSP_WIDER and packing(arithmetic, weights, x, CHAIN) != packing(arithmetic.removesuffix(str(DSP_WIDER)), weights, x, CHAIN)


def delay(arithmetic: str, weights: Interval, weight: FixedType, x: FixedType, lanes: int) -> int:
    """Cycles from the first product of a sum of so many lanes to the sum: one for each further lane of a chain, and one for each level of the tree
    that joins chains; the products of other arithmetics are chains of one. ``weight``: the type that holds the weights."""
    length = extra = 0
    if packs(arithmetic):
        form = packing(arithmetic, weights, x, lanes)
        assert form is not None, "arithmetic.check refuses what cannot be packed"
        length, extra = form.chain, PACK + SPLIT
    elif arithmetic == "dsp":
        length = chain(weight, x, lanes)
    length = max(length, 1)
    return length - 1 + (ceil(lanes / length) - 1).bit_length() + extra


def across(arithmetic: str, weight: FixedType, x: FixedType, pixels: int) -> bool:
    """Whether a packed ``arithmetic`` packs the numbers of neighbouring pixels, which share their weight, instead of the weights of neighbouring
    outputs, which share their number: where so many pixels are worked on at once that they fill a block, and it can be proven for any weight of the
    type ``weight``."""
    if arithmetic not in PACKED or pixels < PACKED[arithmetic][0]:
        return False
    return packing(arithmetic, Interval.of(x.with_frac_bits(0)), weight, 1) is not None


def roles(arithmetic: str, weights: Interval, weight: FixedType, x: FixedType, pixels: int) -> tuple[Interval, FixedType, FixedType]:
    """What the packed factors lie between, the type that holds one, and the type of the factor that they share: weights and number, or, ``across``
    pixels, numbers and weight."""
    return (Interval.of(x.with_frac_bits(0)), x, weight) if across(arithmetic, weight, x, pixels) else (weights, weight, x)


def refusal(arithmetic: str, weights: Interval, x: FixedType) -> str | None:
    """Why weights within the bounds cannot share a block so, or None if they can, exactly."""
    factor, weight, wide, (outputs, pixels) = x.width + (not x.signed), weights.type(), port(arithmetic), sides(arithmetic)
    if factor > DSP_NARROW:
        return f"an input takes {factor} bits, but a DSP block multiplies {wide} by {DSP_NARROW} bits"
    if packing(arithmetic, weights, x, 1) is not None:
        return None
    product = _signed(weights * Interval.of(x.with_frac_bits(0))).width
    split = _widest(arithmetic, weights, Interval.of(x.with_frac_bits(0)))
    if split * pixels < _below(weights):
        return (
            f"{outputs} weights of {weight.width} bits lie at most {split * pixels} bits apart in the {wide} bits of a DSP block's port, less than "
            f"the {_below(weights)} bits that they have below their signs"
        )
    if pixels > 1:
        return (
            f"{outputs} weights of {weight.width} bits on {wide} bits of a DSP block's port and {pixels} inputs on {DSP_NARROW} leave their products "
            f"at most {split} bits apart, but these have {product} bits, of which at most {MAX_KNOWN} can be found outside"
        )
    return (
        f"{outputs} weights of {weight.width} bits lie at most {split} bits apart in the {wide} bits of a DSP block's port, but their products "
        f"have {product} bits, of which at most {MAX_KNOWN} can be found outside"
    )


def _luts(made: Packing, lanes: int) -> int:
    chains = ceil(lanes / made.chain)
    return chains * made.luts + (chains - 1) * made.count * (made.sum_bits + 1)


@lru_cache(maxsize=4096)
def _chained(arithmetic: str, weights: Interval, x: Interval, length: int) -> Packing | None:
    """Of chains of that length: with the fewest known bits, then the least split, that do."""
    (outputs, pixels), product = sides(arithmetic), weights * x
    # The bits below the signs lie beside each other in a factor, which is wires less the signs (multiply.h).
    apart = max(ceil(_below(weights) / pixels), _below(x) if pixels > 1 else 0)
    for known in range(MAX_KNOWN + 1):
        for split in range(max(known + 1, apart), _widest(arithmetic, weights, x) + 1):
            if exact(product, outputs * pixels, length, split, known):
                packed, wide = _sum(weights, outputs, 1, pixels * split), _sum(product, outputs * pixels, length, split)
                numbers = _signed(_sum(x, pixels, 1, split)) if pixels > 1 else None
                made = Packing(outputs * pixels, length, split, known, _signed(packed), _signed(wide), numbers)
                return made if made.wide.width <= DSP_SUM else None
    return None


def exact(product: Interval, count: int, length: int, split: int, known: int) -> bool:
    """Whether sums of up to ``length`` products can be split (see above)."""
    total, most = product.times(length).with_zero(), 1 << split + known - 1
    low = high = 0
    for _ in range(count - 1):
        low, high = total.lo + (low >> split), total.hi + (high >> split)
        if low < -most or high >= most:
            return False
    return True


def _widest(arithmetic: str, weights: Interval, x: Interval) -> int:
    """The most bits that products can lie apart by what the ports hold; 0 where these hold not even one number."""
    outputs, pixels = sides(arithmetic)

    def fits(split: int) -> bool:
        packed, numbers = _sum(weights, outputs, 1, pixels * split), _sum(x, pixels, 1, split)
        return _signed(packed).width <= port(arithmetic) and _signed(numbers).width <= DSP_NARROW

    return next((split for split in range(DSP_WIDER, 0, -1) if fits(split)), 0)


def _below(interval: Interval) -> int:
    """The bits of its numbers below their sign."""
    type_ = interval.type()
    return type_.width - type_.signed


def _sum(one: Interval, count: int, length: int, split: int) -> Interval:
    """That of ``length`` numbers in each field."""
    factor = sum(1 << k * split for k in range(count))
    total = one.times(length).with_zero()
    return Interval(total.lo * factor, total.hi * factor, 0)


def _signed(interval: Interval) -> FixedType:
    """The smallest signed type that holds the interval."""
    width = Interval(min(interval.lo, -1), interval.hi, 0).width
    return FixedType(width, width)
