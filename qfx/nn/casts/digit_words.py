"""Constants of few digits in words of learned lengths: the nearest number of at most K digits in the word of each position.

With W = I + F bits at each binary point (``word_length.py``), s = 2**-F, v the number and q the value of the nearest allowed number in the word:

========================================  =======  ==============  =============
case                                      dq/dv    dq/dF           dq/dI
========================================  =======  ==============  =============
within, allowed neighbours s apart        1        -ln2 * (q - v)  0
within, allowed neighbours further apart  1        0               0
beyond the ends, q = B - s                0        ln2 * s         ln2 * B
beyond the ends, q = s - B (AP_SAT_SYM)   0        -ln2 * s        -ln2 * B
beyond the ends, any other q              0        0               ln2 * q
no bits, q = 0                            1        ln2 * v         0
========================================  =======  ==============  =============

Within the word: where two allowed numbers lie further apart than s, both lie on the coarser grid of twice s, and none lies between them on the finer
one: neither a bit more nor a bit less behind the binary point changes q. Where they lie s apart the expected square of the error is as of a cast: a
bit less makes it four times as great, and these give -2 * ln2 times it.

Beyond the ends is what were projected beyond them in a word without ends, as in ``digits.py``. B = 2**(I - 1) if signed, else 2**I. A word whose
greatest number has too many digits ends in a fixed part of B (64 of 128 for one digit and 8 bits), which grows with the range alone.

F and I are rounded with a straight-through estimator. Zero bits, and words past ``MAX_WIDTH``, are as in ``qfx.fixed.kernel``.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qfx.fixed import digits as forms
from qfx.fixed.digits import DigitForm
from qfx.fixed.kernel import CastMode
from qfx.fixed.type import OMode
from qfx.nn.casts import word_length
from qfx.nn.casts.digits import FLOAT32_WIDTH
from qfx.recipe import Spec


class WordNumbers(NamedTuple):
    """The integers of few digits (float64, ascending) of the longest word and some beyond each of its ends, and the middles between them; the least
    and the greatest of a word of each length from none to the longest, and by how much they would be further out as multiples of the range."""

    raw: Tensor
    middles: Tensor
    least: Tensor
    most: Tensor
    least_rest: Tensor
    most_rest: Tensor
    width: int


@lru_cache(maxsize=64)
def _numbers(width: int, mode: CastMode, digits: int, form: DigitForm, device: torch.device) -> WordNumbers:
    raw = forms.few_digits(width + 1, mode.signed, digits, form)  # at least one number beyond each end of the longest word
    if not mode.signed:
        raw = np.concatenate([[-1], raw])
    lengths = np.arange(1, width + 1)
    high = (1 << (lengths - mode.signed)) - 1
    first = -high - 1 if mode.signed else 0 * high
    symmetric = mode.signed & (mode.o is OMode.SAT_SYM) & (lengths > 1)  # a lone sign is 0 and -1
    first += symmetric
    most, least = raw[np.searchsorted(raw, high, side="right") - 1], raw[np.searchsorted(raw, first)]
    # The whole of a word ends a place before the power of two that its range is; a lone number on the negative side is that power.
    most_rest, least_rest = most == high, symmetric & (least == first)
    ends = (least, most, -1 * least_rest, 1 * most_rest)
    low, up, low_rest, up_rest = (torch.tensor(np.concatenate([[0], end]), dtype=torch.float64, device=device) for end in ends)
    values = torch.tensor(raw, dtype=torch.float64, device=device)
    return WordNumbers(values, (values[1:] + values[:-1]) / 2, low, up, low_rest, up_rest, width)


def numbers(width: int, mode: CastMode, digits: int, form: DigitForm, device: torch.device | None = None) -> WordNumbers:
    """Those of words of up to ``width`` bits, of a ``mode`` that saturates, with at most ``digits`` digits."""
    return _numbers(width, mode, digits, form, torch.device("cpu") if device is None else device)


def numbers_of(spec: Spec, mode: CastMode, width: int, device: torch.device | None = None) -> WordNumbers:
    """Those of a spec with ``digits`` and words of up to ``width`` bits."""
    assert spec.digits is not None, "the caller asked few_digits"
    return numbers(width, mode, spec.digits, spec.digit_form, device)


def project(x: Tensor, frac_bits: Tensor, int_bits: Tensor, allowed: WordNumbers, grad_scale: float = 1.0) -> Tensor:
    """The nearest allowed number to each element of ``x`` in the word of its position, as a value; ``frac_bits`` and ``int_bits`` as for
    ``qfx.fixed.kernel.quantize``, no word longer than those of ``allowed``. The result is float32 where that has it. Exact for every finite ``x``.
    Gradients as at the top of this module; those of ``frac_bits`` and ``int_bits`` are summed to their shape and multiplied by ``grad_scale``.
    Double backward is refused by autograd.

    >>> f, i = torch.tensor([2.0, 2.0, 2.0]), torch.tensor([6.0, 3.0, -2.0])
    >>> project(torch.tensor([40.0, 40.0, 40.0]), f, i, numbers(8, CastMode(o=OMode.SAT), 1, "signed")).tolist()
    [16.0, 2.0, 0.0]
    """
    if torch.compiler.is_dynamo_compiling():
        result: Tensor = torch.compiler.disable(project)(x, frac_bits, int_bits, allowed, grad_scale)  # type: ignore[no-untyped-call]
        return result
    return _Projection.apply(x, frac_bits, int_bits, allowed, grad_scale)  # type: ignore[no-any-return, no-untyped-call]


class _Projection(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, frac_bits: Tensor, int_bits: Tensor, allowed: WordNumbers, grad_scale: float) -> Tensor:
        points, lengths = torch.round(frac_bits.detach()).double(), word_length.widths(frac_bits, int_bits).long()
        free = allowed.raw[torch.bucketize((x.detach().double() * torch.exp2(points)).contiguous(), allowed.middles, right=True)]
        value = torch.clamp(free, allowed.least[lengths], allowed.most[lengths]) * torch.exp2(-points)
        ctx.save_for_backward(x, frac_bits, int_bits)
        ctx.allowed, ctx.scale = allowed, grad_scale
        return value if x.dtype is torch.float64 or allowed.width > FLOAT32_WIDTH else value.float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, frac_bits, int_bits = ctx.saved_tensors
        allowed: WordNumbers = ctx.allowed
        points, lengths = torch.round(frac_bits).double(), word_length.widths(frac_bits, int_bits).long()
        ratio = (x.double() * torch.exp2(points)).contiguous()
        free = allowed.raw[torch.bucketize(ratio, allowed.middles, right=True)]
        least, most, lsb = allowed.least[lengths], allowed.most[lengths], torch.exp2(-points)
        pruned = lengths == 0
        above, below = (free > most) & ~pruned, (free < least) & ~pruned
        beyond = above | below
        by_x = by_frac = by_int = None
        if ctx.needs_input_grad[0]:
            by_x = torch.where(beyond, 0.0, grad).to(x.dtype)
        rest = torch.where(above, allowed.most_rest[lengths], torch.where(below, allowed.least_rest[lengths], 0.0))
        raw = torch.clamp(free, least, most)
        scaled = grad.double() * lsb * (math.log(2.0) * ctx.scale)
        if ctx.needs_input_grad[1]:
            place = (torch.bucketize(ratio, allowed.raw, right=True) - 1).clamp(0, len(allowed.raw) - 2)
            close = (allowed.raw[place + 1] - allowed.raw[place] == 1) | pruned
            slope = torch.where(beyond, rest, torch.where(close, ratio - raw, 0.0))
            by_frac = (scaled * slope).sum_to_size(frac_bits.shape).to(frac_bits.dtype)
        if ctx.needs_input_grad[2]:
            by_int = (scaled * torch.where(beyond, raw + rest, 0.0)).sum_to_size(int_bits.shape).to(int_bits.dtype)
        return by_x, by_frac, by_int, None, None
