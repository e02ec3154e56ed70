"""Help for tests, yours included: compare bit for bit, find nasty inputs, make random models.

>>> import numpy as np
>>> from qfx.ir.interpret import run_raw
>>> graph = random_graph(np.random.default_rng(7))
>>> x = adversarial_inputs(graph, np.random.default_rng(8), 5)
>>> assert_bit_exact(run_raw(graph, x), run_raw(graph, x))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

import numpy as np
import numpy.typing as npt

from qfx.errors import DataError, QfxError
from qfx.fixed.type import FixedType, OMode, QMode
from qfx.ir import ops
from qfx.ir.graph import Graph, Node
from qfx.ir.ops import OPERATORS, ArrayType, Const, Input, Op
from qfx.ir.values import Info, Shape

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
    least, all the greatest and all zero: the ends of every range.
    """
    op = graph.input.op
    if not isinstance(op, Input):
        raise DataError("the first node is no input", where=graph.name)  # pragma: no cover - Graph refuses it
    pools = {type_.int_bits: _pool(type_, rng) for type_ in op.cast.distinct}
    int_bits = np.broadcast_to(np.array(op.cast.int_bits).reshape(op.cast.shape), op.shape)
    x = np.empty((n, *op.shape), dtype=np.float32)
    for bits, pool in pools.items():
        at = int_bits == bits
        type_ = op.cast.with_int_bits(bits)
        x[:, at] = rng.choice(pool, size=(n, int(at.sum())))
        for row, raw in enumerate((type_.min_raw, type_.max_raw, 0)[:n]):
            x[row, at] = _finite([math.ldexp(raw, -type_.frac_bits)])[0]
    return x


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


def random_type(rng: np.random.Generator, *, int_bits: int | None = None, max_width: int = 10) -> FixedType:
    """A fixed-point type of any mode with 1 <= width <= max_width; binary points inside, left and right of the word."""
    width = int(rng.integers(1, max_width, endpoint=True))
    signed = bool(rng.random() < 0.7)
    o = OMode(rng.choice([mode.value for mode in OMode if signed or mode is not OMode.WRAP_SM]))
    n = int(rng.integers(1, width, endpoint=True)) if o in (OMode.WRAP, OMode.WRAP_SM) and rng.random() < 0.15 else 0
    bits = int(rng.integers(-2, width + 2, endpoint=True)) if int_bits is None else int_bits
    return FixedType(width, bits, signed, QMode(rng.choice([mode.value for mode in QMode])), o, n)


def random_graph(rng: np.random.Generator, *, max_nodes: int = 10, operators: Collection[type[Op]] = OPERATORS) -> Graph:
    """A valid random model of at most ``max_nodes`` operators behind its input, tiny and varied: branches, residual sums, concatenations, every mode,
    a binary point per channel or element, odd windows. No node is dead; no value or accumulator is wider than 45 bits.

    ``operators`` limits the choice (Input is always there). Equal generators give equal graphs.
    """
    makers = [_MAKERS[op] for op in OPERATORS if op in operators and op is not Input for _ in range(_OFTEN.get(op, 1))]
    shape = _random_shape(rng)
    graph = Graph("random", (Node("x", Input(shape, _random_cast(rng, shape, None))),), "x")
    for count in range(1, int(rng.integers(1, max(max_nodes, 1), endpoint=True)) + 1):
        graph = _grow(graph, rng, makers, count)
    return _living(graph)


_OFTEN: dict[type[Op], int] = {ops.Conv: 3, ops.Linear: 2, ops.Cast: 2, ops.MaxPool: 2, ops.SumPool: 2}
"""How many times as often as others these are tried: their attempts fail more often, or more hangs on them."""

Made = tuple[Op, tuple[str, ...]]


def _grow(graph: Graph, rng: np.random.Generator, makers: list[Callable[[np.random.Generator, Graph, str], Made]], count: int) -> Graph:
    """One node more; the same graph if no attempt gives a valid one of bounded width."""
    names = [node.name for node in graph.nodes]
    for _ in range(_ATTEMPTS):
        source = names[-1] if rng.random() < 0.8 else names[int(rng.integers(len(names)))]
        wide = graph.infos[source].interval.width > _WIDE and rng.random() < 0.8
        maker = _cast if wide and _cast in makers else makers[int(rng.integers(len(makers)))]
        try:
            op, inputs = maker(rng, graph, source)
            name = f"{type(op).__name__.lower()}{count}"
            grown = graph.with_nodes((*graph.nodes, Node(name, op, inputs)), output=name)
        except QfxError:  # a window larger than its input, and the like
            continue
        if _bounded(op, graph.infos[inputs[0]], grown.infos[name]):
            return grown
    return graph


def _bounded(op: Op, x: Info, out: Info) -> bool:
    widths = [out.type.width, out.interval.width]
    if isinstance(op, ops.Conv | ops.Linear | ops.SumPool | ops.Affine):
        widths.append(ops.accumulator(op, x).width)
    return max(widths) <= MAX_GROWN_WIDTH and abs(out.type.frac_bits) <= MAX_GROWN_WIDTH and out.size <= 200


def _living(graph: Graph) -> Graph:
    needed = {graph.output}
    for node in reversed(graph.nodes):
        if node.name in needed:
            needed.update(node.inputs)
    return graph.with_nodes(tuple(node for node in graph.nodes if node.name in needed))


def _random_shape(rng: np.random.Generator) -> Shape:
    rank = int(rng.integers(1, 3, endpoint=True))
    return (int(rng.integers(1, 4, endpoint=True)), *(int(size) for size in rng.integers(1, 6, size=rank - 1, endpoint=True)))


def _random_const(rng: np.random.Generator, shape: Shape, *, bits: int = 5) -> Const:
    bound = 1 << int(rng.integers(0, bits, endpoint=True))
    raw = rng.integers(-bound, bound, size=shape, endpoint=True)
    grid = int(rng.integers(-2, 6, endpoint=True))
    own = shape and rng.random() < 0.3  # a grid for each channel, now and then far from the others
    grids = tuple(grid + int(rng.integers(0, 4)) * int(rng.choice([1, 1, 1, 12])) for _ in range(shape[0])) if own else grid
    return Const(raw * (rng.random(shape) < 0.85), grids)


def _random_cast(rng: np.random.Generator, shape: Shape, x: Info | None) -> ArrayType:
    """A cast that mostly keeps something of what it meets."""
    int_bits = None if x is None else x.interval.hull.width - x.interval.hull.frac_bits + int(rng.integers(-3, 2))
    element = random_type(rng, int_bits=int_bits)
    kind = rng.random()
    if kind < 0.6:
        return ArrayType.of(element)
    over = (shape[0], *(1,) * (len(shape) - 1)) if kind < 0.85 else shape
    drops = rng.integers(0, 3, size=math.prod(over), endpoint=True)
    drops[int(rng.integers(len(drops)))] = 0
    return ArrayType(element, tuple(element.int_bits - int(drop) for drop in drops), over)


def _maybe(rng: np.random.Generator, const: Const) -> Const | None:
    return const if rng.random() < 0.6 else None


def _window(rng: np.random.Generator, shape: Shape) -> tuple[Shape, Shape, tuple[tuple[int, int], ...], Shape]:
    """Kernel, stride, pads and dilation that often fit a (channels, *spatial) value."""
    kernel = tuple(int(rng.integers(1, min(size + 1, 3), endpoint=True)) for size in shape[1:])
    stride, dilation = (tuple(int(step) for step in rng.choice([1, 1, 1, 2, 3], size=len(kernel))) for _ in range(2))
    pads = tuple((int(rng.integers(0, size)), int(rng.integers(0, size))) if rng.random() < 0.6 else (0, 0) for size in kernel)
    return kernel, stride, pads, dilation


def _cast(rng: np.random.Generator, graph: Graph, source: str) -> Made:
    info = graph.infos[source]
    return ops.Cast(_random_cast(rng, info.shape, info)), (source,)


def _conv(rng: np.random.Generator, graph: Graph, source: str) -> Made:
    shape = graph.infos[source].shape
    kernel, stride, pads, dilation = _window(rng, shape)
    groups = int(rng.choice([count for count in range(1, shape[0] + 1) if shape[0] % count == 0]))
    outputs = groups * int(rng.integers(1, max(4 // groups, 1), endpoint=True))
    weight = _random_const(rng, (outputs, shape[0] // groups, *kernel))
    return ops.Conv(weight, _maybe(rng, _random_const(rng, (outputs,), bits=8)), stride, pads, dilation, groups), (source,)


def _linear(rng: np.random.Generator, graph: Graph, source: str) -> Made:
    outputs = int(rng.integers(1, 4, endpoint=True))
    weight = _random_const(rng, (outputs, *graph.infos[source].shape))
    return ops.Linear(weight, _maybe(rng, _random_const(rng, (outputs,), bits=8))), (source,)


def _affine(rng: np.random.Generator, graph: Graph, source: str) -> Made:
    channels = graph.infos[source].shape[:1]
    scale = _random_const(rng, channels if rng.random() < 0.7 else ())
    return ops.Affine(scale, _maybe(rng, _random_const(rng, channels if rng.random() < 0.7 else (), bits=8))), (source,)


def _binary(op: Op) -> Callable[[np.random.Generator, Graph, str], Made]:
    def make(rng: np.random.Generator, graph: Graph, source: str) -> Made:
        like = [node.name for node in graph.nodes if graph.infos[node.name].shape == graph.infos[source].shape]
        pair = (source, like[int(rng.integers(len(like)))])
        return op, pair if rng.random() < 0.5 else pair[::-1]

    return make


def _relu(rng: np.random.Generator, graph: Graph, source: str) -> Made:
    return ops.Relu(), (source,)


def _leaky_relu(rng: np.random.Generator, graph: Graph, source: str) -> Made:
    return ops.LeakyRelu(-int(rng.integers(0, 4, endpoint=True))), (source,)


def _clip(rng: np.random.Generator, graph: Graph, source: str) -> Made:
    x = graph.infos[source].interval.hull
    grid = x.frac_bits + int(rng.integers(-1, 2, endpoint=True))
    least, greatest = (math.floor(math.ldexp(bound, grid - x.frac_bits)) for bound in (x.lo - 1, x.hi + 1))
    low, high = sorted(int(raw) for raw in rng.integers(least, greatest, size=2, endpoint=True))
    return ops.Clip(Const(np.array(low), grid), Const(np.array(high), grid)), (source,)


def _max_pool(rng: np.random.Generator, graph: Graph, source: str) -> Made:
    return ops.MaxPool(*_window(rng, graph.infos[source].shape)), (source,)


def _sum_pool(rng: np.random.Generator, graph: Graph, source: str) -> Made:
    return ops.SumPool(*_window(rng, graph.infos[source].shape)[:3]), (source,)


def _concat(rng: np.random.Generator, graph: Graph, source: str) -> Made:
    like = [node.name for node in graph.nodes if graph.infos[node.name].shape[1:] == graph.infos[source].shape[1:]]
    others = [like[int(index)] for index in rng.integers(len(like), size=int(rng.integers(1, 2, endpoint=True)))]
    return ops.Concat(), (source, *others)


def _reshape(rng: np.random.Generator, graph: Graph, source: str) -> Made:
    size = graph.infos[source].size
    first = int(rng.choice([count for count in range(1, size + 1) if size % count == 0]))
    rest = size // first
    second = int(rng.choice([count for count in range(1, rest + 1) if rest % count == 0]))
    shapes: list[Shape] = [(size,), (first, rest), (first, second, rest // second)]
    return ops.Reshape(shapes[int(rng.integers(3))]), (source,)


def _transpose(rng: np.random.Generator, graph: Graph, source: str) -> Made:
    return ops.Transpose(tuple(int(axis) for axis in rng.permutation(len(graph.infos[source].shape)))), (source,)


def _pad(rng: np.random.Generator, graph: Graph, source: str) -> Made:
    rank = len(graph.infos[source].shape)
    return ops.Pad(tuple((int(before), int(after)) for before, after in rng.integers(0, 2, size=(rank, 2)))), (source,)


def _slice(rng: np.random.Generator, graph: Graph, source: str) -> Made:
    shape = graph.infos[source].shape
    starts = tuple(int(rng.integers(0, size)) for size in shape)
    stops = tuple(int(rng.integers(start + 1, size, endpoint=True)) for start, size in zip(starts, shape, strict=True))
    return ops.Slice(starts, stops, tuple(int(step) for step in rng.integers(1, 3, size=len(shape)))), (source,)


def _upsample(rng: np.random.Generator, graph: Graph, source: str) -> Made:
    return ops.Upsample(_factors(rng, graph.infos[source].shape)), (source,)


def _stretch(rng: np.random.Generator, graph: Graph, source: str) -> Made:
    return ops.Stretch(_factors(rng, graph.infos[source].shape)), (source,)


def _factors(rng: np.random.Generator, shape: Shape) -> Shape:
    return tuple(int(factor) for factor in rng.integers(1, 3, size=len(shape) - 1, endpoint=True))


_MAKERS: dict[type[Op], Callable[[np.random.Generator, Graph, str], Made]] = {
    ops.Cast: _cast,
    ops.Conv: _conv,
    ops.Linear: _linear,
    ops.Affine: _affine,
    ops.Add: _binary(ops.Add()),
    ops.Sub: _binary(ops.Sub()),
    ops.Mul: _binary(ops.Mul()),
    ops.Relu: _relu,
    ops.LeakyRelu: _leaky_relu,
    ops.Clip: _clip,
    ops.MaxPool: _max_pool,
    ops.SumPool: _sum_pool,
    ops.Concat: _concat,
    ops.Reshape: _reshape,
    ops.Transpose: _transpose,
    ops.Pad: _pad,
    ops.Slice: _slice,
    ops.Upsample: _upsample,
    ops.Stretch: _stretch,
}
