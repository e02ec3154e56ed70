"""Layers with weights: linear and convolution. Each computes exactly; Quantizers do the casting."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qfx.errors import DataError, UnsupportedError
from qfx.fixed.arith import Bounds, Channels, Interval
from qfx.nn.backends import refuse_inexact, sums_of_products
from qfx.nn.norm import FoldedNorm, signed_spec
from qfx.nn.qtensor import QTensor, check_float64
from qfx.nn.quantizer import Quantizer, finest
from qfx.recipe import Recipe


class Weighted(nn.Module):
    """Weights, an optional bias, and their quantizers; the float parameters keep the names ``weight`` and ``bias``."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, source: nn.Linear | nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d, recipe: Recipe, name: str) -> None:
        super().__init__()
        self.name = name
        self.weight = source.weight
        self.bias = source.bias
        self.weight_cast = Quantizer(signed_spec(recipe.spec(f"{name}.weight", "weight")), channel_axis=0, name=f"{name}.weight")
        self.bias_cast = Quantizer(signed_spec(recipe.spec(f"{name}.bias", "bias")), channel_axis=0, name=f"{name}.bias")

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
        x = x.plain()
        refuse_inexact(x.value, self.name)
        if norm is not None and norm.recall is not None:
            norm = norm.recall(lambda past: self._summed(x, past)[0])
        value, interval, bias = self._summed(x, norm)
        if norm is not None and norm.observe is not None:
            value = norm.observe(value, None if bias is None else bias.value)
        result = QTensor(value, interval)
        return result if bias is None else result.affine(None, bias.value, interval + bias.interval, where=self.name)

    def _summed(self, x: QTensor, norm: FoldedNorm | None) -> tuple[Tensor, Bounds, QTensor | None]:
        """The sums, their interval, and the bias if it has not joined them."""
        weight, bias = self.constants(norm)
        mixed = x.interval.hull
        products = _sums(mixed, weight.interval, weight.value.numel() // weight.value.shape[0])
        in_float32 = x.value.dtype == weight.value.dtype == torch.float32
        if bias is not None and norm is None and in_float32:
            total = products + bias.interval
            if total.fits_float32():
                return self._operator(x.value, weight.value, bias.value), total, None
        if in_float32 and (products.fits_float32() or _fits_float32(mixed, weight)):
            return self._operator(x.value, weight.value, None), products, bias
        check_float64(products, self.name)
        return self._operator(x.value.double(), weight.value.double(), None), products, bias

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
        with sums_of_products(x.device.type):
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
        with sums_of_products(x.device.type):
            own = _swap_in_groups(weight, self.groups)
            return conv(x, own, bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation)


def _swap_in_groups(weight: Tensor, groups: int) -> Tensor:
    """(groups * a, b, *kernel) as (groups * b, a, *kernel); its own inverse."""
    return weight.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)


def conv_pads(source: nn.Conv1d | nn.Conv2d) -> tuple[tuple[int, int], ...]:
    """(before, after) zeros for each spatial axis, with "same" and "valid" spelled out as PyTorch does."""
    if source.padding == "valid":
        return ((0, 0),) * len(source.kernel_size)
    if source.padding == "same":
        totals = [d * (k - 1) for d, k in zip(source.dilation, source.kernel_size, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((int(p), int(p)) for p in source.padding)


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
