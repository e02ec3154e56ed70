"""Layers whose weights lie in the board's memory: how they can be folded and tiled."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from qfx.hardware.cost import pieces
from qfx.hardware.cost import resources as r
from qfx.hardware.cost.resources import Device
from qfx.hardware.design import arithmetic as arith
from qfx.hardware.design import dsp
from qfx.hardware.design.streams import MAX_WORD_BITS
from qfx.hardware.folding.option import Option, divisors, fits_word
from qfx.hardware.processes.memory.from_memory import beats, master, port_bits
from qfx.hardware.timing.program import REWIND

if TYPE_CHECKING:
    from qfx.hardware.processes.memory.tiles import Tiles
    from qfx.hardware.processes.process import Setting

_ARITHMETIC = ("dsp", "lut", *dsp.PACKED)

_MOST_LANES = 1024
"""Products at once of one layer that are looked at."""


def options(unit: Tiles, setting: Setting) -> list[Option]:
    """Those of the unit, whatever its folding."""
    pinned = setting.pinned
    outputs, channels = (count // unit.tiling.groups for count in (unit.tiling.fold * unit.pe, unit.tiling.chunks * unit.simd))
    if pinned is not None:
        return [_option(unit, pinned.pe, pinned.simd, pinned.rows or unit.tiling.plane[2], pinned.arithmetic, setting.on)]
    possible = [name for name in _ARITHMETIC if _possible(unit, name, outputs, setting.on)]
    rows = [count for count in divisors(unit.tiling.plane[2]) if unit.tiling.plane[2] // count <= max(setting.memory_tiles, 1)]
    found = []
    for pe in divisors(outputs):
        for simd in divisors(channels):
            if pe * simd > _MOST_LANES or pe * simd * unit.weights.type.width > MAX_WORD_BITS:
                continue
            if not (fits_word(simd, unit.input) and fits_word(pe, unit.output) and fits_word(pe * simd, unit.weights)):
                continue
            for name in possible:
                if dsp.pays(name, pe):
                    found += [_option(unit, pe, simd, count, name, setting.on) for count in rows]
    return found


def _possible(unit: Tiles, name: str, pe: int, on: Device) -> bool:
    weights = np.array([[unit.bounds.lo, unit.bounds.hi]])
    if name not in arith.choices(weights, unit.input.type, pe=pe, loaded=True):
        return False
    return dsp.worth(name, unit.bounds, unit.input.type, on.dsp_wide)


@lru_cache(maxsize=1 << 16)
def _option(unit: Tiles, pe: int, simd: int, rows: int, arithmetic: str, on: Device) -> Option:
    made = unit.folded(pe, simd, rows, arithmetic)
    tiling, width = made.tiling, made.weights.type.width
    bits = port_bits(pe * simd, width, tiling.pixels)
    words = beats(pe * simd, tiling.weights, width, bits)
    reads = words * tiling.tiles + REWIND
    numbers = pe * simd * tiling.weights // words
    reader = r.total([r.handshake(1, 1), r.counter(max(words, 2)), r.counter(max(tiling.tiles, 2)), master(bits)])
    between = pieces.rewidth(made.weights, numbers, pe * simd)
    queues = [pieces.queue(made.weights, numbers), pieces.queue(made.output, pe)]
    cost = r.total([made.cost(on), reader, between, *queues])
    return Option(made.folding, simd, pe, max(made.busy, reads), cost, memory=words * tiling.tiles * bits // 8)
