"""Weighted sums: the exact bounds and the exact, reasonably fast arithmetic of convolution and matrix-vector products."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qfx.errors import ModelFileError
from qfx.fixed.arith import FLOAT64_BITS, Bounds, Interval, channelwise
from qfx.fixed.type import FixedType
from qfx.ir import rules
from qfx.ir.values import Const, Info, LoadableConst, RawArray, Shape
from qfx.ir.windows import Windows


def products(weight: Const, x: Interval) -> list[tuple[Interval, Interval]]:
    """For each output (axis 0 of the weight): the interval of ``sum(weight * x)`` and that of the sum of any of its terms (0 included)."""
    if isinstance(weight, LoadableConst):
        # Every product reaches its extremes by itself, and there are as many in a sum as an output has weights.
        full = (Interval.of(weight.type) * x).times(weight.raw[0].size)
        return [(full, full.with_zero())] * len(weight.raw)
    bounds = []
    for (negative, positive), row in zip(weight.channel_sums, weight.rows(len(weight.raw)), strict=True):
        grid = row + x.frac_bits
        lo, hi = positive * x.lo + negative * x.hi, positive * x.hi + negative * x.lo
        some_lo = positive * min(x.lo, 0) + negative * max(x.hi, 0)
        some_hi = positive * max(x.hi, 0) + negative * min(x.lo, 0)
        bounds.append((Interval(lo, hi, grid), Interval(some_lo, some_hi, grid)))
    return bounds


def weighted(weight: Const, bias: Const | None, x: Interval) -> tuple[Bounds, Bounds]:
    """The interval of ``bias + sum(weight * x)`` and that of every partial sum that starts from the bias, in any order; both for each output."""
    bounds = products(weight, x)
    if bias is None:
        return channelwise(full for full, _ in bounds), channelwise(some for _, some in bounds)
    pairs = list(zip(bounds, bias.entries, strict=True))
    return channelwise(full + start for (full, _), start in pairs), channelwise(some + start for (_, some), start in pairs)


def _dtype(weight: Const, x: Interval) -> type[np.float64] | type[np.int64]:
    """float64 (fast: BLAS) where it holds every partial sum of every order exactly, else int64."""
    partial = channelwise(some for _, some in products(weight, x))
    operands = max(weight.interval.magnitude_bits, x.magnitude_bits)
    return np.float64 if max(partial.magnitude_bits, operands) <= FLOAT64_BITS else np.int64


def matvec(weight: Const, x_raw: RawArray, x: Interval) -> RawArray:
    """(N, K) raws times the transposed (M, K) weight: (N, M) raws, each output's on the grid of its products; int64 must hold the result."""
    dtype = _dtype(weight, x)
    return _product(x_raw.astype(dtype), weight.raw.astype(dtype).T)


def convolve(weight: Const, groups: int, windows: Windows, x_raw: RawArray, x: Interval) -> RawArray:
    """Cross-correlation of (N, C, *size) raws, zero padded: (N, M, *out) raws, each output's on the grid of its products; int64 must
    hold the result."""
    outputs, per_group = weight.shape[:2]
    taps = windows.taps(x_raw, fill=0)
    if per_group == 1 and outputs == groups > 1:
        return _depthwise(weight, taps)
    dtype = _dtype(weight, x.with_zero())
    batch = len(x_raw)
    columns = np.empty((groups, batch, *windows.out, per_group, len(taps)), dtype=dtype)
    for index, view in enumerate(taps):
        grouped = view.reshape(batch, groups, per_group, *windows.out)
        columns[..., index] = np.moveaxis(grouped, (1, 2), (0, -1))
    flat = columns.reshape(groups, -1, per_group * len(taps))
    matrix = weight.raw.reshape(groups, outputs // groups, -1).astype(dtype)
    result = _product(flat, matrix.transpose(0, 2, 1)).reshape(groups, batch, *windows.out, outputs // groups)
    return np.moveaxis(result, (0, -1), (1, 2)).reshape(batch, outputs, *windows.out)


def _depthwise(weight: Const, taps: list[RawArray]) -> RawArray:
    """One channel in and out per group: a product per tap is cheaper than a matrix product."""
    factors = weight.raw.reshape(len(weight.raw), -1)
    total = np.zeros(taps[0].shape, dtype=np.int64)
    for index, view in enumerate(taps):
        total += view * factors[:, index].reshape(-1, *(1,) * (view.ndim - 2))
    return total


def _product(a: npt.NDArray[np.generic], b: npt.NDArray[np.generic]) -> RawArray:
    """The matrix product of two arrays of the one dtype that ``_dtype`` chose."""
    result: RawArray = np.matmul(a, b).astype(np.int64, copy=False)
    return result


def weighted_info(name: str, shape: Shape, weight: Const, bias: Const | None, x: Interval) -> Info:
    """What is known of ``bias + sum(weight * x)``. Raises ModelFileError or ExactnessError, naming the node."""
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ModelFileError(f"the bias is {bias.shape} for {weight.shape[0]} outputs", where=name, remedy="give one per output")
    full, partial = weighted(weight, bias, x)
    rules.fit(name, partial)
    return rules.info(name, shape, full)


def word(bounds: Bounds) -> FixedType:
    """The type that holds the raw of every channel."""
    return FixedType(bounds.width, bounds.width - bounds.hull.frac_bits, bounds.signed)


def per_channel(values: RawArray | tuple[int, ...], rank: int) -> RawArray:
    """Values of shape (), one per channel, or with an axis for each of a value's, so that they broadcast against a value of ``rank`` axes."""
    array = np.asarray(values, dtype=np.int64)
    return array.reshape(-1, *(1,) * (rank - 1)) if array.ndim == 1 else array


def with_bias(raw: RawArray, grids: npt.NDArray[np.int64], bias: Const | None, out: Info) -> RawArray:
    """Raws of sums of products on ``grids``, taken to the grids of ``out``, plus the bias."""
    rank = len(out.shape)
    aligned = rules.move(raw, out.grids - grids)
    return aligned if bias is None else aligned + rules.move(per_channel(bias.raw, rank), out.grids - per_channel(bias.grids, rank))
