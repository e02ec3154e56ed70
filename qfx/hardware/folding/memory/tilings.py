"""Layers whose weights lie in the board's memory: how they can be folded and tiled."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from qfx.hardware.cost import pieces
from qfx.hardware.cost import resources as r
from qfx.hardware.cost.resources import Device, Resources, counts
from qfx.hardware.design import arithmetic as arith
from qfx.hardware.design import dsp, storage
from qfx.hardware.design.schedule import Folding
from qfx.hardware.design.streams import MAX_WORD_BITS
from qfx.hardware.folding.option import Options, divisors, fits_word
from qfx.hardware.processes.memory.from_memory import beats, master, port_bits
from qfx.hardware.timing.program import REWIND

if TYPE_CHECKING:
    from qfx.hardware.processes.memory.tiles import Tiles
    from qfx.hardware.processes.process import Setting

_ARITHMETIC = ("dsp", "lut", *dsp.PACKED)

_MOST_LANES = 1024
"""Products at once of one layer that are looked at."""


def options(unit: Tiles, setting: Setting) -> Options:
    """Those of the unit, whatever its folding."""
    pinned, on = setting.pinned, setting.on
    if pinned is not None:
        return _joined(
            [_shaped(unit, pinned.pe, pinned.simd, (pinned.rows or unit.tiling.plane[2],), (pinned.arithmetic,), _lanes(unit, pinned.pe, on), on)]
        )
    outputs, channels = (count // unit.tiling.groups for count in (unit.tiling.fold * unit.pe, unit.tiling.chunks * unit.simd))
    possible = [name for name in _ARITHMETIC if _possible(unit, name, outputs, on)]
    rows = [count for count in divisors(unit.tiling.plane[2]) if unit.tiling.plane[2] // count <= max(setting.memory_tiles, 1)]
    found = []
    for pe in divisors(outputs):
        names = tuple(name for name in possible if dsp.pays(name, pe))
        if not names:
            continue
        lanes = _lanes(unit, pe, on)
        for simd in divisors(channels):
            if pe * simd > _MOST_LANES or pe * simd * unit.weights.type.width > MAX_WORD_BITS:
                continue
            if fits_word(simd, unit.input) and fits_word(pe, unit.output) and fits_word(pe * simd, unit.weights):
                found.append(_shaped(unit, pe, simd, rows, names, lanes, on))
    return _joined(found)


def _possible(unit: Tiles, name: str, pe: int, on: Device) -> bool:
    weights = np.array([[unit.bounds.lo, unit.bounds.hi]])
    if name not in arith.choices(weights, unit.input.type, pe=pe, loaded=True):
        return False
    return dsp.worth(name, unit.bounds, unit.input.type, on.dsp_wide)


def _lanes(unit: Tiles, pe: int, on: Device) -> Resources:
    """What so many outputs take, whatever multiplies: their epilogue, its tables, and the FIFO behind it."""
    tables = [pieces.memory(memory, on) for memory in storage.tables(unit.epilogue, pe)]
    return r.total([pieces.epilogue(unit.epilogue, pe, on), pieces.queue(unit.output, pe), *tables])


def _shaped(unit: Tiles, pe: int, simd: int, rows: Sequence[int], names: Sequence[str], lanes: Resources, on: Device) -> Options:
    """Those of one PE and SIMD, for each count of rows with each arithmetic: the parts of their costs that depend on one of the two are worked out
    once."""
    width = unit.weights.type.width
    multiplied = [unit.folded(pe, simd, rows[0], name) for name in names]
    products = np.array([counts(made.products(on)) for made in multiplied], dtype=np.int64)
    foldings: list[Folding] = []
    costs, busy, memory = [], [], []
    for count in rows:
        made = unit.folded(pe, simd, count, names[0])
        tiling = made.tiling
        bits = port_bits(pe * simd, width, tiling.pixels)
        words = beats(pe * simd, tiling.weights, width, bits)
        reads = words * tiling.tiles + REWIND
        numbers = pe * simd * tiling.weights // words
        reader = (r.handshake(1, 1), r.counter(max(words, 2)), r.counter(max(tiling.tiles, 2)), master(bits))
        between = (pieces.rewidth(made.weights, numbers, pe * simd), pieces.queue(made.weights, numbers))
        buffers = (pieces.memory(one, on) for one in (made.kept, made.sums, made.results, made.others))
        costs.append(products + np.array(counts(r.total([lanes, made.nest(), *reader, *between, *buffers])), dtype=np.int64))
        busy += [ceil(max(made.cycles + made.paused(one.latency), reads) / tiling.frames) for one in multiplied]
        memory += [ceil(words * tiling.tiles * bits // 8 / tiling.frames)] * len(names)
        foldings += [Folding(pe, simd, name, weights="ddr", rows=count) for name in names]
    taken = np.concatenate(costs)
    takes, gives = (np.full(len(foldings), end, dtype=np.int64) for end in (simd, pe))
    return Options(foldings, takes, gives, np.array(busy), taken, np.zeros_like(taken), np.array(memory))


def _joined(parts: Sequence[Options]) -> Options:
    """All of them, in order; none of none."""
    if not parts:
        return Options.of(())
    foldings = [folding for part in parts for folding in part.foldings]
    takes, gives, busy, costs, between, memory = (np.concatenate(columns) for columns in zip(*(part[1:] for part in parts), strict=True))
    return Options(foldings, takes, gives, busy, costs, between, memory)
