"""Emission: a graph, a schedule and a board -> the text of every file of a project that does not depend on data. Pure and deterministic."""

from __future__ import annotations

from functools import lru_cache

import jinja2

from qfx.codegen import cpp
from qfx.codegen.assets import hls_root, read_tree
from qfx.codegen.board import Board
from qfx.codegen.design import Design
from qfx.codegen.lower import lower
from qfx.codegen.names import checked_top
from qfx.codegen.schedule import Schedule
from qfx.errors import ProjectError
from qfx.ir.graph import Graph

CSIM_FLAGS = (
    "-std=c++11",
    "-O2",
    "-DNDEBUG",  # or the vendor's headers abort on a cast that drops more bits than its source has
    "-Wall",
    "-Wextra",
    "-Wno-unknown-pragmas",
    "-Wno-unused-label",
    "-Wno-uninitialized",  # the vendor's default constructors leave the number as it is on purpose
    "-Wno-maybe-uninitialized",
)
"""How C simulation is compiled."""


def emit(graph: Graph, schedule: Schedule, board: Board, *, clock_ns: float, top: str) -> dict[str, str]:
    """The files of the project by relative path: sources, template library, test bench, script, Makefile and README.

    ``top`` names the top function, ``clock_ns`` is the clock period in nanoseconds. Raises ProjectError for what cannot be built.
    """
    checked_top(top)
    if not 0.5 <= clock_ns <= 1000:
        raise ProjectError(f"the clock period is {clock_ns} ns", remedy="use 0.5 to 1000 ns")
    design = lower(graph, schedule)
    names = {"board": board, "clock_ns": f"{clock_ns:g}", "top": top, "model": graph.name, "csim_flags": " ".join(CSIM_FLAGS)}
    files = emit_sources(design, top)
    for path, template in (
        ("tb/tb.cpp", "tb.cpp.j2"),
        ("Makefile", "Makefile.j2"),
        ("script.tcl", "script.tcl.j2"),
        ("README.md", "README.md.j2"),
    ):
        files[path] = _template(template).render(design=design, **names)
    files["tb/harness.h"] = (hls_root() / "templates" / "harness.h").read_text(encoding="utf-8")
    files.update({f"include/{path}": text for path, text in read_tree(hls_root() / "include", "qfx/*.h").items()})
    files.update({f"sim/axi/{path}": text for path, text in read_tree(hls_root() / "sim", "*.h").items()})
    return dict(sorted(files.items()))


def emit_sources(design: Design, top: str) -> dict[str, str]:
    """The synthesized sources alone: ``src/<top>.cpp``, its header, the layers, and one header of constants per layer that has some."""
    units = [cpp.unit(process, ("in", "out")) for process in design.processes]
    values = {"design": design, "top": top, "units": units, "stream": cpp.stream, "raw": cpp.raw, "guard": top.upper()}
    files = {
        f"src/{top}.cpp": _template("top.cpp.j2").render(values),
        f"src/{top}.h": _template("top.h.j2").render(values),
        "src/layers.h": _template("layers.h.j2").render(values),
    }
    for unit in units:
        if unit.constants:
            files[f"src/weights/{unit.name}.h"] = _template("weights.h.j2").render(values, unit=unit)
    return files


def _template(name: str) -> jinja2.Template:
    return _environment().get_template(name)


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    root = hls_root()
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([root / "templates", root / "tcl"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # C++ and Tcl, not HTML; every value is a number, a type or a checked identifier
    )
