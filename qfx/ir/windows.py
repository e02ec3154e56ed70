"""Sliding windows: the geometry that convolution and pooling share, and the strided views that execute it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from qfx.errors import ModelFileError
from qfx.ir.values import Pads, RawArray, Shape


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of one operator over the spatial axes of a (channels, *spatial) value; one entry per spatial axis in every field."""

    size: Shape
    kernel: Shape
    stride: Shape
    pads: Pads
    dilation: Shape

    @classmethod
    def of(cls, name: str, shape: Shape, kernel: Shape, stride: Shape, pads: Pads, dilation: Shape | None = None) -> Windows:
        """Checked windows over a value of ``shape``. Raises ModelFileError naming the node."""
        spatial = shape[1:]
        if len(spatial) not in (1, 2, 3):
            remedy = "give (channels, length), (channels, height, width) or (channels, depth, height, width)"
            raise ModelFileError(f"windows over a value of shape {shape}", where=name, remedy=remedy)
        dilation = (1,) * len(spatial) if dilation is None else dilation
        for field, values in (("kernel", kernel), ("stride", stride), ("pads", pads), ("dilation", dilation)):
            if len(values) != len(spatial):
                raise ModelFileError(
                    f"{field} is {values} for {len(spatial)} spatial axes of {shape}", where=name, remedy="give one entry per spatial axis"
                )
        for field, sizes in (("kernel", kernel), ("stride", stride), ("dilation", dilation)):
            if min(sizes) < 1:
                raise ModelFileError(f"{field} is {sizes}", where=name, remedy="use entries of at least 1")
        check_pads(name, pads)
        windows = cls(spatial, kernel, stride, pads, dilation)
        if min(windows.out) < 1:
            raise ModelFileError(
                f"a kernel of {kernel} (dilation {dilation}) is larger than the padded input {windows.padded}", where=name, remedy="pad, or shrink it"
            )
        return windows

    @property
    def padded(self) -> Shape:
        return tuple(size + before + after for size, (before, after) in zip(self.size, self.pads, strict=True))

    @property
    def reach(self) -> Shape:
        """The span of one window along each axis."""
        return tuple(dilation * (kernel - 1) + 1 for kernel, dilation in zip(self.kernel, self.dilation, strict=True))

    @property
    def out(self) -> Shape:
        """The number of windows along each axis."""
        axes = zip(self.padded, self.reach, self.stride, strict=True)
        return tuple((padded - reach) // stride + 1 for padded, reach, stride in axes)

    def real_taps(self) -> tuple[int, int]:
        """The least and the greatest number of elements of a window that are not padding."""
        least = greatest = 1
        for axis in range(len(self.size)):
            starts = np.arange(self.out[axis]) * self.stride[axis] - self.pads[axis][0]
            taps = starts[:, None] + np.arange(self.kernel[axis]) * self.dilation[axis]
            counts = ((taps >= 0) & (taps < self.size[axis])).sum(axis=1)
            least, greatest = least * int(counts.min()), greatest * int(counts.max())
        return least, greatest

    def taps(self, x: RawArray, fill: int) -> list[RawArray]:
        """For each kernel position, row-major: the view (N, C, *out) of what it meets in ``x`` (N, C, *size), padded with ``fill``."""
        if any(pad != (0, 0) for pad in self.pads):
            x = np.pad(x, ((0, 0), (0, 0), *self.pads), constant_values=fill)
        views = []
        for tap in product(*(range(kernel) for kernel in self.kernel)):
            at = [slice(None), slice(None)]
            for axis, position in enumerate(tap):
                start = position * self.dilation[axis]
                at.append(slice(start, start + (self.out[axis] - 1) * self.stride[axis] + 1, self.stride[axis]))
            views.append(x[tuple(at)])
        return views


def check_pads(name: str, pads: Pads) -> None:
    """Raises ModelFileError naming the node unless every entry is a pair of non-negative integers."""
    for pair in pads:
        if len(pair) != 2 or min(pair) < 0:
            raise ModelFileError(f"pads are {pads}", where=name, remedy="give (before, after), neither of them negative; use Slice to crop")
