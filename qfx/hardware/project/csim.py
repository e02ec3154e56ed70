"""C simulation: the generated C++ compiled with g++ and run on any input.

There are two builds of a project: the proof, its synthesized sources with the vendor's simulation headers, and the fast emulator (``fast=True``), the
same templates over native integers from the sources in ``sim/fast``. Each comes in three variants: plain, with a trace of every stream that carries a
value of the model, and with counters of what each cast loses.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from qfx import process
from qfx.errors import DataError, ProjectError
from qfx.fixed.arith import Interval
from qfx.fixed.array import to_float
from qfx.hardware.assets import hls_root, simulation_headers
from qfx.hardware.design.epilogue import Frame
from qfx.hardware.design.lower import lower
from qfx.hardware.design.names import identifier
from qfx.hardware.design.schedule import Schedule
from qfx.hardware.emit.emit import CSIM_FLAGS, emit_sources
from qfx.hardware.emit.emulate import FAST_FLAGS, emit_emulator
from qfx.hardware.project.project import WEIGHTS_FILE, Project, changed_files, read_project
from qfx.ir import casting
from qfx.ir.graph import Graph
from qfx.ir.interpret import FloatArray
from qfx.ir.losses import Loss
from qfx.ir.passes.loadable import loadable_types
from qfx.ir.values import RawArray, Shape
from qfx.progress import Progress, parts, silent

VARIANTS: Mapping[str, tuple[str, ...]] = MappingProxyType({"plain": (), "trace": ("-DQFX_TRACE",), "report": ("-DQFX_REPORT",)})
"""The variants of a build and the macros that make them."""

REWRITE = "take the change back, or write the project again: `qfx hls` with --force"
"""What to do about a project that changed."""

_WITH: Mapping[str, str] = MappingProxyType({"trace": "a trace", "report": "counters"})
_NAMED = 5  # files in a message
_FIRST = 8  # samples of the first run: starting a simulation takes milliseconds
_SHOWN = 4000  # characters of a compiler's complaint
_VALUES_FILE = "sim/values.json"
_FAST_ONLY = ("sim/fast/", "sim/native/")


def build(project_dir: str | os.PathLike[str], *, fast: bool = False, variant: str = "plain", progress: Progress = silent) -> Path:
    """Compile the project's test bench, or its fast emulator, if a source is newer than the executable in ``build/``; return that.

    ``variant`` is one of VARIANTS. The emulator is compiled for the processor at hand, and again on another one.

    Raises ProjectError if g++ is missing or refuses a source.
    """
    project = read_project(project_dir)
    root = project.path
    name = ("fast" if fast else "tb") + ("" if variant == "plain" else f"_{variant}")
    executable, target = root / "build" / name, root / "build" / f"{name}.target"
    sources = [root / path for path in project.files if path.endswith((".h", ".cpp")) and _belongs(path, fast)]
    missing = [path for path in sources if not path.is_file()]
    if missing or (fast and root / "sim" / "fast" / "fast.cpp" not in sources):
        what = missing[0].relative_to(root) if missing else "sim/fast/fast.cpp"
        raise ProjectError(f"{what} is missing", where=str(root), remedy="write the project again")
    fresh = executable.is_file() and all(path.stat().st_mtime < executable.stat().st_mtime for path in sources)
    if fresh and (not fast or (target.is_file() and target.read_text(encoding="utf-8") == _native_target())):
        return executable
    stage = f"compiling the {'fast emulator' if fast else 'C simulation'}" + ("" if variant == "plain" else f" with {_WITH[variant]}")
    progress(stage, 0, 1)
    executable.parent.mkdir(exist_ok=True)
    with _blamed(project):
        _compile(project, executable, variant, fast)
    if fast:
        target.write_text(_native_target(), encoding="utf-8")
    progress(stage, 1, 1)
    return executable


def _compile(project: Project, executable: Path, variant: str, fast: bool) -> None:
    root = project.path
    sim, flags = root / "sim", VARIANTS[variant]
    emulate, vendor = ("-isystem", str(sim / "emulate")), ("-isystem", str(sim / "ap_types"), "-isystem", str(sim / "axi"))
    if fast:
        native = ("-isystem", str(sim / "native"), *emulate, f"-I{root / 'include'}")
        compile_cpp((sim / "fast" / "fast.cpp",), native, executable, (*FAST_FLAGS, *flags))
    else:
        # Of the two headers called hls_stream.h, only a trace needs ours.
        search = {"plain": vendor, "trace": (*emulate, *vendor), "report": (*vendor, *emulate)}[variant]
        includes = (*search, f"-I{root / 'include'}", f"-I{root / 'tb'}")
        compile_cpp((root / "tb" / "tb.cpp", root / "src" / f"{project.top}.cpp"), includes, executable, (*CSIM_FLAGS, *flags))


class _DefectError(ProjectError):
    """What sources that qfx wrote never do."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(what, where=where, remedy="please report this defect")


@contextmanager
def _blamed(project: Project) -> Iterator[None]:
    """Blame a defect on the files that changed since the project was written, if any did."""
    try:
        yield
    except _DefectError as error:
        changed = changed_files(project)
        if changed:
            raise ProjectError(f"{told(changed)} changed since it was written, and now {error.what}", where=error.where, remedy=REWRITE) from error
        raise


def told(changed: Sequence[str]) -> str:
    """The names of changed files, the first few."""
    return ", ".join(changed[:_NAMED]) + (f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else "")


def run(project_dir: str | os.PathLike[str], x: FloatArray, *, fast: bool = False, progress: Progress = silent) -> FloatArray:
    """The values (N, *output shape) that the C++ computes for floats (N, *input shape): float32 where that holds the output type, else float64.

    ``fast``: by the emulator. Raises DataError for a wrong shape or dtype, NaN or infinity; ProjectError if the project cannot be built or run.
    """
    project = read_project(project_dir)
    result = to_float(run_raw(project_dir, x, fast=fast, progress=progress), project.output_type.frac_bits)
    return result.astype(np.float32) if Interval.of(project.output_type).fits_float32() else result


def run_raw(project_dir: str | os.PathLike[str], x: FloatArray, *, fast: bool = False, progress: Progress = silent) -> RawArray:
    """As ``run``, but the raws of the output."""
    project = read_project(project_dir)
    x_raw = _quantize(x, project)
    executable = build(project_dir, fast=fast, progress=progress)
    with _blamed(project):
        pieces = (x_raw[part] for part in parts(len(x_raw), progress, _running(fast), first=_FIRST))
        return np.concatenate([_execute((str(executable),), piece, project.output_shape, _weights(project)) for piece in pieces])


def trace_raw(project_dir: str | os.PathLike[str], x: FloatArray, *, fast: bool = False, progress: Progress = silent) -> dict[str, RawArray]:
    """The raws (N, *shape) of every value of the model that travels on a stream of the C++, by the name of its node, in the optimized graph's order.

    Comparable with ``qfx.ir.interpret.trace`` of the optimized graph: on the grid of each node's type, in its layout. Values within a fused chain do
    not travel. A trace keeps 8 bytes for every number. Raises as ``run``.
    """
    project = read_project(project_dir)
    x_raw = _quantize(x, project)
    executable = build(project_dir, fast=fast, variant="trace", progress=progress)
    travels = _values(project)["fast" if fast else "design"]
    stage = f"{_running(fast)}, with a trace"
    with _blamed(project):
        pieces = [_trace(executable, x_raw[part], project, travels) for part in parts(len(x_raw), progress, stage, first=_FIRST)]
    return {entry["node"]: np.concatenate([piece[entry["node"]] for piece in pieces]) for entry in travels}


def _trace(executable: Path, x_raw: RawArray, project: Project, travels: Sequence[Mapping[str, Any]]) -> dict[str, RawArray]:
    with tempfile.TemporaryDirectory(prefix="qfx_trace_") as folder:
        Path(folder, "streams").write_text("".join(f"{name}\n" for name in sorted({entry["stream"] for entry in travels})), encoding="utf-8")
        _execute((str(executable),), x_raw, project.output_shape, {"QFX_TRACE_FOLDER": folder, **_weights(project)})
        return {entry["node"]: _traced(Path(folder, entry["stream"]), entry, len(x_raw)) for entry in travels}


def layers_of(project_dir: str | os.PathLike[str], *, fast: bool = False) -> dict[str, str]:
    """The values that ``trace_raw`` gives, by the name of their node: the node whose process computes them."""
    return {entry["node"]: entry["layer"] for entry in _values(read_project(project_dir))["fast" if fast else "design"]}


def _traced(file: Path, entry: Mapping[str, Any], samples: int) -> RawArray:
    shape = tuple(entry["shape"])
    order = Frame.of(shape).order if entry["order"] is None else np.array(entry["order"], dtype=np.int64)
    travelled = np.frombuffer(file.read_bytes() if samples else b"", dtype="<i8")
    if travelled.size != samples * order.size:
        raise _DefectError(f"{travelled.size} numbers travelled on {entry['stream']} in {samples} samples of {order.size}", str(file))
    travelled = travelled.reshape(samples, order.size)
    raw = np.empty((samples, order.size), dtype=np.int64)
    raw[:, order] = travelled
    return raw.reshape(samples, *shape)


def losses(project_dir: str | os.PathLike[str], x: FloatArray, *, fast: bool = False, progress: Progress = silent) -> dict[str, Loss]:
    """What each cast of the C++ lost on the data, by the name of its node, in the optimized graph's order. Raises as ``run``.

    The input's cast is not among them: floats are cast before they enter the design.
    """
    project = read_project(project_dir)
    x_raw = _quantize(x, project)
    executable = build(project_dir, fast=fast, variant="report", progress=progress)
    casts = _values(project)["casts"]
    total = {entry["node"]: Loss() for entry in casts}
    with _blamed(project):
        for part in parts(len(x_raw), progress, f"{_running(fast)}, with counters", first=_FIRST):
            counted = _count((str(executable),), x_raw[part], project.output_shape, _weights(project))
            total = {entry["node"]: total[entry["node"]] + counted.get(entry["site"], Loss()) for entry in casts}
    return total


def _running(fast: bool) -> str:
    return f"running the {'fast emulator' if fast else 'C simulation'}"


def _count(command: Sequence[str], x_raw: RawArray, output_shape: Shape, environment: Mapping[str, str] | None = None) -> dict[int, Loss]:
    """What each site of a report build counted."""
    with tempfile.TemporaryDirectory(prefix="qfx_report_") as folder:
        path = Path(folder, "counters")
        _execute(command, x_raw, output_shape, {"QFX_REPORT": str(path), **(environment or {})})
        lines = [tuple(map(int, line.split())) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    return {site: Loss(*counts) for site, *counts in lines}


def _weights(project: Project) -> dict[str, str]:
    """What tells a test bench which constants to load."""
    return {"QFX_WEIGHTS": str(project.path.resolve() / WEIGHTS_FILE)} if project.weights == "stream" else {}


def _values(project: Project) -> dict[str, list[dict[str, Any]]]:
    path = project.path / _VALUES_FILE
    try:
        loaded: dict[str, list[dict[str, Any]]] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ProjectError(f"{_VALUES_FILE} cannot be read: {error}", where=str(project.path), remedy="write the project again") from error
    if _VALUES_FILE in changed_files(project):
        raise ProjectError(f"{_VALUES_FILE} changed since it was written", where=str(project.path), remedy=REWRITE)
    return loaded


def _belongs(path: str, fast: bool) -> bool:
    """Whether the file matters to the build."""
    return path.startswith((*_FAST_ONLY, "sim/emulate/", "include/")) if fast else not path.startswith(_FAST_ONLY)


@lru_cache(maxsize=1)
def _native_target() -> str:
    """What g++ makes of this processor: an executable for another one may not run here."""
    command = [_compiler(), "-march=native", "-Q", "--help=target"]
    return process.run(command).stdout


@dataclass(frozen=True, slots=True)
class Bundle:
    """Several designs in one executable: what compiles in seconds once instead of once per design. Made by ``build_bundle``."""

    executable: Path
    output_shapes: tuple[Shape, ...]

    def run_from_raw(self, index: int, x_raw: RawArray) -> RawArray:
        """The output raws of design ``index`` for input raws (N, *input shape)."""
        return _execute((str(self.executable), str(index)), x_raw, self.output_shapes[index])

    def losses_from_raw(self, index: int, x_raw: RawArray) -> dict[int, Loss]:
        """What the casts of design ``index`` lose, by their node's place in the graph; of a bundle that was compiled with QFX_REPORT defined."""
        return _count((str(self.executable), str(index)), x_raw, self.output_shapes[index])


def build_bundle(
    designs: Sequence[tuple[Graph, Schedule]], folder: str | os.PathLike[str], *, fast: bool = False, flags: Sequence[str] = ()
) -> Bundle:
    """Compile the designs into one executable in ``folder`` (each in a namespace of its own); ``flags`` are added to CSIM_FLAGS.

    ``fast``: their emulators, whatever the schedules, with FAST_FLAGS. Raises ProjectError as ``build`` does, and for a graph that cannot be lowered.
    """
    root = Path(folder)
    tops = [f"design_{i}_{identifier(graph.name)[:24].strip('_')}" for i, (graph, _) in enumerate(designs)]
    for top, (graph, schedule) in zip(tops, designs, strict=True):
        if not fast and loadable_types(graph):
            raise ProjectError("its constants are loaded, which a bundle does not", where=graph.name, remedy="write a project, or make them constant")
        files = emit_emulator(graph, top) if fast else emit_sources(lower(graph, schedule), top)
        for path, text in files.items():
            place = root / top / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text, encoding="utf-8")
    main, executable, hls = root / "bundle.cpp", root / "bundle", hls_root()
    if fast:
        main.write_text(_fast_bundle_main(tops), encoding="utf-8")
        includes: tuple[str, ...] = ("-isystem", str(hls / "sim" / "native"), "-isystem", str(hls / "sim" / "emulate"), f"-I{hls / 'include'}")
    else:
        main.write_text(_bundle_main(tops), encoding="utf-8")
        includes = (*simulation_headers(), "-isystem", str(hls / "sim" / "emulate"), f"-I{hls / 'include'}", f"-I{hls / 'templates'}")
    compile_cpp((main,), includes, executable, (*(FAST_FLAGS if fast else CSIM_FLAGS), *flags))
    return Bundle(executable, tuple(graph.infos[graph.output].shape for graph, _ in designs))


def _bundle_main(tops: Sequence[str]) -> str:
    includes = "\n".join(f'#include "{top}/src/{top}.cpp"' for top in tops)
    cases = "\n".join(
        f'  if (which == "{i}") ran = qfx_tb::run<{top}_ports::input, {top}_ports::output>({top}, in, out);' for i, top in enumerate(tops)
    )
    return (
        f'#include "harness.h"\n\n{includes}\n\n'
        "int main(int argc, char** argv) {\n  if (argc != 4) return 2;\n  const std::string which = argv[1];\n"
        "  qfx_tb::numbers in, out;\n  bool ran = false;\n  if (!qfx_tb::load(argv[2], in)) return 2;\n"
        f"{cases}\n  return ran && qfx_tb::save(argv[3], out, 1) ? 0 : 2;\n}}\n"
    )


def _fast_bundle_main(tops: Sequence[str]) -> str:
    includes = "\n".join(f'#include "{top}/fast.cpp"' for top in tops)
    cases = "\n".join(f'  if (which == "{i}") return {top}_main(argc - 1, argv + 1);' for i, top in enumerate(tops))
    return (
        f"#define QFX_BUNDLE\n#include <string>\n\n{includes}\n\n"
        f'int main(int argc, char** argv) {{\n  const std::string which = argc > 1 ? argv[1] : "";\n{cases}\n  return 2;\n}}\n'
    )


def _compiler() -> str:
    compiler = shutil.which("g++")
    if compiler is None:
        raise ProjectError("g++ is missing", where="C simulation", remedy="install g++ (any version that knows C++11)")
    return compiler


def compile_cpp(sources: Sequence[Path], includes: Sequence[str], executable: Path, flags: Sequence[str]) -> None:
    """Compile with g++; ``includes`` and ``flags`` are its arguments. Raises ProjectError if g++ is missing or refuses a source."""
    compiler = _compiler()
    # To a name of its own, then renamed: an interrupted build leaves no broken executable.
    partial = executable.with_name(f"{executable.name}.{os.getpid()}")
    command = [compiler, *flags, *includes, *map(str, sources), "-o", str(partial)]
    try:
        done = process.run(command)
        if not done.returncode:
            os.replace(partial, executable)
    finally:
        partial.unlink(missing_ok=True)
    if done.returncode:
        raise _DefectError(f"g++ refuses the C++:\n{done.stderr[:_SHOWN]}", str(executable))


def _execute(command: Sequence[str], x_raw: RawArray, output_shape: Shape, environment: Mapping[str, str] | None = None) -> RawArray:
    with tempfile.TemporaryDirectory(prefix="qfx_csim_") as folder:
        source, result = Path(folder) / "in.bin", Path(folder) / "out.bin"
        source.write_bytes(np.ascontiguousarray(x_raw, dtype="<i8").tobytes())
        env = {**os.environ, **(environment or {})}
        done = process.run([*command, str(source), str(result)], env=env)
        complaint = (done.stdout + done.stderr).strip()  # the vendor's streams warn of reads while empty and of leftover data
        if done.returncode or complaint:
            raise _DefectError(f"C simulation failed (status {done.returncode}): {complaint[:_SHOWN]}", command[0])
        raw = np.frombuffer(result.read_bytes(), dtype="<i8").astype(np.int64)
    if raw.size != len(x_raw) * math.prod(output_shape):
        raise _DefectError(f"C simulation gave {raw.size} numbers for {len(x_raw)} samples of {math.prod(output_shape)}", command[0])
    return raw.reshape(len(x_raw), *output_shape)


def _quantize(x: FloatArray, project: Project) -> RawArray:
    if not isinstance(x, np.ndarray) or x.dtype not in (np.float32, np.float64):
        got = x.dtype if isinstance(x, np.ndarray) else type(x).__name__
        raise DataError(f"expected a float32 or float64 array, got {got}", where=project.top, remedy="convert the data")
    if x.ndim == 0 or x.shape[1:] != project.input_shape:
        raise DataError(
            f"expected the shape (N, {', '.join(map(str, project.input_shape))}), got {x.shape}",
            where=project.top,
            remedy="give what the model was made for",
        )
    return casting.cast_floats(x, project.input_cast)
