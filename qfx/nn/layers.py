"""Layers with weights: linear, convolution, and BatchNorm in both of its fixed-point forms. Each computes exactly; Quantizers do the casting."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from qfx.errors import DataError, ExactnessError, UnsupportedError
from qfx.fixed.arith import Bounds, Channels, Interval
from qfx.fixed.kernel import channel_moments
from qfx.nn.qtensor import QTensor, check_float64
from qfx.nn.quantizer import Quantizer, finest
from qfx.recipe import Recipe, Spec


class FoldedNorm(NamedTuple):
    """What a folded BatchNorm hands to the layer before it: ``scale`` and ``shift`` per channel, and in training ``observe``, which is shown
    that layer's products and its bias, and gives the products back with the gradient of a normalized batch.
    """

    scale: Tensor
    shift: Tensor
    observe: Callable[[Tensor, Tensor | None], Tensor] | None


class Weighted(nn.Module):
    """Weights, an optional bias, and their quantizers; the float parameters keep the names ``weight`` and ``bias``."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, source: nn.Linear | nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d, recipe: Recipe, name: str) -> None:
        super().__init__()
        self.name = name
        self.weight = source.weight
        self.bias = source.bias
        self.weight_cast = Quantizer(_signed(recipe.spec(f"{name}.weight", "weight")), channel_axis=0, name=f"{name}.weight")
        self.bias_cast = Quantizer(_signed(recipe.spec(f"{name}.bias", "bias")), channel_axis=0, name=f"{name}.bias")

    def initialize(self, x: QTensor, norm: FoldedNorm | None = None) -> None:
        """Choose the binary points from the weights; a bias starts no finer than the products that it is added to."""
        weight, bias = self._float_constants(norm)
        self.weight_cast.initialize(weight)
        if bias is None:
            return
        self.start_bias(bias, x)

    def start_bias(self, bias: Tensor, x: QTensor) -> None:
        """Choose the binary points of the bias: no finer than the products of ``x`` that it joins."""
        self.bias_cast.initialize(bias, most=finest(x.interval.hull * self.weight_cast.interval()))

    def constants(self, norm: FoldedNorm | None = None) -> tuple[QTensor, QTensor | None]:
        """The weight and the bias as the hardware sees them."""
        weight, bias = self._float_constants(norm)
        return (self.weight_cast(weight), None) if bias is None else self.weight_cast.with_another(weight, self.bias_cast, bias)

    def forward(self, x: QTensor, norm: FoldedNorm | None = None) -> QTensor:
        """weight (*) x + bias, exact: in float32 if no partial sum can need more than 24 bits, else in float64. The bias joins the products
        where float32 holds the whole sum, else the Cast that follows."""
        weight, bias = self.constants(norm)
        x = x.plain()
        _refuse_inexact_backends(x.value, self.name)
        mixed = x.interval.hull
        products = _sums(mixed, weight.interval, weight.value.numel() // weight.value.shape[0])
        in_float32 = x.value.dtype == weight.value.dtype == torch.float32
        if bias is None or norm is not None:
            total = products
        else:
            total = products + bias.interval
            if in_float32 and total.fits_float32():
                return QTensor(self._operator(x.value, weight.value, bias.value), total)
        if in_float32 and (products.fits_float32() or _fits_float32(mixed, weight)):
            value = self._operator(x.value, weight.value, None)
        else:
            check_float64(products, self.name)
            value = self._operator(x.value.double(), weight.value.double(), None)
        if norm is not None and norm.observe is not None:
            value = norm.observe(value, None if bias is None else bias.value)
        result = QTensor(value, products)
        return result if bias is None else result.affine(None, bias.value, products + bias.interval, where=self.name)

    def in_float(self, x: QTensor) -> Tensor:
        """The float layer's result on x: what an untrained BatchNorm behind it would take its statistics from."""
        return self._operator(x.tensor().to(self.weight.dtype), self.cast_weight(), self.bias)

    def _float_constants(self, norm: FoldedNorm | None) -> tuple[Tensor, Tensor | None]:
        if norm is None:
            return self.cast_weight(), self.bias
        scale = norm.scale if norm.observe is None else norm.scale.detach()  # then its gradient comes from the products
        weight = self.cast_weight() * scale.reshape(-1, *([1] * (self.weight.dim() - 1)))
        return weight, norm.shift if self.bias is None else norm.shift + self.bias * norm.scale

    def cast_weight(self) -> Tensor:
        """The float weight with the outputs on axis 0, which is how it is cast and how ``_operator`` takes it."""
        return self.weight

    def set_cast_weight(self, weight: Tensor) -> None:
        """Overwrite the float weight by one that has the outputs on axis 0."""
        with torch.no_grad():
            self.weight.copy_(weight)

    def _operator(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        raise NotImplementedError


class QLinear(Weighted):
    """``torch.nn.Linear`` for values of shape (batch, in_features), exact before its result is cast."""

    def __init__(self, source: nn.Linear, recipe: Recipe, name: str) -> None:
        super().__init__(source, recipe, name)
        self.in_features, self.out_features = source.in_features, source.out_features

    def _operator(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if x.dim() != 2:
            raise DataError(f"got a tensor of {x.dim()} axes", where=self.name, remedy="flatten to (batch, features) before a linear layer")
        return F.linear(x, weight, bias)


class QConv(Weighted):
    """``torch.nn.Conv1d`` or ``Conv2d`` (stride, zero padding, dilation, groups), exact before its result is cast."""

    def __init__(self, source: nn.Conv1d | nn.Conv2d, recipe: Recipe, name: str) -> None:
        super().__init__(source, recipe, name)
        self.stride, self.dilation, self.groups = tuple(source.stride), tuple(source.dilation), source.groups
        self.pads = conv_pads(source)

    def _operator(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding = tuple(before for before, _ in self.pads)
        if any(before != after for before, after in self.pads):
            x, padding = F.pad(x, [side for pair in reversed(self.pads) for side in pair]), (0,) * len(self.pads)
        conv = F.conv1d if weight.dim() == 3 else F.conv2d
        with _sums_of_products(x):
            return conv(x, weight, bias, self.stride, padding, self.dilation, self.groups)


class QConvTranspose(Weighted):
    """``torch.nn.ConvTranspose1d`` or ``ConvTranspose2d`` (stride, padding, output padding, dilation, groups), exact before its result is cast.

    ``weight`` keeps PyTorch's shape (in, out / groups, *kernel). It is cast as (out, in / groups, *kernel), so that a binary point per channel is one
    per output channel, as for every other layer. ``size``: the spatial size of the input; UnsupportedError for another.
    """

    def __init__(
        self, source: nn.ConvTranspose1d | nn.ConvTranspose2d, size: tuple[int, ...], output_padding: tuple[int, ...], recipe: Recipe, name: str
    ) -> None:
        super().__init__(source, recipe, name)
        self.kernel, self.stride, self.dilation = tuple(source.kernel_size), tuple(source.stride), tuple(source.dilation)
        self.padding = tuple(int(p) for p in source.padding)
        self.groups, self.size, self.output_padding = source.groups, size, output_padding

    @property
    def pads(self) -> tuple[tuple[int, int], ...]:
        """(before, after) for each spatial axis: the layer is a convolution, by the flipped weight at stride 1, of its input with stride - 1 zeros
        between the pixels and so many around them. A negative number crops."""
        axes = zip(self.kernel, self.dilation, self.padding, self.output_padding, strict=True)
        return tuple((d * (k - 1) - p, d * (k - 1) - p + extra) for k, d, p, extra in axes)

    def cast_weight(self) -> Tensor:
        return _swap_in_groups(self.weight, self.groups)

    def set_cast_weight(self, weight: Tensor) -> None:
        with torch.no_grad():
            self.weight.copy_(_swap_in_groups(weight, self.groups))

    def _operator(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if tuple(x.shape[2:]) != self.size:
            raise UnsupportedError(
                f"is called on {self.size} and on {tuple(x.shape[2:])}", where=self.name, remedy="give each call a module of its own"
            )
        conv = F.conv_transpose1d if weight.dim() == 3 else F.conv_transpose2d
        with _sums_of_products(x):
            own = _swap_in_groups(weight, self.groups)
            return conv(x, own, bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation)


def _swap_in_groups(weight: Tensor, groups: int) -> Tensor:
    """(groups * a, b, *kernel) as (groups * b, a, *kernel); its own inverse."""
    return weight.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)


def _sums_of_products(x: Tensor) -> AbstractContextManager[None]:
    """In this context a convolution of x is computed as such: cuDNN may pick TF32, Winograd or FFT, and NNPACK's is a Winograd convolution."""
    if x.is_cuda:
        return torch.backends.cudnn.flags(enabled=False)
    return torch.backends.nnpack.flags(enabled=False)


def conv_pads(source: nn.Conv1d | nn.Conv2d) -> tuple[tuple[int, int], ...]:
    """(before, after) zeros for each spatial axis, with "same" and "valid" spelled out as PyTorch does."""
    if source.padding == "valid":
        return ((0, 0),) * len(source.kernel_size)
    if source.padding == "same":
        totals = [d * (k - 1) for d, k in zip(source.dilation, source.kernel_size, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((int(p), int(p)) for p in source.padding)


class Norm(nn.Module):
    """BatchNorm's parameters and running statistics under their usual names."""

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, source: nn.BatchNorm1d | nn.BatchNorm2d, name: str) -> None:
        super().__init__()
        self.name = name
        self.eps, self.momentum = source.eps, source.momentum
        self.register_parameter("weight", source.weight)
        self.register_parameter("bias", source.bias)
        for buffer in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(buffer, getattr(source, buffer))

    def affine(self) -> tuple[Tensor, Tensor]:
        """(scale, shift) in float: y = x * scale + shift, from the running statistics."""
        scale = torch.rsqrt(self.running_var + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        shift = -self.running_mean * scale
        return scale, shift if self.bias is None else shift + self.bias

    def update(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics towards a batch's mean and biased variance over ``count`` numbers, as ``torch.nn.BatchNorm2d`` does."""
        with torch.no_grad():
            self.num_batches_tracked += 1
            step = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
            self.running_mean.lerp_(mean.to(self.running_mean), step)
            self.running_var.lerp_((variance * (count / max(count - 1, 1))).to(self.running_var), step)

    @property
    def is_untrained(self) -> bool:
        """Whether no batch ever moved the statistics. The counter alone does not tell: old checkpoints have none."""
        return int(self.num_batches_tracked) == 0 and bool((self.running_mean == 0).all()) and bool((self.running_var == 1).all())

    def start_from(self, x: Tensor) -> None:
        """Take the statistics of ``x``, so that the first forward of an untrained model is normalized."""
        mean, variance = channel_moments(x)
        self.running_mean.copy_(mean)
        self.running_var.copy_(variance)


class QBatchNorm(Norm):
    """BatchNorm as a fixed-point affine step: ``x * scale + shift`` per channel, both cast, the arithmetic exact.

    The scale and shift come from the running statistics in training too, so that the forward value never depends on the mode; training then
    moves the statistics for the next step, as PyTorch's BatchNorm does (``eval()`` on this module freezes them). The gradient by x in training is
    that of a batch normalized by its own statistics (Ioffe and Szegedy, "Batch Normalization", 2015): without it, networks that are trained
    from scratch do not come near their float accuracy.
    """

    def __init__(self, source: nn.BatchNorm1d | nn.BatchNorm2d, recipe: Recipe, name: str) -> None:
        super().__init__(source, name)
        self.scale_cast = Quantizer(_signed(recipe.spec(f"{name}.scale", "scale")), channel_axis=0, name=f"{name}.scale")
        self.shift_cast = Quantizer(_signed(recipe.spec(f"{name}.shift", "shift")), channel_axis=0, name=f"{name}.shift")

    def initialize(self, x: QTensor) -> None:
        if self.is_untrained:
            self.start_from(x.tensor())
        scale, shift = self.affine()
        self.scale_cast.initialize(scale)
        self.shift_cast.initialize(shift, most=finest(x.interval * self.scale_cast.interval()))

    def constants(self) -> tuple[QTensor, QTensor]:
        """The scale and the shift as the hardware sees them."""
        scale, shift = self.affine()
        return self.scale_cast.with_another(scale, self.shift_cast, shift)

    def forward(self, x: QTensor) -> QTensor:
        scale, shift = self.constants()
        interval = x.interval * scale.interval + shift.interval
        if not self.training:
            return x.affine(scale.value, shift.value, interval, where=self.name)
        value = x.tensor()
        mean, variance = channel_moments(value)
        value = _BatchGradient.apply(value, None, mean, torch.rsqrt(variance + self.eps))  # type: ignore[no-untyped-call]
        self.update(mean, variance, value.numel() // value.shape[1])
        return QTensor(value, x.interval).affine(scale.value, shift.value, interval, where=self.name)


class QFoldedBatchNorm(Norm):
    """BatchNorm folded into the layer before it: that layer casts ``weight * scale`` and ``bias * scale + shift``.

    In training the running statistics are moved by what the folded layer's result says about the unfolded one's; those of a channel whose
    scale is 0 stay.
    """

    def forward(self) -> FoldedNorm:
        scale, shift = self.affine()
        return FoldedNorm(scale, shift, self._observe if self.training else None)

    def _observe(self, products: Tensor, bias: Tensor | None) -> Tensor:
        """``products``: the folded layer's result before its bias. Its moments are the unfolded layer's, times scale (bias not counted)."""
        scale, shift = self.affine()
        exact_scale = scale.detach().double()
        silent = exact_scale.abs() < 1e-12  # a channel of weight zero says nothing about the unfolded layer
        exact_scale = torch.where(silent, torch.ones_like(exact_scale), exact_scale)
        mean, variance = channel_moments(products)
        carried = shift.detach().double()
        offset = 0.0 if bias is None else (bias.detach().double() - carried) / exact_scale  # the unfolded layer's own bias
        unfolded = variance / exact_scale.square()
        old_mean, old_variance = self.running_mean.clone(), self.running_var.clone()
        self.update(mean / exact_scale + offset, unfolded, products.numel() // products.shape[1])
        self.running_mean.copy_(torch.where(silent, old_mean, self.running_mean))
        self.running_var.copy_(torch.where(silent, old_variance, self.running_var))
        inverse_deviation = torch.rsqrt(unfolded + self.eps) / exact_scale.abs()
        return _BatchGradient.apply(products, scale, mean, inverse_deviation)  # type: ignore[no-any-return, no-untyped-call]


class _BatchGradient(torch.autograd.Function):
    """``x`` itself, with the gradient of BatchNorm in training.

    ``mean`` and ``inverse_deviation``: those of the batch, per channel. With n = (x - mean) * inverse_deviation, the gradient g becomes
    g - mean(g) - n * mean(g * n): what changing x does to a result that is normalized anew for every batch. If x is a product with ``scale`` per
    channel whose own gradient was cut off, that is sum(g * x) / scale (0 where the scale is 0).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor | None, mean: Tensor, inverse_deviation: Tensor) -> Tensor:
        ctx.save_for_backward(x, scale, mean, inverse_deviation)
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, mean, inverse_deviation = ctx.saved_tensors
        mean, inverse_deviation = mean.to(x), inverse_deviation.to(x)
        wanted = [True, scale is not None, scale is not None]
        by_x, by_n, total = torch.ops.aten.native_batch_norm_backward(
            grad.contiguous(), x, inverse_deviation.reciprocal(), None, None, mean, inverse_deviation, True, 0.0, wanted
        )
        if scale is None:
            return by_x, None, None, None
        by_scale = (by_n / inverse_deviation + mean * total) / scale
        return by_x, torch.where(scale.abs() < 1e-12, torch.zeros_like(scale), by_scale.to(scale)), None, None


def _signed(spec: Spec) -> Spec:
    """Constants are signed unless the recipe says otherwise."""
    return spec if spec.signed is not None else replace(spec, signed=True)


@lru_cache(maxsize=4096)
def _sums(x: Interval, weight: Bounds, terms: int) -> Bounds:
    """What ``terms`` products can add up to, whatever the weights; partial sums and padding included."""
    return (x.with_zero() * weight).times(terms)


def _fits_float32(x: Interval, weight: QTensor) -> bool:
    """Whether these very weights keep every partial sum within float32's 24 bits (the word lengths alone allow more)."""
    with torch.no_grad():
        rows = weight.value.detach().abs().flatten(1).sum(1)
        if isinstance(weight.interval, Channels):
            grids = [interval.frac_bits for interval in weight.interval.channels]
            largest = float((rows.double() * torch.exp2(torch.tensor(grids, dtype=torch.float64, device=rows.device))).max())
        else:
            grids = [weight.interval.frac_bits]
            largest = float(rows.max()) * 2.0 ** grids[0]
    bound = largest * 1.001 * max(abs(x.lo), abs(x.hi))  # 1.001: the sum itself was rounded
    return bound <= 2.0**24 and x.frac_bits + min(grids) >= -100 and x.frac_bits + max(grids) <= 120


def _refuse_inexact_backends(x: Tensor, name: str) -> None:
    if torch.get_float32_matmul_precision() != "highest":
        raise ExactnessError("float32 products may be rounded", where=name, remedy='call torch.set_float32_matmul_precision("highest")')
    if torch.is_autocast_enabled(x.device.type):
        raise ExactnessError("autocast is on", where=name, remedy="run fixed-point layers outside torch.autocast")
    if x.is_cuda and torch.backends.cuda.matmul.allow_tf32:
        raise ExactnessError("TF32 is on", where=name, remedy="set torch.backends.cuda.matmul.allow_tf32 = False")
