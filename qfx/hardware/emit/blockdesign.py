"""What ``vivado.tcl`` needs to know beyond the board: the widths of the DMA, the clock to ask for, the ports of the processing system."""

from __future__ import annotations

from dataclasses import dataclass

from qfx.errors import ProjectError
from qfx.fixed.packing import Port
from qfx.hardware.board import PORTS, Board, PsPort, check_ports
from qfx.hardware.design.design import Design

MAX_DMA_BITS = 1024
"""The widest stream of the AXI DMA (PG021); its streams are 8 to 1024 bits, powers of two."""

MAX_CONVERTER_BITS = 4096
"""The widest stream of the AXI4-Stream data width converter (PG085: 512 bytes)."""

LENGTH_BITS = 26
"""The width of the DMA's length registers (PG021: at most 26): a transfer has at most 2**26 - 1 bytes."""

ALIGNMENT = 128
"""Bytes that a buffer's address must be a multiple of: the widest memory side of the DMA, which has no realignment engine here."""

_MEMORY_BITS = {"zynq_ultra_ps_e": 128, "processing_system7": 64}
"""The default data width of the HP ports."""

_ADDRESS_BITS = {"zynq_ultra_ps_e": 40, "processing_system7": 32}


@dataclass(frozen=True, slots=True)
class StreamWidths:
    """A port of ``word_bits`` behind a DMA channel with a stream of ``dma_bits`` and a memory side of ``memory_bits``.

    ``dma_bits`` divides ``word_bits``; where they differ, a width converter stands between. No word is ever cut by the end of a transfer, so that
    no converter sees a word that is not full.
    """

    word_bits: int
    dma_bits: int
    memory_bits: int

    @property
    def converted(self) -> bool:
        return self.word_bits != self.dma_bits


@dataclass(frozen=True, slots=True)
class BlockDesign:
    """The values of the template ``vivado.tcl.j2``. ``clock_mhz`` is asked of the processing system, which gives the nearest that it can."""

    input: StreamWidths
    output: StreamWidths
    weights: StreamWidths | None
    """The port of constants that are loaded while the hardware runs; it has a DMA of its own."""
    address_bits: int
    length_bits: int
    clock_mhz: str
    control: PsPort
    memory: PsPort
    masters: tuple[PsPort, ...]
    """Every AXI master of the processing system: those that are not ``control`` are switched off, or their clocks would be missing."""


def block_design(design: Design, board: Board, *, clock_ns: float) -> BlockDesign:
    """The block design of ``design`` on ``board``. Raises ProjectError for a board without its ports and for a stream that no converter takes."""
    check_ports(board)
    ports = PORTS[board.ps]
    return BlockDesign(
        input=_widths(design.input, board),
        output=_widths(design.output, board),
        weights=None if design.loader is None else _widths(design.loader.port, board),
        address_bits=_ADDRESS_BITS[board.ps],
        length_bits=LENGTH_BITS,
        clock_mhz=f"{1000 / clock_ns:.6f}".rstrip("0").rstrip("."),
        control=ports[board.control_port],
        memory=ports[board.memory_port],
        masters=tuple(port for port in ports.values() if port.name.startswith("M")),
    )


def _widths(port: Port, board: Board) -> StreamWidths:
    bits = port.word_bits
    if bits > MAX_CONVERTER_BITS:
        raise ProjectError(
            f"a port is {bits} bits wide", where="block design", remedy=f"use fewer numbers per word: {MAX_CONVERTER_BITS} bits at most (PG085)"
        )
    dma_bits = min(bits & -bits, MAX_DMA_BITS)  # the greatest power of two that divides it
    return StreamWidths(bits, dma_bits, max(dma_bits, _MEMORY_BITS[board.ps]))
