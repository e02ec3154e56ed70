"""Adder graphs that the package da4ml makes (Sun et al., "da4ml: Distributed arithmetic for real-time neural networks on FPGAs", 2025), where it is
installed. It is called, and what it says is checked like any other graph."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

from qfx.errors import ProjectError
from qfx.hardware.unrolled.adders import AdderGraph, Making, Row, Term
from qfx.hardware.unrolled.sharing import shared_graph

_MOST_BITS = 24
"""Of a coefficient: da4ml takes them as float32."""

_INPUT, _ADD, _SUBTRACT = -1, 0, 1
"""The codes of its operations that occur in a constant matrix."""


def da4ml_graph(rows: tuple[Row, ...], depths: tuple[int, ...], widths: tuple[int, ...]) -> AdderGraph:
    """As ``shared_graph``. A matrix of longer coefficients than da4ml takes is left to that. ProjectError where da4ml is not installed."""
    try:
        solve = import_module("da4ml.cmvm").solve
    except ImportError as error:
        raise ProjectError("da4ml is not installed", where="--adders da4ml", remedy="pip install da4ml, or use the built-in adders") from error
    low = min((term.shift for row in rows for term in row), default=0)
    matrix = [[0] * len(rows) for _ in depths]
    for output, row in enumerate(rows):
        for term in row:
            matrix[term.node][output] += (-1 if term.negative else 1) << (term.shift - low)
    odd = [abs(factor) // (factor & -factor) for line in matrix for factor in line if factor]
    if not odd or max(odd).bit_length() > _MOST_BITS or max(abs(factor) for line in matrix for factor in line).bit_length() > 100:
        return shared_graph(rows, depths, widths)
    intervals = [(0.0, float((1 << width) - 1), 1.0) for width in widths]
    found = solve(np.array(matrix, dtype=np.float32), qintervals=intervals, latencies=[float(depth) for depth in depths])
    making = Making(depths, widths)
    terms: list[Term | None] = [Term(column, 0) for column in range(len(depths))]
    for stage in found.solutions:
        terms = _stage(making, stage, terms)
    graph = making.done(tuple(None if term is None else term.moved(low, False) for term in terms))
    graph.check(rows)
    return graph


def _stage(making: Making, stage: Any, inputs: Sequence[Term | None]) -> list[Term | None]:
    """The outputs of one of da4ml's stages, for what comes into it."""
    terms: list[Term | None] = []
    for op in stage.ops:
        if op.opcode == _INPUT:
            terms.append(_moved(inputs[op.id0], int(stage.inp_shifts[op.id0]), False))
        elif op.opcode in (_ADD, _SUBTRACT):
            one, two = terms[op.id0], _moved(terms[op.id1], int(op.data), op.opcode == _SUBTRACT)
            terms.append(two if one is None else one if two is None else making.joined(one, two))
        else:
            raise ProjectError(
                f"da4ml gave an operation {op.opcode}", where="--adders da4ml", remedy="use another version of da4ml, or the built-in adders"
            )
    outputs = zip(stage.out_idxs, stage.out_shifts, stage.out_negs, strict=True)
    return [None if place < 0 else _moved(terms[place], int(shift), bool(negative)) for place, shift, negative in outputs]


def _moved(term: Term | None, shift: int, negative: bool) -> Term | None:
    return None if term is None else term.moved(shift, negative)
