"""``Settling``: binary points that flip between two positions come to rest."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from qfx.errors import ModelFileError
from qfx.nn.model import quantized_parts
from qfx.nn.quantizer import Quantizer

_MEMORY = 0.99
"""How much of the mean of a position is kept from step to step."""


class Settling:
    """Lets binary points rest that flip, in a loop: ``settling.step()`` behind each ``optimizer.step()``.

    A binary point is rounded when it is used. Where the best scale lies between two powers of two, training pushes the point to the boundary between
    them, where every few steps it changes sides, and with it what the cast gives by a factor of 2. Here a point that has turned back ``turns`` times
    is put to rest at the position where it has been most of late, for good; others move on freely. Quantizers that learn their word length are left
    alone: a flip is one bit of resolution there, not the scale. (For weights such a rule is the iterative freezing of Nagel et al., "Overcoming
    Oscillations in Quantization-Aware Training", 2022.)

    ``state_dict`` and ``load_state_dict`` keep what it has seen, for runs that are resumed. ``qmodel``: from ``qfx.quantize``, or a module that holds
    such ones. Raises QfxError for others.
    """

    def __init__(self, qmodel: nn.Module, turns: int = 2) -> None:
        layers = (layer for part in quantized_parts(qmodel) for layer in part.modules() if isinstance(layer, Quantizer) and layer.is_initialized)
        self._casts = [layer for layer in dict.fromkeys(layers) if layer.spec.learn and not layer.spec.learn_width]
        self.turns = turns
        points = self._points()
        self._last = torch.round(points)
        self._mean = self._last.clone()
        self._direction = torch.zeros_like(points)
        self._turned = torch.zeros_like(points)
        self._rest = torch.full_like(points, torch.nan)

    def __repr__(self) -> str:
        return f"Settling({self.resting} of {len(self._rest)} binary points at rest, turns={self.turns})"

    @property
    def resting(self) -> int:
        """How many binary points have come to rest."""
        return int((~self._rest.isnan()).sum())

    def step(self) -> None:
        """See where the binary points are now, and put back those that rest."""
        points = self._points()
        rounded = torch.round(points)
        direction = torch.sign(rounded - self._last)
        self._turned += (direction * self._direction < 0).to(points.dtype)
        self._direction = torch.where(direction != 0, direction, self._direction)
        self._mean.lerp_(rounded, 1 - _MEMORY)
        self._rest = torch.where(self._rest.isnan() & (self._turned >= self.turns), torch.round(self._mean), self._rest)
        held = ~self._rest.isnan()
        self._last = torch.where(held, self._rest, rounded)
        with torch.no_grad():
            sizes = [cast.frac_bits.numel() for cast in self._casts]
            for cast, rest, at_rest in zip(self._casts, torch.split(self._rest, sizes), torch.split(held, sizes), strict=True):
                if at_rest.any():
                    here = cast.frac_bits
                    here.copy_(torch.where(at_rest.view_as(here), rest.view_as(here), here))

    def state_dict(self) -> dict[str, Tensor]:
        """What ``load_state_dict`` of a Settling of the same model takes."""
        return {name: getattr(self, f"_{name}").clone() for name in _STATE}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Be as the one was that gave ``state``. Raises ModelFileError for one of another model."""
        if any(name not in state or state[name].shape != self._last.shape for name in _STATE):
            raise ModelFileError("was kept for another model", where="Settling", remedy="make it of the model that the checkpoint is of")
        for name in _STATE:
            setattr(self, f"_{name}", state[name].clone().to(self._last))

    def _points(self) -> Tensor:
        found = [cast.frac_bits.detach().reshape(-1) for cast in self._casts]
        return torch.cat(found) if found else torch.zeros(0)


_STATE = ("last", "mean", "direction", "turned", "rest")
