"""Finding where the C++ leaves the interpreter: both traces side by side, value by value, in the graph's order."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from qfx.errors import ProjectError
from qfx.hardware.project.csim import build, layers_of, trace_raw
from qfx.hardware.project.project import prepare, read_project
from qfx.ir.feeds import Feed, feeds, part, samples
from qfx.ir.from_onnx import load_graph
from qfx.ir.graph import Graph
from qfx.ir.interpret import trace
from qfx.ir.values import RawArray
from qfx.progress import Progress, parts, silent

_SAMPLES = 16  # at a time: a trace keeps every number of every value


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first raw integer, in the graph's order, in which a trace differs from the interpreter's.

    ``node`` names the value, ``index`` leaves the sample out; ``layer`` is the node whose process computes the value, from inputs that are all equal.
    """

    node: str
    layer: str
    sample: int
    index: tuple[int, ...]
    expected_raw: int
    actual_raw: int

    def __str__(self) -> str:
        at = ", ".join(map(str, self.index))
        value = "its value" if self.layer == self.node else f"the value {self.node}"
        return f"layer {self.layer}: {value} differs at sample {self.sample}, [{at}]: expected raw {self.expected_raw}, got {self.actual_raw}"


def first_divergence(
    graph: Graph, expected: Mapping[str, RawArray], actual: Mapping[str, RawArray], layers: Mapping[str, str] | None = None
) -> Divergence | None:
    """The first value of the graph in which the traces differ, at its first differing index; None if all that ``actual`` has are equal.

    ``layers`` maps a value's node to the node whose process computes it (default: itself).
    """
    for node in graph.nodes:
        if node.name not in actual:
            continue
        differs = expected[node.name] != actual[node.name]
        if differs.any():
            sample, *index = (int(i) for i in np.argwhere(differs)[0])
            at = (sample, *index)
            layer = (layers or {}).get(node.name, node.name)
            return Divergence(node.name, layer, sample, tuple(index), int(expected[node.name][at]), int(actual[node.name][at]))
    return None


def locate(
    model: str | os.PathLike[str], project_dir: str | os.PathLike[str], x: Feed, *, fast: bool = False, progress: Progress = silent
) -> tuple[int, Divergence | None]:
    """How many values of the model were compared on the samples ``x`` of a project's C++ and the interpreter, and where they differ first.

    ``model`` is the ONNX file that the project was made from; ``fast`` looks at the emulator. In the C++ of an unrolled design nothing travels
    between layers: none are compared. Raises ProjectError if it was made from another.
    """
    graph = prepare(load_graph(Path(model)), read_project(project_dir).weights)
    layers = layers_of(project_dir, fast=fast)
    unknown = [name for name in layers if name not in graph.infos]
    if unknown:
        raise ProjectError(f"{unknown[0]!r} is no node of {Path(model).name}", where=str(project_dir), remedy="name the model that it was made from")
    if not layers:
        return 0, None
    build(project_dir, fast=fast, variant="trace", progress=progress)
    given = feeds(graph, x)
    for piece in parts(samples(given), progress, f"comparing every layer of the {'fast emulator' if fast else 'C simulation'}", most=_SAMPLES):
        start, some = piece.start, part(given, piece)
        found = first_divergence(graph, trace(graph, some), trace_raw(project_dir, some, fast=fast), layers)
        if found is not None:
            return len(layers), replace(found, sample=found.sample + start)
    return len(layers), None


__all__ = ["Divergence", "first_divergence", "locate"]
