"""``python -m benchmarks.unrolled``: adder graphs of constant matrices, shared by qfx, shared by da4ml (where it is installed), and not shared.

Normally distributed weights that fill their word, inputs of 4 bits without sign. LUTs are those of the adders, as docs/unrolled.md estimates them.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator

import numpy as np

from qfx.fixed.arith import Interval
from qfx.hardware.unrolled.adders import Solver, plain_graph
from qfx.hardware.unrolled.cost import luts_of_all
from qfx.hardware.unrolled.program import Number, Program, Result, Sum, pruned
from qfx.hardware.unrolled.scalars import Scalars
from qfx.hardware.unrolled.sharing import shared_graph
from qfx.hardware.unrolled.ternary import ternary
from qfx.hardware.unrolled.unroll import MAX_OPERATIONS
from qfx.hardware.unrolled.with_da4ml import da4ml_graph
from qfx.ir.values import RawArray

SIZES = ((64, 16, 4), (32, 64, 4), (32, 32, 4), (5, 32, 4), (32, 64, 6), (32, 64, 8))
"""Outputs, inputs and bits."""


def solvers() -> dict[str, Solver]:
    """What is compared, by name."""
    found: dict[str, Solver] = {"not shared": plain_graph, "qfx": shared_graph}
    return {**found, "da4ml": da4ml_graph} if importlib.util.find_spec("da4ml") else found


def matrix(outputs: int, inputs: int, bits: int, seed: int = 0) -> RawArray:
    """Weights of ``bits`` bits."""
    half = 1 << (bits - 1)
    drawn = np.random.default_rng(seed).normal(0, half / 2.5, (outputs, inputs))
    return np.clip(np.rint(drawn), -half, half - 1).astype(np.int64)


def program(weight: RawArray, solver: Solver) -> Program:
    """Its product with a vector of numbers of 4 bits."""
    scalars = Scalars(solver, MAX_OPERATIONS)
    x = [scalars.source(0, place, Interval(0, 15, 0), 0) for place in range(weight.shape[1])]
    found: list[Number] = scalars.weighted(weight, [0] * len(weight), x, None)
    return pruned(scalars.nodes, scalars.bounds, scalars.layers, [[Result(number.node, number.exponent) for number in found]])


def depth(made: Program) -> int:
    """The most adders on any way."""
    depths: list[int] = []
    for node in made.nodes:
        depths.append(1 + max(depths[node.a], depths[node.b]) if isinstance(node, Sum) else 0)
    return max(depths)


def rows(sizes: tuple[tuple[int, int, int], ...] = SIZES) -> Iterator[tuple[str, str, int, int, int, float]]:
    """Size, who, adders, their depth, LUTs, and the processor's seconds."""
    for outputs, inputs, bits in sizes:
        for name, solver in solvers().items():
            start = time.process_time()
            made = program(matrix(outputs, inputs, bits), solver)
            seconds = time.process_time() - start
            total = sum(luts_of_all(made, ternary(made)))
            yield f"{outputs} x {inputs}, {bits} bits", name, made.operations, depth(made), total, seconds


def main() -> None:
    print("| matrix | adders by | adders | depth | LUTs | s |\n|---|---|---|---|---|---|")
    for size, name, adders, deep, total, seconds in rows():
        print(f"| {size} | {name} | {adders} | {deep} | {total} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
