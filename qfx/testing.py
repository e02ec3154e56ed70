"""Help for tests, yours included: compare bit for bit, find nasty inputs, make random models.

>>> import numpy as np
>>> from qfx.ir.interpret import run_raw
>>> graph = random_graph(np.random.default_rng(7))
>>> x = adversarial_inputs(graph, np.random.default_rng(8), 5)
>>> assert_bit_exact(run_raw(graph, x), run_raw(graph, x))
"""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from qfx.errors import DataError, QfxError
from qfx.fixed.type import FixedType
from qfx.ir.drawing import Drawing, random_cast
from qfx.ir.drawing import random_type as random_type  # part of this module's vocabulary
from qfx.ir.graph import Graph, Node
from qfx.ir.operator import Mover
from qfx.ir.values import Info, Shape
from qfx.operators import OPERATORS, Cast, Conv, Embedding, Input, Linear, MaxPool, Operator, SumPool

MAX_GROWN_WIDTH = 45
"""No value and no accumulator of a random graph is wider: float64 holds them all."""

_WIDE = 20
"""Values of random graphs above this width are mostly cast next, as in real networks."""

_ATTEMPTS = 40


def assert_bit_exact(actual: npt.ArrayLike, expected: npt.ArrayLike, *, names: tuple[str, str] = ("actual", "expected")) -> None:
    """Raises AssertionError unless both arrays have one shape and equal numbers everywhere: no tolerance; +0 equals -0, NaN equals nothing.

    Both hold integers (raws), or both hold floats (values; float32 may meet float64). The message names the first index that differs and what the
    two, called by ``names``, have there.

    >>> assert_bit_exact(np.array([1, 2, 3]), np.array([1, 2, 4]), names=("C simulation", "interpreter"))
    Traceback (most recent call last):
    AssertionError: 1 of 3 numbers differ; first at (2,): C simulation has 3, interpreter has 4
    """
    a, b = np.asarray(actual), np.asarray(expected)
    for name, array in zip(names, (a, b), strict=True):
        if array.dtype.kind not in "iuf":
            raise AssertionError(f"{name} is {array.dtype}, neither integers nor floats")
    if (a.dtype.kind == "f") != (b.dtype.kind == "f"):
        raise AssertionError(f"{names[0]} is {a.dtype}, {names[1]} is {b.dtype}: compare raws with raws or values with values")
    if a.shape != b.shape:
        raise AssertionError(f"{names[0]} has shape {a.shape}, {names[1]} has shape {b.shape}")
    differ = a.astype(object) != b.astype(object) if a.dtype == np.uint64 or b.dtype == np.uint64 else a != b
    if np.any(differ):
        index = tuple(int(i) for i in np.argwhere(differ)[0])
        found = ", ".join(f"{name} has {_number(array[index])}" for name, array in zip(names, (a, b), strict=True))
        raise AssertionError(f"{int(np.sum(differ))} of {a.size} numbers differ; first at {index}: {found}")


def _number(value: np.generic) -> str:
    item = value.item()
    return f"{item!r} ({item.hex()})" if isinstance(item, float) else str(item)


def adversarial_inputs(graph: Graph, rng: np.random.Generator, n: int) -> npt.NDArray[np.float32]:
    """``n`` samples (n, *input shape) that look for mistakes in the input cast and behind it.

    Each element is drawn from: multiples and half multiples (ties) of its type's least significant bit and their neighbouring floats, the type's
    bounds and one bit beyond, +-0, subnormals, 2**24 and its neighbours, huge numbers, ordinary numbers in range. The first samples are all the
    least, all the greatest and all zero: the ends of every range. What numbers the rows of a table stays within it.
    """
    return _adversarial(graph.input, rng, n, _rows(graph, graph.input))


def adversarial_feeds(graph: Graph, rng: np.random.Generator, n: int) -> dict[str, npt.NDArray[np.float32]]:
    """The same for each input of a model, by name."""
    return {node.name: _adversarial(node, rng, n, _rows(graph, node)) for node in graph.inputs}


def _rows(graph: Graph, input_: Node) -> int | None:
    """Of the tables whose rows the input numbers, the fewest rows; None if it numbers none."""
    moved = {input_.name}  # the values that are the input's numbers, moved
    found = []
    for node in graph.nodes:
        if moved.intersection(node.inputs):
            if isinstance(node.op, Mover):
                moved.add(node.name)
            if isinstance(node.op, Embedding):
                found.append(len(node.op.rows.raw))
    return min(found, default=None)


def _adversarial(node: Node, rng: np.random.Generator, n: int, rows: int | None) -> npt.NDArray[np.float32]:
    op = node.op
    if not isinstance(op, Input):
        raise DataError("is no input", where=node.name)  # pragma: no cover - nothing else reads nothing
    pools = {type_.int_bits: _pool(type_, rng) for type_ in op.cast.distinct}
    int_bits = np.broadcast_to(np.array(op.cast.int_bits).reshape(op.cast.shape), op.shape)
    x = np.empty((n, *op.shape), dtype=np.float32)
    for bits, pool in pools.items():
        at = int_bits == bits
        type_ = op.cast.with_int_bits(bits)
        x[:, at] = rng.choice(pool, size=(n, int(at.sum())))
        if rows is not None:
            x[:, at] = np.mod(x[:, at], np.float32(rows))
        for row, raw in enumerate((type_.min_raw, type_.max_raw, 0)[:n]):
            x[row, at] = _finite([math.ldexp(raw, -type_.frac_bits)])[0]
    return x if rows is None else np.clip(x, 0, rows - 1)


def _pool(type_: FixedType, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    lo, hi = type_.min_raw, type_.max_raw
    raws = [lo, lo + 1, hi - 1, hi, lo - 1, hi + 1, lo - 0.5, hi + 0.5, 2 * lo, 2 * hi + 1, 3 * hi + 2, 5 * lo - 3, 0, 0.5, -0.5, 1, -1, 1.5, -1.5]
    raws += [float(raw) + half for raw in rng.integers(lo, hi, size=8, endpoint=True) for half in (0.0, 0.5)]
    grid = _finite([math.ldexp(raw, -type_.frac_bits) for raw in raws])
    infinity = np.float32(np.inf)
    with np.errstate(over="ignore"):  # the neighbour of the greatest float is infinite, and dropped below
        near = np.concatenate([grid, np.nextafter(grid, infinity), np.nextafter(grid, -infinity)])
    fixed = _finite([0.0, -0.0, 1e-45, -1e-45, 1.1e-38, -1.1e-38, 2.0**24, 2.0**24 + 2, -(2.0**24) + 1, 1e30, -1e30, 3.4e38, -3.4e38])
    spread = math.ldexp(max(hi, -lo, 1), -type_.frac_bits)
    ordinary = _finite(rng.uniform(-1.5, 1.5, size=24) * spread)
    pool: npt.NDArray[np.float32] = np.concatenate([near, near, fixed, ordinary])
    kept: npt.NDArray[np.float32] = pool[np.isfinite(pool)]
    return kept


def _finite(values: npt.ArrayLike) -> npt.NDArray[np.float32]:
    bound = float(np.finfo(np.float32).max)
    exact: npt.NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    return np.clip(exact, -bound, bound).astype(np.float32)


def random_graph(rng: np.random.Generator, *, max_nodes: int = 10, operators: Collection[type[Operator]] = OPERATORS, several: bool = False) -> Graph:
    """A valid random model of at most ``max_nodes`` operators behind its input, tiny and varied: branches, residual sums, concatenations, every mode,
    a binary point per channel or element, odd windows. No node is dead; no value or accumulator is wider than 45 bits.

    ``operators`` limits the choice (Input is always there). ``several``: mostly two inputs and two outputs. Equal generators give equal graphs.
    """
    choice = [op for op in OPERATORS if op in operators and op is not Input for _ in range(_OFTEN.get(op, 1))]
    shape = _random_shape(rng)
    graph = Graph("random", (Node("x", Input(shape, random_cast(rng, shape))),), "x")
    if several:
        graph = graph.with_nodes((*graph.nodes, Node("y", Input(shape, random_cast(rng, shape)))))
    for count in range(1, int(rng.integers(1, max(max_nodes, 1), endpoint=True)) + 1):
        graph = _grow(graph, rng, choice, count)
    return _living(_second_output(graph, rng) if several else graph)


_OFTEN: dict[type[Operator], int] = {Conv: 3, Linear: 2, Cast: 2, MaxPool: 2, SumPool: 2}
"""How many times as often as others these are tried: their attempts fail more often, or more hangs on them."""


def _grow(graph: Graph, rng: np.random.Generator, choice: list[type[Operator]], count: int) -> Graph:
    """One node more; the same graph if no attempt gives a valid one of bounded width."""
    names = [node.name for node in graph.nodes]
    for _ in range(_ATTEMPTS):
        source = names[-1] if rng.random() < 0.8 else names[int(rng.integers(len(names)))]
        wide = graph.infos[source].interval.width > _WIDE and rng.random() < 0.8
        operator = Cast if wide and Cast in choice else choice[int(rng.integers(len(choice)))]
        try:
            op, inputs = operator.draw(Drawing(rng, graph, source))
            name = f"{type(op).__name__.lower()}{count}"
            grown = graph.with_nodes((*graph.nodes, Node(name, op, inputs)), output=name)
        except QfxError:  # a window larger than its input, and the like
            continue
        if _bounded(op, graph.infos[inputs[0]], grown.infos[name]):
            return grown
    return graph


def _second_output(graph: Graph, rng: np.random.Generator) -> Graph:
    """The graph with another of its values as an output, if it has one: often one that is read inside."""
    others = [node.name for node in graph.nodes if node.name != graph.output]
    return graph.with_nodes(graph.nodes, (graph.output, others[int(rng.integers(len(others)))])) if others else graph


def _bounded(op: Operator, x: Info, out: Info) -> bool:
    widths = [out.type.width, out.interval.width]
    if (acc := op.accumulator(x)) is not None:
        widths.append(acc.width)
    return max(widths) <= MAX_GROWN_WIDTH and abs(out.type.frac_bits) <= MAX_GROWN_WIDTH and out.size <= 200


def _living(graph: Graph) -> Graph:
    needed = set(graph.outputs)
    for node in reversed(graph.nodes):
        if node.name in needed:
            needed.update(node.inputs)
    return graph.with_nodes(tuple(node for node in graph.nodes if node.name in needed))


def _random_shape(rng: np.random.Generator) -> Shape:
    rank = int(rng.choice([1, 2, 3, 1, 2, 3, 4, 5]))
    longest = {4: 3, 5: 2}.get(rank, 6)  # so that there is room to grow
    return (int(rng.integers(1, 4, endpoint=True)), *(int(size) for size in rng.integers(1, longest, size=rank - 1, endpoint=True)))
