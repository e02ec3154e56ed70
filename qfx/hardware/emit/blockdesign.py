"""What ``vivado.tcl`` needs to know beyond the board: DMAs and their widths, the clock to ask for, the ports of the processing system.

Every stream of the top function has a DMA channel of its own: every input and output, or all of them together (``Schedule.merged``). Streams in
and out of one place share a DMA: ``dma`` those of the first, ``dma_1`` those of the second and so on; where there are more of one kind, the last
DMAs have one channel. Of several ports the DMAs take the processing system's ports into memory by turns, from the board's on: each has a
SmartConnect of its own. Masters of the accelerator, which read weights, share the ports behind the board's, so that each carries about as much. A
layer engine has masters alone, no streams and no DMA: it takes all ports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from qfx.errors import ProjectError
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

MAX_CONNECTED = 16
"""The most AXI masters that share a SmartConnect, and the most slaves that it has (PG247)."""

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
class Lane:
    """A stream of the accelerator and its DMA channel. ``converter``: what a width converter between them is called."""

    port: str
    widths: StreamWidths
    converter: str


@dataclass(frozen=True, slots=True)
class Dma:
    """An AXI DMA: ``send`` reads memory for an input, ``receive`` writes what an output gives; one of them at least. It reaches memory by the
    SmartConnect number ``memory``."""

    name: str
    send: Lane | None
    receive: Lane | None
    memory: int = 0

    @property
    def masters(self) -> tuple[str, ...]:
        """Its AXI masters."""
        return ("M_AXI_MM2S",) * (self.send is not None) + ("M_AXI_S2MM",) * (self.receive is not None)


@dataclass(frozen=True, slots=True)
class Memory:
    """A SmartConnect called ``name`` from ``masters`` (pins of DMAs, in order) to the port ``port`` of the processing system."""

    name: str
    port: PsPort
    masters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BlockDesign:
    """The values of the template ``vivado.tcl.j2``. ``clock_mhz`` is asked of the processing system, which gives the nearest that it can."""

    dmas: tuple[Dma, ...]
    """In the order of the ports; behind them ``dma_weights``, for constants that are loaded while the hardware runs."""
    memories: tuple[Memory, ...]
    several: bool
    address_bits: int
    length_bits: int
    clock_mhz: str
    control: PsPort
    masters: tuple[PsPort, ...]
    """Every AXI master of the processing system: those that are not ``control`` are switched off, or their clocks would be missing."""

    @property
    def input(self) -> StreamWidths:
        """The widths at the first input; as ``output``."""
        return next(dma.send.widths for dma in self.dmas if dma.send)

    @property
    def output(self) -> StreamWidths:
        return next(dma.receive.widths for dma in self.dmas if dma.receive)

    @property
    def memory(self) -> PsPort:
        """The board's port into memory."""
        return self.memories[0].port

    @property
    def weights(self) -> Dma | None:
        """The DMA of the constants."""
        return next((dma for dma in self.dmas if dma.name == WEIGHTS), None)

    @property
    def lanes(self) -> tuple[tuple[Dma, Lane, bool], ...]:
        """Every port in the order of the DMAs, but for the constants': with its DMA, and whether it is an input."""
        found: list[tuple[Dma, Lane, bool]] = []
        for dma in self.dmas:
            found += [(dma, lane, sends) for lane, sends in ((dma.send, True), (dma.receive, False)) if lane and dma.name != WEIGHTS]
        return tuple(found)


WEIGHTS = "dma_weights"


def cells(inputs: int, outputs: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the DMAs of so many inputs, and of so many outputs.

    >>> cells(1, 3)
    (('dma',), ('dma', 'dma_1', 'dma_2'))
    """
    names = ["dma", *(f"dma_{place}" for place in range(1, max(inputs, outputs)))]
    return tuple(names[:inputs]), tuple(names[:outputs])


def block_design(design: Design, board: Board, *, clock_ns: float) -> BlockDesign:
    """The block design of ``design`` on ``board``. Raises ProjectError for a board without its ports, for a stream that no converter takes, and for
    more ports than a SmartConnect can give registers to."""
    check_ports(board)
    dmas = _dmas(design, board)
    return _made(dmas, _shared_out(design, board), board, clock_ns, several=design.several)


def masters_alone(masters: Mapping[str, Sequence[str]], board: Board, *, clock_ns: float) -> BlockDesign:
    """The block design of an accelerator that has no streams: ``masters`` are its AXI masters by the port of the processing system that each reaches
    memory by. Raises ProjectError for a board without its ports."""
    check_ports(board)
    return _made((), {port: [f"accelerator/m_axi_{name}" for name in names] for port, names in masters.items()}, board, clock_ns, several=False)


def _made(dmas: tuple[Dma, ...], own: Mapping[str, Sequence[str]], board: Board, clock_ns: float, *, several: bool) -> BlockDesign:
    ports = PORTS[board.ps]
    return BlockDesign(
        dmas=dmas,
        memories=_memories(dmas, own, board),
        several=several,
        address_bits=_ADDRESS_BITS[board.ps],
        length_bits=LENGTH_BITS,
        clock_mhz=f"{1000 / clock_ns:.6f}".rstrip("0").rstrip("."),
        control=ports[board.control_port],
        masters=tuple(port for port in ports.values() if port.name.startswith("M")),
    )


def _dmas(design: Design, board: Board) -> tuple[Dma, ...]:
    into, out = design.wires
    names = cells(len(into), len(out))
    hp = len(memory_ports(board)) if design.several else 1
    found = []
    for place, (name, source, sink) in enumerate(zip_longest(names[len(names[1]) > len(names[0])], into, out)):
        suffix = f"_{place}" if place else ""
        send = None if source is None else Lane(source.name, _widths(source.bits, board), f"widen{suffix}")
        receive = None if sink is None else Lane(sink.name, _widths(sink.bits, board), f"narrow{suffix}")
        found.append(Dma(name, send, receive, place % hp))
    if design.loader is not None:
        found.append(Dma(WEIGHTS, Lane("weights", _widths(design.loader.port.word_bits, board), ""), None))
    if len(found) >= MAX_CONNECTED:
        what = f"has {len(design.inputs)} inputs and {len(design.outputs)} outputs{' and loads its weights' * (design.loader is not None)}"
        most = f"a SmartConnect reaches the registers of {MAX_CONNECTED - 1} DMAs at most (PG247), each with one input and one output"
        remedy = f"{most}: use --ports merged"
        raise ProjectError(what, where="block design", remedy=remedy)
    return tuple(found)


def memory_ports(board: Board) -> list[PsPort]:
    """The board's port into memory, then the other HP ports in order."""
    ports = PORTS[board.ps]
    others = [port for port in ports.values() if port.name.startswith("S_AXI_HP") and not port.name.startswith("S_AXI_HPC")]
    return [ports[board.memory_port], *(port for port in others if port.name != board.memory_port)]


def _shared_out(design: Design, board: Board) -> dict[str, list[str]]:
    """The accelerator's own masters by the processing system's port that they read memory by: those that read most first, each by the port that
    carries least so far. Raises ProjectError for more than a SmartConnect takes beside a DMA."""
    ports = {port.name: 0 for port in board.memory_masters}
    found: dict[str, list[str]] = {}
    for master in sorted(design.masters, key=lambda one: (-one.frame_bytes, one.port)):
        name = min(ports, key=lambda port: (ports[port], port))
        ports[name] += master.frame_bytes
        found.setdefault(name, []).append(f"accelerator/m_axi_{master.port}")
    most = MAX_CONNECTED - 2  # both of a DMA's
    if any(len(pins) > most for pins in found.values()):
        what = f"has {len(design.masters)} layers whose weights lie in the board's memory"
        remedy = f"a SmartConnect takes {MAX_CONNECTED} masters (PG247): leave some on the chip (--weights auto)"
        raise ProjectError(what, where="block design", remedy=remedy)
    return found


def _memories(dmas: Sequence[Dma], own: Mapping[str, Sequence[str]], board: Board) -> tuple[Memory, ...]:
    found = []
    for number, port in enumerate(memory_ports(board)):
        masters = tuple(f"{dma.name}/{master}" for dma in dmas if dma.memory == number for master in dma.masters)
        masters += tuple(own.get(port.name, ()))
        if masters:
            found.append(Memory(f"memory_{number}" if number else "memory", port, masters))
    return tuple(found)


def _widths(bits: int, board: Board) -> StreamWidths:
    if bits > MAX_CONVERTER_BITS:
        raise ProjectError(
            f"a port is {bits} bits wide", where="block design", remedy=f"use fewer numbers per word: {MAX_CONVERTER_BITS} bits at most (PG085)"
        )
    dma_bits = min(bits & -bits, MAX_DMA_BITS)  # the greatest power of two that divides it
    return StreamWidths(bits, dma_bits, max(dma_bits, _MEMORY_BITS[board.ps]))
