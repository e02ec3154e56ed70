"""What each operation of a fake-quantized network becomes: layers and functions of torch by their names."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from qfx import operators as ops
from qfx.capture.names import bare_name
from qfx.exchange.integers.network import Network, error_of_sums, power_of_two
from qfx.exchange.integers.values import UNIT, Joined, Pair, Sums, View
from qfx.integers.growing import Growing
from qfx.integers.steps import Ints
from qfx.ir.values import Const

Handler = Callable[[Network, fx.Node], None]

_NO_TIES = "quantize in front of it"


def name_of(network: Network, node: fx.Node) -> str:
    """What the operation is called here: the class of a layer, the name of a function or method."""
    if node.op == "call_module":
        return type(network.traced.module.get_submodule(str(node.target))).__name__
    return bare_name(node.target).strip("_")


def value_of(network: Network, node: fx.Node) -> fx.Node:
    """The one value that a node reads."""
    found = [source for source in node.all_input_nodes if source in network.values]
    if len(found) != 1:
        raise network.refuse(node, f"{name_of(network, node)} reads {len(found)} values", "let it read one")
    return found[0]


# Sums of products


def weighted(network: Network, node: fx.Node) -> None:
    """Convolutions and linear layers."""
    source = value_of(network, node)
    view, layer = network.view(node, source), network.traced.module.get_submodule(str(node.target))
    assert isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
    if view.cast is None:
        raise network.refuse(node, "reads a function of what was quantized", _NO_TIES)
    found = network.constants.get(f"{node.target}.weight")
    if found is None:
        raise network.refuse(node, "has weights without a quantizer", "quantize them")
    kernel, scales = found
    outputs = len(kernel)
    scales = scales * (outputs if len(scales) == 1 else 1)
    biases = [0.0] * outputs if layer.bias is None else layer.bias.detach().double().tolist()
    cast_bias = network.constants.get(f"{node.target}.bias")
    if cast_bias is not None:
        whole, steps = cast_bias
        steps = steps * (outputs if len(steps) == 1 else 1)
        biases = [float(np.float32(raw) * np.float32(step)) for raw, step in zip(whole.tolist(), steps, strict=True)]
    step = view.cast.affine.scales[0]
    factors = tuple(Fraction(step) * Fraction(scale) for scale in scales)
    held = (int(view.integers[0]) - view.cast.affine.zeros[0], int(view.integers[-1]) - view.cast.affine.zeros[0])
    held = (min(held[0], 0), max(held[1], 0))  # what pads
    rows = kernel.reshape(outputs, -1)
    above, below = np.maximum(rows, 0).sum(1), np.minimum(rows, 0).sum(1)
    least, greatest = above * held[0] + below * held[1], above * held[1] + below * held[0]
    ranges = tuple(zip(least.tolist(), greatest.tolist(), strict=True))
    centered = network.centered(view)
    if isinstance(layer, nn.Linear):
        settings: dict[str, Any] = {}
        if len(network.traced.shapes[source]) != 1:
            raise network.refuse(node, f"multiplies rows of shape {network.traced.shapes[source]}", "flatten what it reads")
    else:
        if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            raise network.refuse(node, f"pads by {layer.padding_mode}, {layer.padding}", "pad by zeros, and by numbers")
        pads = tuple((side, side) for side in layer.padding)
        settings = {"stride": tuple(layer.stride), "pads": pads, "dilation": tuple(layer.dilation), "groups": layer.groups}

    def emit(name: str, signs: Ints) -> str:
        weight = Const(kernel * signs.reshape(-1, *(1,) * (kernel.ndim - 1)), 0)
        made = ops.Conv(weight, None, **settings) if settings else ops.Linear(weight, None)
        return network.emit(name, made, centered)

    powers = power_of_two(step, *scales)
    error = error_of_sums(kernel, held, [float(factor) for factor in factors], biases, powers)
    network.values[node] = Sums(emit, ranges, factors, tuple(Fraction(bias) for bias in biases), error)


def batch_norm(network: Network, node: fx.Node) -> None:
    """A factor and an offset of each channel; what float32 makes of them in its order counts as an error of a few last places."""
    source, layer = value_of(network, node), network.traced.module.get_submodule(str(node.target))
    assert isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)
    value = network.values[source]
    if not isinstance(value, Sums) or value.moves or value.clamp != (None, None):
        raise network.refuse(node, "is a BatchNorm behind a quantizer", "merge it into the layer before it")
    assert layer.running_mean is not None
    assert layer.running_var is not None
    mean, var = layer.running_mean.double(), layer.running_var.double()
    scale = torch.rsqrt(var + layer.eps) * (1.0 if layer.weight is None else layer.weight.detach().double())
    shift = torch.zeros_like(mean) if layer.bias is None else layer.bias.detach().double()
    gains, means, shifts = scale.tolist(), mean.tolist(), shift.tolist()
    factors = tuple(factor * Fraction(gain) for factor, gain in zip(value.factors, gains, strict=True))
    offsets = tuple(
        (offset - Fraction(middle)) * Fraction(gain) + Fraction(more)
        for offset, middle, gain, more in zip(value.offsets, means, gains, shifts, strict=True)
    )
    most = (value.largest + np.abs(means)) * np.abs(gains) + np.abs(shifts)
    network.values[node] = replace(value, factors=factors, offsets=offsets, error=value.error * np.abs(gains) * 1.001 + 8 * UNIT * most)


def average(network: Network, node: fx.Node) -> None:
    """The sum of a window, or of whole axes, over their number."""
    source = value_of(network, node)
    view, shape, out = network.view(node, source), network.traced.shapes[source], network.traced.shapes[node]
    if view.cast is None:
        raise network.refuse(node, "averages a function of what was quantized", _NO_TIES)
    centered, name = network.centered(view), name_of(network, node)
    affine = view.cast.affine
    made: ops.SumPool | ops.ReduceSum
    again: tuple[int, ...] | None
    axes: tuple[int, ...]
    if "AvgPool" in name or "avg_pool" in name:
        settings = _window(network, node, len(shape) - 1)
        kernel, stride, pads = settings
        made, count = ops.SumPool(kernel, stride, pads), math.prod(kernel)
        again, axes = None, ()
    else:
        axes = tuple(sorted(axis % (len(shape) + 1) - 1 for axis in _axes(network, node, len(shape) + 1)))
        if min(axes) < 0:
            raise network.refuse(node, f"is a mean over the axes {axes}", "keep the batch")
        made, count, again = ops.ReduceSum(axes), math.prod(shape[axis] for axis in axes), out
    low, high = (end - affine.zeros[0] for end in (int(view.integers[0]), int(view.integers[-1])))
    low, high = min(low, 0) * count, max(high, 0) * count
    channels = 1
    factor = Fraction(affine.scales[0]) / count
    most = max(-low, high) * float(factor)
    exact = power_of_two(affine.scales[0], float(count)) and max(-low, high) < 2**24
    error = np.full(channels, 0.0 if exact else (count + 4) * UNIT * 1.001 * most)

    def emit(name: str, signs: Ints) -> str:
        if again is None or again == tuple(1 if axis in axes else size for axis, size in enumerate(shape)):
            return network.emit(name, made, centered)
        return network.emit(name, ops.Reshape(again), network.emit(f"{name}.kept", made, centered))

    network.values[node] = Sums(emit, ((low, high),), (factor,), (Fraction(0),), error)


def _axes(network: Network, node: fx.Node, rank: int) -> Sequence[int]:
    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis"))
    found = network.traced.resolve(dims)
    if found is None:
        return tuple(range(1, rank))
    return (found,) if isinstance(found, int) else tuple(found)


def _each(value: Any, rank: int) -> tuple[int, ...]:
    return (int(value),) * rank if isinstance(value, int) else tuple(int(part) for part in value) * (rank if len(value) == 1 else 1)


def _window(network: Network, node: fx.Node, rank: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[tuple[int, int], ...]]:
    """Kernel, stride and pads of a pool. Refuses what leaves windows of several sizes."""
    options = _options(network, node, ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"))
    if "adaptive" in name_of(network, node).lower():
        source = network.traced.shapes[value_of(network, node)][1:]
        out = network.traced.shapes[node][1:]
        if any(have % want for have, want in zip(source, out, strict=True)):
            raise network.refuse(node, f"pools {source} to {out}", "let one size divide the other")
        kernel = tuple(have // want for have, want in zip(source, out, strict=True))
        return kernel, kernel, ((0, 0),) * rank
    kernel = _each(options["kernel_size"], rank)
    stride = kernel if options.get("stride") in (None, [], ()) else _each(options["stride"], rank)
    padding = _each(options.get("padding") or 0, rank)
    if options.get("ceil_mode") or options.get("divisor_override") or (any(padding) and options.get("count_include_pad") is False):
        raise network.refuse(node, "has windows of several sizes, or a divisor", "give pads that count, without ceil_mode")
    return kernel, stride, tuple((side, side) for side in padding)


def _options(network: Network, node: fx.Node, names: Sequence[str]) -> dict[str, Any]:
    if node.op == "call_module":
        return dict(vars(network.traced.module.get_submodule(str(node.target))))
    given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    return {name: network.traced.resolve(value) for name, value in given.items() if name != "input"}


# Numbers of one number


def limited(low: float | None, high: float | None) -> Handler:
    """A clamp to given bounds."""

    def handler(network: Network, node: fx.Node) -> None:
        source = value_of(network, node)
        value = network.values[source]
        if isinstance(value, Sums):
            network.values[node] = value.limited(*(None if end is None else Fraction(end) for end in (low, high)))
        else:
            on_floats(network, node)

    return handler


def clamp(network: Network, node: fx.Node) -> None:
    names = ("input", "min", "max") if node.op != "call_function" or "hardtanh" not in name_of(network, node) else ("input", "min_val", "max_val")
    options = _options(network, node, names)
    ends = [options.get(names[1], options.get("min_val")), options.get(names[2], options.get("max_val"))]
    if "hardtanh" in name_of(network, node).lower():
        ends = [default if end is None else end for end, default in zip(ends, (-1.0, 1.0), strict=True)]
    if any(end is not None and not isinstance(end, int | float) for end in ends):
        raise network.refuse(node, "clamps to numbers of each channel", "clamp to two numbers")
    limited(*ends)(network, node)


def on_floats(network: Network, node: fx.Node) -> None:
    """A function of one number, computed as the source does for every number that can come; beside it stand single constants."""
    source = value_of(network, node)
    value = network.values[source]
    others = [one for one in node.all_input_nodes if one in network.traced.fixed]
    if any(network.traced.fixed[one].numel() != 1 for one in others) or (
        node.op == "call_module" and any(part.numel() > 1 for part in network.traced.module.get_submodule(str(node.target)).parameters())
    ):
        raise network.refuse(node, f"{name_of(network, node)} has a constant of several numbers", "quantize it as an operand, or use one number")

    def run(floats: np.typing.NDArray[np.float32]) -> np.typing.NDArray[np.float32]:
        found = network.run(node, {source: torch.from_numpy(floats.reshape(-1, 1))})
        if found.shape != (floats.size, 1):
            raise network.refuse(node, "is no function of one number", _NO_TIES)
        return found.numpy().reshape(floats.shape).astype(np.float32)

    if isinstance(value, View):
        made = run(value.floats)
        network.values[node] = value if np.array_equal(made, value.floats) else replace(value, floats=made, cast=None)
    elif isinstance(value, Pair):
        if value.moves:
            raise network.refuse(node, "follows a move of a sum that is not quantized", "quantize the sum")
        network.values[node] = replace(value, table=run(value.table))
    elif isinstance(value, Joined):
        network.values[node] = replace(value, parts=tuple(replace(part, floats=run(part.floats), cast=None) for part in value.parts))
    else:
        what = f"{name_of(network, node)} reads sums in float, whose last bits depend on the order of additions"
        raise network.refuse(node, what, _NO_TIES)


# Numbers of two


def add(network: Network, node: fx.Node) -> None:
    sources = [source for source in node.all_input_nodes if source in network.values]
    if len(sources) == 1 and sum(isinstance(part, fx.Node) and part in network.values for part in node.args) == 1:
        on_floats(network, node)
        return
    if len(sources) == 1:  # x + x
        value = network.view(node, sources[0])
        doubled = network.run(node, {sources[0]: torch.from_numpy(value.floats)})
        network.values[node] = replace(value, floats=doubled.numpy(), cast=None)
        return
    a, b = (network.view(node, source) for source in sources)
    if a.cast is None or b.cast is None:
        raise network.refuse(node, "adds a function of what was quantized", _NO_TIES)
    shapes = [network.traced.shapes[source] for source in sources]
    if shapes[0] != shapes[1]:
        raise network.refuse(node, f"adds values of shapes {shapes[0]} and {shapes[1]}", "let both have one shape")
    made = network.run(node, {sources[0]: torch.from_numpy(a.floats)[:, None], sources[1]: torch.from_numpy(b.floats)[None, :]})
    network.values[node] = Pair(a, b, made.numpy().astype(np.float32))


def concatenate(network: Network, node: fx.Node) -> None:
    parts = node.args[0] if node.args else node.kwargs["tensors"]
    rank = len(network.traced.shapes[node]) + 1
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    axis = int(network.traced.resolve(dim)) % rank - 1
    if not all(isinstance(part, fx.Node) and part in network.values for part in parts):  # type: ignore[union-attr]
        raise network.refuse(node, "joins constants", "leave them out")
    views = tuple(network.view(node, part) for part in parts)  # type: ignore[union-attr, arg-type]
    first = views[0]
    if all(np.array_equal(view.floats, first.floats) and view.low == first.low for view in views):
        held = network.joined(network.name(network.where(node)), [view.node for view in views], axis)
        network.values[node] = replace(first, node=held)
    else:
        network.values[node] = Joined(views, axis)


# Numbers at other places


def same(network: Network, node: fx.Node) -> None:
    network.values[node] = network.values[value_of(network, node)]


def reshape(network: Network, node: fx.Node) -> None:
    source, shape = value_of(network, node), network.traced.shapes[node]
    if shape == network.traced.shapes[source]:
        same(network, node)
    else:
        network.move(node, source, lambda grown, name, held: grown.emit(name, ops.Reshape(shape), held))


def permute(network: Network, node: fx.Node) -> None:
    source = value_of(network, node)
    rank = len(network.traced.shapes[source]) + 1
    places = torch.empty(tuple(range(2, rank + 2)))  # each size once
    order = tuple(size - 2 for size in network.run(node, {source: places}).shape)
    if order[0] != 0:
        raise network.refuse(node, f"orders the axes {order}", "keep the batch in front")
    perm = tuple(axis - 1 for axis in order[1:])
    network.move(node, source, lambda grown, name, held: grown.emit(name, ops.Transpose(perm), held))


def pixel_shuffle(network: Network, node: fx.Node) -> None:
    source = value_of(network, node)
    (before, *sides), after = network.traced.shapes[source], network.traced.shapes[node]
    if len(after) != 3:
        raise network.refuse(node, f"shuffles a value of shape {after}", "give it one image a sample")
    factor = int(_options(network, node, ("input", "upscale_factor"))["upscale_factor"])

    def move(grown: Growing, name: str, held: str) -> str:
        apart = grown.emit(f"{name}.apart", ops.Reshape((before // factor**2, factor, factor, *sides)), held)
        turned = grown.emit(f"{name}.turned", ops.Transpose((0, 3, 1, 4, 2)), apart)
        return grown.emit(name, ops.Reshape(after), turned)

    network.move(node, source, move)


def max_pool(network: Network, node: fx.Node) -> None:
    source = value_of(network, node)
    rank = len(network.traced.shapes[source]) - 1
    options = _options(network, node, ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode"))
    if "adaptive" in name_of(network, node).lower() or options.get("ceil_mode") or options.get("return_indices"):
        raise network.refuse(node, "has ceil_mode, indices or sizes of its own", "give kernel, stride and padding")
    kernel = _each(options["kernel_size"], rank)
    stride = kernel if options.get("stride") in (None, [], ()) else _each(options["stride"], rank)
    padding, dilation = _each(options.get("padding") or 0, rank), _each(options.get("dilation") or 1, rank)
    value = network.values[source]
    if (isinstance(value, View) and (np.diff(value.floats) < 0).any()) or isinstance(value, Joined):
        raise network.refuse(node, "reads a function that falls, or several quantizations", _NO_TIES)
    pool = ops.MaxPool(kernel, stride, tuple((side, side) for side in padding), dilation)
    network.move(node, source, lambda grown, name, held: grown.emit(name, pool, held))


def upsample(network: Network, node: fx.Node) -> None:
    source = value_of(network, node)
    before, after = network.traced.shapes[source], network.traced.shapes[node]
    options = _options(network, node, ("input", "size", "scale_factor", "mode"))
    if options.get("mode", "nearest") != "nearest" or any(size % own for own, size in zip(before, after, strict=True)):
        raise network.refuse(node, "is no nearest upsampling by whole factors", "use mode='nearest' and whole factors")
    factors = tuple(size // own for own, size in zip(before[1:], after[1:], strict=True))

    def move(grown: Growing, name: str, held: str) -> str:
        return grown.emit(name, ops.Upsample(factors), held)

    network.move(node, source, move)


_FLOATS = (
    *("LeakyReLU", "leaky_relu", "Sigmoid", "sigmoid", "Tanh", "tanh", "Hardswish", "hardswish", "Hardsigmoid", "hardsigmoid", "SiLU", "silu"),
    *("GELU", "gelu", "ELU", "elu", "SELU", "selu", "Softplus", "softplus", "Softsign", "softsign", "Mish", "mish", "LogSigmoid", "logsigmoid"),
    *("abs", "neg", "mul", "sub", "rsub", "div", "truediv", "pow", "square", "sqrt", "exp", "erf", "round", "floor", "ceil", "reciprocal"),
)

KINDS: dict[str, Handler] = {
    **dict.fromkeys(("Conv1d", "Conv2d", "Conv3d", "Linear"), weighted),
    **dict.fromkeys(("BatchNorm1d", "BatchNorm2d", "BatchNorm3d"), batch_norm),
    **dict.fromkeys(("AvgPool1d", "AvgPool2d", "AvgPool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d"), average),
    **dict.fromkeys(("AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "mean"), average),
    **dict.fromkeys(("ReLU", "relu"), limited(0.0, None)),
    **dict.fromkeys(("ReLU6", "relu6"), limited(0.0, 6.0)),
    **dict.fromkeys(("Hardtanh", "hardtanh", "clamp", "clip"), clamp),
    **dict.fromkeys(_FLOATS, on_floats),
    **dict.fromkeys(("add", "iadd"), add),
    **dict.fromkeys(("cat", "concat", "concatenate"), concatenate),
    **dict.fromkeys(("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "Identity", "dropout", "contiguous", "clone", "detach", "to", "alias"), same),
    **dict.fromkeys(("Flatten", "Unflatten", "flatten", "unflatten", "reshape", "view", "squeeze", "unsqueeze", "unsafe_view"), reshape),
    **dict.fromkeys(("permute", "transpose", "movedim", "swapaxes"), permute),
    **dict.fromkeys(("PixelShuffle", "pixel_shuffle"), pixel_shuffle),
    **dict.fromkeys(("MaxPool1d", "MaxPool2d", "MaxPool3d", "max_pool1d", "max_pool2d", "max_pool3d"), max_pool),
    **dict.fromkeys(("Upsample", "UpsamplingNearest2d", "interpolate", "upsample"), upsample),
}
"""What is read, by the names of layers, functions and methods."""

MOVES = (same, reshape, permute, pixel_shuffle)
"""What leaves numbers as they are."""
