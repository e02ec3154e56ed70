"""The graph that comes of a quantized ONNX file: every tensor is a node with its stored integers, and what float each of them stands for."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from qfx import operators as ops
from qfx.errors import ModelFileError, UnsupportedError
from qfx.fixed.type import FixedType
from qfx.integers.growing import Growing, Result
from qfx.integers.onnx.file import Array, Fused, Model
from qfx.integers.steps import Ints
from qfx.ir.graph import graph_name
from qfx.ir.values import Const

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class View:
    """A tensor: the node that holds its integers of 8 bits; where it is one of floats, ``floats`` has the float of each, from the least on."""

    node: str
    signed: bool
    floats: Floats | None = None

    @property
    def numbers(self) -> Ints:
        """Every integer that it can hold."""
        return np.arange(-128, 128) if self.signed else np.arange(256)

    @property
    def stored(self) -> Array:
        """The same as the file has them."""
        return self.numbers.astype(np.int8 if self.signed else np.uint8)


class Network(Growing):
    """Tensors by their names in the file."""

    def __init__(self, model: Model, *, nearest: bool) -> None:
        super().__init__(nearest=nearest)
        self.model = model
        self.views: dict[str, View] = {}

    def where(self, node: Fused) -> str:
        return f"{node.kind} {node.outputs[0]}"

    def view(self, name: str, node: Fused) -> View:
        if name not in self.views:
            what = "is constant" if name in self.model.constants else "is not known"
            raise UnsupportedError(f"its input {name} {what}", where=self.where(node), remedy="fold constants before quantizing the model")
        return self.views[name]

    def integers(self, name: str, node: Fused) -> View:
        """A tensor that must be of integers."""
        view = self.view(name, node)
        if view.floats is not None:
            raise UnsupportedError(f"its input {name} is of floats", where=self.where(node), remedy="quantize what it reads")
        return view

    def constant(self, name: str, node: Fused) -> Array:
        if name not in self.model.constants:
            raise UnsupportedError(f"its input {name} is computed", where=self.where(node), remedy="only a constant can stand there")
        return self.model.constants[name]

    def scale(self, name: str, node: Fused) -> np.float32:
        """One scale."""
        scale = self.constant(name, node)
        if scale.size != 1 or not np.isfinite(scale).all() or not (scale > 0).all():
            raise UnsupportedError(f"its scale {name} is {scale.tolist()}", where=self.where(node), remedy="give one positive number")
        return np.float32(scale.reshape(-1)[0])

    def zero(self, name: str, node: Fused) -> tuple[int, bool]:
        """A zero point, and whether its type has a sign."""
        zero = self.constant(name, node)
        if zero.size != 1 or zero.dtype not in (np.int8, np.uint8):
            what = f"its zero point {name} is {zero.dtype} of shape {zero.shape}"
            raise UnsupportedError(what, where=self.where(node), remedy="give one of int8 or uint8")
        return int(zero.reshape(-1)[0]), zero.dtype == np.int8

    def centered(self, name: str, zero: str, node: Fused) -> str:
        """The node that holds a tensor's integers less its zero point."""
        view, (by, signed) = self.integers(name, node), self.zero(zero, node)
        if view.signed != signed:
            raise ModelFileError(f"{name} and its zero point are of two types", where=self.where(node), remedy="repair the model")
        return self.plus(f"{self.name(node.outputs[0])}.{len(self.nodes)}.centered", view.node, -by)

    def name(self, tensor: str) -> str:
        """A name for the node that holds a tensor, not yet in use."""
        label = graph_name(tensor)
        while label in self.infos:
            label = f"{label}.{len(self.nodes)}"
        return label

    def result(self, node: Fused, zero: str) -> Result:
        """What integers the node gives."""
        by, signed = self.zero(zero, node)
        type_ = FixedType(8, 8, signed)
        return Result(self.name(node.outputs[0]), self.where(node), by, (type_.min_raw, type_.max_raw), signed)

    def hold(self, node: Fused, held: str, signed: bool, floats: Floats | None = None) -> None:
        self.views[node.outputs[0]] = View(held, signed, floats)

    def moved(self, node: Fused, held: str, view: View) -> None:
        """The result has the numbers of ``view`` at other places."""
        self.views[node.outputs[0]] = replace(view, node=held)

    def tabled(self, node: Fused, view: View, entries: Array) -> None:
        """The result is an integer for each that ``view`` can hold."""
        signed = entries.dtype == np.int8
        numbers = entries.astype(np.int64)
        if signed == view.signed and (numbers == view.numbers).all():
            self.hold(node, view.node, signed)
        else:
            table = ops.Lookup(Const(numbers, 0), int(view.numbers[0]), 0)
            self.hold(node, self.emit(self.name(node.outputs[0]), table, view.node), signed)
