"""The graph that comes of a file, as it grows: which node holds which tensor, and the steps that all operators share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from qfx import operators as ops
from qfx.errors import ModelFileError, UnsupportedError
from qfx.integers.growing import Growing, Range, Result
from qfx.integers.tflite.file import File, Op, Tensor
from qfx.integers.tflite.rounding import Rounding, Scaling
from qfx.ir.graph import graph_name
from qfx.ir.values import Shape

WIDTHS = {"INT8": 8, "INT16": 16}
"""The bits of the types that activations may have."""


class Network(Growing):
    """A tensor of the file is held by the node with its stored integers, channels first, the batch left out."""

    def __init__(self, file: File, rounding: Rounding | None) -> None:
        super().__init__()
        self.file = file
        self._rounding = rounding
        self._held: dict[int, str] = {}
        self._centered: dict[int, str] = {}

    @property
    def default_rounding(self) -> bool:
        """Whether each kernel rounds as LiteRT's does, since the user chose no rounding for all."""
        return self._rounding is None

    # What operators read

    def tensor(self, index: int) -> Tensor:
        if index < 0:
            raise ModelFileError("an operator leaves out a tensor that it needs", where=self.file.name, remedy="convert the model again")
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
        if tensor.dtype not in WIDTHS:
            what = f"is of type {tensor.dtype}"
            remedy = "quantize the whole model to int8, or int16 with weights of int8: inputs, outputs and everything between"
            raise UnsupportedError(what, where=tensor.name, remedy=remedy)
        if tensor.scales.size != 1:
            raise UnsupportedError(
                f"has {tensor.scales.size} scales", where=tensor.name, remedy="give one for the tensor; weights alone have several"
            )
        zero = int(tensor.zeros[0])
        if tensor.dtype == "INT16" and zero:
            raise UnsupportedError(f"its zero point is {zero}", where=tensor.name, remedy="int16 is symmetric: give it the zero point 0")
        if not -128 <= zero <= 127:
            raise ModelFileError(f"its zero point is {zero}", where=tensor.name, remedy="give one of int8, -128 to 127")
        return float(tensor.scales[0]), zero

    def width(self, index: int) -> int:
        """The bits of a tensor's integers."""
        self.quantized(index)
        return WIDTHS[self.tensor(index).dtype]

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
            self._centered[index] = self.plus(f"{source}.centered", source, -zero)
        return self._centered[index]

    def shape(self, index: int) -> Shape:
        """The shape of a tensor behind its batch, channels last. UnsupportedError for a batch other than 1."""
        tensor = self.tensor(index)
        if len(tensor.shape) < 2 or tensor.shape[0] != 1:
            what = f"the shape is {tensor.shape}"
            raise UnsupportedError(what, where=tensor.name, remedy="convert the model for batches of one, which is the first axis")
        return tensor.shape[1:]

    def ratio(self, *over: int, under: int, factor: float = 1.0) -> float:
        """Scales of tensors and a factor multiplied, over that of another, in float32 and in that order, as some kernels have it."""
        scales = [np.float32(self.quantized(index)[0]) for index in over]
        product = scales[0] * np.float32(factor)
        for scale in scales[1:]:
            product = product * scale
        return float(product / np.float32(self.quantized(under)[0]))

    # What operators make

    def name(self, index: int) -> str:
        """A name for the node that holds a tensor, not yet in use."""
        label = graph_name(self.tensor(index).name.split(";")[0] or f"tensor{index}")
        while label in self.infos:
            label = f"{label}.{index}"
        return label

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
        end = 1 << (self.width(index) - 1)
        return -end if low is None else max(low, -end), end - 1 if high is None else min(high, end - 1)

    def functions(self, factors: Sequence[float], default: Rounding) -> list[Scaling]:
        """How sums are scaled by ``factors``: by the rounding of all kernels, where the user chose one, or else ``default``."""
        return [Scaling.of(factor, default if self._rounding is None else self._rounding) for factor in factors]

    def result(self, index: int, op: Op, activation: int = 0) -> Result:
        """What integers the tensor ``index`` holds, behind an activation."""
        return Result(self.name(index), self.where(op), self.quantized(index)[1], self.clamp(index, activation, op), width=self.width(index))

    def scaled(self, index: int, op: Op, sums: str, factor: float, activation: int) -> None:
        """The tensor ``index`` holds ``sums``, whole numbers, times ``factor``, rounded, plus the zero point, clamped."""
        functions = [scaling.function for scaling in self.functions([factor], Rounding.DOUBLE)]
        self.hold(index, self.stepped(self.result(index, op, activation), sums, functions))


def channels_first(shape: Shape) -> Shape:
    """A shape without its batch, the last axis in front."""
    return (shape[-1], *shape[:-1])
