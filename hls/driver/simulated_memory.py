"""The model of the board's memory: buffers that processor and hardware see each in their own way."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .device import DeviceError

_PAGE = 4096
_GARBAGE = 0xA5


class SimulatedBuffer(np.ndarray):
    """Bytes as the processor sees them; ``memory`` is what the hardware sees, at ``device_address``. A slice is a buffer, too, as PYNQ's are."""

    memory: npt.NDArray[np.uint8]
    device_address: int

    def __array_finalize__(self, of: npt.NDArray[np.uint8] | None) -> None:
        if isinstance(of, SimulatedBuffer) and hasattr(of, "memory") and self.flags.c_contiguous:
            at = self.__array_interface__["data"][0] - of.__array_interface__["data"][0]
            if at >= 0 and at + self.nbytes <= of.nbytes and np.may_share_memory(self, of):
                self.memory, self.device_address = of.memory[at : at + self.nbytes], of.device_address + at

    def flush(self) -> None:
        self.memory[:] = self

    def invalidate(self) -> None:
        self[:] = self.memory

    def freebuffer(self) -> None:
        self.device_address = -1


class SimulatedMemory:
    """What has been allocated, each from a page of its own on."""

    def __init__(self) -> None:
        self._next_address = _PAGE
        self._allocated: list[SimulatedBuffer] = []

    def allocate(self, nbytes: int) -> SimulatedBuffer:
        """Both sides see garbage at first, and not the same."""
        buffer = np.full(nbytes, _GARBAGE, dtype=np.uint8).view(SimulatedBuffer)
        buffer.memory = np.full(nbytes, _GARBAGE ^ 0xFF, dtype=np.uint8)
        buffer.device_address = self._next_address
        self._next_address += -(-max(nbytes, 1) // _PAGE) * _PAGE
        self._allocated.append(buffer)
        return buffer

    def at(self, address: int, nbytes: int, who: str) -> npt.NDArray[np.uint8]:
        """What the hardware sees from there on. Raises DeviceError where nothing that is allocated lies."""
        for buffer in self._allocated:
            start = address - buffer.device_address
            if 0 < buffer.device_address <= address and start + nbytes <= buffer.nbytes:
                found: npt.NDArray[np.uint8] = buffer.memory[start : start + nbytes]
                return found
        raise DeviceError(f"the accelerator has {nbytes} bytes from {address:#x} on, where nothing lies", where=f"model of the board: {who}")
