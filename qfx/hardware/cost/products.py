"""What the products of a matrix-vector unit and their sums take, where they are made in DSP blocks (``design/dsp.py``)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil

from qfx.fixed.arith import Interval
from qfx.fixed.type import FixedType
from qfx.hardware.cost import resources as r
from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.design import dsp

FREE_DELAYS = 1
"""Cycles that the second register of a block's inputs holds the factors of a single product (A1, A2, B1, B2: UG479, UG579). Where the pre-adder makes
the factor, they are used up."""


@dataclass(frozen=True, slots=True)
class Products:
    """``pe`` outputs and ``simd`` inputs of type ``x``; weights within ``weights``, held in ``weight``, and constant wires if ``wires``; sums of at
    most ``most`` bits. The same ``copies`` times, with other inputs and the same weights. ``across``: what is called inputs here are the weights, and
    what is called weights the inputs of so many pixels (``dsp.roles``)."""

    pe: int
    simd: int
    x: FixedType
    weights: Interval
    weight: FixedType
    wires: bool
    most: int
    copies: int = 1
    across: bool = False

    def take(self, arithmetic: str, on: Device) -> Resources:
        """All of them, for "dsp" or a packed ``arithmetic``, up to the sum of each output."""
        length = dsp.chain(self.weight, self.x, self.simd)
        free = FREE_DELAYS
        once = self.copies
        if dsp.packs(arithmetic):
            length, free = self._form(arithmetic).chain, 0
            once //= dsp.sides(arithmetic)[1]
        return self._once(arithmetic, on) * once + self._waiting(length, free)

    def _form(self, arithmetic: str) -> dsp.Packing:
        form = dsp.packing(arithmetic, self.weights, self.x, self.simd)
        assert form is not None, "arithmetic.check refuses what cannot be packed"
        return form

    def _once(self, arithmetic: str, on: Device) -> Resources:
        if dsp.packs(arithmetic):
            return self._packed(arithmetic, on)
        factors = self.x.width + (not self.x.signed), self.weight.width + (not self.weight.signed)
        blocks = Resources(dsp=r.multiplier_dsps(*factors, on)) * (self.pe * self.simd)
        length = dsp.chain(self.weight, self.x, self.simd)
        tree = r.adder_tree(ceil(self.simd / length), min(sum(factors) + (length - 1).bit_length(), self.most), self.most) * self.pe
        return blocks + tree

    def _packed(self, arithmetic: str, on: Device) -> Resources:
        form, (outputs, pixels) = self._form(arithmetic), dsp.sides(arithmetic)
        chains, groups, sums = ceil(self.simd / form.chain), ceil(self.pe / outputs), self.pe * pixels
        factor = self.x.width + (not self.x.signed) if form.numbers is None else form.numbers.width
        blocks = Resources(dsp=r.multiplier_dsps(factor, form.packed.width, on)) * (groups * self.simd)
        # A group that is not full splits off as many fields less.
        splits = ceil(form.luts * (sums - groups) / (form.count - 1))
        split = Resources(lut=splits, ff=sums * form.sum_bits) * chains
        tree = r.adder_tree(chains, min(form.sum_bits, self.most), self.most) * sums
        # Several numbers as one factor are wires where they have no signs; the block's pre-adder makes that of the weights.
        joined = r.adder(factor) * self.simd if form.numbers is not None and self.x.signed else Resources()
        return r.total([blocks, split, tree, joined])

    def _waiting(self, length: int, free: int) -> Resources:
        """Inputs, which all outputs share, and weights wait until their block's turn comes: a flip-flop for a cycle, then shift registers, two of up
        to 16 cycles a LUT (UG474, UG574)."""
        shared, own = self.copies * self.x.width, self.pe * self.weight.width
        bits = own if self.wires and self.across else shared if self.wires else shared + own
        longer, once = _waits(self.simd, length, free)
        return Resources(lut=ceil(bits / 2) * longer, ff=bits * once)


@lru_cache(maxsize=1 << 12)
def _waits(lanes: int, length: int, free: int) -> tuple[int, int]:
    """How many of the lanes of chains of such a length wait for more than a cycle, and for one, ``free`` cycles not counted.

    >>> _waits(8, 4, 1), _waits(7, 4, 0)
    ((2, 2), (3, 2))
    """
    waits = [max(lane % length - free, 0) for lane in range(lanes)]
    return sum(wait > 1 for wait in waits), sum(wait == 1 for wait in waits)
