"""What to do about an operation that qfx takes, with arguments that it does not take. Shapes leave the batch out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from qfx.capture.refusals import rewrites
from qfx.capture.refusals.rewrites import Shape


def linear_elsewhere(shape: Shape, source: nn.Linear) -> str:
    """A linear layer on the last of several axes is a convolution over the others, with a kernel of one."""
    bias = "" if source.bias is not None else ", bias=False"
    over = len(shape) - 1 if len(shape) < 4 else 1
    text = {
        2: "conv(x.permute(0, 2, 1)).permute(0, 2, 1)",
        3: "conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)",
    }.get(len(shape), f"conv(x.flatten(1, -2).permute(0, 2, 1)).permute(0, 2, 1).unflatten(1, {shape[:-1]})")
    layer = f"nn.Conv{over}d({source.in_features}, {source.out_features}, 1{bias})"
    return (
        f"flatten to (batch, features) before a linear layer; or, for one product at every place, {text} is the same, "
        f"where conv is {layer} with this layer's bias and its weight[:, :{', None' * over}]"
    )


def joined_elsewhere(count: int, axis: int) -> str:
    """Concatenation along another axis than the channels."""
    if axis == 0:
        return "concatenate along the channels (axis 1)"
    values = ", ".join(f"{name}.transpose(1, {axis})" for name in "abcdefgh"[:count])
    return f"torch.cat([{values}], 1).transpose(1, {axis}) is the same"


def divisors(sizes: Shape) -> str:
    """The output sizes of adaptive pooling."""
    choices = [", ".join(str(n) for n in range(1, size + 1) if size % n == 0) for size in sizes]
    return f"choose an output size that divides the input's: {' by '.join(f'one of {each}' for each in dict.fromkeys(choices))}"


def whole_windows(axes: Sequence[tuple[int, ...]], of_maxima: bool) -> str:
    """``ceil_mode`` where the last window sticks out. ``axes``: (size, output size, kernel, stride, padding, dilation) of each."""
    more = [(out - 1) * stride + dilation * (kernel - 1) + 1 - size - 2 * padding for size, out, kernel, stride, padding, dilation in axes]
    flat = tuple(side for extra in reversed(more) for side in (0, max(extra, 0)))
    text = f"train with ceil_mode=False, alone or behind F.pad(x, {flat})"
    return f"{text}; of values that are never negative, as behind a ReLU, the padded maximum is the same" if of_maxima else text


def one_shape(left: Shape, right: Shape, wanted: Shape) -> str:
    """How to make one operand as large as the other, where the operands are ``a`` and ``b``."""
    parts = [rewrites.expanded(name, shape, wanted) for name, shape in (("a", left), ("b", right))]
    if None in parts:
        return "give both operands one shape"
    made = " and ".join(f"{part} in place of {name}" for name, part in zip("ab", parts, strict=True) if part != name)
    return f"give both operands one shape: {made}, where the operands are a and b"


def indexed(shape: Shape, index: tuple[Any, ...]) -> str:
    """A new axis, and a list of places along one axis, can be written in other ways."""
    if all(part is None or part == slice(None) for part in index) and index[0] == slice(None):
        places = [place for place, part in enumerate(index) if part is None]
        return f"x{''.join(f'.unsqueeze({place})' for place in places)} is the same"
    lists = [axis for axis, part in enumerate(index) if isinstance(part, list | tuple | torch.Tensor) and axis]
    if len(lists) == 1 and all(part == slice(None) for axis, part in enumerate(index) if axis != lists[0]):
        axis, wanted = lists[0], torch.as_tensor(index[lists[0]])
        if wanted.dtype is not torch.bool and wanted.dim() == 1:
            return f"{rewrites.gathered(axis, [int(place) % shape[axis - 1] for place in wanted])} is the same"
    return "use slices with steps, and take the whole batch"
