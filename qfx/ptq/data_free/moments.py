"""What values a quantized model's nodes take, per channel, told from BatchNorm statistics alone: normal distributions carried through the graph."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from qfx.nn.functional import (
    QAdd,
    QAvgPool,
    QConcat,
    QInput,
    QLeakyReLU,
    QMul,
    QPad,
    QPermute,
    QReLU,
    QReLU6,
    QReshape,
    QSlice,
    QSub,
)
from qfx.nn.layers import QConvTranspose, Weighted
from qfx.nn.norm import Norm, QBatchNorm, QFoldedBatchNorm
from qfx.ptq.floating.fold import Statistics


@dataclass(frozen=True, eq=False)
class Clipped:
    """For each channel a normal distribution whose numbers are limited to ``low``..``high`` (as a ReLU limits them), independent of the others.

    float64 vectors of one entry per channel, or of one for all of them.
    """

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def normal(cls, mean: Tensor, std: Tensor) -> Clipped:
        mean, std = mean.detach().double(), std.detach().double()
        return cls(mean, std, torch.full_like(mean, -torch.inf), torch.full_like(mean, torch.inf))

    @property
    def channels(self) -> int:
        return self.mean.numel()

    def limited(self, low: float, high: float) -> Clipped:
        return replace(self, low=self.low.clamp(low, high), high=self.high.clamp(low, high))

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of the limited numbers. For a ReLU: Nagel et al. 2019, appendix C."""
        std = self.std.clamp(min=1e-30)
        a, b = (self.low - self.mean) / std, (self.high - self.mean) / std
        below, above = torch.special.ndtr(a), torch.special.ndtr(-b)
        inside = 1 - below - above
        at_a, at_b = _density(a), _density(b)
        first = self.mean * inside + std * (at_a - at_b) + _finite(self.low) * below + _finite(self.high) * above
        # around the mean of the unlimited numbers, so that nothing cancels
        low, high = _finite(self.low - self.mean), _finite(self.high - self.mean)
        second = std.square() * (inside + _finite(a) * at_a - _finite(b) * at_b) + low.square() * below + high.square() * above
        return first, (second - (first - self.mean).square()).clamp(min=0)

    def samples(self, count: int) -> Tensor:
        """(count, channels): evenly spread quantiles of every channel."""
        grid = torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count)
        return torch.minimum(torch.maximum(self.mean + grid[:, None] * self.std, self.low), self.high)

    def pooled(self) -> Clipped:
        """One normal distribution for all channels alike, limited as the widest of them."""
        mean, variance = self.moments()
        spread = (variance + (mean - mean.mean()).square()).mean()
        return Clipped(mean.mean().reshape(1), spread.sqrt().reshape(1), self.low.min().reshape(1), self.high.max().reshape(1))

    def at(self, index: Tensor) -> Clipped:
        return Clipped(self.mean[index], self.std[index], self.low[index], self.high[index])


def _density(z: Tensor) -> Tensor:
    return torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)


def _finite(x: Tensor) -> Tensor:
    """x with 0 for infinities, which only ever meet a weight of 0."""
    return torch.where(torch.isfinite(x), x, 0.0)


def distributions(qmodel: fx.GraphModule, statistics: Mapping[str, Statistics], inputs: Clipped) -> dict[str, Clipped]:
    """What every node of the quantized model's graph that gives a tensor gives, by the node's name; rounding is left out.

    ``statistics``: of the results of layers, by path, as ``folded_statistics`` has them; those of BatchNorms in the model itself are known anyway. A
    layer without any is computed from its input, its channels taken as independent and neighbouring pixels as equal or independent, whichever
    spreads more. Sums and products are of independent numbers, unless a
    value meets itself; pooling and padding leave a distribution as it is.
    """
    found: dict[str, Clipped] = {}
    for node in qmodel.graph.nodes:
        if node.op != "call_module":
            continue
        layer = qmodel.get_submodule(str(node.target))
        sources = [found[source.name] for source in node.args if isinstance(source, fx.Node) and source.name in found]
        if isinstance(layer, QInput):
            found[node.name] = _expanded(inputs, layer.shape[0])
        elif isinstance(layer, Weighted):
            partners = (qmodel.get_submodule(str(source.target)) for source in node.all_input_nodes if source.op == "call_module")
            norm = next((partner for partner in partners if isinstance(partner, QFoldedBatchNorm)), None)
            known = _of_norm(norm) if norm is not None else statistics.get(str(node.target))
            found[node.name] = through(layer, sources[0]) if known is None else Clipped.normal(known.mean, known.std)
        elif isinstance(layer, QBatchNorm):
            known = _of_norm(layer)
            found[node.name] = Clipped.normal(known.mean, known.std)
        elif not isinstance(layer, QFoldedBatchNorm):
            found[node.name] = _moved(layer, sources)
    return found


def _of_norm(norm: Norm) -> Statistics:
    scale, _ = norm.affine()
    mean = torch.zeros_like(scale) if norm.bias is None else norm.bias
    return Statistics(mean, scale.abs() * norm.running_var.sqrt())


def taps(layer: Weighted, weight: Tensor) -> Tensor:
    """The weight (as the layer casts it) summed over its kernel, in float64: (outputs, inputs / groups). What a constant image meets; of a transposed
    convolution, on average over the outputs."""
    total = weight.detach().double().flatten(2).sum(2) if weight.dim() > 2 else weight.detach().double()
    return total / math.prod(layer.stride) if isinstance(layer, QConvTranspose) else total


def per_weight(layer: Weighted, values: Tensor) -> Tensor:
    """One number per input channel as (outputs, inputs / groups)."""
    outputs, groups = layer.cast_weight().shape[0], int(getattr(layer, "groups", 1))
    return values.reshape(groups, 1, -1).expand(groups, outputs // groups, -1).reshape(outputs, -1)


def through(layer: Weighted, x: Clipped) -> Clipped:
    """The result of a layer without statistics."""
    weight = layer.cast_weight()
    mean, variance = _expanded(x, weight.shape[1] * int(getattr(layer, "groups", 1))).moments()
    total = taps(layer, weight)
    squares = taps(layer, weight.square()) if weight.dim() > 2 else total.square()
    spread = (torch.maximum(total.square(), squares) * per_weight(layer, variance)).sum(1)
    centre = (total * per_weight(layer, mean)).sum(1)
    return Clipped.normal(centre if layer.bias is None else centre + layer.bias.detach().double(), spread.sqrt())


def _expanded(x: Clipped, channels: int) -> Clipped:
    """One distribution for all channels as one for each; where a mixture has lost the channels, they are all alike."""
    if x.channels == channels:
        return x
    return (x if x.channels == 1 else x.pooled()).at(torch.zeros(channels, dtype=torch.int64))


def _moved(layer: torch.nn.Module, sources: list[Clipped]) -> Clipped:
    x = sources[0]
    if isinstance(layer, QReLU):
        return x.limited(0.0, math.inf)
    if isinstance(layer, QReLU6):
        return x.limited(0.0, 6.0)
    if isinstance(layer, QLeakyReLU):
        slope = 2.0**layer.log2_slope
        (up, up_var), (down, down_var) = x.limited(0.0, math.inf).moments(), x.limited(-math.inf, 0.0).moments()
        variance = up_var + slope**2 * down_var - 2 * slope * up * down  # the two are never nonzero at once
        return Clipped.normal(up + slope * down, variance.clamp(min=0).sqrt())
    if isinstance(layer, QAdd | QSub | QMul):
        return _combined(layer, *sources)
    if isinstance(layer, QConcat):
        parts = sources if all(part.channels > 1 for part in sources) else [part.pooled() for part in sources]
        joined = Clipped(*(torch.cat([getattr(part, name) for part in parts]) for name in ("mean", "std", "low", "high")))
        return joined if parts is sources else joined.pooled()
    if isinstance(layer, QAvgPool):
        factor = math.prod(layer.kernel) / layer.divisor
        return Clipped(x.mean * factor, x.std * factor, x.low * factor, x.high * factor)
    if isinstance(layer, QReshape) and x.channels > 1 and layer.shape[0] != x.channels:
        repeat, rest = divmod(layer.shape[0], x.channels)
        return x.at(torch.arange(x.channels).repeat_interleave(repeat)) if len(layer.shape) == 1 and rest == 0 else x.pooled()
    if isinstance(layer, QPermute) and layer.perm[0] != 0:
        return x.pooled()
    if isinstance(layer, QSlice) and x.channels > 1:
        return x.at(torch.arange(x.channels)[layer.starts[0] : layer.stops[0] : layer.steps[0]])
    if isinstance(layer, QPad) and x.channels > 1 and layer.pads[0] != (0, 0):
        return Clipped(*(torch.nn.functional.pad(values, layer.pads[0]) for values in (x.mean, x.std, x.low, x.high)))
    return x  # a cast, pooling, upsampling, dropout, and padding by zeros along an image


def _combined(layer: QAdd | QSub | QMul, a: Clipped, b: Clipped) -> Clipped:
    (mean_a, var_a), (mean_b, var_b) = a.moments(), b.moments()
    if a is b:  # x + x, x - x, x * x
        if isinstance(layer, QMul):
            return Clipped.normal(mean_a.square() + var_a, (2 * var_a.square() + 4 * var_a * mean_a.square()).sqrt())
        factor = 2.0 if isinstance(layer, QAdd) else 0.0
        return Clipped.normal(factor * mean_a, factor * var_a.sqrt())
    if isinstance(layer, QMul):
        variance = var_a * var_b + var_a * mean_b.square() + var_b * mean_a.square()
        return Clipped.normal(mean_a * mean_b, variance.sqrt())
    std = (var_a + var_b).sqrt()
    if isinstance(layer, QSub):
        return Clipped(mean_a - mean_b, std, a.low - b.high, a.high - b.low)
    return Clipped(mean_a + mean_b, std, a.low + b.low, a.high + b.high)
