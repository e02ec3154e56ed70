"""Raws as the words of an AXI4-Stream port, and back: what a DMA carries between memory and the hardware.

Imports are relative (see ``arraytype.py``): the board's driver runs a copy of this very file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .array import Int64Array
from .type import FixedType

ByteArray = npt.NDArray[np.uint8]

SLOTS = (8, 16, 32, 64)
"""The bits that a number may take in a word."""


@dataclass(frozen=True, slots=True)
class Port:
    """One of the two AXI4-Stream ports: its number type, the bits of the slot that each number takes and the numbers per word.

    ``shape`` is that of one frame, channels first. A frame travels pixel by pixel, the channels of a pixel in order; the first number of a word takes
    its lowest bits; a raw is sign-extended, or zero-extended if ``type`` is unsigned, to its slot. AXI4-Stream sends the lowest byte of a word
    from the lowest address, so in memory a frame is an array of little-endian integers of ``slot`` bits, whatever ``parallel`` is.
    """

    type: FixedType
    shape: tuple[int, ...]
    slot: int
    parallel: int

    @property
    def channels(self) -> int:
        return self.shape[0]

    @property
    def pixels(self) -> int:
        return int(np.prod(self.shape[1:], dtype=np.int64))

    @property
    def numbers(self) -> int:
        """Numbers per frame."""
        return self.channels * self.pixels

    @property
    def words(self) -> int:
        """Words per frame."""
        return self.numbers // self.parallel

    @property
    def word_bits(self) -> int:
        """The width of TDATA."""
        return self.slot * self.parallel

    @property
    def frame_bytes(self) -> int:
        """Bytes per frame; frames follow each other without gaps."""
        return self.numbers * self.slot // 8


def pack(raw: Int64Array, port: Port) -> ByteArray:
    """The bytes (N, frame_bytes) of N frames of raws (N, *shape), as the DMA reads them from memory.

    >>> port = Port(FixedType(4, 2), (2, 3), slot=8, parallel=2)
    >>> pack(np.array([[[1, 2, 3], [-1, -2, -3]]]), port).tolist()
    [[1, 255, 2, 254, 3, 253]]

    Raises DataError for another shape or dtype, and for a raw that the type cannot hold.
    """
    if not isinstance(raw, np.ndarray) or raw.dtype != np.int64:
        got = raw.dtype if isinstance(raw, np.ndarray) else type(raw).__name__
        raise DataError(f"expected int64 raws, got {got}", where="pack", remedy="quantize the data first")
    if raw.shape[1:] != port.shape or raw.ndim == 0:
        raise DataError(f"expected raws of shape {_batch(port)}, got {raw.shape}", where="pack", remedy="put the batch first and leave no axis out")
    if raw.size and (int(raw.min()) < port.type.min_raw or int(raw.max()) > port.type.max_raw):
        raise DataError(
            f"expected raws in [{port.type.min_raw}, {port.type.max_raw}], got [{raw.min()}, {raw.max()}]",
            where="pack",
            remedy=f"give raws of {port.type}",
        )
    stream = raw.reshape(len(raw), port.channels, port.pixels).transpose(0, 2, 1)
    return np.ascontiguousarray(stream, dtype=_number(port)).view(np.uint8).reshape(len(raw), port.frame_bytes)


def unpack(data: ByteArray, port: Port) -> Int64Array:
    """The raws (N, *shape) in the bytes (N, frame_bytes) of N frames; the inverse of ``pack``. Raises DataError for another shape or dtype."""
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != port.frame_bytes:
        got = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise DataError(f"expected uint8 (N, {port.frame_bytes}), got {got}", where="unpack", remedy="give whole frames")
    stream = np.ascontiguousarray(data).view(_number(port)).reshape(len(data), port.pixels, port.channels)
    return np.ascontiguousarray(stream.transpose(0, 2, 1), dtype=np.int64).reshape(len(data), *port.shape)


def _number(port: Port) -> np.dtype[np.signedinteger] | np.dtype[np.unsignedinteger]:
    return np.dtype(f"<{'i' if port.type.signed else 'u'}{port.slot // 8}")


def _batch(port: Port) -> str:
    return f"({', '.join(map(str, ('N', *port.shape)))})"
