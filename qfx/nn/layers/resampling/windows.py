"""The windows of adaptive pooling, which may differ in length and overlap."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from qfx.nn.call import Call, Part
from qfx.nn.fixed_layer import FixedLayer
from qfx.nn.layers.moving.take import QTake
from qfx.nn.layers.pad import QPad

_SUFFIXES = ("_depth", "_rows", "_columns")


@dataclass(frozen=True)
class Windows:
    """The windows along one axis of ``size`` numbers: window i holds those of ``spans[i]``, (first, behind the last)."""

    size: int
    spans: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, size: int, result: int) -> Windows:
        """Torch's: as even as can be, and overlapping where ``result`` does not divide ``size``."""
        return cls(size, tuple((i * size // result, -(-(i + 1) * size // result)) for i in range(result)))

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(stop - start for start, stop in self.spans)

    @property
    def kernel(self) -> int:
        return max(self.lengths)

    @property
    def uneven(self) -> bool:
        return len(set(self.lengths)) > 1

    @property
    def stride(self) -> int | None:
        """By how much each begins behind the one before, if they are windows of pooling as they lie; else None."""
        starts = [start for start, _ in self.spans]
        steps = {after - before for before, after in pairwise(starts)} or {self.kernel}
        return None if self.uneven or len(steps) > 1 or min(steps) == 0 else steps.pop()

    def order(self, beyond: int | None) -> tuple[int, ...]:
        """The numbers of all windows one behind the other, each window as long as the longest: what a shorter one lacks is number ``beyond``; None:
        its own last again, which changes no maximum."""
        taps = range(self.kernel)
        return tuple(start + tap if start + tap < stop else stop - 1 if beyond is None else beyond for start, stop in self.spans for tap in taps)


def adaptive_windows(call: Call) -> tuple[Windows, ...]:
    """Those of each spatial axis of a call of adaptive pooling."""
    call.spatial_rank()
    return tuple(Windows.of(size, result) for size, result in zip(call.in_shape[1:], call.out_shape[1:], strict=True))


def laid_out(windows: tuple[Windows, ...], *, zeros: bool) -> tuple[list[Part], tuple[int, ...], tuple[int, ...]]:
    """Windows as pooling has them: the parts that lay the numbers out for it, and its kernel and stride. ``zeros``: what short windows lack are
    zeros; else it is their last number."""
    parts: list[Part] = []

    def add(layer: FixedLayer, suffix: str) -> None:
        parts.append(Part(layer, (parts[-1] if parts else 0,), suffix))

    padded = [zeros and axis.uneven for axis in windows]
    if any(padded):
        add(QPad(((0, 0), *((0, int(more)) for more in padded))), "_padded")
    strides = []
    for place, axis in enumerate(windows):
        strides.append(axis.stride or axis.kernel)
        if axis.stride is None:
            add(QTake(place + 1, axis.order(axis.size if padded[place] else None)), _SUFFIXES[place - len(windows)])
    return parts, tuple(axis.kernel for axis in windows), tuple(strides)
