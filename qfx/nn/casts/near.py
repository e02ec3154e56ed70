"""Binary points that count: where they are learned, those that lie too far from their start count as the nearest position within reach."""

from __future__ import annotations

import torch
from torch import Tensor

from qfx.nn.casts.known import Known, equal
from qfx.recipe import Spec


def counted(frac_bits: Tensor, start: Tensor | None, spec: Spec, known: Known | None, told: Tensor | None) -> tuple[Tensor, float | Tensor]:
    """``frac_bits`` for the cast, straight-through; and its number if it is one, else its numbers, rounded. ``told``: both tensors on the host, one
    behind the other, where they are not there themselves; so are the numbers then."""
    start = start if spec.learn else None
    points, begun = (frac_bits, start) if told is None else (told[0], told[1])
    if frac_bits.dim():
        points = points.detach()
        rounded = torch.round(points)
        if start is None or begun is None:
            return frac_bits, rounded
        if known is not None and known.near is not None and equal(known.points, rounded) and equal(known.near, begun):
            return frac_bits, known.points
        if (points - begun).abs_().max().item() <= spec.reach:
            return frac_bits, rounded
    else:
        point = points.item()
        if start is None or begun is None or abs(point - begun.item()) <= spec.reach:
            return frac_bits, point
    own = frac_bits.detach()
    bounded = frac_bits + (_within(own, start, spec.reach) - own)
    counts = bounded.detach() if told is None else points + (_within(points, begun, spec.reach) - points)
    return bounded, torch.round(counts) if counts.dim() else counts.item()


def there(frac_bits: Tensor, start: Tensor | None, spec: Spec) -> Tensor:
    """The binary points that count, integral, where they are: nobody waits."""
    points = frac_bits.detach()
    return torch.round(points if start is None or not spec.learn else points + (_within(points, start, spec.reach) - points))


def _within(points: Tensor, start: Tensor, reach: float) -> Tensor:
    return torch.clamp(points, start - reach, start + reach)
