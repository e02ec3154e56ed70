"""What ``hls`` and ``estimate`` share: the options that say what is built, and the plan that comes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qfx.cli.common import FILE

if TYPE_CHECKING:
    from qfx.hardware.folding.search import Plan
    from qfx.hardware.unrolled.plan import Plan as Unrolled
    from qfx.ir.graph import Graph
    from qfx.progress import Progress

_OPTIONS = (
    click.option("--board", "board_name", required=True, help="The target board; `qfx boards` lists them. Or the path of a TOML file."),
    click.option("--clock-ns", type=float, default=None, help="The target clock period in nanoseconds  [default: the board's]."),
    click.option("--fps", type=float, default=None, help="Choose the cheapest folding that makes so many frames per second."),
    click.option("--fit", is_flag=True, help="Choose the fastest folding that fits the board."),
    click.option("--folding", type=FILE, default=None, help="A folding.toml that fixes the folding of layers."),
    click.option("--shift-and-add", is_flag=True, help="Build every product with a constant of shifts and additions, without multipliers."),
    click.option(
        "--weights", type=click.Choice(("rom", "stream")), default="rom", show_default=True, help="In ROM, or loaded while the hardware runs."
    ),
    click.option(
        "--ports",
        type=click.Choice(("separate", "merged")),
        default=None,
        help="Of several inputs or outputs: a stream for each, or one for all inputs and one for all outputs  [default: as --folding, or separate].",
    ),
    click.option(
        "--style",
        type=click.Choice(("streaming", "unrolled")),
        default="streaming",
        show_default=True,
        help="A process for each layer, or the whole network one pipelined function (small networks; docs/unrolled.md).",
    ),
    click.option(
        "--adders",
        type=click.Choice(("qfx", "da4ml")),
        default="qfx",
        show_default=True,
        help="With --style unrolled: what makes the adder graphs, the package da4ml being installed.",
    ),
)


def plan_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Those of a plan."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def plan_of(
    style: str,
    model: Path,
    board_name: str,
    clock_ns: float | None,
    fps: float | None,
    fit: bool,
    folding: Path | None,
    shift_and_add: bool,
    weights: str,
    ports: str | None,
    adders: str,
    progress: Progress,
) -> tuple[Graph, Plan | Unrolled]:
    """The prepared graph of the model and what the options make of it. Raises ProjectError for options that mean nothing in the style."""
    from qfx.errors import ProjectError

    if style == "unrolled":
        return _unrolled(model, board_name, clock_ns, fps, fit, folding, shift_and_add, weights, ports, adders, progress)
    if adders != "qfx":
        raise ProjectError("--adders makes the adder graphs of unrolled designs", where="--adders", remedy="leave it out, or use --style unrolled")
    return _plan(model, board_name, clock_ns, fps, fit, folding, weights, ports, shift_and_add, progress)


def summary_of(made: Plan | Unrolled) -> Any:
    """The module that tells of such a plan: as_text, as_json and data."""
    from qfx.hardware.folding import summary
    from qfx.hardware.unrolled import summary as unrolled_summary
    from qfx.hardware.unrolled.plan import Plan as Unrolled

    return unrolled_summary if isinstance(made, Unrolled) else summary


def _plan(
    model: Path,
    board_name: str,
    clock_ns: float | None,
    fps: float | None,
    fit: bool,
    folding: Path | None,
    weights: str,
    ports: str | None,
    shift_and_add: bool,
    progress: Progress,
) -> tuple[Graph, Plan]:
    """The prepared graph of the model and what the options make of it."""
    from qfx.hardware.board import board, check_clock
    from qfx.hardware.design.schedule import Request
    from qfx.hardware.folding import file as folding_file
    from qfx.hardware.folding.search import resolve
    from qfx.hardware.project.project import prepare
    from qfx.ir.from_onnx import load_graph

    found = board(board_name)
    clock_ns = found.clock_ns if clock_ns is None else clock_ns
    check_clock(clock_ns, found)
    request = Request(fps=fps, fit=fit) if folding is None else folding_file.read(folding, fps=fps, fit=fit)
    if ports is not None:
        request = replace(request, merged=ports == "merged")
    request = replace(request, shift_and_add=shift_and_add)
    graph = prepare(load_graph(model), weights)
    return graph, resolve(graph, found, request, clock_ns=clock_ns, progress=progress)


def _unrolled(
    model: Path,
    board_name: str,
    clock_ns: float | None,
    fps: float | None,
    fit: bool,
    folding: Path | None,
    shift_and_add: bool,
    weights: str,
    ports: str | None,
    adders: str,
    progress: Progress,
) -> tuple[Graph, Unrolled]:
    """The prepared graph of the model, unrolled. Raises ProjectError for options that mean nothing then."""
    from qfx.errors import ProjectError
    from qfx.hardware.board import board
    from qfx.hardware.project.project import prepare
    from qfx.hardware.unrolled.plan import plan as unroll
    from qfx.hardware.unrolled.sharing import shared_graph
    from qfx.hardware.unrolled.with_da4ml import da4ml_graph
    from qfx.ir.from_onnx import load_graph

    given = {
        "--fps": fps is not None,
        "--fit": fit,
        "--folding": folding is not None,
        "--shift-and-add": shift_and_add,
        "--weights stream": weights != "rom",
    }
    named = [*(name for name, there in given.items() if there), *(["--ports merged"] if ports == "merged" else [])]
    if named:
        what = f"{', '.join(named)}: an unrolled design has no folding, its weights in its adders, and a stream for each port"
        raise ProjectError(what, where="--style unrolled", remedy=f"leave out {', '.join(named)}, or use --style streaming")
    found = board(board_name)
    graph = prepare(load_graph(model))
    clock_ns = found.clock_ns if clock_ns is None else clock_ns
    return graph, unroll(graph, found, clock_ns=clock_ns, solver={"qfx": shared_graph, "da4ml": da4ml_graph}[adders], progress=progress)
