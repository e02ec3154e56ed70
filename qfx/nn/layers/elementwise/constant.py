"""Arithmetic with constants: a factor, a summand, and powers of two, which only move the binary point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from qfx import operators as ops
from qfx.fixed.arith import Bounds
from qfx.nn.clipped import Clipped
from qfx.nn.fixed_layer import FixedLayer, Own, Steps, Traits
from qfx.nn.layers.elementwise.held import Held, HeldConstant
from qfx.nn.qtensor import QTensor, dtype_of
from qfx.recipe import Recipe


class QScaleBy(FixedLayer):
    """x times plus or minus a power of two: the binary point moves; exact, and nothing is computed (a minus apart). The gradient is the factor's."""

    sign: int
    exponent: int

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=True, reads_uncast=True)

    def __init__(self, sign: int, exponent: int) -> None:
        super().__init__()
        self.sign, self.exponent = sign, exponent

    def forward(self, x: QTensor) -> QTensor:
        factor = torch.full((), self.sign * 2.0**self.exponent, dtype=x.value.dtype, device=x.value.device)
        return x.affine(factor, None, self._bounds(x.interval), where=self.name)

    def _bounds(self, x: Bounds) -> Bounds:
        moved = x.shifted(self.exponent)
        return moved if self.sign > 0 else -moved

    def operators(self) -> Steps:
        return [("", ops.Affine(ops.Const.of(self.sign * 2.0**self.exponent), None))]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        return scaled(sources[0], torch.tensor([self.sign * 2.0**self.exponent], dtype=torch.float64))

    def scales_channels(self, channels: int) -> bool:
        return True


class WithConstant(FixedLayer, abstract=True):
    """It has one constant, of role ``constant``."""

    constant: HeldConstant

    def __init__(self, source: Held, recipe: Recipe, name: str, first: str = "") -> None:
        """``first``: what the layer is called in the first call of its module, where this is a later one."""
        super().__init__()
        own, also = f"{name}.constant", f"{first or name}.constant"
        self.constant = HeldConstant(source, recipe.spec(own, "constant", also), own, also)

    def scales_channels(self, channels: int) -> bool:
        return False


class QMulConstant(WithConstant):
    """x times a constant that is cast, exact; the constant has one entry, one per channel, or one per element. Gradients: those of the product."""

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=False, reads_uncast=True)

    def initialize(self, x: QTensor) -> None:
        self.constant.initialize(None)

    def forward(self, x: QTensor) -> QTensor:
        constant: QTensor = self.constant()
        interval = x.interval * constant.interval
        if constant.value.dim() < 2:
            return x.affine(constant.value, None, interval, where=self.name)
        dtype = dtype_of(interval, torch.promote_types(x.value.dtype, constant.value.dtype), where=self.name)
        return QTensor(x.tensor().to(dtype) * constant.value.to(dtype), interval)

    def multiplied(self, bits: Sequence[torch.Tensor], own: Own) -> torch.Tensor:
        factor = own(self.constant.cast, self.constant().value.shape)
        return bits[0] * (factor.reshape(-1, *([1] * (bits[0].dim() - 2))) if factor.dim() == 1 else factor)

    def operators(self) -> Steps:
        return [("", ops.Affine(self.constant.const(f"{self.name}.constant"), None))]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        factor, square = self.constant.moments()
        if len(self.constant.form) < 2:
            return scaled(sources[0], factor)
        mean, variance = sources[0].moments()
        return Clipped.normal(mean * factor, ((variance + mean.square()) * square - (mean * factor).square()).clamp(min=0).sqrt())

    def scales_channels(self, channels: int) -> bool:
        return True

    def bits_added(self, recipe: Recipe) -> int:
        return recipe.constant.width


class QAddConstant(WithConstant):
    """x plus or minus a constant that is cast, or the constant minus x (``value_sign`` -1); exact. Gradients: those of the sum."""

    value_sign: int
    constant_sign: int

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=False, reads_uncast=True)

    def __init__(self, source: Held, recipe: Recipe, name: str, first: str = "", *, value_sign: int = 1, constant_sign: int = 1) -> None:
        super().__init__(source, recipe, name, first)
        self.value_sign, self.constant_sign = value_sign, constant_sign

    def initialize(self, x: QTensor) -> None:
        self.constant.initialize(x.interval)

    def forward(self, x: QTensor) -> QTensor:
        constant: QTensor = self.constant()
        shift, bounds = (constant.value, constant.interval) if self.constant_sign > 0 else (-constant.value, -constant.interval)
        interval = (x.interval if self.value_sign > 0 else -x.interval) + bounds
        if shift.dim() < 2:
            factor = None if self.value_sign > 0 else torch.full((), -1.0, dtype=x.value.dtype, device=x.value.device)
            return x.affine(factor, shift, interval, where=self.name)
        summand = QTensor(shift.expand(x.shape).contiguous(), bounds)
        return (x if self.value_sign > 0 else x.negated()).add(summand, where=self.name)

    def operators(self) -> Steps:
        scale = None if self.value_sign > 0 else ops.Const.of(-1.0)
        return [("", ops.Affine(scale, self.constant.const(f"{self.name}.constant", negated=self.constant_sign < 0)))]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        shift, square = self.constant.moments()
        x = scaled(sources[0], torch.full((1,), float(self.value_sign), dtype=torch.float64))
        if len(self.constant.form) < 2:
            shift = shift * self.constant_sign
            return Clipped(x.mean + shift, x.std.expand_as(x.mean + shift), x.low + shift, x.high + shift)
        mean, variance = x.moments()
        return Clipped.normal(mean + shift * self.constant_sign, (variance + square - shift.square()).clamp(min=0).sqrt())


def scaled(x: Clipped, factor: torch.Tensor) -> Clipped:
    """What x times a factor (one, or one for each channel) takes."""
    factor = factor.to(x.mean)
    low, high = _product(x.low, factor), _product(x.high, factor)
    mean, std = x.mean * factor, x.std * factor.abs()
    return Clipped(mean, std, torch.minimum(low, high), torch.maximum(low, high))


def _product(bound: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """A bound times a factor, 0 times infinity being 0."""
    return torch.where(factor == 0, torch.zeros_like(bound * 0 + factor).nan_to_num(0.0), bound * factor)
