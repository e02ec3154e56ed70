"""How the tensors of a Cast lie in memory, as loops of the fused passes see them: which of them these can take, and with what strides."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

FRAC_DOUBLE, FRAC_PER_CHANNEL, SCALE_PER_CHANNEL, SHIFT_PER_CHANNEL = 1, 2, 4, 8
"""Bits of ``Layout.flags``, known to native_cast.h."""

PLAIN = (Tensor, torch.nn.Parameter)
"""The types whose numbers are what lies in memory; a subclass may mean anything by it."""


class Layout(NamedTuple):
    """Element (o, c, i) of a tensor lies at (o * channels + c) * inner + i; parameters belong to c. All tensors have the same memory ``format``."""

    outer: int
    channels: int
    inner: int
    flags: int
    format: torch.memory_format


def memory_format(x: Tensor) -> torch.memory_format:
    """Channels last, where ``x`` lies so and in no other way; else the plain one."""
    last = x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def layout_of(x: Tensor, frac_bits: Tensor, scale: Tensor | None, shift: Tensor | None) -> Layout | None:
    """The loops over a call's tensors; None for another device, a tensor subclass, or parameters along axes that are not neighbours."""
    if not (x.is_cpu and frac_bits.is_cpu and type(x) in PLAIN and type(frac_bits) in PLAIN):
        return None
    return lies(x, frac_bits, scale, shift)


def lies(x: Tensor, frac_bits: Tensor, scale: Tensor | None, shift: Tensor | None) -> Layout | None:
    """``layout_of`` on any device."""
    if scale is None and shift is None and not frac_bits.dim() and x.is_contiguous():
        return _flat(x.numel(), frac_bits.dtype)
    channels_last = memory_format(x) is torch.channels_last
    scale_shape = None if scale is None else scale.shape
    return _of_shapes(x.shape, frac_bits.shape, frac_bits.dtype, scale_shape, None if shift is None else shift.shape, channels_last)


@lru_cache(maxsize=4096)
def _flat(count: int, frac_dtype: torch.dtype) -> Layout | None:
    return _of_shapes(torch.Size((count,)), torch.Size(()), frac_dtype, None, None, False)


@lru_cache(maxsize=4096)
def _of_shapes(
    shape: torch.Size, frac: torch.Size, frac_dtype: torch.dtype, scale: torch.Size | None, shift: torch.Size | None, channels_last: bool
) -> Layout | None:
    if frac_dtype not in (torch.float32, torch.float64) or shape.numel() == 0 or len(frac) > len(shape):
        return None
    flags = FRAC_DOUBLE if frac_dtype is torch.float64 else 0
    axes = [axis + len(shape) - len(frac) for axis, size in enumerate(frac) if size != 1]  # where frac_bits varies
    if axes:
        flags |= FRAC_PER_CHANNEL
    for vector, flag in ((scale, SCALE_PER_CHANNEL), (shift, SHIFT_PER_CHANNEL)):
        if vector is not None and vector.numel() > 1:
            if len(shape) < 2 or vector != shape[1:2] or axes not in ([], [1]):
                return None
            axes, flags = [1], flags | flag
    if flags & FRAC_PER_CHANNEL == 0 and axes and frac.numel() != 1:
        return None
    first, last = (axes[0], axes[-1] + 1) if axes else (0, 0)
    if any(shape[axis] != 1 and axis not in axes for axis in range(first, last)):
        return None
    outer, channels, inner = (math.prod(shape[a:b]) for a, b in ((0, first), (first, last), (last, None)))
    if channels_last and (first, last) == (1, 2):
        outer, inner = outer * inner, 1
    elif channels_last and last > 1:
        return None
    return Layout(outer, channels, inner, flags, torch.channels_last if channels_last else torch.contiguous_format)
