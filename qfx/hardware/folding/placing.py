"""What memories are built of on a board: whether it has what is asked for, and where each FIFO goes when its depth is known.

FIFOs are placed last, by what the layers have left: from the place that its size alone would give it, one FIFO after the other moves to where it most
lowers first what is above the limits, then the sum of the squares of the used shares, until none does. The memories of layers are part of their
foldings (``option.placed``).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from qfx.errors import ProjectError
from qfx.hardware.board import Board, boards
from qfx.hardware.cost import resources as r
from qfx.hardware.cost.estimate import LIMITS, capacity, estimate
from qfx.hardware.cost.resources import FIELDS, Resources
from qfx.hardware.design import design as d
from qfx.hardware.design.dsp import port
from qfx.hardware.design.schedule import CHIP_STORAGE, Schedule
from qfx.hardware.design.storage import dense
from qfx.hardware.timing.fifo import with_storage

_LEAST_GAIN = 1e-6
"""Of a move, in squares of shares: less is not worth another place."""


def check_asked(design: d.Design, schedule: Schedule, board: Board) -> None:
    """Raises ProjectError, naming the layer or FIFO, for a place that is asked for where there is nothing to put there, or that the board lacks,
    and for packed products that its DSP blocks have no port for."""
    buffers, weighted, framed = set(), set(), set()
    for process, node in zip(design.processes, design.nodes, strict=True):
        for part, own in ((process, node), *process.inside):
            if isinstance(part, d.FromMemory) and part is not process:
                what = "its weights are to lie in the board's memory, but a loop goes over it, whose steps have no masters"
                raise ProjectError(what, where=own, remedy="leave them on the chip")
            buffers |= {own} if part.front is not None else set()
            weighted |= {own} if isinstance(part, d.MatVec | d.Tiles) else set()
            framed |= {own} if isinstance(part, d.Pool) and part.whole_frame else set()
    asked = []
    for name, folding in schedule.foldings:
        if folding.taps > 1 and name not in buffers | framed:
            raise ProjectError(f"taps={folding.taps}, but it has no windows", where=name, remedy="leave taps out")
        if folding.buffer != "auto" and name not in buffers:
            raise ProjectError(f"buffer is {folding.buffer!r}, but it has no line buffer", where=name, remedy="leave buffer out")
        if folding.weights != "auto" and name not in weighted:
            raise ProjectError(f"weights is {folding.weights!r}, but it has no weights of its own", where=name, remedy="leave weights out")
        _check_packing(name, folding.arithmetic, board)
        asked += [(name, "its weights are", folding.weights), (name, "its line buffer is", folding.buffer)]
    if design.masters and not board.memory_gb_s:
        layer = next((name for name, folding in schedule.foldings if folding.weights == "ddr"), "")
        what = f"{'its weights are' if layer else 'a FIFO is'} to lie in the board's memory, but {board.name} says nothing of one"
        remedy = f"give memory_gb_s in the board's file (docs/board.md), or leave {'the weights' if layer else 'it'} on the chip"
        fifo = next((name for name, place in schedule.fifo_storage if place == "ddr"), "")
        raise ProjectError(what, where=layer or f"[fifos] {fifo}", remedy=remedy)
    asked += [(name, "the FIFO is", place) for name, place in schedule.fifo_storage]
    for name, what, place in asked:
        if place == "uram" and not board.uram:
            others = ", ".join(known.name for known in boards() if known.uram)
            remedy = f"use lut or bram, or a board with UltraRAM ({others})"
            raise ProjectError(f"{what} to be in UltraRAM, but the {board.title} has none", where=name, remedy=remedy)


def _check_packing(name: str, arithmetic: str, board: Board) -> None:
    """Raises ProjectError if the weights of packed products lie on a port that the board's DSP blocks do not have."""
    wide = port(arithmetic)
    there = r.device(board.part).dsp_wide
    if wide > there:
        what = f"arithmetic {arithmetic!r}: its weights lie on a port of {wide} bits, but the DSP blocks of the {board.title} have one of {there}"
        raise ProjectError(what, where=name, remedy=f"use {arithmetic.removesuffix(str(wide))!r}, or a board with UltraScale or UltraScale+ parts")


def place_fifos(design: d.Design, board: Board, asked: Mapping[str, str]) -> d.Design:
    """The design, FIFOs sized, with a place for every one; ``asked``: those that the user wishes, by name. (What stands around one in
    memory is placed as any other.)"""
    asked = {name: place for name, place in asked.items() if place != "ddr"}
    design = with_storage(design, asked)
    free = [stream for stream in design.streams if stream.depth > 2 and stream.storage != "ddr" and stream.name not in asked]
    costs = {stream.name: {place: _vector(r.fifo(stream.depth, stream.bits, place)) for place in _places(stream, board)} for stream in free}
    limits = np.maximum(_vector(capacity(board)) * np.array([LIMITS[field] for field in FIELDS]), 0.5)
    taken = _vector(estimate(design, board).total)
    chosen = {stream.name: "auto" for stream in free}
    while True:
        moves = [
            (_badness((taken - costs[name][now] + cost) / limits), name, place)
            for name, now in chosen.items()
            for place, cost in costs[name].items()
            if place != now
        ]
        best = min(moves, key=lambda move: move[0], default=None)
        if best is None or best[0] > _badness(taken / limits) - _LEAST_GAIN:
            return with_storage(design, {name: place for name, place in chosen.items() if place != "auto"})
        _, name, place = best
        taken = taken - costs[name][chosen[name]] + costs[name][place]
        chosen[name] = place


def _places(stream: d.Stream, board: Board) -> list[str]:
    return [place for place in CHIP_STORAGE if place != "uram" or (board.uram and dense(stream.depth, stream.bits))]


def _badness(shares: np.typing.NDArray[np.float64]) -> float:
    """What is to be least. ``shares``: of the limits."""
    return 1e3 * max(float(shares.max()) - 1, 0.0) + float((shares**2).sum())


def _vector(resources: Resources) -> np.typing.NDArray[np.float64]:
    return np.array([getattr(resources, field) for field in FIELDS], dtype=np.float64)
