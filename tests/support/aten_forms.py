"""A form for every operator of core ATen that qfx takes, and why the others that inference could hold have none. ``docs/aten.md`` is made of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shape = tuple[int, ...]
MAP, LINE, ROW, VOLUME = (4, 6, 6), (4, 10), (8,), (2, 4, 4, 4)


@dataclass(frozen=True)
class Form:
    """What a network does in which the operator stands, with a layer's weights at hand, and the shape of a sample; ``tokens``: of whole numbers below
    that."""

    after: Callable[[Any, Tensor], Any]
    shape: Shape = ROW
    tokens: int = 0

    def data(self) -> Tensor:
        return torch.randint(0, self.tokens, (6, *self.shape)) if self.tokens else torch.randn(6, *self.shape)


class Model(nn.Module):
    """A form as a module: its buffers and layers are those that forms read."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.form = form
        self.register_buffer("matrix", torch.linspace(-1.0, 1.0, 64).reshape(8, 8))
        self.register_buffer("row", torch.linspace(0.25, 1.5, 8))
        self.register_buffer("channels", torch.linspace(0.5, 1.5, 4).reshape(4, 1, 1))
        self.register_buffer("places", torch.tensor([2, 0]))
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.norm.running_mean, self.norm.running_var = torch.linspace(-0.2, 0.3, 4), torch.linspace(0.5, 1.5, 4)
        self.norm.num_batches_tracked = torch.tensor(1)

    def forward(self, x: Tensor) -> Any:
        return self.form.after(self, x)


def _plain(name: str, shape: Shape = ROW) -> Form:
    return Form(lambda m, x: getattr(torch, name)(x), shape)


def _within(name: str, low: float, high: float) -> Form:
    """Of numbers between two bounds."""
    return Form(lambda m, x: getattr(torch, name)(x.sigmoid() * (high - low) + low))


def _compared(name: str) -> Form:
    return Form(lambda m, x: torch.where(getattr(torch, name)(x, 0.25), x, 0.5))


FORMS: dict[str, Form] = {
    **{name: _plain(name) for name in ("abs", "atan", "asinh", "ceil", "cos", "erf", "exp", "expm1", "floor", "neg", "relu", "sigmoid", "sign")},
    **{name: _plain(name) for name in ("sin", "sinh", "cosh", "tanh", "trunc")},
    **{name: _within(name, -0.9, 0.9) for name in ("acos", "asin", "atanh", "tan")},
    **{name: _within(name, 1.25, 3.0) for name in ("acosh", "log", "log10", "log2", "log1p", "reciprocal", "rsqrt", "sqrt")},
    **{name: _compared(name) for name in ("ge", "gt", "le", "lt")},
    "_adaptive_avg_pool2d": Form(lambda m, x: F.adaptive_avg_pool2d(x, 3), MAP),
    "_adaptive_avg_pool3d": Form(lambda m, x: F.adaptive_avg_pool3d(x, 2), VOLUME),
    "adaptive_avg_pool1d": Form(lambda m, x: F.adaptive_avg_pool1d(x, 5), LINE),
    "_log_softmax": Form(lambda m, x: x.log_softmax(1)),
    "_softmax": Form(lambda m, x: x.softmax(1)),
    "_native_batch_norm_legit_no_training": Form(lambda m, x: m.norm(m.conv(x)), MAP),
    "_to_copy": Form(lambda m, x: x.double().float()),
    "add": Form(lambda m, x: x + x.relu() + 0.5),
    "addmm": Form(lambda m, x: F.linear(x, m.matrix, m.row)),
    "alias": Form(lambda m, x: torch.ops.aten.alias(x) + 1),
    "amax": Form(lambda m, x: x.amax((2, 3)), MAP),
    "amin": Form(lambda m, x: x.amin(1, keepdim=True), MAP),
    "avg_pool1d": Form(lambda m, x: F.avg_pool1d(x, 2), LINE),
    "avg_pool2d": Form(lambda m, x: F.avg_pool2d(x, 3, 2, 1), MAP),
    "avg_pool3d": Form(lambda m, x: F.avg_pool3d(x, 2), VOLUME),
    "bmm": Form(lambda m, x: torch.bmm(x, x.transpose(1, 2)), LINE),
    "cat": Form(lambda m, x: torch.cat([x, x.relu()], 1)),
    "clamp": Form(lambda m, x: x.clamp(-0.5, 0.75)),
    "clone": Form(lambda m, x: x.clone() * 2),
    "constant_pad_nd": Form(lambda m, x: F.pad(x, (1, 0, 0, 2)), MAP),
    "convolution": Form(lambda m, x: m.conv(x), MAP),
    "diagonal": Form(lambda m, x: torch.diagonal(x, 0, 2, 3), MAP),
    "div": Form(lambda m, x: x / 3 + x / (1 + x.abs())),
    "elu": Form(lambda m, x: F.elu(x)),
    "expand": Form(lambda m, x: x.amax((2, 3), keepdim=True).expand(-1, -1, 2, 3), MAP),
    "flip": Form(lambda m, x: x.flip(2), MAP),
    "full": Form(lambda m, x: x + torch.full((8,), 0.5)),
    "gelu": Form(lambda m, x: F.gelu(x)),
    "hardtanh": Form(lambda m, x: F.hardtanh(x)),
    "index": Form(lambda m, x: x[:, m.places]),
    "index_select": Form(lambda m, x: x.index_select(1, m.places)),
    "leaky_relu": Form(lambda m, x: F.leaky_relu(x, 0.1)),
    "max": Form(lambda m, x: x.max(2)[0], MAP),
    "max_pool2d_with_indices": Form(lambda m, x: F.max_pool2d(x, 2), MAP),
    "max_pool3d_with_indices": Form(lambda m, x: F.max_pool3d(x, 2), VOLUME),
    "maximum": Form(lambda m, x: torch.maximum(x, x.flip(1))),
    "mean": Form(lambda m, x: x.mean((2, 3)), MAP),
    "min": Form(lambda m, x: x.min(2)[0], MAP),
    "minimum": Form(lambda m, x: torch.minimum(x, x.flip(1))),
    "mm": Form(lambda m, x: torch.mm(x, m.matrix)),
    "mul": Form(lambda m, x: x * x.sigmoid() * m.row),
    "native_dropout": Form(lambda m, x: torch.native_dropout(x, 0.5, False)[0] * 2),
    "native_group_norm": Form(lambda m, x: F.group_norm(x, 2), MAP),
    "native_layer_norm": Form(lambda m, x: F.layer_norm(x, (8,))),
    "permute": Form(lambda m, x: x.permute(0, 2, 3, 1), MAP),
    "pow": Form(lambda m, x: x**2 + x**3),
    "reflection_pad1d": Form(lambda m, x: torch.ops.aten.reflection_pad1d(x, [1, 2]), LINE),
    "reflection_pad2d": Form(lambda m, x: torch.ops.aten.reflection_pad2d(x, [1, 1, 2, 0]), MAP),
    "reflection_pad3d": Form(lambda m, x: torch.ops.aten.reflection_pad3d(x, [1] * 6), VOLUME),
    "replication_pad2d": Form(lambda m, x: torch.ops.aten.replication_pad2d(x, [1, 1, 2, 0]), MAP),
    "replication_pad3d": Form(lambda m, x: torch.ops.aten.replication_pad3d(x, [1] * 6), VOLUME),
    "repeat": Form(lambda m, x: x.repeat(1, 2, 1, 1), MAP),
    "scalar_tensor": Form(lambda m, x: torch.where(x > 0, x, torch.scalar_tensor(0.5))),
    "select": Form(lambda m, x: x.select(2, -1), MAP),
    "slice": Form(lambda m, x: x[:, 1:3, ::2], MAP),
    "split_with_sizes": Form(lambda m, x: torch.cat(torch.split(x, [1, 3], 1)[::-1], 1), MAP),
    "squeeze": Form(lambda m, x: x.amax(2, keepdim=True).squeeze(2), MAP),
    "sub": Form(lambda m, x: 1 - x - x.relu()),
    "sum": Form(lambda m, x: x.sum((2, 3)), MAP),
    "unsqueeze": Form(lambda m, x: x.unsqueeze(2)),
    "upsample_nearest2d": Form(lambda m, x: F.interpolate(x, scale_factor=2), MAP),
    "var": Form(lambda m, x: x.var((2, 3)), MAP),
    "view": Form(lambda m, x: x.reshape(x.shape[0], 2, 72), MAP),
    "where": Form(lambda m, x: torch.where(x > 0, x, 0.1 * x)),
    "full_like": Form(lambda m, x: x + torch.full_like(x, 0.5)),
    "arange": Form(lambda m, x: x + torch.arange(8) / 8),
    "select_scatter": Form(lambda m, x: x.select_scatter(x[:, 1], 1, 0), MAP),
    "slice_scatter": Form(lambda m, x: x.slice_scatter(x[:, :2], 1, 2, 4), MAP),
    "argmax": Form(lambda m, x: x.argmax(1, keepdim=True)),
    "argmin": Form(lambda m, x: x.argmin(1, keepdim=True)),
    "bitwise_and": Form(lambda m, x: torch.where((x > -0.5) & (x < 0.5), x, 0.0)),
    "bitwise_not": Form(lambda m, x: torch.where(~(x > -0.5), x, 0.0)),
    "bitwise_or": Form(lambda m, x: torch.where((x < -0.5) | (x > 0.5), x, 0.0)),
    "eq": _compared("eq"),
    "logical_and": Form(lambda m, x: torch.where(torch.logical_and(x > -0.5, x < 0.5), x, 0.0)),
    "logical_not": Form(lambda m, x: torch.where(torch.logical_not(x > -0.5), x, 0.0)),
    "logical_or": Form(lambda m, x: torch.where(torch.logical_or(x < -0.5, x > 0.5), x, 0.0)),
    "ne": _compared("ne"),
    "prod": Form(lambda m, x: x.prod(1, keepdim=True)),
    "sort": Form(lambda m, x: x.sort(1)[0]),
    "topk": Form(lambda m, x: x.topk(2)[0]),
    "embedding": Form(lambda m, x: F.embedding(x, m.matrix), tokens=8),
    "gather": Form(lambda m, x: x.gather(1, m.places.expand(x.shape[0], 2))),
    "round": Form(lambda m, x: torch.round(4 * x)),
    "upsample_bilinear2d": Form(lambda m, x: F.interpolate(x, scale_factor=2, mode="bilinear"), MAP),
}

NOT_YET: dict[str, tuple[str, Form | None]] = {
    "_cdist_forward": ("distances of all pairs", Form(lambda m, x: torch.cdist(x, x.relu()), LINE)),
    "any": ("masks", Form(lambda m, x: (x > 0).any(1, keepdim=True).float())),
    "atan2": ("an angle of two values", Form(lambda m, x: torch.atan2(x, x + 3))),
    "bitwise_xor": ("masks of several comparisons", Form(lambda m, x: torch.where((x < -0.5) ^ (x > 0.5), x, 0.0))),
    "col2im": ("overlapping sums", Form(lambda m, x: torch.ops.aten.col2im(F.unfold(x, 2, stride=2), [6, 6], [2, 2], [1, 1], [0, 0], [2, 2]), MAP)),
    "copy": ("a value written over another", Form(lambda m, x: torch.ops.aten.copy(x, x.relu()) + 1)),
    "cumsum": ("a product by a constant triangle is the same", Form(lambda m, x: x.cumsum(1))),
    "fmod": ("a remainder", Form(lambda m, x: torch.fmod(x, 0.5))),
    "grid_sampler_2d": (
        "places that depend on data",
        Form(lambda m, x: F.grid_sample(x, x[:, :2].permute(0, 2, 3, 1).tanh(), align_corners=False), MAP),
    ),
    "logical_xor": ("masks of several comparisons", Form(lambda m, x: torch.where(torch.logical_xor(x < -0.5, x > 0.5), x, 0.0))),
    "remainder": ("a remainder", Form(lambda m, x: torch.remainder(x, 0.5))),
    "as_strided": ("memory instead of axes", None),
    "index_put": ("writing by index", None),
    "masked_scatter": ("writing by a mask", None),
    "scatter": ("writing by index", None),
    "scatter_add": ("sums by index", None),
    "scatter_reduce": ("extremes by index", None),
    "_embedding_bag": ("rows of a table by whole numbers", None),
    "_pdist_forward": ("distances of all pairs", None),
    "fill": ("one number in place of a value", None),
    "_native_batch_norm_legit": ("a norm by the statistics of the batch", None),
}
"""What inference may hold and qfx does not take: what it is, and a form that is refused."""

BY_MEANING: dict[str, str] = {
    **dict.fromkeys(
        (
            "_adaptive_avg_pool2d_backward",
            "avg_pool2d_backward",
            "convolution_backward",
            "embedding_dense_backward",
            "max_pool2d_with_indices_backward",
            "native_group_norm_backward",
            "native_layer_norm_backward",
        ),
        "backward",
    ),
    **dict.fromkeys(
        (
            "rand",
            "randn",
            "randperm",
        ),
        "random",
    ),
    **dict.fromkeys(
        (
            "_fft_c2r",
            "_fft_r2c",
        ),
        "complex numbers",
    ),
    **dict.fromkeys(
        (
            "_local_scalar_dense",
            "nonzero",
        ),
        "the answer depends on data: Python, or a shape",
    ),
    **dict.fromkeys(
        (
            "empty",
            "empty_strided",
            "resize_",
        ),
        "memory without numbers",
    ),
    **dict.fromkeys(
        (
            "sym_is_contiguous",
            "sym_numel",
            "sym_size",
            "sym_storage_offset",
            "sym_stride",
        ),
        "a question about a tensor's size or memory, which the export answers",
    ),
    **dict.fromkeys(
        (
            "isinf",
            "isnan",
        ),
        "fixed-point numbers are finite",
    ),
}
"""What no network in fixed point has at inference, and why."""
