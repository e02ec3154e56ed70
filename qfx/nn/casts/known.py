"""What a cast keeps from one forward to the next, and the numbers that it starts from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from qfx.fixed.arith import Bounds
from qfx.fixed.kernel import CastMode
from qfx.nn.qtensor import QTensor


class Known(NamedTuple):
    """An interval, and what it follows from: binary points (rounded), word length and mode.

    ``near``: the start, if the points lie so far within its reach that whatever is rounded to them does, too.
    """

    points: int | Tensor
    width: int
    mode: CastMode
    interval: Bounds
    near: Tensor | None = None


def equal(known: int | Tensor, points: int | Tensor) -> bool:
    """Whether both are the same binary points."""
    if known is points:
        return True
    if not isinstance(known, Tensor) or not isinstance(points, Tensor):
        return not isinstance(known, Tensor) and not isinstance(points, Tensor) and known == points
    return known.device == points.device and known.dtype == points.dtype and torch.equal(known, points)


@dataclass(frozen=True, eq=False)
class Tensors:
    """The numbers of each part."""

    parts: Iterable[QTensor | Tensor]

    def __iter__(self) -> Iterator[Tensor]:
        for part in self.parts:
            yield part.tensor() if isinstance(part, QTensor) else part
