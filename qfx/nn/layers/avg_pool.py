"""Average pooling, also adaptive, and the mean over all spatial axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qfx import operators as ops
from qfx.nn.call import Call, Family, Layers, Part, adaptive_window, pool_window
from qfx.nn.clipped import Clipped
from qfx.nn.fixed_layer import FixedLayer, Steps, Traits, constant
from qfx.nn.layers.reductions.reduce import QReduceMean, reduced_mean
from qfx.nn.layers.reshape import QReshape
from qfx.nn.qtensor import QTensor, dtype_of
from qfx.nn.quantizer import Quantizer
from qfx.recipe import Recipe


class QAvgPool(FixedLayer):
    """Average of each window: an exact sum times a fixed-point reciprocal; the Cast that follows is the only other rounding."""

    traits = Traits(moves_only=False, keeps_grid=False, reads_uncast=False)

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

    def operators(self) -> Steps:
        total = ops.SumPool(self.kernel, self.stride, tuple((p, p) for p in self.padding))
        return [(".sum", total), ("", ops.Affine(constant(self.reciprocal().value, "reciprocal"), None))]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        factor, x = math.prod(self.kernel) / self.divisor, sources[0]
        return Clipped(x.mean * factor, x.std * factor, x.low * factor, x.high * factor)

    def scales_channels(self, channels: int) -> bool:
        return True


def _avg_pool(call: Call) -> Layers:
    kernel, stride, padding, _ = pool_window(call)
    if any(padding) and not call.get("count_include_pad", True):
        remedy = "train with the padding counted (count_include_pad=True), or without padding"
        raise call.refuse("average pooling with padding and count_include_pad=False", remedy)
    divisor = int(call.get("divisor_override", math.prod(kernel)))
    if divisor < 1:
        raise call.refuse(f"divisor_override={divisor}", "divide by a number of at least 1")
    return [QAvgPool(kernel, stride, padding, divisor, call.recipe, call.path, call.first)]


def _adaptive_avg_pool(call: Call) -> Layers:
    kernel = adaptive_window(call)
    return [QAvgPool(kernel, kernel, (0,) * len(kernel), math.prod(kernel), call.recipe, call.path, call.first)]


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
    layers=(QAvgPool, QReduceMean, QReshape),
    modules={
        nn.AvgPool1d: _avg_pool,
        nn.AvgPool2d: _avg_pool,
        nn.AdaptiveAvgPool1d: _adaptive_avg_pool,
        nn.AdaptiveAvgPool2d: _adaptive_avg_pool,
    },
    functions={
        F.avg_pool1d: (_ARGUMENTS, _avg_pool),
        F.avg_pool2d: (_ARGUMENTS, _avg_pool),
        F.adaptive_avg_pool1d: ("input output_size", _adaptive_avg_pool),
        F.adaptive_avg_pool2d: ("input output_size", _adaptive_avg_pool),
        torch.mean: ("input dim keepdim", _mean),
    },
    methods={"mean": ("input dim keepdim", _mean)},
)
