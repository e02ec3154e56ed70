"""Inputs of few channels: whoever writes a frame to memory lays the columns of each window side by side as channels, so that vectors are full.

A convolution over three channels would fill three lanes of a vector. Of an input that one convolution reads, the numbers of ``kernel`` columns become
the channels of one pixel: a frame is written a few times as large, and its convolution takes as many times fewer turns.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil

import numpy as np

from qfx.hardware.sequential.values import Fold, Kind, Layers, Step, Value, Window
from qfx.ir.values import RawArray


def folded(layers: Layers, lanes: int) -> Layers:
    """The network with its inputs folded where that takes fewer vectors; one that is folded already stays as it is."""
    steps, inputs, folds = list(layers.steps), list(layers.inputs), dict(layers.folds)
    for place, value in enumerate(inputs):
        readers = [index for index, step in enumerate(steps) for read in step.reads if value.name == read.name]
        if len(readers) != 1 or value in layers.outputs or value.name in folds:
            continue
        step = steps[readers[0]]
        kernel = step.window.kernel[1]
        if step.kind is not Kind.MATRIX or step.source != value:
            continue
        if ceil(kernel * value.channels / lanes) >= kernel * ceil(value.channels / lanes):
            continue
        steps[readers[0]], folds[value.name] = _folded(step)
        inputs[place] = steps[readers[0]].source
    return replace(layers, steps=tuple(steps), inputs=tuple(inputs), folds=tuple(folds.items()))


def _folded(step: Step) -> tuple[Step, Fold]:
    window, source = step.window, step.source
    fold = Fold(source.channels, source.columns, window.kernel[1], window.stride[1], window.pads[1], window.dilation[1])
    made = replace(source, channels=fold.kernel * source.channels, columns=step.target.columns)
    upright = Window((window.kernel[0], 1), (window.stride[0], 1), (window.pads[0], 0), (window.dilation[0], 1))
    weight = step.weight
    assert weight is not None  # a matrix has weights
    side_by_side = weight.transpose(0, 3, 1, 2).reshape(len(weight), made.channels, window.kernel[0], 1)
    return replace(step, source=made, window=upright, weight=np.ascontiguousarray(side_by_side)), fold


def laid_out(raw: RawArray, fold: Fold, value: Value) -> RawArray:
    """Frames (N, channels, height, columns) as the folded ``value``: what is written to memory."""
    result = np.zeros((len(raw), fold.kernel, fold.channels, value.height, value.columns), dtype=np.int64)
    for k in range(fold.kernel):
        for x in range(value.columns):
            at = x * fold.stride - fold.before + k * fold.dilation
            if 0 <= at < fold.columns:
                result[:, k, :, :, x] = raw[..., at]
    return result.reshape(len(raw), value.channels, value.height, value.columns)
