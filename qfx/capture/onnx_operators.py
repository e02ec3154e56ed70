"""What each ONNX operator of a float model becomes: a table from operators to torch layers."""

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
from torch.nn import functional

from qfx.capture.assemble import Assembly, Pads, Value
from qfx.errors import UnsupportedError

Array = npt.NDArray[Any]


class Node:
    """One operation, with its attributes and arguments at hand."""

    def __init__(self, make: Assembly, proto: onnx.NodeProto, where: str, arguments: list[Value | Array | None], uses: Mapping[str, int]) -> None:
        self.make, self.proto, self.where, self.arguments, self._uses = make, proto, where, arguments, uses
        self.attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in proto.attribute}
        self.name = self._name()

    def refuse(self, what: str, remedy: str) -> UnsupportedError:
        return UnsupportedError(f"{self.proto.op_type} with {what}", where=self.where, remedy=remedy)

    def x(self, index: int = 0) -> Value:
        """An argument that depends on the input."""
        value = self.arguments[index]
        if not isinstance(value, Value):
            raise self.refuse("a constant in place of data", "compute constants ahead of the export")
        return value

    def constant(self, index: int, attribute: str = "") -> Array | None:
        """An argument that must not depend on data, or (in older opsets) an attribute; None if absent."""
        value = self.arguments[index] if index < len(self.arguments) else None
        if isinstance(value, Value):
            raise self.refuse(f"an argument {self.proto.input[index]!r} that depends on data", "let weights and shapes be constants")
        if value is None and attribute in self.attributes:
            return np.asarray(self.attributes[attribute])
        return value

    def tensor(self, index: int) -> Tensor | None:
        array = self.constant(index)
        return None if array is None else torch.from_numpy(np.array(array, dtype=np.float32))

    def weight(self, index: int = 1) -> Tensor:
        found = self.tensor(index)
        if found is None:
            raise self.refuse("no weights", "export it again")
        return found

    def ints(self, name: str, default: Sequence[int]) -> tuple[int, ...]:
        return tuple(int(value) for value in self.attributes.get(name, default))

    def alone(self, index: int = 0) -> bool:
        """Whether nothing else reads the argument."""
        return self._uses[self.proto.input[index]] == 1

    def pads(self, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Pads:
        """Before and after each spatial axis, from ``pads`` or ``auto_pad``."""
        rank = len(kernel)
        how = str(self.attributes.get("auto_pad", b"NOTSET"), "ascii")
        if how in ("SAME_UPPER", "SAME_LOWER"):
            pairs = []
            for size, k, s, d in zip(self.x().data.shape[2:], kernel, stride, dilation, strict=True):
                total = max((math.ceil(size / s) - 1) * s + d * (k - 1) + 1 - size, 0)
                less, more = total // 2, total - total // 2
                pairs.append((less, more) if how == "SAME_UPPER" else (more, less))
            return pairs
        flat = self.ints("pads", (0,) * (2 * rank))
        return [(flat[axis], flat[axis + rank]) for axis in range(rank)] if how == "NOTSET" else [(0, 0)] * rank

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


def _conv(node: Node) -> Value:
    weight = node.weight()
    ones = (1,) * (weight.dim() - 2)
    stride, dilation = node.ints("strides", ones), node.ints("dilations", ones)
    pads = node.pads(tuple(weight.shape[2:]), stride, dilation)
    return node.make.conv(node.name, node.x(), weight, node.tensor(2), stride, pads, dilation, int(node.attributes.get("group", 1)))


def _conv_transpose(node: Node) -> Value:
    weight = node.weight()
    if "output_shape" in node.attributes or node.attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise node.refuse("output_shape or auto_pad", "export it with explicit pads")
    ones = (1,) * (weight.dim() - 2)
    stride, dilation = node.ints("strides", ones), node.ints("dilations", ones)
    pads, extra = node.pads(tuple(weight.shape[2:]), stride, dilation), node.ints("output_padding", [0] * len(ones))
    return node.make.conv_transpose(node.name, node.x(), weight, node.tensor(2), stride, pads, extra, dilation, int(node.attributes.get("group", 1)))


def _gemm(node: Node) -> Value:
    if node.attributes.get("transA", 0):
        raise node.refuse("transA", "transpose the weights in place of the data")
    weight = node.weight() if node.attributes.get("transB", 0) else node.weight().T
    bias = node.tensor(2)
    if bias is not None:
        bias = (bias * float(node.attributes.get("beta", 1.0))).reshape(-1).expand(weight.shape[0])
    return node.make.linear(node.name, node.x(), weight * float(node.attributes.get("alpha", 1.0)), bias)


def _matmul(node: Node) -> Value:
    return node.make.linear(node.name, node.x(), node.weight().mT, None)


def _batch_norm(node: Node) -> Value:
    if node.attributes.get("training_mode", 0):
        raise node.refuse("training_mode", "export the model in evaluation mode: model.eval()")
    scale, shift, mean, var = (node.weight(index) for index in range(1, 5))
    return node.make.batch_norm(node.name, node.x(), scale, shift, mean, var, float(node.attributes.get("epsilon", 1e-5)))


def _module(module: Callable[[], nn.Module]) -> Handler:
    return lambda node: node.make.layer(node.name, module(), node.x())


def _clip(node: Node) -> Value:
    low, high = node.constant(1, "min"), node.constant(2, "max")
    bounds = (-math.inf if low is None else float(low), math.inf if high is None else float(high))
    if bounds not in ((0.0, 6.0), (0.0, math.inf)) and not (bounds[0] == 0.0 and bounds[1] > 1e30):
        raise node.refuse(f"bounds {bounds}", "use Relu, or Clip from 0 to 6")
    return node.make.layer(node.name, nn.ReLU6() if bounds[1] == 6.0 else nn.ReLU(), node.x())


def _leaky_relu(node: Node) -> Value:
    return node.make.layer(node.name, nn.LeakyReLU(float(node.attributes.get("alpha", 0.01))), node.x())


def _max_pool(node: Node) -> Value:
    kernel = node.ints("kernel_shape", ())
    ones = (1,) * len(kernel)
    stride, dilation = node.ints("strides", ones), node.ints("dilations", ones)
    pads = node.pads(kernel, stride, dilation)
    if len(kernel) not in (1, 2) or len(node.proto.output) > 1 or any(before != after for before, after in pads):
        raise node.refuse("unequal pads, indices or 3 axes", "pad both sides alike, in 1 or 2 axes")
    pool = nn.MaxPool1d if len(kernel) == 1 else nn.MaxPool2d
    padding: Any = tuple(before for before, _ in pads)
    return node.make.layer(node.name, pool(kernel, stride, padding, dilation, ceil_mode=bool(node.attributes.get("ceil_mode", 0))), node.x())


def _average_pool(node: Node) -> Value:
    kernel = node.ints("kernel_shape", ())
    ones = (1,) * len(kernel)
    stride, counted = node.ints("strides", ones), bool(node.attributes.get("count_include_pad", 0))
    pads, x = node.pads(kernel, stride, ones), node.x()
    if len(kernel) not in (1, 2) or node.ints("dilations", ones) != ones:
        raise node.refuse("dilations or 3 axes", "pool over 1 or 2 axes, without dilation")
    if any(before != after for before, after in pads):
        if not counted:
            raise node.refuse("unequal pads that are not counted", "count the padding (count_include_pad=1), or pad nothing")
        x, pads = node.make.pad(f"{node.name}_pad", x, pads), [(0, 0)] * len(kernel)
    pool: Any = nn.AvgPool1d if len(kernel) == 1 else nn.AvgPool2d
    padding: Any = tuple(before for before, _ in pads)
    module = pool(kernel, stride, padding, bool(node.attributes.get("ceil_mode", 0)), counted)
    return node.make.layer(node.name, module, x)


def _global_pool(one: Callable[[int], nn.Module], two: Callable[[int], nn.Module]) -> Handler:
    def handle(node: Node) -> Value:
        if node.x().rank not in (1, 2):
            raise node.refuse(f"{node.x().rank} axes", "pool over 1 or 2 axes")
        return node.make.layer(node.name, (one if node.x().rank == 1 else two)(1), node.x())

    return handle


def _reduce_mean(node: Node) -> Value:
    axes = node.constant(1, "axes")
    if axes is None:
        raise node.refuse("no axes", "average over the spatial axes")
    dims = tuple(sorted(int(axis) % node.x().data.dim() for axis in np.ravel(axes)))
    return node.make.call(node.name, torch.mean, node.x(), dims, bool(node.attributes.get("keepdims", 1)))


def _arithmetic(function: Callable[..., Tensor], affine: Callable[[Tensor, bool], tuple[Tensor | None, Tensor | None] | None]) -> Handler:
    """Between two values: ``function``. With a constant: the (scale, shift) that ``affine`` makes of it, told whether the constant comes first."""

    def handle(node: Node) -> Value:
        if len(node.arguments) != 2:
            raise node.refuse(f"{len(node.arguments)} arguments", "use two")
        first, second = node.arguments
        if isinstance(first, Value) and isinstance(second, Value):
            return node.make.call(node.name, function, first, second)
        at = 0 if isinstance(first, Value) else 1
        constant = node.tensor(1 - at)
        assert constant is not None
        pair = affine(constant, at == 1)
        if pair is None:
            raise node.refuse("a constant as dividend", "rewrite it without dividing by data")
        return node.make.affine(node.name, node.x(at), *pair, alone=node.alone(at))

    return handle


def _pow(node: Node) -> Value:
    exponent = node.tensor(1)
    if exponent is None or not exponent.numel() or bool((exponent != 2).any()):
        raise node.refuse("an exponent other than 2", "write a small whole power as products, x * x * x")
    return node.make.call(node.name, torch.square, node.x())


def _abs(node: Node) -> Value:
    return node.make.call(node.name, torch.abs, node.x())


def _concat(node: Node) -> Value:
    return node.make.call(node.name, torch.cat, [node.x(index) for index in range(len(node.arguments))], int(node.attributes.get("axis", 1)))


def _reshape(node: Node) -> Value:
    shape = node.constant(1, "shape")
    assert shape is not None
    x = node.x()
    wanted = [int(size) for size in np.ravel(shape)]
    if not node.attributes.get("allowzero", 0):
        wanted = [x.data.shape[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    return node.make.reshape(node.name, x, wanted)


def _flatten(node: Node) -> Value:
    x = node.x()
    axis = int(node.attributes.get("axis", 1)) % (x.data.dim() + 1)
    return node.make.reshape(node.name, x, (math.prod(x.data.shape[:axis]), -1))


def _squeeze(node: Node) -> Value:
    axes, shape = node.constant(1, "axes"), list(node.x().data.shape)
    gone = {int(a) % len(shape) for a in np.ravel(axes)} if axes is not None else {axis for axis, size in enumerate(shape) if size == 1 and axis}
    return node.make.reshape(node.name, node.x(), [size for axis, size in enumerate(shape) if axis not in gone])


def _unsqueeze(node: Node) -> Value:
    axes, shape = node.constant(1, "axes"), list(node.x().data.shape)
    assert axes is not None
    for axis in sorted(int(a) % (len(shape) + axes.size) for a in np.ravel(axes)):
        shape.insert(axis, 1)
    return node.make.reshape(node.name, node.x(), shape)


def _transpose(node: Node) -> Value:
    rank = node.x().data.dim()
    return node.make.call(node.name, torch.permute, node.x(), node.ints("perm", tuple(reversed(range(rank)))))


def _pad(node: Node) -> Value:
    x = node.x()
    pads, value, axes = node.constant(1, "pads"), node.constant(2, "value"), node.constant(3)
    rank = x.data.dim()
    if pads is None or node.attributes.get("mode", b"constant") != b"constant" or (value is not None and float(np.ravel(value)[0]) != 0.0):
        raise node.refuse("something else than constant zeros", "pad with zeros")
    wanted = [int(axis) % rank for axis in np.ravel(axes)] if axes is not None else list(range(rank))
    flat, pairs = [int(side) for side in np.ravel(pads)], [(0, 0)] * rank
    for place, axis in enumerate(wanted):
        pairs[axis] = flat[place], flat[place + len(wanted)]
    if pairs[0] != (0, 0):
        raise node.refuse("pads on the batch", "pad the other axes")
    if pairs[1] == (0, 0):
        return node.make.pad(node.name, x, pairs[2:])
    return node.make.call(node.name, functional.pad, x, tuple(side for pair in reversed(pairs[1:]) for side in pair))


def _slice(node: Node) -> Value:
    starts, stops = node.constant(1, "starts"), node.constant(2, "ends")
    axes, steps, x = node.constant(3, "axes"), node.constant(4), node.x()
    assert starts is not None
    assert stops is not None
    chosen = range(len(starts)) if axes is None else np.ravel(axes)
    by = [1] * len(starts) if steps is None else np.ravel(steps)
    for number, (axis, start, stop, step) in enumerate(zip(chosen, np.ravel(starts), np.ravel(stops), by, strict=True)):
        if step < 1:
            raise node.refuse(f"step {step}", "use steps of at least 1")
        x = node.make.slice(f"{node.name}_{number}" if number else node.name, x, int(axis), int(start), int(stop), int(step))
    return x


def _split(node: Node) -> list[Value]:
    x, axis, count = node.x(), int(node.attributes.get("axis", 0)), len(node.proto.output)
    sizes, total = node.constant(1, "split"), node.x().data.shape[int(node.attributes.get("axis", 0))]
    lengths = [math.ceil(total / count)] * count if sizes is None else [int(size) for size in np.ravel(sizes)]
    ends = np.cumsum(lengths)
    return [
        node.make.slice(f"{node.name}_{i}", x, axis, int(end - size), int(end), 1) for i, (end, size) in enumerate(zip(ends, lengths, strict=True))
    ]


def _resize(node: Node) -> Value:
    x = node.x()
    if node.attributes.get("mode", b"nearest") != b"nearest":
        raise node.refuse(
            f"mode {node.attributes['mode'].decode()!r}", "use nearest, or a ConvTranspose, which learns what to put between the pixels"
        )
    at = 1 if node.proto.op_type == "Upsample" else 2
    scales, sizes = node.constant(at, "scales"), node.constant(3) if at == 2 else None
    wanted = [int(size) for size in np.ravel(sizes)] if sizes is not None else []
    if scales is not None and scales.size:
        wanted = [math.floor(size * scale) for size, scale in zip(x.data.shape, np.ravel(scales), strict=True)]
    factors = {(new // old, new % old) for new, old in zip(wanted[2:], x.data.shape[2:], strict=True)}
    if len(factors) != 1 or next(iter(factors))[1] or next(iter(factors))[0] < 1:
        raise node.refuse(f"a size from {tuple(x.data.shape[2:])} to {tuple(wanted[2:])}", "scale all axes by one whole number")
    return node.make.layer(node.name, nn.Upsample(scale_factor=float(next(iter(factors))[0]), mode="nearest"), x)


def _same(node: Node) -> Value:
    return node.x()


def _cast(node: Node) -> Value:
    if node.attributes.get("to") != onnx.TensorProto.FLOAT:
        raise node.refuse("another type than float32", "export the model in float32")
    return node.x()


HANDLERS: dict[str, Handler] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _batch_norm,
    "Relu": _module(nn.ReLU),
    "Clip": _clip,
    "LeakyRelu": _leaky_relu,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_pool(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d),
    "GlobalMaxPool": _global_pool(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d),
    "ReduceMean": _reduce_mean,
    "Add": _arithmetic(torch.add, lambda c, _: (None, c)),
    "Sum": _arithmetic(torch.add, lambda c, _: (None, c)),
    "Sub": _arithmetic(torch.sub, lambda c, first: (torch.tensor(-1.0), c) if first else (None, -c)),
    "Mul": _arithmetic(torch.mul, lambda c, _: (c, None)),
    "Div": _arithmetic(torch.div, lambda c, first: None if first else (1 / c, None)),
    "Pow": _pow,
    "Abs": _abs,
    "Concat": _concat,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Pad": _pad,
    "Slice": _slice,
    "Split": _split,
    "Resize": _resize,
    "Upsample": _resize,
    "Dropout": _same,
    "Identity": _same,
    "Cast": _cast,
}
"""What each operator becomes."""

OPERATORS = tuple(HANDLERS)
"""The ONNX operators that may stand in a float model."""
