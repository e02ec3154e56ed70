"""What to do about an operation that has no fixed-point form: by its name, and where its arguments are known, the very text to write in its place."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from qfx.capture.refusals import rewrites
from qfx.capture.refusals.remedy_texts import ATTENTION, LEAVE, NO_FORM, TEXTS, THREE_AXES, TRAIN_RELU
from qfx.capture.refusals.rewrites import Shape

OTHERS = "replace it by a supported layer (docs/layers.md lists them), or keep it outside of the model that goes to the FPGA"


@dataclass(frozen=True)
class Seen:
    """An operation that is refused. ``name``: of the layer, function, method or attribute. ``args``, ``kwargs``: its arguments; a tensor that is
    computed from the input stands there as a ``Seen`` of its own (``shape`` alone), a parameter or buffer as a tensor. ``shape``: of the first such
    tensor, the batch left out. ``result``: the shape that is given, or the shapes. ``origin``: see ``with_constant``.
    """

    name: str
    shape: Shape | None = None
    result: Any = None
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    module: nn.Module | None = None
    origin: str = ""

    def get(self, position: int, *names: str, default: Any = None) -> Any:
        """An attribute of the layer, or an argument of the call (position 0 is the value itself)."""
        if self.module is not None:
            return next((getattr(self.module, name) for name in names if hasattr(self.module, name)), default)
        found = next((self.kwargs[name] for name in names if name in self.kwargs), None)
        return found if found is not None else self.args[position] if position < len(self.args) else default

    def axis(self, position: int, *names: str, default: int | None = None) -> int:
        """An argument that counts axes, the batch included, made positive."""
        assert self.shape is not None
        return int(self.get(position, *names, default=default)) % (len(self.shape) + 1)


Answer = Callable[[Seen], str | None]


def key(name: str) -> str:
    """An operator's name as the tables have it: ``log_softmax``, ``LogSoftmax`` and ``log_softmax_`` are one."""
    return name.lower().replace("_", "")


def plain_remedy(name: str, others: str) -> str:
    """By the name alone; ``others`` for names that are not known."""
    return TEXTS.get(key(name), others)


def remedy(seen: Seen) -> str:
    """The text to write in place of a call in torch, where there is one; else what to do."""
    name = key(seen.name)
    answer = _ANSWERS.get(name)
    if answer is not None:
        try:
            found = answer(seen)
        except (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError, StopIteration):
            found = None  # unusual arguments: the text for the name has to do
        if found is not None:
            return found
    return TEXTS.get(name, OTHERS)


# Arithmetic with constants


def with_constant(what: str, constant: Tensor | float, shape: Shape, place: str) -> str:
    """In place of arithmetic with a constant: ``what`` is "add", "sub", "rsub" (constant - x), "mul", "div". ``place``: where the value comes
    from, as "input" or the path of a layer that nothing else reads, or ""."""
    values = torch.as_tensor(constant).detach().float()
    by_channel = values.numel() == 1 or tuple(values.shape[-len(shape) :]) == (shape[0], *(1,) * (len(shape) - 1))
    place = place if by_channel or place == "input" else ""  # a layer has one number for each channel
    layer = rewrites.per_channel(shape) if by_channel else rewrites.per_element(shape)
    number = f"{float(values):g}" if values.numel() == 1 else "the constant's numbers"
    weight, bias = {
        "add": ("1", number),
        "sub": ("1", _negative(number)),
        "rsub": ("-1", number),
        "mul": (number, "0"),
        "div": (f"1/{number}" if values.numel() == 1 else "their reciprocals", "0"),
    }[what]
    first = {"": "", "input": "do it to the data ahead of the model; or "}.get(place, f"take it into the weight and the bias of {place}; or ")
    weight = weight if weight != "their reciprocals" else "the reciprocals of the constant's numbers"
    return f"{first}put {layer} in its place, with its weight {weight} and its bias {bias}"


def _negative(number: str) -> str:
    return f"minus {number}" if number[:1] not in "-0123456789" else number[1:] if number.startswith("-") else f"-{number}"


# Activations


def _rank_layer(seen: Seen) -> str:
    assert seen.shape is not None
    return rewrites.per_channel(seen.shape).rstrip(",")


def _clamp(seen: Seen) -> str | None:
    assert seen.shape is not None
    low, high = seen.get(1, "min_val", "min"), seen.get(2, "max_val", "max")
    if key(seen.name) == "hardtanh":
        low, high = -1.0 if low is None else low, 1.0 if high is None else high
    if key(seen.name) == "clampmax":
        low, high = None, seen.get(1, "max")
    return clamped(low, high, seen.shape)


def _hard_sigmoid(seen: Seen) -> str:
    text = "self.scale(F.relu6(self.shift(x)))"
    text = f"x * {text}" if key(seen.name) == "hardswish" else text
    layer = _rank_layer(seen)
    return (
        f"{TRAIN_RELU}, and train with it; or write {text}, where shift is {layer} with its weight 1 and its bias 3, and scale another one with its "
        "weight 1/6 and its bias 0"
    )


def _prelu(seen: Seen) -> str:
    layer = _rank_layer(seen)
    return (
        f"{TRAIN_RELU}, and train with it; or write torch.relu(x) + self.slope(x - torch.relu(x)), where slope is {layer} with its weight the "
        "layer's slopes and its bias 0"
    )


def _threshold(seen: Seen) -> str | None:
    return "nn.ReLU() or torch.relu(x) is the same" if float(seen.get(1, "threshold")) == float(seen.get(2, "value")) == 0 else None


def _extreme(seen: Seen) -> str | None:
    """``torch.max`` and ``torch.min``, of two values or along an axis, and ``maximum`` and ``minimum``."""
    biggest, other = key(seen.name) in ("max", "maximum", "fmax", "amax"), seen.get(1, "other", "dim")
    if isinstance(other, Tensor | Seen):
        if isinstance(other, Tensor) and biggest and not bool(other.any()):
            return "torch.relu(x) is the same"
        return TEXTS["maximum" if biggest else "minimum"]
    return _reduction("max")(seen) if biggest else NO_FORM


def _reduction(kind: str) -> Answer:
    def answer(seen: Seen) -> str | None:
        assert seen.shape is not None
        rank, dims = len(seen.shape) + 1, seen.get(1, "dim", "axis")
        axes = {axis % rank for axis in ((dims,) if isinstance(dims, int) else dims)} if dims not in (None, ()) else set(range(rank))
        if 0 in axes:
            return "reduce over the axes behind the batch, and let the result keep one: x.flatten(1).mean(1, keepdim=True), say"
        keep = bool(seen.get(2, "keepdim", default=False))
        kept = tuple(size for axis, size in enumerate(seen.shape, start=1) if axis not in axes)
        result = tuple(1 if axis in axes else size for axis, size in enumerate(seen.shape, start=1)) if keep else kept or (1,)
        text = rewrites.reduction(kind, seen.shape, sorted(axes), result)
        return f"{text} is the same" if keep or kept else f"{text} keeps the one axis that a value must have behind the batch"

    return answer


# Moving data


def _parts(seen: Seen) -> str | None:
    """What cuts a value in parts along an axis: ``result`` holds their shapes."""
    assert seen.shape is not None
    axis = seen.axis(1 if key(seen.name) == "unbind" else 2, "dim", "axis", default=0)
    if axis == 0:
        return "keep the batch in one piece: name the axis to cut, as in x.split(2, dim=1)"
    dropped = key(seen.name) == "unbind"
    sizes = [1] * seen.shape[axis - 1] if dropped else [shape[axis - 1] for shape in seen.result]
    return f"slices give the same: {rewrites.parts('x', axis, sizes, dropped=dropped)}"


def _permuted(seen: Seen) -> str | None:
    """What only reorders axes: found out on sizes that are all different."""
    assert seen.shape is not None
    sizes = [3, 5, 7, 11, 13, 17][: len(seen.shape) + 1]
    probe = torch.empty(sizes)
    arguments = (probe, *seen.args[1:])
    attribute = seen.name in ("T", "mT", "H", "mH")
    moved = getattr(probe, seen.name) if attribute else getattr(torch.Tensor, seen.name.strip("_"))(*arguments, **seen.kwargs)
    perm = [sizes.index(size) for size in moved.shape]
    return f"{rewrites.permuted(perm)} is the same" if perm[0] == 0 else "keep the batch first: reorder the axes behind it with x.permute(0, ...)"


def cut_or_padded(pads: list[tuple[int, int]], shape: Shape) -> str:
    """In place of padding by negative numbers."""
    return f"{rewrites.cropped(pads, shape)} is the same"


def clamped(low: float | None, high: float | None, shape: Shape) -> str:
    """In place of a clamp."""
    low, high = (None if bound is None or math.isinf(bound) else float(bound) for bound in (low, high))
    if (low, high) == (0.0, None):
        return "nn.ReLU() or torch.relu(x) is the same"
    if (low, high) == (0.0, 6.0):
        return "nn.ReLU6() or F.relu6(x) is the same"
    layer, text, layers = rewrites.per_channel(shape).rstrip(","), "x", []
    if high is not None:
        text += " - torch.relu(self.over(x))"
        layers.append(f"over is {layer} with its weight 1 and its bias {-high:g}")
    if low is not None:
        text += " + torch.relu(self.under(x))"
        layers.append(f"under is {'another one' if layers else layer} with its weight -1 and its bias {low:g}")
    return f"use ReLU or ReLU6, and train with it; or write {text}, where {' and '.join(layers)}" if layers else LEAVE


def _select(seen: Seen) -> str | None:
    axis, index = seen.axis(1, "dim"), int(seen.get(2, "index"))
    return f"x[{':, ' * axis}{index}] is the same" if axis else "take the whole batch"


def _narrow(seen: Seen) -> str | None:
    axis, start, length = seen.axis(1, "dim"), int(seen.get(2, "start")), int(seen.get(3, "length"))
    return f"x[{':, ' * axis}{start}:{start + length}] is the same" if axis else "take the whole batch"


def _index_select(seen: Seen) -> str | None:
    axis, index = seen.axis(1, "dim"), seen.get(2, "index")
    return f"{rewrites.gathered(axis, [int(i) for i in index])} is the same" if axis else "take the whole batch"


def _flip(seen: Seen) -> str | None:
    assert seen.shape is not None
    dims = seen.get(1, "dims")
    dims = {"fliplr": (1,), "flipud": (0,)}.get(key(seen.name), (dims,) if isinstance(dims, int) else dims)
    if len(seen.args) > 2:
        dims = seen.args[1:]
    axes = [axis % (len(seen.shape) + 1) for axis in dims]
    if len(axes) != 1 or axes[0] == 0:
        return "flip the data ahead of the model, or the kernels of the convolution that reads it"
    size = seen.shape[axes[0] - 1]
    return f"{rewrites.gathered(axes[0], range(size - 1, -1, -1))} is the same; or flip the kernels of the convolution that reads it"


def _roll(seen: Seen) -> str | None:
    assert seen.shape is not None
    shifts, dims = seen.get(1, "shifts"), seen.get(2, "dims")
    (shift,), (axis,) = ((value,) if isinstance(value, int) else tuple(value) for value in (shifts, dims))
    axis %= len(seen.shape) + 1
    size = seen.shape[axis - 1]
    shift %= size
    return None if axis == 0 else f"{rewrites.gathered(axis, [(i - shift) % size for i in range(size)])} is the same"


_OF_THE_BATCH = "let no constant have the batch's size: zeros beside a value are F.pad(x, ...); other constants belong into the weights of a layer"


def _repeat(seen: Seen) -> str | None:
    if seen.args and isinstance(seen.args[0], Tensor):
        return _OF_THE_BATCH
    assert seen.shape is not None
    counts = seen.get(1, "repeats", "dims")
    counts = tuple(counts) if isinstance(counts, tuple | list) else tuple(seen.args[1:])
    counts = (1,) * (len(seen.shape) + 1 - len(counts)) + counts
    if len(counts) != len(seen.shape) + 1 or counts[0] != 1:
        return "repeat along the axes behind the batch alone"
    return f"{rewrites.repeated(seen.shape, counts[1:])} is the same"


def _expand(seen: Seen) -> str | None:
    if seen.args and isinstance(seen.args[0], Tensor):
        return _OF_THE_BATCH
    assert seen.shape is not None
    text = rewrites.expanded("x", seen.shape, seen.result)
    return None if text is None else f"{text} is the same"


def _repeat_interleave(seen: Seen) -> str | None:
    assert seen.shape is not None
    count, axis = int(seen.get(1, "repeats")), seen.axis(2, "dim")
    if axis < 2:
        return None
    factors = tuple(count if place == axis else 1 for place in range(2, len(seen.shape) + 1))
    return f"F.interpolate(x, scale_factor={factors if len(factors) > 1 else factors[0]}) is the same"


def _pixel_shuffle(seen: Seen) -> str | None:
    assert seen.shape is not None
    r, channels = int(seen.get(1, "upscale_factor")), seen.shape[0]
    out = channels // (r * r)
    return (
        f"nn.ConvTranspose2d({channels}, {out}, {r}, stride={r}, groups={out}, bias=False) with its weight "
        f"torch.eye({r * r}).repeat({out}, 1).reshape({channels}, 1, {r}, {r}) is the same"
    )


def _pixel_unshuffle(seen: Seen) -> str | None:
    assert seen.shape is not None
    r, channels = int(seen.get(1, "downscale_factor")), seen.shape[0]
    return f"{_patches(channels, (r, r), f'stride={r}, ')} is the same"


def _unfold(seen: Seen) -> str | None:
    assert seen.shape is not None
    kernel, dilation, padding, stride = (
        (value, value) if isinstance(value, int) else tuple(value)
        for value in (
            seen.get(1, "kernel_size"),
            seen.get(2, "dilation", default=1),
            seen.get(3, "padding", default=0),
            seen.get(4, "stride", default=1),
        )
    )
    options = "".join(f"{name}={value}, " for name, value in (("stride", stride), ("padding", padding), ("dilation", dilation)))
    return f"{_patches(seen.shape[0], kernel, options)}, and .flatten(2) behind it, is the same"


def _patches(channels: int, kernel: tuple[int, int], options: str) -> str:
    count = math.prod(kernel)
    return (
        f"nn.Conv2d({channels}, {channels * count}, {kernel}, {options}groups={channels}, bias=False) with its weight "
        f"torch.eye({count}).repeat({channels}, 1).reshape({channels * count}, 1, {kernel[0]}, {kernel[1]})"
    )


def shuffled(channels: int, groups: int) -> str:
    """The channel shuffle."""
    each = channels // groups
    return f"torch.cat([x[:, i::{each}] for i in range({each})], 1)"


def _channel_shuffle(seen: Seen) -> str | None:
    assert seen.shape is not None
    return f"{shuffled(seen.shape[0], int(seen.get(1, 'groups')))} is the same"


# Layers that are written as functions


def _function_of_layer(layer: str) -> Answer:
    def answer(seen: Seen) -> str | None:
        weight = seen.get(1, "weight")
        if not isinstance(weight, Tensor):
            return f"qfx needs the weight of a {layer} as a constant: let the layer nn.{layer} hold it"
        groups = int(seen.get(6, "groups", default=1)) if layer.startswith("Conv") else 1
        size = tuple(weight.shape)
        inputs, outputs = (size[1] * groups, size[0]) if not layer.startswith("ConvT") else (size[0], size[1] * groups)
        kernel = f", {size[2:] if len(size) > 3 else size[2]}" if len(size) > 2 else ""
        return f"let the layer nn.{layer}({inputs}, {outputs}{kernel}, ...) hold the weight, computed ahead, and call that layer"

    return answer


def _matmul(seen: Seen) -> str | None:
    other = seen.args[1] if len(seen.args) > 1 else None
    if isinstance(other, Tensor) and other.dim() == 2:
        rows, columns = other.shape
        return f"nn.Linear({rows}, {columns}, bias=False) with its weight the transposed matrix is the same"
    return ATTENTION


def _einsum(seen: Seen) -> str | None:
    if any(isinstance(value, Tensor) for value in seen.args):
        return "with a constant it is a layer: let nn.Linear, or a convolution of kernel 1 (nn.Conv1d, nn.Conv2d), hold that, and call the layer"
    return ATTENTION


def _addmm(seen: Seen) -> str | None:
    return "nn.Linear with the matrix transposed as its weight is the same"


def _batch_norm_function(seen: Seen) -> str | None:
    assert seen.shape is not None
    if len(seen.shape) > 3:
        return THREE_AXES
    layer = f"nn.BatchNorm{2 if len(seen.shape) == 3 else 1}d({seen.shape[0]})"
    return f"let the layer {layer} hold the statistics, and call that layer"


def _sync_batch_norm(seen: Seen) -> str | None:
    assert seen.shape is not None
    assert seen.module is not None
    if len(seen.shape) > 3:
        return THREE_AXES
    eps = "" if seen.module.eps == 1e-5 else f", eps={seen.module.eps}"
    layer = f"nn.BatchNorm{2 if len(seen.shape) == 3 else 1}d({seen.shape[0]}{eps})"
    return f"{layer} is the same on one machine, and takes its state: new.load_state_dict(old.state_dict())"


def _norm(seen: Seen) -> str | None:
    assert seen.shape is not None
    rank, sizes = len(seen.shape), seen.get(1, "normalized_shape", default=())
    if rank > 3:
        return None
    if rank > 1 and len(tuple(sizes)) == 1:  # the features come last
        there, back = ((0, 2, 1), (0, 2, 1)) if rank == 2 else ((0, 3, 1, 2), (0, 2, 3, 1))
        layer = f"nn.BatchNorm{rank - 1}d({seen.shape[-1]})"
        return f"its statistics are those of the data at hand: train with {layer} on x.permute{there}, and .permute{back} behind it"
    return f"its statistics are those of the data at hand: train with nn.BatchNorm{2 if len(seen.shape) == 3 else 1}d({seen.shape[0]}) in its place"


def _division(seen: Seen) -> str | None:
    value, other = seen.args[0], seen.get(1, "other")
    assert seen.shape is not None
    if not isinstance(value, Seen) or not isinstance(other, int | float | Tensor):
        return NO_FORM
    return with_constant("div", other, seen.shape, seen.origin)


def _reversed_subtraction(seen: Seen) -> str | None:
    other = seen.get(1, "other")
    assert seen.shape is not None
    return "y - x is the same" if isinstance(other, Seen) else with_constant("rsub", other, seen.shape, seen.origin)


def _power(seen: Seen) -> str | None:
    exponent = seen.get(1, "exponent")
    if exponent in (3, 4):
        return f"{' * '.join(['x'] * int(exponent))} is the same"
    return None


def _cumsum(seen: Seen) -> str | None:
    assert seen.shape is not None
    axis = seen.axis(1, "dim")
    count = seen.shape[axis - 1]
    if axis == 1 and len(seen.shape) == 1:
        return f"nn.Linear({count}, {count}, bias=False) with its weight torch.ones({count}, {count}).tril() is the same"
    if axis == 1 and len(seen.shape) < 4:
        ones = ", None" * (len(seen.shape) - 1)
        kernel = f"nn.Conv{len(seen.shape) - 1}d({count}, {count}, 1, bias=False)"
        return f"{kernel} with its weight torch.ones({count}, {count}).tril()[:, :{ones}] is the same"
    return None


def _leaky_rrelu(seen: Seen) -> str | None:
    slope = (float(seen.get(1, "lower", default=1 / 8)) + float(seen.get(2, "upper", default=1 / 3))) / 2
    return f"use nn.LeakyReLU({2.0 ** min(round(math.log2(slope)), 0)}), the power of two next to its mean slope, and train with it"


_ANSWERS: dict[str, Answer] = {
    **dict.fromkeys(("clamp", "clip", "clampmin", "clampmax", "hardtanh"), _clamp),
    **dict.fromkeys(("hardswish", "hardsigmoid"), _hard_sigmoid),
    "prelu": _prelu,
    "rrelu": _leaky_rrelu,
    "threshold": _threshold,
    **dict.fromkeys(("max", "min", "maximum", "minimum", "fmax", "fmin"), _extreme),
    **dict.fromkeys(("amax",), _reduction("max")),
    "amin": lambda seen: NO_FORM,
    **dict.fromkeys(("sum", "nansum"), _reduction("sum")),
    **dict.fromkeys(("mean", "nanmean"), _reduction("mean")),
    **dict.fromkeys(
        ("chunk", "split", "unbind", "tensorsplit", "splitwithsizes", "unsafechunk", "unsafesplit"),
        _parts,
    ),
    **dict.fromkeys(("movedim", "moveaxis", "swapaxes", "swapdims", "t", "adjoint", "mt", "h", "mh"), _permuted),
    "select": _select,
    "narrow": _narrow,
    "indexselect": _index_select,
    **dict.fromkeys(("flip", "fliplr", "flipud"), _flip),
    "roll": _roll,
    **dict.fromkeys(("repeat", "tile"), _repeat),
    **dict.fromkeys(("expand", "expandas", "broadcastto"), _expand),
    "repeatinterleave": _repeat_interleave,
    "pixelshuffle": _pixel_shuffle,
    "pixelunshuffle": _pixel_unshuffle,
    **dict.fromkeys(("channelshuffle", "nativechannelshuffle"), _channel_shuffle),
    "unfold": _unfold,
    "linear": _function_of_layer("Linear"),
    **{f"conv{n}d": _function_of_layer(f"Conv{n}d") for n in (1, 2)},
    **{f"convtranspose{n}d": _function_of_layer(f"ConvTranspose{n}d") for n in (1, 2)},
    **dict.fromkeys(("matmul", "mm"), _matmul),
    "addmm": _addmm,
    "einsum": _einsum,
    "batchnorm": _batch_norm_function,
    "syncbatchnorm": _sync_batch_norm,
    **dict.fromkeys(
        ("layernorm", "groupnorm", "rmsnorm", "instancenorm", "instancenorm1d", "instancenorm2d", "localresponsenorm"),
        _norm,
    ),
    **dict.fromkeys(("div", "truediv", "divide", "truedivide", "itruediv"), _division),
    "rsub": _reversed_subtraction,
    "pow": _power,
    "cumsum": _cumsum,
}
"""By ``key``: the text for a call with these arguments, or None."""
