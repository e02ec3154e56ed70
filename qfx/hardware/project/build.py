"""Which executable of a project is wanted, what it is made from, and whether the one at hand still is it.

There are two builds of a project: the proof, its synthesized sources with the vendor's simulation headers, and the fast emulator, the same templates
over native integers from the sources in ``sim/fast``. Each comes in three variants: plain, with a trace of every stream that carries a value of the
model, and with counters of what each cast loses.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from qfx.errors import ProjectError
from qfx.hardware.emit.emit import CSIM_FLAGS
from qfx.hardware.emit.emulate import DATA, FAST_FLAGS
from qfx.hardware.project.blame import blamed
from qfx.hardware.project.compile import compile_cpp, installed, needed
from qfx.hardware.project.project import Project, read_project
from qfx.progress import Progress, silent

VARIANTS: Mapping[str, tuple[str, ...]] = MappingProxyType({"plain": (), "trace": ("-DQFX_TRACE",), "report": ("-DQFX_REPORT",)})
"""The variants of a build and the macros that make them."""

_WITH: Mapping[str, str] = MappingProxyType({"trace": "a trace", "report": "counters"})
_FAST_ONLY = ("sim/fast/", "sim/native/")
_FAST_MAIN = "sim/fast/fast.cpp"


@dataclass(frozen=True, slots=True)
class Build:
    """One executable of a project: ``units`` are compiled with ``includes`` and ``flags``, and again once one of ``sources`` is newer.

    ``stamp`` is the file that tells what compiled it, if that needs telling, and for which processor if ``is_native``. ``stage`` is what to call the
    work.
    """

    executable: Path
    stamp: Path
    units: tuple[Path, ...]
    includes: tuple[str, ...]
    flags: tuple[str, ...]
    sources: tuple[Path, ...]
    is_native: bool
    stage: str


def build(project_dir: str | os.PathLike[str], *, fast: bool = False, variant: str = "plain", progress: Progress = silent) -> Path:
    """Compile the project's test bench, or its fast emulator, if a source is newer than the executable in ``build/``; return that.

    ``variant`` is one of VARIANTS. What another compiler made is made anew, and the emulator is compiled for the processor at hand, and again on
    another one.

    Raises ProjectError if the compiler (``$CXX``, else g++) is missing or refuses a source.
    """
    project = read_project(project_dir)
    planned = plan(project, fast, variant)
    if is_fresh(planned):
        return planned.executable
    progress(planned.stage, 0, 1)
    planned.executable.parent.mkdir(exist_ok=True)
    with blamed(project):
        compile_cpp(planned.units, planned.includes, planned.executable, planned.flags)
    stamp = _stamp(planned)
    if stamp:
        planned.stamp.write_text(stamp, encoding="utf-8")
    else:
        planned.stamp.unlink(missing_ok=True)
    progress(planned.stage, 1, 1)
    return planned.executable


def plan(project: Project, fast: bool, variant: str) -> Build:
    """The build that is asked for. Raises ProjectError if a source of it is missing."""
    root, sim = project.path, project.path / "sim"
    if fast and project.style == "sequential":
        remedy = "leave --fast out, or write a project of the streaming style as well"
        raise ProjectError("a sequential design has no fast emulator", where=str(root), remedy=remedy)
    sources = tuple(root / path for path in project.files if _belongs(path, fast))
    missing = [path for path in sources if not path.is_file()]
    if missing or (fast and root / _FAST_MAIN not in sources):
        what = str(missing[0].relative_to(root)) if missing else _FAST_MAIN
        raise ProjectError(f"{what} is missing", where=str(root), remedy="write the project again")
    emulate, vendor = ("-isystem", str(sim / "emulate")), ("-isystem", str(sim / "ap_types"), "-isystem", str(sim / "axi"))
    if fast:
        units: tuple[Path, ...] = (root / _FAST_MAIN,)
        includes: tuple[str, ...] = ("-isystem", str(sim / "native"), *emulate, f"-I{root / 'include'}")
    else:
        units = (root / "tb" / "tb.cpp", root / "src" / f"{project.top}.cpp")
        # Of the two headers called hls_stream.h, only a trace needs ours.
        search = {"plain": vendor, "trace": (*emulate, *vendor), "report": (*vendor, *emulate)}[variant]
        includes = (*search, f"-I{root / 'include'}", f"-I{root / 'tb'}")
    executable = root / "build" / (("fast" if fast else "tb") + ("" if variant == "plain" else f"_{variant}"))
    stage = f"compiling the {'fast emulator' if fast else 'C simulation'}" + ("" if variant == "plain" else f" with {_WITH[variant]}")
    flags = (*(FAST_FLAGS if fast else CSIM_FLAGS), *VARIANTS[variant])
    return Build(executable, executable.with_suffix(".target"), units, includes, flags, sources, fast, stage)


def is_fresh(planned: Build) -> bool:
    """Whether its executable is there, newer than every source, and made by the compiler at hand. A proof is fresh, too, where there is no compiler
    to make it anew."""
    if not planned.executable.is_file():
        return False
    made = planned.executable.stat().st_mtime
    if any(path.stat().st_mtime >= made for path in planned.sources):
        return False
    kept = planned.stamp.read_text(encoding="utf-8") if planned.stamp.is_file() else ""
    return (not planned.is_native and installed() is None) or kept == _stamp(planned)


def _stamp(planned: Build) -> str:
    """What a build is besides its sources; empty, and then not kept, for a proof by the usual compiler: the project's own ``make`` builds it too."""
    compiler = needed()
    return f"{compiler.identity}\n{compiler.target}" if planned.is_native else compiler.identity


def _belongs(path: str, fast: bool) -> bool:
    """Whether the file matters to the build."""
    if path.endswith(DATA):
        return fast and path.startswith(_FAST_ONLY)
    ours = path.startswith((*_FAST_ONLY, "sim/emulate/", "include/")) if fast else not path.startswith(_FAST_ONLY)
    return ours and path.endswith((".h", ".cpp"))
