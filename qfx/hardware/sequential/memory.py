"""Where values lie in memory: a place for each, shared by those that never hold anything at the same time.

A value lies as vectors of channels: block by block, frame by frame of a batch, row by row, pixel by pixel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from qfx.hardware.sequential.values import Layers, Value


@dataclass(frozen=True, slots=True)
class Places:
    """``at``: the first vector of each value, by name; ``vectors``: how many all of them take. A vector is ``lanes`` containers of ``bits`` bits."""

    at: Mapping[str, int]
    vectors: int
    lanes: int
    bits: int

    @property
    def bytes(self) -> int:
        return self.vectors * self.lanes * self.bits // 8


def planes(value: Value, bits: int) -> int:
    """How many containers one of its numbers takes."""
    return ceil(value.width / bits)


def size(value: Value, lanes: int, bits: int) -> int:
    """Vectors that a value of one frame takes, with all that comes before it in its place."""
    return ceil((value.skip + value.channels) / lanes) * value.held[0] * value.held[1] * planes(value, bits)


def begin(value: Value, at: int, lanes: int, bits: int, batch: int) -> int:
    """The first vector of a value whose place begins there."""
    return at + value.skip // lanes * value.held[0] * value.held[1] * planes(value, bits) * batch


def places(layers: Layers, lanes: int, bits: int) -> Places:
    """Each value goes into the first gap that is large enough among those that live at the same time, the largest values first.

    A value lives from the step that writes it to the last one that reads it; an input from the beginning, and inputs and outputs to the end, so that
    frames can be written and read there whenever no step runs. A place that several steps write lives from the first of them on.
    """
    born = {value.name: -1 for value in layers.inputs}
    sizes = {value.name: size(value, lanes, bits) * layers.batch for value in layers.inputs}
    for index, step in enumerate(layers.steps):
        born.setdefault(step.target.name, index)
        sizes[step.target.name] = max(sizes.get(step.target.name, 0), size(step.target, lanes, bits) * layers.batch)
    last = {step.target.name: index for index, step in enumerate(layers.steps)} | {value.name: -1 for value in layers.inputs}
    for index, step in enumerate(layers.steps):
        for value in step.reads:
            last[value.name] = max(index, last[value.name])
    for value in (*layers.inputs, *layers.outputs):
        last[value.name] = len(layers.steps)
    at: dict[str, int] = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], born[name])):
        taken = sorted((at[other], at[other] + sizes[other]) for other in at if born[other] <= last[name] and born[name] <= last[other])
        begin = 0
        for low, high in taken:
            if begin + sizes[name] <= low:
                break
            begin = max(begin, high)
        at[name] = begin
    return Places(at, max(at[name] + sizes[name] for name in at), lanes, bits)
