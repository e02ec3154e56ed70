"""torch.einsum and what is an einsum by another name: matmul, bmm, mm, inner, tensordot and their sums with a third operand."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from qfx.nn.call import Call, Family, Layers, Part
from qfx.nn.fixed_layer import FixedLayer
from qfx.nn.layers.arithmetic import QAdd, QMul
from qfx.nn.layers.conv import Geometry, QConv
from qfx.nn.layers.linear import QLinear
from qfx.nn.layers.permute import QPermute
from qfx.nn.layers.products.contraction import Labels, Operand, Wiring, of_values, with_weights
from qfx.nn.layers.products.matmul import QMatMul
from qfx.nn.layers.products.weights import Form, is_constant, shape_of, weights_of
from qfx.nn.layers.reshape import QReshape

_TWO = "multiply two at a time"


def _einsum(call: Call) -> Layers:
    """Two operands, or one whose axes change places. The batch is the first letter of every value and of the result."""
    equation, given = call.arguments.get("equation"), list(call.arguments.get("operands") or ())
    operands: list[Any] = list(given[0]) if len(given) == 1 and isinstance(given[0], tuple | list) else given
    if not isinstance(equation, str):
        raise call.refuse("einsum with numbered axes", "write the equation as text: 'bik,bkj->bij'")
    terms, result = _parsed(call, equation, [_rank(call, operand) for operand in operands])
    values = [operand for operand in operands if not is_constant(call, operand)]
    batch = next((term[0] for term, operand in zip(terms, operands, strict=True) if not is_constant(call, operand) and term), "")
    for term, operand in zip(terms, operands, strict=True):
        if len(set(term)) < len(term):
            raise call.refuse(f"einsum({equation!r}) takes a diagonal", "take it out with a mask, or compute without it")
        if is_constant(call, operand) == (batch in term) or (batch in term and term[0] != batch):
            raise call.refuse(f"einsum({equation!r})", "let the batch be the first axis of every value, of the result, and of nothing else")
    if not result or result[0] != batch:
        raise call.refuse(f"einsum({equation!r}) does not give the batch first", "let the batch be the first axis of the result")
    bare = [tuple(label for label in term if label != batch) for term in terms]
    if len(operands) == 1 and set(bare[0]) == set(result[1:]):
        wiring = Wiring()
        wiring.permuted(0, [bare[0].index(label) for label in result[1:]], "")
        return wiring.parts
    if len(operands) != 2:
        raise call.refuse(f"einsum({equation!r}) of {len(operands)} operands", _TWO if len(operands) > 2 else "sum with torch.sum")
    return contraction(
        call, [(operand, term) for operand, term in zip(operands, bare, strict=True)], result[1:], f"einsum({equation!r})", len(values)
    )


def contraction(call: Call, operands: Sequence[tuple[Any, Labels]], result: Labels, what: str, values: int) -> list[Part]:
    """Two operands with the labels of their axes (the batch left out), multiplied, and summed over what the result lacks."""
    wiring = Wiring()
    first, second = (_operand(call, argument, labels) for argument, labels in operands)
    sides = _squeezed(first, second, result)
    for side, other in (sides, sides[::-1]):
        alone = [label for label in side.labels if label not in other.labels and label not in result]
        if alone:
            raise call.refuse(f"{what} sums over axes that one operand has alone ({', '.join(alone)})", "sum that operand first, with torch.sum")
        clash = [label for label, size in side.sizes().items() if other.sizes().get(label, size) != size]
        if clash:
            raise call.refuse(f"{what} multiplies axes of different lengths", "give both one length")
    if values == 2:
        a, b = sides
        if a.labels == b.labels == result:  # no sum: number by number
            return [Part(QMul(), (0, 1))]
        of_values(wiring, a, b, result)
        return wiring.parts
    index = next(place for place, (argument, _) in enumerate(operands) if is_constant(call, argument))
    weight = operands[index][0]
    with_weights(
        wiring, sides[1 - index], sides[index], result, lambda form, groups, positions: _layer(call, weight, form, groups, positions=positions)
    )
    return wiring.parts


def _layer(call: Call, weight: Any, form: Form, groups: int, *, positions: bool, bias: Any = None) -> FixedLayer:
    source = weights_of(call, weight, bias, form)
    if groups > 1:
        return QConv(source, call.recipe, call.path, Geometry((1,), ((0, 0),), (1,), groups))
    return QLinear(source, call.recipe, call.path, positions=positions)


def _operand(call: Call, argument: Any, labels: Labels) -> Operand:
    if is_constant(call, argument):
        return Operand(shape_of(call, argument), labels)
    return Operand(call.traced.shapes[argument], labels, call.values.index(argument))


def _squeezed(a: Operand, b: Operand, result: Labels) -> tuple[Operand, Operand]:
    """Without axes of length 1 that meet longer ones (they are repeated: one operand has the axis alone), and those that nothing else has."""
    found = []
    for side, other in ((a, b), (b, a)):
        sizes = other.sizes()
        spare = (label for label, size in side.sizes().items() if size == 1 and (sizes[label] != 1 if label in sizes else label not in result))
        found.append(side.without(frozenset(spare)))
    return found[0], found[1]


def _rank(call: Call, argument: Any) -> int:
    return len(shape_of(call, argument)) if is_constant(call, argument) else len(call.traced.shapes[argument]) + 1


def _parsed(call: Call, equation: str, ranks: list[int]) -> tuple[list[Labels], Labels]:
    """The letters of the operands and of the result; an ellipsis stands for as many axes as are left."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    texts = left.split(",")
    if len(texts) != len(ranks):
        raise call.refuse(f"einsum({equation!r}) of {len(ranks)} operands", "name the axes of each operand")
    most = max((rank - len(text.replace("...", "")) for text, rank in zip(texts, ranks, strict=True) if "..." in text), default=0)
    terms = [_letters(text, rank - len(text.replace("...", ""))) for text, rank in zip(texts, ranks, strict=True)]
    if arrow:
        return terms, _letters(right, most)
    counts = Counter(label for term in terms for label in term)
    dots = [f".{place}" for place in range(most - 1, -1, -1)]
    return terms, (*dots, *sorted(label for label, count in counts.items() if count == 1 and not label.startswith(".")))


def _letters(text: str, dots: int) -> Labels:
    """One label for each axis; those of an ellipsis are counted from the last."""
    before, ellipsis, behind = text.partition("...")
    return (*before, *((f".{place}" for place in range(dots - 1, -1, -1)) if ellipsis else ()), *behind)


def _matmul(call: Call) -> Layers:
    return _product(call, call.arguments["input"], call.arguments.get("other", call.arguments.get("mat2")))


def _product(call: Call, a: Any, b: Any) -> list[Part]:
    """torch.matmul: matrices on the last two axes of each, one axis is a vector; the axes in front are repeated where they are 1 long."""
    constant = [is_constant(call, side) for side in (a, b)]
    ranks = [len(shape_of(call, side)) if fixed else len(call.traced.shapes[side]) for side, fixed in zip((a, b), constant, strict=True)]
    value = ranks[constant.index(False)]
    if not any(constant) and (ranks[0] != ranks[1] or value < 2):
        left, right = (call.traced.shapes[side] for side in (a, b))
        raise call.refuse(f"the product of values of shapes {left} and {right}", "multiply matrices behind the batch: (N, M, K) by (N, K, P)")
    if any(constant):
        side = constant.index(True)
        shape = shape_of(call, (a, b)[side])
        while ranks[side] > value and shape[len(shape) - ranks[side]] == 1 and ranks[side] > 2:  # along the batch and in front of it
            ranks[side] -= 1
        if ranks[side] > max(value, 2) or (side == 0 and value < 2):
            what = f"the product of a value of {value} axes behind the batch and a constant of shape {shape}"
            raise call.refuse(what, "multiply matrices behind the batch: (N, M, K) by (K, P)")
    left_labels = ("k",) if ranks[0] == 1 and (constant[0] or value == 1) else (*_heads(ranks[0] - 2), "m", "k")
    right_labels = ("k",) if ranks[1] == 1 else (*_heads(ranks[1] - 2), "k", "n")
    heads = max(left_labels[:-2], right_labels[:-2], key=len)
    result = (*heads, *(("m",) if "m" in left_labels else ()), *(("n",) if "n" in right_labels else ()))
    operands = []
    for argument, labels in ((a, left_labels), (b, right_labels)):
        axes = len(shape_of(call, argument)) if is_constant(call, argument) else len(labels)
        operands.append((argument, (*(f"one{place}" for place in range(axes - len(labels))), *labels)))
    return contraction(call, operands, result, call.name, constant.count(False))


def _heads(count: int) -> Labels:
    """The axes in front of matrices, counted from the last."""
    return tuple(f"head{place}" for place in range(count - 1, -1, -1))


def _added(call: Call) -> Layers:
    """beta * input + alpha * (a @ b)."""
    first: Any
    second: Any
    first, second = (call.arguments.get(name, call.arguments.get(other)) for name, other in (("mat1", "batch1"), ("mat2", "batch2")))
    scales = [call.get(name, 1) for name in ("beta", "alpha")]
    addend: Any = call.arguments["input"]
    if scales[1] != 1 or scales[0] not in (0, 1):
        raise call.refuse(f"beta={scales[0]} and alpha={scales[1]}", "leave both at 1, and scale a weight instead")
    if scales[0] == 0:
        return _product(call, first, second)
    plain = is_constant(call, second) and not is_constant(call, first) and len(call.traced.shapes[first]) == 1
    if plain and is_constant(call, addend) and shape_of(call, addend) == call.out_shape:
        return [_layer(call, second, Form((1, 0), shape_of(call, second)[::-1]), 1, positions=False, bias=addend)]
    if is_constant(call, addend):
        raise call.refuse(f"{call.name} with a constant of shape {shape_of(call, addend)}", "write a @ b + constant")
    if call.traced.shapes[addend] != call.out_shape:
        raise call.refuse(f"{call.name} repeats a value of shape {call.traced.shapes[addend]}", "write a @ b + c, which repeats it")
    parts = _product(call, first, second)
    return [*parts, Part(QAdd(), (call.values.index(addend), parts[-1]), "_sum")]


def _inner(call: Call) -> Layers:
    """torch.inner: the sum over the last axes of both."""
    a, b = call.arguments["input"], call.arguments["other"]
    return _over(call, a, b, [_rank(call, a) - 1], [_rank(call, b) - 1])


def _tensordot(call: Call) -> Layers:
    a, b, dims = call.arguments["a"], call.arguments["b"], call.arguments.get("dims", 2)
    if isinstance(dims, int):
        return _over(call, a, b, list(range(_rank(call, a) - dims, _rank(call, a))), list(range(dims)))
    left, right = ([side] if isinstance(side, int) else list(side) for side in dims)
    return _over(call, a, b, left, right)


def _over(call: Call, a: Any, b: Any, left: list[int], right: list[int]) -> list[Part]:
    """The sum over some axes of a value and as many of a constant (the batch counted), and all others behind one another."""
    constant = [is_constant(call, side) for side in (a, b)]
    if constant != [False, True]:
        raise call.refuse(f"{call.name} whose first operand is not the only value", "use torch.matmul or torch.einsum")
    summed = {axis % _rank(call, a): f"k{place}" for place, axis in enumerate(left)}
    if 0 in summed:
        raise call.refuse("sums over the batch", "keep the batch")
    met = {axis % _rank(call, b): f"k{place}" for place, axis in enumerate(right)}
    rows = tuple(summed.get(axis, f"m{axis}") for axis in range(1, _rank(call, a)))
    columns = tuple(met.get(axis, f"n{axis}") for axis in range(_rank(call, b)))
    result = tuple(label for label in (*rows, *columns) if not label.startswith("k"))
    return contraction(call, [(a, rows), (b, columns)], result, call.name, 1)


_ADDED = {"addmm": "input mat1 mat2 beta alpha", "baddbmm": "input batch1 batch2 beta alpha"}

FAMILY = Family(
    layers=(QMatMul, QLinear, QConv, QPermute, QReshape, QMul, QAdd),
    functions={
        torch.einsum: ("equation *operands", _einsum),
        torch.matmul: ("input other", _matmul),
        operator.matmul: ("input other", _matmul),
        torch.bmm: ("input mat2", _matmul),
        torch.mm: ("input mat2", _matmul),
        torch.inner: ("input other", _inner),
        torch.tensordot: ("a b dims", _tensordot),
        torch.addmm: (_ADDED["addmm"], _added),
        torch.baddbmm: (_ADDED["baddbmm"], _added),
    },
    methods={
        "matmul": ("input other", _matmul),
        "bmm": ("input mat2", _matmul),
        "mm": ("input mat2", _matmul),
        "inner": ("input other", _inner),
        "addmm": (_ADDED["addmm"], _added),
        "baddbmm": (_ADDED["baddbmm"], _added),
    },
    takes_constants=True,
    multiplies=True,
)
