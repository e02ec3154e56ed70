"""What the reader of exported programs (``qfx.capture.from_pt2``) takes, although ``quantize`` refuses it in a module."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx

from qfx.capture.refusals.remedies import key
from qfx.capture.traced import Traced
from qfx.nn.lookup import operator_name

REMEDY = (
    "or leave the model as it is and export it, torch.export.save(torch.export.export(model.eval(), (example,)), 'model.pt2'): "
    "`qfx ptq --model model.pt2` takes these forms"
)


def takes(node: fx.Node, traced: Traced) -> bool:
    """Whether the operation of ``node``, refused here, is one that the reader of an exported program takes with these arguments."""
    name = key(operator_name(node, traced))
    first = node.args[0] if node.args else None
    if node.op == "call_module" or not isinstance(first, fx.Node):
        return False
    arguments = [traced.resolve(argument) for argument in node.args[1:]]
    other = arguments[0] if arguments else None
    if name in ("chunk", "split"):
        axis = node.kwargs.get("dim", arguments[1] if len(arguments) > 1 else 0)
        return bool(axis)
    if name in ("add", "sub", "mul", "div", "truediv", "iadd", "isub", "imul", "itruediv"):
        plain = not node.kwargs and len(arguments) == 1 and first in traced.shapes
        return plain and _per_channel(other, first, traced)
    if name in ("clamp", "clampmin"):
        low, high = node.kwargs.get("min", other), node.kwargs.get("max", arguments[1] if len(arguments) > 1 else None)
        return bool(low == 0) and high in (None, 6, math.inf)
    if name in ("conv1d", "conv2d", "linear"):
        bias = node.kwargs.get("bias", arguments[1] if len(arguments) > 1 else None)
        fixed = all(isinstance(value, fx.Node) and value.op == "get_attr" for value in (node.kwargs.get("weight", other), bias) if value is not None)
        return fixed and first in traced.shapes and (name != "linear" or len(traced.shapes[first]) == 1)
    if name == "to":
        return arguments == [torch.float32] and not node.kwargs
    if name in ("float", "detach") or (name == "select" and other not in (0, None)):
        return True
    index = other if isinstance(other, tuple) else ()
    return name == "getitem" and None in index and all(part is None or part == slice(None) for part in index) and index[0] == slice(None)


def _per_channel(constant: Any, value: fx.Node, traced: Traced) -> bool:
    """Whether a constant operand is one number, or one for each channel."""
    if isinstance(constant, int | float):
        return True
    tensor = traced.fixed.get(constant) if isinstance(constant, fx.Node) and constant.op == "get_attr" else None
    if not isinstance(tensor, Tensor):
        return False
    shape = traced.shapes[value]
    return tensor.numel() == 1 or (tensor.numel() == shape[0] and tuple(tensor.shape[-len(shape) :]) == (shape[0], *(1,) * (len(shape) - 1)))
