"""Which casts Triton computes, and how its kernels are started. Imports Triton when a tensor lies on a GPU, and not before."""

from __future__ import annotations

import contextlib
import math
import struct
import warnings
from contextlib import AbstractContextManager
from functools import lru_cache
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qfx.fixed.arith import FLOAT32_BITS
from qfx.fixed.layout import FRAC_PER_CHANNEL, PLAIN, SCALE_PER_CHANNEL, SHIFT_PER_CHANNEL, Layout, lies
from qfx.fixed.plan import FLOAT32_FRAC_BITS, FLOAT64_FRAC_BITS, CastMode, Gradients, Plan, plan_of
from qfx.fixed.type import OMode, QMode

_TILE = 1024
"""Elements of a tile."""

_SPLITS = 1024
"""Programs that add up a gradient, at most. Not a property of the device: sums must not depend on it."""

_WIDEST_TILE = 64
"""Channels of a tile, at most, where they lie side by side."""

_MOST_BLOCKS = 65_535
"""Programs along the second axis of a grid, at most: CUDA's limit."""

_Q_CODES = {q: code for code, q in enumerate(QMode)}
_O_CODES = {OMode.SAT: 0, OMode.SAT_SYM: 0, OMode.SAT_ZERO: 1, OMode.WRAP: 2, OMode.WRAP_SM: 3}
_LN2 = math.log(2.0)


@lru_cache(maxsize=1)
def kernels() -> ModuleType | None:
    """``kernels.py``; None where there is no Triton."""
    try:
        from qfx.fixed.gpu import kernels as found
    except ImportError:
        return None
    return found


class GpuKernelWarning(UserWarning):
    """Casts on a GPU are computed by torch's operators: the same bits, slower."""


@lru_cache
def works(device: torch.device) -> bool:
    """Whether the kernels run on a device (one casts a number, the first time; where it cannot, a warning says why, once). Triton may be there and
    be of no use: it needs a C compiler when it first starts a kernel, and cards that it knows."""
    try:
        one = torch.ones(1, device=device)
        found = there(plan_of(CastMode(), 8), one, one[0], None, None, None, None)
        if found is None:
            return False
        found.forward(one, one[0], None, None, None, None)
    except Exception as error:  # whatever a compiler or a driver has to say
        text = f"Triton's kernels do not run on {device} ({type(error).__name__}: {error}); casts take torch's operators there: the same bits, slower"
        warnings.warn(text, GpuKernelWarning, stacklevel=2)
        return False
    return True


class Fused(NamedTuple):
    """One fused pass each way over tensors that lie so, as ``native.Fused``. Made by ``fused``."""

    layout: Layout
    wide: bool
    constants: dict[str, Any]
    tile: tuple[int, int]

    def forward(
        self, x: Tensor, frac_bits: Tensor, int_bits: Tensor | None, scale: Tensor | None, shift: Tensor | None, addend: Tensor | None
    ) -> Tensor:
        """What ``eager.forward`` returns."""
        layout = self.layout
        x, addend = _laid(x, layout), None if addend is None else _laid(addend, layout)
        out = torch.empty_like(x, dtype=torch.float64) if self.wide else torch.empty_like(x)
        rows, grid = self._grid
        given = _parameters(frac_bits, int_bits, scale, shift)
        found = kernels()
        assert found is not None  # ``fused`` looked
        with _on(x):
            found.forward[grid](out, x, addend, *given, layout.channels, layout.inner, rows, **self.constants, **self._shape)
        return out

    def backward(
        self,
        grad: Tensor,
        x: Tensor,
        frac_bits: Tensor,
        int_bits: Tensor | None,
        scale: Tensor | None,
        shift: Tensor | None,
        addend: Tensor | None,
        frac_grad_scale: float,
        parameters: bool,
    ) -> Gradients:
        """What ``eager.backward`` returns. Without ``parameters`` the gradients of all but x and the addend are left out (None)."""
        layout = self.layout
        x, addend, grad = _laid(x, layout), None if addend is None else _laid(addend, layout), _laid(grad, layout)
        grad_x = torch.empty_like(x)
        grad_addend = None if addend is None else torch.empty_like(x)
        rows, (tiles, blocks) = self._grid
        steps = -(-tiles // max(1, _SPLITS // blocks))
        splits = -(-tiles // steps)
        partial = torch.empty((4, splits, layout.channels), dtype=torch.float64, device=x.device) if parameters else None
        given = _parameters(frac_bits, int_bits, scale, shift)
        found = kernels()
        assert found is not None
        with _on(x):
            found.backward[splits, blocks](
                grad_x, grad_addend, partial, grad, x, addend, *given, layout.channels, layout.inner, rows, steps, splits,
                SUMS=parameters, **self.constants, **self._shape,
            )  # fmt: skip
        if partial is None:
            return grad_x, None, None, None, None, grad_addend
        factor = _LN2 * frac_grad_scale
        by_frac = self._finished(partial[0], frac_bits, -factor, FRAC_PER_CHANNEL)
        by_int = None if int_bits is None else self._finished(partial[1], int_bits, factor, FRAC_PER_CHANNEL)
        by_scale = None if scale is None else self._finished(partial[2], scale, 1.0, SCALE_PER_CHANNEL)
        by_shift = None if shift is None else self._finished(partial[3], shift, 1.0, SHIFT_PER_CHANNEL)
        return grad_x, by_frac, by_int, by_scale, by_shift, grad_addend

    @property
    def _grid(self) -> tuple[int, tuple[int, int]]:
        """Pairs (o, i), and the tiles that cover them and the channels."""
        rows = self.layout.outer * self.layout.inner
        return rows, (-(-rows // self.tile[0]), -(-self.layout.channels // self.tile[1]))

    @property
    def _shape(self) -> dict[str, Any]:
        return {"ROWS": self.tile[0], "COLUMNS": self.tile[1], "enable_fp_fusion": False}

    def _finished(self, partial: Tensor, like: Tensor, factor: float, flag: int) -> Tensor:
        """The sums of a parameter, in its shape and dtype."""
        out = torch.empty(like.shape, dtype=like.dtype, device=like.device)
        splits, channels = partial.shape
        rows, columns = (splits, channels) if self.layout.flags & flag else (splits * channels, 1)
        tile = (32, 32) if columns > 1 else (_TILE, 1)
        found = kernels()
        assert found is not None
        bits = struct.unpack("<q", struct.pack("<d", factor))[0]
        grid = (-(-columns // tile[1]),)
        with _on(partial):
            found.finish[grid](out, partial, bits, rows, columns, ROWS=tile[0], COLUMNS=tile[1], enable_fp_fusion=False)
        return out


def fused(
    plan: Plan, x: Tensor, frac_bits: Tensor, int_bits: Tensor | None, scale: Tensor | None, shift: Tensor | None, addend: Tensor | None
) -> Fused | None:
    """The fused pass for a call on a GPU, or None if ``eager.py`` has to do it: no Triton or none that runs there, another device, tensor
    subclasses, unusual broadcasts, more channels than a grid has."""
    found = there(plan, x, frac_bits, int_bits, scale, shift, addend) if x.is_cuda else None
    return found if found is not None and works(x.device) else None


def there(
    plan: Plan, x: Tensor, frac_bits: Tensor, int_bits: Tensor | None, scale: Tensor | None, shift: Tensor | None, addend: Tensor | None
) -> Fused | None:
    """``fused`` wherever ``x`` lies: in memory of the host for Triton's interpreter."""
    tensors = [t for t in (x, frac_bits, int_bits, scale, shift, addend) if t is not None]
    if any(type(t) not in PLAIN or t.device != x.device for t in tensors) or (int_bits is not None and int_bits.dtype is not frac_bits.dtype):
        return None
    layout = lies(x, frac_bits, scale, shift)
    if layout is None or kernels() is None or not has_grid(layout):
        return None
    return _fused(plan, layout, x.dtype, scale is not None or shift is not None, addend is not None, int_bits is not None)


@lru_cache(maxsize=4096)
def _fused(plan: Plan, layout: Layout, dtype: torch.dtype, affine: bool, addend: bool, words: bool) -> Fused:
    import triton.language as tl

    mode, wide = plan.mode, plan.width > FLOAT32_BITS
    leaky, capped = plan.negative_slope != 1.0, plan.upper != math.inf
    exact_in_single = plan.negative_slope in (0.0, 1.0) and float(torch.tensor(plan.upper, dtype=torch.float32)) == plan.upper
    affine = affine or addend or ((leaky or capped) and not exact_in_single)  # the affine variant computes in float64
    single = dtype is torch.float32 and not wide
    least, most = FLOAT32_FRAC_BITS if single else FLOAT64_FRAC_BITS
    constants = {
        "Q": _Q_CODES[mode.q], "OVER": _O_CODES[mode.o], "N": min(mode.n, 2), "WIDTH": plan.width, "KEPT": plan.width - mode.n, "SIGNED": mode.signed,
        "SYMMETRIC": mode.o is OMode.SAT_SYM, "LO": float(plan.min_raw), "HI": float(plan.max_raw), "LEAST": least, "MOST": most,
        "SLOPE": plan.negative_slope, "UPPER": plan.upper if capped else 0.0, "LEAKY": leaky, "CAPPED": capped, "AFFINE": affine, "ADDEND": addend,
        "WORDS": words, "MANY": bool(layout.flags & FRAC_PER_CHANNEL), "MANY_SCALES": bool(layout.flags & SCALE_PER_CHANNEL),
        "MANY_SHIFTS": bool(layout.flags & SHIFT_PER_CHANNEL), "T": tl.float32 if single and not affine else tl.float64,
        "LONG": layout.outer * layout.channels * layout.inner >= 2**31 - (_SPLITS + 1) * _TILE,  # the last tiles may lie beyond
    }  # fmt: skip
    return Fused(layout, wide, constants, _tile(layout))


def _tile(layout: Layout) -> tuple[int, int]:
    """Rows and columns, powers of two: neighbours in memory side by side."""
    if layout.inner > 1 or layout.channels == 1:
        return min(_TILE, _power_above(layout.outer * layout.inner)), 1
    columns = min(_power_above(layout.channels), _TILE if layout.outer == 1 else _WIDEST_TILE)
    return min(_TILE // columns, _power_above(layout.outer)), columns


def has_grid(layout: Layout) -> bool:
    """Whether there are as many programs as its channels need."""
    return -(-layout.channels // _tile(layout)[1]) <= _MOST_BLOCKS


def _power_above(count: int) -> int:
    return 1 << max(0, count - 1).bit_length()


def _on(x: Tensor) -> AbstractContextManager[object]:
    """Triton starts a kernel on the current device, wherever its tensors lie."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def _laid(tensor: Tensor, layout: Layout) -> Tensor:
    return tensor.contiguous(memory_format=layout.format)


def _parameters(frac_bits: Tensor, int_bits: Tensor | None, scale: Tensor | None, shift: Tensor | None) -> tuple[Tensor | None, ...]:
    return tuple(None if t is None else t.contiguous() for t in (frac_bits, int_bits, scale, shift))
