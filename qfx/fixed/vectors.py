"""Frames as they lie in the memory of a layer engine, and back.

Imports are relative (see ``arraytype.py``): the board's driver runs a copy of this very file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .array import Int64Array
from .packing import ByteArray
from .type import FixedType


@dataclass(frozen=True, slots=True)
class Place:
    """A value of a run in memory: its number type, the ``shape`` of a frame as the model has it, and where and how it lies.

    Memory holds vectors of ``lanes`` containers of ``bits`` bits each; the value begins with vector ``at``. It lies there as ``kernel`` *
    ``channels`` by ``height`` by ``columns``, filled up to whole vectors: a vector of neighbouring channels for each pixel, block of channels by
    block, row by row. A number that is wider than a container takes several, its planes, the lowest first, in vectors side by side. An input may be
    folded: channel k * channels + c of column x is channel c of column x * ``stride`` - ``before`` + k * ``dilation`` of the frame, or 0 beyond it.
    """

    type: FixedType
    shape: tuple[int, ...]
    at: int
    channels: int
    height: int
    columns: int
    lanes: int
    bits: int
    kernel: int = 1
    stride: int = 1
    before: int = 0
    dilation: int = 1
    frames: int = 1

    @property
    def width(self) -> int:
        """Columns of the frame."""
        return int(np.prod(self.shape, dtype=np.int64)) // (self.channels * self.height)

    @property
    def planes(self) -> int:
        """Containers that a number takes."""
        return -(-self.type.width // self.bits)

    @property
    def blocks(self) -> int:
        return -(-self.kernel * self.channels // self.lanes)

    @property
    def run_bytes(self) -> int:
        """Bytes of memory that it takes."""
        return self.frames * self.blocks * self.height * self.columns * self.planes * self.lanes * self.bits // 8

    @property
    def first_byte(self) -> int:
        """Where they begin."""
        return self.at * self.lanes * self.bits // 8


def check(raw: Int64Array, place: Place) -> None:
    """Raises DataError unless they are frames (N, *shape) of int64 raws that the type can hold."""
    if not isinstance(raw, np.ndarray) or raw.dtype != np.int64:
        got = raw.dtype if isinstance(raw, np.ndarray) else type(raw).__name__
        raise DataError(f"expected int64 raws, got {got}", where="frames", remedy="quantize the data first")
    if raw.ndim == 0 or raw.shape[1:] != place.shape:
        expected = ", ".join(map(str, ("N", *place.shape)))
        raise DataError(f"expected raws of shape ({expected}), got {raw.shape}", where="frames", remedy="put the batch first and leave no axis out")
    low, high = place.type.min_raw, place.type.max_raw
    if raw.size and (int(raw.min()) < low or int(raw.max()) > high):
        raise DataError(f"expected raws in [{low}, {high}], got [{raw.min()}, {raw.max()}]", where="frames", remedy=f"give raws of {place.type}")


def put(raw: Int64Array, place: Place) -> ByteArray:
    """The bytes (runs, run_bytes) of frames of raws (N, *shape); in the last run, zeros for the frames that it lacks.

    >>> place = Place(FixedType(12, 12), (2, 1, 2), at=0, channels=2, height=1, columns=2, lanes=2, bits=8)
    >>> put(np.array([[[[1, 2]], [[-1, 256]]]]), place).tolist()
    [[1, 255, 0, 255, 2, 0, 0, 1]]

    Raises DataError as ``check``.
    """
    check(raw, place)
    runs = -(-len(raw) // place.frames)
    frames = np.zeros((runs * place.frames, place.channels, place.height, place.width), dtype=np.int64)
    frames[: len(raw)] = raw.reshape(len(raw), *frames.shape[1:])
    filled = np.zeros((len(frames), place.blocks * place.lanes, place.height, place.columns), dtype=np.int64)
    for k in range(place.kernel):
        begin = k * place.channels
        filled[:, begin : begin + place.channels] = _columns(frames, place, k)
    parted = filled.reshape(runs, place.frames, place.blocks, place.lanes, place.height, place.columns)
    ordered = parted.transpose(0, 2, 1, 4, 5, 3)
    mask = (1 << place.bits) - 1
    parts = np.empty((*ordered.shape[:5], place.planes, place.lanes), dtype=_container(place))
    for plane in range(place.planes):
        parts[..., plane, :] = ordered >> min(plane * place.bits, 63) & mask
    return parts.reshape(-1).view(np.uint8).reshape(runs, place.run_bytes)


def take(data: ByteArray, place: Place) -> Int64Array:
    """The raws (N, *shape) of all frames in the bytes (runs, run_bytes) of a value that is not folded; the inverse of ``put``.

    Raises DataError for another shape or dtype.
    """
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != place.run_bytes:
        got = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise DataError(f"expected uint8 (N, {place.run_bytes}), got {got}", where="take", remedy="give whole runs")
    held = np.ascontiguousarray(data).reshape(-1).view(_container(place))
    parts = held.reshape(len(data), place.blocks, place.frames, place.height, place.columns, place.planes, place.lanes)
    raw = np.zeros((*parts.shape[:5], place.lanes), dtype=np.int64)
    for plane in range(min(place.planes, -(-64 // place.bits))):
        raw |= parts[..., plane, :].astype(np.int64) << plane * place.bits
    width = place.planes * place.bits
    if place.type.signed and width < 64:
        raw = raw << 64 - width >> 64 - width
    count = len(data) * place.frames
    ordered = raw.transpose(0, 2, 1, 5, 3, 4).reshape(count, place.blocks * place.lanes, place.height, place.columns)
    return np.ascontiguousarray(ordered[:, : place.channels]).reshape(count, *place.shape)


def _columns(frames: Int64Array, place: Place, k: int) -> Int64Array:
    """Those of the frames (N, channels, height, width) that channel group ``k`` holds."""
    if (place.kernel, place.columns) == (1, place.width):
        return frames
    at = np.arange(place.columns) * place.stride - place.before + k * place.dilation
    inside = (at >= 0) & (at < place.width)
    found: Int64Array = np.where(inside, frames[..., np.where(inside, at, 0)], 0)
    return found


def _container(place: Place) -> npt.DTypeLike:
    return np.dtype(f"<u{place.bits // 8}")
