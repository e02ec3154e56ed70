"""The fast emulator of a model alone: no board, and so no size that would be too large."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from qfx.hardware.assets import hls_root
from qfx.hardware.design.names import top_name
from qfx.hardware.emit.emulate import FAST_FLAGS, emit_emulator
from qfx.hardware.project.compile import compile_cpp
from qfx.hardware.project.execute import execute, put_together, taken_apart
from qfx.ir.feeds import Feed
from qfx.ir.graph import Graph
from qfx.ir.interpret import quantize_inputs, values
from qfx.ir.passes.pipeline import optimize
from qfx.ir.values import RawArray
from qfx.progress import Progress, silent


def run(graph: Graph, x: Feed, *, progress: Progress = silent) -> Any:
    """The values of the outputs (N, *output shape) that the emulator of ``graph`` computes for ``x``, as ``qfx.run`` takes and gives them.

    It is compiled for that, in some seconds, and kept nowhere. Raises DataError as ``qfx.run``, and ProjectError for a graph that cannot be lowered
    and where there is no compiler.
    """
    results = tuple(values(raw, graph.infos[name]) for raw, name in zip(run_raws(graph, x, progress=progress), graph.outputs, strict=True))
    return results[0] if len(results) == 1 else results


def run_raws(graph: Graph, x: Feed, *, progress: Progress = silent) -> tuple[RawArray, ...]:
    """As ``run``, but the raws of each output, in order."""
    x_raw = put_together(list(quantize_inputs(graph, x).values()))
    shapes = [graph.infos[name].shape for name in graph.outputs]
    with tempfile.TemporaryDirectory(prefix="qfx_emulator_") as folder:
        progress("compiling the fast emulator", 0, 1)
        executable = build(graph, Path(folder))
        progress("running the fast emulator", 0, 1)
        raw = execute((str(executable),), x_raw, (sum(int(np.prod(shape)) for shape in shapes),))
    return taken_apart(raw, shapes)


def build(graph: Graph, folder: Path) -> Path:
    """The emulator's executable, compiled in ``folder`` from the sources that are written there."""
    for path, held in emit_emulator(optimize(graph), top_name(graph.name)).items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(held if isinstance(held, bytes) else held.encode("utf-8"))
    hls = hls_root()
    includes = ("-isystem", str(hls / "sim" / "native"), "-isystem", str(hls / "sim" / "emulate"), f"-I{hls / 'include'}")
    compile_cpp((folder / "fast.cpp",), includes, folder / "fast", FAST_FLAGS)
    return folder / "fast"
