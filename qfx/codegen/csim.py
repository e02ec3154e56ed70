"""C simulation: the generated C++ compiled with g++ and the vendor's simulation headers, run on any input."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qfx.codegen.assets import hls_root, simulation_headers
from qfx.codegen.design import Design
from qfx.codegen.emit import CSIM_FLAGS, emit_sources
from qfx.codegen.lower import lower
from qfx.codegen.names import identifier
from qfx.codegen.project import Project, read_project
from qfx.codegen.schedule import Schedule
from qfx.errors import DataError, ProjectError
from qfx.fixed.arith import Interval
from qfx.fixed.array import to_float
from qfx.ir import casting
from qfx.ir.graph import Graph
from qfx.ir.interpret import FloatArray
from qfx.ir.values import RawArray, Shape

_SHOWN = 4000  # characters of a compiler's complaint


def build(project_dir: str | os.PathLike[str]) -> Path:
    """Compile the project's test bench if a source is newer than it; return the executable, ``build/tb``.

    Raises ProjectError if g++ is missing or refuses a source.
    """
    project = read_project(project_dir)
    root = project.path
    executable = root / "build" / "tb"
    sources = [root / path for path in project.files if path.endswith((".h", ".cpp"))]
    missing = [path for path in sources if not path.is_file()]
    if missing:
        raise ProjectError(f"{missing[0].relative_to(root)} is missing", where=str(root), remedy="write the project again")
    if executable.is_file() and all(path.stat().st_mtime < executable.stat().st_mtime for path in sources):
        return executable
    executable.parent.mkdir(exist_ok=True)
    sim = root / "sim"
    includes = ("-isystem", str(sim / "ap_types"), "-isystem", str(sim / "axi"), f"-I{root / 'include'}", f"-I{root / 'tb'}")
    _compile((root / "tb" / "tb.cpp", root / "src" / f"{project.top}.cpp"), includes, executable)
    return executable


def run(project_dir: str | os.PathLike[str], x: FloatArray) -> FloatArray:
    """The values (N, *output shape) that the C++ computes for floats (N, *input shape): float32 where that holds the output type, else float64.

    Raises DataError for a wrong shape or dtype, NaN or infinity; ProjectError if the project cannot be built or run.
    """
    project = read_project(project_dir)
    result = to_float(run_raw(project_dir, x), project.output_type.frac_bits)
    return result.astype(np.float32) if Interval.of(project.output_type).fits_float32() else result


def run_raw(project_dir: str | os.PathLike[str], x: FloatArray) -> RawArray:
    """As ``run``, but the raws of the output."""
    project = read_project(project_dir)
    _check(x, project)
    x_raw = casting.cast_floats(x, project.input_cast)
    executable = build(project_dir)
    return _execute((str(executable),), x_raw, project.output_shape)


@dataclass(frozen=True, slots=True)
class Bundle:
    """Several designs in one executable: what compiles in seconds once instead of once per design. Made by ``build_bundle``."""

    executable: Path
    output_shapes: tuple[Shape, ...]

    def run_from_raw(self, index: int, x_raw: RawArray) -> RawArray:
        """The output raws of design ``index`` for input raws (N, *input shape)."""
        return _execute((str(self.executable), str(index)), x_raw, self.output_shapes[index])


def build_bundle(designs: Sequence[tuple[Graph, Schedule]], folder: str | os.PathLike[str], *, flags: Sequence[str] = ()) -> Bundle:
    """Compile the designs into one executable in ``folder`` (each in a namespace of its own); ``flags`` are added to CSIM_FLAGS.

    Raises ProjectError as ``build`` does, and for a graph that cannot be lowered.
    """
    root = Path(folder)
    lowered = [(f"design_{i}_{identifier(graph.name)[:24].strip('_')}", lower(graph, schedule)) for i, (graph, schedule) in enumerate(designs)]
    for top, design in lowered:
        for path, text in emit_sources(design, top).items():
            place = root / top / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text, encoding="utf-8")
    main = root / "bundle.cpp"
    main.write_text(_bundle_main([top for top, _ in lowered]), encoding="utf-8")
    includes = (*simulation_headers(), f"-I{hls_root() / 'include'}", f"-I{hls_root() / 'templates'}")
    executable = root / "bundle"
    _compile((main,), includes, executable, tuple(flags))
    return Bundle(executable, tuple(_shape(design) for _, design in lowered))


def _shape(design: Design) -> Shape:
    return design.output.shape


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


def _compile(sources: Sequence[Path], includes: Sequence[str], executable: Path, flags: Sequence[str] = ()) -> None:
    compiler = shutil.which("g++")
    if compiler is None:
        raise ProjectError("g++ is missing", where="C simulation", remedy="install g++ (any version that knows C++11)")
    # To a name of its own, then renamed: an interrupted build leaves no broken executable.
    partial = executable.with_name(f"{executable.name}.{os.getpid()}")
    command = [compiler, *CSIM_FLAGS, *flags, *includes, *map(str, sources), "-o", str(partial)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        partial.unlink(missing_ok=True)
        raise ProjectError(f"g++ refuses the C++:\n{done.stderr[:_SHOWN]}", where=str(executable), remedy="please report this defect")
    os.replace(partial, executable)


def _execute(command: Sequence[str], x_raw: RawArray, output_shape: Shape) -> RawArray:
    with tempfile.TemporaryDirectory(prefix="qfx_csim_") as folder:
        source, result = Path(folder) / "in.bin", Path(folder) / "out.bin"
        source.write_bytes(np.ascontiguousarray(x_raw, dtype="<i8").tobytes())
        done = subprocess.run([*command, str(source), str(result)], capture_output=True, text=True, check=False)
        complaint = (done.stdout + done.stderr).strip()  # the vendor's streams warn of reads while empty and of leftover data
        if done.returncode or complaint:
            raise ProjectError(
                f"C simulation failed (status {done.returncode}): {complaint[:_SHOWN]}", where=command[0], remedy="please report this defect"
            )
        raw = np.frombuffer(result.read_bytes(), dtype="<i8").astype(np.int64)
    return raw.reshape(len(x_raw), *output_shape)


def _check(x: FloatArray, project: Project) -> None:
    if not isinstance(x, np.ndarray) or x.dtype not in (np.float32, np.float64):
        got = x.dtype if isinstance(x, np.ndarray) else type(x).__name__
        raise DataError(f"expected a float32 or float64 array, got {got}", where=project.top, remedy="convert the data")
    if x.ndim == 0 or x.shape[1:] != project.input_shape:
        raise DataError(
            f"expected the shape (N, {', '.join(map(str, project.input_shape))}), got {x.shape}",
            where=project.top,
            remedy="give what the model was made for",
        )
