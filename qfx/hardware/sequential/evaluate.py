"""Steps in numpy: what the C++ computes, without tiles and places. For tests, which compare it with the interpreter of the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from qfx.fixed.arith import Interval
from qfx.fixed.type import QMode
from qfx.hardware.sequential.values import Epilogue, Integers, Kind, Layers, Overflow, Step, Value
from qfx.ir import sums
from qfx.ir.values import Const, RawArray
from qfx.ir.windows import Windows


def evaluate(layers: Layers, inputs: Sequence[RawArray]) -> dict[str, RawArray]:
    """The raws (N, channels, height, width) of every place in memory by name, given those of the inputs in any shape."""
    held = {value.name: raw.reshape(len(raw), value.channels, *value.held) for value, raw in zip(layers.inputs, inputs, strict=True)}
    for step in layers.steps:
        beside = None if step.beside is None else seen(held, step.beside)
        for one in step.products:
            beside = finished(one.epilogue, _sums(one, seen(held, one.source)), beside)
        assert beside is not None
        _write(held, step.target, beside)
    return held


def seen(held: Mapping[str, RawArray], value: Value) -> RawArray:
    """A value's raws (N, channels, height, width)."""
    raw = held[value.name][:, value.skip : value.skip + value.channels]
    return raw.repeat(value.zoom[0], axis=2).repeat(value.zoom[1], axis=3)


def _write(held: dict[str, RawArray], value: Value, raw: RawArray) -> None:
    before = held.get(value.name, raw[:, :0])
    count = max(before.shape[1], value.skip + value.channels)
    whole = np.zeros((len(raw), count, *raw.shape[2:]), dtype=np.int64)
    whole[:, : before.shape[1]] = before
    whole[:, value.skip : value.skip + value.channels] = raw
    held[value.name] = whole


def _sums(step: Step, x: RawArray) -> RawArray:
    window, target = step.window, step.target
    ends = [
        ((out - 1) * stride + reach - before - size)
        for out, stride, reach, before, size in zip(
            (target.height, target.columns), window.stride, window.reach, window.pads, (step.source.height, step.source.columns), strict=True
        )
    ]
    fill = np.iinfo(np.int64).min if step.kind is Kind.MAXIMUM else 0
    pads = [(max(before, 0), max(end, 0)) for before, end in zip(window.pads, ends, strict=True)]
    wide = np.pad(x, ((0, 0), (0, 0), *pads), constant_values=fill)
    wide = wide[:, :, max(-window.pads[0], 0) :, max(-window.pads[1], 0) :]
    none = ((0, 0), (0, 0))
    windows = Windows.of(step.name, wide.shape[1:], window.kernel, window.stride, none, window.dilation)
    if step.kind is Kind.MATRIX:
        assert step.weight is not None
        interval = Interval(int(x.min()), int(x.max()), 0)
        made = sums.convolve(Const(step.weight, 0), 1, windows, wide, interval)
    else:
        taps = np.stack(windows.taps(wide, fill), axis=-1)
        if step.kind is Kind.MAXIMUM:
            made = taps.max(-1)
        else:
            assert step.weight is not None
            made = (taps * step.weight.reshape(1, len(step.weight), 1, 1, -1)).sum(-1)
    return made[:, :, : target.height, : target.columns]


def finished(made: Epilogue, sums_raw: RawArray, beside: RawArray | None) -> RawArray:
    """The epilogue of sums (N, channels, height, width)."""
    value = sums_raw * _each(made.factor) + _each(made.added)
    if beside is not None:
        value = value + (beside << _each(made.beside_up))
    value = np.where(value < 0, value * made.slope, value << made.leak)
    down = _each(made.down)
    value = (value + _rounding(value, down, made.rounding)) >> down
    least, greatest = _each(made.least), _each(made.greatest)
    within = np.clip(value, least, greatest)
    value = np.where(within == value, value, 0) if made.overflow is Overflow.ZERO else within
    if made.overflow is Overflow.WRAP:
        value = value & ((1 << made.bits) - 1)
        if made.signed:
            value = np.where(value >> (made.bits - 1) & 1, value - (1 << made.bits), value)
    result: RawArray = value << _each(made.up)
    return result


def _rounding(value: RawArray, down: RawArray, mode: QMode) -> RawArray:
    half = np.where(down > 0, np.int64(1) << np.maximum(down - 1, 0), 0)
    below, negative = half - 1, value < 0
    added = {
        QMode.TRN: np.zeros_like(value),
        QMode.RND: half + 0 * value,
        QMode.RND_MIN_INF: below + 0 * value,
        QMode.RND_ZERO: np.where(negative, half, below),
        QMode.RND_INF: np.where(negative, below, half),
        QMode.RND_CONV: np.where(value >> down & 1, half, below),
        QMode.TRN_ZERO: np.where(negative, half + below, 0),
    }[mode]
    return np.where(down > 0, added, 0)


def _each(numbers: Integers) -> RawArray:
    return numbers.astype(np.int64).reshape(-1, 1, 1)
