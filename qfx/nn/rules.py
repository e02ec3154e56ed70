"""What each float operation becomes: the table from torch modules, functions and methods to fixed-point layers. Whatever is not here is
refused."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from qfx.capture.refusals import limits, remedies
from qfx.capture.trace import Traced, base_layer
from qfx.errors import UnsupportedError
from qfx.nn.functional import (
    QAdd,
    QAvgPool,
    QConcat,
    QDropout,
    QLeakyReLU,
    QMaxPool,
    QMul,
    QPad,
    QPermute,
    QReLU,
    QReLU6,
    QReshape,
    QSlice,
    QSub,
    QUpsample,
)
from qfx.nn.layers import QConv, QConvTranspose, QLinear, conv_pads
from qfx.nn.norm import QBatchNorm
from qfx.recipe import Recipe


@dataclass(frozen=True)
class Call:
    """One operation of the float graph, ready for its rule: where it stands, its arguments by name, and what it reads and gives. ``first``: the path
    of the same operation in the first call of its module, where this is a later one."""

    node: fx.Node
    path: str
    traced: Traced
    recipe: Recipe
    module: nn.Module | None
    name: str
    arguments: dict[str, Any]
    first: str = ""

    @property
    def in_shape(self) -> tuple[int, ...]:
        return self.traced.shapes[self.inputs[0]]

    @property
    def out_shape(self) -> tuple[int, ...]:
        return self.traced.shapes[self.node]

    @property
    def inputs(self) -> tuple[fx.Node, ...]:
        """The nodes read, in order."""
        return _nodes(tuple(self.arguments.values()))

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute of the module, or an argument of the function."""
        value = getattr(self.module, name, default) if self.module is not None else self.arguments.get(name, default)
        return default if value is None else value

    def sizes(self, name: str, default: Any, rank: int) -> tuple[int, ...]:
        """An argument that is one number, or one for each spatial axis."""
        value = self.get(name, default)
        sizes = (int(value),) * rank if isinstance(value, int) else tuple(int(v) for v in value)
        return sizes * rank if len(sizes) == 1 else sizes

    def spatial_rank(self) -> int:
        """The spatial axes that the operation works on, from its name. Refuses a value of others: PyTorch would take its batch for channels."""
        rank = int(self.name[-2])
        if len(self.in_shape) != rank + 1:
            axes = "length" if rank == 1 else "height, width"
            raise self.refuse(f"{self.name} on a value of shape {self.in_shape}", f"give it (batch, channels, {axes})")
        return rank

    def refuse(self, what: str, remedy: str) -> UnsupportedError:
        return UnsupportedError(what, where=self.path or self.node.name, remedy=remedy)


def _nodes(argument: Any) -> tuple[fx.Node, ...]:
    if isinstance(argument, fx.Node):
        return (argument,)
    return tuple(node for part in argument for node in _nodes(part)) if isinstance(argument, tuple | list) else ()


Layers = list[nn.Module]
Rule = Callable[[Call], Layers]


def _no_layer(call: Call) -> Layers:
    return []


def _linear(call: Call) -> Layers:
    assert isinstance(call.module, nn.Linear)
    if len(call.in_shape) != 1:
        raise call.refuse(f"Linear on a value of shape {call.in_shape}", limits.linear_elsewhere(call.in_shape, call.module))
    return [QLinear(call.module, call.recipe, call.path)]


def _conv(call: Call) -> Layers:
    assert isinstance(call.module, nn.Conv1d | nn.Conv2d)
    if call.module.padding_mode != "zeros" and any(side for pair in conv_pads(call.module) for side in pair):
        raise call.refuse(f"padding_mode={call.module.padding_mode!r}", "train with zero padding (padding_mode='zeros')")
    return [QConv(call.module, call.recipe, call.path)]


def _conv_transpose(call: Call) -> Layers:
    source = call.module
    assert isinstance(source, nn.ConvTranspose1d | nn.ConvTranspose2d)
    size, padding = call.in_shape[1:], call.sizes("padding", 0, call.spatial_rank())
    axes = zip(size, source.kernel_size, source.stride, padding, source.dilation, strict=True)
    least = tuple((n - 1) * s + d * (k - 1) + 1 - 2 * p for n, k, s, p, d in axes)
    extra = tuple(out - n for out, n in zip(call.out_shape[1:], least, strict=True))  # output_padding, or what output_size asked for
    return [QConvTranspose(source, size, extra, call.recipe, call.path)]


def _batch_norm(call: Call) -> Layers:
    assert isinstance(call.module, nn.BatchNorm1d | nn.BatchNorm2d)
    if call.module.running_mean is None:
        raise call.refuse("BatchNorm without running statistics", "use track_running_stats=True")
    return [QBatchNorm(call.module, call.recipe, call.path)]


def _relu(call: Call) -> Layers:
    return [QReLU()]


def _relu6(call: Call) -> Layers:
    return [QReLU6()]


def _leaky_relu(call: Call) -> Layers:
    slope = float(call.get("negative_slope", 0.01))
    log2 = math.log2(slope) if slope > 0 else math.inf
    if not log2.is_integer() or log2 > 0:
        near = f"such as {2.0 ** min(round(log2), 0)} (train with it), so that it is a shift" if 0 < slope < math.inf else "or ReLU"
        raise call.refuse(f"LeakyReLU with negative_slope={slope}", f"use a power of two of at most 1, {near}")
    return [QLeakyReLU(int(log2))]


def _hardtanh(call: Call) -> Layers:
    if (call.get("min_val", -1.0), call.get("max_val", 1.0)) != (0.0, 6.0):
        raise call.refuse(
            "Hardtanh with other bounds than 0 and 6", remedies.clamped(call.get("min_val", -1.0), call.get("max_val", 1.0), call.in_shape)
        )
    return [QReLU6()]


def _pool_window(call: Call) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    rank = call.spatial_rank()
    kernel = call.sizes("kernel_size", None, rank)
    stride, padding = call.sizes("stride", kernel, rank) or kernel, call.sizes("padding", 0, rank)
    dilation = call.sizes("dilation", 1, rank)
    floor = tuple(
        (size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, p, d in zip(call.in_shape[1:], kernel, stride, padding, dilation, strict=True)
    )
    if floor != call.out_shape[1:]:
        axes = zip(call.in_shape[1:], call.out_shape[1:], kernel, stride, padding, dilation, strict=True)
        remedy = limits.whole_windows(list(axes), "max" in call.name.lower())
        raise call.refuse("ceil_mode with a partial last window", remedy)
    return kernel, stride, padding, dilation


def _max_pool(call: Call) -> Layers:
    if call.get("return_indices", False):
        raise call.refuse("max pooling that returns indices", "leave return_indices off")
    return [QMaxPool(*_pool_window(call))]


def _avg_pool(call: Call) -> Layers:
    kernel, stride, padding, _ = _pool_window(call)
    if any(padding) and not call.get("count_include_pad", True):
        remedy = "train with the padding counted (count_include_pad=True), or without padding"
        raise call.refuse("average pooling with padding and count_include_pad=False", remedy)
    divisor = int(call.get("divisor_override", math.prod(kernel)))
    if divisor < 1:
        raise call.refuse(f"divisor_override={divisor}", "divide by a number of at least 1")
    return [QAvgPool(kernel, stride, padding, divisor, call.recipe, call.path, call.first)]


def _adaptive_window(call: Call) -> tuple[int, ...]:
    call.spatial_rank()
    kernel = tuple(size // out for size, out in zip(call.in_shape[1:], call.out_shape[1:], strict=True))
    if any(size != k * out for size, k, out in zip(call.in_shape[1:], kernel, call.out_shape[1:], strict=True)):
        raise call.refuse(f"adaptive pooling from {call.in_shape[1:]} to {call.out_shape[1:]}", limits.divisors(call.in_shape[1:]))
    return kernel


def _adaptive_avg_pool(call: Call) -> Layers:
    kernel = _adaptive_window(call)
    return [QAvgPool(kernel, kernel, (0,) * len(kernel), math.prod(kernel), call.recipe, call.path, call.first)]


def _adaptive_max_pool(call: Call) -> Layers:
    if call.get("return_indices", False):
        raise call.refuse("max pooling that returns indices", "leave return_indices off")
    kernel = _adaptive_window(call)
    return [QMaxPool(kernel, kernel, (0,) * len(kernel), (1,) * len(kernel))]


def _mean(call: Call) -> Layers:
    rank = len(call.in_shape) + 1
    dims = call.get("dim", tuple(range(rank)))
    axes = {axis % rank for axis in ((dims,) if isinstance(dims, int) else dims)}
    if rank < 3 or axes != set(range(2, rank)):
        remedy = remedies.remedy(remedies.Seen("mean", call.in_shape, call.out_shape, (None, tuple(axes)), {"keepdim": call.get("keepdim", False)}))
        raise call.refuse(f"mean over axes {sorted(axes)} of {rank}", remedy)
    kernel = call.in_shape[1:]
    pool = QAvgPool(kernel, kernel, (0,) * len(kernel), math.prod(kernel), call.recipe, call.path, call.first)
    return [pool] if call.out_shape == (call.in_shape[0], *(1,) * len(kernel)) else [pool, QReshape(call.out_shape)]


def _reshape(call: Call) -> Layers:
    if any(isinstance(argument, torch.dtype) for argument in (*call.node.args, *call.node.kwargs.values())):
        raise call.refuse("a view of the bits as another dtype", "leave the dtype alone")
    return [] if call.in_shape == call.out_shape else [QReshape(call.out_shape)]


def _permute(call: Call) -> Layers:
    dims = call.get("dims")
    return _permutation(call, tuple(dims[0]) if len(dims) == 1 and not isinstance(dims[0], int) else tuple(dims))


def _transpose(call: Call) -> Layers:
    rank = len(call.in_shape) + 1
    perm = list(range(rank))
    a, b = call.get("dim0") % rank, call.get("dim1") % rank
    perm[a], perm[b] = perm[b], perm[a]
    return _permutation(call, tuple(perm))


def _permutation(call: Call, perm: tuple[int, ...]) -> Layers:
    perm = tuple(axis % len(perm) for axis in perm)
    if perm[0] != 0:
        raise call.refuse("moves the batch axis", "keep the batch first")
    return [QPermute(tuple(axis - 1 for axis in perm[1:]))]


def _concat(call: Call) -> Layers:
    dim = call.get("dim", call.arguments.get("axis", 0))
    if dim % (len(call.in_shape) + 1) != 1:
        raise call.refuse(f"concatenation along axis {dim}", limits.joined_elsewhere(len(call.inputs), dim % (len(call.in_shape) + 1)))
    return [QConcat()] if len(call.inputs) > 1 else []


def _pad(call: Call) -> Layers:
    if call.get("mode", "constant") != "constant" or float(call.get("value", 0.0)) != 0.0:
        raise call.refuse("padding with something else than zeros", "train with zero padding (nn.ZeroPad2d, F.pad)")
    flat: Any = call.get("pad" if call.module is None else "padding")
    if isinstance(flat, int):
        flat = (flat,) * (2 * (len(call.in_shape) - 1))
    pairs = [(int(flat[i]), int(flat[i + 1])) for i in range(0, len(flat), 2)][::-1]
    if len(pairs) > len(call.in_shape) or any(side < 0 for pair in pairs for side in pair):
        remedy = "pad the axes behind the batch, with numbers of at least 0"
        if len(pairs) <= len(call.in_shape):
            remedy = remedies.cut_or_padded([*[(0, 0)] * (len(call.in_shape) - len(pairs)), *pairs], call.in_shape)
        raise call.refuse(f"padding {tuple(flat)}", remedy)
    return [QPad((((0, 0),) * (len(call.in_shape) - len(pairs))) + tuple(pairs))]


def _upsample(call: Call) -> Layers:
    mode = call.get("mode", "nearest")
    if mode not in ("nearest", "nearest-exact"):
        raise call.refuse(f"upsampling by mode={mode!r}", "use mode='nearest', or a ConvTranspose, which learns what to put between the pixels")
    size, result = call.in_shape[1:], call.out_shape[1:]
    factors = tuple(out // n for n, out in zip(size, result, strict=True))
    # PyTorch finds the source of a pixel in float arithmetic; what it finds here must be the pixel divided by the factor.
    sources = torch.arange(math.prod(size), dtype=torch.float32).reshape(1, 1, *size)
    found = F.interpolate(sources, call.get("size"), call.get("scale_factor"), mode, recompute_scale_factor=call.get("recompute_scale_factor"))
    if min(factors) >= 1:
        for axis, factor in enumerate(factors, start=2):
            sources = sources.repeat_interleave(factor, axis)
    if not torch.equal(sources, found):
        raise call.refuse(f"upsampling from {size} to {result} pixels", "scale every axis by a whole number (a large one with mode='nearest-exact')")
    return [] if set(factors) == {1} else [QUpsample(factors)]


def _getitem(call: Call) -> Layers:
    index = call.get("index")
    index = index if isinstance(index, tuple) else (index,)
    if Ellipsis in index:
        at = index.index(Ellipsis)
        index = (*index[:at], *([slice(None)] * (len(call.in_shape) + 2 - len(index))), *index[at + 1 :])
    if not all(isinstance(part, slice | int) for part in index) or index[0] != slice(None):
        raise call.refuse(f"indexing with {index}", limits.indexed(call.in_shape, index))
    ranges = []
    for axis, size in enumerate(call.in_shape):
        part = index[axis + 1] if axis + 1 < len(index) else slice(None)
        if isinstance(part, int):
            part = slice(part % size, part % size + 1)
        start, stop, step = part.indices(size)
        ranges.append((start, stop, step))
    starts, stops, steps = zip(*ranges, strict=True)
    layer = QSlice(starts, stops, steps)
    sliced = tuple(len(range(*r)) for r in ranges)
    return [layer] if sliced == call.out_shape else [layer, QReshape(call.out_shape)]


def _arithmetic(layer: type[nn.Module]) -> Rule:
    kind = "add" if layer is QAdd else "sub" if layer is QSub else "mul"

    def rule(call: Call) -> Layers:
        a, b = call.arguments.get("input"), call.arguments.get("other")
        values = [side for side in (a, b) if isinstance(side, fx.Node) and side in call.traced.shapes]
        if len(values) < 2:
            return _with_constant(call, kind, values[0], b if values[0] is a else a)
        if call.get("alpha", 1) != 1:
            raise call.refuse(f"alpha={call.get('alpha')}", "leave alpha at 1")
        left, right = (call.traced.shapes[side] for side in values)
        if left != right:
            raise call.refuse(f"operands of shapes {left} and {right}", limits.one_shape(left, right, call.out_shape))
        return [layer()]

    return rule


def _with_constant(call: Call, kind: str, value: fx.Node, constant: Any) -> Layers:
    if kind == "add" and isinstance(constant, int | float) and constant == 0:  # sum([a, b]) starts so
        return []
    fixed = call.traced.fixed.get(constant) if isinstance(constant, fx.Node) else constant
    shape = call.traced.shapes[value]
    if call.get("alpha", 1) != 1 or not isinstance(fixed, int | float | torch.Tensor):
        raise call.refuse("arithmetic with a constant", "fold it into a neighbouring layer's weights (BatchNorm scales and shifts)")
    if kind == "sub" and value is call.arguments.get("other"):
        kind = "rsub"
    what = f"arithmetic with a constant: {call.name} with {fixed}"
    if isinstance(constant, fx.Node):
        what = f"reads {name_of(constant)!r}, which is not computed from the input"
    raise call.refuse(what, remedies.with_constant(kind, fixed, shape, origin(value, call.traced)))


def name_of(node: fx.Node) -> str:
    """What a node is called in messages: a parameter or buffer by its own name."""
    return str(node.target) if node.op == "get_attr" else node.name


def origin(value: fx.Node, traced: Traced) -> str:
    """Where a constant could go: "input", the path of the layer with weights that gives the value to nothing else, or ""."""
    if value.op == "call_module" and base_layer(traced.module.get_submodule(str(value.target))) is nn.Identity:
        return origin(value.all_input_nodes[0], traced)
    if value.op == "call_module" and len(value.users) == 1:
        module = traced.module.get_submodule(str(value.target))
        return str(value.target) if MODULES.get(base_layer(module)) in (_linear, _conv, _conv_transpose, _batch_norm) else ""
    return "input" if value.op == "placeholder" else ""


ADD, SUB, MUL = _arithmetic(QAdd), _arithmetic(QSub), _arithmetic(QMul)


def _dropout(call: Call) -> Layers:
    return [QDropout(_drop_probability(call), False)]


def _dropout_channels(call: Call) -> Layers:
    return [QDropout(_drop_probability(call), True)]


def _drop_probability(call: Call) -> float:
    if call.module is None and call.get("training", True):  # the model is traced in evaluation mode
        raise call.refuse("dropout at inference", "pass training=self.training, or use nn.Dropout")
    return float(call.get("p", 0.5))


MODULES: dict[type[nn.Module], Rule] = {
    nn.Linear: _linear,
    nn.Conv1d: _conv,
    nn.Conv2d: _conv,
    nn.ConvTranspose1d: _conv_transpose,
    nn.ConvTranspose2d: _conv_transpose,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.ReLU: _relu,
    nn.ReLU6: _relu6,
    nn.Hardtanh: _hardtanh,
    nn.LeakyReLU: _leaky_relu,
    nn.MaxPool1d: _max_pool,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool1d: _avg_pool,
    nn.AvgPool2d: _avg_pool,
    nn.AdaptiveAvgPool1d: _adaptive_avg_pool,
    nn.AdaptiveAvgPool2d: _adaptive_avg_pool,
    nn.AdaptiveMaxPool1d: _adaptive_max_pool,
    nn.AdaptiveMaxPool2d: _adaptive_max_pool,
    nn.Flatten: _reshape,
    nn.Unflatten: _reshape,
    nn.Identity: _no_layer,
    nn.Dropout: _dropout,
    nn.Dropout1d: _dropout_channels,
    nn.Dropout2d: _dropout_channels,
    nn.Upsample: _upsample,
    nn.UpsamplingNearest2d: _upsample,
    nn.ZeroPad1d: _pad,
    nn.ZeroPad2d: _pad,
    nn.ConstantPad1d: _pad,
    nn.ConstantPad2d: _pad,
}
"""By the class whose forward runs."""

_POOL = "input kernel_size stride padding dilation ceil_mode return_indices"
_AVG = "input kernel_size stride padding ceil_mode count_include_pad divisor_override"

FUNCTIONS: dict[Callable[..., Any], tuple[str, Rule]] = {
    F.relu: ("input inplace", _relu),
    torch.relu: ("input", _relu),
    torch.relu_: ("input", _relu),
    F.relu6: ("input inplace", _relu6),
    F.hardtanh: ("input min_val max_val inplace", _hardtanh),
    F.leaky_relu: ("input negative_slope inplace", _leaky_relu),
    F.max_pool1d: (_POOL, _max_pool),
    F.max_pool2d: (_POOL, _max_pool),
    torch.max_pool1d: (_POOL, _max_pool),
    torch.max_pool2d: (_POOL, _max_pool),
    F.avg_pool1d: (_AVG, _avg_pool),
    F.avg_pool2d: (_AVG, _avg_pool),
    F.adaptive_avg_pool1d: ("input output_size", _adaptive_avg_pool),
    F.adaptive_avg_pool2d: ("input output_size", _adaptive_avg_pool),
    F.adaptive_max_pool1d: ("input output_size return_indices", _adaptive_max_pool),
    F.adaptive_max_pool2d: ("input output_size return_indices", _adaptive_max_pool),
    torch.mean: ("input dim keepdim", _mean),
    operator.add: ("input other", ADD),
    operator.iadd: ("input other", ADD),
    torch.add: ("input other alpha", ADD),
    operator.sub: ("input other", SUB),
    operator.isub: ("input other", SUB),
    torch.sub: ("input other alpha", SUB),
    operator.mul: ("input other", MUL),
    operator.imul: ("input other", MUL),
    torch.mul: ("input other", MUL),
    torch.multiply: ("input other", MUL),
    torch.cat: ("tensors dim", _concat),
    torch.concat: ("tensors dim", _concat),
    torch.concatenate: ("tensors dim", _concat),
    torch.flatten: ("input", _reshape),
    torch.reshape: ("input", _reshape),
    torch.squeeze: ("input", _reshape),
    torch.unsqueeze: ("input", _reshape),
    torch.permute: ("input *dims", _permute),
    torch.transpose: ("input dim0 dim1", _transpose),
    F.interpolate: ("input size scale_factor mode align_corners recompute_scale_factor", _upsample),
    F.pad: ("input pad mode value", _pad),
    F.dropout: ("input p training inplace", _dropout),
    F.dropout1d: ("input p training inplace", _dropout_channels),
    F.dropout2d: ("input p training inplace", _dropout_channels),
    operator.getitem: ("input index", _getitem),
}
"""Argument names (a star gathers the rest) and the rule."""

METHODS: dict[str, tuple[str, Rule]] = {
    "relu": ("input", _relu),
    "relu_": ("input", _relu),
    "add": ("input other alpha", ADD),
    "add_": ("input other alpha", ADD),
    "sub": ("input other alpha", SUB),
    "sub_": ("input other alpha", SUB),
    "mul": ("input other", MUL),
    "mul_": ("input other", MUL),
    "mean": ("input dim keepdim", _mean),
    "flatten": ("input", _reshape),
    "unflatten": ("input", _reshape),
    "view": ("input", _reshape),
    "reshape": ("input", _reshape),
    "squeeze": ("input", _reshape),
    "unsqueeze": ("input", _reshape),
    "permute": ("input *dims", _permute),
    "transpose": ("input dim0 dim1", _transpose),
    "contiguous": ("input", _no_layer),
    "clone": ("input", _no_layer),
}


MOVES = (_no_layer, _reshape, _permute, _transpose, _getitem, _pad, _upsample, _dropout, _dropout_channels)
"""Rules of what, at inference, only moves values."""
