"""What casts lose on given data: overflow and significant bits, counted by the interpreter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from qfx.fixed.array import cast_float_array, cast_raw_array
from qfx.fixed.type import FixedType, OMode
from qfx.ir.feeds import Feed, Feeds, feeds, part, samples
from qfx.ir.graph import Graph
from qfx.ir.interpret import WORKING_ELEMENTS, FloatArray, trace
from qfx.ir.values import ArrayType, RawArray
from qfx.ir.within import everything, inside
from qfx.operators import Cast, Input, MinifloatCast, Scan

_T = TypeVar("_T", RawArray, FloatArray)
_WIDE = 62
"""Rounded numbers below 2**62 are compared as int64, others by their leading bit."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What one cast lost. ``values`` numbers came; rounding took ``above`` of them above the range of their type and ``below`` below it, where the
    overflow mode changes them; rounding changed ``rounded`` of them, which had bits below the least significant one.

    ``missing_bits``: so many more integer bits would hold them all (numbers below 0 apart where the type is unsigned).
    """

    values: int = 0
    above: int = 0
    below: int = 0
    rounded: int = 0
    missing_bits: int = 0

    def __add__(self, other: Loss) -> Loss:
        return Loss(
            self.values + other.values,
            self.above + other.above,
            self.below + other.below,
            self.rounded + other.rounded,
            max(self.missing_bits, other.missing_bits),
        )


def losses(graph: Graph, x: Feed) -> dict[str, Loss]:
    """What the casts of the inputs and every Cast of the graph, also to a minifloat, lose on the floats ``x`` (N, *input shape; several as
    ``interpret.run`` takes them), by node, in the graph's order, and then those inside its nodes: at all steps together.

    Raises DataError as ``interpret.run`` does.
    """
    entering = {node.name for node in graph.nodes if isinstance(node.op, Input)}
    found = {name: Loss() for name, node in everything(graph) if isinstance(node.op, Cast | MinifloatCast) or name in entering}
    for piece in _parts(graph, x):
        for node in graph.inputs:
            if isinstance(node.op, Input):
                found[node.name] += float_loss(piece[node.name], node.op.cast)
        for name, loss in _inner(graph, trace(graph, piece), ""):
            found[name] += loss
    return found


def _inner(graph: Graph, raws: Mapping[str, RawArray], start: str) -> Iterator[tuple[str, Loss]]:
    """What the casts behind the inputs lose, by name behind ``start``, those of bodies at each step."""
    for node in graph.nodes:
        source = node.inputs[0] if node.inputs else ""
        if isinstance(node.op, Cast):
            yield start + node.name, raw_loss(raws[source], graph.infos[source].grids, node.op.cast)
        if isinstance(node.op, MinifloatCast):
            yield start + node.name, format_loss(raws[source], graph.infos[source].grids, node.op)
        if isinstance(node.op, Scan):
            body = node.op.body
            for step in node.op.traced(raws[source], graph.infos[source], tuple(part.name for part in body.nodes)):
                yield from _inner(body, step, inside(start + node.name, ""))


def raw_loss(x_raw: RawArray, frac_bits: int | npt.NDArray[np.int64], cast: ArrayType) -> Loss:
    """What the cast loses on raws (N, *shape) of the grid ``frac_bits``, or of grids that broadcast against shape."""
    grids = np.asarray(frac_bits, dtype=np.int64)
    if grids.ndim == 0:
        return _per_type(x_raw, cast, lambda part, type_: _raw_loss(part, int(grids), type_))
    types = np.broadcast_to(cast.frac_bits, x_raw.shape[1:])
    total = Loss()
    for grid in np.unique(grids).tolist():
        on_grid = np.broadcast_to(grids == grid, x_raw.shape[1:])
        total += sum((_raw_loss(x_raw[:, on_grid & (types == type_.frac_bits)], grid, type_) for type_ in cast.distinct), Loss())
    return total


def format_loss(x_raw: RawArray, frac_bits: int | npt.NDArray[np.int64], op: MinifloatCast) -> Loss:
    """What the cast to a minifloat loses: ``rounded`` counts what has more significant bits than the format keeps there, ``above`` and ``below`` what
    rounding takes beyond its greatest number; ``missing_bits``, how often that would have to double."""
    found, changed = op.rounded(x_raw, frac_bits)
    over = found > op.kind.largest
    missing = int(found[over].max()).bit_length() - op.kind.largest.bit_length() if over.any() else 0
    return Loss(x_raw.size, int((over & (x_raw > 0)).sum()), int((over & (x_raw < 0)).sum()), int(changed.sum()), missing)


def float_loss(x: FloatArray, cast: ArrayType) -> Loss:
    """What the cast loses on finite floats (N, *shape), each taken as the exact number that it is."""
    return _per_type(x, cast, _float_loss)


def _parts(graph: Graph, x: Feed) -> Iterator[Feeds]:
    given = feeds(graph, x)
    count = max(1, WORKING_ELEMENTS // sum(info.size for info in graph.infos.values()))
    for start in range(0, max(samples(given), 1), count):
        yield part(given, slice(start, start + count))


def _per_type(x: _T, cast: ArrayType, count: Callable[[_T, FixedType], Loss]) -> Loss:
    if len(cast.distinct) == 1:
        return count(x, cast.element)
    frac_bits = np.broadcast_to(cast.frac_bits, x.shape[1:])
    return sum((count(x[:, frac_bits == type_.frac_bits], type_) for type_ in cast.distinct), Loss())


def _raw_loss(raw: RawArray, frac_bits: int, to: FixedType) -> Loss:
    shift = frac_bits - to.frac_bits
    if shift <= 0:
        near = min(-shift, 63)
        above, below = raw > to.max_raw >> near, raw < -(-to.min_raw >> near)
        missing = _missing(raw[above], raw[below], to, -shift)
        return Loss(raw.size, int(above.sum()), int(below.sum()), 0, missing)
    rounded = cast_raw_array(raw, frac_bits, _roomy(to))
    above, below = rounded > to.max_raw, rounded < to.min_raw
    inexact = (raw & ((1 << shift) - 1)) != 0 if shift < 63 else raw != 0
    return Loss(raw.size, int(above.sum()), int(below.sum()), int(inexact.sum()), _missing(rounded[above], rounded[below], to, 0))


def _float_loss(x: FloatArray, to: FixedType) -> Loss:
    value = x.reshape(-1).astype(np.float64)
    with np.errstate(over="ignore", under="ignore"):
        scaled = np.ldexp(value, to.frac_bits)
    inexact = (scaled != np.floor(scaled)) | ((scaled == 0) & (value != 0))
    wide = np.abs(scaled) >= 2.0**_WIDE  # an integer: float64 has 53 bits
    rounded = cast_float_array(np.where(wide, 0.0, value), _roomy(to))
    low = -(2.0 ** (to.width - 1)) if to.signed else 0.0  # a power of two: exact, as is the one above the range
    past_low = scaled <= low if to.o is OMode.SAT_SYM and to.signed else scaled < low
    above = np.where(wide, scaled >= 2.0 ** (to.width - to.signed), rounded > to.max_raw)
    below = np.where(wide, past_low, rounded < to.min_raw)
    missing = _missing(rounded[above & ~wide], rounded[below & ~wide], to, 0)
    far = wide & (above | below) if to.signed else wide & above
    if far.any():
        fraction, exponent = np.frexp(value[far])
        bits = exponent + to.frac_bits - (fraction == -0.5)  # of x, or of -x - 1
        missing = max(missing, int(bits.max()) - (to.width - to.signed))
    return Loss(value.size, int(above.sum()), int(below.sum()), int(inexact.sum()), missing)


def _roomy(to: FixedType) -> FixedType:
    """The grid and rounding of ``to`` with room for every rounded number."""
    return FixedType(63, 63 - to.frac_bits, True, to.q)


def _missing(above: RawArray, below: RawArray, to: FixedType, left: int) -> int:
    """How many integer bits ``to`` lacks for the numbers, each times 2**left."""
    furthest = [int(above.max())] if above.size else []
    if below.size and to.signed:
        furthest.append(~int(below.min()))
    return max((number.bit_length() + left - (to.width - to.signed) for number in furthest), default=0)


__all__ = ["Loss", "float_loss", "format_loss", "losses", "raw_loss"]
