"""The matrix-vector unit of the operators with weights, and how the weights are laid out for it; and the pools, whose windows come likewise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from qfx.errors import ProjectError
from qfx.fixed.type import FixedType
from qfx.hardware.design import arithmetic
from qfx.hardware.design import design as d
from qfx.hardware.design.build import Builder, Value, plane_shape
from qfx.hardware.design.epilogue import Frame, Steps, check_abreast
from qfx.hardware.design.phases import Phases
from qfx.hardware.design.schedule import Folding
from qfx.hardware.folding import ragged
from qfx.hardware.folding.option import divisors
from qfx.hardware.processes.rows.abreast import behind
from qfx.hardware.processes.rows.wide_window import wide_window
from qfx.ir.graph import Node
from qfx.ir.values import Const, LoadableConst
from qfx.ir.windows import Windows


@dataclass(frozen=True, eq=False)
class Unit:
    """A matrix-vector unit to be: the operator and what is fused behind it, its stream, the frame that it gives, its folding and its constants.

    ``accumulator`` says which type holds every partial sum with a weight and a bias like those. ``phases``: the outputs are those of all of them.
    A word of ``stream`` is what the unit reads of one pixel in a turn; where that is all of the pixel, it may hold all that are worked on at once.
    """

    node: Node
    chain: tuple[Node, ...]
    stream: d.Stream
    frame: Frame
    depthwise: bool
    groups: int
    pe: int
    simd: int
    weight: Const
    bias: Const | None
    accumulator: Callable[[Const, Const | None], FixedType]
    phases: Phases | None = None


@dataclass(frozen=True, eq=False)
class Sums:
    """What a unit sums: ``rows`` (outputs, inputs) of raws, the accumulator, the steps that bring it to the grid of the result and add the bias, and,
    of sums that wrap, what type holds them whole."""

    rows: d.IntArray
    acc: FixedType
    steps: Steps
    counted: FixedType | None


def sums_of(build: Builder, unit: Unit, rows: d.IntArray) -> Sums:
    """Those of ``rows`` (outputs, inputs), the raw weights in the order in which their inputs arrive.

    With a binary point per channel the weights stay the words as they were trained. Else what is left of an output's weights are those without the
    zeros that they all end in, and the sum is moved up by as many bits behind the accumulator.
    """
    node, weight = unit.node, unit.weight
    info = build.graph.infos[node.name]
    loaded = isinstance(weight, LoadableConst)
    outputs = len(weight.raw)  # of one phase: those of the others follow
    own = rows.reshape(-1, outputs, rows.shape[1]).swapaxes(0, 1).reshape(outputs, -1)
    up = np.zeros(outputs, dtype=np.int64) if loaded or isinstance(weight.frac_bits, tuple) else trailing_zeros(own)
    grids = np.array(weight.rows(outputs), dtype=np.int64).reshape(-1, *(1,) * (len(info.shape) - 1)) + unit.stream.type.frac_bits
    wide = _product_type(unit.accumulator(weight, None), grids)
    wrapped = None if unit.bias is not None or not unit.chain else unit.chain[0].op.looks_at(grids)
    if wrapped is not None and wrapped < wide.width - int(up.min()):
        up[:] = 0  # the sum wraps, at every addition, on the grid of the products
    else:
        wrapped = None
    if up.any():
        rows = rows >> np.tile(up, len(rows) // outputs)[:, None]
        shape = (-1, *(1,) * (weight.raw.ndim - 1))
        short = Const(weight.raw >> up.reshape(shape), weight.grid)
        acc = _product_type(unit.accumulator(short, None), grids)
        steps = Steps(build.names, node.name, (acc,), unit.frame)
        steps.raise_channels(up, wide)
    else:  # the bias comes behind the accumulator
        acc = wide if wrapped is None else FixedType(wrapped, wrapped - wide.frac_bits, True)
        steps = Steps(build.names, node.name, (acc,), unit.frame, grids)
    steps.bias(unit.bias, info)
    return Sums(rows, acc, steps, None if wrapped is None else wide)


def add_unit(build: Builder, unit: Unit, rows: d.IntArray) -> None:
    """The process; ``rows`` (outputs, inputs): the raw weights in the order in which their inputs arrive. ``sums_of`` says what the ROM holds.

    Groups that have the same weights one after the other (frames that one layer goes over) share them: the unit begins with them again.
    """
    node, weight = unit.node, unit.weight
    loaded = isinstance(weight, LoadableConst)
    sums = sums_of(build, unit, rows)
    rows, steps = sums.rows, sums.steps
    kept = rows if loaded else rows[: _once(rows, unit)]
    weights = _depthwise_rows(kept, unit.pe, unit.simd) if unit.depthwise else _rows(kept, len(kept) * unit.groups // len(rows), unit.pe, unit.simd)
    row, inputs = (unit.groups, rows.shape[1]) if unit.depthwise else (len(rows) // unit.groups, rows.shape[1])
    possible = np.array([[weight.type.min_raw, weight.type.max_raw]]) if isinstance(weight, LoadableConst) else weights
    folding = build.schedule.folding(node.name)
    chosen, pixels = folding.arithmetic, folding.pixels
    apart = unit.depthwise or folding.kept is not None
    arithmetic.check(chosen, possible, unit.stream.type, pe=unit.pe, depthwise=apart, where=node.name, loaded=loaded, pixels=pixels)
    check_sparsity(folding, rows, loaded=loaded, depthwise=unit.depthwise, where=node.name)
    check_weights(folding.weights, loaded=loaded, depthwise=unit.depthwise, where=node.name)
    vectors = unit.groups // unit.pe if unit.depthwise else unit.groups
    come, leave = vectors * ragged.words(inputs, unit.simd), vectors * (1 if unit.depthwise else ragged.words(row, unit.pe))
    second, beside = build.take_beside(node, unit.pe, row, leave, pixels)
    epilogue, out, name = build.finish(node, unit.chain, steps, unit.frame, unit.pe, beside, row, pixels)
    check_abreast(node.name, epilogue, pixels, "sums")
    stream, lanes = unit.stream, unit.pe * unit.simd if unit.depthwise else unit.simd
    if stream.parallel == lanes:
        stream = build.beside_each_other(node.inputs[0], stream, come, pixels)
    process = d.MatVec(
        build.names.new(node.name, "depthwise" if unit.depthwise else "matvec"),
        stream,
        out,
        depthwise=unit.depthwise,
        pixels=unit.frame.pixels,
        groups=unit.groups,
        outputs=rows.shape[0] // unit.groups,
        inputs=inputs,
        pe=unit.pe,
        simd=unit.simd,
        weights=weights,
        weight_type=arithmetic.weight_type(possible),
        acc=sums.acc,
        epilogue=epilogue if sums.counted is None else replace(epilogue, counted=sums.counted),
        arithmetic=chosen,
        loaded=loaded,
        place=folding.weights,
        beside=second,
        cropped=() if unit.phases is None else unit.phases.cropped,
        abreast=pixels,
        sparsity=folding.sparsity,
    )
    build.add(process)
    out = build.after_each_other(name, behind(out, leave, pixels, come // vectors, whole=second is None and row % unit.pe == 0), out)
    if unit.phases is None:
        build.give(name, Value(build.dense(name, out, row, ragged.words(inputs, unit.simd)) if row % unit.pe else out, unit.frame))
    else:
        build.give_stream(name, unit.phases.interleaved(build, node.name, out), Frame.of(unit.frame.shape))


def check_pixels(node: Node, pixels: int, frame: Frame) -> int:
    """``pixels``. Raises ProjectError, naming the node, unless so many at once come out even."""
    if frame.pixels % pixels:
        counts = ", ".join(str(count) for count in divisors(frame.pixels)[:8])
        raise ProjectError(f"pixels={pixels} does not divide the {frame.pixels} pixels of its result", where=node.name, remedy=f"use one of {counts}")
    return pixels


def wide_windows(build: Builder, node: Node, stream: d.Stream, channels: int, windows: Windows, pixels: int, padding: int = 0) -> d.Stream | None:
    """The stream of whole windows of ``node`` over ``stream``, of so many neighbouring pixels in a word; None where no unit writes such words.
    ``padding``: the raw outside."""
    if pixels == 1 or build.serves(node) or len(windows.size) > 2:
        return None
    single = stream.with_parallel(1)
    wide = wide_window(d.Window("", single, single, (channels, 1, *plane_shape(windows)), padding, build.schedule.folding(node.name).buffer), pixels)
    if wide is None:
        return None
    source = build.rewidth(node.name, stream, wide.input.parallel)
    out = build.stream(node.name, stream.type, wide.output.parallel, wide.output.numbers)
    build.add(replace(wide, name=build.names.new(node.name, "window"), input=source, output=out))
    return out


def add_pool(build: Builder, node: Node, chain: tuple[Node, ...], join: str, windows: Windows, acc: FixedType | None) -> None:
    """The windows of each channel joined by ``join`` ("max" or "sum") in an accumulator ``acc``; None: in a word of the value."""
    info, source = build.graph.infos[node.name], build.sources(node)[0]
    frame = Frame.of(info.shape)
    pe = build.parallel(node, frame.channels)
    whole = windows.kernel == windows.size and not any(map(any, windows.pads)) and set(windows.dilation) == {1}
    taps = int(np.prod(windows.kernel))
    together = frame_taps(build, node, taps, frame.channels) if whole else build.taps(node, windows)
    pixels = check_pixels(node, build.schedule.folding(node.name).pixels, frame)
    if pixels > 1 and (together == 1 or (pe, together) != (frame.channels, taps)):
        what = f"pixels={pixels}: a pool joins several windows at once where a word holds all taps and channels of each"
        raise ProjectError(what, where=node.name, remedy=f"use pe={frame.channels} and taps={taps}, or pixels=1")
    stream = build.take(node.inputs[0]).stream if pixels > 1 else build.take_stream(node.inputs[0], pe * together if whole else pe)
    held = stream.type if acc is None else acc
    steps = Steps(build.names, node.name, (held,), frame, source.grids)
    if info.per_channel:
        steps.move(info.grids, info.word)
    else:
        steps.fit(info.type)
    padding = stream.type.min_raw if join == "max" else 0
    if pixels > 1:
        wide = wide_windows(build, node, stream, frame.channels, windows, pixels, padding)
        if wide is None:
            what = f"pixels={pixels}: no window unit writes so many of its windows in a word"
            raise ProjectError(what, where=node.name, remedy="use fewer, or pixels=1")
        stream = wide
    elif not whole:
        stream = build.window(node.name, stream, frame.channels, windows, 0, padding, whole=together > 1)
    epilogue, out, name = build.finish(node, chain, steps, frame, pe, pixels=pixels)
    check_abreast(node.name, epilogue, pixels, "windows")
    count = taps if whole else frame.pixels
    build.add(d.Pool(build.names.new(node.name, "pool"), stream, out, join, whole, count, frame.channels, taps, held, epilogue, together, pixels))
    build.give_stream(name, out, frame)


def frame_taps(build: Builder, node: Node, taps: int, channels: int) -> int:
    """The pixels of a word of ``node``, which joins all ``taps`` pixels of a frame of so many ``channels``."""
    folding = build.schedule.folding(node.name)
    if folding.taps > 1 and (taps % folding.taps or folding.pe != channels):
        what = f"taps={folding.taps}: its one window is the frame, of which a word has all channels of so many of the {taps} pixels"
        raise ProjectError(what, where=node.name, remedy=f"use pe={channels} and a divisor, or taps=1")
    return folding.taps


def check_weights(asked: str, *, loaded: bool, depthwise: bool, where: str) -> None:
    """Raises ProjectError, naming the node ``where``, if weights cannot lie where they are ``asked`` to."""
    if asked == "uram" and not loaded:
        what = "its weights are constants, and UltraRAM cannot be initialised (UG573)"
        raise ProjectError(what, where=where, remedy="load them when the board starts (--weights stream), or use lut, bram or mixed")
    if asked == "mixed" and (loaded or depthwise):
        which = "that are loaded" if loaded else "of a depthwise convolution"
        raise ProjectError(f"weights {which} have no mixed memory", where=where, remedy=f"use lut or bram{', or uram' * loaded}")


def check_sparsity(folding: Folding, rows: d.IntArray, *, loaded: bool, depthwise: bool, where: str) -> None:
    """Raises ProjectError, naming the node ``where``, unless the weights ``rows`` (outputs, inputs) can be stored as the folding's sparsity says."""
    kept = folding.kept
    if kept is None:
        return
    named, dense = f"sparsity {kept}", "leave sparsity out"
    if loaded:
        raise ProjectError(f"{named}: its weights are loaded, and may be any", where=where, remedy=f"{dense}, or leave the weights in ROM")
    if depthwise:
        raise ProjectError(f"{named}: each output of a depthwise convolution has one input channel", where=where, remedy=dense)
    if rows.shape[1] % folding.simd:
        what = f"{named}: SIMD={folding.simd} does not divide the {rows.shape[1]} inputs of an output"
        raise ProjectError(what, where=where, remedy=f"use a SIMD that does, or {dense}")
    misfit = kept.misfit(rows)
    if misfit is not None:
        output, first = misfit
        count = np.count_nonzero(rows[output, first : first + kept.m])
        what = f"{named}: output {output} has {count} weights that are not 0 among the {kept.m} inputs that come from {first} on"
        raise ProjectError(what, where=where, remedy=f'train it with Spec(sparsity="{kept}"), or {dense}')


def _once(rows: d.IntArray, unit: Unit) -> int:
    """After how many rows the same ones come again, in whole groups and whole words of PE outputs."""
    size = len(rows) // unit.groups
    parts = rows.reshape(unit.groups, -1)
    for count in divisors(unit.groups):
        if (not unit.depthwise or count % unit.pe == 0) and (parts.reshape(-1, count, parts.shape[1]) == parts[:count]).all():
            return count * size
    return len(rows)


def trailing_zeros(rows: d.IntArray) -> d.IntArray:
    """For each row, how many zero bits all its numbers end in; 0 for a row of zeros.

    >>> trailing_zeros(np.array([[4, -12], [1, 8], [0, 0]])).tolist()
    [2, 0, 0]
    """
    joined = np.bitwise_or.reduce(rows, axis=1)
    lowest = joined & -joined
    return np.where(joined == 0, 0, np.frexp(lowest.astype(np.float64))[1] - 1).astype(np.int64)


def _product_type(acc: FixedType, grids: d.IntArray) -> FixedType:
    """``acc`` read on the (finest) grid of the products, before the bias brings them to the grid of the result."""
    return FixedType(acc.width, acc.width - int(grids.max()), acc.signed)


def _rows(rows: d.IntArray, groups: int, pe: int, simd: int) -> d.IntArray:
    """(outputs, inputs) -> (words, simd * pe), in the order in which qfx::matvec walks them: PEs innermost. Beyond the last output and the last input
    of a group there are those again: what fills up words is dropped there, and zero here, and so no other weight comes in."""
    outputs, inputs = rows.shape
    filled = np.pad(rows.reshape(groups, -1, inputs), ((0, 0), (0, -(outputs // groups) % pe), (0, -inputs % simd)), mode="edge")
    folded = filled.reshape(groups, -1, pe, filled.shape[2] // simd, simd)
    return folded.transpose(0, 1, 3, 4, 2).reshape(-1, simd * pe)


def _depthwise_rows(rows: d.IntArray, pe: int, simd: int) -> d.IntArray:
    """(channels, taps) -> (channels / pe * taps / simd, simd * pe), PEs innermost; filled up as ``_rows``."""
    filled = np.pad(rows, ((0, 0), (0, -rows.shape[1] % simd)), mode="edge")
    return filled.reshape(-1, pe, filled.shape[1]).transpose(0, 2, 1).reshape(-1, simd * pe)


def check(node: Node, field: str, value: int, total: int, what: str) -> None:
    """Raises ProjectError, naming the node, unless ``value`` divides ``total``."""
    if total % value:
        divisors = ", ".join(str(n) for n in range(1, total + 1) if total % n == 0)
        raise ProjectError(f"{field}={value} does not divide its {total} {what}", where=node.name, remedy=f"use one of {divisors}")
