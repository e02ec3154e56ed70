"""What is 0 or 1: equality, and what is said of such bits; constant masks; numbers at constant places of each sample."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from qfx import operators as ops
from qfx.nn.call import Call, Family, Layers
from qfx.nn.fixed_layer import FixedLayer
from qfx.nn.layers.elementwise.expand import QExpand
from qfx.nn.layers.elementwise.expression import Expression, Term
from qfx.nn.layers.elementwise.extreme import QMax, QMin
from qfx.nn.layers.elementwise.masks import QMask, QOffset
from qfx.nn.layers.elementwise.piecewise import QCompare, QNot, QSignOf, compared
from qfx.nn.layers.moving.take import QTake, axis_of
from qfx.nn.layers.reshape import QReshape


def _equal(negated: bool) -> Callable[[Call], Layers]:
    """Neither less nor greater, exact: of values their difference is compared as it is."""

    def rule(call: Call) -> Layers:
        e = Expression(call)
        a, b = e["input"], e["other"]
        if isinstance(a, Term) and isinstance(b, Term):
            difference = e.pair(a, b, QSignOf, "_difference")
            least, most = (e.layer(lambda sign=sign: QCompare(sign, ops.Const.of(0.0)), difference, suffix="_compared") for sign in (">=", "<="))  # type: ignore[misc]
        else:
            x, number = (a, b) if isinstance(a, Term) else (b, a)
            least, most = compared(e, x, number, ">="), compared(e, x, number, "<=")
        both = e.pair(least, most, QMin, "_both")
        return e.parts(e.layer(QNot, both, suffix="_not") if negated else both)

    return rule


def _bits(call: Call, *names: str) -> tuple[Expression, list[Term]]:
    """Operands that are 0 or 1. Refuses others, which torch would compare with 0."""
    e = Expression(call)
    found = []
    for name in names:
        term = e[name]
        node = call.arguments[name]
        if not isinstance(term, Term) or call.traced.dtypes.get(node) is not torch.bool:
            raise call.refuse(f"{call.name} of what is no comparison", "join comparisons of values, as in (x > 0) & (x < 1)")
        found.append(term)
    return e, found


def _joined(layer: type[FixedLayer]) -> Callable[[Call], Layers]:
    def rule(call: Call) -> Layers:
        e, (a, b) = _bits(call, "input", "other")
        return e.parts(e.pair(a, b, layer, "_joined"))

    return rule


def _not(call: Call) -> Layers:
    e, (x,) = _bits(call, "input")
    return e.parts(e.layer(QNot, x, suffix="_not"))


def _triangle(cut: Callable[[Tensor, int], Tensor]) -> Callable[[Call], Layers]:
    def rule(call: Call) -> Layers:
        if len(call.in_shape) < 2:
            raise call.refuse(f"{call.name} over the batch", "give it at least two axes behind the batch")
        mask = cut(torch.ones(call.in_shape[-2:]), int(call.arguments.get("diagonal", 0)))
        return [QMask(mask, len(call.in_shape), call.recipe, call.path, call.first)]

    return rule


def _gather(call: Call) -> Layers:
    """Places that are the same for every sample: numbers of the flattened sample."""
    index: Any = call.arguments.get("index")
    axis = axis_of(call, call.arguments["dim"])
    value = call.traced.fixed.get(index) if isinstance(index, fx.Node) else index
    if not isinstance(value, Tensor) or value.dim() != len(call.in_shape) + 1 or not torch.equal(value, value[:1].expand_as(value)):
        raise call.refuse(f"{call.name} by places that differ from sample to sample", "give constant places, the same for all: x[:, [2, 0, 1]]")
    places = torch.arange(int(torch.Size(call.in_shape).numel())).reshape(call.in_shape)
    small = places[tuple(slice(size) if at != axis else slice(None) for at, size in enumerate(value.shape[1:]))]
    taken = torch.gather(small, axis, value[0] % call.in_shape[axis]).reshape(-1).tolist()
    return [QReshape((places.numel(),)), QTake(0, tuple(taken)), QReshape(call.out_shape)]


_PAIR = "input other"
_EQ, _NE = (_PAIR, _equal(False)), (_PAIR, _equal(True))
_AND, _OR = (_PAIR, _joined(QMin)), (_PAIR, _joined(QMax))
_TRIL, _TRIU = ("input diagonal", _triangle(torch.tril)), ("input diagonal", _triangle(torch.triu))
_GATHER = ("input dim index", _gather)

FAMILY = Family(
    layers=(QCompare, QNot, QSignOf, QMin, QMax, QExpand, QMask, QOffset, QTake, QReshape),
    functions={
        torch.eq: _EQ,
        operator.eq: _EQ,
        torch.ne: _NE,
        operator.ne: _NE,
        torch.logical_and: _AND,
        torch.logical_or: _OR,
        torch.logical_not: ("input", _not),
        torch.tril: _TRIL,
        torch.triu: _TRIU,
        torch.gather: _GATHER,
    },
    methods={
        "eq": _EQ,
        "ne": _NE,
        "logical_and": _AND,
        "logical_or": _OR,
        "logical_not": ("input", _not),
        "tril": _TRIL,
        "triu": _TRIU,
        "gather": _GATHER,
    },
    takes_constants=True,
)
