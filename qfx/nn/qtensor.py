"""``QTensor``: what flows between fixed-point layers - exact numbers, the interval that bounds them, and arithmetic that is not yet carried
out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qfx.errors import ExactnessError
from qfx.fixed.arith import Bounds
from qfx.nn.casts.lean import LARGE, keeping, unchanged


@dataclass(frozen=True, slots=True)
class QTensor:
    """The exact tensor ``min(act(value * scale + shift + addend), upper)``, batch first, channels on axis 1.

    ``act(v)`` is v for v >= 0 and ``v * negative_slope`` otherwise (1.0: no activation). ``scale`` and ``shift`` have one entry per channel, or
    one for all. ``interval`` bounds the whole expression and names its grid, or that of each channel. Keeping the expression lets the Cast that ends
    it run in one pass over memory, in registers wide enough to be exact; ``tensor()`` carries it out where no Cast follows.

    ``again`` makes the addend once more, the same numbers, of what is alive anyway: so that a backward pass need not keep it. It raises
    a RuntimeError where that has been written into since (``lean.unchanged``).
    """

    value: Tensor
    interval: Bounds
    scale: Tensor | None = None
    shift: Tensor | None = None
    addend: Tensor | None = None
    negative_slope: float = 1.0
    upper: float | None = None
    again: Callable[[], Tensor] | None = None

    @property
    def shape(self) -> torch.Size:
        return self.value.shape

    @property
    def is_plain(self) -> bool:
        """Whether ``value`` is the tensor itself: nothing is left to do."""
        return self.scale is None and self.shift is None and self.addend is None and not self._has_activation

    @property
    def _has_activation(self) -> bool:
        return self.negative_slope != 1.0 or self.upper is not None

    def tensor(self) -> Tensor:
        """The values: float32 where that holds the interval exactly, else float64. Differentiable."""
        if self.is_plain:
            return self.value
        if not self._is_recorded:
            return self._carried_out().to(dtype_of(self.interval, self.value.dtype))
        result = self.value.double()
        if self.scale is not None:
            with keeping({} if result is self.value else {result: unchanged(self.value.double, self.value)}):
                result = result * _per_channel(self.scale, result)
        if self.shift is not None:
            result = result + _per_channel(self.shift, result)
        if self.addend is not None:
            result = result + self.addend
        if self.negative_slope != 1.0:
            result = torch.where(result > 0, result, result * self.negative_slope)
        if self.upper is not None:
            result = torch.where(result < self.upper, result, self.upper)
        return result.to(dtype_of(self.interval, self.value.dtype))

    @property
    def _is_recorded(self) -> bool:
        parts = (self.value, self.scale, self.shift, self.addend)
        return torch.is_grad_enabled() and any(part is not None and part.requires_grad for part in parts)

    def _carried_out(self) -> Tensor:
        """``tensor()`` as float64 where autograd does not look: the same operations on one tensor, written over."""
        result = self.value.to(torch.float64, copy=True)
        if self.scale is not None:
            result.mul_(_per_channel(self.scale, result))
        if self.shift is not None:
            result.add_(_per_channel(self.shift, result))
        if self.addend is not None:
            result.add_(self.addend)
        if self.negative_slope != 1.0:
            F.leaky_relu_(result, self.negative_slope)
        return result if self.upper is None else torch.where(result < self.upper, result, self.upper)

    def operands(self) -> tuple[Tensor, dict[Tensor, Callable[[], Tensor] | None]]:
        """``value`` in the dtype that a Cast computes in, and what makes this or the addend again where a backward pass need not keep it."""
        value, addend = self.value, self.addend
        if addend is None:
            return value, {}
        made = {addend: self.again}
        if value.dtype is not torch.float32 or addend.dtype is not torch.float64:
            return value, made
        wide = value.double()
        return wide, {**made, wide: unchanged(value.double, value)}

    def pending(self) -> dict[str, Any]:
        """What is still to be done to the value, by the names that ``qfx.fixed.kernel.quantize`` has for it."""
        return {"scale": self.scale, "shift": self.shift, "addend": self.addend, "negative_slope": self.negative_slope, "upper": self.upper}

    def plain(self) -> QTensor:
        """The same numbers with nothing left to do."""
        return self if self.is_plain else QTensor(self.tensor(), self.interval)

    def affine(self, scale: Tensor | None, shift: Tensor | None, interval: Bounds, *, where: str = "") -> QTensor:
        """``self * scale + shift`` per channel (or for all), bounded by ``interval``. The constants are exact fixed-point values."""
        check_float64(interval, where)
        if self.addend is not None or self._has_activation:
            return QTensor(self.tensor(), interval, scale, shift)
        # (x * a + b) * c + d = x * (a * c) + (b * c + d), exact in float64
        carried = self.shift if self.shift is None or scale is None else self.shift.double() * scale.double()
        new_shift = _sum(carried, shift)
        new_scale = scale if self.scale is None else self.scale if scale is None else self.scale.double() * scale.double()
        return QTensor(self.value, interval, new_scale, new_shift)

    def add(self, other: QTensor, *, where: str = "") -> QTensor:
        """``self + other``, elementwise, of one shape."""
        interval = check_float64(self.interval + other.interval, where)
        first, second = (other, self) if self.is_plain else (self, other)  # the one that still has work to do keeps it
        if first.addend is not None or first._has_activation:
            first = first.plain()
        return QTensor(first.value, interval, first.scale, first.shift, second.tensor(), again=second._made_again())

    def _made_again(self) -> Callable[[], Tensor] | None:
        """What gives ``tensor()`` once more, where that needs less memory than to keep it."""
        if self.is_plain or self.addend is not None or self.value.dtype is torch.float64 or self.value.numel() < LARGE:
            return None
        return unchanged(self.tensor, self.value, self.scale, self.shift)

    def negated(self) -> QTensor:
        return QTensor(-self.tensor(), -self.interval)

    def relu(self, negative_slope: float, interval: Bounds, *, where: str = "") -> QTensor:
        """x for x >= 0, else ``x * negative_slope`` (0 or a power of two of at most 1)."""
        return self._sloped(negative_slope, check_float64(interval, where))

    def rectified(self, interval: Bounds) -> QTensor:
        """``relu(0.0, interval)`` of an interval that float64 holds."""
        return self._sloped(0.0, interval)

    def _sloped(self, negative_slope: float, interval: Bounds) -> QTensor:
        source = self.plain() if self._has_activation else self
        return QTensor(source.value, interval, source.scale, source.shift, source.addend, negative_slope, None, source.again)

    def clipped_relu(self, upper: float, interval: Bounds, *, where: str = "") -> QTensor:
        """min(max(x, 0), upper)."""
        clipped = self.relu(0.0, interval, where=where)
        return QTensor(clipped.value, interval, clipped.scale, clipped.shift, clipped.addend, 0.0, upper, clipped.again)


def dtype_of(interval: Bounds, at_least: torch.dtype = torch.float32, *, where: str = "") -> torch.dtype:
    """float32 where it holds the interval exactly and ``at_least`` is not wider, else float64. Raises ExactnessError beyond 53 bits."""
    if at_least is not torch.float64 and interval.fits_float32():
        return torch.float32
    check_float64(interval, where)
    return torch.float64


def check_float64(interval: Bounds, where: str = "") -> Bounds:
    """The interval itself; raises ExactnessError, naming the layer ``where``, if float64 cannot hold every channel."""
    if not interval.fits_float64():
        raise ExactnessError(
            f"a result needs {interval.magnitude_bits} bits; float64 holds 53 exactly",
            where=where,
            remedy="bring what is added or multiplied here closer together in size (normalize the inputs, rescale the weights), use shorter words "
            "before it, or let learned binary points move less (`reach` of their Spec)",
        )
    return interval


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a.double() + b.double()


def _per_channel(constant: Tensor, like: Tensor) -> Tensor:
    """A constant of one entry per channel, shaped to multiply a tensor with channels on axis 1."""
    if constant.dim() == 0:
        return constant
    return constant.reshape(-1, *([1] * (like.dim() - 2)))
