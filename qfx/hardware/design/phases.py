"""Transposed convolutions without products with the zeros that they insert.

A convolution over a value stretched by s meets, at each place, every s-th of its taps alone: with t = o - before, tap k meets input (t + k) / s where
that is whole. s results that follow each other, t = s * q - s + 1 .. s * q, begin at the same input q and so have one window of ceil(K / s) inputs;
phase r among them has the taps k = s - 1 - r + s * m. So they are the outputs of one matrix-vector unit over the windows of what is not stretched,
with weights of zero where a phase has no tap, and a process behind puts them side by side. What lies outside of the result, in the first and the last
of these groups, is left out there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from qfx.errors import QfxError
from qfx.fixed.type import FixedType
from qfx.hardware.design import design as d
from qfx.hardware.design.epilogue import Frame
from qfx.hardware.folding.option import window_channels
from qfx.hardware.processes.phases import in_place
from qfx.ir.graph import Node
from qfx.ir.values import Const, LoadableConst, Shape
from qfx.ir.windows import Windows

if TYPE_CHECKING:
    from qfx.hardware.design.build import Builder
    from qfx.operators.conv import Conv


@dataclass(frozen=True, slots=True)
class Phases:
    """``source``: the value that is not stretched, over which the ``windows`` go; ``factors``: the results that one window gives, along each axis;
    ``first``: the first of them that is a result; ``shape`` of the result."""

    source: str
    windows: Windows
    factors: Shape
    first: Shape
    shape: Shape

    def weight(self, weight: Const) -> Const:
        """(outputs, inputs, *kernel) as (phases * outputs, inputs, *kernel of the windows), the phases row by row."""
        raw = weight.raw
        made = np.zeros((*self.factors, *raw.shape[:2], *self.windows.kernel), dtype=np.int64)
        for phase in np.ndindex(*self.factors):
            taps = raw[(slice(None), slice(None), *(slice(s - 1 - r, None, s) for s, r in zip(self.factors, phase, strict=True)))]
            made[(*phase, slice(None), slice(None), *(slice(size) for size in taps.shape[2:]))] = taps
        grids = weight.frac_bits * prod(self.factors) if isinstance(weight.frac_bits, tuple) else weight.frac_bits
        return Const(made.reshape(-1, *made.shape[len(self.factors) + 1 :]), grids)

    @property
    def frame(self) -> Frame:
        """How the results travel that come from the matrix-vector unit; for what is none the nearest one stands."""
        groups, axes = self.windows.out, len(self.factors)
        at = [
            np.clip(np.arange(count)[:, None] * s + np.arange(s) - first, 0, size - 1)
            for count, s, first, size in zip(groups, self.factors, self.first, self.shape[1:], strict=True)
        ]
        places = np.arange(prod(self.shape), dtype=np.int64).reshape(self.shape)
        # (channels, *groups, *phases) -> (*groups, *phases, channels)
        grid = places[(slice(None), *(part.reshape(tuple(_lying(i, axes, part.shape))) for i, part in enumerate(at)))]
        order = np.moveaxis(grid, 0, -1).reshape(-1)
        return Frame(self.shape, prod(groups), prod(self.factors) * self.shape[0], order)

    def whole(self, channels: int, parallel: int) -> bool:
        """Whether there is a unit of whole windows that takes so many ``channels`` of a pixel, ``parallel`` in a word."""
        windows, stream = self.windows, d.Stream("", FixedType(1, 1), parallel, 1, 2)
        sizes = (windows.size, windows.out, windows.kernel, tuple(before for before, _ in windows.pads))
        (h, w), (oh, ow), (kh, kw), (top, left) = ((fill, *part) if len(part) == 1 else part for part, fill in zip(sizes, (1, 1, 1, 0), strict=True))
        return d.WholeWindow("", stream, stream, (channels // parallel, h, w, oh, ow, kh, kw, 1, 1, top, left, 1, 1), 0).possible

    @property
    def cropped(self) -> tuple[int, ...]:
        """What a simulation that counts casts must know to leave out what is no result: the arguments of qfx::cropped."""
        (_, columns), (rows_in, columns_in), (top, left), (height, width) = self._plane
        return (columns, self.shape[0], rows_in, columns_in, top, height, left, width)

    @property
    def _plane(self) -> tuple[Shape, Shape, Shape, Shape]:
        """Groups, factors, first and size, of rows and columns."""
        plain = (self.windows.out, self.factors, self.first, self.shape[1:])
        return tuple((fill, *part) if len(part) == 1 else part for part, fill in zip(plain, (1, 1, 0, 1), strict=True))  # type: ignore[return-value]

    def interleaved(self, builder: Builder, stem: str, stream: d.Stream) -> d.Stream:
        """The result, pixel by pixel, of the groups that come."""
        for process in self._in_place(stream):
            out = builder.stream(stem, stream.type, process.output.parallel, process.output.numbers)
            kind = "width" if isinstance(process, d.Rewidth) else "slice" if isinstance(process, d.SliceFrame) else "interleave"
            builder.add(replace(process, name=builder.names.new(stem, kind), input=stream, output=out))
            stream = out
        return stream

    def together(self, numbers: int) -> bool:
        """Whether words of so many numbers, of whole groups, are put in their places as they come."""
        stream = d.Stream("", FixedType(1, 1), 1, prod(self.windows.out) * prod(self.factors) * self.shape[0], 2)
        return stream.words % numbers == 0 and not any(isinstance(process, d.Interleave) for process in self._in_place(stream.with_parallel(numbers)))

    def _in_place(self, stream: d.Stream) -> list[d.Rewidth | d.Interleave | d.Scatter | d.SliceFrame]:
        groups, factors, first, size = (_two(part) for part in self._plane)
        return in_place(stream, groups, factors, self.shape[0], first, size)


def _two(values: Shape) -> tuple[int, int]:
    rows, columns = values
    return rows, columns


def phases(builder: Builder, stretch: Node, factors: Shape, node: Node, op: Conv) -> Phases | None:
    """How the convolution ``op`` of ``node`` that alone reads the result of ``stretch`` is built without it; None where it cannot be, where it would
    take more turns, and where its folding is one of the convolution as it stands alone."""
    infos = builder.graph.infos
    source, stretched, out = infos[stretch.inputs[0]], infos[stretch.name], infos[node.name]
    plain = set(op.stride) == set(op.dilation) == {1} and op.groups == 1 and not isinstance(op.weight, LoadableConst)
    if not plain or len(factors) > 2 or source.on_one_grid().type.frac_bits != stretched.on_one_grid().type.frac_bits:
        return None
    kernel, before, groups, first, behind = [], [], [], [], []
    for n, s, k, (ahead, _), size in zip(source.shape[1:], factors, op.weight.shape[2:], op.pads, out.shape[1:], strict=True):
        taps = -(-k // s)
        count = -(-(size - 1 - ahead) // s) + ahead // s + 1
        kernel.append(taps)
        before.append(ahead // s)
        groups.append(count)
        first.append(s - 1 - ahead % s)
        behind.append(count + taps - 1 - n - ahead // s)
    if min(behind) < 0 or prod(groups) * prod(factors) * prod(kernel) >= prod(out.shape[1:]) * prod(op.weight.shape[2:]):
        return None
    windows = Windows(source.shape[1:], tuple(kernel), (1,) * len(kernel), tuple(zip(before, behind, strict=True)), (1,) * len(kernel))
    found = Phases(stretch.inputs[0], windows, factors, tuple(first), out.shape)
    return found if _folds(builder, node, op, found) else None


def _folds(builder: Builder, node: Node, op: Conv, found: Phases) -> bool:
    """Whether the folding of the node is one of this form."""
    folding = builder.schedule.folding(node.name)
    outputs, per_group = op.weight.shape[:2]
    taps = prod(found.windows.kernel)
    try:
        together = builder.taps(node, found.windows)
    except QfxError:
        return False
    word = window_channels(folding.simd, per_group, together)
    all_ = outputs * prod(found.factors)
    if folding.pixels > 1 and (folding.pe != all_ or not found.together(all_ * folding.pixels)):
        return False
    if all_ % folding.pe or taps * per_group % folding.simd or word is None:
        return False
    return together == 1 or found.whole(per_group, word)


def _lying(axis: int, axes: int, shape: Shape) -> list[int]:
    """``shape`` = (groups, phases) of an axis, to broadcast against (*groups, *phases) of all."""
    lying = [1] * (2 * axes)
    lying[axis], lying[axes + axis] = shape
    return lying
