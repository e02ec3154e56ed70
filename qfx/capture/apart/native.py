"""ATen's names for what people write otherwise, in torch's public functions, which are taken further from there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def _expand_as(input: Tensor, other: Tensor) -> Tensor:
    own = (0,) * (other.dim() - input.dim()) + tuple(input.shape)
    return input.expand([-1 if size == wanted else wanted for size, wanted in zip(own, other.shape, strict=True)])


def _view_as(input: Tensor, other: Tensor) -> Tensor:
    return input.reshape(other.shape)


def _matrices_transposed(input: Tensor) -> Tensor:
    return input.transpose(-2, -1)


def _transposed(input: Tensor) -> Tensor:
    return input if input.dim() < 2 else input.transpose(0, 1)


def _turned(input: Tensor) -> Tensor:
    return input.permute(*reversed(range(input.dim())))


def _unfold(input: Tensor, kernel_size: Any, dilation: Any, padding: Any, stride: Any) -> Tensor:
    return F.unfold(input, kernel_size, dilation, padding, stride)


def _diagonal(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """The places of the diagonal, of two axes that are made one."""
    x = input.movedim((dim1, dim2), (-2, -1))
    rows, columns = x.shape[-2:]
    places = [row * columns + row + offset for row in range(rows) if 0 <= row + offset < columns]
    return x.flatten(-2)[..., places]


def _slice_scatter(input: Tensor, src: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Tensor:
    """What is left on both sides, and between them what takes its place."""
    size = input.shape[dim]
    taken = range(*slice(start, end, step).indices(size))
    if step != 1:
        order = [size + taken.index(place) if place in taken else place for place in range(size)]
        return torch.cat([input, src], dim).index_select(dim, torch.tensor(order))
    first, last = taken.start, max(taken.start, taken.stop)
    sides = (input.narrow(dim, 0, first) if first else None, src, input.narrow(dim, last, size - last) if last < size else None)
    return torch.cat([part for part in sides if part is not None], dim)


def _select_scatter(input: Tensor, src: Tensor, dim: int, index: int) -> Tensor:
    index %= input.shape[dim]
    return _slice_scatter(input, src.unsqueeze(dim), dim, index, index + 1)


def _to_copy(input: Tensor, *, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
    return input.clone() if dtype is None else input.to(dtype)


def _native_layer_norm(input: Tensor, *args: Any) -> tuple[Tensor, None, None]:
    return F.layer_norm(input, *args), None, None


def _native_group_norm(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, samples: int, channels: int, places: int, group: int, eps: float
) -> tuple[Tensor, None, None]:
    return F.group_norm(input, group, weight, bias, eps), None, None


def _native_dropout(input: Tensor, p: float, train: bool | None = None) -> tuple[Tensor, None]:
    return F.dropout(input, p, train is not False), None


def _bordered(mode: str) -> Callable[..., Tensor]:
    """ATen's names for ``F.pad`` by what lies inside."""
    return lambda input, padding: F.pad(input, list(padding), mode=mode)


OF_ATEN: Mapping[str, Callable[..., Any]] = MappingProxyType({
    "expand_as": _expand_as,
    **dict.fromkeys(("view_as", "reshape_as"), _view_as),
    "mT": _matrices_transposed,
    "t": _transposed,
    "numpy_T": _turned,
    "im2col": _unfold,
    "diagonal": _diagonal,
    "slice_scatter": _slice_scatter,
    "select_scatter": _select_scatter,
    "_to_copy": _to_copy,
    "_adaptive_avg_pool3d": F.adaptive_avg_pool3d,
    "native_layer_norm": _native_layer_norm,
    "native_group_norm": _native_group_norm,
    "native_dropout": _native_dropout,
    **dict.fromkeys(("reflection_pad1d", "reflection_pad2d", "reflection_pad3d"), _bordered("reflect")),
    **dict.fromkeys(("replication_pad1d", "replication_pad2d", "replication_pad3d"), _bordered("replicate")),
})  # fmt: skip
"""By the name of the operator or method; arguments as ATen's."""
