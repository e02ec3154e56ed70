"""The integer interpreter: the living definition of what a Graph computes. numpy int64, exact, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from qfx.errors import DataError, ExactnessError
from qfx.fixed.arith import Interval
from qfx.fixed.array import to_float
from qfx.ir import feeds as data
from qfx.ir import rules
from qfx.ir.feeds import Feed, Feeds, feeds, part, samples
from qfx.ir.graph import Graph, Node
from qfx.ir.values import Info, RawArray

FloatArray = npt.NDArray[np.float32] | npt.NDArray[np.float64]

WORKING_ELEMENTS = 1 << 23
"""Samples are taken in batches of about so many elements of work (64 MiB of int64), whatever the length of the data."""


def run(graph: Graph, x: Feed, *, named: bool = False) -> Any:
    """The output of the model for ``x`` of shape (N, *input shape): (N, *output shape) values; of several outputs a tuple, in order.

    ``x``: floats, or integers that float64 holds; for several inputs a sequence in their order or a mapping by their names. ``named``: a dict of the
    outputs by name instead, of one output too.
    float32 where an output's type fits it exactly, else float64. Raises DataError for a wrong shape or dtype, NaN or infinity and for inputs of
    different batch sizes; ExactnessError if a result does not fit float64 (``run_raws`` has no such limit).
    """
    results = tuple(values(raw, graph.infos[name]) for raw, name in zip(run_raws(graph, x), graph.outputs, strict=True))
    if named:
        return dict(zip(graph.output_names, results, strict=True))
    return results[0] if len(results) == 1 else results


def values(raw: RawArray, info: Info) -> FloatArray:
    """The values of raws of the type of ``info``: float32 where the type fits it exactly, else float64 (ExactnessError where that would round)."""
    exact = to_float(raw, info.type.frac_bits)
    return exact.astype(np.float32) if Interval.of(info.type).fits_float32() else exact


def run_raws(graph: Graph, x: Feed, *, check_ranges: bool = False) -> tuple[RawArray, ...]:
    """The raws of each output, in order, on the grid of its type. ``check_ranges``: ExactnessError if a value leaves its node's interval."""
    return outputs_raw(graph, _collect(graph, x, graph.outputs, check_ranges))


def run_raw(graph: Graph, x: Feed, *, check_ranges: bool = False) -> RawArray:
    """As ``run_raws``, of a model with one output. ModelFileError for any other."""
    return output_raw(graph, _collect(graph, x, (graph.output,), check_ranges)[graph.output])


def output_raw(graph: Graph, raw: RawArray, output: str | None = None) -> RawArray:
    """The raws of an output (default: the only one) as ``trace`` gives them, on the one grid of its type. ExactnessError where int64 does not hold
    them there."""
    name = graph.output if output is None else output
    info = graph.infos[name]
    return rules.align(raw, info, rules.one_grid(name, info))


def outputs_raw(graph: Graph, traced: Mapping[str, RawArray]) -> tuple[RawArray, ...]:
    """``output_raw`` of every output, in order, from raws by node."""
    return tuple(output_raw(graph, traced[name], name) for name in graph.outputs)


def trace(graph: Graph, x: Feed, *, check_ranges: bool = False) -> dict[str, RawArray]:
    """The raws of every node, in the graph's order, each (N, *shape) on the grids of its Info; an input's are those after its cast."""
    return _collect(graph, x, tuple(node.name for node in graph.nodes), check_ranges)


def quantize_input(graph: Graph, x: Feed) -> RawArray:
    """The raws (N, *shape) of the only input after its cast, on the grid of its type. Raises DataError as ``run`` does."""
    name = graph.input.name
    return quantize_inputs(graph, x)[name]


def quantize_inputs(graph: Graph, x: Feed) -> dict[str, RawArray]:
    """The raws (N, *shape) of each input after its cast, by name, on the grid of its type. Raises DataError as ``run`` does."""
    return _quantize(graph, feeds(graph, x))


def run_from_raw(graph: Graph, x_raw: Feed, *, check_ranges: bool = False) -> RawArray:
    """``run_from_raws`` of a model with one output. ModelFileError for any other."""
    position = graph.outputs.index(graph.output)
    return run_from_raws(graph, x_raw, check_ranges=check_ranges)[position]


def run_from_raws(graph: Graph, x_raw: Feed, *, check_ranges: bool = False) -> tuple[RawArray, ...]:
    """The raws of the outputs for raws of the inputs (N, *shape), as ``quantize_input`` and ``quantize_inputs`` give them.

    Raises DataError for a wrong shape or dtype and for raws that an input's type cannot hold.
    """
    shapes = {node.name: graph.infos[node.name].shape for node in graph.inputs}
    for name, array in x_raw.items() if isinstance(x_raw, Mapping) else zip(shapes, _listed(x_raw), strict=False):
        if not isinstance(array, np.ndarray) or array.dtype != np.int64:
            got = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise DataError(f"expected int64 raws, got {got}", where=name, remedy="use quantize_input")
    checked = data.named(shapes, x_raw, graph.name)
    for name, array in checked.items():
        info = graph.infos[name]
        held = info.interval.at(info.type.frac_bits)
        if array.size and (array.min() < held.lo or array.max() > held.hi):
            raise DataError(
                f"expected raws in [{held.lo}, {held.hi}], got [{array.min()}, {array.max()}]",
                where=name,
                remedy=f"give raws of {info.type}",
            )
    parts = [_evaluate(graph, part(checked, piece), graph.outputs, check_ranges) for piece in _batches(graph, checked)]
    return outputs_raw(graph, _joined(parts, graph.outputs))


def traced_raws(graph: Graph, x_raw: Mapping[str, RawArray], wanted: tuple[str, ...]) -> dict[str, RawArray]:
    """The raws of the wanted nodes, on the grids of their Infos, for one batch of raws of every input, by name, that are known to be right."""
    return _evaluate(graph, x_raw, wanted, check_ranges=False)


def _listed(x: Feed) -> Sequence[RawArray]:
    return x if isinstance(x, tuple | list) else (x,)


def _collect(graph: Graph, x: Feed, wanted: tuple[str, ...], check_ranges: bool) -> dict[str, RawArray]:
    given = feeds(graph, x)
    return _joined([_evaluate(graph, _quantize(graph, part(given, piece)), wanted, check_ranges) for piece in _batches(graph, given)], wanted)


def _joined(parts: Sequence[Mapping[str, RawArray]], names: tuple[str, ...]) -> dict[str, RawArray]:
    return {name: np.concatenate([piece[name] for piece in parts]) for name in names}


def _quantize(graph: Graph, x: Feeds) -> dict[str, RawArray]:
    return {node.name: node.op.evaluate((x[node.name],), (), graph.infos[node.name]) for node in graph.inputs}


def _batches(graph: Graph, x: Feeds) -> Iterator[slice]:
    """The data in pieces of bounded work; one empty piece for no data."""
    batch = max(1, WORKING_ELEMENTS // max(_work(graph, node) for node in graph.nodes))
    for start in range(0, max(samples(x), 1), batch):
        yield slice(start, start + batch)


def _work(graph: Graph, node: Node) -> int:
    """Elements per sample that computing the node takes."""
    out = graph.infos[node.name]
    return out.size + sum(graph.infos[source].size for source in node.inputs) + node.op.columns(out)


def _evaluate(graph: Graph, x_raw: Mapping[str, RawArray], wanted: tuple[str, ...], check_ranges: bool) -> dict[str, RawArray]:
    """The raws of the wanted nodes for one batch; a value is dropped after its last reader."""
    last_reader = {source: node.name for node in graph.nodes for source in node.inputs}
    alive: dict[str, RawArray] = {}
    kept: dict[str, RawArray] = {}
    for node in graph.nodes:
        infos, out = tuple(graph.infos[source] for source in node.inputs), graph.infos[node.name]
        raw = x_raw[node.name] if node.op.reads == 0 else node.op.evaluate(tuple(alive[source] for source in node.inputs), infos, out)
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
