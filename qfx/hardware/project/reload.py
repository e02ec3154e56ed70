"""Other constants for a project whose weights are loaded while it runs: the words for its port, of another model that runs on the same hardware."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace

from qfx.errors import DataError, ProjectError
from qfx.hardware.design import loading
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Schedule
from qfx.hardware.emit.emit import emit_sources
from qfx.hardware.folding import file as folding_file
from qfx.hardware.folding.widths import fixed_schedule
from qfx.hardware.project.project import Project, prepare, read_project
from qfx.ir.graph import Graph
from qfx.operators import Input


def words_for(graph: Graph, project_dir: str | os.PathLike[str]) -> bytes:
    """What to load into the project's hardware (its ``weights.bin``) so that it computes ``graph``, which is not yet optimized.

    The model must be one that the hardware was made for: its sources, which hold no loaded constant, have to come out byte for byte as the project's
    (all but the depths of FIFOs), and the cast of its input has to be the same. Raises ProjectError otherwise, saying where they differ.
    """
    project = read_project(project_dir)
    if project.weights != "stream":
        raise ProjectError("has its weights in ROM", where=str(project_dir), remedy="write the project again with --weights stream")
    if len(graph.inputs) != len(project.inputs):
        raise _other(graph, project, f"it has {len(graph.inputs)} inputs instead of {len(project.inputs)}")
    several = len(project.inputs) > 1
    for node, (name, entry) in zip(graph.inputs, project.inputs.items(), strict=True):
        op = node.op
        assert isinstance(op, Input)  # Graph has checked it
        own = f"its input{f' {node.name}' * several} is {op.shape}, cast to {op.cast}"
        if (op.cast, op.shape) != (entry.cast, entry.shape) or (several and node.name != name):
            raise _other(graph, project, f"{own}, instead of {f'{name}, ' * several}{entry.shape}, cast to {entry.cast}")
    try:
        ready = prepare(graph, "stream", project.loadable)
        design = lower(ready, _schedule(project, ready))
    except DataError as error:
        raise _other(graph, project, f"{error.where}: {error.what}") from error
    sources = {path: text for path, text in emit_sources(design, project.top).items() if path != f"src/{project.top}.cpp"}
    theirs = {path for path in project.files if path.startswith("src/") and path != f"src/{project.top}.cpp"}
    for path in sorted(sources.keys() | theirs):
        if path not in sources or hashlib.sha256(sources[path].encode("utf-8")).hexdigest() != project.files.get(path):
            raise _other(graph, project, f"{path} would be another one")
    return loading.words(design)


def _schedule(project: Project, graph: Graph) -> Schedule:
    """The folding that the project was made with."""
    path = project.path / "folding.toml"
    request = folding_file.read(path)
    if hashlib.sha256(path.read_bytes()).hexdigest() != project.files.get(path.name):
        raise ProjectError("has been changed since the project was written", where=str(path), remedy="write the project again")
    try:
        return fixed_schedule(graph, replace(request, fifos=()))
    except ProjectError as error:
        raise _other(graph, project, error.what) from error


def _other(graph: Graph, project: Project, what: str) -> ProjectError:
    remedy = "load models that differ in weights, biases, scales and shifts alone, or write a project for this one"
    return ProjectError(f"the model {graph.name} is not one for this hardware: {what}", where=str(project.path), remedy=remedy)
