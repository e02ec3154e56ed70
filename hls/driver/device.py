"""The small part of PYNQ that the driver uses, and how to get it on a board.

PYNQ's own objects fit these protocols (pynq.allocate, pynq.lib.dma.DMA, pynq.DefaultIP); ``simulation.py`` has others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .errors import QfxError

CONTROL = 0x00
"""The offset of the control register (UG1399, "S_AXILITE Control Register Map"; UG902 likewise)."""
AP_START, AP_DONE, AP_IDLE, AUTO_RESTART = 0x01, 0x02, 0x04, 0x80


class DeviceError(QfxError):
    """The accelerator, its DMA or PYNQ does not do what it should."""


class Buffer(Protocol):
    """Memory that both sides see: a numpy array of bytes with these methods beside its own.

    What the processor wrote reaches the DMA with ``flush`` at the latest; what the DMA wrote is seen by the processor after ``invalidate``. A slice
    is a buffer of its own, over the same bytes. ``device_address``: of its first byte, as the hardware sees it.
    """

    @property
    def device_address(self) -> int: ...

    def __getitem__(self, key: Any) -> Any: ...
    def __setitem__(self, key: Any, value: Any) -> None: ...
    def flush(self) -> None: ...
    def invalidate(self) -> None: ...
    def freebuffer(self) -> None: ...


class Channel(Protocol):
    """One direction of the DMA (PG021, direct register mode)."""

    @property
    def idle(self) -> bool:
        """Whether the last transfer is over."""

    def transfer(self, array: Any, start: int, nbytes: int) -> None:
        """Start to move ``nbytes`` bytes from the byte ``start`` of the buffer on."""

    def wait(self) -> None:
        """Until the transfer is over. Raises RuntimeError for an error of the DMA."""


class Sender(Protocol):
    """A DMA that only reads memory."""

    @property
    def sendchannel(self) -> Channel: ...


class Dma(Protocol):
    """``sendchannel`` reads memory and ends each transfer with TLAST; ``recvchannel`` writes memory until TLAST."""

    @property
    def sendchannel(self) -> Channel: ...
    @property
    def recvchannel(self) -> Channel: ...


class Registers(Protocol):
    """32-bit registers, by their byte offset."""

    def read(self, offset: int) -> int: ...
    def write(self, offset: int, value: int) -> None: ...


class Device(Protocol):
    """The board with its bitstream loaded. ``accelerator`` are the registers of the IP (UG1399, "S_AXILITE Control Register Map"); ``dma_weights`` is
    there, and asked for, if constants are loaded while the hardware runs. Of several ports, each DMA of the description is an attribute of
    its name; one may then have a single channel. A layer engine has none."""

    @property
    def dma(self) -> Dma: ...
    @property
    def dma_weights(self) -> Sender: ...
    @property
    def accelerator(self) -> Registers: ...

    def allocate(self, nbytes: int) -> Buffer:
        """A buffer of ``nbytes`` bytes that the DMA can reach, aligned to a page."""


class _Board:
    """``dmas``: which cells of the overlay are attributes here."""

    dma: Any
    dma_weights: Any

    def __init__(self, overlay: Any, allocate: Any, dmas: Sequence[str]) -> None:
        self.accelerator, self._allocate = overlay.accelerator, allocate
        for name in dmas:
            setattr(self, name, getattr(overlay, name))

    def allocate(self, nbytes: int) -> Any:
        return self._allocate(shape=(nbytes,), dtype=np.uint8)


def open_board(bitfile: Path, *, weights: bool = False, dmas: Sequence[str] = ("dma",)) -> Device:
    """Load the bitstream, whose hardware handoff (.hwh) must lie beside it, with PYNQ; ``weights``: it must have a DMA for them. ``dmas``: those of
    inputs and outputs.

    Raises DeviceError if a file or PYNQ is missing, or if the design is another one.
    """
    for path in (bitfile, bitfile.with_suffix(".hwh")):
        if not path.is_file():
            raise DeviceError("the file is missing", where=str(path), remedy="run `make deploy` in the project and copy deploy/ to the board")
    try:
        import pynq  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise DeviceError(f"PYNQ cannot be imported: {error}", remedy="run on a board with PYNQ, or use the model: --simulate build/tb") from error
    overlay = pynq.Overlay(str(bitfile))
    wanted = (*dmas, *["dma_weights"] * weights)
    missing = [name for name in (*wanted[:1], "accelerator", *wanted[1:]) if name not in overlay.ip_dict]
    if missing:
        raise DeviceError(f"the design has no {' and no '.join(missing)}", where=str(bitfile), remedy="build it with the project's vivado.tcl")
    return _Board(overlay, pynq.allocate, wanted)
