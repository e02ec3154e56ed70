"""Products and sums over named axes, as parts: axes are brought into the order of one matrix product or one layer with weights, and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qfx.nn.call import Part
from qfx.nn.fixed_layer import FixedLayer
from qfx.nn.layers.permute import QPermute
from qfx.nn.layers.products.matmul import QMatMul
from qfx.nn.layers.products.weights import Form
from qfx.nn.layers.reshape import QReshape

Shape = tuple[int, ...]
Labels = tuple[str, ...]
"""A name for each axis, the batch left out."""

Make = Callable[[Form, int, bool], FixedLayer]
"""The layer with weights, told how they are cast, the groups of its channels, and whether there are positions behind the channels."""


@dataclass(frozen=True, eq=False)
class Operand:
    """A value of a call (its position among the values read, or an earlier part) or, with no source, a constant. ``labels`` name the axes of
    ``shape``, or of what is left of it without those of length 1 in ``dropped``."""

    shape: Shape
    labels: Labels
    source: int | Part | None = None
    dropped: frozenset[int] = frozenset()

    @property
    def axes(self) -> tuple[int, ...]:
        """Which axes have labels."""
        return tuple(axis for axis in range(len(self.shape)) if axis not in self.dropped)

    def sizes(self) -> dict[str, int]:
        return {label: self.shape[axis] for label, axis in zip(self.labels, self.axes, strict=True)}

    def without(self, labels: frozenset[str]) -> Operand:
        """Without the labels of some axes of length 1."""
        kept = tuple(label for label in self.labels if label not in labels)
        gone = frozenset(axis for label, axis in zip(self.labels, self.axes, strict=True) if label in labels)
        return Operand(self.shape, kept, self.source, self.dropped | gone)


class Wiring:
    """The parts of an operation, as they come."""

    def __init__(self) -> None:
        self.parts: list[Part] = []

    def add(self, layer: FixedLayer, *sources: int | Part, suffix: str = "") -> Part:
        part = Part(layer, sources, suffix)
        self.parts.append(part)
        return part

    def permuted(self, source: int | Part, perm: Sequence[int], suffix: str) -> int | Part:
        return source if tuple(perm) == tuple(range(len(perm))) else self.add(QPermute(tuple(perm)), source, suffix=suffix)

    def reshaped(self, source: int | Part, before: Shape, after: Shape, suffix: str) -> int | Part:
        return source if before == after else self.add(QReshape(after), source, suffix=suffix)


def last_axis_first(shape: Shape, result: Shape, layer: FixedLayer) -> list[Part]:
    """``layer`` on (channels, positions), for a value whose channels are the last axis of ``shape``; those of the ``result`` are again."""
    wiring, axes = Wiring(), len(shape)
    front = math.prod(shape[:-1])
    x = wiring.permuted(0, (axes - 1, *range(axes - 1)), "_turned")
    x = wiring.reshaped(x, (shape[-1], *shape[:-1]), (shape[-1], front), "_rows")
    x = wiring.add(layer, x)
    x = wiring.reshaped(x, (result[-1], front), (result[-1], *result[:-1]), "_axes")
    wiring.permuted(x, (*range(1, axes), 0), "_back")
    return wiring.parts


def of_values(wiring: Wiring, a: Operand, b: Operand, result: Labels, *, suffix: str = "") -> int | Part:
    """The sum over all axes that ``result`` lacks of a * b: one matrix product. Every axis that one of them has alone must be in the result."""
    sizes = {**a.sizes(), **b.sizes()}
    both = [label for label in a.labels if label in b.labels and label in result]
    summed = [label for label in a.labels if label in b.labels and label not in result]
    rows = [label for label in a.labels if label not in b.labels]
    columns = [label for label in b.labels if label not in a.labels]
    heads = (_size(both, sizes),) if both else ()
    left = _arranged(wiring, a, (*both, *rows, *summed), (*heads, _size(rows, sizes), _size(summed, sizes)), f"{suffix}_left")
    right = _arranged(wiring, b, (*both, *summed, *columns), (*heads, _size(summed, sizes), _size(columns, sizes)), f"{suffix}_right")
    product = wiring.add(QMatMul(_size(summed, sizes)), left, right, suffix=suffix)
    return _given(wiring, product, (*heads, _size(rows, sizes), _size(columns, sizes)), (*both, *rows, *columns), result, sizes, suffix)


def with_weights(wiring: Wiring, x: Operand, weight: Operand, result: Labels, make: Make) -> int | Part:
    """The sum over all axes that ``result`` lacks of x * weight, for a constant weight: one layer, whose channels are the axes that are summed.

    Axes that both have and the result keeps are groups of channels. Every axis that one of them has alone must be in the result.
    """
    sizes = {**x.sizes(), **weight.sizes()}
    both = [label for label in x.labels if label in weight.labels and label in result]
    summed = [label for label in x.labels if label in weight.labels and label not in result]
    positions = [label for label in x.labels if label not in weight.labels]
    outputs = [label for label in weight.labels if label not in x.labels]
    groups, inputs = _size(both, sizes), _size(summed, sizes)
    behind = (_size(positions, sizes),) if positions or groups > 1 else ()
    perm = (*(weight.axes[weight.labels.index(label)] for label in (*both, *outputs, *summed)), *sorted(weight.dropped))
    form = Form(perm, (groups * _size(outputs, sizes), inputs, *((1,) if groups > 1 else ())))
    source = _arranged(wiring, x, (*both, *summed, *positions), (groups * inputs, *behind), "_turned")
    made = wiring.add(make(form, groups, bool(behind)), source)
    return _given(wiring, made, (groups * _size(outputs, sizes), *behind), (*both, *outputs, *positions), result, sizes, "")


def _arranged(wiring: Wiring, x: Operand, order: Labels, shape: Shape, suffix: str) -> int | Part:
    """A value with its axes in an order and then in a shape."""
    assert x.source is not None
    sizes = x.sizes()
    source = wiring.reshaped(x.source, x.shape, tuple(sizes.values()), f"{suffix}_squeezed")
    source = wiring.permuted(source, [x.labels.index(label) for label in order], suffix)
    return wiring.reshaped(source, tuple(sizes[label] for label in order), shape, f"{suffix}_shape")


def _given(wiring: Wiring, x: int | Part, shape: Shape, order: Labels, result: Labels, sizes: dict[str, int], suffix: str) -> int | Part:
    """A result of ``shape``, whose axes are those of ``order`` taken together, with the axes of ``result``; those that no operand has are 1 long."""
    whole = tuple(sizes[label] for label in order)
    if order == tuple(label for label in result if label in sizes):
        return wiring.reshaped(x, shape, tuple(sizes.get(label, 1) for label in result), f"{suffix}_axes")
    x = wiring.reshaped(x, shape, whole, f"{suffix}_axes")
    there = [label for label in result if label in sizes]
    x = wiring.permuted(x, [order.index(label) for label in there], f"{suffix}_back")
    return wiring.reshaped(x, tuple(sizes[label] for label in there), tuple(sizes.get(label, 1) for label in result), f"{suffix}_ones")


def _size(labels: Sequence[str], sizes: dict[str, int]) -> int:
    return math.prod(sizes[label] for label in labels)
