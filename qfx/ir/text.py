"""A graph as a table: what ``qfx inspect`` prints. Plain text, the same for the same graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qfx.fixed.type import FixedType
from qfx.ir import words
from qfx.ir.graph import LEFT_OUT_KEY, Graph, Node
from qfx.ir.operator import Operator
from qfx.ir.within import MARK
from qfx.pages.notebook import notebook_table

_HEADER = ("node", "operator", "inputs", "shape", "type", "values", "raws", "acc", "constants")
_RIGHT_ALIGNED = ("acc",)


def listing(graph: Graph) -> str:
    """The nodes in order, one a line, ``*`` at the outputs; then the totals. Deterministic.

    The columns: operator and attributes; inputs; shape without the batch; storage type (and the bits of a word where each channel's raws are on its
    own grid); the exact range, as values (``~`` before a number that is cut to six digits) and as raws; the bits of the accumulator that holds every
    partial sum; the constants as ``count x bits``.

    What is done at each step of a sequence follows its node, as ``node::name``.

    The rounding and overflow modes stand at the cast that applies them, not in the type. Attributes at their default are left out: ``s2`` is a
    stride, ``p1`` are pads, ``d2`` a dilation, ``g4`` groups.
    """
    rows = _rows(graph)
    lines = [f"{graph.name}: {_output(graph, 0)}"] if len(graph.outputs) == 1 else [f"{graph.name}:"]
    lines += [f"  {_output(graph, position)}" for position in range(len(graph.outputs)) if len(graph.outputs) > 1]
    lines += [f"  without {told}, which is left out" for told in graph.metadata.get(LEFT_OUT_KEY, "").splitlines()]
    lines.append("")
    lines += _table([_HEADER, *rows])
    consts = [const for node in graph.nodes for const in node.op.constants().values()]
    total_macs = sum(node.op.macs(graph.infos[node.name]) for node in graph.nodes)
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
    ``accumulator_bits`` is null where nothing is accumulated; ``constants`` are those that hardware stores; ``body``, where
    there is one, are the nodes of what is done at each step."""
    nodes = [_node_data(graph, node) for node in graph.nodes]
    return {
        "model": graph.name,
        **({"output": graph.output} if len(graph.outputs) == 1 else {"outputs": dict(zip(graph.output_names, graph.outputs, strict=True))}),
        **({"left_out": graph.metadata[LEFT_OUT_KEY].splitlines()} if LEFT_OUT_KEY in graph.metadata else {}),
        "nodes": nodes,
        "macs_per_sample": sum(node.op.macs(graph.infos[node.name]) for node in graph.nodes),
        "constants": sum(entry["count"] for node in nodes for entry in node["constants"]),
        "constant_bits": sum(entry["count"] * entry["bits"] for node in nodes for entry in node["constants"]),
    }


def as_html(graph: Graph) -> str:
    """The nodes of the listing as a table for notebooks."""
    return notebook_table(repr(graph), _HEADER, _rows(graph), numbers=(_HEADER.index("acc"),))


def _output(graph: Graph, position: int) -> str:
    name, info = graph.outputs[position], graph.infos[graph.outputs[position]]
    own = graph.output_names[position]
    which = "the output" if len(graph.outputs) == 1 else f"output {position}"
    called = "" if own == name else f" ({own})"
    return f"{name} is {which}{called}, {words.sizes(info.shape)} of {info.type}"


def _rows(graph: Graph, inside: str = "") -> list[tuple[str, ...]]:
    rows = []
    for node in graph.nodes:
        name, *rest, constants = _row(graph, node)
        body = node.op.inner()
        rows.append((inside + name, *rest, constants if body is None else ""))
        rows += [] if body is None else _rows(body, f"{inside}{node.name}{MARK}")
    return rows


def _node_data(graph: Graph, node: Node) -> dict[str, Any]:
    info = graph.infos[node.name]
    stored = info.stored.spread(info.shape[0])
    held = [{"field": field, "count": const.raw.size, "bits": const.interval.width} for field, const in node.op.constants().items()]
    return {
        "name": node.name,
        "operator": describe(node.op),
        "inputs": list(node.inputs),
        "shape": list(info.shape),
        "type": str(info.type),
        "frac_bits": [word.frac_bits for word in stored] if info.per_channel else stored[0].frac_bits,
        "raw_range": [min(word.lo for word in stored), max(word.hi for word in stored)],
        "accumulator_bits": acc.width if (acc := _accumulator(graph, node)) else None,
        "constants": held,
        **({} if (body := node.op.inner()) is None else {"body": [_node_data(body, part) for part in body.nodes]}),
    }


def describe(op: Operator) -> str:
    """An operator and its attributes in a few characters: what is at its default is left out."""
    return " ".join([type(op).__name__, *(word for word in op.words() if word)])


def _accumulator(graph: Graph, node: Node) -> FixedType | None:
    return node.op.accumulator(graph.infos[node.inputs[0]]) if node.inputs else None


def _row(graph: Graph, node: Node) -> tuple[str, ...]:
    info = graph.infos[node.name]
    interval, stored, acc = info.interval.hull, info.stored.spread(info.shape[0]), _accumulator(graph, node)
    own = f" {info.word.width} per channel" if info.per_channel else ""
    return (
        node.name + ("*" if node.name in graph.outputs else ""),
        describe(node.op),
        ",".join(node.inputs),
        words.sizes(info.shape),
        f"{FixedType(info.type.width, info.type.int_bits, info.type.signed)}{own}",
        _range(interval.lo, interval.hi, interval.frac_bits),
        f"{min(word.lo for word in stored)}..{max(word.hi for word in stored)}",
        str(acc.width) if acc else "",
        " + ".join(f"{const.raw.size}x{const.interval.width}" for const in node.op.constants().values()),
    )


def _range(lo: int, hi: int, frac_bits: int) -> str:
    return f"{words.number(lo, frac_bits)}..{words.number(hi, frac_bits)}"


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
