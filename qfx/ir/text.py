"""A graph as a table: what ``qfx inspect`` prints. Plain text, the same for the same graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Context
from fractions import Fraction
from typing import Any

from qfx.fixed.type import FixedType
from qfx.ir.graph import Graph, Node
from qfx.ir.ops import (
    Add,
    Affine,
    Cast,
    Clip,
    Concat,
    Conv,
    Input,
    LeakyRelu,
    Linear,
    MaxPool,
    Mul,
    Op,
    Pad,
    Relu,
    Reshape,
    Slice,
    Stretch,
    Sub,
    SumPool,
    Transpose,
    Upsample,
    accumulator,
    macs,
)
from qfx.ir.values import ArrayType, Const, Pads, Shape

_HEADER = ("node", "operator", "inputs", "shape", "type", "values", "raws", "acc", "constants")
_RIGHT_ALIGNED = ("acc",)
_MAX_DIGITS = 9


def listing(graph: Graph) -> str:
    """The nodes in order, one a line, ``*`` at the output; then the totals. Deterministic.

    The columns: operator and attributes; inputs; shape without the batch; storage type (and the bits of a word where each channel's raws are on its
    own grid); the exact range, as values (``~`` before a number that is cut to six digits) and as raws; the bits of the accumulator that holds every
    partial sum; the constants as ``count x bits``.

    The rounding and overflow modes stand at the cast that applies them, not in the type. Attributes at their default are left out: ``s2`` is a
    stride, ``p1`` are pads, ``d2`` a dilation, ``g4`` groups.
    """
    rows = [_row(graph, node) for node in graph.nodes]
    output = graph.infos[graph.output]
    lines = [f"{graph.name}: {graph.output} is the output, {_sizes(output.shape)} of {output.type}", ""]
    lines += _table([_HEADER, *rows])
    consts = [const for node in graph.nodes for const in constants(node.op).values()]
    total_macs = sum(macs(node.op, graph.infos[node.name]) for node in graph.nodes)
    lines += [
        "",
        f"nodes                {_thousands(len(graph.nodes))}",
        f"MACs per sample      {_thousands(total_macs)}",
        f"constants            {_thousands(sum(const.raw.size for const in consts))}",
        f"bits of constants    {_thousands(sum(const.raw.size * const.interval.width for const in consts))}",
    ]
    return "\n".join(lines) + "\n"


def as_data(graph: Graph) -> dict[str, Any]:
    """The listing as JSON values. A value is ``raw * 2**-frac_bits``, with one ``frac_bits`` for all channels or a list of one for each;
    ``accumulator_bits`` is null where nothing is accumulated; ``constants`` are those that hardware stores."""
    nodes = [_node_data(graph, node) for node in graph.nodes]
    return {
        "model": graph.name,
        "output": graph.output,
        "nodes": nodes,
        "macs_per_sample": sum(macs(node.op, graph.infos[node.name]) for node in graph.nodes),
        "constants": sum(entry["count"] for node in nodes for entry in node["constants"]),
        "constant_bits": sum(entry["count"] * entry["bits"] for node in nodes for entry in node["constants"]),
    }


def _node_data(graph: Graph, node: Node) -> dict[str, Any]:
    info = graph.infos[node.name]
    words = info.stored.spread(info.shape[0])
    held = [{"field": field, "count": const.raw.size, "bits": const.interval.width} for field, const in constants(node.op).items()]
    return {
        "name": node.name,
        "operator": describe(node.op),
        "inputs": list(node.inputs),
        "shape": list(info.shape),
        "type": str(info.type),
        "frac_bits": [word.frac_bits for word in words] if info.per_channel else words[0].frac_bits,
        "raw_range": [min(word.lo for word in words), max(word.hi for word in words)],
        "accumulator_bits": accumulator(node.op, graph.infos[node.inputs[0]]).width if _accumulates(node.op) else None,
        "constants": held,
    }


def _accumulates(op: Op) -> bool:
    return isinstance(op, Conv | Linear | SumPool | Affine)


def constants(op: Op) -> dict[str, Const]:
    """The constant tensors of an operator that hardware must store, by the name of their field."""
    match op:
        case Conv(weight, bias) | Linear(weight, bias):
            held = {"weight": weight, "bias": bias}
        case Affine(scale, shift):
            held = {"scale": scale, "shift": shift}
        case _:
            held = {}
    return {field: const for field, const in held.items() if const is not None}


def describe(op: Op) -> str:
    """An operator and its attributes in a few characters: what is at its default is left out."""
    return " ".join([type(op).__name__, *(word for word in _attributes(op) if word)])


def _attributes(op: Op) -> Iterable[str]:
    match op:
        case Input(_, cast) | Cast(cast):
            return [_cast(cast)]
        case Conv(weight, _, stride, pads, dilation, groups):
            return [_sizes(weight.shape[2:]), _steps("s", stride), _pads(pads), _steps("d", dilation), f"g{groups}" if groups > 1 else ""]
        case MaxPool(kernel, stride, pads, dilation):
            return [_sizes(kernel), _steps("s", stride), _pads(pads), _steps("d", dilation)]
        case SumPool(kernel, stride, pads):
            return [_sizes(kernel), _steps("s", stride), _pads(pads)]
        case LeakyRelu(log2_slope):
            return [f"2^{log2_slope}"]
        case Clip(low, high):
            return [f"{_number(low.interval.hull.lo, low.grid)}..{_number(high.interval.hull.lo, high.grid)}"]
        case Transpose(perm):
            return [",".join(map(str, perm))]
        case Pad(pads):
            return [_pads(pads)]
        case Slice(starts, stops, steps):
            axes = zip(starts, stops, steps, strict=True)
            return [",".join(f"{start}:{stop}" + (f":{step}" if step > 1 else "") for start, stop, step in axes)]
        case Upsample(factors) | Stretch(factors):
            return [_sizes(factors)]
        case Linear() | Affine() | Add() | Sub() | Mul() | Relu() | Concat() | Reshape():
            return []


def _row(graph: Graph, node: Node) -> tuple[str, ...]:
    info = graph.infos[node.name]
    interval, words = info.interval.hull, info.stored.spread(info.shape[0])
    own = f" {info.word.width} per channel" if info.per_channel else ""
    return (
        node.name + ("*" if node.name == graph.output else ""),
        describe(node.op),
        ",".join(node.inputs),
        _sizes(info.shape),
        f"{FixedType(info.type.width, info.type.int_bits, info.type.signed)}{own}",
        _range(interval.lo, interval.hi, interval.frac_bits),
        f"{min(word.lo for word in words)}..{max(word.hi for word in words)}",
        str(accumulator(node.op, graph.infos[node.inputs[0]]).width) if _accumulates(node.op) else "",
        " + ".join(f"{const.raw.size}x{const.interval.width}" for const in constants(node.op).values()),
    )


def _sizes(sizes: Shape) -> str:
    return "x".join(map(str, sizes))


def _steps(letter: str, steps: Shape) -> str:
    """A stride or dilation, unless it is 1 on every axis; one number where all axes agree."""
    if set(steps) == {1}:
        return ""
    return f"{letter}{steps[0]}" if len(set(steps)) == 1 else letter + _sizes(steps)


def _pads(pads: Pads) -> str:
    """``p1``, ``p1x2`` (symmetric on each axis) or ``p0:1x1:1`` (before:after)."""
    if not any(map(any, pads)):
        return ""
    if all(before == after for before, after in pads):
        return _steps("p", tuple(before for before, _ in pads)) or "p1"
    return "p" + "x".join(f"{before}:{after}" for before, after in pads)


def _cast(cast: ArrayType) -> str:
    element = cast.element
    words = [element.q.value.removeprefix("AP_"), element.o.value.removeprefix("AP_")]
    if element.n:
        words.append(f"n={element.n}")
    if len(cast.distinct) > 1:
        words.append(f"W={element.width} I={min(cast.int_bits)}..{max(cast.int_bits)} over {_sizes(cast.shape)}")
    return " ".join(words)


def _range(lo: int, hi: int, frac_bits: int) -> str:
    return f"{_number(lo, frac_bits)}..{_number(hi, frac_bits)}"


def _number(raw: int, frac_bits: int) -> str:
    """The value in decimal: exact if that is short, else six digits behind a ``~``."""
    value = Fraction(raw) * Fraction(2) ** -frac_bits
    context = Context(prec=2000)
    exact = context.divide(value.numerator, value.denominator)
    plain = f"{exact:f}"
    if len(plain.lstrip("-")) <= _MAX_DIGITS:
        return plain
    return f"~{Context(prec=6).plus(exact):g}"


def _thousands(count: int) -> str:
    return f"{count:,}"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    right = [title in _RIGHT_ALIGNED for title in _HEADER]
    lines = []
    for row in rows:
        cells = zip(row, widths, right, strict=True)
        lines.append("  ".join(cell.rjust(width) if at_right else cell.ljust(width) for cell, width, at_right in cells).rstrip())
    return lines
