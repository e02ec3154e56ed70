"""Where the batch lies in a tensor of the user's, and the same tensor with the batch in front."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """The batch is on axis ``axis``, which holds ``before`` numbers in front of it and ``behind`` behind it: ``(T * N, F)`` has before=T, what
    flattens ``(N, T)`` has behind=T.

    Such a tensor is kept *turned*: the batch first, then the other axes in their order, the batch's own axis as those of its factors that are not 1;
    at least one axis, of length 1 if there is no other. ``inner``: those factors stand behind the channels, not in front of them: so the frames of
    ``(N * T, C, H, W)`` are a further axis of one picture, ``(N, C, T, H, W)``.
    """

    axis: int = 0
    before: int = 1
    behind: int = 1
    inner: bool = False

    @property
    def factors(self) -> Shape:
        """What the batch's axis holds beside it, as axes of the turned tensor."""
        return tuple(size for size in (self.before, self.behind) if size != 1)

    def plain(self, rank: int) -> bool:
        """Whether a tensor of so many axes is turned as it is."""
        return self == Layout() and rank > 1

    def turned(self, shape: Shape) -> Shape:
        """The axes behind the batch of the turned tensor, for a tensor of ``shape``."""
        if self.inner:
            return (shape[1], *self.factors, *shape[2:])
        return (*shape[: self.axis], *self.factors, *shape[self.axis + 1 :]) or (1,)

    def place(self, axis: int) -> int:
        """Where another axis than the batch's is in the turned tensor, the batch counted; not of ``inner``."""
        return axis + 1 if axis < self.axis else axis + len(self.factors)

    def places(self, axis: int) -> range:
        """``place`` of any axis: none or several for the batch's own."""
        return range(axis + 1, axis + 1 + len(self.factors)) if axis == self.axis else range(self.place(axis), self.place(axis) + 1)

    def moved(self, by: int) -> Layout:
        """With so many axes more in front."""
        return replace(self, axis=self.axis + by)

    def turn(self, tensor: Tensor) -> Tensor:
        shape = tuple(tensor.shape)
        batch = shape[self.axis] // (self.before * self.behind)
        apart = tensor.reshape(*shape[: self.axis], self.before, batch, self.behind, *shape[self.axis + 1 :])
        outer = apart.movedim(self.axis + 1, 0).reshape(batch, *replace(self, inner=False).turned(shape))
        return outer.permute(self.inward(len(shape))) if self.inner else outer

    def inward(self, rank: int) -> Shape:
        """The order that brings the factors behind the channels, for a tensor of so many axes."""
        count = len(self.factors)
        return (0, count + 1, *range(1, count + 1), *range(count + 2, count + rank))

    def outward(self, rank: int) -> Shape:
        """The inverse of ``inward``."""
        order = self.inward(rank)
        return tuple(order.index(place) for place in range(len(order)))

    def fits(self, shape: Shape, batch: int) -> bool:
        return self.axis < len(shape) and shape[self.axis] == self.before * batch * self.behind

    def viewed(self, shape: Shape, new: tuple[Shape, Shape], batches: tuple[int, int]) -> Layout | None:
        """The layout of the same elements in the same order under another shape, ``new`` for both ``batches``; None if the batch is spread over
        several axes, or lost."""
        small, large = new
        at = following(small, large)
        if at is None:
            return None
        first = math.prod(shape[: self.axis]) * self.before
        last = math.prod(shape[self.axis + 1 :]) * self.behind
        outer, inner = math.prod(small[:at]), math.prod(small[at + 1 :])
        if not first * last or first % outer or last % inner:
            return None
        found = Layout(at, first // outer, last // inner)
        return found if found.fits(small, batches[0]) and found.fits(large, batches[1]) else None


def following(small: Shape, large: Shape) -> int | None:
    """The one axis whose length differs between two batches."""
    if len(small) != len(large):
        return None
    found = [axis for axis, (a, b) in enumerate(zip(small, large, strict=True)) if a != b]
    return found[0] if len(found) == 1 else None
