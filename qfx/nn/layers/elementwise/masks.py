"""Constants that choose, or are compared with: masks of zeros and ones, and offsets that need no Cast."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from qfx.nn.fixed_layer import Traits
from qfx.nn.layers.elementwise.constant import QAddConstant, QMulConstant
from qfx.nn.layers.elementwise.held import Held
from qfx.recipe import Recipe


class QMask(QMulConstant):
    """x where a constant mask is 1, else 0; exact, and no Cast is needed. The gradient goes where the mask is 1."""

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=True, reads_uncast=False)

    def __init__(self, mask: Tensor, rank: int, recipe: Recipe, name: str, first: str = "") -> None:
        """``mask``: zeros and ones that broadcast against a sample of ``rank`` axes."""
        value = mask.float()
        super().__init__(Held(value, shape=(1,) * (rank - value.dim()) + tuple(value.shape)), recipe, name, first)


class QOffset(QAddConstant):
    """x less a constant that it is compared with, exact as it is."""

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=True, reads_uncast=True)
