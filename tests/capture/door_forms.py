"""Forms in which people write networks, for every door: a name, what is done behind a layer, the layer, and the shape of a sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shape = tuple[int, ...]
MAP, LINE, ROW = (4, 6, 6), (4, 10), (8,)
"""Channels, height and width; channels and length; features."""


class Form(nn.Module):
    """``after(self, layer(x))``, with parameters (``gain``, ``place``) and a buffer (``mean``) at hand."""

    def __init__(self, after: Callable[[Any, Tensor], Any], layer: nn.Module, shape: Shape, more: nn.Module | None = None) -> None:
        super().__init__()
        self.layer, self.after, self.more = layer, after, nn.Identity() if more is None else more
        self.gain = nn.Parameter(torch.linspace(0.5, 1.5, shape[0]).reshape(-1, *(1,) * (len(shape) - 1)))
        self.place = nn.Parameter(torch.linspace(-1.0, 1.0, int(torch.Size(shape).numel())).reshape(1, *shape))
        self.register_buffer("mean", torch.linspace(-0.2, 0.3, shape[0]).reshape(-1, *(1,) * (len(shape) - 1)))

    def forward(self, x: Tensor) -> Any:
        return self.after(self, self.layer(x))


def layer_for(shape: Shape) -> nn.Module:
    return {3: lambda: nn.Conv2d(4, 4, 3, padding=1), 2: lambda: nn.Conv1d(4, 4, 3, padding=1), 1: lambda: nn.Linear(8, 8)}[len(shape)]()


ON_MAPS: dict[str, Callable[[Any, Tensor], Any]] = {
    "sigmoid": lambda m, x: torch.sigmoid(x),
    "tanh": lambda m, x: x.tanh(),
    "silu": lambda m, x: F.silu(x),
    "gelu": lambda m, x: F.gelu(x),
    "hardswish": lambda m, x: F.hardswish(x),
    "hardtanh": lambda m, x: F.hardtanh(x),
    "clamp": lambda m, x: torch.clamp(x, -0.5, 0.75),
    "clamp from below": lambda m, x: x.clamp(min=0),
    "leaky": lambda m, x: F.leaky_relu(x, 0.01),
    "elu": lambda m, x: F.elu(x),
    "softplus": lambda m, x: F.softplus(x),
    "abs": lambda m, x: x.abs(),
    "neg": lambda m, x: -x,
    "plus one": lambda m, x: x + 1,
    "one minus": lambda m, x: 1 - x,
    "half": lambda m, x: x * 0.5,
    "times": lambda m, x: 0.3 * x,
    "over 255": lambda m, x: x / 255,
    "normalized": lambda m, x: (x - m.mean) / 0.25,
    "gain": lambda m, x: x * m.gain,
    "place": lambda m, x: x + m.place,
    "square": lambda m, x: x * x,
    "squeeze and excite": lambda m, x: x * torch.sigmoid(F.adaptive_avg_pool2d(x, 1)),
    "spatial attention": lambda m, x: x * torch.sigmoid(x.mean(1, keepdim=True)),
    "sum of a list": lambda m, x: sum([x, F.relu(x)]),
    "sum of pixels": lambda m, x: x.sum((2, 3)),
    "mean of channels": lambda m, x: x.mean(1, keepdim=True),
    "mean of rows": lambda m, x: x.mean(2),
    "greatest": lambda m, x: x.max(1)[0],
    "amax": lambda m, x: x.amax((2, 3)),
    "maxout": lambda m, x: torch.maximum(x, x.flip(2)),
    "where": lambda m, x: torch.where(x > 0, x, 0.1 * x),
    "chunk": lambda m, x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "split": lambda m, x: torch.cat(torch.split(x, [1, 3], 1)[::-1], 1),
    "unbind": lambda m, x: x.unbind(1)[2],
    "select": lambda m, x: x[:, :, -1],
    "shuffle": lambda m, x: x.view(-1, 2, 2, 6, 6).transpose(1, 2).reshape(-1, 4, 6, 6),
    "pixel shuffle": lambda m, x: F.pixel_shuffle(x, 2),
    "space to depth": lambda m, x: torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1),
    "concat of rows": lambda m, x: torch.cat([x, x], 2),
    "roll": lambda m, x: torch.roll(x, 1, 2),
    "flip": lambda m, x: x.flip(2),
    "index list": lambda m, x: x[:, [2, 0]],
    "movedim": lambda m, x: x.movedim(1, -1),
    "tokens": lambda m, x: x.flatten(2).transpose(1, 2),
    "reflected": lambda m, x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "crop": lambda m, x: F.pad(x, (-1, -1)),
    "nearest": lambda m, x: F.interpolate(x, size=(9, 12)),
    "nearest by a factor": lambda m, x: F.interpolate(x, scale_factor=1.3),
    "bilinear": lambda m, x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "bilinear to a size": lambda m, x: F.interpolate(x, size=(9, 4), mode="bilinear", align_corners=True),
    "bilinear by a factor": lambda m, x: F.interpolate(x, scale_factor=1.7, mode="bilinear"),
    "group norm": lambda m, x: F.group_norm(x, 2),
    "partial maxima": lambda m, x: F.max_pool2d(x, 4, 3, ceil_mode=True),
    "partial means": lambda m, x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "functional conv": lambda m, x: F.conv2d(x, m.more.weight, m.more.bias, padding=1),
    "python": lambda m, x: x.detach().float().to(x.dtype) + len([x]) if x.shape[1] == 4 and f"{x.shape[2]}" == "6" else x,
}
ON_LINES: dict[str, Callable[[Any, Tensor], Any]] = {
    "between places": lambda m, x: F.interpolate(x, scale_factor=1.7, mode="linear"),
    "mean of places": lambda m, x: x.mean(-1),
    "product of values": lambda m, x: x @ x.transpose(1, 2),
    "linear on the last axis": lambda m, x: F.linear(x, m.place[0]),
    "softmax of places": lambda m, x: x.softmax(-1),
    "layer norm": lambda m, x: F.layer_norm(x, (10,)),
    "attention": lambda m, x: F.scaled_dot_product_attention(x, x, x),
}
ON_ROWS: dict[str, Callable[[Any, Tensor], Any]] = {
    "joined": lambda m, x: torch.cat([x, x.exp()], -1),
    "softmax": lambda m, x: x.softmax(1),
    "log softmax": lambda m, x: x.log_softmax(1),
    "rms": lambda m, x: x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-5),
    "root": lambda m, x: torch.sqrt(F.relu(x)),
    "quotient": lambda m, x: x / (1 + x.abs()),
    "matrix": lambda m, x: x @ m.more.weight,
}


def forms() -> Iterator[tuple[str, nn.Module, Shape]]:
    for table, shape in ((ON_MAPS, MAP), (ON_LINES, LINE), (ON_ROWS, ROW)):
        for name, after in table.items():
            more = layer_for(shape) if "m.more" in _source_names(after) else None
            yield name, Form(after, layer_for(shape), shape, more), shape


def _source_names(after: Callable[..., Any]) -> set[str]:
    names = after.__code__.co_names
    return {f"m.{name}" for name in names}
