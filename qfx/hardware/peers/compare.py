"""qfx's generator and hls4ml's on one model: whether they compute the same, how long their C++ compiles, how fast it runs, what it would cost."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from qfx.errors import QfxError
from qfx.hardware.board import Board
from qfx.hardware.cost.resources import FIELDS
from qfx.hardware.design.schedule import Request
from qfx.hardware.folding.search import resolve
from qfx.hardware.peers.project import build
from qfx.hardware.project.csim import run_raw as simulate
from qfx.hardware.project.project import prepare, write_project
from qfx.ir.graph import Graph
from qfx.ir.interpret import run_raw
from qfx.ir.values import RawArray
from qfx.verify import compare

Row = dict[str, Any]


def generators(graph: Graph, on: Board, request: Request, clock_ns: float, x: Any) -> list[Row]:
    """A row for each generator: ``generator``, ``refused`` (why it makes nothing of the model; None), and where it does ``differing_values`` of
    ``values``, ``compile_s`` and ``samples_per_second`` of its simulation over ``x``, and ``estimate``: resources and cycles, None where a generator
    has none without the vendor's synthesis. Both are simulated with the vendor's ``ap_fixed``, compiled by g++."""
    expected = run_raw(graph, x)
    rows = []
    for name, make in (("qfx", _qfx), ("hls4ml", _hls4ml)):
        row: Row = {"generator": name, "refused": None}
        with tempfile.TemporaryDirectory(prefix="qfx_peers_") as folder:
            try:
                began = time.perf_counter()
                run, estimate = make(graph, Path(folder) / "project", on, request, clock_ns, x[:1])
                compiled = time.perf_counter()
                found = run(x)
                ended = time.perf_counter()
            except QfxError as error:
                rows.append(row | {"refused": str(error)})
                continue
        counted = compare(graph, expected, found, name)
        row |= {"values": counted.values, "differing_values": counted.differing_values, "compile_s": round(compiled - began, 3)}
        rows.append(row | {"samples_per_second": round(len(x) / (ended - compiled), 1), "estimate": estimate})
    return rows


def _qfx(graph: Graph, folder: Path, on: Board, request: Request, clock_ns: float, one: Any) -> tuple[Callable[[Any], RawArray], Row | None]:
    prepared = prepare(graph)
    plan = resolve(prepared, on, request, clock_ns=clock_ns)
    write_project(prepared, folder, board=on, clock_ns=clock_ns, schedule=plan)
    simulate(folder, one)  # compiles
    total = plan.estimate.total
    told = {field: getattr(total, field) for field in FIELDS} | {"interval_cycles": plan.interval}
    return lambda x: np.asarray(simulate(folder, x)), told


def _hls4ml(graph: Graph, folder: Path, on: Board, request: Request, clock_ns: float, one: Any) -> tuple[Callable[[Any], RawArray], Row | None]:
    return build(graph, folder, part=on.part, clock_ns=clock_ns).run_raw, None
