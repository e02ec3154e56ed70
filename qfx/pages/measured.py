"""What data shows of a graph: the range and the distribution of every value, what casts lose, the error up to each, and right answers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from qfx.errors import DataError
from qfx.fixed.type import FixedType
from qfx.ir.feeds import Array, Feed, Feeds, feeds, part, samples
from qfx.ir.graph import Graph
from qfx.ir.interpret import WORKING_ELEMENTS, trace
from qfx.ir.losses import Loss, float_loss, raw_loss
from qfx.ir.values import ArrayType, RawArray
from qfx.operators import Cast, Input
from qfx.pages.finer import Finer, finer
from qfx.progress import Progress, parts, silent

BINS = 64
"""Of a histogram, about."""
_FIRST = 8
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of a value's numbers in bins of ``step`` from ``low`` on, those beyond at the ends. A bin holds the same number of codes as every other:
    one, or a power of two. ``before``: of the numbers that came to the cast; None of what is no cast. ``codes``: of a bin."""

    low: float
    step: float
    after: tuple[int, ...]
    before: tuple[int, ...] | None
    codes: int

    @property
    def high(self) -> float:
        return self.low + self.step * len(self.after)


@dataclass(frozen=True, slots=True)
class Value:
    """One value of the graph on the data: it spans ``low`` to ``high``, ``held`` of its ``size`` channels (of axis 0) are not 0 throughout.

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
class Answers:
    """``confusion[i][j]``: how many samples (or positions) of class i were taken for j. ``top5``: of how many the class was among the five greatest
    scores; None of fewer than ten classes."""

    confusion: tuple[tuple[int, ...], ...]
    top5: int | None

    @property
    def total(self) -> int:
        return sum(map(sum, self.confusion))

    @property
    def right(self) -> int:
        return sum(row[i] for i, row in enumerate(self.confusion))


@dataclass(frozen=True, slots=True)
class Measured:
    """Values by name, in the graph's order, on ``samples`` samples; ``reference`` says what errors are measured against."""

    samples: int
    values: dict[str, Value]
    reference: Finer | None
    answers: Answers | None

    def to_json(self, graph: Graph) -> dict[str, Any]:
        """As plain data, the casts as ``qfx report`` gives them, with ``sqnr_db`` (up to here) and ``own_sqnr_db``; null where there is no finite
        number. ``accuracy`` is null without labels."""
        casts = []
        for node in graph.nodes:
            value = self.values[node.name]
            if isinstance(node.op, Cast | Input) and value.loss is not None:
                noise = {
                    key: db if db is not None and math.isfinite(db) else None for key, db in (("sqnr_db", value.db), ("own_sqnr_db", value.own_db))
                }
                casts.append({"node": node.name, "type": str(node.op.cast), "loss": asdict(value.loss), "range": [value.low, value.high], **noise})
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
    judge = None if labels is None else _Judge.of(graph, labels, count)
    reference = finer(graph)
    most = max(1, WORKING_ELEMENTS // sum(info.size for info in graph.infos.values()))
    spans = {name: _Span(math.inf, -math.inf) for name in graph.infos}
    for piece in parts(count, progress, "looking for the range of every value", first=_FIRST, most=most):
        for name, found in _pieces(graph, part(given, piece)):
            spans[name].take(found)
    tallies = {name: _Tally.of(graph, name, span) for name, span in spans.items()}
    for piece in parts(count, progress, "counting what every cast loses", first=_FIRST, most=most):
        some = part(given, piece)
        raws = trace(graph, some)
        exact = {} if reference is None else trace(reference.graph, some)
        for name, found in _pieces(graph, some, raws):
            tallies[name].take(found, None if reference is None else _floats(reference.graph, name, exact[name]))
        if judge is not None:
            judge.take(_floats(graph, graph.outputs[0], raws[graph.outputs[0]]), piece)
    values = {name: tallies[name].value(name, spans[name]) for name in graph.infos}
    return Measured(count, values, reference, None if judge is None else judge.answers())


@dataclass(slots=True)
class _Piece:
    """A value on some samples: its numbers, and of a cast those that come to it and what it loses of them."""

    values: Floats
    before: Floats | None
    loss: Loss | None


def _pieces(graph: Graph, x: Feeds, raws: dict[str, RawArray] | None = None) -> Iterator[tuple[str, _Piece]]:
    raws = trace(graph, x) if raws is None else raws
    for node in graph.nodes:
        values = _floats(graph, node.name, raws[node.name])
        if isinstance(node.op, Input):
            yield node.name, _Piece(values, x[node.name].astype(np.float64), float_loss(x[node.name], node.op.cast))
        elif isinstance(node.op, Cast):
            (source,) = node.inputs
            yield node.name, _Piece(values, _floats(graph, source, raws[source]), raw_loss(raws[source], graph.infos[source].grids, node.op.cast))
        else:
            yield node.name, _Piece(values, None, None)


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


def bounds(cast: ArrayType) -> tuple[float, float]:
    """The least and the greatest number that the cast gives, of all its binary points."""
    types = cast.distinct
    return min(float(t.min_raw * t.lsb) for t in types), max(float(t.max_raw * t.lsb) for t in types)


@dataclass(slots=True)
class _Tally:
    """Sums and counts as pieces come."""

    low: float
    step: float
    codes: int
    half: float
    after: npt.NDArray[np.int64]
    before: npt.NDArray[np.int64] | None
    channels: npt.NDArray[np.bool_]
    loss: Loss | None
    own: list[float] = field(default_factory=lambda: [0.0, 0.0])
    all: list[float] | None = None

    @classmethod
    def of(cls, graph: Graph, name: str, span: _Span) -> _Tally:
        info, op = graph.infos[name], graph.node(name).op
        low, high, lsb, is_cast = span.low, span.high, float(FixedType(1, 1 - info.type.frac_bits).lsb), isinstance(op, Cast | Input)
        if isinstance(op, Cast | Input):
            least, most = bounds(op.cast)
            room = most - least + lsb  # numbers further beyond are counted at the ends
            low, high = max(min(least, span.before_low), least - room), min(max(most, span.before_high), most + room)
        power = max(0, math.ceil(math.log2(max((high - low) / lsb + 1, 1) / BINS)))
        step = lsb * 2.0**power
        first = math.floor(low / step)
        bins = max(1, math.floor(high / step) - first + 1)
        zeros = np.zeros(bins, dtype=np.int64)
        channels = np.zeros(info.shape[0] if info.shape else 1, dtype=np.bool_)
        return cls(first * step, step, 1 << power, lsb / 2, zeros, zeros.copy() if is_cast else None, channels, Loss() if is_cast else None)

    def take(self, piece: _Piece, exact: Floats | None) -> None:
        self._count(piece.values, self.after)
        self.channels |= (piece.values.reshape(len(piece.values), len(self.channels), -1) != 0).any(axis=(0, 2))
        if piece.before is not None and self.before is not None and self.loss is not None and piece.loss is not None:
            self._count(piece.before, self.before)
            self.loss += piece.loss
            self.own[0] += float(np.square(piece.before).sum())
            self.own[1] += float(np.square(piece.before - piece.values).sum())
        if exact is not None:
            self.all = self.all or [0.0, 0.0]
            self.all[0] += float(np.square(exact).sum())
            self.all[1] += float(np.square(exact - piece.values).sum())

    def _count(self, values: Floats, into: npt.NDArray[np.int64]) -> None:
        places = np.floor((values.reshape(-1) + self.half - self.low) / self.step).clip(0, len(into) - 1).astype(np.int64)
        into += np.bincount(places, minlength=len(into))

    def value(self, name: str, span: _Span) -> Value:
        picture = Histogram(
            self.low,
            self.step,
            tuple(self.after.tolist()),
            None if self.before is None else tuple(self.before.tolist()),
            self.codes,
        )
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


@dataclass(slots=True)
class _Judge:
    labels: npt.NDArray[np.int64]
    confusion: npt.NDArray[np.int64]
    top5: int

    @classmethod
    def of(cls, graph: Graph, labels: Array, count: int) -> _Judge:
        info = graph.infos[graph.output]
        classes, *positions = info.shape
        wanted = (count, *positions)
        if labels.shape != wanted or labels.dtype.kind not in "iub":
            remedy = f"save class numbers of shape {wanted} as 'y', or leave them out with --no-labels"
            raise DataError(f"labels of {labels.dtype} and shape {labels.shape} for scores of shape {(count, *info.shape)}", where="y", remedy=remedy)
        least, most = int(labels.min()), int(labels.max())
        if least < 0 or most >= classes:
            raise DataError(f"labels from {least} to {most} for {classes} classes", where="y", remedy="number the classes from 0 as the model does")
        return cls(labels.astype(np.int64), np.zeros((classes, classes), dtype=np.int64), 0)

    def take(self, scores: Floats, piece: slice) -> None:
        labels = self.labels[piece].reshape(-1)
        scores = np.moveaxis(scores, 1, -1).reshape(len(labels), -1)
        np.add.at(self.confusion, (labels, scores.argmax(1)), 1)
        own = np.take_along_axis(scores, labels[:, None], 1)
        first = np.arange(scores.shape[1])[None, :] < labels[:, None]
        rank = (scores > own).sum(1) + ((scores == own) & first).sum(1)  # of equal scores the first wins, as argmax has it
        self.top5 += int((rank < 5).sum())

    def answers(self) -> Answers:
        return Answers(tuple(tuple(row) for row in self.confusion.tolist()), self.top5 if len(self.confusion) >= 10 else None)
