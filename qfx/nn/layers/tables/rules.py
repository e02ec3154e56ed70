"""Which torch operations become tables: the functions of one number that are neither exact by themselves nor a few exact steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from qfx.nn.call import Call, Family, Layers, Rule
from qfx.nn.layers.tables.entries import Function
from qfx.nn.layers.tables.lookup import QLookup
from qfx.nn.layers.tables.user import Lookup

_Entry = tuple[str, Rule]


def _plain(function: Function, label: str) -> _Entry:
    """A function without parameters."""

    def rule(call: Call) -> Layers:
        return [QLookup(function, label)]

    return "input", rule


def _with(function: Callable[..., Tensor], label: str, **defaults: Any) -> _Entry:
    """A function with constant parameters, by the names that torch gives them."""

    def rule(call: Call) -> Layers:
        given = {name: call.get(name, default) for name, default in defaults.items()}
        for name, value in given.items():
            if isinstance(value, fx.Node | Tensor):
                raise call.refuse(f"{label} with {name} from a tensor", f"give {name} as a number")
        told = ", ".join(f"{name}={value}" for name, value in given.items() if value != defaults[name])
        return [QLookup(partial(function, **given), f"{label}({told})" if told else label)]

    return " ".join(("input", *defaults)), rule


def _power_of(x: Tensor, base: float) -> Tensor:
    return torch.pow(base, x)


def power(exponent: float) -> QLookup:
    """x ** exponent."""
    return QLookup(partial(torch.pow, exponent=exponent), f"x**{exponent:g}")


def exponential(base: float) -> QLookup:
    """base ** x."""
    return QLookup(partial(_power_of, base=base), f"{base:g}**x")


def _user(call: Call) -> Layers:
    module = call.module
    assert isinstance(module, Lookup)  # the class that the rule is entered under
    return [QLookup(module.function, module.name, module.max_error)]


_SIGMOID, _TANH = _plain(torch.sigmoid, "sigmoid"), _plain(torch.tanh, "tanh")
_SILU, _MISH = _with(F.silu, "silu"), _with(F.mish, "mish")
_GELU = _with(F.gelu, "gelu", approximate="none")
_ELU, _CELU, _SELU = _with(F.elu, "elu", alpha=1.0), _with(F.celu, "celu", alpha=1.0), _plain(torch.selu, "selu")
_SOFTPLUS = _with(F.softplus, "softplus", beta=1.0, threshold=20.0)
_LOG_SIGMOID, _SOFTSIGN = _plain(F.logsigmoid, "logsigmoid"), _plain(F.softsign, "softsign")
_TANHSHRINK = _plain(F.tanhshrink, "tanhshrink")
_HARDSHRINK, _SOFTSHRINK = _with(F.hardshrink, "hardshrink", lambd=0.5), _with(F.softshrink, "softshrink", lambd=0.5)
_HARDSIGMOID, _HARDSWISH = _with(F.hardsigmoid, "hardsigmoid"), _with(F.hardswish, "hardswish")

_ELEMENTWISE: dict[str, Function] = {
    name: getattr(torch, name)
    for name in (
        "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal", "erf", "erfc", "erfinv", "sin", "cos", "tan", "asin",
        "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh", "sinc",
    )
}  # fmt: skip
"""By the name that function and method share."""

_SHARED: dict[str, _Entry] = {
    "sigmoid": _SIGMOID,
    "tanh": _TANH,
    "logit": _with(torch.logit, "logit", eps=None),
    **{name: _plain(function, name) for name, function in _ELEMENTWISE.items()},
}

_SPECIAL = {
    "expit": "sigmoid", "exp2": "exp2", "expm1": "expm1", "log1p": "log1p", "erf": "erf", "erfc": "erfc", "erfinv": "erfinv", "sinc": "sinc",
    "logit": "logit",
}  # fmt: skip


def _in_place(entry: _Entry) -> _Entry:
    """The entry of the torch.nn.functional form, which has an ``inplace`` besides."""
    names, rule = entry
    return f"{names} inplace", rule


def _special() -> dict[Callable[..., Any], _Entry]:
    """torch.special's, where they are functions of their own."""
    found = {getattr(torch.special, name): _SHARED[shared] for name, shared in _SPECIAL.items()}
    return {function: entry for function, entry in found.items() if function not in _torch()}


def _torch() -> dict[Callable[..., Any], _Entry]:
    own = {getattr(torch, name): entry for name, entry in _SHARED.items()}
    changing = {getattr(torch, f"{name}_"): entry for name, entry in _SHARED.items() if hasattr(torch, f"{name}_")}
    return {**own, **changing}


FAMILY = Family(
    layers=(QLookup,),
    modules={
        nn.Sigmoid: _SIGMOID[1],
        nn.Tanh: _TANH[1],
        nn.SiLU: _SILU[1],
        nn.GELU: _GELU[1],
        nn.Mish: _MISH[1],
        nn.ELU: _ELU[1],
        nn.CELU: _CELU[1],
        nn.SELU: _SELU[1],
        nn.Softplus: _SOFTPLUS[1],
        nn.LogSigmoid: _LOG_SIGMOID[1],
        nn.Softsign: _SOFTSIGN[1],
        nn.Tanhshrink: _TANHSHRINK[1],
        nn.Hardshrink: _HARDSHRINK[1],
        nn.Softshrink: _SOFTSHRINK[1],
        nn.Hardsigmoid: _HARDSIGMOID[1],
        nn.Hardswish: _HARDSWISH[1],
        Lookup: _user,
    },
    functions={
        **_torch(),
        **_special(),
        F.sigmoid: _SIGMOID,
        F.tanh: _TANH,
        F.silu: _in_place(_SILU),
        F.mish: _in_place(_MISH),
        F.gelu: _GELU,
        F.elu: _in_place(_ELU),
        F.elu_: _ELU,
        F.celu: _in_place(_CELU),
        torch.celu: _CELU,
        torch.celu_: _CELU,
        F.selu: _in_place(_SELU),
        torch.selu: _SELU,
        torch.selu_: _SELU,
        F.softplus: _SOFTPLUS,
        F.logsigmoid: _LOG_SIGMOID,
        F.softsign: _SOFTSIGN,
        F.tanhshrink: _TANHSHRINK,
        F.hardshrink: _HARDSHRINK,
        F.softshrink: _SOFTSHRINK,
        F.hardsigmoid: _in_place(_HARDSIGMOID),
        F.hardswish: _in_place(_HARDSWISH),
    },
    methods={**_SHARED, **{f"{name}_": entry for name, entry in _SHARED.items()}},
    elementwise=True,
)
