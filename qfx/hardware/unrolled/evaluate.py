"""The integer meaning of a scalar program, in numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from qfx.errors import ExactnessError
from qfx.fixed.array import cast_raw_array
from qfx.hardware.unrolled.program import Choice, Constant, Convert, Entry, Extreme, Less, Node, Product, Program, Source, Sum, type_of
from qfx.ir.values import RawArray, Shape


def evaluate(program: Program, x_raw: Sequence[RawArray], shapes: Sequence[Shape], *, check_ranges: bool = False) -> tuple[RawArray, ...]:
    """The raws (N, *shape) of every output, of ``shapes``, for raws (N, ...) of every input, in order.

    ``check_ranges``: raises ExactnessError if a node leaves its bounds.
    """
    flat = [raw.reshape(len(raw), -1) for raw in x_raw]
    found: dict[int, RawArray] = {}
    for place, node in enumerate(program.nodes):
        raw = np.broadcast_to(_value(node, found, flat), (len(flat[0]),))
        lo, hi = program.bounds[place]
        bits = program.type(place).width
        if bits < type_of((lo, hi)).width:
            raw = raw & ((1 << bits) - 1)
        elif check_ranges and raw.size and (raw.min() < lo or raw.max() > hi):
            what = f"node {place} gave [{raw.min()}, {raw.max()}] where [{lo}, {hi}] was inferred"
            raise ExactnessError(what, where=program.layers[place], remedy="please report this defect")
        found[place] = raw
    results = []
    for port, shape in zip(program.outputs, shapes, strict=True):
        columns = [found[result.node] << result.up for result in port]
        results.append(np.stack(columns, axis=1).astype(np.int64).reshape(-1, *shape))
    return tuple(results)


def _value(node: Node, found: Mapping[int, RawArray], flat: Sequence[RawArray]) -> RawArray:
    if isinstance(node, Source):
        raw: RawArray = flat[node.port][:, node.place] >> node.down
        return raw
    if isinstance(node, Constant):
        return np.array(node.raw, dtype=np.int64)
    if isinstance(node, Convert):
        return cast_raw_array(found[node.a], node.frac_bits, node.type)
    if isinstance(node, Entry):
        entry: RawArray = np.array(node.entries, dtype=np.int64)[found[node.a] - node.first]
        return entry
    if isinstance(node, Product):
        product: RawArray = found[node.a] * found[node.b]
        return product
    a, b = found[node.a] << node.up_a, found[node.b] << node.up_b
    if isinstance(node, Sum):
        return a - b if node.minus else a + b
    if isinstance(node, Extreme):
        extreme: RawArray = np.maximum(a, b) if node.greater else np.minimum(a, b)
        return extreme
    if isinstance(node, Less):
        return (a < b).astype(np.int64)
    assert isinstance(node, Choice)
    chosen: RawArray = np.where(found[node.condition] == 1, a, b)
    return chosen
