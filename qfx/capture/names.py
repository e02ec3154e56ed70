"""One name for what torch calls by several: functions, methods, operators of Python, ATen's operators, and their forms in place."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from qfx.nn.rules import FUNCTIONS, METHODS

Target = Callable[..., Any] | str
"""A function, or the name of a method."""

READS_DATA = {
    "__bool__": "decides by data",
    "__int__": "makes a Python number of data",
    "__float__": "makes a Python number of data",
    "__index__": "makes a Python number of data",
    "__complex__": "makes a Python number of data",
    "item": "makes a Python number of data",
    "tolist": "makes Python numbers of data",
    "numpy": "hands data to numpy",
    "__array__": "hands data to numpy",
    "__contains__": "looks for a number in data",
    "equal": "decides by data",
    "allclose": "decides by data",
    "is_nonzero": "decides by data",
}
"""Functions that give Python what a tensor holds."""

_DECISIONS = "let no Python decision in forward depend on data: compute with tensors (torch.where), or ahead"
_REMEDIES = {
    "makes": "let no Python number in forward depend on data: compute with tensors, x * x.mean((1, 2, 3), keepdim=True), say, or ahead",
    "hands": "compute with torch's functions on tensors: numpy goes past them",
}
"""By how the complaint begins."""

_DUNDERS = {
    "__getitem__": operator.getitem,
    "__truediv__": "div",
    "__div__": "div",
    "__idiv__": "div",
    "__itruediv__": "div",
    "__radd__": "add",
    "__rmul__": "mul",
    "__floordiv__": operator.floordiv,
    "__invert__": "logical_not",
    **dict.fromkeys(("__and__", "__rand__", "__iand__", "bitwise_and"), "logical_and"),
    **dict.fromkeys(("__or__", "__ror__", "__ior__", "bitwise_or"), "logical_or"),
    "bitwise_not": "logical_not",
}
_SWAPPED = {
    "__rsub__": operator.sub,
    "rsub": operator.sub,
    "__rdiv__": operator.truediv,
    "__rtruediv__": operator.truediv,
    "__rpow__": operator.pow,
    "__rmatmul__": operator.matmul,
    "embedding": F.embedding,  # ATen's reads the table first
}
_ALIASES = {
    "multiply": "mul",
    "subtract": "sub",
    "divide": "div",
    "true_divide": "div",
    "truediv": "div",
    "clip": "clamp",
    "absolute": "abs",
    "negative": "neg",
    "concat": "cat",
    "concatenate": "cat",
    "swapaxes": "transpose",
    "swapdims": "transpose",
    "moveaxis": "movedim",
    "greater": "gt",
    "less": "lt",
    "greater_equal": "ge",
    "less_equal": "le",
    "not_equal": "ne",
    "_softmax": "softmax",
    "_log_softmax": "log_softmax",
    "special_softmax": "softmax",
    "special_expit": "sigmoid",
    "arctan": "atan",
    "fix": "trunc",
    "log_sigmoid": "logsigmoid",
    "alias": "clone",
    "lift_fresh_copy": "clone",
    "detach_copy": "detach",
}


_QUESTIONS = frozenset((
    *("size", "dim", "numel", "nelement", "ndimension", "stride", "is_floating_point", "is_complex", "is_signed", "get_device", "element_size"),
    *("is_contiguous", "storage_offset", "data_ptr", "untyped_storage", "requires_grad_", "retain_grad", "register_hook", "__len__", "__hash__"),
    *("__repr__", "__format__", "__str__", "is_same_size", "is_tensor", "is_nested", "result_type", "can_cast", "promote_types", "__reduce_ex__"),
    *("is_inference", "is_conj", "is_neg", "broadcast_shapes", "__dir__", "_assert", "is_tensor"),
))  # fmt: skip
"""Functions that ask a tensor for what its data do not decide."""

_PROPERTIES = frozenset(("T", "mT", "H", "mH", "data", "real"))
"""The properties of a tensor that are tensors."""

_OF_NUMBERS = ("add", "sub", "mul", "div", "pow")
"""Functions that may read a number first."""

_OTHER_ORDER = ("where",)
"""Methods that read their tensor elsewhere than the function of that name does."""


def bare_name(target: Target) -> str:
    """What a function or method is called, an overload of ATen's without its suffix."""
    return target if isinstance(target, str) else _plain_name(target)


def instead(name: str) -> str:
    """What to write in place of a function of ``READS_DATA``."""
    return _REMEDIES.get(READS_DATA[name].partition(" ")[0], _DECISIONS)


def is_question(func: Any) -> bool:
    """Whether the function asks a tensor for what its data do not decide."""
    name = getattr(func, "__name__", "")
    if name in ("__get__", "__set__", "__delete__"):
        return name != "__get__" or getattr(getattr(func, "__self__", None), "__name__", "") not in _PROPERTIES
    return name in _QUESTIONS


def known(target: Target) -> bool:
    """Whether there is a rule for the function, or for the method of that name."""
    return target in METHODS if isinstance(target, str) else target in FUNCTIONS


def spelled(func: Any, args: tuple[Any, ...]) -> tuple[Target, tuple[Any, ...]]:
    """The target of the node for a call, and its positional arguments: one for which there is a rule, if any of its names has one."""
    if getattr(func, "__name__", "") == "__get__":
        return _property(func.__self__.__name__, args)
    if func in FUNCTIONS:
        return func, args
    name = _plain_name(func)
    if name in _SWAPPED:
        return _SWAPPED[name], (args[1], args[0])
    if name in _DUNDERS:
        target: Any = _DUNDERS[name]
        return target, args
    if args and isinstance(args[0], int | float) and name in _OF_NUMBERS:  # an exported program's: there is no such method
        return getattr(operator, _ALIASES.get(name, name).replace("div", "truediv")), args
    bare = name.strip("_") if name.startswith("__") else name.removesuffix("_") if not name.startswith("_") else name
    for candidate in dict.fromkeys((name, bare, _ALIASES.get(bare, bare))):
        if candidate in METHODS and hasattr(torch.Tensor, candidate) and (candidate not in _OTHER_ORDER or _is_method(func)):
            return candidate, args
        for home in (torch, F, operator):
            function = getattr(home, candidate, None)
            if function is not None and function in FUNCTIONS:
                return function, args
    bare = _ALIASES.get(bare, bare)
    if _is_method(func):
        return (bare if hasattr(torch.Tensor, bare) else name), args
    if isinstance(func, torch._ops.OpOverload | torch._ops.OpOverloadPacket):
        return getattr(torch, bare, getattr(F, bare, func)), args
    return func, args


def _plain_name(func: Any) -> str:
    if isinstance(func, torch._ops.OpOverload):
        return str(func._schema.name).split("::")[-1]
    return str(getattr(func, "__name__", func))


def _is_method(func: Any) -> bool:
    return getattr(torch.Tensor, getattr(func, "__name__", ""), None) is func or type(func).__name__ in ("method_descriptor", "wrapper_descriptor")


def _property(name: str, args: tuple[Any, ...]) -> tuple[Target, tuple[Any, ...]]:
    if name in ("data", "real"):
        return "detach", args
    if name in ("mT", "mH"):
        return "transpose", (args[0], -2, -1)
    return "permute", (args[0], *reversed(range(args[0].dim())))
