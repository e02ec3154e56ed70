"""What data shows of a graph: the range and the distribution of every value, what casts lose, the error up to each, and right answers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from qfx.errors import DataError
from qfx.ir.feeds import Array, Feed, Feeds, feeds, part, samples
from qfx.ir.graph import Graph, Node
from qfx.ir.interpret import WORKING_ELEMENTS, trace
from qfx.ir.losses import Loss, float_loss, format_loss, raw_loss
from qfx.ir.values import Info, RawArray
from qfx.ir.within import inside
from qfx.operators import Cast, Input, MinifloatCast, Scan
from qfx.pages.answers import Answers, counted, fitting
from qfx.pages.bins import Bins
from qfx.pages.finer import Finer, finer
from qfx.progress import Progress, parts, silent

_FIRST = 8
Floats = npt.NDArray[np.float64]


Lossy = Cast | Input | MinifloatCast


def lossy(graph: Graph, start: str = "") -> dict[str, Lossy]:
    """What loses bits, by its name in the whole model: casts to fixed point, those of the inputs, and casts to minifloats; also those at each step of
    a loop, whose own inputs lose nothing."""
    found: dict[str, Lossy] = {}
    for node in graph.nodes:
        if isinstance(node.op, Cast | MinifloatCast) or (isinstance(node.op, Input) and not start):
            found[start + node.name] = node.op
    for node in graph.nodes:
        if (body := node.op.inner()) is not None:
            found |= lossy(body, inside(start + node.name, ""))
    return found


def known(graph: Graph, start: str = "") -> Iterator[tuple[str, Node, Info]]:
    """Every node of the whole model with its name there and what is known of its value, as one reads: what a loop does stands behind it."""
    for node in graph.nodes:
        yield start + node.name, node, graph.infos[node.name]
        if (body := node.op.inner()) is not None:
            yield from known(body, inside(start + node.name, ""))


def bounds(op: Lossy) -> tuple[float, float]:
    """The least and the greatest number that the cast gives, of all its binary points."""
    if isinstance(op, MinifloatCast):
        most = math.ldexp(op.kind.largest, -op.frac_bits)
        return -most, most
    types = op.cast.distinct
    return min(float(t.min_raw * t.lsb) for t in types), max(float(t.max_raw * t.lsb) for t in types)


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of a value's numbers in ``bins``, those beyond at the ends. ``before``: of the numbers that came to the cast; None of what is no
    cast."""

    bins: Bins
    after: tuple[int, ...]
    before: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Value:
    """One value on the data, at all steps of a loop together: it spans ``low`` to ``high``, ``held`` of its ``size`` channels (of axis 0) are not 0
    throughout.

    Of a cast: ``loss``, and ``own_db``, the signal to quantization noise of this cast alone. ``db``: against the reference, all casts up to here
    (None: there is no reference); inf is no noise, -inf no signal. ``before``: what the numbers span that come to a cast.
    """

    name: str
    low: float
    high: float
    size: int
    held: int
    histogram: Histogram
    loss: Loss | None = None
    own_db: float | None = None
    db: float | None = None
    before: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """Values by name in the whole model, as one reads, on ``samples`` samples; ``reference`` says
    what errors are measured against."""

    samples: int
    values: dict[str, Value]
    reference: Finer | None
    answers: Answers | None

    def to_json(self, graph: Graph) -> dict[str, Any]:
        """As plain data, the casts as ``qfx report`` gives them, with ``sqnr_db`` (up to here) and ``own_sqnr_db``; null where there is no finite
        number. ``accuracy`` is null without labels."""
        casts = []
        for name, op in lossy(graph).items():
            value = self.values[name]
            kind = " ".join(op.words()) if isinstance(op, MinifloatCast) else str(op.cast)
            noise = {key: db if db is not None and math.isfinite(db) else None for key, db in (("sqnr_db", value.db), ("own_sqnr_db", value.own_db))}
            casts.append({"node": name, "type": kind, "loss": asdict(value.loss or Loss()), "range": [value.low, value.high], **noise})
        right = None if self.answers is None else self.answers.right / max(self.answers.total, 1)
        return {"samples": self.samples, "accuracy": right, "casts": casts}


def measure(graph: Graph, x: Feed, labels: Array | None = None, *, progress: Progress = silent) -> Measured:
    """Run the graph, and its reference, on the floats ``x`` (N, *input shape; several as ``qfx.run`` takes them) and look at every value.

    ``labels``: class numbers (N, *positions) of an output of scores (N, classes, *positions). Raises DataError for data that the graph does not take,
    or none, and for labels that do not fit.
    """
    given = feeds(graph, x)
    count = samples(given)
    if count == 0:
        raise DataError("holds no samples", where="data", remedy="give at least one")
    right = None if labels is None else fitting(labels, (count, *graph.infos[graph.output].shape))
    answers = None
    reference = finer(graph)
    most = max(1, WORKING_ELEMENTS // sum(info.size for info in graph.infos.values()))
    spans = {name: _Span(math.inf, -math.inf) for name, _, _ in known(graph)}
    for piece in parts(count, progress, "looking for the range of every value", first=_FIRST, most=most):
        some = part(given, piece)
        for name, found, _ in _pieces(graph, trace(graph, some), some):
            spans[name].take(found)
    casts = lossy(graph)
    tallies = {name: _Tally.of(info, casts.get(name), spans[name]) for name, _, info in known(graph)}
    for piece in parts(count, progress, "counting what every cast loses", first=_FIRST, most=most):
        some = part(given, piece)
        raws = trace(graph, some)
        for name, found, exact in _pieces(graph, raws, some, None if reference is None else (reference.graph, trace(reference.graph, some))):
            tallies[name].take(found, exact)
        if right is not None:
            some_answers = counted(_floats(graph, graph.outputs[0], raws[graph.outputs[0]]), right[piece])
            answers = some_answers if answers is None else answers + some_answers
    values = {name: tally.value(name, spans[name]) for name, tally in tallies.items()}
    return Measured(count, values, reference, answers)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a cast loses on data, and from where to where the numbers go that come to it."""

    loss: Loss
    least: float
    most: float


def seen(graph: Graph, x: Feed) -> dict[str, Seen]:
    """Of every cast, by its name in the whole model, what it sees on the floats ``x``; without a reference, so in half the time of ``measure``.
    Raises DataError as ``measure`` does for data."""
    given = feeds(graph, x)
    count = samples(given)
    if count == 0:
        raise DataError("holds no samples", where="data", remedy="give at least one")
    found = {name: (Loss(), _Span(math.inf, -math.inf)) for name in lossy(graph)}
    most = max(1, WORKING_ELEMENTS // sum(info.size for info in graph.infos.values()))
    for start in range(0, count, most):
        some = part(given, slice(start, start + most))
        for name, piece, _ in _pieces(graph, trace(graph, some), some):
            if name in found and piece.loss is not None:
                loss, span = found[name]
                span.take(piece)
                found[name] = (loss + piece.loss, span)
    return {name: Seen(loss, span.before_low, span.before_high) for name, (loss, span) in found.items()}


@dataclass(slots=True)
class _Piece:
    """A value on some samples: its numbers, and of a cast those that come to it and what it loses of them."""

    values: Floats
    before: Floats | None
    loss: Loss | None


Raws = Mapping[str, RawArray]


def _pieces(
    graph: Graph, raws: Raws, x: Feeds | None, finer: tuple[Graph, Raws] | None = None, start: str = ""
) -> Iterator[tuple[str, _Piece, Floats | None]]:
    """Every value by its name in the whole model, and what the ``finer`` graph has in its place; those in a loop once for each step. ``x``: what
    comes to the inputs; None inside loops, where it is on their grids."""
    for node in graph.nodes:
        op, name, source = node.op, start + node.name, node.inputs[0] if node.inputs else ""
        values, exact = _floats(graph, node.name, raws[node.name]), None if finer is None else _floats(finer[0], node.name, finer[1][node.name])
        piece = _Piece(values, None, None)
        if isinstance(op, Input) and x is not None:
            piece = _Piece(values, x[node.name].astype(np.float64), float_loss(x[node.name], op.cast))
        elif isinstance(op, Cast):
            piece = _Piece(values, _floats(graph, source, raws[source]), raw_loss(raws[source], graph.infos[source].grids, op.cast))
        elif isinstance(op, MinifloatCast):
            piece = _Piece(values, _floats(graph, source, raws[source]), format_loss(raws[source], graph.infos[source].grids, op))
        yield name, piece, exact
        if isinstance(op, Scan):
            steps, others = _steps(graph, node, raws), None if finer is None else _steps(finer[0], finer[0].node(node.name), finer[1])
            for body, step in steps:
                yield from _pieces(body, step, None, None if others is None else next(others), inside(name, ""))


def _steps(graph: Graph, node: Node, raws: Raws) -> Iterator[tuple[Graph, Raws]]:
    """What a loop computes at each of its steps."""
    op, (source,) = node.op, node.inputs
    assert isinstance(op, Scan)
    for step in op.traced(raws[source], graph.infos[source], tuple(op.body.infos)):
        yield op.body, step


def _floats(graph: Graph, name: str, raw: RawArray) -> Floats:
    """The values as float64, which rounds those of more than 53 bits: good enough to look at."""
    found: Floats = np.ldexp(raw.astype(np.float64), -graph.infos[name].grids)
    return found


@dataclass(slots=True)
class _Span:
    low: float
    high: float
    before_low: float = math.inf
    before_high: float = -math.inf

    def take(self, piece: _Piece) -> None:
        self.low, self.high = min(self.low, float(piece.values.min())), max(self.high, float(piece.values.max()))
        if piece.before is not None:
            self.before_low = min(self.before_low, float(piece.before.min()))
            self.before_high = max(self.before_high, float(piece.before.max()))


@dataclass(slots=True)
class _Tally:
    """Sums and counts as pieces come."""

    bins: Bins
    after: npt.NDArray[np.int64]
    before: npt.NDArray[np.int64] | None
    channels: npt.NDArray[np.bool_]
    loss: Loss | None
    own: list[float] = field(default_factory=lambda: [0.0, 0.0])
    all: list[float] | None = None

    @classmethod
    def of(cls, info: Info, op: Lossy | None, span: _Span) -> _Tally:
        if isinstance(op, MinifloatCast):
            bins = Bins.of_format(op, span.before_low, span.before_high)
        else:
            held = None if op is None else bounds(op)
            low, high = (span.low, span.high) if op is None else (span.before_low, span.before_high)
            bins = Bins.on_grid(info.type.frac_bits, low, high, held)
        zeros = np.zeros(bins.count, dtype=np.int64)
        channels = np.zeros(info.shape[0] if info.shape else 1, dtype=np.bool_)
        return cls(bins, zeros, None if op is None else zeros.copy(), channels, None if op is None else Loss())

    def take(self, piece: _Piece, exact: Floats | None) -> None:
        self.bins.count_into(piece.values, self.after)
        self.channels |= (piece.values.reshape(len(piece.values), len(self.channels), -1) != 0).any(axis=(0, 2))
        if piece.before is not None and self.before is not None and self.loss is not None and piece.loss is not None:
            self.bins.count_into(piece.before, self.before)
            self.loss += piece.loss
            self.own[0] += float(np.square(piece.before).sum())
            self.own[1] += float(np.square(piece.before - piece.values).sum())
        if exact is not None:
            self.all = self.all or [0.0, 0.0]
            self.all[0] += float(np.square(exact).sum())
            self.all[1] += float(np.square(exact - piece.values).sum())

    def value(self, name: str, span: _Span) -> Value:
        picture = Histogram(self.bins, tuple(self.after.tolist()), None if self.before is None else tuple(self.before.tolist()))
        return Value(
            name,
            span.low,
            span.high,
            len(self.channels),
            int(self.channels.sum()),
            picture,
            self.loss,
            None if self.loss is None else decibels(*self.own),
            None if self.all is None else decibels(*self.all),
            None if self.loss is None else (span.before_low, span.before_high),
        )


def decibels(signal: float, noise: float) -> float:
    """10 log10 of signal to noise, both sums of squares."""
    if noise == 0.0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0.0 else -math.inf
