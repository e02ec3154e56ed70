"""Average pooling, also adaptive, and the mean over all spatial axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qfx import operators as ops
from qfx.ir.values import Pads
from qfx.nn.call import Call, Family, Layers, Part
from qfx.nn.clipped import Clipped
from qfx.nn.fixed_layer import FixedLayer, Steps, Traits, constant
from qfx.nn.layers.elementwise.held import kept_form
from qfx.nn.layers.moving.take import QTake
from qfx.nn.layers.pad import QPad
from qfx.nn.layers.reductions.reduce import QReduceMean, reduced_mean
from qfx.nn.layers.resampling.windows import adaptive_windows, laid_out
from qfx.nn.layers.reshape import QReshape
from qfx.nn.layers.upsample import QUpsample, repeated
from qfx.nn.qtensor import QTensor, dtype_of
from qfx.nn.quantizer import Quantizer
from qfx.recipe import Recipe


class QAvgPool(FixedLayer):
    """Average of each window: an exact sum times a fixed-point reciprocal; the Cast that follows is the only other rounding."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    reciprocal_cast: Quantizer

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=False, reads_uncast=False)

    def __init__(
        self,
        kernel: tuple[int, ...],
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        divisor: int,
        recipe: Recipe,
        name: str,
        first: str = "",
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
        pool = F.avg_pool2d if len(axes) == 2 else F.avg_pool3d
        return pool(x, self.kernel, self.stride, self.padding, divisor_override=1)

    def operators(self) -> Steps:
        total = ops.SumPool(self.kernel, self.stride, tuple((p, p) for p in self.padding))
        return [(".sum", total), ("", ops.Affine(constant(self.reciprocal().value, "reciprocal"), None))]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        factor, x = math.prod(self.kernel) / self.divisor, sources[0]
        return Clipped(x.mean * factor, x.std * factor, x.low * factor, x.high * factor)

    def scales_channels(self, channels: int) -> bool:
        return True


class QPartialAvgPool(FixedLayer):
    """Average of windows that do not all hold equally many numbers (padding that does not count, a last window that sticks out): an exact sum times
    the fixed-point reciprocal of each window; the Cast that follows is the only other rounding."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pads: Pads
    reciprocal_cast: Quantizer
    form: tuple[int, ...]
    factor: float

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=False, reads_uncast=False)

    def __init__(self, kernel: tuple[int, ...], stride: tuple[int, ...], pads: Pads, divisors: Tensor, factor: float, call: Call) -> None:
        """``divisors``: (1, *output size), what each window is divided by. ``factor``: the mean over windows of what all numbers 1 would give."""
        super().__init__()
        self.kernel, self.stride, self.pads = kernel, stride, pads
        own, also = f"{call.path}.reciprocal", f"{call.first or call.path}.reciprocal"
        self.reciprocal_cast = Quantizer(call.recipe.spec(own, "reciprocal", also), signed=False, channel_axis=0, name=own, also=also)
        self.form, self.factor = kept_form(tuple(divisors.shape)), factor
        self.register_buffer("divisors", divisors, persistent=False)

    def initialize(self, x: QTensor) -> None:
        self.reciprocal_cast.initialize(self._real().to(x.value))

    def _real(self) -> Tensor:
        return self.get_buffer("divisors").double().reciprocal().reshape(self.form)

    def reciprocals(self) -> QTensor:
        """The constants as the hardware sees them."""
        return self.reciprocal_cast(self._real())  # type: ignore[no-any-return]

    def forward(self, x: QTensor) -> QTensor:
        interval, value = x.interval.with_zero().times(math.prod(self.kernel)), x.tensor()
        value = F.pad(value.to(dtype_of(interval, value.dtype, where=self.name)), [side for pair in reversed(self.pads) for side in pair])
        if len(self.kernel) == 1:  # avg_pool1d cannot leave the division out
            total = F.avg_pool2d(value.unsqueeze(2), (1, *self.kernel), (1, *self.stride), divisor_override=1).squeeze(2)
        else:
            pool = F.avg_pool2d if len(self.kernel) == 2 else F.avg_pool3d
            total = pool(value, self.kernel, self.stride, divisor_override=1)
        reciprocals = self.reciprocals()
        bounds = interval * reciprocals.interval
        dtype = dtype_of(bounds, total.dtype, where=self.name)
        return QTensor(total.to(dtype) * reciprocals.value.to(dtype), bounds)

    def operators(self) -> Steps:
        grids = self.reciprocal_cast.channel_grids(1) if self.form else None
        scale = constant(self.reciprocals().value, "reciprocal", grids)
        return [(".sum", ops.SumPool(self.kernel, self.stride, self.pads)), ("", ops.Affine(scale, None))]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        factor, x = self.factor, sources[0]
        return Clipped(x.mean * factor, x.std * factor, x.low * factor, x.high * factor)

    def scales_channels(self, channels: int) -> bool:
        return True


def _avg_pool(call: Call) -> Layers:
    rank = call.spatial_rank()
    kernel = call.sizes("kernel_size", None, rank)
    stride, padding = call.sizes("stride", kernel, rank) or kernel, call.sizes("padding", 0, rank)
    divisor = call.get("divisor_override")
    if divisor is not None and int(divisor) < 1:
        raise call.refuse(f"divisor_override={divisor}", "divide by a number of at least 1")
    sizes = zip(call.in_shape[1:], call.out_shape[1:], kernel, stride, padding, strict=True)
    pads = tuple((p, p + max((out - 1) * s + k - n - 2 * p, 0)) for n, out, k, s, p in sizes)  # ceil_mode: the last window may stick out
    divisors = _counts(call, kernel, stride, padding, pads, padding_counts=bool(call.get("count_include_pad", True)))
    if divisor is not None:
        divisors = torch.full_like(divisors, int(divisor))
    if pads == tuple((p, p) for p in padding) and bool((divisors == divisors.flatten()[0]).all()):
        return [QAvgPool(kernel, stride, padding, int(divisors.flatten()[0]), call.recipe, call.path, call.first)]
    held = _counts(call, kernel, stride, padding, pads, padding_counts=False)
    return [QPartialAvgPool(kernel, stride, pads, divisors, float((held / divisors).mean()), call)]


def _counts(call: Call, kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...], pads: Pads, *, padding_counts: bool) -> Tensor:
    """How many numbers are counted in each window: (1, *output size); what ceil_mode adds never is."""
    counted = torch.ones(1, *call.in_shape[1:], dtype=torch.float64)
    ring = [p for p in reversed(padding) for _ in range(2)]
    counted = F.pad(counted, ring, value=float(padding_counts))
    counted = F.pad(counted, [side for (_, after), p in zip(reversed(pads), reversed(padding), strict=True) for side in (0, after - p)])
    for axis, (k, s) in enumerate(zip(kernel, stride, strict=True), start=1):
        counted = counted.unfold(axis, k, s).sum(-1)
    return counted


def _adaptive_avg_pool(call: Call) -> Layers:
    windows = adaptive_windows(call)
    if all(axis.kernel == 1 for axis in windows) and call.out_shape != call.in_shape:  # to more than there were: pixels repeated
        return repeated(call.in_shape[1:], [axis.order(None) for axis in windows])
    parts, kernel, stride = laid_out(windows, zeros=True)
    lengths = torch.ones(1, dtype=torch.float64)
    for axis in windows:
        lengths = lengths[..., None] * torch.tensor(axis.lengths, dtype=torch.float64)
    if any(axis.uneven for axis in windows):
        pool: FixedLayer = QPartialAvgPool(kernel, stride, ((0, 0),) * len(kernel), lengths, 1.0, call)
    else:
        pool = QAvgPool(kernel, stride, (0,) * len(kernel), math.prod(kernel), call.recipe, call.path, call.first)
    return [*parts, Part(pool, (parts[-1] if parts else 0,))]


def _mean(call: Call) -> Layers:
    rank = len(call.in_shape) + 1
    dims = call.get("dim", ())
    axes = {axis % rank for axis in ((dims,) if isinstance(dims, int) else dims)}
    if rank < 3 or axes != set(range(2, rank)):
        return reduced_mean(call)
    kernel = call.in_shape[1:] if rank < 5 else (math.prod(call.in_shape[1:]),)  # more than two spatial axes as one
    pool = QAvgPool(kernel, kernel, (0,) * len(kernel), math.prod(kernel), call.recipe, call.path, call.first)
    if rank > 4:
        flat = Part(QReshape((call.in_shape[0], *kernel)), (0,), "_flat")
        pooled = Part(pool, (flat,))
        return [flat, pooled, Part(QReshape(call.out_shape), (pooled,), "_1")]
    return [pool] if call.out_shape == (call.in_shape[0], *(1,) * len(kernel)) else [pool, QReshape(call.out_shape)]


_ARGUMENTS = "input kernel_size stride padding ceil_mode count_include_pad divisor_override"

FAMILY = Family(
    layers=(QAvgPool, QPartialAvgPool, QReduceMean, QReshape, QPad, QTake, QUpsample),
    modules={
        nn.AvgPool1d: _avg_pool,
        nn.AvgPool2d: _avg_pool,
        nn.AvgPool3d: _avg_pool,
        nn.AdaptiveAvgPool1d: _adaptive_avg_pool,
        nn.AdaptiveAvgPool2d: _adaptive_avg_pool,
        nn.AdaptiveAvgPool3d: _adaptive_avg_pool,
    },
    functions={
        F.avg_pool1d: (_ARGUMENTS, _avg_pool),
        F.avg_pool2d: (_ARGUMENTS, _avg_pool),
        F.avg_pool3d: (_ARGUMENTS, _avg_pool),
        F.adaptive_avg_pool1d: ("input output_size", _adaptive_avg_pool),
        F.adaptive_avg_pool2d: ("input output_size", _adaptive_avg_pool),
        F.adaptive_avg_pool3d: ("input output_size", _adaptive_avg_pool),
        torch.mean: ("input dim keepdim", _mean),
    },
    methods={"mean": ("input dim keepdim", _mean)},
)
