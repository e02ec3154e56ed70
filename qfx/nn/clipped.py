"""``Clipped``: what values a node takes, per channel, as distributions that layers carry on (``qfx.ptq.data_free``)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor


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

    def expanded(self, channels: int) -> Clipped:
        """One distribution for all channels as one for each; where a mixture has lost the channels, they are all alike."""
        if self.channels == channels:
            return self
        return (self if self.channels == 1 else self.pooled()).at(torch.zeros(channels, dtype=torch.int64))

    def at(self, index: Tensor) -> Clipped:
        return Clipped(self.mean[index], self.std[index], self.low[index], self.high[index])


def _density(z: Tensor) -> Tensor:
    return torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)


def _finite(x: Tensor) -> Tensor:
    """x with 0 for infinities, which only ever meet a weight of 0."""
    return torch.where(torch.isfinite(x), x, 0.0)
