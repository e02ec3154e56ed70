"""The processes of a graph's design as machines, with the widths that the C++ gives their numbers."""

from __future__ import annotations

from pathlib import Path

from qfx.hardware.board import board
from qfx.hardware.design.schedule import Schedule
from qfx.hardware.emit.emit import emit_sources
from qfx.hardware.folding.plan import plan
from qfx.hardware.rtl.machines import sources
from qfx.hardware.rtl.machines.machine import as_written
from qfx.hardware.rtl.machines.netlist import Machine
from qfx.ir.graph import Graph
from qfx.ir.passes.pipeline import optimize


def machines(graph: Graph, folder: Path) -> list[Machine]:
    """Made in ``folder``."""
    design = plan(optimize(graph), board("zcu102"), Schedule(), clock_ns=5).design
    sources.write(emit_sources(design, "top"), folder)
    names = [call.name for call in sources.region(folder, "top").calls]
    module, functions = sources.processes(folder, "top", names)
    return [as_written(module, functions[name], name) for name in names]
