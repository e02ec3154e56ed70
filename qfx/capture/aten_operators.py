"""What each ATen operator of an exported program becomes: a table from operators to torch layers."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from qfx.capture.assemble import Assembly, Pads, Value
from qfx.errors import UnsupportedError


@dataclass(frozen=True)
class Call:
    """One operation: where its layer goes, its operator, and its arguments by the names of the operator's schema. ``alone``: whether nothing else
    reads its first tensor."""

    make: Assembly
    name: str
    operator: str
    arguments: dict[str, Any]
    alone: Callable[[], bool]

    def refuse(self, what: str, remedy: str) -> UnsupportedError:
        return UnsupportedError(f"{self.operator} with {what}", where=self.name, remedy=remedy)

    def get(self, name: str, default: Any = None) -> Any:
        value = self.arguments.get(name)
        return default if value is None else value

    @property
    def x(self) -> Value:
        """The first tensor."""
        value = next(iter(self.arguments.values()))
        if not isinstance(value, Value):
            raise self.refuse("a constant in place of data", "compute constants ahead of the export")
        return value

    def tensor(self, name: str) -> Tensor | None:
        """A constant."""
        value = self.arguments.get(name)
        if isinstance(value, Value):
            raise self.refuse(f"{name} that depends on data", "let weights be constants")
        return value.float() if isinstance(value, Tensor) else None

    def weight(self, name: str = "weight") -> Tensor:
        found = self.tensor(name)
        if found is None:
            raise self.refuse(f"no {name}", "export the model in evaluation mode, with its statistics")
        return found

    def sizes(self, name: str, default: Sequence[int] | int, rank: int) -> tuple[int, ...]:
        value = self.get(name)
        value = default if value is None or value == [] else value
        sizes = (value,) if isinstance(value, int) else tuple(int(size) for size in value)
        return sizes * rank if len(sizes) == 1 else sizes


Handler = Callable[[Call], "Value | list[Value]"]


def _conv(call: Call) -> Value:
    weight, rank = call.weight(), call.x.rank
    stride, dilation, groups = call.sizes("stride", 1, rank), call.sizes("dilation", 1, rank), int(call.get("groups", 1))
    padding = call.get("padding")
    if isinstance(padding, str):
        sides = [0 if padding == "valid" else d * (k - 1) for k, d in zip(weight.shape[2:], dilation, strict=True)]
        pads: Pads = [(total // 2, total - total // 2) for total in sides]
    else:
        pads = [(side, side) for side in call.sizes("padding", 0, rank)]
    if call.get("transposed", False) or "transpose" in call.operator:
        extra = call.sizes("output_padding", 0, rank)
        return call.make.conv_transpose(call.name, call.x, weight, call.tensor("bias"), stride, pads, extra, dilation, groups)
    return call.make.conv(call.name, call.x, weight, call.tensor("bias"), stride, pads, dilation, groups)


def _linear(call: Call) -> Value:
    return call.make.linear(call.name, call.x, call.weight(), call.tensor("bias"))


def _addmm(call: Call) -> Value:
    if call.get("beta", 1) != 1 or call.get("alpha", 1) != 1 or not isinstance(call.arguments["mat1"], Value):
        raise call.refuse("factors, or data on the right", "use nn.Linear")
    return call.make.linear(call.name, call.arguments["mat1"], call.weight("mat2").mT, call.tensor("self"))


def _matmul(call: Call) -> Value:
    return call.make.linear(call.name, call.x, call.weight("other" if "other" in call.arguments else "mat2").mT, None)


def _batch_norm(call: Call) -> Value | list[Value]:
    if call.get("training", False):
        raise call.refuse("training on", "export the model in evaluation mode: model.eval()")
    mean, var = call.weight("running_mean"), call.weight("running_var")
    result = call.make.batch_norm(call.name, call.x, call.tensor("weight"), call.tensor("bias"), mean, var, float(call.get("eps", 1e-5)))
    return [result] if call.operator.startswith("_native") else result


def _relu(call: Call) -> Value:
    return call.make.layer(call.name, nn.ReLU(), call.x)


def _clamp(call: Call) -> Value:
    low, high = call.get("min_val", call.get("min", -math.inf)), call.get("max_val", call.get("max", math.inf))
    if call.operator.startswith("hardtanh"):
        low, high = call.get("min_val", -1.0), call.get("max_val", 1.0)
    if call.operator.startswith("relu6"):
        low, high = 0.0, 6.0
    if (float(low), float(high)) not in ((0.0, 6.0), (0.0, math.inf)):
        raise call.refuse(f"bounds {low} and {high}", "use ReLU or ReLU6")
    return call.make.layer(call.name, nn.ReLU6() if high == 6.0 else nn.ReLU(), call.x)


def _leaky_relu(call: Call) -> Value:
    return call.make.layer(call.name, nn.LeakyReLU(float(call.get("negative_slope", 0.01))), call.x)


def _pool(call: Call) -> Value | list[Value]:
    rank = call.x.rank
    if rank not in (1, 2):
        raise call.refuse(f"{rank} axes", "pool over 1 or 2 axes")
    kernel: Any = call.sizes("kernel_size", (), rank)
    stride: Any = call.sizes("stride", kernel, rank)
    padding: Any = call.sizes("padding", 0, rank)
    ceil = bool(call.get("ceil_mode", False))
    if call.operator.startswith("avg"):
        counted = bool(call.get("count_include_pad", True))
        if rank == 1:
            return call.make.layer(call.name, nn.AvgPool1d(kernel, stride, padding, ceil, counted), call.x)
        return call.make.layer(call.name, nn.AvgPool2d(kernel, stride, padding, ceil, counted, call.get("divisor_override")), call.x)
    dilation: Any = call.sizes("dilation", 1, rank)
    pool: Any = nn.MaxPool1d if rank == 1 else nn.MaxPool2d
    result = call.make.layer(call.name, pool(kernel, stride, padding, dilation, ceil_mode=ceil), call.x)
    return [result] if call.operator.endswith("with_indices") else result


def _adaptive_pool(call: Call) -> Value | list[Value]:
    size: Any = call.sizes("output_size", (), call.x.rank)
    kinds: dict[tuple[str, int], Any] = {
        ("avg", 1): nn.AdaptiveAvgPool1d,
        ("avg", 2): nn.AdaptiveAvgPool2d,
        ("max", 1): nn.AdaptiveMaxPool1d,
        ("max", 2): nn.AdaptiveMaxPool2d,
    }
    kind = "max" if "max" in call.operator else "avg"
    if (kind, call.x.rank) not in kinds:
        raise call.refuse(f"{call.x.rank} axes", "pool over 1 or 2 axes")
    result = call.make.layer(call.name, kinds[kind, call.x.rank](size), call.x)
    return [result] if kind == "max" else result


def _mean(call: Call) -> Value:
    dims = tuple(int(dim) for dim in call.get("dim", ()))
    if not dims:
        raise call.refuse("no axes", "average over the spatial axes")
    return call.make.call(call.name, torch.mean, call.x, dims, bool(call.get("keepdim", False)))


def _arithmetic(function: Callable[..., Tensor], affine: Callable[[Tensor, bool], tuple[Tensor | None, Tensor | None] | None]) -> Handler:
    """Between two values: ``function``. With a constant: the (scale, shift) that ``affine`` makes of it, told whether the constant comes first."""

    def handle(call: Call) -> Value:
        if call.get("alpha", 1) != 1:
            raise call.refuse(f"alpha={call.get('alpha')}", "leave alpha at 1")
        first, second = list(call.arguments.values())[:2]
        if isinstance(first, Value) and isinstance(second, Value):
            return call.make.call(call.name, function, first, second)
        value, constant = (first, second) if isinstance(first, Value) else (second, first)
        pair = affine(torch.as_tensor(constant, dtype=torch.float32), value is second)
        if pair is None:
            raise call.refuse("a constant as dividend", "rewrite it without dividing by data")
        return call.make.affine(call.name, value, *pair, alone=value is first and call.alone())

    return handle


def _square(call: Call) -> Value:
    if call.get("exponent", 2) != 2:
        raise call.refuse(f"exponent {call.get('exponent')}", "write a small whole power as products, x * x * x")
    return call.make.call(call.name, torch.square, call.x)


def _abs(call: Call) -> Value:
    return call.make.call(call.name, torch.abs, call.x)


def _concat(call: Call) -> Value:
    return call.make.call(call.name, torch.cat, call.arguments["tensors"], int(call.get("dim", 0)))


def _reshape(call: Call) -> Value:
    return call.make.reshape(call.name, call.x, [int(size) for size in call.get("size", call.get("shape"))])


def _flatten(call: Call) -> Value:
    start, end = int(call.get("start_dim", 0)), int(call.get("end_dim", -1))
    return call.make.reshape(call.name, call.x, torch.flatten(call.x.data, start, end).shape)


def _squeeze(call: Call) -> Value:
    dims = call.get("dim")
    dims = tuple(range(1, call.x.data.dim())) if dims is None else (dims,) if isinstance(dims, int) else tuple(dims)
    return call.make.reshape(call.name, call.x, torch.squeeze(call.x.data, dims).shape)


def _unsqueeze(call: Call) -> Value:
    return call.make.reshape(call.name, call.x, torch.unsqueeze(call.x.data, int(call.get("dim"))).shape)


def _permute(call: Call) -> Value:
    return call.make.call(call.name, torch.permute, call.x, tuple(int(dim) for dim in call.get("dims")))


def _transpose(call: Call) -> Value:
    return call.make.call(call.name, torch.transpose, call.x, int(call.get("dim0")), int(call.get("dim1")))


def _slice(call: Call) -> Value:
    start, stop, step = int(call.get("start", 0)), int(call.get("end", 2**63 - 1)), int(call.get("step", 1))
    return call.make.slice(call.name, call.x, int(call.get("dim", 0)), start, stop, step)


def _select(call: Call) -> Value:
    axis, index = int(call.get("dim")) % call.x.data.dim(), int(call.get("index"))
    index %= call.x.data.shape[axis]
    part = call.make.slice(call.name, call.x, axis, index, index + 1, 1)
    return call.make.reshape(call.name, part, part.data.squeeze(axis).shape)


def _split(call: Call) -> list[Value]:
    axis = int(call.get("dim", 0)) % call.x.data.dim()
    if call.operator == "chunk":
        parts = torch.chunk(call.x.data, int(call.get("chunks")), axis)
    else:
        parts = torch.split(call.x.data, call.get("split_size", call.get("split_sizes")), axis)
    ends = torch.tensor([part.shape[axis] for part in parts]).cumsum(0).tolist()
    return [
        call.make.slice(f"{call.name}_{i}", call.x, axis, end - part.shape[axis], end, 1)
        for i, (end, part) in enumerate(zip(ends, parts, strict=True))
    ]


def _getitem(call: Call) -> Value:
    values, index = list(call.arguments.values())[:2]
    found: Value = values[index]
    return found


def _pad(call: Call) -> Value:
    flat = [int(side) for side in call.get("pad")]
    if call.get("mode", "constant") != "constant" or float(call.get("value", 0.0)) != 0.0:
        raise call.refuse("something else than zeros", "pad with zeros")
    if not any(flat):
        return call.x
    if len(flat) <= 2 * call.x.rank:
        pairs = [(flat[i], flat[i + 1]) for i in range(0, len(flat), 2)][::-1]
        return call.make.pad(call.name, call.x, [(0, 0)] * (call.x.rank - len(pairs)) + pairs)
    return call.make.call(call.name, functional.pad, call.x, tuple(flat))


def _upsample(call: Call) -> Value:
    size, scales = call.get("output_size"), call.get("scale_factors", call.get("scales"))
    wanted = [int(s) for s in size] if size is not None else [math.floor(n * s) for n, s in zip(call.x.data.shape[2:], scales, strict=True)]
    mode = "nearest-exact" if "exact" in call.operator else "nearest"
    return call.make.layer(call.name, nn.Upsample(size=tuple(wanted), mode=mode), call.x)


def _same(call: Call) -> Value:
    return call.x


def _dropout(call: Call) -> Value:
    if call.get("train", False):
        raise call.refuse("training on", "export the model in evaluation mode: model.eval()")
    return call.x


def _cast(call: Call) -> Value:
    if call.get("dtype") not in (None, 7):
        raise call.refuse("another type than float32", "export the model in float32")
    return call.x


_ADD = _arithmetic(torch.add, lambda c, _: (None, c))
_SUB = _arithmetic(torch.sub, lambda c, first: (torch.tensor(-1.0), c) if first else (None, -c))
_MUL = _arithmetic(torch.mul, lambda c, _: (c, None))
_DIV = _arithmetic(torch.div, lambda c, first: None if first else (1 / c, None))

OPERATORS: dict[str, Handler] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d", "convolution"), _conv),
    "linear": _linear,
    "addmm": _addmm,
    **dict.fromkeys(("matmul", "mm"), _matmul),
    **dict.fromkeys(("batch_norm", "_native_batch_norm_legit_no_training"), _batch_norm),
    **dict.fromkeys(("relu", "relu_"), _relu),
    **dict.fromkeys(("relu6", "relu6_", "hardtanh", "hardtanh_", "clamp", "clamp_", "clamp_min", "clamp_min_"), _clamp),
    **dict.fromkeys(("leaky_relu", "leaky_relu_"), _leaky_relu),
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool2d_with_indices", "avg_pool1d", "avg_pool2d"), _pool),
    **dict.fromkeys(
        ("adaptive_avg_pool1d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d"), _adaptive_pool
    ),
    "mean": _mean,
    **dict.fromkeys(("add", "add_"), _ADD),
    **dict.fromkeys(("sub", "sub_"), _SUB),
    **dict.fromkeys(("mul", "mul_"), _MUL),
    **dict.fromkeys(("div", "div_"), _DIV),
    **dict.fromkeys(("square", "square_", "pow", "pow_"), _square),
    **dict.fromkeys(("abs", "abs_"), _abs),
    "cat": _concat,
    **dict.fromkeys(("view", "reshape", "_unsafe_view"), _reshape),
    "flatten": _flatten,
    "squeeze": _squeeze,
    "unsqueeze": _unsqueeze,
    "permute": _permute,
    "transpose": _transpose,
    "slice": _slice,
    "select": _select,
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), _split),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    **dict.fromkeys(("upsample_nearest1d", "upsample_nearest2d", "_upsample_nearest_exact1d", "_upsample_nearest_exact2d"), _upsample),
    **dict.fromkeys(("clone", "contiguous", "alias", "detach", "lift_fresh_copy", "identity"), _same),
    **dict.fromkeys(("dropout", "dropout_", "feature_dropout"), _dropout),
    **dict.fromkeys(("to", "_to_copy"), _cast),
}
"""By the operator's name without its overload."""


CONSTANTS: dict[str, Callable[..., Tensor]] = {
    "permute": torch.permute,
    "t": torch.t,
    "transpose": torch.transpose,
    "view": torch.reshape,
    "reshape": torch.reshape,
    "unsqueeze": torch.unsqueeze,
    "squeeze": torch.squeeze,
    "expand": torch.broadcast_to,
    **dict.fromkeys(("clone", "detach", "detach_", "alias", "lift_fresh_copy", "contiguous"), lambda x, *_: x),
}
"""What is carried out on constants, by the operator's name without its overload."""


ON_CONSTANTS = frozenset(
    (
        *(
            "add",
            "sub",
            "rsub",
            "mul",
            "div",
            "neg",
            "abs",
            "reciprocal",
            "sqrt",
            "rsqrt",
            "exp",
            "log",
            "pow",
            "square",
            "sigmoid",
            "tanh",
            "softplus",
        ),
        *("clamp", "clamp_min", "maximum", "minimum", "sum", "mean", "var", "amax", "amin", "norm", "linalg_vector_norm", "dot", "vdot", "mv", "mm"),
        *("matmul", "flatten", "select", "slice", "cat", "stack", "_weight_norm"),
    )
)
"""Operators of torch that are carried out on constants as they are, such as those of weight and spectral normalization: they read and write nothing
but tensors."""


def _size(x: Any, dim: int) -> int:
    return int(x.data.shape[dim])


INTEGERS: dict[str, Callable[..., int]] = {
    "torch.ops.aten.sym_size.int": _size,
    "_operator.add": operator.add,
    "_operator.sub": operator.sub,
    "_operator.mul": operator.mul,
    "_operator.floordiv": operator.floordiv,
}
"""What computes with sizes."""
