"""The checkpoints of a training that no other beats in accuracy and cost, on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qfx.errors import DataError
from qfx.files import writing
from qfx.nn.model import graph_module
from qfx.pages.notebook import notebook_table

_LIST = "front.json"


@dataclass(frozen=True, slots=True)
class Kept:
    """A checkpoint: what it costs, how good it is (greater is better), its file in the archive's folder, and when it came (counted from 1)."""

    cost: float
    score: float
    file: str
    number: int


class Archive:
    """The Pareto front of a training: for each cost the best checkpoint that cost no more.

    ``folder`` is made if it is missing; an archive that lies there is gone on with, so that an interrupted training can be resumed. ``name`` is what
    the cost is called on the plot. Files are replaced whole: an interrupt leaves the front as it was before or after.
    """

    def __init__(self, folder: str | os.PathLike[str], *, name: str = "cost") -> None:
        self.folder: Path = Path(folder)
        self.name: str = name
        self.front: tuple[Kept, ...] = ()
        self.seen: int = 0
        self.last_gain: int = 0
        if (self.folder / _LIST).is_file():
            self._read()

    def __repr__(self) -> str:
        return f"Archive({str(self.folder)!r}, {len(self.front)} of {self.seen} checkpoints on the front)"

    def _repr_html_(self) -> str:
        """The front, cheapest first, for notebooks."""
        rows = [(f"{kept.cost:g}", f"{kept.score:g}", kept.file, str(kept.number)) for kept in self.front]
        return notebook_table(repr(self), (self.name, "score", "file", "came as"), rows, numbers=(0, 1, 3))

    def add(self, qmodel: nn.Module, *, cost: float, score: float, extra: Mapping[str, Any] | None = None) -> bool:
        """Keep the model's state (and ``extra``, tensors and plain data) if no checkpoint here is as cheap and as good. Whether it was kept.

        Checkpoints that the new one beats are removed. Raises DataError for a cost or a score that is no finite number.
        """
        for what, value in (("cost", cost), ("score", score)):
            if not abs(value) < float("inf"):
                raise DataError(f"the {what} is {value!r}", where=str(self.folder), remedy="give finite numbers")
        self.seen += 1
        if any(kept.cost <= cost and kept.score >= score for kept in self.front):
            self._write()
            return False
        self.last_gain = self.seen
        new = Kept(float(cost), float(score), f"checkpoint-{self.seen:05d}.pt", self.seen)
        beaten = [kept for kept in self.front if kept.cost >= cost and kept.score <= score]
        with writing(self.folder / new.file, force=True) as path:
            torch.save({"model": graph_module(qmodel).state_dict(), "cost": new.cost, "score": new.score, "extra": dict(extra or {})}, path)
        self.front = tuple(sorted((*(kept for kept in self.front if kept not in beaten), new), key=lambda kept: kept.cost))
        self._write()
        for kept in beaten:
            (self.folder / kept.file).unlink(missing_ok=True)
        return True

    def stale(self, patience: int) -> bool:
        """Whether the last ``patience`` checkpoints brought nothing: a reason to stop."""
        return self.seen - self.last_gain >= patience

    def best(self, *, within: float) -> Kept:
        """The best checkpoint that costs at most ``within``. Raises DataError if there is none."""
        found = [kept for kept in self.front if kept.cost <= within]
        if not found:
            cheapest = f"; the cheapest costs {self.front[0].cost:g}" if self.front else ""
            raise DataError(f"no checkpoint costs at most {within:g}{cheapest}", where=str(self.folder), remedy="train on, or allow more")
        return max(found, key=lambda kept: kept.score)

    def load(self, qmodel: nn.Module, kept: Kept) -> dict[str, Any]:
        """Put the checkpoint's state into the model, and give what was kept beside it."""
        held: dict[str, Any] = torch.load(self.folder / kept.file, weights_only=True)
        graph_module(qmodel).load_state_dict(held["model"])
        extra: dict[str, Any] = held["extra"]
        return extra

    def plot(self, path: str | os.PathLike[str], *, score: str = "score", force: bool = False) -> Path:
        """Draw the front to ``path`` (PNG, SVG or PDF). Needs matplotlib."""
        from qfx.training.budget.plot import plot_fronts

        return plot_fronts({"front": [(kept.cost, kept.score) for kept in self.front]}, path, cost=self.name, score=score, force=force)

    def _write(self) -> None:
        data = {"seen": self.seen, "last_gain": self.last_gain, "name": self.name, "front": [asdict(kept) for kept in self.front]}
        with writing(self.folder / _LIST, force=True) as path:
            path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")

    def _read(self) -> None:
        place = self.folder / _LIST
        try:
            data = json.loads(place.read_text(encoding="utf-8"))
            self.front = tuple(Kept(**kept) for kept in data["front"])
            self.seen, self.last_gain = int(data["seen"]), int(data["last_gain"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"is no list of checkpoints: {error}", where=str(place), remedy="name another folder, or remove the file") from None
