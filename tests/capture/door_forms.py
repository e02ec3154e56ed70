"""Forms in which people write networks, for every door: a name, the module, and the shape of a sample; and what is another expression in a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
import torch.nn.utils.prune
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

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


class Twice(nn.Module):
    """A dict of layers, and one that is called by its name."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"first": nn.Conv2d(4, 4, 1), "second": nn.Conv2d(4, 4, 1)})
        self.scales = nn.ParameterList([nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(1.25))])

    def forward(self, x: Tensor) -> Tensor:
        for scale, (_, layer) in zip(self.scales, self.layers.items(), strict=True):
            x = layer(x) * scale
        return x


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(10, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]


class Pairs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pair = nn.Bilinear(8, 8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.pair(x, torch.relu(x))


def conv() -> nn.Conv2d:
    return nn.Conv2d(4, 4, 3, padding=1)


def pruned() -> nn.Module:
    layer = conv()
    torch.nn.utils.prune.l1_unstructured(layer, "weight", 0.5)
    return layer


VOLUME = (2, 4, 4, 4)
LAYERS: dict[str, tuple[Callable[[], nn.Module], Shape]] = {
    "layers: hard tanh": (lambda: nn.Sequential(conv(), nn.Hardtanh(0, 1)), MAP),
    "layers: prelu": (lambda: nn.Sequential(conv(), nn.PReLU(4)), MAP),
    "layers: rrelu": (lambda: nn.Sequential(conv(), nn.RReLU()), MAP),
    "layers: gates of maps": (lambda: nn.Sequential(conv(), nn.GLU(1)), MAP),
    "layers: gates of rows": (lambda: nn.Sequential(nn.Linear(8, 8), nn.GLU(), nn.Linear(4, 2)), ROW),
    "layers: channel shuffle": (lambda: nn.Sequential(conv(), nn.ChannelShuffle(2)), MAP),
    "layers: pixel shuffle": (lambda: nn.Sequential(conv(), nn.PixelShuffle(2)), MAP),
    "layers: reflected": (lambda: nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(4, 4, 3)), MAP),
    "layers: circular": (lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), MAP),
    "layers: group norm": (lambda: nn.Sequential(conv(), nn.GroupNorm(2, 4)), MAP),
    "layers: batch norm": (lambda: nn.Sequential(conv(), nn.BatchNorm2d(4), nn.ReLU()), MAP),
    "layers: batch norm of lines": (lambda: nn.Sequential(nn.Conv1d(4, 4, 3), nn.BatchNorm1d(4)), LINE),
    "layers: batch norm of rows": (lambda: nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Tanh()), ROW),
    "layers: synchronized": (lambda: nn.Sequential(conv(), nn.SyncBatchNorm(4)), MAP),
    "layers: layer norm": (lambda: nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)), ROW),
    "layers: root mean square": (lambda: nn.Sequential(nn.Linear(8, 8), nn.RMSNorm(8)), ROW),
    "layers: bilinear": (Pairs, ROW),
    "layers: depthwise": (lambda: nn.Sequential(nn.Conv2d(4, 8, 3, groups=4, dilation=2), nn.Conv2d(8, 4, 1)), MAP),
    "layers: transposed": (lambda: nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1, output_padding=1), MAP),
    "layers: transposed line": (lambda: nn.ConvTranspose1d(4, 2, 4, stride=2), LINE),
    "layers: volumes": (lambda: nn.Sequential(nn.Conv3d(2, 3, 3, padding=1), nn.BatchNorm3d(3), nn.ReLU(), nn.AvgPool3d(2)), VOLUME),
    "layers: transposed volumes": (lambda: nn.ConvTranspose3d(2, 2, 2, stride=2), VOLUME),
    "layers: weight norm": (lambda: nn.Sequential(parametrizations.weight_norm(conv())), MAP),
    "layers: spectral norm": (lambda: nn.Sequential(parametrizations.spectral_norm(conv())), MAP),
    "layers: pruned": (lambda: nn.Sequential(pruned()), MAP),
    "layers: a dict and a list": (Twice, MAP),
    "layers: attention": (Attends, LINE),
    "layers: wrapped": (lambda: nn.DataParallel(nn.Sequential(conv(), nn.ReLU())), MAP),
    "layers: compiled": (lambda: torch.compile(nn.Sequential(conv(), nn.ReLU()), backend="eager"), MAP),  # type: ignore[dict-item, return-value]
    "layers: traced": (lambda: torch.fx.symbolic_trace(nn.Sequential(conv(), nn.ReLU())), MAP),
    "layers: channels last": (lambda: nn.Sequential(conv(), nn.ReLU()).to(memory_format=torch.channels_last), MAP),  # type: ignore[call-overload]
}
"""Layers of torch as they stand."""


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
    "sigmoid of a method": lambda m, x: x.sigmoid(),
    "clamp to 6": lambda m, x: torch.clamp(x, 0, 6),
    "hard sigmoid": lambda m, x: F.hardsigmoid(x),
    "celu": lambda m, x: F.celu(x, 0.7),
    "selu": lambda m, x: F.selu(x),
    "mish": lambda m, x: F.mish(x),
    "softsign": lambda m, x: F.softsign(x),
    "log sigmoid": lambda m, x: F.logsigmoid(x),
    "tanh shrink": lambda m, x: F.tanhshrink(x),
    "hard shrink": lambda m, x: F.hardshrink(x, 0.3),
    "soft shrink": lambda m, x: F.softshrink(x, 0.3),
    "threshold": lambda m, x: F.threshold(x, 0.2, -0.4),
    "sign": lambda m, x: torch.sign(x),
    "greatest of a buffer": lambda m, x: torch.maximum(x, m.mean),
    "least of a buffer": lambda m, x: torch.minimum(x, m.mean),
    "power": lambda m, x: x**2,
    "cube": lambda m, x: x.pow(3),
    "plus twice": lambda m, x: torch.add(x, F.relu(x), alpha=2),
    "gate of a mean": lambda m, x: x * F.relu6(F.adaptive_avg_pool2d(x, 1)),
    "plus a mean": lambda m, x: x + F.adaptive_avg_pool2d(x, 1),
    "added with a factor": lambda m, x: torch.addcmul(x, x, m.mean, value=0.5),
    "stacked and summed": lambda m, x: torch.stack([x, F.relu(x)]).sum(0),
    "stacked behind the channels": lambda m, x: torch.stack([x, F.relu(x)], 2),
    "least": lambda m, x: x.min(2, keepdim=True)[0],
    "variance": lambda m, x: x.var((2, 3)),
    "deviation": lambda m, x: torch.std(x, dim=(2, 3), keepdim=True),
    "narrow": lambda m, x: x.narrow(1, 1, 2),
    "select method": lambda m, x: x.select(2, -1),
    "zeros joined": lambda m, x: torch.cat([x, torch.zeros(x.shape[0], 1, 6, 6)], 1),
    "pad of ones": lambda m, x: F.pad(x, (1, 1), value=1.0),
    "replicated": lambda m, x: F.pad(x, (1, 2, 0, 1), mode="replicate"),
    "circular": lambda m, x: F.pad(x, (1, 1, 1, 1), mode="circular"),
    "expanded mean": lambda m, x: x.mean((2, 3), keepdim=True).expand(-1, -1, 6, 6),
    "repeat": lambda m, x: x.repeat(1, 2, 1, 1),
    "repeated in place": lambda m, x: x.repeat_interleave(2, 2),
    "unfold": lambda m, x: F.unfold(x, 2, stride=2),
    "blocks to channels": lambda m, x: F.pixel_unshuffle(x, 2),
    "shuffled": lambda m, x: F.channel_shuffle(x, 2),
    "length of windows": lambda m, x: F.lp_pool2d(x, 2, 2),
    "means to 3": lambda m, x: F.adaptive_avg_pool2d(x, 3),
    "maxima to 2": lambda m, x: F.adaptive_max_pool2d(x, 2),
    "means to 12": lambda m, x: F.adaptive_avg_pool2d(x, 12),
    "the size of another": lambda m, x: F.interpolate(F.max_pool2d(x, 2), size=x.shape[-2:]),
    "response of neighbours": lambda m, x: F.local_response_norm(x, 2),
    "statistics": lambda m, x: F.batch_norm(x, m.mean.flatten(), m.gain.flatten().detach().abs()),
    "instance norm": lambda m, x: F.instance_norm(x),
    "transposed conv": lambda m, x: F.conv_transpose2d(x, m.more.weight, m.more.bias, stride=2),
    "transposed": lambda m, x: x.transpose(2, 3),
    "permuted": lambda m, x: x.permute(0, 2, 3, 1),
    "swapped axes": lambda m, x: x.swapaxes(1, 2),
    "unflattened": lambda m, x: x.unflatten(1, (2, 2)).flatten(2),
    "squeezed": lambda m, x: x.mean((2, 3), keepdim=True).squeeze(-1).squeeze(-1),
    "typed": lambda m, x: x.to(torch.float32).type_as(x).contiguous().clone(),
    "asserted": lambda m, x: (torch._assert(x.dim() == 4, "an image"), x + 1)[1],
    "called twice": lambda m, x: m.more(F.relu(m.more(x))),
    "computed again": lambda m, x: checkpoint(m.more, x, use_reentrant=False),
    "dropped out": lambda m, x: x + F.dropout(m.more(x), 0.1, m.training),
    "two comparisons": lambda m, x: torch.where((x > -0.5) & (x < 0.5), x, 0.0),
    "masked fill": lambda m, x: x.masked_fill(x < -0.3, 0.25),
    "floor": lambda m, x: torch.floor(4 * x),
    "zeros of the same shape": lambda m, x: x - torch.ones_like(x) + torch.zeros_like(x),
    "diagonal": lambda m, x: x.diagonal(1, 2, 3),
    "another slice": lambda m, x: x.slice_scatter(F.relu(x[:, 1:3]), 1, 1, 3),
    "another channel": lambda m, x: torch.select_scatter(x, x[:, 2], 1, 0),
    "new axes": lambda m, x: x[:, None, ..., ::2],
    "expanded parameter": lambda m, x: x + m.gain.expand_as(x),
    "python": lambda m, x: x.detach().float().to(x.dtype) + len([x]) if x.shape[1] == 4 and f"{x.shape[2]}" == "6" else x,
}
ON_LINES: dict[str, Callable[[Any, Tensor], Any]] = {
    "between places": lambda m, x: F.interpolate(x, scale_factor=1.7, mode="linear"),
    "mean of places": lambda m, x: x.mean(-1),
    "product of values": lambda m, x: x @ x.transpose(1, 2),
    "linear on the last axis": lambda m, x: F.linear(x, m.place[0]),
    "softmax of places": lambda m, x: x.softmax(-1),
    "maximum of places": lambda m, x: torch.max(x, 2)[0],
    "swapped": lambda m, x: x.swapaxes(1, 2),
    "an einsum": lambda m, x: torch.einsum("bcl,bdl->bcd", x, F.relu(x)),
    "batched product": lambda m, x: torch.bmm(x, x.mT),
    "causal": lambda m, x: F.pad(x, (3, 0)),
    "windows": lambda m, x: F.avg_pool1d(F.max_pool1d(x, 2), 2),
    "channel of a line": lambda m, x: x.unbind(1)[0],
    "glu": lambda m, x: F.glu(x, 1),
    "layer norm": lambda m, x: F.layer_norm(x, (10,)),
    "attention with heads": lambda m, x: F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None]).squeeze(1),
    "attention": lambda m, x: F.scaled_dot_product_attention(x, x, x),
    "class token": lambda m, x: torch.cat([m.place[:, :1].expand(x.shape[0], -1, -1), x], 1),
    "class token repeated": lambda m, x: torch.cat([x, m.place[:, 1:2].repeat(x.shape[0], 1, 1)], 1),
    "zeros for every sample": lambda m, x: torch.cat([torch.zeros(x.shape[0], 1, 10), x], 1),
    "class token, time first": lambda m, x: torch.cat([m.place[:, :1].expand(-1, x.shape[0], -1), x.transpose(0, 1)], 0).transpose(0, 1),
}
ON_ROWS: dict[str, Callable[[Any, Tensor], Any]] = {
    "joined": lambda m, x: torch.cat([x, x.exp()], -1),
    "softmax": lambda m, x: x.softmax(1),
    "log softmax": lambda m, x: x.log_softmax(1),
    "rms": lambda m, x: x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-5),
    "root": lambda m, x: torch.sqrt(F.relu(x)),
    "quotient": lambda m, x: x / (1 + x.abs()),
    "matrix": lambda m, x: x @ m.more.weight,
    "functional linear": lambda m, x: F.linear(x, m.more.weight, m.more.bias),
    "exponential": lambda m, x: x.exp(),
    "reciprocal": lambda m, x: (1.5 + x.sigmoid()).reciprocal(),
    "logarithm": lambda m, x: torch.log(1.25 + x.square()),
    "log of one more": lambda m, x: torch.log1p(F.relu(x)),
    "less one": lambda m, x: torch.expm1(x),
    "sine and cosine": lambda m, x: torch.cat([x.sin(), x.cos()], 1),
    "unit length": lambda m, x: F.normalize(x + 2, dim=1),
    "gaussian": lambda m, x: torch.exp(-0.5 * x * x),
    "root mean square norm": lambda m, x: F.rms_norm(x, (8,), m.gain),
    "sums of logs": lambda m, x: torch.logsumexp(x, 1, keepdim=True),
    "soft minimum": lambda m, x: F.softmin(x, 1),
    "greatest place": lambda m, x: x.argmax(1, keepdim=True),
    "two greatest": lambda m, x: x.topk(2)[0],
    "interpolated": lambda m, x: torch.lerp(x, F.relu(x), 0.3),
    "outer product": lambda m, x: x.unsqueeze(2) * x.unsqueeze(1),
    "angles": lambda m, x: F.linear(F.normalize(x, dim=1), F.normalize(m.more.weight, dim=1)),
    "masked by a computed constant": lambda m, x: x.masked_fill(torch.arange(8) % 3 == 0, 0.5),
    "distance": lambda m, x: (x - m.place).norm(dim=1, keepdim=True),
}


def forms() -> Iterator[tuple[str, nn.Module, Shape]]:
    for table, shape in ((ON_MAPS, MAP), (ON_LINES, LINE), (ON_ROWS, ROW)):
        for name, after in table.items():
            more = layer_for(shape) if "m.more" in _source_names(after) else None
            yield name, Form(after, layer_for(shape), shape, more), shape
    for name, (make, shape) in LAYERS.items():
        yield name, settled(make()), shape


def settled(module: nn.Module) -> nn.Module:
    """With statistics as after some training."""
    for norm in module.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.running_mean, norm.running_var = torch.linspace(-0.2, 0.3, norm.num_features), torch.linspace(0.5, 1.5, norm.num_features)
            norm.num_batches_tracked += 1
    return module


def _source_names(after: Callable[..., Any]) -> set[str]:
    names = after.__code__.co_names
    return {f"m.{name}" for name in names}


ABSORBED = "a constant beside a layer's result joins the layer's weights when a file is read"
FOLDED = "the exporter folds BatchNorm into the layer before it"
TOGETHER = "torch writes one product for queries, keys and values, with one cast"
ELSEWHERE: dict[str, dict[str, str]] = {
    "pt2": {
        "layers: attention": TOGETHER,
    },
    "onnx": {
        "layers: attention": TOGETHER,
        "softsign": "the exporter writes x / (1 + |x|), as people do",
        "between places": "the exporter writes a difference times a weight",
        "deviation": "the exporter keeps no axes of length 1 under the root, and adds them behind it",
        **dict.fromkeys(("plus one", "one minus", "times", "over 255", "normalized", "gain", "asserted", "python"), ABSORBED),
        **dict.fromkeys(("statistics", "layers: a dict and a list", "distance", "unit length"), ABSORBED),
        **dict.fromkeys(("layers: batch norm", "layers: batch norm of lines", "layers: batch norm of rows"), FOLDED),
        **dict.fromkeys(("layers: synchronized", "layers: volumes"), FOLDED),
    },
}
"""Where a file holds another expression of the same function, by the door: its fixed-point form may round elsewhere, and is near."""

NOT_YET: dict[str, dict[str, str]] = {}
"""Forms that a door (or all of them) refuses for now."""

_WRAPPER = "the exporters do not take the wrapper"
NO_FILE: dict[str, dict[str, str]] = {
    "layers: wrapped": {"pt2": _WRAPPER, "onnx": _WRAPPER},
    "layers: compiled": {"pt2": _WRAPPER, "onnx": _WRAPPER},
    "layers: rrelu": {"onnx": "the exporter does not take RReLU"},
    "attention": {"onnx": "the exporter does not take attention of three axes"},
}
"""Forms of which torch writes no file for a door."""
