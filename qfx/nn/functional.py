"""Layers without weights: the input, arithmetic between branches, activations, pooling, and what only moves values around."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qfx.errors import DataError
from qfx.fixed.arith import Bounds, Interval, channelwise
from qfx.fixed.type import OMode
from qfx.nn.qtensor import QTensor, dtype_of
from qfx.nn.quantizer import Quantizer
from qfx.nn.recording import refuse_recording
from qfx.recipe import Recipe

Pads = tuple[tuple[int, int], ...]


class QInput(nn.Module):
    """The model's float input and its cast: the first operation of every model.

    Where the spec leaves the sign open, the first data decide, once and for all: a type without one if no number is negative and not all are zero,
    so that images from 0 to 255 lose no bit to it. (AP_WRAP_SM has no such types.)

    Raises DataError for NaN, infinity, a shape other than (batch, *shape), or negative numbers to start from where the first had none.
    """

    def __init__(self, shape: tuple[int, ...], recipe: Recipe) -> None:
        super().__init__()
        self.shape, self.recipe = shape, recipe
        spec = recipe.spec("input", "input")
        self.cast = Quantizer(spec, name="input")

    def initialize(self, x: Tensor) -> None:
        self.initialize_from((x,))

    def initialize_from(self, parts: Iterable[Tensor]) -> None:
        checked = _Checked(self, parts)
        if self.cast.spec.signed is None:
            self._settle_sign(checked)
        self.cast.initialize_from(checked)

    def _settle_sign(self, parts: Iterable[Tensor]) -> None:
        seen = [x.detach().aminmax() for x in parts if x.numel()]
        negative, zero = any(bool(low < 0) for low, _ in seen), all(bool((low == 0) & (high == 0)) for low, high in seen)
        if self.cast.signed is None:
            self.cast.signed = negative or zero or self.cast.spec.o is OMode.WRAP_SM
        elif negative and not self.cast.signed:
            raise DataError(
                "negative numbers, but the data that the model was quantized with had none, so that its type has no sign",
                where="input",
                remedy="quantize the float model again with such data as the example, or with signed = true in the recipe's [input]",
            )

    def forward(self, x: Tensor) -> QTensor:
        refuse_recording()  # here too: torch.export runs the graph node by node, not the model's forward
        return self.cast(self._checked(x))  # type: ignore[no-any-return]

    def _checked(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor) or tuple(x.shape[1:]) != self.shape or x.dim() != len(self.shape) + 1:
            got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise DataError(
                f"got {got}, expected (batch, {', '.join(map(str, self.shape))})", where="input", remedy="give what the model was made for"
            )
        if x.is_complex():
            raise DataError("complex numbers", where="input", remedy="give real ones")
        if not x.is_floating_point():
            x = x.double() if x.dtype in (torch.int32, torch.int64) else x.float()
        if not math.isfinite(x.detach().sum().item()) and not bool(torch.isfinite(x.detach()).all()):  # the sum is cheap, and may overflow
            raise DataError("NaN or infinity", where="input", remedy="clean the data")
        return x


@dataclass(frozen=True, eq=False)
class _Checked:
    """Batches that an input layer takes."""

    layer: QInput
    parts: Iterable[Tensor]

    def __iter__(self) -> Iterator[Tensor]:
        return map(self.layer._checked, self.parts)


class Named(nn.Module):
    """A layer that may refuse what it reads: ``name`` is its place in the network, for the error."""

    name = ""


class QAdd(Named):
    """a + b, exact: operands are aligned to the finer grid."""

    def forward(self, a: QTensor, b: QTensor) -> QTensor:
        return a.add(b, where=self.name)


class QSub(Named):
    """a - b, exact."""

    def forward(self, a: QTensor, b: QTensor) -> QTensor:
        return a.add(b.negated(), where=self.name)


class QMul(Named):
    """a * b elementwise, exact."""

    def forward(self, a: QTensor, b: QTensor) -> QTensor:
        interval = a.interval * b.interval
        dtype = dtype_of(interval, torch.promote_types(a.value.dtype, b.value.dtype), where=self.name)
        return QTensor(a.tensor().to(dtype) * b.tensor().to(dtype), interval)


class QReLU(Named):
    """max(x, 0); exact, and absorbed by the Cast that follows."""

    def forward(self, x: QTensor) -> QTensor:
        return x.relu(0.0, x.interval.relu(), where=self.name)


class QLeakyReLU(Named):
    """x for x >= 0, else x * 2**log2_slope: a shift, so the result is exact on a finer grid."""

    def __init__(self, log2_slope: int) -> None:
        super().__init__()
        self.log2_slope = log2_slope

    def forward(self, x: QTensor) -> QTensor:
        return x.relu(2.0**self.log2_slope, x.interval.leaky_relu(self.log2_slope), where=self.name)


class QReLU6(Named):
    """min(max(x, 0), 6); exact."""

    def forward(self, x: QTensor) -> QTensor:
        return x.clipped_relu(6.0, x.interval.clip(Interval(0, 0, 0), Interval(6, 6, 0)), where=self.name)


class QMaxPool(nn.Module):
    """Greatest value of each window; padding never wins."""

    def __init__(self, kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...], dilation: tuple[int, ...]) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding, self.dilation = kernel, stride, padding, dilation

    def forward(self, x: QTensor) -> QTensor:
        pool = F.max_pool1d if len(self.kernel) == 1 else F.max_pool2d
        return QTensor(pool(x.tensor(), self.kernel, self.stride, self.padding, self.dilation), x.interval)


class QAvgPool(Named):
    """Average of each window: an exact sum times a fixed-point reciprocal; the Cast that follows is the only other rounding."""

    def __init__(
        self, kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...], divisor: int, recipe: Recipe, name: str, first: str = ""
    ) -> None:
        """``first``: what the layer is called in the first call of its module, where this is a later one."""
        super().__init__()
        self.kernel, self.stride, self.padding = kernel, stride, padding
        own, also = f"{name}.reciprocal", f"{first or name}.reciprocal"
        self.reciprocal_cast = Quantizer(recipe.spec(own, "reciprocal", also), signed=False, name=own, also=also)
        self.divisor = divisor

    def initialize(self, x: QTensor) -> None:
        self.reciprocal_cast.initialize(torch.full((), 1.0 / self.divisor, dtype=x.value.dtype, device=x.value.device))

    def reciprocal(self) -> QTensor:
        """The constant 1/n as the hardware sees it."""
        device = self.reciprocal_cast.frac_bits.device
        return self.reciprocal_cast(torch.full((), 1.0 / self.divisor, dtype=torch.float64, device=device))  # type: ignore[no-any-return]

    def forward(self, x: QTensor) -> QTensor:
        count = int(torch.Size(self.kernel).numel())
        interval = (x.interval.with_zero() if any(self.padding) else x.interval).times(count)
        value = x.tensor()
        total = QTensor(self._sum(value.to(dtype_of(interval, value.dtype, where=self.name))), interval)
        reciprocal = self.reciprocal()
        return total.affine(reciprocal.value, None, interval * reciprocal.interval, where=self.name)

    def _sum(self, x: Tensor) -> Tensor:
        axes = tuple(range(2, x.dim()))
        if self.kernel == tuple(x.shape[2:]) and not any(self.padding):
            return x.sum(axes, keepdim=True)
        if len(axes) == 1:  # avg_pool1d cannot leave the division out
            pooled = F.avg_pool2d(x.unsqueeze(2), (1, *self.kernel), (1, *self.stride), (0, *self.padding), divisor_override=1)
            return pooled.squeeze(2)
        return F.avg_pool2d(x, self.kernel, self.stride, self.padding, divisor_override=1)


class QConcat(nn.Module):
    """Joined along the channels, on the finest of the grids; exact."""

    def forward(self, *parts: QTensor) -> QTensor:
        values = [part.tensor() for part in parts]
        interval = channelwise(bound for part in parts for bound in part.interval.spread(part.shape[1]))
        dtype = torch.float64 if any(value.dtype is torch.float64 for value in values) else torch.float32
        return QTensor(torch.cat([value.to(dtype) for value in values], 1), interval)


class QReshape(nn.Module):
    """The same elements in the same order; ``shape`` leaves the batch out."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: QTensor) -> QTensor:
        interval = x.interval if self.shape[0] == x.shape[1] else x.interval.hull
        return QTensor(x.tensor().reshape(-1, *self.shape), interval)


class QPermute(nn.Module):
    """Axes permuted; ``perm`` counts the axes behind the batch from 0."""

    def __init__(self, perm: tuple[int, ...]) -> None:
        super().__init__()
        self.perm = perm

    def forward(self, x: QTensor) -> QTensor:
        interval = x.interval if self.perm[0] == 0 else x.interval.hull
        return QTensor(x.tensor().permute(0, *(axis + 1 for axis in self.perm)), interval)


class QUpsample(nn.Module):
    """Every pixel repeated ``factors`` times along each spatial axis (nearest neighbour); exact."""

    def __init__(self, factors: tuple[int, ...]) -> None:
        super().__init__()
        self.factors = factors

    def forward(self, x: QTensor) -> QTensor:
        value = x.tensor()
        batch, channels, *size = value.shape
        split = [part for n in size for part in (n, 1)]
        repeated = [part for n, factor in zip(size, self.factors, strict=True) for part in (n, factor)]
        joined = [n * factor for n, factor in zip(size, self.factors, strict=True)]
        value = value.reshape(batch, channels, *split).expand(batch, channels, *repeated).reshape(batch, channels, *joined)
        return QTensor(value, x.interval)


class QPad(nn.Module):
    """Zeros around every axis behind the batch, (before, after) each."""

    def __init__(self, pads: Pads) -> None:
        super().__init__()
        self.pads = pads

    def forward(self, x: QTensor) -> QTensor:
        interval: Bounds = x.interval.hull if any(self.pads[0]) else x.interval
        return QTensor(F.pad(x.tensor(), [side for pair in reversed(self.pads) for side in pair]), interval.with_zero())


class QSlice(nn.Module):
    """x[:, start:stop:step, ...] on every axis behind the batch."""

    def __init__(self, starts: tuple[int, ...], stops: tuple[int, ...], steps: tuple[int, ...]) -> None:
        super().__init__()
        self.starts, self.stops, self.steps = starts, stops, steps

    def forward(self, x: QTensor) -> QTensor:
        index = (slice(None), *map(slice, self.starts, self.stops, self.steps))
        channels = x.interval.spread(x.shape[1])[self.starts[0] : self.stops[0] : self.steps[0]]
        return QTensor(x.tensor()[index], channelwise(channels))


class QDropout(nn.Module):
    """Dropout in training (its results leave the grid there, by design); gone at inference and in what is exported."""

    def __init__(self, p: float, channels: bool) -> None:
        super().__init__()
        self.p, self.channels = p, channels

    def forward(self, x: QTensor) -> QTensor:
        if not self.training or self.p == 0.0:
            return x
        drop = F.dropout1d if self.channels and x.value.dim() == 3 else F.dropout2d if self.channels else F.dropout
        return QTensor(drop(x.tensor(), self.p, True), x.interval)


__all__ = [
    "QAdd",
    "QAvgPool",
    "QConcat",
    "QDropout",
    "QInput",
    "QLeakyReLU",
    "QMaxPool",
    "QMul",
    "QPad",
    "QPermute",
    "QReLU",
    "QReLU6",
    "QReshape",
    "QSlice",
    "QSub",
    "QUpsample",
]
