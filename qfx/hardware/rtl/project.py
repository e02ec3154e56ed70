"""Folders of Verilog: the modules, a bench with golden vectors, and what the design should cost and take; written as a whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qfx import __version__
from qfx.errors import ProjectError
from qfx.hardware.design.names import checked_top, top_name
from qfx.hardware.emit.templates import render
from qfx.hardware.folding import summary as folded_summary
from qfx.hardware.folding.search import Plan as Folded
from qfx.hardware.project import folder
from qfx.hardware.rtl import unrolled
from qfx.hardware.rtl.hardware import Hardware, words_of, words_per_frame
from qfx.hardware.rtl.luts import family
from qfx.hardware.rtl.machines import streaming
from qfx.hardware.timing.clock import WIDE_UNCERTAINTY
from qfx.hardware.timing.delays import delays
from qfx.hardware.unrolled import summary
from qfx.hardware.unrolled.plan import Plan
from qfx.ir.graph import Graph
from qfx.ir.interpret import run_from_raws
from qfx.ir.values import RawArray
from qfx.progress import Progress, silent

MANIFEST = "qfx_rtl.json"
FORMAT = 1
_QUIET = 4096
"""Cycles without a word, beside those that the plan has for a frame, after which a bench gives up."""
_UNKNOWN = 1_000_000
"""The same, of a design whose cycles the model does not know."""


_LATE = 200
"""Cycles after which memory answers at the latest, where a bench lets it be late; and then a word in three cycles of four."""


@dataclass(frozen=True, slots=True)
class Written:
    """A folder that was written: what the interpreter gives for its golden vectors, and how many frames they are."""

    path: Path
    hardware: Hardware
    expected_raw: tuple[RawArray, ...]
    frames: int


def of_unrolled(graph: Graph, plan: Plan, top: str | None = None) -> Hardware:
    """The Verilog of an unrolled plan; ``top`` names its module (default: from the graph's name). Raises UnsupportedError, naming the layer, for what
    has none."""
    name = checked_top(top_name(graph.name) if top is None else top)
    inputs, outputs = plan.design.wires
    return Hardware(name, {f"{name}.v": unrolled.module(plan, name, graph.name)}, inputs, outputs, plan.latency, plan.interval)


def write_unrolled(
    graph: Graph, plan: Plan, out_dir: str | os.PathLike[str], *, x_raw: Mapping[str, RawArray], top: str | None = None, force: bool = False
) -> Written:
    """Write the Verilog of the plan of a prepared graph. ``x_raw``: raws (N, *shape) of every input, from which the golden vectors are made.

    The folder must be absent or empty; ``force`` replaces one that this wrote, and keeps in it what qfx did not write. Raises ProjectError otherwise.
    """
    check_target(out_dir, force=force)
    texts = {"report.json": summary.as_json(plan, graph.name), "estimate.txt": summary.as_text(plan, graph.name)}
    told = {"model": graph.name, "style": "unrolled", "board": plan.estimate.board.name, "part": plan.estimate.board.part, "clock_ns": plan.clock_ns}
    return _write(graph, of_unrolled(graph, plan, top), told, texts, Path(out_dir), x_raw, force)


def write_streaming(
    graph: Graph,
    plan: Folded,
    out_dir: str | os.PathLike[str],
    *,
    x_raw: Mapping[str, RawArray],
    top: str | None = None,
    force: bool = False,
    pipelined: bool = False,
    progress: Progress = silent,
) -> Written:
    """The same of a streaming plan. ``pipelined``: with pipelines for the plan's clock. Raises also what ``streaming.hardware`` raises."""
    check_target(out_dir, force=force)
    name = checked_top(top_name(graph.name) if top is None else top)
    clock = None
    if pipelined:
        on = delays(plan.estimate.board.part)
        clock = streaming.Clock(on, plan.clock_ns * (1 - WIDE_UNCERTAINTY) - on.register)
    made = streaming.hardware(plan.design, name, graph.name, frames=len(next(iter(x_raw.values()))), clock=clock, progress=progress)
    texts = {"report.json": folded_summary.as_json(plan, graph.name), "estimate.txt": folded_summary.as_text(plan, graph.name)}
    told = {"model": graph.name, "style": "streaming", "board": plan.estimate.board.name, "part": plan.estimate.board.part, "clock_ns": plan.clock_ns}
    return _write(graph, made, told, texts, Path(out_dir), x_raw, force)


def check_target(out_dir: str | os.PathLike[str], *, force: bool = False) -> None:
    """Raises ProjectError if the folder may not be written."""
    _replaceable(folder.followed(out_dir), force)


def _write(
    graph: Graph, hardware: Hardware, told: Mapping[str, Any], texts: Mapping[str, str], out_dir: Path, x_raw: Mapping[str, RawArray], force: bool
) -> Written:
    target = folder.followed(out_dir)
    old = _replaceable(target, force)
    frames = len(next(iter(x_raw.values())))
    if frames == 0:
        raise ProjectError("no golden inputs", where=graph.name, remedy="give at least one sample")
    expected = run_from_raws(graph, x_raw)
    names = [name for wires in (hardware.inputs, hardware.outputs) for wire in wires for name, _ in wire.ports]
    raws = dict(zip(names, (*x_raw.values(), *expected), strict=True))
    made = {f"rtl/{name}": text for name, text in hardware.modules.items()} | dict(texts)
    values = {
        "top": hardware.top,
        "sources": [f"rtl/{name}" for name in hardware.modules],
        "flags": "-nosrl -nodsp" if told["style"] == "unrolled" else "-nosrl",
        "optimize": "-O0" if told["style"] == "unrolled" else "-O1",  # a frame of a streaming design takes many cycles
        "family": family(str(told["part"])),
        "inputs": [_port(wire) for wire in hardware.inputs],
        "outputs": [_port(wire) for wire in hardware.outputs],
        "masters": [{"name": one.name, "bits": one.bits} for one in hardware.masters],
        "late": _LATE,
        "latency": hardware.latency,
        "interval": hardware.interval,
        "quiet": _QUIET + 2 * (hardware.latency + hardware.interval) + (0 if hardware.latency else _UNKNOWN),
    }
    made |= {
        "Makefile": render("rtl_Makefile.j2", values),
        "sim/bench.cpp": render("rtl_bench.cpp.j2", values),
        "syn/cells.ys": render("rtl_cells.ys.j2", values),
    }
    for wire in (*hardware.inputs, *hardware.outputs):
        made[f"golden/{wire.name}.hex"] = "".join(f"{word:x}\n" for word in words_of(wire, raws))
    for one in hardware.masters:
        made[f"golden/{one.name}.mem"] = "".join(f"{word:x}\n" for word in one.words)
    files = {path: text.encode("utf-8") for path, text in made.items()}
    manifest = {
        "format": FORMAT,
        "qfx": __version__,
        **told,
        "top": hardware.top,
        "latency_cycles": hardware.latency,
        "interval_cycles": hardware.interval,
        "files": {path: hashlib.sha256(data).hexdigest() for path, data in sorted(files.items())},
    }
    files[MANIFEST] = (json.dumps(manifest, indent=2) + "\n").encode("utf-8")
    folder.replace(target, files, None if old is None else lambda path: path in old or path.startswith("build/"))
    return Written(target, hardware, expected, frames)


def _port(wire: Any) -> dict[str, Any]:
    return {"name": wire.name, "bits": wire.bits, "words": words_per_frame(wire)}


def _replaceable(target: Path, force: bool) -> frozenset[str] | None:
    """The files that qfx wrote in a folder that may be replaced, None if there is nothing. Raises ProjectError if it must be left alone."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise ProjectError("is not a folder", where=str(target), remedy="name a folder that does not exist yet")
    if not target.exists() or not any(target.iterdir()):
        return None
    if not force:
        raise ProjectError("the folder is not empty", where=str(target), remedy="name another folder, or pass --force to replace Verilog of qfx's")
    try:
        written = json.loads((target / MANIFEST).read_text(encoding="utf-8"))["files"]
        return frozenset((*written, MANIFEST))
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = "the folder was not written by qfx rtl, so force does not replace it"
        raise ProjectError(what, where=str(target), remedy="name another folder") from error
