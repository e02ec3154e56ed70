"""Which layers of a model can have their weights in the board's memory.

What a layer saves is the block RAM of its weights; what it takes instead is the frame that it keeps, or as much of it as a tile needs, its sums and
its results. More tiles keep less, but read the weights more often: how many there may be follows from the bandwidth of the board.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from qfx.errors import ProjectError
from qfx.hardware.board import Board
from qfx.hardware.cost.estimate import capacity
from qfx.hardware.design import design as d
from qfx.hardware.design.lower import lower
from qfx.hardware.design.memory.tiled import of_frames
from qfx.hardware.design.schedule import Folding, Request, Schedule
from qfx.hardware.design.storage import bram18
from qfx.hardware.processes.memory.from_memory import master
from qfx.ir.graph import Graph
from qfx.operators import Conv, Linear, macs

_SLOWER = 8
"""How many times longer a frame may take than the board's DSP blocks allow, where no pace is asked for: tiles that memory could not bring in that
time are not looked at."""

_ON_CHIP = (0.8, 0.5, 0.25, 0.0)
"""Shares of the board's block RAM up to which weights stay on the chip, tried one after the other."""

_BLOCK_BITS = 18 * 1024


@dataclass(frozen=True, slots=True)
class Candidate:
    """A layer whose weights could lie in memory: the block RAMs that they take on the chip, those that its unit takes instead at best, and the bits
    that a frame reads at least."""

    name: str
    on_chip: int
    tiled: int
    bits: int

    @property
    def saved(self) -> int:
        return self.on_chip - self.tiled


@dataclass(frozen=True, slots=True)
class Choices:
    """``possible``: the layers that a search may put there, or must where memory is asked for; ``tiles``: into how many tiles the frame of each may
    be cut, as far as memory could bring its weights alone. ``sets``: sets of layers to try where nothing is searched for."""

    possible: frozenset[str]
    tiles: Mapping[str, int]
    sets: tuple[frozenset[str], ...]


def choices(graph: Graph, board: Board, plain: d.Design, request: Request, *, clock_ns: float, cycles: int | None) -> Choices:
    """What ``request.memory`` leaves to choose from, for a frame in ``cycles`` where a pace is asked for. ``plain``: the design with all weights on
    the chip.

    Raises ProjectError if no layer can have its weights in memory, and if memory cannot bring them at that pace.
    """
    pinned = {name for name, _ in request.foldings}
    possible = [name for name in eligible(graph, plain) if name not in pinned]
    if not possible and any(folding.weights == "ddr" for _, folding in request.foldings):
        return Choices(frozenset(), {}, (frozenset(),))  # the folding says it of every layer
    if not possible:
        takes = "a convolution, but for those by single channels, or a linear layer, with constant weights"
        what = f"no layer can have its weights in the board's memory: that takes {takes}"
        raise ProjectError(what, where=graph.name, remedy="leave --weights out")
    if not board.memory_gb_s:
        remedy = "give memory_gb_s in the board's file (docs/board.md), or leave the weights on the chip"
        raise ProjectError(f"weights are to lie in the board's memory, but {board.name} says nothing of one", where=graph.name, remedy=remedy)
    base = lower(graph, Schedule.of(dict.fromkeys(possible, Folding(weights="ddr")), batch=request.batch), shared=True)
    if request.batch > 1 and base.batch == 1:
        raise no_batch(graph, request.batch)
    products = sum(macs(node.op, graph.infos[node.name]) for node in graph.nodes)
    pace = cycles if cycles is not None else _SLOWER * products // (2 * max(board.dsp, 1))
    most = board.memory_bytes_per_cycle(clock_ns) * pace
    tiles = {node: max(int(8 * most // bits), 1) for node, bits in _sizes(base).items()}
    found = _candidates(base)
    saving = [one for one in found if one.saved > 0]
    if request.memory == "ddr":
        names = frozenset(one.name for one in saving or found)
        more = more_frames(base)
        _check_bandwidth(graph, board, sum(one.bits for one in found if one.name in names), more, clock_ns=clock_ns, cycles=cycles)
        return Choices(names, tiles, (names,))
    sets: list[frozenset[str]] = []
    for share in _ON_CHIP:
        left = sum(stored.bram18 for process in plain.processes if (stored := process.stored) is not None)
        names_: set[str] = set()
        for one in saving:
            if left <= share * capacity(board).bram18:
                break
            left -= one.saved
            names_.add(one.name)
        if frozenset(names_) not in sets:
            sets.append(frozenset(names_))
    return Choices(frozenset(one.name for one in saving), tiles, tuple(sets))


def no_batch(graph: Graph, batch: int) -> ProjectError:
    """What to say of a batch that no layer of the graph takes."""
    what = f"--batch {batch}: frames share the weights of fully connected layers that lie in the board's memory, and there is none"
    return ProjectError(what, where=graph.name, remedy="leave --batch out; of convolutions a tile of pixels shares them")


def eligible(graph: Graph, plain: d.Design) -> list[str]:
    """The layers whose weights could lie in memory, in the design's order."""
    nodes = {node.name: node for node in graph.nodes}
    found = []
    for process, name in zip(plain.processes, plain.nodes, strict=True):
        if not isinstance(process, d.MatVec) or name not in nodes or not isinstance(nodes[name].op, Conv | Linear):
            continue
        if not (process.depthwise or process.loaded or process.cropped):
            found.append(name)
    return found


def _candidates(base: d.Design) -> list[Candidate]:
    """The layers that could, those that save most first. ``base``: the design with all of them in memory."""
    found = []
    sizes = _sizes(base)
    for process, node in zip(base.processes, base.nodes, strict=True):
        if isinstance(process, d.Tiles):
            blocks = min(_blocks(process, rows) for rows in (1, process.tiling.plane[2]))
            bits = sizes[node]
            found.append(Candidate(node, ceil(bits / _BLOCK_BITS), blocks, ceil(bits / process.tiling.frames)))
    return sorted(found, key=lambda one: (-one.saved, one.name))


def _blocks(unit: d.Tiles, rows: int) -> int:
    """Block RAMs of a unit with so many rows a tile, one number at a time, and of its master."""
    made = unit.folded(1, 1, rows, "lut")
    return sum(bram18(memory.depth, memory.width) for memory in (made.kept, made.sums, made.results, made.others) if memory.depth) + master(64).bram18


def _sizes(base: d.Design) -> dict[str, int]:
    """The bits of each layer's weights."""
    pairs = zip(base.processes, base.nodes, strict=True)
    return {node: process.values.size * process.output.type.width for process, node in pairs if isinstance(process, d.FromMemory)}


def more_frames(design: d.Design) -> str:
    """What to add to a remedy where weights in memory could serve more frames."""
    more = any(isinstance(process, d.Tiles) and process.tiling.plane == of_frames(process.tiling.frames) for process in design.processes)
    return f", or let {'more ' * (design.batch > 1)}frames share those of fully connected layers (--batch)" if more else ""


def _check_bandwidth(graph: Graph, board: Board, bits: int, more: str, *, clock_ns: float, cycles: int | None) -> None:
    """Raises ProjectError if memory does not bring so many bits in ``cycles``. ``more``: the end of the remedy."""
    least = ceil(bits / 8 / board.memory_bytes_per_cycle(clock_ns))
    if cycles is not None and least > cycles:
        most = 1e9 / (least * clock_ns)
        what = f"{bits / 8e6:.3g} MB of weights a frame take the memory of {board.name} {least} cycles, but {cycles} are asked for"
        raise ProjectError(
            what, where=graph.name, remedy=f"ask for at most {most:.4g} frames per second, or keep weights on the chip (--weights auto){more}"
        )
