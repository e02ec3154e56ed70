"""The integer interpreter: the living definition of what a Graph computes. numpy int64, exact, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from qfx.errors import DataError, ExactnessError
from qfx.fixed.arith import Interval
from qfx.fixed.array import to_float
from qfx.ir import rules
from qfx.ir.graph import Graph, Node
from qfx.ir.values import Info, RawArray

FloatArray = npt.NDArray[np.float32] | npt.NDArray[np.float64]

_Batch = TypeVar("_Batch", RawArray, FloatArray)

WORKING_ELEMENTS = 1 << 23
"""Samples are taken in batches of about so many elements of work (64 MiB of int64), whatever the length of the data."""


def run(graph: Graph, x: FloatArray) -> FloatArray:
    """The output of the model for floats ``x`` of shape (N, *input shape): (N, *output shape) values.

    float32 where the output's type fits it exactly, else float64. Raises DataError for a wrong shape or dtype, NaN or infinity; ExactnessError
    if a result does not fit float64 (``run_raw`` has no such limit).
    """
    return values(run_raw(graph, x), graph.infos[graph.output])


def values(raw: RawArray, info: Info) -> FloatArray:
    """The values of raws of the type of ``info``: float32 where the type fits it exactly, else float64 (ExactnessError where that would round)."""
    exact = to_float(raw, info.type.frac_bits)
    return exact.astype(np.float32) if Interval.of(info.type).fits_float32() else exact


def run_raw(graph: Graph, x: FloatArray, *, check_ranges: bool = False) -> RawArray:
    """As ``run``, but the raws of the output, on the grid of its type. ``check_ranges``: ExactnessError if a value leaves its node's interval."""
    return output_raw(graph, _collect(graph, x, (graph.output,), check_ranges)[graph.output])


def output_raw(graph: Graph, raw: RawArray) -> RawArray:
    """The raws of the output as ``trace`` gives them, on the one grid of its type. ExactnessError where int64 does not hold them there."""
    info = graph.infos[graph.output]
    return rules.align(raw, info, rules.one_grid(graph.output, info))


def trace(graph: Graph, x: FloatArray, *, check_ranges: bool = False) -> dict[str, RawArray]:
    """The raws of every node, in the graph's order, each (N, *shape) on the grids of its Info; the input's are those after its cast."""
    return _collect(graph, x, tuple(node.name for node in graph.nodes), check_ranges)


def quantize_input(graph: Graph, x: FloatArray) -> RawArray:
    """The raws (N, *shape) of the input after its cast, on the grid of its type. Raises DataError as ``run`` does."""
    _check_floats(graph, x)
    return _quantize(graph, x)


def run_from_raw(graph: Graph, x_raw: RawArray, *, check_ranges: bool = False) -> RawArray:
    """The raws of the output for raws of the input (N, *shape), as ``quantize_input`` gives them.

    Raises DataError for a wrong shape or dtype and for raws that the input's type cannot hold.
    """
    node, info = graph.input, graph.infos[graph.input.name]
    if not isinstance(x_raw, np.ndarray) or x_raw.dtype != np.int64:
        got = x_raw.dtype if isinstance(x_raw, np.ndarray) else type(x_raw).__name__
        raise DataError(f"expected int64 raws, got {got}", where=node.name, remedy="use quantize_input")
    _check_batch(node, info, x_raw)
    held = info.interval.at(info.type.frac_bits)
    if x_raw.size and (x_raw.min() < held.lo or x_raw.max() > held.hi):
        raise DataError(
            f"expected raws in [{held.lo}, {held.hi}], got [{x_raw.min()}, {x_raw.max()}]",
            where=node.name,
            remedy=f"give raws of {info.type}",
        )
    parts = [_evaluate(graph, part, (graph.output,), check_ranges)[graph.output] for part in _batches(graph, x_raw)]
    return output_raw(graph, np.concatenate(parts))


def _collect(graph: Graph, x: FloatArray, wanted: tuple[str, ...], check_ranges: bool) -> dict[str, RawArray]:
    _check_floats(graph, x)
    parts = [_evaluate(graph, _quantize(graph, part), wanted, check_ranges) for part in _batches(graph, x)]
    return {name: np.concatenate([part[name] for part in parts]) for name in wanted}


def _quantize(graph: Graph, x: FloatArray) -> RawArray:
    return graph.input.op.evaluate((x,), (), graph.infos[graph.input.name])


def _check_floats(graph: Graph, x: FloatArray) -> None:
    node, info = graph.input, graph.infos[graph.input.name]
    if not isinstance(x, np.ndarray) or x.dtype not in (np.float32, np.float64):
        got = x.dtype if isinstance(x, np.ndarray) else type(x).__name__
        raise DataError(f"expected a float32 or float64 array, got {got}", where=node.name, remedy="convert the data")
    _check_batch(node, info, x)
    finite = np.isfinite(x)
    if not finite.all():
        index = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise DataError(f"expected finite numbers, got {x[index]} at {index}", where=node.name, remedy="remove NaN and infinity from the data")


def _check_batch(node: Node, info: Info, x: npt.NDArray[np.generic]) -> None:
    if x.ndim == 0 or x.shape[1:] != info.shape:
        expected = ", ".join(map(str, ("N", *info.shape)))
        raise DataError(f"expected the shape ({expected}), got {x.shape}", where=node.name, remedy="put the batch first and leave no axis out")


def _batches(graph: Graph, x: _Batch) -> Iterator[_Batch]:
    """The data in pieces of bounded work; one empty piece for no data."""
    batch = max(1, WORKING_ELEMENTS // max(_work(graph, node) for node in graph.nodes))
    for start in range(0, max(len(x), 1), batch):
        yield x[start : start + batch]


def _work(graph: Graph, node: Node) -> int:
    """Elements per sample that computing the node takes."""
    out = graph.infos[node.name]
    return out.size + sum(graph.infos[source].size for source in node.inputs) + node.op.columns(out)


def _evaluate(graph: Graph, x_raw: RawArray, wanted: tuple[str, ...], check_ranges: bool) -> dict[str, RawArray]:
    """The raws of the wanted nodes for one batch; a value is dropped after its last reader."""
    last_reader = {source: node.name for node in graph.nodes for source in node.inputs}
    alive: dict[str, RawArray] = {}
    kept: dict[str, RawArray] = {}
    for node in graph.nodes:
        infos, out = tuple(graph.infos[source] for source in node.inputs), graph.infos[node.name]
        raw = x_raw if node.op.reads == 0 else node.op.evaluate(tuple(alive[source] for source in node.inputs), infos, out)
        if check_ranges:
            _check_range(node, out, raw)
        for source in set(node.inputs):
            if last_reader[source] == node.name:
                del alive[source]
        if node.name in last_reader:
            alive[node.name] = raw
        if node.name in wanted:
            kept[node.name] = raw
    return kept


def _check_range(node: Node, info: Info, raw: RawArray) -> None:
    if raw.shape[1:] != info.shape or raw.dtype != np.int64:
        raise ExactnessError(f"gave {raw.dtype} {raw.shape[1:]} where {info.shape} was inferred", where=node.name, remedy="please report this defect")
    for channel, bound in enumerate(info.stored.spread(info.shape[0]) if info.per_channel else (info.stored.hull,)):
        part = raw[:, channel] if info.per_channel else raw
        if part.size and (part.min() < bound.lo or part.max() > bound.hi):
            raise ExactnessError(
                f"gave raws in [{part.min()}, {part.max()}] where [{bound.lo}, {bound.hi}] was inferred",
                where=node.name,
                remedy="please report this defect",
            )
