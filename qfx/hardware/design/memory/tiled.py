"""Layers whose weights come from the board's memory: the unit that keeps the frame, and what reads the weights for it.

The weights lie in memory in the order in which the unit uses them, so that a frame reads them from one end to the other, once for each tile of rows
of results (hls/include/qfx/memory/tiles.h).
"""

from __future__ import annotations

from dataclasses import replace
from math import gcd
from typing import TYPE_CHECKING

import numpy as np

from qfx.errors import ProjectError
from qfx.hardware.design import arithmetic
from qfx.hardware.design import design as d
from qfx.hardware.design.build import Builder, Value
from qfx.hardware.design.schedule import Folding
from qfx.hardware.design.streams import MAX_WORD_BITS
from qfx.hardware.folding.option import divisors
from qfx.hardware.processes.memory.from_memory import numbers_a_beat, port_bits
from qfx.ir.values import Const, LoadableConst

if TYPE_CHECKING:
    from qfx.hardware.design.matrix import Sums, Unit
    from qfx.ir.graph import Node


def refuse(node: Node, weight: Const, *, depthwise: bool, stretched: bool, folding: Folding) -> None:
    """Raises ProjectError, naming the node, for a layer whose weights cannot lie in memory, and for what its folding cannot have then."""
    what = ""
    if depthwise:
        what = "each of its channels has weights of its own, which are few"
    elif stretched:
        what = "it is a transposed convolution"
    elif isinstance(weight, LoadableConst):
        what = "they are loaded through a port (--weights stream)"
    if what:
        raise ProjectError(f'weights="ddr": {what}', where=node.name, remedy="leave them on the chip")
    if folding.sparsity:
        what = f'sparsity {folding.sparsity}: with weights="ddr" all of them are read'
        raise ProjectError(what, where=node.name, remedy="leave sparsity out, or leave the weights on the chip")
    for field, count in (("taps", folding.taps), ("pixels", folding.pixels)):
        if count > 1:
            what = f'{field}={count}: with weights="ddr" the unit goes over taps and pixels one by one'
            raise ProjectError(what, where=node.name, remedy=f"use {field}=1, and more PE and SIMD")


def tile_rows(node: Node, asked: int, rows: int) -> int:
    """The rows of results of a tile; all of ``rows`` if ``asked`` is 0. Raises ProjectError, naming the node, unless they come out even."""
    if asked and rows % asked:
        known = ", ".join(map(str, divisors(rows)))
        raise ProjectError(f"rows={asked} does not divide the {rows} rows of its result", where=node.name, remedy=f"use one of {known}")
    return asked or rows


def add_tiles(build: Builder, unit: Unit, sums: Sums, plane: d.Plane, rows: int) -> None:
    """The processes of the layer: what reads its weights, and the unit. ``plane``: the windows; ``rows``: of results of a tile; ``sums``: the weights
    in the order rows and columns of taps, channels, and the accumulator."""
    node = unit.node
    outputs, simd, pe, groups = len(sums.rows), unit.simd, unit.pe, unit.groups
    channels = sums.rows.shape[1] // (plane[4] * plane[5])  # of a group
    of = " of a group" if groups > 1 else ""
    for field, count, total, what in (("PE", pe, outputs // groups, f"outputs{of}"), ("SIMD", simd, channels, f"channels{of}")):
        if total % count:
            known = ", ".join(map(str, divisors(total)))
            raise ProjectError(
                f'{field}={count} does not divide its {total} {what}, as weights="ddr" needs it', where=node.name, remedy=f"use one of {known}"
            )
    frames = build.schedule.batch if plane == linear_plane() else 1
    tiling = d.Tiling(of_frames(frames) if frames > 1 else plane, channels * groups // simd, outputs // pe, rows, groups, frames)
    held = sums.rows.astype(np.min_scalar_type(-(1 << arithmetic.weight_type(sums.rows).width)))  # there may be a hundred million
    folded = held.reshape(outputs // pe, pe, -1, simd).transpose(0, 2, 3, 1).reshape(-1, simd * pe)
    weight = arithmetic.weight_type(folded)
    if pe * simd * weight.width > MAX_WORD_BITS:
        what = f"PE={pe} and SIMD={simd} make words of {pe * simd * weight.width} bits of weights"
        raise ProjectError(what, where=node.name, remedy=f"the tools take words of {MAX_WORD_BITS} bits: use less of either")
    arithmetic.check(build.schedule.folding(node.name).arithmetic, folded, unit.stream.type, pe=pe, depthwise=False, where=node.name, loaded=True)
    bits = port_bits(pe * simd, weight.width, tiling.pixels)
    numbers = numbers_a_beat(pe * simd, len(folded), weight.width, bits)
    stem = f"{node.name}_weights"
    stream = build.stream(stem, weight, numbers, folded.size * tiling.tiles)
    master = build.names.new(node.name, "memory")
    first, begun = len(build.processes), len(build.streams) - 1
    build.add(d.FromMemory(build.names.new(stem, "reader"), stream, folded.reshape(-1, numbers), tiling.tiles, bits, master, frames))
    weights = build.rewidth(stem, stream, pe * simd)
    brought = {process.name for process in build.processes[first:]} | {own.name for own in build.streams[begun:]}
    source = build.rewidth(node.inputs[0], unit.stream, gcd(unit.stream.parallel, channels))
    source = build.rewidth(node.inputs[0], source, simd)
    second, beside = build.take_beside(node, pe, outputs)
    epilogue, out, name = build.finish(node, unit.chain, sums.steps, unit.frame, pe, beside)
    if sums.counted is not None:
        epilogue = replace(epilogue, counted=sums.counted)
    chosen, turn = build.schedule.folding(node.name).arithmetic, arithmetic.turn_type(folded, source.type, simd)
    between = arithmetic.bounds(folded)
    made = d.Tiles(build.names.new(node.name, "tiles"), source, weights, out, tiling, between, turn, sums.acc, epilogue, chosen, second)
    build.once |= {made.name, *brought} if frames > 1 else set()
    build.add(made)
    build.give(name, Value(out, unit.frame))


def linear_plane() -> d.Plane:
    """That of a linear layer: one tap on one pixel."""
    return (1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1)


def of_frames(count: int) -> d.Plane:
    """That of a linear layer for so many frames: a row of them, each a pixel."""
    return (1, count, 1, count, 1, 1, 1, 1, 0, 0, 1, 1)


def order(weight: d.IntArray) -> d.IntArray:
    """(outputs, channels, *kernel) -> (outputs, inputs) in the order taps, channels."""
    outputs, channels = weight.shape[:2]
    return np.moveaxis(weight.reshape(outputs, channels, -1), 1, 2).reshape(outputs, -1)
