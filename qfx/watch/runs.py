"""What lies in a folder of long work: logs, the front of an archive, and what Lightning and transformers write of themselves."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qfx.errors import DataError
from qfx.pages.answers import Answers
from qfx.watch.front import Tried, front
from qfx.watch.log import FILE

Series = list[tuple[int, float]]
"""(step, number), by rising step."""

FORMATS = ("qfx/binary_point/", "qfx/word_length/", "qfx/saturated/", "qfx/rounded/", "qfx/least/", "qfx/most/")
_MOST = 4000


@dataclass(frozen=True, slots=True)
class Passed:
    """A pass of ``qfx ptq``."""

    name: str
    seconds: float | None
    sqnr_db: float | None
    accuracy: float | None
    note: str


@dataclass(slots=True)
class Run:
    """One file's worth: its ``name`` is that of its folder, below the one that is watched. ``stage``: (what, done, total) last told. ``front``:
    (cost, score) of an archive's checkpoints, or of what was ``tried``; ``cost`` and ``score`` are what both are called. ``model``: the file that
    came of it, "" as long as there is none. ``answers``: of the last evaluation whose confusions were told, behind the step ``judged``."""

    name: str
    series: dict[str, Series] = field(default_factory=dict)
    passes: list[Passed] = field(default_factory=list)
    stage: tuple[str, int, int] | None = None
    front: list[tuple[float, float]] = field(default_factory=list)
    cost: str = ""
    score: str = "score"
    tried: list[Tried] = field(default_factory=list)
    model: str = ""
    answers: Answers | None = None
    judged: int = 0

    @property
    def step(self) -> int:
        """The last one."""
        return max((points[-1][0] for points in self.series.values() if points), default=0)

    def metrics(self) -> dict[str, Series]:
        """Losses, accuracies and costs: what is no format of a single quantizer, in order."""
        found = {tag: points for tag, points in self.series.items() if not tag.startswith(FORMATS) and points}
        return dict(sorted(found.items(), key=lambda item: (item[0].startswith("qfx/"), item[0])))

    def quantizers(self) -> dict[str, dict[str, Series]]:
        """By the name of a quantizer its series of FORMATS, by the word in the middle: binary_point, word_length, saturated, rounded, least, most."""
        found: dict[str, dict[str, Series]] = {}
        for tag, points in self.series.items():
            for start in FORMATS:
                if tag.startswith(start) and points:
                    found.setdefault(tag.removeprefix(start), {})[start.split("/")[1]] = points
        return found

    def add(self, values: Mapping[str, Any], step: int) -> None:
        """What is no number, or none that can be drawn (a loss that overflowed), is left out."""
        for tag, value in values.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                self.series.setdefault(str(tag), []).append((step, float(value)))


def read(folder: Path) -> list[Run]:
    """The runs in the folder and below it, by name. Raises DataError if it is none; a folder in which nothing has been written yet has none."""
    if not folder.is_dir():
        raise DataError("is not a folder", where=str(folder), remedy="name the folder of a log: Log(FOLDER), or `qfx ptq --log FOLDER`")
    runs: dict[Path, Run] = {}
    for path in sorted(folder.rglob("*")):
        reader = _READERS.get(path.name)
        if reader is None or not path.is_file():
            continue
        place = path.parent.relative_to(folder)
        run = runs.setdefault(place, Run(str(place) if place.parts else folder.resolve().name))
        try:
            reader(run, path)
        except (OSError, ValueError, KeyError, TypeError):
            continue  # half written, or of somebody else
    for run in runs.values():
        run.series = {tag: _thinned(sorted(dict(points).items())) for tag, points in run.series.items()}
    return [run for run in runs.values() if run.series or run.passes or run.stage or run.front or run.model or run.answers]


def last_answers(runs: Sequence[Run], model: Path | None = None) -> Answers | None:
    """Those of the run that ``model`` came of, else of the one run that has any; None where several have."""
    found = [run for run in runs if run.answers is not None]
    own = [run for run in found if model is not None and run.model == str(model.resolve())]
    return own[-1].answers if own else found[0].answers if len(found) == 1 else None


def _thinned(points: Series) -> Series:
    """No more than can be seen."""
    every = len(points) // _MOST + 1
    return [*points[:-1:every], points[-1]] if points else points


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue  # the last line, while it is written
        if isinstance(line, dict):
            yield line


def _read_log(run: Run, path: Path) -> None:
    for line in _lines(path):
        if "values" in line:
            run.add(line["values"], int(line["step"]))
        elif "stage" in line:
            run.stage = (str(line["stage"]), int(line["done"]), int(line["total"]))
        elif "pass" in line:
            told = line["pass"]
            run.passes.append(Passed(str(told["name"]), told.get("seconds"), told.get("sqnr_db"), told.get("accuracy"), str(told.get("note", ""))))
        elif "answers" in line:
            told, run.judged = line["answers"], int(line["step"])
            run.answers = Answers.of(int(told["classes"]), told["counts"], told["top5"])
        elif "tried" in line:
            told = line["tried"]
            run.tried = [one for one in run.tried if one.name != told["name"]]
            if told["cost"] is not None and told["score"] is not None:
                run.tried.append(Tried(str(told["name"]), float(told["cost"]), float(told["score"]), told.get("seconds")))
            run.cost, run.score = map(str, told["of"])
        elif "model" in line:
            run.model = str((path.parent / str(line["model"])).resolve())
    if run.tried:
        run.front = [(one.cost, one.score) for one in front(run.tried)]


def _read_front(run: Run, path: Path) -> None:
    """That of ``qfx.Archive``."""
    data = json.loads(path.read_text(encoding="utf-8"))
    run.tried = [Tried(str(kept.get("file", place)), float(kept["cost"]), float(kept["score"])) for place, kept in enumerate(data["front"])]
    run.front = [(one.cost, one.score) for one in run.tried]
    run.cost = str(data.get("name", "cost"))


def _read_lightning(run: Run, path: Path) -> None:
    """metrics.csv of Lightning's CSVLogger."""
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            step = int(float(row.get("step") or 0))
            run.add({tag: float(text) for tag, text in row.items() if tag not in ("step", "epoch") and text}, step)


def _read_transformers(run: Run, path: Path) -> None:
    """trainer_state.json of transformers' checkpoints."""
    for row in json.loads(path.read_text(encoding="utf-8"))["log_history"]:
        run.add({tag: value for tag, value in row.items() if tag not in ("step", "epoch")}, int(row["step"]))


_READERS = {FILE: _read_log, "front.json": _read_front, "metrics.csv": _read_lightning, "trainer_state.json": _read_transformers}
