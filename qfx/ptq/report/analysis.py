"""The analysis of a quantized model beside its float reference: at every Cast the error, the range and the distribution of numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from qfx.nn.layers import QInput, Weighted
from qfx.nn.layers.tables.lookup import Tabled
from qfx.nn.model import quantizers
from qfx.nn.qtensor import QTensor
from qfx.nn.quantizer import Quantizer
from qfx.ptq.activations import Env, run_node
from qfx.ptq.measure import sqnr

BINS = 60
"""Of a histogram."""

CLIPPED_SHARE, POOR_DB = 0.01, 10.0
"""More clipped numbers than the first, or less signal to noise than the second, is worth a warning."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of numbers in bins of equal width from ``low`` to ``high``: in float, and after the Cast."""

    low: float
    high: float
    exact: tuple[int, ...]
    quantized: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One Cast. ``kind``: "weight" or "activation" (the input's and the output's too). ``frac_bits``: its binary points, in order.

    ``db``: signal to quantization noise against the float model's numbers at the same place, in dB (inf: equal). ``own_db``: what this Cast alone
    adds. ``low``, ``high``: what the numbers span in float; ``least``, ``most``: what the type holds (the widest, of several binary points).
    ``clipped``: the share of numbers beyond the type.
    """

    name: str
    kind: str
    type: str
    frac_bits: tuple[int, ...]
    db: float
    own_db: float
    low: float
    high: float
    least: float
    most: float
    clipped: float
    histogram: Histogram


@dataclass(frozen=True, slots=True)
class Analysis:
    """The rows, in the order of the network, on ``samples`` samples; the binary points of the Casts that have no row (biases and other constants);
    what is worth a warning; and the functions that are tables: where, what, and how far from the function in least significant bits, at most."""

    samples: int
    rows: tuple[Row, ...]
    constants: tuple[tuple[str, str, tuple[int, ...]], ...]
    warnings: tuple[str, ...]
    tables: tuple[tuple[str, str, float], ...] = ()


def analyse(qmodel: fx.GraphModule, reference: fx.GraphModule, data: Tensor) -> Analysis:
    """Run both models on ``data`` (one batch) and look at every Cast of weights and activations. Changes nothing."""
    rows: list[Row] = []
    with torch.no_grad():
        for node, (mine, exact) in _side_by_side(qmodel, reference, data):
            layer = qmodel.get_submodule(str(node.target)) if node.op == "call_module" else None
            if isinstance(layer, Weighted):
                rows.append(_weights(layer, reference.get_submodule(str(node.target))))
            if isinstance(layer, Quantizer | QInput):
                before = mine[node.all_input_nodes[0].name]
                cast = layer.cast if isinstance(layer, QInput) else layer
                rows.append(_activations(cast, before, mine[node.name].tensor(), exact[node.name].tensor()))
    seen = {row.name for row in rows}
    constants = tuple((name, *_type(cast)) for name, cast in quantizers(qmodel) if name not in seen)
    tables = tuple((path, layer.extra_repr(), layer.error_bits) for path, layer in qmodel.named_modules() if isinstance(layer, Tabled))
    return Analysis(len(data), tuple(rows), constants, (*_poor(rows), *_far(tables)), tables)


def _far(tables: Iterable[tuple[str, str, float]]) -> Iterator[str]:
    for path, told, bits in tables:
        if bits > 0.5:
            yield f"{path}: {told}, which is {bits:.3g} least significant bits of its result\n  remedy: cast its input, or its result, to fewer bits"


def _side_by_side(qmodel: fx.GraphModule, reference: fx.GraphModule, data: Tensor) -> Iterator[tuple[fx.Node, tuple[Env, Env]]]:
    """Each node with the values that are alive behind it in both models."""
    start = next(node.name for node in qmodel.graph.nodes if node.op == "placeholder")
    envs: tuple[Env, Env] = ({start: data}, {start: data})
    nodes = list(qmodel.graph.nodes)
    last_use = {source.name: node for node in nodes for source in node.all_input_nodes}
    for node, other in zip(nodes, list(reference.graph.nodes), strict=True):
        run_node(qmodel, node, envs[0])
        run_node(reference, other, envs[1])
        yield node, envs
        for name in [name for name in envs[0] if last_use.get(name) is node]:
            for env in envs:
                env.pop(name, None)


def _weights(layer: Weighted, exact: nn.Module) -> Row:
    assert isinstance(exact, Weighted)
    cast, goal = layer.weight_cast, exact.cast_weight()
    return _row(cast, "weight", goal, goal, cast(layer.cast_weight()).tensor())


def _activations(cast: Quantizer, before: QTensor | Tensor, after: Tensor, exact: Tensor) -> Row:
    return _row(cast, "activation", exact, before.tensor() if isinstance(before, QTensor) else before, after)


def _row(cast: Quantizer, kind: str, exact: Tensor, before: Tensor, after: Tensor) -> Row:
    name, points = _type(cast)
    step = torch.exp2(-cast.points().double())
    width, signed = cast.word_lengths().double(), int(cast.mode.signed)
    above = torch.where(width > 0, torch.exp2(width - signed), 0.0)  # 0 of no bits
    least, most = -above * signed, torch.where(width > 0, above - 1, 0.0)
    beyond = (before.double() < (least - 0.5) * step) | (before.double() > (most + 0.5) * step)
    low, high = float(exact.min()), float(exact.max())
    return Row(
        cast.name,
        kind,
        name,
        points,
        sqnr(exact, after),
        sqnr(before, after),
        low,
        high,
        float((least * step).min()),
        float((most * step).max()),
        float(beyond.double().mean()),
        _histogram(exact, after, min(low, float(after.min())), max(high, float(after.max()))),
    )


def _histogram(exact: Tensor, quantized: Tensor, low: float, high: float) -> Histogram:
    high = high if high > low else low + 1.0
    counts = [tuple(int(n) for n in torch.histc(values.float(), BINS, low, high).tolist()) for values in (exact, quantized)]
    return Histogram(low, high, *counts)


def _type(cast: Quantizer) -> tuple[str, tuple[int, ...]]:
    element, int_bits, _ = cast.types()
    return str(element), tuple(element.width - bits for bits in int_bits)


def _poor(rows: list[Row]) -> list[str]:
    """Activations that lose much. Weights are left out: an observer clips some of them on purpose, and rounding passes move them."""
    activations = [row for row in rows if row.kind == "activation"]
    found = [f"{row.name}: {100 * row.clipped:.1f} % of its numbers are beyond its type" for row in activations if row.clipped > CLIPPED_SHARE]
    poor = [(row.name, row.db) for row in activations if row.db < POOR_DB]
    return found + [f"{name}: only {db:.1f} dB of signal to quantization noise" for name, db in poor]
