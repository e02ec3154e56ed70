"""The saturation report: what every cast of a model loses on given data, from the interpreter and, for a project, from the C++ too."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qfx.errors import DataError, ProjectError
from qfx.hardware.project.csim import losses as simulated_losses
from qfx.hardware.project.project import MANIFEST, prepare, read_project
from qfx.ir.feeds import Feed, feeds, part, samples
from qfx.ir.from_onnx import load_graph
from qfx.ir.graph import Graph
from qfx.ir.losses import Loss, losses
from qfx.ir.within import everything
from qfx.operators import Cast, Input, MinifloatCast
from qfx.progress import Progress, parts, silent

_FIRST = 8  # samples: then as many as a second takes


@dataclass(frozen=True, slots=True)
class Row:
    """One cast: its node, the type it casts to, and what it lost according to the interpreter and, if it was asked, to the C++.

    ``simulated`` is None for a model alone and for the input's cast, which runs before a frame enters the design. In a project a cast to an unsigned
    type may do the work of the ReLU in front of it: ``by_relu`` of the numbers ``below`` its range are those that the model's ReLU makes 0.
    """

    node: str
    type: str
    loss: Loss
    simulated: Loss | None = None
    by_relu: int = 0

    @property
    def agrees(self) -> bool:
        return self.simulated is None or self.simulated == self.loss


@dataclass(frozen=True, slots=True)
class Report:
    """The casts in the graph's order, on ``samples`` samples."""

    samples: int
    rows: tuple[Row, ...]

    def __repr__(self) -> str:
        overflowed = sum(row.loss.above + row.loss.below for row in self.rows)
        lost = f"{len(self.rows)} casts, {overflowed:,} numbers overflowed"
        return f"Report({self.samples} samples, {lost}, {len(self.differing)} casts count differently in C++)"

    def _repr_html_(self) -> str:
        """A line for each cast, as `qfx report` prints it, for notebooks."""
        from qfx.pages.notebook import notebook_table

        rows = []
        for row in self.rows:
            loss = row.loss
            counts = (loss.values, row.by_relu, loss.above, loss.below - row.by_relu, loss.rounded, loss.missing_bits)
            rows.append((row.node, row.type, *(f"{count:,}" for count in counts)))
        head = ("cast", "to", "values", "ReLU", "above", "below", "rounded", "missing bits")
        return notebook_table(repr(self), head, rows, numbers=range(2, 8))

    @property
    def differing(self) -> tuple[Row, ...]:
        """The casts for which interpreter and C++ count differently: none, unless something is wrong."""
        return tuple(row for row in self.rows if not row.agrees)

    def to_json(self) -> dict[str, Any]:
        """As plain data: {"samples": N, "casts": [{"node", "type", "loss": {...}, "by_relu": N, "simulated": {...} or null}]}."""
        casts = [
            {
                "node": row.node,
                "type": row.type,
                "loss": asdict(row.loss),
                "by_relu": row.by_relu,
                "simulated": None if row.simulated is None else asdict(row.simulated),
            }
            for row in self.rows
        ]
        return {"samples": self.samples, "casts": casts}


def report(graph: Graph, x: Feed, *, progress: Progress = silent) -> Report:
    """What the casts of the graph lose on the floats ``x`` (N, *input shape), or several as ``qfx.run`` takes them.

    Raises DataError for data that the graph does not take, or none.
    """
    return _report(graph, x, {}, {}, progress)


def report_project(
    project_dir: str | os.PathLike[str],
    x: Feed,
    *,
    model: str | os.PathLike[str] | None = None,
    fast: bool = False,
    progress: Progress = silent,
) -> Report:
    """The same for the optimized graph of a project, counted by its C++ as well; ``fast``: by the emulator.

    ``model`` is the ONNX file that the project was made from (default: the project's own ``model.onnx``). Raises ProjectError if there is no model or
    another one.
    """
    project = read_project(project_dir)
    path = project.path / "model.onnx" if model is None else Path(model)
    if not path.is_file():
        raise ProjectError(
            f"{path.name} is missing, so there is nothing to compare with", where=str(project_dir), remedy="name the ONNX file that it was made from"
        )
    loaded = load_graph(path)
    graph = prepare(loaded, project.weights)
    counted = simulated_losses(project_dir, x, fast=fast, progress=progress)
    names = {name for name, node in everything(graph) if isinstance(node.op, Cast | MinifloatCast)}
    if names != counted.keys():
        raise ProjectError("the project was made from another model", where=str(path), remedy="write the project again, or name its model")
    return _report(graph, x, counted, _counted(loaded, x, progress, "counting with the integer interpreter, unoptimized"), progress)


def is_project(path: str | os.PathLike[str]) -> bool:
    """Whether the path is a folder that qfx wrote."""
    return (Path(path) / MANIFEST).is_file()


def _counted(graph: Graph, x: Feed, progress: Progress, stage: str) -> dict[str, Loss]:
    """``losses``, part by part."""
    given = feeds(graph, x)
    pieces = [losses(graph, part(given, piece)) for piece in parts(samples(given), progress, stage, first=_FIRST)]
    return {name: sum((piece[name] for piece in pieces), Loss()) for name in pieces[0]}


def _report(graph: Graph, x: Feed, counted: dict[str, Loss], unoptimized: dict[str, Loss], progress: Progress) -> Report:
    found = _counted(graph, x, progress, "counting with the integer interpreter")
    count = samples(feeds(graph, x))
    if count == 0:
        raise DataError("holds no samples", where="data", remedy="give at least one")
    types = {name: str(node.op.cast) for name, node in everything(graph) if isinstance(node.op, Cast | Input)}
    types |= {name: " ".join(node.op.words()) for name, node in everything(graph) if isinstance(node.op, MinifloatCast)}
    rows = (Row(name, types[name], loss, counted.get(name), loss.below - unoptimized.get(name, loss).below) for name, loss in found.items())
    return Report(count, tuple(rows))


__all__ = ["Loss", "Report", "Row", "is_project", "report", "report_project"]
