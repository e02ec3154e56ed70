"""A design as Verilog, whatever its style: the modules, the streams of the top one, and the cycles that they should take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qfx.errors import DataError
from qfx.fixed.packing import pack, unpack
from qfx.hardware.design.wires import Wire
from qfx.ir.values import RawArray


@dataclass(frozen=True, slots=True)
class ReadMaster:
    """An AXI4 read channel of the top module, ``m_axi_NAME_...``: it reads ``contents``, words of ``bits`` bits, which begin at the address that the
    port ``NAME_address`` has."""

    name: str
    bits: int
    contents: bytes

    @property
    def words(self) -> list[int]:
        """What lies in memory, little-endian."""
        size = self.bits // 8
        return [int.from_bytes(self.contents[at : at + size], "little") for at in range(0, len(self.contents), size)]


@dataclass(frozen=True, slots=True)
class Hardware:
    """``modules``: the text of each file in ``rtl/`` by its name. ``latency``: cycles from the first word of a frame to the last word of its result,
    both counted, in a design that holds no other; ``interval``: cycles from frame to frame; 0 where the model does not know them."""

    top: str
    modules: Mapping[str, str]
    inputs: tuple[Wire, ...]
    outputs: tuple[Wire, ...]
    latency: int
    interval: int
    masters: tuple[ReadMaster, ...] = ()


def words_of(wire: Wire, raws: Mapping[str, RawArray]) -> list[int]:
    """The words of frames of raws (N, *shape) by port; the bit above TDATA is TLAST, which ends a transfer of the first frame and one of the rest."""
    size = wire.bits // 8
    packed = [pack(np.asarray(raws[name]), port) for name, port in wire.ports]
    frames = len(packed[0])
    words: list[int] = []
    for frame in range(frames):
        for part in packed:
            data = part[frame].tobytes()
            words += [int.from_bytes(data[at : at + size], "little") for at in range(0, len(data), size)]
        if frame in (0, frames - 1):
            words[-1] |= 1 << wire.bits
    return words


def raws_of(wire: Wire, words: Sequence[int], frames: int) -> list[RawArray]:
    """The raws (N, *shape) of each port in the words of N frames; what TLAST is does not matter. Raises DataError for another number of words."""
    size = wire.bits // 8
    counts = [wire.words(port) for _, port in wire.ports]
    if len(words) != frames * sum(counts):
        raise DataError(f"{len(words)} words, {frames * sum(counts)} make {frames} frames", where=wire.name, remedy="did the simulation stop?")
    found = []
    mask = (1 << wire.bits) - 1
    start = 0
    for (_, port), count in zip(wire.ports, counts, strict=True):
        rows = [words[frame * sum(counts) + start : frame * sum(counts) + start + count] for frame in range(frames)]
        data = b"".join(b"".join((word & mask).to_bytes(size, "little") for word in row)[: port.frame_bytes] for row in rows)
        found.append(unpack(np.frombuffer(data, dtype=np.uint8).reshape(frames, port.frame_bytes), port))
        start += count
    return found


def words_per_frame(wire: Wire) -> int:
    return sum(wire.words(port) for _, port in wire.ports)
