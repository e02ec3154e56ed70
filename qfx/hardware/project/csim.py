"""C simulation: the generated C++ compiled and run on any input.

The door to it. Which executable that takes is decided in ``build.py``, which says what the builds and their variants are; ``compile.py`` calls the
compiler, ``execute.py`` speaks with the executable, ``blame.py`` tells a changed project from a defect of qfx.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from qfx.errors import DataError, ProjectError
from qfx.fixed.arith import Interval
from qfx.fixed.array import to_float
from qfx.fixed.type import FixedType
from qfx.hardware.project.blame import REWRITE, blamed, told
from qfx.hardware.project.build import VARIANTS, build
from qfx.hardware.project.execute import counted, execute, put_together, taken_apart, traced
from qfx.hardware.project.project import MEMORY_FOLDER, WEIGHTS_FILE, Project, changed_files, read_project
from qfx.ir import casting
from qfx.ir.feeds import Feed, named, numbers
from qfx.ir.interpret import FloatArray
from qfx.ir.losses import Loss
from qfx.ir.values import RawArray, Shape
from qfx.progress import Progress, parts, silent

__all__ = ["REWRITE", "VARIANTS", "build", "layers_of", "losses", "run", "run_raw", "told", "trace_raw"]

_FIRST = 8  # samples of the first run: starting a simulation takes milliseconds
_VALUES_FILE = "sim/values.json"


def run(project_dir: str | os.PathLike[str], x: Feed, *, fast: bool = False, progress: Progress = silent) -> Any:
    """The values (N, *output shape) that the C++ computes for ``x`` (N, *input shape): float32 where that holds the output type, else float64.
    Several inputs and outputs are given and had as by ``qfx.run``.

    ``fast``: by the emulator. Raises DataError for a wrong shape or dtype, NaN or infinity; ProjectError if the project cannot be built or run.
    """
    project = read_project(project_dir)
    raws = _split(run_raw(project_dir, x, fast=fast, progress=progress))
    results = tuple(_values_of(raw, port.type) for raw, port in zip(raws, project.outputs.values(), strict=True))
    return results[0] if len(results) == 1 else results


def _split(raws: RawArray | tuple[RawArray, ...]) -> tuple[RawArray, ...]:
    return raws if isinstance(raws, tuple) else (raws,)


def _values_of(raw: RawArray, type_: FixedType) -> FloatArray:
    result = to_float(raw, type_.frac_bits)
    return result.astype(np.float32) if Interval.of(type_).fits_float32() else result


def run_raw(project_dir: str | os.PathLike[str], x: Feed, *, fast: bool = False, progress: Progress = silent) -> Any:
    """As ``run``, but the raws of the output, or of several a tuple."""
    project = read_project(project_dir)
    x_raw = _quantize(x, project)
    executable = build(project_dir, fast=fast, progress=progress)
    with blamed(project):
        pieces = (x_raw[part] for part in parts(len(x_raw), progress, _running(fast), first=_FIRST))
        raw = np.concatenate([execute((str(executable),), piece, _outputs(project), _weights(project)) for piece in pieces])
    return taken_apart(raw, [port.shape for port in project.outputs.values()]) if len(project.outputs) > 1 else raw


def trace_raw(project_dir: str | os.PathLike[str], x: Feed, *, fast: bool = False, progress: Progress = silent) -> dict[str, RawArray]:
    """The raws (N, *shape) of every value of the model that travels on a stream of the C++, by the name of its node, in the optimized graph's order.

    Comparable with ``qfx.ir.interpret.trace`` of the optimized graph: on the grid of each node's type, in its layout. Values within a fused chain do
    not travel. A trace keeps 8 bytes for every number. Raises as ``run``.
    """
    project = read_project(project_dir)
    _check_layers(project, fast, "traced")
    x_raw = _quantize(x, project)
    executable = build(project_dir, fast=fast, variant="trace", progress=progress)
    travels = _values(project)["fast" if fast else "design"]
    stage = f"{_running(fast)}, with a trace"
    with blamed(project):
        pieces = [
            traced((str(executable),), x_raw[part], _outputs(project), travels, _weights(project))
            for part in parts(len(x_raw), progress, stage, first=_FIRST)
        ]
    return {entry["node"]: np.concatenate([piece[entry["node"]] for piece in pieces]) for entry in travels}


def layers_of(project_dir: str | os.PathLike[str], *, fast: bool = False) -> dict[str, str]:
    """The values that ``trace_raw`` gives, by the name of their node: the node whose process computes them."""
    return {entry["node"]: entry["layer"] for entry in _values(read_project(project_dir))["fast" if fast else "design"]}


def losses(project_dir: str | os.PathLike[str], x: Feed, *, fast: bool = False, progress: Progress = silent) -> dict[str, Loss]:
    """What each cast of the C++ lost on the data, by the name of its node, in the optimized graph's order. Raises as ``run``.

    The input's cast is not among them: floats are cast before they enter the design.
    """
    project = read_project(project_dir)
    _check_layers(project, fast, "counted")
    x_raw = _quantize(x, project)
    executable = build(project_dir, fast=fast, variant="report", progress=progress)
    casts = _values(project)["casts"]
    total = {entry["node"]: Loss() for entry in casts}
    with blamed(project):
        for part in parts(len(x_raw), progress, f"{_running(fast)}, with counters", first=_FIRST):
            found = counted((str(executable),), x_raw[part], _outputs(project), _weights(project))
            total = {entry["node"]: total[entry["node"]] + found.get(entry["site"], Loss()) for entry in casts}
    return total


def _check_layers(project: Project, fast: bool, what: str) -> None:
    """Raises ProjectError if the C++ has no layers: casts that an unrolled design leaves out or merges with others would count for nothing, and those
    of a layer engine are all the same one."""
    if project.style == "sequential":
        what = f"a layer engine has no streams or casts of each layer that could be {what}"
        raise ProjectError(what, where=str(project.path), remedy="look at a project of the streaming style")
    if project.style == "unrolled" and not fast:
        raise ProjectError(f"an unrolled design has no layers that could be {what}", where=str(project.path), remedy="use the fast emulator (--fast)")


def _running(fast: bool) -> str:
    return f"running the {'fast emulator' if fast else 'C simulation'}"


def _weights(project: Project) -> dict[str, str]:
    """What tells a test bench which constants to load, and what lies in memory."""
    folder = project.path.resolve()
    loaded = {"QFX_WEIGHTS": str(folder / WEIGHTS_FILE)} if project.weights == "stream" else {}
    in_memory = any(path.startswith(f"{MEMORY_FOLDER}/") for path in project.files)
    return loaded | ({"QFX_MEMORY": str(folder / MEMORY_FOLDER)} if in_memory else {})


def _outputs(project: Project) -> Shape:
    """The shape of what an executable gives: of several outputs their numbers, one after the other."""
    shapes = [port.shape for port in project.outputs.values()]
    return shapes[0] if len(shapes) == 1 else (sum(map(math.prod, shapes)),)


def _values(project: Project) -> dict[str, list[dict[str, Any]]]:
    path = project.path / _VALUES_FILE
    try:
        loaded: dict[str, list[dict[str, Any]]] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ProjectError(f"{_VALUES_FILE} cannot be read: {error}", where=str(project.path), remedy="write the project again") from error
    if _VALUES_FILE in changed_files(project):
        raise ProjectError(f"{_VALUES_FILE} changed since it was written", where=str(project.path), remedy=REWRITE)
    return loaded


def _quantize(x: Feed, project: Project) -> RawArray:
    """The raws of the input as an executable takes them: of several inputs the numbers (N, ...), one after the other."""
    if len(project.inputs) > 1:
        given = named({name: port.shape for name, port in project.inputs.items()}, x, project.top)
        return put_together([casting.cast_floats(numbers(array, name), project.inputs[name].cast) for name, array in given.items()])
    if isinstance(x, tuple | list) and len(x) == 1:
        (x,) = x
    elif isinstance(x, Mapping):
        x = named({next(iter(x), "x"): project.input_shape}, x, project.top).popitem()[1]
    if not isinstance(x, np.ndarray):
        raise DataError(f"expected a float32 or float64 array, got {type(x).__name__}", where=project.top, remedy="convert the data")
    if x.dtype.kind not in "iu" and x.dtype not in (np.float32, np.float64):
        raise DataError(f"expected a float32 or float64 array, got {x.dtype}", where=project.top, remedy="convert the data")
    if x.ndim == 0 or x.shape[1:] != project.input_shape:
        raise DataError(
            f"expected the shape (N, {', '.join(map(str, project.input_shape))}), got {x.shape}",
            where=project.top,
            remedy="give what the model was made for",
        )
    return casting.cast_floats(numbers(x, project.top) if x.dtype.kind in "iu" else x, project.input_cast)
