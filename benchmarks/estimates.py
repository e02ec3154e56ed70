"""What the networks of docs/estimates.md come to on their boards, and the processor time that finding it takes.

``PYTHONPATH=tests python -m benchmarks.estimates``, and with ``--prove 1000`` whether the designs compute what they should.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import get_args

import numpy as np
import torch

import qfx
from qfx.hardware.board import Board, board
from qfx.hardware.cost.resources import FIELDS
from qfx.hardware.design.schedule import Request
from qfx.hardware.folding.search import Plan, resolve
from qfx.hardware.folding.summary import per_unit
from qfx.hardware.project import csim
from qfx.hardware.project.execute import execute
from qfx.hardware.project.project import prepare, write_project
from qfx.ir.graph import Graph
from qfx.ir.interpret import quantize_input, run_from_raw
from qfx.recipe import BatchNormStyle


@dataclass(frozen=True, slots=True)
class Row:
    """A network of ``tests/networks.py`` with words of ``bits`` on a board."""

    network: str
    bits: int
    board: str


ROWS = tuple(
    Row(network, bits, on)
    for network, bits, boards in (
        ("resnet20", 8, ("ultra96v2", "kv260", "zcu102")),
        ("resnet20", 4, ("ultra96v2", "zcu102")),
        ("resnet8", 8, ("pynq_z2", "kv260", "zcu102")),
        ("mobilenet", 8, ("zcu102", "kv260")),
    )
    for on in boards
)


def graph_of(network: str, bits: int, batch_norm: BatchNormStyle) -> Graph:
    """The network at the size of its task, with random weights."""
    model, x = import_module("networks").make(network, small=False)  # of tests/
    return prepare(qfx.to_graph(qfx.quantize(model, x, replace(qfx.Recipe.uniform(bits), batch_norm=batch_norm))))


def line(row: Row, plan: Plan, graph: Graph, seconds: float) -> str:
    """The row of the page's table, and the processor time."""
    assert plan.timing is not None  # these networks are small enough to be simulated
    unit = per_unit(plan, {node.name: node.op.macs(graph.infos[node.name]) for node in graph.nodes})
    work = (unit["macs_per_dsp_cycle"], unit["macs_in_dsp_per_dsp_cycle"])
    dsp = " | ".join("" if one is None else f"{one:.2f}" for one in work)
    cells = (
        f"{row.network}, {row.bits} bits", row.board, f"{plan.interval}", f"{plan.fps:.0f}", f"{plan.clock.believed_ns:.2f}",
        f"{plan.fps * plan.clock_ns / plan.clock.believed_ns:.0f}", f"{plan.timing.latency}",
        *(f"{100 * plan.estimate.share(field):.0f} %" for field in FIELDS),
        f"{plan.power.frames_per_joule(plan.fps):.0f}", dsp, f"{unit['luts_per_fps']:.3g}",
        "gap unknown" if plan.gap is None else f"gap {100 * plan.gap:.1f} %", f"{seconds:.1f} s",
    )  # fmt: skip
    return " | ".join(cells)


def proven(graph: Graph, plan: Plan, on: Board, images: int) -> str:
    """How many numbers of that design's results differ from the interpreter's: of ``images`` random images in the fast emulator, and of a tenth of
    them in C simulation with the vendor's headers."""
    (node,) = graph.inputs
    x_raw = quantize_input(graph, np.random.default_rng(0).random((images, *graph.infos[node.name].shape), dtype=np.float32))
    expected = run_from_raw(graph, x_raw)
    told = []
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "project"
        write_project(graph, project, board=on, schedule=plan)
        for build, count in (("fast", images), ("vendor", max(images // 10, 1))):
            command = (str(csim.build(project, fast=build == "fast")),)
            found = execute(command, x_raw[:count], graph.infos[graph.output].shape)
            told.append(f"{build} {np.count_nonzero(found != expected[:count])} of {found.size} differ")
    return ", ".join(told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", help="parts of rows, such as resnet20 or kv260 [all]")
    parser.add_argument(
        "--batch-norm", choices=get_args(BatchNormStyle), default="keep", help="As in a recipe: folded, or an affine step of its own."
    )
    parser.add_argument(
        "--prove", type=int, default=0, metavar="IMAGES", help="run each design: the fast emulator, and a tenth with vendor's headers"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    for row in ROWS:
        if all(part in (row.network, str(row.bits), row.board) for part in given.only):
            graph = graph_of(row.network, row.bits, given.batch_norm)
            on = board(row.board)
            began = time.process_time()
            plan = resolve(graph, on, Request(fit=True), clock_ns=on.clock_ns)
            print(line(row, plan, graph, time.process_time() - began), flush=True)
            if given.prove:
                print(f"    {proven(graph, plan, on, given.prove)}", flush=True)


if __name__ == "__main__":
    main()
