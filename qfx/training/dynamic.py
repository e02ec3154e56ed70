"""Training in dynamic fixed point: tensors of 16-bit integers with a shared exponent, products summed in 32 bits, exactly as such hardware would.

A tensor is raw * 2**exponent: integers of ``bits`` bits, signed, and one exponent, the least with which the greatest number fits; rounding is to
nearest, ties to even. A product of two such tensors is a product of integers: sums of at most ``chain`` products in an accumulator of 32 bits, which
wraps as C's integers do on such hardware; each such sum becomes a float32, is scaled by both exponents, and added up in float32, in order. Forward,
the gradient of the input and that of the weight are all computed so; updates are float32.

Source: Das et al., "Mixed Precision Training of Convolutional Neural Networks using Integer Operations", ICLR 2018, arXiv 1802.00930 (the format
DFP-16, one exponent a tensor, INT16 products in INT32 chains that are cut short and go on in FP32). Its abstract was at hand: the length of chains is
ours.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qfx.errors import QfxError
from qfx.nn.layers.conv import Geometry, unfolded
from qfx.training.products import is_plain, layers_to_change, replace

ACCUMULATOR_BITS = 32


class Dynamic(NamedTuple):
    """raw * 2**exponent; raw is float64 and integral."""

    raw: Tensor
    exponent: int


def dynamic(x: Tensor, bits: int = 16) -> Dynamic:
    """The nearest tensor of ``bits`` bits with one exponent.

    >>> dynamic(torch.tensor([1.0, -0.3]), 4)
    Dynamic(raw=tensor([ 4., -1.], dtype=torch.float64), exponent=-2)
    """
    top = float(x.detach().abs().max()) if x.numel() else 0.0
    most = (1 << bits - 1) - 1
    exponent = int(torch.frexp(torch.tensor(top, dtype=torch.float64)).exponent) - (bits - 1) if top else 0
    raw = torch.round(x.detach().double() * 2.0**-exponent)
    return Dynamic(raw.clamp(-most, most), exponent)


def product(a: Dynamic, b: Dynamic, chain: int) -> Tensor:
    """a (..., n, k) times b (..., k, m) in float32, by integers as above."""
    total = torch.zeros((), dtype=torch.float32, device=a.raw.device)
    for first in range(0, a.raw.shape[-1], chain):
        exact = a.raw[..., first : first + chain] @ b.raw[..., first : first + chain, :]  # below 2**53 for all chains that are allowed
        half = 2.0 ** (ACCUMULATOR_BITS - 1)
        wrapped = torch.remainder(exact + half, 2 * half) - half
        total = total + (wrapped.float() * 2.0 ** (a.exponent + b.exponent))
    return total


class _Products(torch.autograd.Function):
    """x (groups, n, k) times weight (groups, m, k), transposed; one exponent for all groups."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bits: int, chain: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.bits, ctx.chain = bits, chain
        return product(dynamic(x, bits), Dynamic(*_turned(dynamic(weight, bits))), chain)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, weight = ctx.saved_tensors
        g = dynamic(grad, ctx.bits)
        by_x = product(g, dynamic(weight, ctx.bits), ctx.chain)
        by_weight = product(Dynamic(*_turned(g)), dynamic(x, ctx.bits), ctx.chain)
        return by_x.to(x.dtype), by_weight.to(weight.dtype), None, None


def _turned(held: Dynamic) -> tuple[Tensor, int]:
    return held.raw.transpose(-2, -1), held.exponent


class DynamicLayer(nn.Module):
    """A linear layer or a convolution whose products are integers; parameters by the same names."""

    weight: Any
    bias: Any
    bits: int
    chain: int
    geometry: Geometry | None
    padding_mode: str

    def __init__(self, layer: Any, bits: int, chain: int) -> None:
        super().__init__()
        self.weight, self.bias, self.bits, self.chain = layer.weight, layer.bias, bits, chain
        self.geometry = None if isinstance(layer, nn.Linear) else Geometry.of(layer)
        self.padding_mode = getattr(layer, "padding_mode", "zeros")

    def forward(self, x: Tensor) -> Tensor:
        if self.geometry is None:
            flat = self._products(x.reshape(1, -1, x.shape[-1]), self.weight[None])
            found = flat.reshape(*x.shape[:-1], -1)
            return found if self.bias is None else found + self.bias
        groups, stride, dilation = self.geometry.groups, self.geometry.stride, self.geometry.dilation
        kernel = tuple(self.weight.shape[2:])
        sides = [side for pair in reversed(self.geometry.pads) for side in pair]
        x = F.pad(x, sides, "constant" if self.padding_mode == "zeros" else self.padding_mode)
        rows = unfolded(x, groups, kernel, stride, ((0, 0),) * len(kernel), dilation)
        size = [(n - d * (k - 1) - 1) // step + 1 for n, d, k, step in zip(x.shape[2:], dilation, kernel, stride, strict=True)]
        flat = self._products(rows, self.weight.reshape(groups, len(self.weight) // groups, -1))
        found = flat.reshape(groups, len(x), -1, flat.shape[-1]).permute(1, 0, 3, 2).reshape(len(x), len(self.weight), *size)
        return found if self.bias is None else found + self.bias.reshape(-1, *([1] * len(kernel)))

    def _products(self, rows: Tensor, weight: Tensor) -> Tensor:
        return _Products.apply(rows, weight, self.bits, self.chain)  # type: ignore[no-any-return, no-untyped-call]


def _takes(layer: nn.Module) -> bool:
    return is_plain(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))


def with_dynamic(model: nn.Module, example_input: Any, *, bits: int = 16, chain: int = 8, keep: Sequence[str] = ()) -> nn.Module:
    """A copy of a float model whose linear layers and convolutions multiply integers of ``bits`` bits, forward and backward; to be trained as it is.

    Taken are nn.Linear, nn.Conv1d, Conv2d and Conv3d, of any groups and padding. What else the model sums of products on ``example_input``
    (transposed convolutions, recurrent layers, attention, matrix products) must be named by ``keep``, patterns of modules' names, and stays in float;
    so do layers that it names. Its ``state_dict`` is that of the model, which takes it, and is then quantized. ``chain``: how many products are
    summed in 32 bits; two of 16 bits never overflow, longer ones may where numbers are large, and then wrap. Raises UnsupportedError, with names, for
    products that it does not take and ``keep`` does not name, and for a model without layers that it takes; QfxError for bits that are not 4 to 16, a
    chain that is not 1 to 65,536, or a pattern that matches nothing.
    """
    if bits not in range(4, 17):
        raise QfxError(f"bits is {bits!r}", where="with_dynamic", remedy="use 4 to 16")
    if chain not in range(1, (1 << 16) + 1):
        raise QfxError(f"chain is {chain!r}", where="with_dynamic", remedy="use 1 to 65536")
    changed = copy.deepcopy(model)
    told = "it takes nn.Linear and nn.Conv1d, Conv2d and Conv3d"
    taken = layers_to_change(changed, example_input, _takes, keep, method="with_dynamic", takes_text=told)
    replace(changed, taken, lambda layer: DynamicLayer(layer, bits, chain))
    return changed
