"""Faults in a graph: its constants as memory with faults gives them; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qfx.errors import DataError
from qfx.faults.definition import Faults, bounds
from qfx.ir.graph import Graph, Node
from qfx.ir.passes import rewrite
from qfx.ir.values import Const


@dataclass(frozen=True, slots=True)
class Word:
    """A memory word: its bits, whether it has a sign, and its binary point, or one for each index of axis 0."""

    width: int
    signed: bool
    frac_bits: tuple[int, ...]


def faulty(graph: Graph, faults: Faults, words: Mapping[str, Word] | None = None) -> Graph:
    """The graph with constants as they are read. Its interpreter, its ONNX file and its hardware compute with them.

    Each of ``words`` ("conv1.weight": the node's name and the field's) is read with faults, by default every weight, in the least word that holds its
    raws, signed. ``qfx.faults.training.words(qmodel)`` gives those of the recipe; of them, too, only what ends in ``.weight`` is read, unless given
    by itself. Raises DataError for a word that does not hold its constant, and for known faults of what is not read.
    """
    read: set[str] = set()
    made = _faulty(graph, faults, words, read)
    if missing := set(faults.known) - read:
        remedy = f"name one of these: {', '.join(sorted(read)[:6])}"
        raise DataError("has known faults, and no constant that is read is called so", where=min(missing), remedy=remedy)
    return made


def _faulty(graph: Graph, faults: Faults, words: Mapping[str, Word] | None, read: set[str]) -> Graph:
    """``faulty``; the names of what is read go to ``read``."""
    chosen = None if words is None else {name: word for name, word in words.items() if name.endswith(".weight") or len(words) == 1}

    def changed(node: Node) -> Node:
        if node.op.inner() is not None or not node.op.loadable:
            return node
        fields: dict[str, Any] = {}
        for field, const in node.op.constants().items():
            name = f"{node.name}.{field}"
            word = (_least(const) if field == "weight" else None) if chosen is None else chosen.get(name)
            if word is not None:
                fields[field] = _read(const, faults, name, word)
                read.add(name)
        return Node(node.name, replace(node.op, **fields), node.inputs) if fields else node  # type: ignore[type-var]

    made = graph.with_nodes(tuple(changed(node) for node in graph.nodes))
    return rewrite.inside(made, lambda body: _faulty(body, faults, words, read), named=True)


def _least(const: Const) -> Word:
    largest = max(abs(int(const.raw.min()) + (int(const.raw.min()) < 0)), abs(int(const.raw.max())))
    return Word(largest.bit_length() + 1, True, const.frac_bits if isinstance(const.frac_bits, tuple) else (const.frac_bits,))


def _read(const: Const, faults: Faults, name: str, word: Word) -> Const:
    rows = len(word.frac_bits)
    if rows not in (1, len(const.raw)):
        raise DataError(f"has {len(const.raw)} rows and binary points for {rows}", where=name, remedy="give one, or one for each index of axis 0")
    points = np.array(word.frac_bits, dtype=np.int64).reshape(-1, *(1,) * (const.raw.ndim - 1))
    shift = points - const.grids
    raw = const.raw << np.maximum(shift, 0)
    low, high = bounds(word.width, word.signed)
    if (raw >> np.maximum(-shift, 0) << np.maximum(-shift, 0) != raw).any() or raw.min() < low or raw.max() > high:
        told = f"holds raws of {raw.min()} to {raw.max()}, which {word.width} bits do not hold on that grid"
        raise DataError(told, where=name, remedy="give the word of this very model: qfx.faults.training.words(qmodel)")
    read = faults.drawn(name, raw.size, word.width).read((raw >> np.maximum(-shift, 0)).reshape(-1), word.signed).reshape(raw.shape)
    return Const(read, int(points.reshape(-1)[0]) if rows == 1 else tuple(word.frac_bits))
