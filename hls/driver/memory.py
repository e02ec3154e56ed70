"""What the accelerator has in the board's memory: files, checked, in buffers whose addresses it is told."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .description import Description, Memory
from .device import Buffer, Device, Registers
from .errors import DataError


class Memories:
    """The files of the description in ``folder``, each in a buffer of its own, its address in its register; and room for what the accelerator keeps
    in memory itself.

    Raises DataError for a file that is missing, of another length, or of another model; nothing is allocated then.
    """

    def __init__(self, description: Description, device: Device, folder: Path) -> None:
        self.held: list[Buffer] = []
        """As long as the accelerator may read them."""
        for one, words in [(one, _contents(one, folder / f"{one.name}.bin") if one.sha256 else None) for one in description.memories]:
            buffer = device.allocate(max(one.bytes, 1))
            self.held.append(buffer)
            if words is not None:
                buffer[: words.size] = words
            buffer.flush()  # or what the processor's caches hold of it could be written over what the accelerator writes
            write_address(device.accelerator, one.register, buffer)

    def close(self) -> None:
        """Free the buffers."""
        while self.held:
            self.held.pop().freebuffer()


def default_folder() -> Path:
    """Where the files are: beside these modules, or in the project that they are part of."""
    beside = Path(__file__).resolve().parent / "memory"
    return beside if beside.is_dir() else beside.parent.parent / "tb" / "memory"


def write_address(registers: Registers, offset: int, buffer: Buffer) -> None:
    """Tell the accelerator where a buffer begins."""
    address = int(buffer.device_address)
    registers.write(offset, address & 0xFFFFFFFF)
    registers.write(offset + 4, address >> 32)


def _contents(one: Memory, path: Path) -> npt.NDArray[np.uint8]:
    """The bytes of the file. Raises DataError unless they are those that the design was made with."""
    remedy = "copy the folder that make deploy wrote, whole, or name another one with --memory"
    try:
        contents = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=str(path), remedy=remedy) from error
    if len(contents) != one.bytes:
        what = f"{len(contents)} bytes instead of {one.bytes}: it is cut short, or of another model"
        raise DataError(what, where=str(path), remedy=remedy)
    if hashlib.sha256(contents).hexdigest() != one.sha256:
        what = "these are not the weights that the hardware was made for (their SHA-256 differs)"
        raise DataError(what, where=str(path), remedy=remedy)
    return np.frombuffer(contents, dtype=np.uint8)
