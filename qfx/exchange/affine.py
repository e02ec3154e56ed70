"""``Affine``: a fake-quantization with any scale and zero point, as another tool computes it in float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn

from qfx.errors import UnsupportedError
from qfx.exchange.grid import Grid, grid, narrowest


class Float(Enum):
    """How float32 gets from a number to its integer: which tools differ in, where scales are no powers of two."""

    THEN_ZERO = "round(x * (1 / scale)) + zero: quantized_decomposed of PyTorch, quantize_affine of torchao"
    WITH_ZERO = "round(x * (1 / scale) + zero): fake_quantize of PyTorch"
    DIVIDED = "round(x / scale + zero): Brevitas"


@dataclass(frozen=True)
class Affine:
    """``(clamp(round(x / scale) + zero, low, high) - zero) * scale``; one scale and zero point, or one for each index along ``axis``."""

    scales: tuple[float, ...]
    zeros: tuple[int, ...]
    low: int
    high: int
    axis: int | None = None
    float_: Float = Float.THEN_ZERO

    def checked(self, where: str) -> Affine:
        """Itself. Raises UnsupportedError for scales that are no positive numbers, a range that is none, and zero points outside of int32."""
        if not all(0 < scale < float("inf") for scale in self.scales):
            wrong = next(scale for scale in self.scales if not 0 < scale < float("inf"))
            raise UnsupportedError(f"has the scale {wrong:g}", where=where, remedy="give a scale that is a finite number above 0")
        if self.low >= self.high or any(not -(2**31) <= zero < 2**31 for zero in self.zeros):
            what = f"has the integers {self.low} to {self.high} and the zero point {self.zeros[0]}"
            raise UnsupportedError(what, where=where, remedy="give a range of integers and a zero point of int32")
        return self

    def grid(self, where: str, *, nearest: bool, constant: bool = False) -> Grid:
        """As a fixed-point type. ``constant``: of numbers that are given, for which any range that holds them is as good.

        Raises UnsupportedError for scales that are no powers of two (but ``nearest``) and zero points where no grid has them."""
        if not constant and self.float_ is not Float.THEN_ZERO and self.zeros[0] % 2:
            what = f"has the odd zero point {self.zeros[0]}, which ties are rounded with"
            raise UnsupportedError(what, where=where, remedy=_INTEGERS)
        low, high = self.low - max(self.zeros), self.high - min(self.zeros)
        try:
            if len(set(self.zeros)) > 1 and not constant:
                raise UnsupportedError("has a zero point for each channel", where=where, remedy=_INTEGERS)
            width, signed, narrow = narrowest(low, high, where)
        except UnsupportedError:
            if not constant:
                what = f"has the zero point {self.zeros[0]} in {self.low} ... {self.high}, where a fixed-point grid has none"
                raise UnsupportedError(what, where=where, remedy=_INTEGERS) from None
            width, signed, narrow = max(-low - 1, high).bit_length() + 1, True, False
        scale = torch.tensor(self.scales, dtype=torch.float64).numpy()
        settings = {"signed": signed, "narrow": narrow, "rounding": "ROUND", "where": where, "nearest": nearest}
        return grid(scale, 0, width, axis_of=self.axis, **settings)  # type: ignore[arg-type]


_INTEGERS = "quantize symmetrically, or take its integers as they are: qfx.integers_of (qfx import --integers)"


class AffineCast(nn.Module):
    """The fake-quantization in a network, in the float32 operations of its source. ``label``: what messages call it; ``place``: its path;
    ``marks``: what a forward is to see in place of its result."""

    affine: Affine
    label: str
    place: str

    one_piece = True
    """For capture, which does not look inside."""

    scale: Tensor
    zero: Tensor
    inverse: Tensor

    def __init__(self, affine: Affine, label: str) -> None:
        super().__init__()
        self.affine, self.label, self.place = affine, label, f"{label}_cast"
        self.marks: Callable[[Tensor], Tensor] | None = None
        self.register_buffer("scale", torch.tensor(affine.scales, dtype=torch.float32))
        self.register_buffer("inverse", (1.0 / torch.tensor(affine.scales, dtype=torch.float64)).float())
        self.register_buffer("zero", torch.tensor(affine.zeros, dtype=torch.float32))

    def integers(self, x: Tensor) -> Tensor:
        """The stored integers, in float32."""
        scale, inverse, zero = (self._along(part, x) for part in (self.scale, self.inverse, self.zero))
        affine = self.affine
        if affine.float_ is Float.THEN_ZERO:
            whole = torch.round(x * inverse) + zero
        elif affine.float_ is Float.WITH_ZERO:
            whole = torch.round(x * inverse + zero)
        else:
            whole = torch.round(x / scale + zero)
        return whole.clamp(affine.low, affine.high)

    def numbers(self, integers: Tensor) -> Tensor:
        """What stored integers stand for."""
        return (integers - self._along(self.zero, integers)) * self._along(self.scale, integers)

    def forward(self, x: Tensor) -> Tensor:
        result = self.numbers(self.integers(x))
        return result if self.marks is None else self.marks(result)

    def _along(self, part: Tensor, x: Tensor) -> Tensor:
        axis, count = self.affine.axis, max(self.scale.numel(), self.zero.numel())
        if axis is None or count == 1:
            return part[:1].reshape(())
        if axis >= x.dim() or x.shape[axis] != count:
            what = f"{count} scales along axis {axis} of a tensor of shape {tuple(x.shape)}"
            raise UnsupportedError(what, where=self.label, remedy="give one scale for each channel")
        shape = [1] * x.dim()
        shape[axis] = count
        return part.expand(count).reshape(shape)

    def extra_repr(self) -> str:
        return str(self.affine)
