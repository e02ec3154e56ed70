"""What was taken for what: scores beside the right class numbers, counted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qfx.errors import DataError

_TOP = 5
_CLASSES_OF_TOP = 10


@dataclass(frozen=True, slots=True)
class Answers:
    """``confusion[i][j]``: how many samples (or positions) of class i were taken for j. ``top5``: of how many the class was among the five greatest
    scores; None of fewer than ten classes. The sum of two is that of the samples of both."""

    confusion: tuple[tuple[int, ...], ...]
    top5: int | None

    @classmethod
    def of(cls, classes: int, counts: Iterable[Sequence[int]], top5: int | None) -> Answers:
        """From (class, what it was taken for, how often), all others never."""
        rows = [[0] * classes for _ in range(classes)]
        for right, taken, times in counts:
            rows[right][taken] = times
        return cls(tuple(map(tuple, rows)), top5)

    @property
    def total(self) -> int:
        return sum(map(sum, self.confusion))

    @property
    def right(self) -> int:
        return sum(row[i] for i, row in enumerate(self.confusion))

    def __add__(self, other: Answers) -> Answers:
        counts = tuple(tuple(a + b for a, b in zip(*rows, strict=True)) for rows in zip(self.confusion, other.confusion, strict=True))
        return Answers(counts, None if self.top5 is None or other.top5 is None else self.top5 + other.top5)


def fitting(labels: npt.NDArray[Any], shape: tuple[int, ...], where: str = "y") -> npt.NDArray[np.int64]:
    """``labels``, if they are class numbers (N, *positions) for scores of ``shape`` (N, classes, *positions). Raises DataError if not."""
    wanted = (shape[0], *shape[2:])
    if labels.shape != wanted or labels.dtype.kind not in "iub" or len(shape) < 2:
        remedy = f"give class numbers of shape {wanted} (in a file, as 'y'), or leave them out"
        kind = "" if labels.dtype.kind in "iub" else f" and type {labels.dtype}"
        raise DataError(f"labels of shape {labels.shape}{kind} for scores of shape {shape}", where=where, remedy=remedy)
    least, most = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    if least < 0 or most >= shape[1]:
        raise DataError(f"labels from {least} to {most} for {shape[1]} classes", where=where, remedy="number the classes from 0 as the model does")
    return labels.astype(np.int64)


def counted(scores: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> Answers:
    """Of scores (N, classes, *positions) and ``fitting`` labels. Of equal scores the first wins, as ``argmax`` has it."""
    classes, right = scores.shape[1], labels.reshape(-1)
    scores = np.moveaxis(scores, 1, -1).reshape(len(right), classes)
    confusion = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(confusion, (right, scores.argmax(1)), 1)
    own = np.take_along_axis(scores, right[:, None], 1)
    first = np.arange(classes)[None, :] < right[:, None]
    rank = (scores > own).sum(1) + ((scores == own) & first).sum(1)
    return Answers(tuple(tuple(row) for row in confusion.tolist()), int((rank < _TOP).sum()) if classes >= _CLASSES_OF_TOP else None)
