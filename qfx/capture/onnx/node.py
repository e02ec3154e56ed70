"""One operation of a float ONNX graph: its attributes, and its arguments as torch's functions take them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import helper
from torch import Tensor, nn

from qfx.capture.assemble import Assembly, Pads, Value
from qfx.errors import UnsupportedError

Array = npt.NDArray[Any]


class Node:
    """One operation, with its attributes and arguments at hand."""

    make: Assembly
    proto: onnx.NodeProto
    where: str
    arguments: list[Value | Array | None]
    opset: int
    attributes: dict[str, Any]
    name: str

    def __init__(
        self, make: Assembly, proto: onnx.NodeProto, where: str, arguments: list[Value | Array | None], uses: Mapping[str, int], opset: int = 22
    ) -> None:
        self.make, self.proto, self.where, self.arguments, self._uses, self.opset = make, proto, where, arguments, uses, opset
        self.attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in proto.attribute}
        self.name = self._name()

    def refuse(self, what: str, remedy: str) -> UnsupportedError:
        return UnsupportedError(f"{self.proto.op_type} with {what}", where=self.where, remedy=remedy)

    # Arguments

    def x(self, index: int = 0) -> Value:
        """An argument as a value of the module, a constant as one that it holds."""
        value = self.arguments[index]
        if isinstance(value, Value):
            return value
        if value is None:
            raise self.refuse(f"no argument {index}", "export it again")
        return self.make.constant(f"{self.name}_constant", self._one_row(torch.from_numpy(np.array(value)), self._rank()))

    def operand(self, index: int) -> Any:
        """An argument of arithmetic: a value, or a number."""
        value = self.arguments[index]
        if isinstance(value, np.ndarray) and value.size == 1 and value.ndim <= self._rank():
            return value.item()
        return self.x(index)

    def sample_wise(self, index: int) -> Value:
        """As ``x``, but a constant gets as many rows as the batch has; where sizes are written as they are, only one that has them in the file."""
        value, given = self.x(index), self.arguments[index]
        if isinstance(given, Value) or (self.make.literal and (given is None or np.array(given).shape[:1] != self.make.input.data.shape[:1])):
            return value
        sizes = (self.make.batch(), *value.data.shape[1:])
        return self.call(torch.Tensor.expand, value, sizes)

    def constant(self, index: int, attribute: str = "") -> Array | None:
        """An argument that must not depend on data, or (in older opsets) an attribute; None if absent."""
        value = self.arguments[index] if index < len(self.arguments) else None
        if isinstance(value, Value):
            raise self.refuse(f"an argument {self.proto.input[index]!r} that depends on data", "let weights and shapes be constants")
        if value is None and attribute in self.attributes:
            return np.asarray(self.attributes[attribute])
        return value

    def numbers(self, index: int, attribute: str = "") -> list[int] | None:
        """A constant list of whole numbers."""
        found = self.constant(index, attribute)
        return None if found is None else [int(number) for number in np.ravel(found)]

    def tensor(self, index: int) -> Tensor | None:
        array = self.constant(index)
        return None if array is None else torch.from_numpy(np.array(array, dtype=np.float32))

    def weight(self, index: int = 1) -> Tensor:
        found = self.tensor(index)
        if found is None:
            raise self.refuse("no weights", "export it again")
        return found

    # Attributes

    def ints(self, name: str, default: Sequence[int]) -> tuple[int, ...]:
        return tuple(int(value) for value in self.attributes.get(name, default))

    def integer(self, name: str, default: int) -> int:
        return int(self.attributes.get(name, default))

    def number(self, name: str, default: float) -> float:
        return float(self.attributes.get(name, default))

    def text(self, name: str, default: str) -> str:
        return str(self.attributes.get(name, default.encode()), "ascii")

    def pads(self, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Pads:
        """Before and after each spatial axis, from ``pads`` or ``auto_pad``."""
        rank, how = len(kernel), self.text("auto_pad", "NOTSET")
        if how in ("SAME_UPPER", "SAME_LOWER"):
            pairs = []
            for size, k, s, d in zip(self.x().data.shape[2:], kernel, stride, dilation, strict=True):
                total = max((math.ceil(size / s) - 1) * s + d * (k - 1) + 1 - size, 0)
                less, more = total // 2, total - total // 2
                pairs.append((less, more) if how == "SAME_UPPER" else (more, less))
            return pairs
        flat = self.ints("pads", (0,) * (2 * rank))
        return [(flat[axis], flat[axis + rank]) for axis in range(rank)] if how == "NOTSET" else [(0, 0)] * rank

    def axes(self, index: int = 1) -> list[int] | None:
        """Axes that are an argument or an attribute, none of them negative."""
        found, rank = self.numbers(index, "axes"), self.x().data.dim()
        return None if found is None else sorted(axis % rank for axis in found)

    def alone(self, index: int = 0) -> bool:
        """Whether nothing else reads the argument."""
        return self._uses[self.proto.input[index]] == 1

    # Results

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Value:
        found: Value = self.make.call(self.name, function, *args, **kwargs)
        return found

    def layer(self, module: nn.Module) -> Value:
        return self.make.layer(self.name, module, self.x())

    def _rank(self) -> int:
        """Of the widest argument that depends on the input."""
        return max((value.data.dim() for value in self.arguments if isinstance(value, Value)), default=0)

    def _one_row(self, value: Tensor, rank: int) -> Tensor:
        """A constant that was made for this batch, in all samples alike, once for all of them."""
        batch = self.make.input.data.shape[0]
        same = rank > 0 and value.dim() == rank and value.shape[0] == batch and bool((value == value[:1]).all())
        return value[:1] if same else value

    def _name(self) -> str:
        """The layer's path: that of its weights if they have one, else made of the node's name."""
        for name in self.proto.input[1:]:
            path, _, role = name.rpartition(".")
            if path and role in ("weight", "bias", "running_mean"):
                return str(path)
        parts: list[str] = []
        for part in self.proto.name.split("/"):
            own = part.removeprefix(parts[-1] + ".") if parts else part
            if own:
                parts.append(own)
        if len(parts) > 1 and parts[-1].rstrip("0123456789_") == self.proto.op_type:
            parts.pop()
        parts = [re.sub(r"^node_", "", part) for part in parts]
        return ".".join(parts) or self.proto.op_type.lower()


Handler = Callable[[Node], "Value | list[Value]"]
