"""What casts can give whose words have one length: from their binary points."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from qfx.fixed.arith import Bounds, Interval, channelwise, hull
from qfx.fixed.kernel import CastMode


def of_channels(mode: CastMode, width: int, points: Tensor) -> Bounds:
    """Those of the channels, from the integral binary points of each, which lie along axis 1."""
    if points.shape[1] == 1:
        return of_points(mode, width, tuple(points.flatten().tolist()))
    least, most = torch.aminmax(points, dim=1)
    return of_points(mode, width, tuple(least.tolist()), tuple(most.tolist()))


@lru_cache(maxsize=1024)
def of_points(mode: CastMode, width: int, least: int | tuple[float, ...], most: tuple[float, ...] | None = None) -> Bounds:
    """The interval of one binary point, or those of the channels, each the hull over its least and its greatest binary point."""
    if isinstance(least, int):
        return Interval.of(mode.type(width, least))
    if most is None:
        return channelwise(Interval.of(mode.type(width, int(bits))) for bits in least)
    pairs = zip(least, most, strict=True)
    return channelwise(hull(Interval.of(mode.type(width, int(bits))) for bits in pair) for pair in pairs)
