"""Word lengths that are learned: one for each binary point, made of integer bits and fractional bits, down to none.

A position (a tensor, a channel or an element) has W = I + F bits, at least 0 and at most ``MAX_WIDTH``; I and F are real parameters that are rounded.
With none its value is 0: it is pruned. The gradients are those of ``qfx.fixed.kernel``, unscaled: they are weighed against those of a cost.

Both parameters are put back into bounds whenever they are read, so that they do not drift away from where gradients reach them: F to at most
``reach`` above its start and to at least one bit below none; I so that the word has at most ``MAX_WIDTH`` bits at the start's F. None of that changes
a value but where F or I leave their bounds above.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from qfx.errors import DataError
from qfx.fixed import native
from qfx.fixed.arith import FLOAT32_BITS, FLOAT64_BITS, Bounds, Interval, channelwise
from qfx.fixed.kernel import CastMode, quantize
from qfx.fixed.type import FixedType, OMode
from qfx.nn.fixed_layer import Steps
from qfx.operators import ArrayType, Cast, Clip, Const
from qfx.recipe import LONGEST_WORD

MAX_WIDTH = LONGEST_WORD
"""Of a learned word length, as of every ``Spec.width``."""

_NONE = -1e9  # known to words.cpp


class Words(NamedTuple):
    """What follows from the word lengths: the greatest, and the most fractional and integer bits of each channel (-1e9 where all is pruned)."""

    width: int
    finest: tuple[float, ...]
    widest: tuple[float, ...]
    alone: bool
    """Whether each channel is one position."""


def words_of(
    frac_bits: Tensor,
    int_bits: Tensor,
    start: Tensor | None,
    axis: int,
    reach: int,
    learned: tuple[bool, bool],
    where: str,
    told: Tensor | None = None,
) -> Words:
    """Put both (``learned``: frac_bits, int_bits) back into their bounds, and see what follows. Channels: ``axis``. ``told``: what ``looked`` gave,
    on the host. Raises DataError for NaN."""
    channels = frac_bits.shape[axis] if frac_bits.dim() else 1
    frac, integer = frac_bits.detach(), int_bits.detach()
    found = native.words(frac, integer, start, channels, reach, MAX_WIDTH, learned) if told is None else None
    if found is None:
        width, *each = (looked(frac, integer, start, axis, reach, learned) if told is None else told).tolist()
        found = -1 if width != width else int(width), tuple(each[:channels]), tuple(each[channels:])
    width, finest, widest = found
    if width < 0:
        raise DataError("its learned word length is NaN", where=where, remedy="load an earlier checkpoint; lower the learning rate")
    return Words(width, finest, widest, channels == frac.numel())


def looked(frac_bits: Tensor, int_bits: Tensor, start: Tensor | None, axis: int, reach: int, learned: tuple[bool, bool]) -> Tensor:
    """What ``native.words`` gives and does, by torch operators, in one tensor: nobody waits. The first is NaN where any length is."""
    frac, integer = frac_bits.detach(), int_bits.detach()
    if start is not None and learned[1]:
        integer.copy_(torch.minimum(torch.maximum(integer, -start - 1), MAX_WIDTH - start))
    if start is not None and learned[0]:
        frac.copy_(torch.minimum(torch.maximum(frac, -integer - 1), start + reach))
    f = torch.round(frac.double())
    width = (f + torch.round(integer.double())).clamp(0, MAX_WIDTH)  # NaN stays
    channels = frac.shape[axis] if frac.dim() else 1
    finest, widest = (torch.where(width > 0, t, _NONE).reshape(channels, -1).amax(1) for t in (f, width - f))
    return torch.cat((width.max().reshape(1), finest, widest))


def widths(frac_bits: Tensor, int_bits: Tensor) -> Tensor:
    """The word length of each position, integral, no gradient."""
    return (torch.round(frac_bits.detach()) + torch.round(int_bits.detach())).clamp(0, MAX_WIDTH)


def relaxed(frac_bits: Tensor, int_bits: Tensor) -> Tensor:
    """The word length of each position, with the gradient of int_bits + frac_bits where that is from 0 to ``MAX_WIDTH``, else none."""
    smooth = (frac_bits + int_bits).clamp(0, MAX_WIDTH)
    return smooth + (widths(frac_bits, int_bits) - smooth).detach()


def tracked(x: Tensor, frac_bits: Tensor, mode: CastMode) -> Tensor:
    """The least integer bits with which no number of ``x`` overflows, in the shape of ``frac_bits``; none at all where all are rounded to 0."""
    frac = torch.round(frac_bits.detach().double())
    raw = quantize(x.detach().double(), frac, FLOAT64_BITS, CastMode(True, mode.q, OMode.SAT)) * torch.exp2(frac)
    most = torch.where(raw == 0, -1.0, torch.where(raw < 0, -raw - 1, raw) if mode.signed else raw)
    ahead = most.dim() - frac.dim()
    shared = [axis for axis in range(most.dim()) if axis < ahead or frac.shape[axis - ahead] == 1]
    if shared:
        most = most.amax(shared)
    most = most.reshape(frac.shape)
    length = torch.frexp(most.clamp(min=0))[1] + int(mode.signed)
    return (torch.where(most < 0, 0, length) - frac).to(frac_bits.dtype)


# ---- what the casts can give ----


@lru_cache(maxsize=1024)
def interval(words: Words, mode: CastMode, constant: bool) -> Bounds:
    """What casts with such words can give. ``constant``: of a constant one interval will do where float32 holds it."""
    live = [index for index, bits in enumerate(words.finest) if bits > _NONE]
    if not live:
        return Interval(0, 0, 0)
    pairs = [(int(words.finest[index]), int(words.widest[index])) for index in live]
    finest, widest = (max(bits) for bits in zip(*pairs, strict=True))
    if constant and finest + widest <= FLOAT32_BITS:
        return _interval(mode, finest, widest, len(words.finest) == 1 and words.alone)
    nothing = Interval(0, 0, min(bits for bits, _ in pairs))
    each = {index: _interval(mode, *pair, words.alone) for index, pair in zip(live, pairs, strict=True)}
    return channelwise(each.get(index, nothing) for index in range(len(words.finest)))


def _interval(mode: CastMode, frac_bits: int, int_bits: int, alone: bool) -> Interval:
    width = frac_bits + int_bits
    if alone:
        return Interval.of(mode.type(width, frac_bits))
    half = 1 << (width - 1)  # the hull of several positions, which need not all leave out the lone negative bound
    return Interval(-half, half - 1, frac_bits) if mode.signed else Interval(0, 2 * half - 1, frac_bits)


# ---- in the graph ----


def grids(frac_bits: Tensor, int_bits: Tensor, rows: int | None = None) -> tuple[int, ...]:
    """The binary points that count, row-major; where all is pruned, the coarsest of the others. ``rows``: the finest of each of so many instead."""
    live, f = widths(frac_bits, int_bits) > 0, torch.round(frac_bits.detach())
    coarsest = float(f[live].min()) if bool(live.any()) else 0.0
    each = torch.where(live, f, -torch.inf).reshape(f.numel() if rows is None else rows, -1).amax(1)
    return tuple(int(bits) for bits in torch.where(each.isinf(), coarsest, each).tolist())


def types(frac_bits: Tensor, int_bits: Tensor, mode: CastMode) -> tuple[FixedType, tuple[int, ...]]:
    """The element type and the integer bits of each position in words of the greatest length, which ``restricted`` makes the words of each."""
    width = max(int(widths(frac_bits, int_bits).max()), 1)
    integer = tuple(width - bits for bits in grids(frac_bits, int_bits))
    return FixedType(width, max(integer), mode.signed, mode.q, mode.o, mode.n), integer


def restricted(frac_bits: Tensor, int_bits: Tensor, mode: CastMode, shape: tuple[int, ...]) -> Steps:
    """What makes of numbers in words of the greatest length those in words of their own, exactly: nothing where there is one length, a wrap on the
    integer bits of each (and back to the grids that they lie on), and bounds. ``shape``: of the positions, without the batch."""
    lengths, places = widths(frac_bits, int_bits).reshape(shape), grids(frac_bits, int_bits)
    all_ = [int(length) for length in lengths.flatten().tolist()]
    if len(set(all_)) == 1 and all_[0]:
        return []
    steps: Steps = []
    element, own = types(frac_bits, int_bits, mode)
    if mode.o is OMode.WRAP and any(all_):
        integer = tuple(length - bits if length else element.width - bits for length, bits in zip(all_, places, strict=True))
        for suffix, bits_each in ((".wrap", integer), (".grid", own)):
            steps.append((suffix, Cast(ArrayType(FixedType(element.width, max(bits_each), mode.signed), bits_each, shape))))
        if all(all_):
            return steps
    rows = shape[0] if shape else 1
    kinds = [None if not length else element if mode.o is OMode.WRAP else mode.type(length, bits) for length, bits in zip(all_, places, strict=True)]
    low, high = ([0 if kind is None else kind.min_raw for kind in kinds], [0 if kind is None else kind.max_raw for kind in kinds])
    finest = np.array(places).reshape(rows, -1).max(1)
    up = (finest[:, None] - np.array(places).reshape(rows, -1)).reshape(shape)
    bits = tuple(int(f) for f in finest) if shape else int(finest[0])
    ends = (Const((np.array(end, dtype=np.int64).reshape(shape) << up), bits) for end in (low, high))
    return [*steps, (".range", Clip(*ends))]
