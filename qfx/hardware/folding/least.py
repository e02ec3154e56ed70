"""The least that a model takes, however it is folded: what no search can get below is refused before one, for that reason alone.

Two bounds, both proofs and no searches. The *weights*: whatever folding is chosen, every bit of them lies in block RAM or in LUTs, or, if they are
loaded, in UltraRAM, or, of layers so small that one row holds all of them, in a flip-flop. The *layers*: for two resources a and b and any price
p >= 0, no choice of options takes less of a, while b is within its limit, than the sum over the layers of min(a + p * b), less p times the limit of b
(Lagrangian duality); the best p is found by bisection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from math import ceil

import numpy as np
import numpy.typing as npt

from qfx.hardware.board import Board
from qfx.hardware.cost.estimate import NAMES, DoesNotFitError, capacity, to_be_used
from qfx.hardware.cost.resources import FIELDS
from qfx.hardware.design import design as d
from qfx.hardware.folding.options import Layer

_TOO_SMALL = "use a larger board, shorter words or a smaller model: no folding makes it fit (qfx csim --fast runs the ONNX file without a board)"

BRAM18_BITS = 18 * 1024
"""What a block RAM holds at most: UG473, UG573."""

LUT_BITS = 64
"""What a LUT holds at most, as ROM or RAM: UG474, UG574."""

URAM_BITS = 288 * 1024
"""What an UltraRAM holds: UG573."""

UNKNOWN_MEMORY = "a board whose file gives memory_gb_s (docs/board.md) can keep weights and values in its memory"

_HALVINGS = 60
_SLACK = 1 + 1e-9  # for sums of floats

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Weights:
    """``bits`` of all weights; ``in_memory``: those that every folding keeps in block RAM or LUTs; ``in_one_row``: those that, in some folding, go
    into the multipliers through flip-flops; ``bram18``: blocks, in the design at hand; ``loaded``: bits of those that UltraRAM can hold. ``rows``:
    bits of the rows that the window units of the design keep."""

    bits: int
    in_memory: int
    in_one_row: int
    bram18: int
    loaded: int = 0
    rows: int = 0

    @classmethod
    def of(cls, design: d.Design) -> Weights:
        units = [stored for process in design.processes if (stored := process.stored) is not None]
        least, rows = sum(unit.least_bits for unit in units), sum(unit.least_bits for unit in units if unit.in_one_row)
        loaded = sum(unit.bits for unit in units if unit.loaded)
        windows = [process for process in design.processes if process.front is not None]
        lines = sum(memory.depth * memory.width * memory.count for window in windows for memory in window.memories)
        return cls(sum(unit.bits for unit in units), least - rows, rows, sum(unit.bram18 for unit in units), loaded, lines)

    def __str__(self) -> str:
        rows = f", the rows that windows keep {self.rows / 1e6:.1f} Mbit" if self.rows else ""
        return f"the weights are {self.bits / 1e6:.1f} Mbit{rows}"


def elsewhere(board: Board, remedy: str) -> str:
    """``remedy``, behind what keeps values and weights off the chip where the board has memory for them."""
    engine = "try one engine for all layers, which keeps values and weights in the board's memory (--style sequential; --style auto tries both)"
    return f"{engine}, or {remedy}" if board.memory_gb_s else f"{remedy}; {UNKNOWN_MEMORY}"


def check_weights(weights: Weights, board: Board, limits: Mapping[str, float]) -> None:
    """Raises ProjectError if no folding keeps the weights within ``limits``, shares of the board's LUTs and block RAMs."""
    if weights_exceed(weights, board, limits):
        there = capacity(board)
        luts = int(there.lut * limits["lut"]) * LUT_BITS
        also = f"{to_be_used(limits['bram18'])}, and LUTs would hold {luts / 1e6:.1f} Mbit, were there nothing else in them"
        remedy = f"keep weights in the board's memory (--weights auto), or {_TOO_SMALL}" if board.memory_gb_s else f"{_TOO_SMALL}; {UNKNOWN_MEMORY}"
        if board.uram and not weights_exceed(replace(weights, loaded=weights.bits), board, limits):
            remedy = "load them into UltraRAM when the board starts (--weights stream), or use a larger board, shorter words or a smaller model"
        raise DoesNotFitError(board, f"{_alone(weights, ceil(weights.bits / BRAM18_BITS), board)}{also}", remedy)


def weights_exceed(weights: Weights, board: Board, limits: Mapping[str, float]) -> bool:
    """Whether the weights take more than ``limits`` allow however the model is folded."""
    there = capacity(board)
    least = weights.in_memory + max(weights.in_one_row - there.ff * limits["ff"], 0) - min(weights.loaded, there.uram * limits["uram"] * URAM_BITS)
    return least > there.bram18 * limits["bram18"] * BRAM18_BITS + there.lut * limits["lut"] * LUT_BITS


def check_blocks(weights: Weights, board: Board) -> None:
    """Raises ProjectError if the weights of the design at hand take more block RAMs than the board has."""
    if weights.bram18 > capacity(board).bram18:
        raise DoesNotFitError(board, _alone(weights, weights.bram18, board), "fold the model in another way")


def check_layers(layers: Sequence[Layer], board: Board, limits: Mapping[str, float], weights: Weights | None = None) -> None:
    """Raises ProjectError if no choice of the layers' options keeps any two resources within ``limits``.

    Names a single resource that is short whatever is chosen, else two of which one is short while the other is not; and how much ``weights`` are
    where it is block RAM.
    """
    size = "" if weights is None else f"; {weights}"
    there, costs = capacity(board), [layer.sure.astype(np.float64) for layer in layers]
    allowed = [getattr(there, field) * limits[field] for field in FIELDS]
    parts = []
    for index, field in enumerate(FIELDS):
        least = np.array([cost[:, index].min() for cost in costs])
        if least.sum() > allowed[index]:
            parts.append(_needs(layers, least, field, board, limits) + (size if field == "bram18" else ""))
    if parts:
        raise DoesNotFitError(board, f"needs {'; '.join(parts)}", elsewhere(board, _TOO_SMALL))
    for a, b in sorted(permutations(range(len(FIELDS)), 2), key=lambda pair: -pair[0]):  # block RAM first: weights are what grows
        bound, shares = _least_beside(costs, a, b, allowed[b])
        if bound > allowed[a] * _SLACK:
            beside = f", even with as many {NAMES[FIELDS[b]]} as may be used ({int(allowed[b])})"
            raise DoesNotFitError(
                board,
                f"needs at least {_needs(layers, shares, FIELDS[a], board, limits, ceil(bound))}{beside}{size if FIELDS[a] == 'bram18' else ''}",
                elsewhere(board, _TOO_SMALL),
            )


def _least_beside(costs: Sequence[FloatArray], a: int, b: int, limit: float) -> tuple[float, FloatArray]:
    """A lower bound of the sum of column ``a`` while that of column ``b`` is at most ``limit``, and what each layer takes of ``a`` there."""
    low, high, bound = 0.0, 1.0, -np.inf
    taken: FloatArray = np.zeros(len(costs))

    def at(price: float) -> float:
        """The slope of the bound in the price, having looked at the bound there."""
        nonlocal bound, taken
        picks = [int((cost[:, a] + price * cost[:, b]).argmin()) for cost in costs]
        of_a, of_b = (np.array([cost[pick, column] for cost, pick in zip(costs, picks, strict=True)]) for column in (a, b))
        found = float(of_a.sum() + price * (of_b.sum() - limit))
        if found > bound:
            bound, taken = found, of_a
        return float(of_b.sum()) - limit

    if at(low) <= 0:
        return bound, taken
    while at(high) > 0 and high < 1e9:
        low, high = high, high * 4
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle) > 0 else (low, middle)
    return bound, taken


def _needs(layers: Sequence[Layer], taken: FloatArray, field: str, board: Board, limits: Mapping[str, float], total: int | None = None) -> str:
    worst = sorted(zip(layers, taken, strict=True), key=lambda pair: -pair[1])[:3]
    costly = ", ".join(f"{layer.name} {int(amount)}" for layer, amount in worst if amount)
    number = int(taken.sum()) if total is None else total
    return f"{number} {NAMES[field]} of {getattr(capacity(board), field)}{to_be_used(limits[field])} ({costly})"


def _alone(weights: Weights, blocks: int, board: Board) -> str:
    unused = "; its UltraRAM holds no constants" if board.uram and not weights.loaded else ""
    return f"the weights alone are {weights.bits / 1e6:.1f} Mbit: {blocks:,} BRAM18; the board has {capacity(board).bram18:,}{unused}"
