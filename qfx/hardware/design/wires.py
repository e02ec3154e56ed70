"""The AXI4-Streams of a top function, and the ports that each carries: one each, or all of a side one after the other (``Schedule.merged``)."""

from __future__ import annotations

from dataclasses import dataclass

from qfx.errors import ProjectError
from qfx.fixed.packing import Port


@dataclass(frozen=True, slots=True)
class Wire:
    """A stream ``name`` of ``bits``. Of several ports a frame has those of each in order, padded with zeros to whole words."""

    name: str
    bits: int
    ports: tuple[tuple[str, Port], ...]
    """By what the C++ calls them."""

    @property
    def merged(self) -> bool:
        return len(self.ports) > 1

    @property
    def frame_bytes(self) -> int:
        """Bytes per frame in memory."""
        return sum(self.words(port) for _, port in self.ports) * self.bits // 8

    def words(self, port: Port) -> int:
        """The words of a frame that carry one of the ports."""
        return -(-port.frame_bytes // (self.bits // 8))


def merged_bits(ports: tuple[tuple[str, Port], ...]) -> int:
    """The width of the stream that carries all of the ports: that of the widest. ProjectError where a port's width is no power of two."""
    for name, port in ports:
        if port.word_bits & (port.word_bits - 1):
            what = f"a word of {port.parallel} numbers is {port.word_bits} bits, which no merged stream can carry"
            raise ProjectError(what, where=name, remedy="use 1, 2, 4, ... numbers a word, or a stream for each port (--ports separate)")
    return max(port.word_bits for _, port in ports)
