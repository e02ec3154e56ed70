"""The log of a training, a run of ``qfx ptq`` or a sweep: a file of lines of JSON, to which is only ever added."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qfx.errors import DataError

if TYPE_CHECKING:
    from qfx.pages.answers import Answers

FILE = "qfx_log.jsonl"
_EVERY_S = 0.5


class Log:
    """Writes ``qfx_log.jsonl`` into ``folder``, which is made if it is missing; a log that is there is gone on with.

    It is a logger of ``qfx.trainers.course.Course`` (``course.sinks.append(Log("runs/a"))``), takes numbers of a plain loop (``log.scalars({"loss":
    0.3}, step)``), and is a ``Progress``. Each line is one of

        {"step": 12, "values": {"loss": 0.3}}
        {"stage": "gptq", "done": 3, "total": 7}
        {"pass": {"name": "gptq", "seconds": 1.5, "sqnr_db": 31.2, "accuracy": 0.91, "note": ""}}
        {"tried": {"name": "w4", "seconds": 1.5, "cost": 81920, "score": 0.91, "of": ["bit operations", "accuracy"]}}
        {"step": 12, "answers": {"classes": 2, "counts": [[0, 0, 9], [0, 1, 1], [1, 1, 6]], "top5": null}}
        {"model": "../net.onnx"}

    Numbers that are not finite are null. Raises DataError if the file cannot be written.
    """

    path: Path

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder) / FILE
        self._stage, self._told_at = "", -_EVERY_S
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8"):
                pass
        except OSError as error:
            raise DataError(f"cannot be written: {error.strerror or error}", where=str(self.path), remedy="name another folder") from error

    def __repr__(self) -> str:
        return f"Log({str(self.path.parent)!r})"

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Numbers by tag behind ``step`` steps."""
        self._add({"step": int(step), "values": {tag: _number(value) for tag, value in values.items()}})

    def histograms(self, values: Mapping[str, Any], step: int) -> None:
        """Distributions are for TensorBoard: they are left out."""

    def passed(self, name: str, seconds: float, sqnr_db: float | None, accuracy: float | None, note: str = "") -> None:
        """A pass is behind a run."""
        numbers = {"seconds": seconds, "sqnr_db": sqnr_db, "accuracy": accuracy}
        self._add({"pass": {"name": name, **{key: None if value is None else _number(value) for key, value in numbers.items()}, "note": note}})

    def tried(self, name: str, seconds: float, cost: float, score: float, of: tuple[str, str] = ("cost", "score")) -> None:
        """One of many that are compared: what it costs, how good it is (greater is better), and what both are called. Of two of one name the later
        one counts."""
        numbers = {"seconds": _number(seconds), "cost": _number(cost), "score": _number(score)}
        self._add({"tried": {"name": name, **numbers, "of": list(of)}})

    def answers(self, found: Answers, step: int) -> None:
        """Of an evaluation behind ``step`` steps: which class was taken for which, and how often, where it was at all."""
        counts = [[i, j, n] for i, row in enumerate(found.confusion) for j, n in enumerate(row) if n]
        self._add({"step": int(step), "answers": {"classes": len(found.confusion), "counts": counts, "top5": found.top5}})

    def wrote(self, model: str | os.PathLike[str]) -> None:
        """The model that came of the work was written there; the log holds the way to it from its own folder."""
        self._add({"model": Path(os.path.relpath(model, self.path.parent)).as_posix()})

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Progress: of a stage its beginning and its end, and what lies between twice a second."""
        now = time.monotonic()
        if stage == self._stage and done < total and now - self._told_at < _EVERY_S:
            return
        self._stage, self._told_at = stage, now
        self._add({"stage": stage, "done": int(done), "total": int(total)})

    def _add(self, line: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line, allow_nan=False) + "\n")


def _number(value: float) -> float | None:
    found = float(value)
    return found if math.isfinite(found) else None
