"""Constants of few digits: the projection of a tensor onto numbers of at most K digits, with the gradient that trains it.

With s = 2**-F, v the number and q the value of the nearest allowed number (``qfx.fixed.digits.nearest`` of v / s: one rounding, of two equally near
the greater):

==================  =======  ==============
case                dq/dv    dq/dF
==================  =======  ==============
within the word     1        -ln2 * (q - v)
beyond its ends     0        -ln2 * q
==================  =======  ==============

as ``qfx.fixed.kernel`` has it for a Cast that saturates. Beyond the ends is what were projected beyond them in a word without ends: 100 in a word
of 8 bits and one digit, where the greatest number is 64 and the next were 128. F is rounded with a straight-through estimator. Words of learned
lengths: ``digit_words.py``.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qfx.fixed import digits as forms
from qfx.fixed import number_sets
from qfx.fixed.digits import DigitForm, most_digits
from qfx.fixed.kernel import CastMode
from qfx.fixed.type import OMode
from qfx.recipe import LONGEST_WORD, Spec

FLOAT32_WIDTH = 24
"""The longest word whose numbers float32 holds."""


class Numbers(NamedTuple):
    """The allowed integers of a word (float64, ascending), the middles between them, and the two middles beyond which a number saturates."""

    raw: Tensor
    middles: Tensor
    low: float
    high: float
    width: int
    odd: Tensor | None = None
    """Of a format: which of them have an odd mantissa, that of two equally near is not taken; None: of two the greater is."""

    def nearest(self, ratio: Tensor) -> Tensor:
        """The nearest allowed integer to each number (in units of the last place), float64."""
        wide = ratio.double().contiguous()
        place = torch.bucketize(wide, self.middles, right=True)
        if self.odd is not None:
            tie = self.odd[place] & (wide == self.middles[(place - 1).clamp(min=0)]) & (place > 0)
            place = place - tie.to(place.dtype)
        return self.raw[place]

    def neighbours(self, ratio: Tensor) -> tuple[Tensor, Tensor]:
        """The allowed integers around each number, float64: the greatest that is no greater, and the least that is greater. At the ends of the word
        both are its last two."""
        place = (torch.bucketize(ratio.double().contiguous(), self.raw, right=True) - 1).clamp(0, max(len(self.raw) - 2, 0))
        return self.raw[place], self.raw[place + 1]


@lru_cache(maxsize=64)
def _numbers(width: int, mode: CastMode, digits: int, form: DigitForm, device: torch.device) -> Numbers:
    symmetric = mode.o is OMode.SAT_SYM
    raw = forms.few_digits(width, mode.signed, digits, form, symmetric)
    longer = forms.few_digits(width + 1, mode.signed, digits, form)
    above, below = longer[longer > raw[-1]], longer[longer < raw[0]]
    high = (raw[-1] + above[0]) / 2
    low = (raw[0] + below[-1]) / 2 if below.size else -0.5  # of an unsigned word: what rounds below 0
    values = torch.tensor(raw, dtype=torch.float64, device=device)
    return Numbers(values, (values[1:] + values[:-1]) / 2, float(low), float(high), width)


def numbers(width: int, mode: CastMode, digits: int, form: DigitForm, device: torch.device | None = None) -> Numbers:
    """Those of a word of ``width`` bits, of a ``mode`` that saturates, with at most ``digits`` digits."""
    return _numbers(width, mode, digits, form, torch.device("cpu") if device is None else device)


def few_digits(spec: Spec, signed: bool) -> int | None:
    """How many digits the spec's numbers have at most; None where no number of the word is left out, however long it may become."""
    digits: int | None = getattr(spec, "digits", None)  # one that an earlier version pickled has none
    longest = LONGEST_WORD if spec.learn_width else spec.width
    return digits if digits is not None and digits < most_digits(longest, signed, spec.digit_form) else None


@lru_cache(maxsize=64)
def _set(text: str, width: int, symmetric: bool, device: torch.device) -> Numbers:
    held = number_sets.read(text)
    raw = held.integers(width)
    raw = raw[raw > -(1 << width - 1)] if symmetric else raw
    values = torch.tensor(raw, dtype=torch.float64, device=device)
    high, low = (3 * raw[-1] - raw[-2]) / 2, (3 * raw[0] - raw[1]) / 2  # as if the last step came again
    odd = None
    if held.format is not None:
        codes = torch.arange(len(raw), device=device) - len(raw) // 2  # zero has one code here: k and -k are code and sign
        odd = codes % 2 == 1 if held.format.mantissa_bits else (codes == 1) | (codes < 0)  # without mantissa away from 0, but for 0 itself
    return Numbers(values, (values[1:] + values[:-1]) / 2, float(low), float(high), width, odd)


def leaves_out(spec: Spec, signed: bool) -> bool:
    """Whether the type holds numbers that the spec does not allow: of more digits, or of no set."""
    return few_digits(spec, signed) is not None or getattr(spec, "numbers", None) is not None


def numbers_of(spec: Spec, mode: CastMode, device: torch.device | None = None, width: int | None = None) -> Numbers:
    """Those of a spec with ``digits`` or ``numbers``, in a word of ``width`` bits: the spec's, if that is left out."""
    if (text := getattr(spec, "numbers", None)) is not None:
        return _set(text, spec.width, spec.o is OMode.SAT_SYM, torch.device("cpu") if device is None else device)
    assert spec.digits is not None, "the caller asked few_digits"
    return numbers(spec.width if width is None else width, mode, spec.digits, spec.digit_form, device)


def project(x: Tensor, frac_bits: Tensor, allowed: Numbers, frac_grad_scale: float = 1.0) -> Tensor:
    """The nearest allowed number to each element of ``x``, as a value; ``frac_bits`` as for ``qfx.fixed.kernel.quantize``, and the result, too, is
    float32 where that has it. Exact for every finite ``x``. Gradients as at the top of this module; that of ``frac_bits`` is summed to its shape and
    multiplied by ``frac_grad_scale``. Double backward is refused by autograd.

    >>> f = torch.tensor(2.0, requires_grad=True)
    >>> project(torch.tensor([0.7, 40.0]), f, numbers(8, CastMode(o=OMode.SAT), 1, "signed")).tolist()
    [0.5, 16.0]
    """
    if torch.compiler.is_dynamo_compiling():
        result: Tensor = torch.compiler.disable(project)(x, frac_bits, allowed, frac_grad_scale)  # type: ignore[no-untyped-call]
        return result
    return _Projection.apply(x, frac_bits, allowed, frac_grad_scale)  # type: ignore[no-any-return, no-untyped-call]


class _Projection(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, frac_bits: Tensor, allowed: Numbers, frac_grad_scale: float) -> Tensor:
        points = torch.round(frac_bits.detach()).double()
        wide = x.detach().double()
        value = allowed.nearest(wide * torch.exp2(points)) * torch.exp2(-points)
        ctx.save_for_backward(x, frac_bits)
        ctx.allowed, ctx.scale = allowed, frac_grad_scale
        return value if x.dtype is torch.float64 or allowed.width > FLOAT32_WIDTH else value.float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, frac_bits = ctx.saved_tensors
        allowed: Numbers = ctx.allowed
        points = torch.round(frac_bits).double()
        wide = x.double()
        ratio = wide * torch.exp2(points)
        inside = (ratio >= allowed.low) & (ratio < allowed.high)
        by_x = by_point = None
        if ctx.needs_input_grad[0]:
            by_x = torch.where(inside, grad, 0.0).to(x.dtype)
        if ctx.needs_input_grad[1]:
            value = allowed.nearest(ratio) * torch.exp2(-points)
            slope = torch.where(inside, wide - value, -value) * (math.log(2.0) * ctx.scale)
            by_point = (grad.double() * slope).sum_to_size(frac_bits.shape).to(frac_bits.dtype)
        return by_x, by_point, None, None
