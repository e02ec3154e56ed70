"""The graph that comes of a file, as it grows: which node holds which tensor, and the steps that all operators share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from qfx import operators as ops
from qfx.errors import ExactnessError, ModelFileError, UnsupportedError
from qfx.exchange.steps import Ints, Line, Steps, line, nearest_away
from qfx.exchange.tflite.file import File, Op, Tensor
from qfx.exchange.tflite.rounding import INT32_MAX, INT32_MIN, Rounding, Scaling
from qfx.fixed.arith import FLOAT64_BITS, Interval
from qfx.fixed.type import FixedType, OMode, QMode
from qfx.ir.graph import Node, graph_name
from qfx.ir.operator import Operator
from qfx.ir.values import ArrayType, Const, Info, Shape

INT8 = FixedType(8, 8, True, QMode.TRN, OMode.SAT)
"""The type of every tensor that travels: its stored integers."""
NEAREST = FixedType(9, 9, True, QMode.RND_INF, OMode.SAT)
"""Rounds to the nearest integer, ties away from zero; holds the difference of any two numbers of int8."""


Range = tuple[int, int]
"""The least and the greatest of some integers."""


class Network:
    """Nodes in order. A tensor of the file is held by the node with its stored integers, channels first, the batch left out."""

    def __init__(self, file: File, rounding: Rounding | None) -> None:
        self.file = file
        self.nodes: list[Node] = []
        self.infos: dict[str, Info] = {}
        self._rounding = rounding
        self._held: dict[int, str] = {}
        self._centered: dict[int, str] = {}

    # What operators read

    def tensor(self, index: int) -> Tensor:
        return self.file.tensors[index]

    def where(self, op: Op) -> str:
        """How messages name an operator: by what it makes."""
        return f"{op.kind} {self.tensor(op.outputs[0]).name}" if op.outputs else op.kind

    def constant(self, index: int, what: str, op: Op) -> Tensor:
        """A tensor that must be constant. UnsupportedError where it is computed."""
        tensor = self.tensor(index)
        if tensor.data is None:
            raise UnsupportedError(f"its {what} is computed", where=self.where(op), remedy="only constants can stand there")
        return tensor

    def quantized(self, index: int) -> tuple[float, int]:
        """Scale and zero point of a tensor with one of each. UnsupportedError for any other."""
        tensor = self.tensor(index)
        if tensor.dtype != "INT8":
            what = f"is of type {tensor.dtype}"
            raise UnsupportedError(what, where=tensor.name, remedy="quantize the whole model to int8: inputs, outputs and everything between")
        if tensor.scales.size != 1:
            raise UnsupportedError(
                f"has {tensor.scales.size} scales", where=tensor.name, remedy="give one for the tensor; weights alone have several"
            )
        zero = int(tensor.zeros[0])
        if not -128 <= zero <= 127:
            raise ModelFileError(f"its zero point is {zero}", where=tensor.name, remedy="give one of int8, -128 to 127")
        return float(tensor.scales[0]), zero

    def held(self, index: int) -> str:
        """The node that holds a tensor's stored integers."""
        if index not in self._held:
            raise ModelFileError(
                "is read before it is computed", where=self.tensor(index).name, remedy="the file is damaged; convert the model again"
            )
        return self._held[index]

    def centered(self, index: int) -> str:
        """The node that holds a tensor's integers less its zero point."""
        if index not in self._centered:
            source, (_, zero) = self.held(index), self.quantized(index)
            name = f"{source}.centered"
            self._centered[index] = self.emit(name, ops.Affine(None, Const(np.array(-zero), 0)), source) if zero else source
        return self._centered[index]

    def op(self, node: str) -> Operator:
        return next(one.op for one in self.nodes if one.name == node)

    def shape(self, index: int) -> Shape:
        """The shape of a tensor behind its batch, channels last. UnsupportedError for a batch other than 1."""
        tensor = self.tensor(index)
        if len(tensor.shape) < 2 or tensor.shape[0] != 1:
            what = f"the shape is {tensor.shape}"
            raise UnsupportedError(what, where=tensor.name, remedy="convert the model for batches of one, which is the first axis")
        return tensor.shape[1:]

    # What operators make

    def name(self, index: int) -> str:
        """A name for the node that holds a tensor, not yet in use."""
        label = graph_name(self.tensor(index).name.split(";")[0] or f"tensor{index}")
        while label in self.infos:
            label = f"{label}.{index}"
        return label

    def emit(self, name: str, op: Operator, *inputs: str) -> str:
        self.infos[name] = op.infer(name, tuple(self.infos[source] for source in inputs))
        self.nodes.append(Node(name, op, inputs))
        return name

    def hold(self, index: int, node: str) -> None:
        """From now on ``node`` holds the tensor. ModelFileError where its shape is not what the file says."""
        shape = self.infos[node].shape
        wanted = channels_first(self.shape(index))
        if shape != wanted:
            what = f"the file says {wanted} (channels first), its operator gives {shape}"
            raise ModelFileError(what, where=self.tensor(index).name, remedy="the file contradicts itself; convert the model again")
        self._held[index] = node

    def reordered(self, name: str, source: str, shape: Shape) -> str:
        """``source`` under another shape (without the batch, channels last), its numbers in the order in which they lie with channels last."""
        before = self.infos[source].shape
        if len(before) > 1:
            source = self.emit(f"{name}.last", ops.Transpose((*range(1, len(before)), 0)), source)
        if len(shape) < 2:
            return self.emit(name, ops.Reshape(shape), source)
        source = self.emit(f"{name}.shape", ops.Reshape(shape), source)
        return self.emit(name, ops.Transpose((len(shape) - 1, *range(len(shape) - 1))), source)

    def clamp(self, index: int, activation: int, op: Op) -> Range:
        """The least and the greatest stored integer of a tensor behind an activation (``tflite::CalculateActivationRangeQuantized``)."""
        scale, zero = self.quantized(index)
        ranges = {0: (None, None), 1: (0.0, None), 2: (-1.0, 1.0), 3: (0.0, 6.0)}
        if activation not in ranges:
            raise UnsupportedError(f"has the activation {activation}", where=self.where(op), remedy="use ReLU, ReLU6, or one of its own")
        low, high = (None if end is None else zero + math.floor(np.float32(end) / np.float32(scale) + np.float32(0.5)) for end in ranges[activation])
        return -128 if low is None else max(low, -128), 127 if high is None else min(high, 127)

    def scalings(self, factors: Sequence[float], default: Rounding) -> list[Scaling]:
        """How sums are scaled by ``factors``: by the rounding of all kernels, where the user chose one, or else ``default``."""
        return [Scaling.of(factor, default if self._rounding is None else self._rounding) for factor in factors]

    def scaled(self, index: int, op: Op, sums: str, factor: float, activation: int) -> None:
        """The tensor ``index`` holds ``sums``, whole numbers, times ``factor``, rounded, plus the zero point, clamped."""
        self.stepped(index, op, sums, self.scalings([factor], Rounding.DOUBLE), self.clamp(index, activation, op))

    def stepped(self, index: int, op: Op, sums: str, functions: Sequence[Scaling], ends: Range, ranges: Sequence[Range] | None = None) -> None:
        """The tensor ``index`` holds what ``functions`` (one, or one a channel) make of ``sums``, plus the zero point, clamped to ``ends``: as lines,
        which Steps proves equal for every sum. ``ranges``: between which the sums of each function lie, where more is known than the node tells."""
        name, zero = self.name(index), self.quantized(index)[1]
        hull = self.infos[sums].interval.hull
        ranges = [(hull.lo, hull.hi)] * len(functions) if ranges is None else ranges
        if hull.frac_bits or min(low for low, _ in ranges) < INT32_MIN or max(high for _, high in ranges) > INT32_MAX:
            remedy = "TFLite would wrap them; use fewer inputs or smaller weights"
            raise ExactnessError("its sums can leave int32", where=self.where(op), remedy=remedy)
        bits = [function.bits for function in functions]
        low, high = ends[0] - zero, ends[1] - zero
        steps = [Steps.of(_clipped(one, low, high), *range_, low, high) for one, range_ in zip(functions, ranges, strict=True)]
        once = lines(steps, [0] * len(steps))
        if once is not None:
            self._line(f"{name}.line", sums, [one.plus(zero << one.shift) for one in once], [0] * len(once))
            self.finish(index, f"{name}.line", ends)
            return
        twice = lines(steps, bits)
        if twice is None:
            raise ExactnessError("no fixed-point line takes its steps", where=self.where(op), remedy="this is a defect in qfx; please report it")
        self._line(f"{name}.line", sums, twice, bits)
        self._floored(f"{name}.fraction", f"{name}.line", bits)
        self.emit(f"{name}.nearest", ops.Cast(ArrayType.of(NEAREST)), f"{name}.fraction")
        self._shifted(f"{name}.shifted", f"{name}.nearest", zero)
        self.finish(index, f"{name}.shifted" if zero else f"{name}.nearest", ends)

    def finish(self, index: int, source: str, ends: Range) -> None:
        """The tensor ``index`` holds ``source``, floored to whole numbers and clamped to ``ends``."""
        node = self.emit(f"{self.name(index)}.int8", ops.Cast(ArrayType.of(INT8)), source)
        if ends != (-128, 127):
            node = self.emit(self.name(index), ops.Clip(*(Const(np.array(end), 0) for end in ends)), node)
        self.hold(index, node)

    def _line(self, name: str, sums: str, found: Sequence[Line], bits: Sequence[int]) -> None:
        """The values of lines whose results have so many fractional bits. On one grid where float64 holds them there, else each channel on its own: a
        channel of hardly any weight has a grid far below the others'."""
        grids = [one.shift + fraction for one, fraction in zip(found, bits, strict=True)]
        more = [max(grids) - grid for grid in grids]
        width = self.infos[sums].interval.hull.width
        if all(width + one.multiplier.bit_length() + up < FLOAT64_BITS for one, up in zip(found, more, strict=True)):
            found, grids = [one.at(one.shift + up) for one, up in zip(found, more, strict=True)], [max(grids)] * len(grids)
        multipliers, offsets = (np.array([getattr(one, field) for one in found]) for field in ("multiplier", "offset"))
        frac_bits = tuple(grids) if len(set(grids)) > 1 else grids[0]
        if len(found) == 1:
            multipliers, offsets = multipliers[0], offsets[0]
        self.emit(name, ops.Affine(Const(multipliers, frac_bits), Const(offsets, frac_bits) if offsets.any() else None), sums)

    def _floored(self, name: str, source: str, bits: Sequence[int]) -> None:
        """``source`` with so many fractional bits, for each channel where they differ, in words that hold all."""
        intervals = self.infos[source].interval.spread(self.infos[source].shape[0])
        each = bits if len(bits) > 1 else list(bits) * len(intervals)
        width = max(_floor(one, fraction).width + (not one.signed) for one, fraction in zip(intervals, each, strict=True))
        int_bits = tuple(width - fraction for fraction in (bits if len(set(bits)) > 1 else bits[:1]))
        shape = (len(int_bits), *(1,) * (len(self.infos[source].shape) - 1)) if len(int_bits) > 1 else ()
        self.emit(name, ops.Cast(ArrayType(FixedType(width, max(int_bits), True), int_bits, shape)), source)

    def _shifted(self, name: str, source: str, by: int) -> None:
        if by:
            self.emit(name, ops.Affine(None, Const(np.array(by), 0)), source)


def channels_first(shape: Shape) -> Shape:
    """A shape without its batch, the last axis in front."""
    return (shape[-1], *shape[:-1])


def lines(steps: Sequence[Steps], bits: Sequence[int]) -> list[Line] | None:
    """The line of each staircase with so many bits behind its results; None if one has none."""
    found = []
    for one, fraction in zip(steps, bits, strict=True):
        drawn = line(one, nearest_away(fraction))
        if drawn is None:
            return None
        found.append(drawn)
    return found


def _clipped(function: Callable[[Ints], Ints], low: int, high: int) -> Callable[[Ints], Ints]:
    return lambda sums: np.clip(function(sums), low, high)


def _floor(interval: Interval, bits: int) -> Interval:
    shift = interval.frac_bits - bits
    return Interval(interval.lo >> shift, interval.hi >> shift, bits) if shift > 0 else interval.at(bits)
