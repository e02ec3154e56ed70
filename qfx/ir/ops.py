"""The closed operator set: for each operator its attributes, its type rule (``infer``) and its integer meaning (``evaluate``).

Shapes leave the batch out; channels are axis 0. Every operator but Input and Cast is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qfx.fixed.type import FixedType

Pads = tuple[tuple[int, int], ...]
"""(before, after) for each axis that is padded."""


@dataclass(frozen=True, eq=False)
class Const:
    """A constant tensor: ``raw * 2**-frac_bits``, raw int64 and read-only."""

    raw: npt.NDArray[np.int64]
    frac_bits: int


@dataclass(frozen=True, slots=True)
class ArrayType:
    """The fixed-point types of a cast: one word length, signedness and pair of modes, and a binary point per tensor, channel or element.

    ``int_bits`` lists the integer bits in row-major order over ``shape``, which broadcasts against the value's shape by numpy's rules: () for one binary
    point, (C, 1, 1) for one per channel of a (C, H, W) value. ``element`` carries everything else (its own int_bits is the greatest of them).
    """

    element: FixedType
    int_bits: tuple[int, ...]
    shape: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Input:
    """The float input and its cast: the first operation of every model. ``shape`` without the batch."""

    shape: tuple[int, ...]
    cast: ArrayType


@dataclass(frozen=True, slots=True)
class Cast:
    """Rounding, then overflow: the only operator that loses bits."""

    cast: ArrayType


@dataclass(frozen=True, slots=True)
class Conv:
    """Cross-correlation over 1 or 2 spatial axes, as torch.nn.functional.conv1d / conv2d; zero padding."""

    weight: Const  # (out_channels, in_channels / groups, *kernel)
    bias: Const | None  # (out_channels,)
    stride: tuple[int, ...]
    pads: Pads  # one pair per spatial axis
    dilation: tuple[int, ...]
    groups: int


@dataclass(frozen=True, slots=True)
class Linear:
    """y = weight @ x + bias for a value of shape (in_features,)."""

    weight: Const  # (out_features, in_features)
    bias: Const | None  # (out_features,)


@dataclass(frozen=True, slots=True)
class Affine:
    """y = x * scale + shift, with one scale and shift per channel (shape (C,)) or for all (shape ())."""

    scale: Const
    shift: Const | None


@dataclass(frozen=True, slots=True)
class Add:
    """Sum of two values of one shape."""


@dataclass(frozen=True, slots=True)
class Sub:
    """Difference of two values of one shape."""


@dataclass(frozen=True, slots=True)
class Mul:
    """Elementwise product of two values of one shape."""


@dataclass(frozen=True, slots=True)
class Relu:
    """max(x, 0)."""


@dataclass(frozen=True, slots=True)
class LeakyRelu:
    """x for x >= 0, else x * 2**log2_slope; log2_slope <= 0."""

    log2_slope: int


@dataclass(frozen=True, slots=True)
class Clip:
    """min(max(x, low), high); both scalar constants (ReLU6 is Clip(0, 6))."""

    low: Const
    high: Const


@dataclass(frozen=True, slots=True)
class MaxPool:
    """Greatest value of each window; padding never wins (every window holds at least one real value)."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pads: Pads  # one pair per spatial axis
    dilation: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SumPool:
    """Sum of each window, padding counted as zeros. Average pooling is SumPool, Affine by a fixed-point reciprocal, Cast."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pads: Pads


@dataclass(frozen=True, slots=True)
class Concat:
    """Two or more values joined along the channels; the result's grid is the finest of theirs."""


@dataclass(frozen=True, slots=True)
class Reshape:
    """The same elements in PyTorch's (row-major) order under another shape (flatten included)."""

    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Transpose:
    """Axes permuted: result axis i is source axis perm[i] (batch not counted)."""

    perm: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pad:
    """Zeros around every axis, the channels included."""

    pads: Pads  # one pair per axis


@dataclass(frozen=True, slots=True)
class Slice:
    """x[start:stop:step] on every axis; 0 <= start < stop <= size and step >= 1."""

    starts: tuple[int, ...]
    stops: tuple[int, ...]
    steps: tuple[int, ...]


Op = (
    Input | Cast | Conv | Linear | Affine | Add | Sub | Mul | Relu | LeakyRelu | Clip | MaxPool | SumPool | Concat | Reshape | Transpose | Pad | Slice
)
