"""What an ONNX operator computes, by torch's own operators on float64: those that files of qfx are made of (``qfx.export.opset``).

Numbers are float64, sizes and places int64. Of each tensor of a file float32 or float64 holds every number and all partial sums behind it, so float64
holds them. Each function takes the tensors of the ONNX operator (None for one that is left out) and its attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qfx.errors import UnsupportedError

_FLOAT, _DOUBLE, _BOOL = 1, 11, 9

Numbers = list[Any]
"""An argument that the file fixes, or sizes, of which the batch may be a symbol."""


def cast(x: Tensor | list[Any], *, to: int) -> Tensor:
    """Between floats nothing happens: all of them are float64."""
    value = torch.tensor(x) if isinstance(x, list) else x
    return value.double() if to in (_FLOAT, _DOUBLE) else value.bool() if to == _BOOL else value.long()


def cast_like(x: Tensor, like: Tensor) -> Tensor:
    return x.to(like.dtype)


def clip(x: Tensor, least: Tensor | None = None, greatest: Tensor | None = None) -> Tensor:
    raised = x if least is None else torch.maximum(x, least)
    return raised if greatest is None else torch.minimum(raised, greatest)


def concat(*parts: Any, axis: int) -> Any:
    if any(isinstance(part, list) for part in parts):  # sizes
        return [size for part in parts for size in (part if isinstance(part, list) else part.tolist())]
    return torch.cat(parts, axis)


def constant(*, value: Any = None, value_ints: Any = None, value_int: Any = None, value_floats: Any = None, value_float: Any = None) -> Tensor:
    for floats in (value_floats, value_float):
        if floats is not None:
            return torch.tensor(floats, dtype=torch.float64)
    return value if isinstance(value, Tensor) else torch.tensor(value_int if value_ints is None else value_ints, dtype=torch.int64)


def constant_of_shape(sizes: Numbers, *, value: Tensor | None = None) -> Tensor:
    filled = torch.zeros((), dtype=torch.float64) if value is None else value.reshape(())
    return filled.expand(sizes)


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    kernel_shape: Sequence[int] = (),
    strides: Sequence[int] = (),
    pads: Sequence[int] = (),
    dilations: Sequence[int] = (),
    group: int = 1,
) -> Tensor:
    rank = weight.dim() - 2
    convolve: Callable[..., Tensor] = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    return convolve(_around(x, pads, 0.0), weight, bias, list(strides) or 1, 0, list(dilations) or 1, group)


def _around(x: Tensor, pads: Sequence[int], value: float) -> Tensor:
    """With so many numbers before each spatial axis, then so many after each, as ONNX lists them."""
    rank = len(pads) // 2
    return F.pad(x, [size for axis in reversed(range(rank)) for size in (pads[axis], pads[rank + axis])], value=value) if any(pads) else x


def _only(found: bytes, name: str) -> None:
    if found != name.encode():
        raise UnsupportedError(
            f"the mode {found.decode()!r} has no form in torch's operators", where="qfx.to_module", remedy="please report this defect"
        )


def div(x: Tensor, y: Tensor) -> Tensor:
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


def expand(x: Tensor, sizes: Numbers) -> Tensor:
    own = [1] * (len(sizes) - x.dim()) + list(x.shape)
    wanted = [1] * (len(own) - len(sizes)) + sizes
    return x.expand([have if isinstance(want, int) and want == 1 else want for have, want in zip(own, wanted, strict=True)])


def gather(x: Any, places: Tensor, *, axis: int = 0) -> Any:
    if isinstance(x, list):
        return [x[place] for place in places.reshape(-1).tolist()]
    along = axis % x.dim()
    chosen = torch.where(places < 0, places + x.shape[along], places)
    taken = torch.index_select(x, along, chosen.reshape(-1))
    return taken.reshape([*x.shape[:along], *places.shape, *x.shape[along + 1 :]])


def gemm(a: Tensor, b: Tensor, c: Tensor | None = None, *, transA: int = 0, transB: int = 0) -> Tensor:  # noqa: N803 - as ONNX calls them
    product = (a.T if transA else a) @ (b.T if transB else b)
    return product if c is None else product + c


def leaky_relu(x: Tensor, *, alpha: float) -> Tensor:
    return torch.where(x < 0, x * alpha, x)


def max_pool(
    x: Tensor, *, kernel_shape: Sequence[int], strides: Sequence[int] = (), pads: Sequence[int] = (), dilations: Sequence[int] = ()
) -> Tensor:
    pool: Callable[..., Tensor] = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(kernel_shape) - 1]
    return pool(_around(x, pads, float("-inf")), list(kernel_shape), list(strides) or 1, 0, list(dilations) or 1)


def mod(x: Tensor, y: Tensor, *, fmod: int = 0) -> Tensor:
    return torch.fmod(x, y) if fmod else torch.remainder(x, y)


def pad(x: Tensor, around: Numbers, value: Numbers | None = None, axes: Numbers | None = None, *, mode: bytes = b"constant") -> Tensor:
    _only(mode, "constant")
    listed = list(range(x.dim())) if axes is None else [axis % x.dim() for axis in axes]
    sides = [0] * (2 * x.dim())
    for place, axis in enumerate(listed):
        last = 2 * (x.dim() - 1 - axis)
        sides[last], sides[last + 1] = around[place], around[place + len(listed)]
    return F.pad(x, sides, value=value[0] if value else 0.0)


def reduce_by(reduce: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def reduced(x: Tensor, axes: Numbers | None = None, *, keepdims: int = 1) -> Tensor:
        return reduce(x, axes or list(range(x.dim())), keepdim=bool(keepdims))

    return reduced


def reshape(x: Tensor, sizes: Numbers) -> Tensor:
    return x.reshape([x.shape[axis] if isinstance(size, int) and size == 0 else size for axis, size in enumerate(sizes)])


def resize(x: Tensor, _: Any, scales: Numbers, *, mode: bytes, coordinate_transformation_mode: bytes, nearest_mode: bytes) -> Tensor:
    """Nearest neighbours, by whole numbers: the only one that files of qfx have."""
    for found, name in ((mode, "nearest"), (coordinate_transformation_mode, "asymmetric"), (nearest_mode, "floor")):
        _only(found, name)
    for axis, factor in enumerate(map(round, scales)):
        x = x.repeat_interleave(factor, axis) if factor > 1 else x
    return x


def shape(x: Tensor, *, start: int = 0, end: int | None = None) -> list[Any]:
    return list(x.shape)[start:end]


def slice_(x: Any, starts: Numbers, ends: Numbers, axes: Numbers | None = None, steps: Numbers | None = None) -> Any:
    if isinstance(x, list):
        return x[starts[0] : ends[0]]
    for place, axis in enumerate(range(len(starts)) if axes is None else axes):
        step, length = 1 if steps is None else steps[place], x.shape[axis]
        chosen = range(length)[slice(starts[place], None if ends[place] < -length else ends[place], step)]
        x = (
            x.narrow(axis, chosen.start, len(chosen))
            if step == 1
            else x.index_select(axis, torch.tensor(list(chosen), dtype=torch.int64, device=x.device))
        )
    return x


def tile(x: Tensor, counts: Numbers) -> Tensor:
    return x.repeat(counts)


def top_k(x: Tensor, count: Numbers, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[Tensor, Tensor]:
    """Of equals those that come first."""
    order = torch.argsort(x, dim=axis, descending=bool(largest), stable=True).narrow(axis, 0, count[0])
    return torch.gather(x, axis, order), order


def unsqueeze(x: Tensor, axes: Numbers) -> Tensor:
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


class Scan(nn.Module):
    """ONNX's Scan of one sequence along its first axis, and the states' last values."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        *states, steps = given
        turns = []
        for step in range(steps.shape[0]):
            *states, turn = self.body(*states, steps[step])
            turns.append(turn)
        return (*states, torch.stack(turns))


def _folded(two: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def all_of(first: Tensor, *others: Tensor) -> Tensor:
        for other in others:
            first = two(first, other)
        return first

    return all_of


def transpose(x: Tensor, *, perm: Sequence[int]) -> Tensor:
    return x.permute(list(perm))


def same(x: Any) -> Any:
    return x


OPERATIONS: Mapping[str, Callable[..., Any]] = MappingProxyType({
    "Abs": torch.abs, "Add": torch.add, "And": torch.logical_and, "Cast": cast, "CastLike": cast_like, "Ceil": torch.ceil, "Clip": clip,
    "Concat": concat, "Constant": constant, "ConstantOfShape": constant_of_shape, "Conv": conv, "Div": div, "Equal": torch.eq, "Expand": expand,
    "Floor": torch.floor, "Gather": gather, "Gemm": gemm, "Greater": torch.gt, "GreaterOrEqual": torch.ge, "Identity": same,
    "LeakyRelu": leaky_relu, "Less": torch.lt, "LessOrEqual": torch.le, "MatMul": torch.matmul, "Max": _folded(torch.maximum), "MaxPool": max_pool,
    "Min": _folded(torch.minimum), "Mod": mod, "Mul": torch.mul, "Neg": torch.neg, "Not": torch.logical_not, "Or": torch.logical_or, "Pad": pad,
    "ReduceMax": reduce_by(torch.amax), "ReduceMin": reduce_by(torch.amin), "ReduceSum": reduce_by(torch.sum), "Relu": torch.relu,
    "Reshape": reshape, "Resize": resize, "Round": torch.round, "Shape": shape, "Sign": torch.sign, "Slice": slice_, "Sub": torch.sub, "Tile": tile,
    "TopK": top_k, "Transpose": transpose, "Unsqueeze": unsqueeze, "Where": torch.where, "Xor": torch.logical_xor,
})  # fmt: skip
"""By the name of the ONNX operator. ``Scan`` is a module."""

NUMBERS: Mapping[str, tuple[int, ...]] = MappingProxyType({
    "ConstantOfShape": (0,), "Expand": (1,), "Pad": (1, 2, 3), "ReduceMax": (1,), "ReduceMin": (1,), "ReduceSum": (1,), "Reshape": (1,),
    "Resize": (2,), "Slice": (1, 2, 3, 4), "Tile": (1,), "TopK": (1,), "Unsqueeze": (1,),
})  # fmt: skip
"""Which of its arguments are lists of numbers instead of tensors."""
