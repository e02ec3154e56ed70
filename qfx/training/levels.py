"""``Levels``: weights pulled to levels that are learned with them, and a recipe that has these levels as its numbers."""

from __future__ import annotations

import fnmatch

import torch
from torch import Tensor, nn

from qfx.errors import QfxError
from qfx.nn.layers import Weighted
from qfx.nn.model import quantizers
from qfx.recipe import Override

_ROUNDS = 50
"""Of Lloyd's algorithm."""


class Levels:
    """Learned non-uniform levels by regularization: a term for the loss of a plain loop, and what comes of it.

    >>> import torch, qfx
    >>> qmodel = qfx.quantize(torch.nn.Linear(8, 4), torch.randn(32, 8))
    >>> levels = qfx.Levels(qmodel, 3)
    >>> loss = qmodel(torch.randn(32, 8)).square().mean() + 0.1 * levels.loss()
    >>> levels.overrides()[0].changes["numbers"].startswith("levels(")
    True

    Each weight (of those that ``pattern`` matches) has 2**bits - 1 levels in units of its last place as it is now, 0 the middle one and fixed, the
    others parameters (``parameters()``, for the optimizer, at a rate of some tenths), which start where the weights have a small squared error
    (Lloyd's algorithm): few levels spread up to the largest weight would leave nearly all weights to the level 0.
    ``loss()`` is the mean, over the weights, of the squared distance of each number to its nearest level, as a share of the mean square of the
    weight: it moves both. ``overrides()`` are the levels as they are, rounded to the grid, for the recipe of a new ``qfx.quantize`` of the weights
    (``qfx.float_state``); that model's weights are those levels alone.

    Source: Biswas, Singhal et al., "Regularization-based Framework for Quantization-, Fault- and Variability-Aware Training", 2025, arXiv 2503.01297
    (learnable non-uniform quantization by a regularizer; abstract and introduction were at hand, not its formulas).

    Raises QfxError for a pattern that matches no weight, and a number of bits that is not 2 to 8.
    """

    def __init__(self, qmodel: nn.Module, bits: int, pattern: str = "*.weight") -> None:
        if bits not in range(2, 9):
            raise QfxError(f"bits is {bits!r}", where="Levels", remedy="use 2 to 8")
        chosen = {name for name, _ in quantizers(qmodel) if fnmatch.fnmatchcase(name, pattern)}
        self._layers = [layer for layer in qmodel.modules() if isinstance(layer, Weighted) and layer.weight_cast.name in chosen]
        if not self._layers:
            raise QfxError(f"the pattern {pattern!r} matches no weight", where="Levels", remedy="use a quantizer's name, such as '*.weight'")
        half = (1 << bits - 1) - 1
        self._sizes: list[nn.Parameter] = []
        self._points: list[Tensor] = []
        for layer in self._layers:
            self._points.append(layer.weight_cast.points().clone())
            units = (layer.cast_weight().detach() * torch.exp2(self._points[-1])).flatten()
            most = 2.0 ** (layer.weight_cast.spec.width - 1) - 1
            self._sizes.append(nn.Parameter(start(units, half).clamp(-most - 1, most)))

    def __repr__(self) -> str:
        return f"Levels({len(self._layers)} weights of {len(self._sizes[0]) + 1} levels)"

    def parameters(self) -> list[nn.Parameter]:
        """The levels of each weight, without 0, in units of its last place."""
        return self._sizes

    def loss(self) -> Tensor:
        """The mean squared distance to the nearest level, as a share of the mean square; differentiable by weights and levels."""
        total = torch.zeros(())
        for layer, sizes, points in zip(self._layers, self._sizes, self._points, strict=True):
            units = (layer.cast_weight() * torch.exp2(points)).flatten()
            levels = torch.cat([sizes, sizes.new_zeros(1)])
            nearest = nearest_of(units, levels)
            total = total + (units - levels[nearest]).square().mean() / units.detach().square().mean().clamp(min=1e-12)
        return total / len(self._layers)

    def overrides(self) -> tuple[Override, ...]:
        """The levels as ``numbers`` of the weights. Levels that fall together are one."""
        found = []
        for layer, sizes, points in zip(self._layers, self._sizes, self._points, strict=True):
            top = (1 << layer.weight_cast.spec.width - 1) - 1
            levels = sorted({0, *(max(-top - 1, min(top, round(size))) for size in sizes.detach().tolist())})
            if len(levels) < 2:
                levels = [0, 1]
            changes = {"numbers": f"levels({', '.join(map(str, levels))})", "frac_bits": int(points.max())}
            if points.dim():
                del changes["frac_bits"]  # one for each channel: they start where the levels suit them
            found.append(Override(layer.weight_cast.name, changes))
        return tuple(found)


def nearest_of(units: Tensor, levels: Tensor) -> Tensor:
    """The place of the level that is nearest to each number."""
    with torch.no_grad():
        ordered, order = levels.sort()
        return order[torch.bucketize(units, (ordered[1:] + ordered[:-1]) / 2)]


def start(units: Tensor, half: int) -> Tensor:
    """``half`` levels below 0 and as many above, ascending, from quantiles of the magnitudes by Lloyd's algorithm with 0 beside them.

    >>> start(torch.tensor([-3.0, -1.0, -1.0, 0.0, 0.0, 1.0, 1.0, 5.0]), 2).tolist()
    [-3.0, -1.0, 1.0, 5.0]
    """
    sizes = units.abs().sort().values
    sizes = sizes[sizes > 0] if (sizes > 0).any() else torch.arange(1.0, half + 1, dtype=units.dtype, device=units.device)  # 0 has its own level
    places = ((torch.arange(half, device=units.device) + 0.5) / half * len(sizes)).long()
    levels = torch.cat([-sizes[places].flip(0), sizes[places]])
    for _ in range(_ROUNDS):
        nearest = nearest_of(units, torch.cat([levels, levels.new_zeros(1)]))
        count = torch.bincount(nearest, minlength=2 * half + 1)[:-1]
        total = torch.zeros(2 * half + 1, dtype=units.dtype, device=units.device).scatter_add_(0, nearest, units)[:-1]
        levels = torch.where(count > 0, total / count.clamp(min=1), levels)
        levels = torch.cat([levels[:half].clamp(max=0), levels[half:].clamp(min=0)])
    return levels
