"""``qfx compare``: models by boards by rates, in one table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qfx.cli.common import DIFFERENCE, FILE, force_option, guard, json_option, print_json
from qfx.cli.completion import boards as names
from qfx.cli.planning import AUTO, Making, clock_option, fastest
from qfx.cli.telling import telling

if TYPE_CHECKING:
    from qfx.hardware.board import Board
    from qfx.hardware.folding.search import Plan
    from qfx.ir.graph import Graph

Row = dict[str, Any]
_PEER_SAMPLES = 256
"""Made-up inputs that the generators are compared on."""


@click.command()
@click.argument("models", type=FILE, nargs=-1, required=True)
@click.option("--board", "boards", multiple=True, required=True, shell_complete=names, help="A target board, or a TOML file; may be repeated.")
@click.option("--fps", "rates", type=float, multiple=True, help="Frames per second; may be repeated  [default: the fastest that fits].")
@clock_option
@click.option(
    "--peers",
    is_flag=True,
    help="Generate, compile and run each model with qfx and with hls4ml instead: equal numbers, and how fast (docs/leaving.md).",
)
@click.option("--plot", type=FILE, default=None, help="Draw frames per second over the share of what binds (PNG, SVG or PDF, by the suffix).")
@json_option()
@force_option("Replace an existing plot.")
@guard
def compare(
    models: tuple[Path, ...],
    boards: tuple[str, ...],
    rates: tuple[float, ...],
    clock_ns: float | str | None,
    peers: bool,
    plot: Path | None,
    as_json: bool,
    force: bool,
) -> None:
    """Tabulate what `qfx estimate` says of every one of MODELS on every board at every rate. Writes nothing but the plot.

    Models of different word lengths are files of their own. A row says what refuses it where nothing fits.
    """
    from qfx.errors import ProjectError
    from qfx.files import check_target
    from qfx.hardware.board import board, check_clock
    from qfx.hardware.project.project import prepare
    from qfx.ir.from_onnx import load_graph

    if plot is not None:
        if peers:
            raise ProjectError("--plot draws designs of qfx", where="--peers", remedy="leave one of the two out")
        check_target(plot, force=force)
    found = [board(name) for name in boards]
    for on in found:
        check_clock(_start_ns(on, clock_ns), on)
    wanted: Sequence[float | None] = rates or (None,)
    if peers:
        if clock_ns == AUTO:
            raise ProjectError("hls4ml says nothing of the period that its designs reach", where="--clock-ns auto", remedy="give nanoseconds")
        _with_peers(models, found, wanted, clock_ns, as_json)
        return
    with telling("reading the models") as progress:
        graphs = [prepare(load_graph(model)) for model in models]
        count = len(models) * len(found) * len(wanted)
        rows: list[Row] = []
        for model, graph in zip(models, graphs, strict=True):
            for on in found:
                for fps in wanted:
                    progress("comparing", len(rows), count)
                    rows.append({"model": model.stem} | _row(graph, on, fps, clock_ns))
    if plot is not None:
        _plot(rows, plot, force)
    if as_json:
        print_json(rows)
    else:
        click.echo("\n".join(_table(rows)))


def _with_peers(models: Sequence[Path], boards: Sequence[Board], rates: Sequence[float | None], clock_ns: float | str | None, as_json: bool) -> None:
    """Rows of both generators for every model, board and rate; exits with 1 if one computes something else than the interpreter."""
    import numpy as np

    from qfx.hardware.design.schedule import Request
    from qfx.hardware.peers.compare import generators
    from qfx.ir.from_onnx import load_graph
    from qfx.testing import adversarial_inputs

    rows: list[Row] = []
    with telling("reading the models") as progress:
        graphs = [load_graph(model) for model in models]
        jobs = [(model, graph, on, fps) for model, graph in zip(models, graphs, strict=True) for on in boards for fps in rates]
        for done, (model, graph, on, fps) in enumerate(jobs):
            progress("generating, compiling and running", done, len(jobs))
            x = adversarial_inputs(graph, np.random.default_rng(0), _PEER_SAMPLES)
            made = generators(graph, on, Request(fps=fps, fit=fps is None), _start_ns(on, clock_ns), x)
            rows += [{"model": model.stem, "board": on.name, "asked_fps": fps} | row for row in made]
    if as_json:
        print_json(rows)
    else:
        click.echo("\n".join(_peer_table(rows)))
    if any(row.get("differing_values") for row in rows):
        sys.exit(DIFFERENCE)


def _peer_table(rows: Sequence[Row]) -> list[str]:
    from qfx.hardware.cost.estimate import NAMES
    from qfx.hardware.cost.resources import FIELDS
    from qfx.hardware.folding.summary import table

    head = ("model", "generator", "board", "differing", "compile s", "samples/s", "interval", *(NAMES[field] for field in FIELDS))
    lines, refused = [], []
    for row in rows:
        start = (row["model"], row["generator"], row["board"])
        if row["refused"] is not None:
            lines.append((*start, "refused", *[""] * (len(FIELDS) + 3)))
            refused.append(f"{row['model']}, {row['generator']}: {row['refused']}")
            continue
        estimate = row["estimate"] or {}
        costs = (str(estimate.get(field, "-")) for field in ("interval_cycles", *FIELDS))
        equal = f"{row['differing_values']} of {row['values']}"
        lines.append((*start, equal, f"{row['compile_s']:.1f}", f"{row['samples_per_second']:.0f}", *costs))
    bare = dict.fromkeys(row["generator"] for row in rows if row["refused"] is None and row["estimate"] is None)
    notes = [*(f"-: {generator} has no figures of a design before the vendor's synthesis" for generator in bare), *refused]
    return [*table(head, lines), *([""] * bool(notes)), *notes]


def _start_ns(on: Board, clock_ns: float | str | None) -> float:
    """The period that was asked for; of AUTO the one that its search begins with."""
    return on.clock_ns if clock_ns is None or clock_ns == AUTO else float(clock_ns)


def _row(graph: Graph, on: Board, fps: float | None, clock_ns: float | str | None) -> Row:
    """One design; ``refused`` says why there is none."""
    from qfx.errors import ProjectError
    from qfx.hardware.cost.resources import FIELDS
    from qfx.hardware.design.schedule import Request
    from qfx.hardware.folding.search import resolve
    from qfx.hardware.folding.summary import binding, per_unit

    start_ns = _start_ns(on, clock_ns)
    row: Row = {"board": on.name, "clock_ns": start_ns, "asked_fps": fps}
    make = Making(graph, lambda period: resolve(graph, on, Request(fps=fps, fit=fps is None), clock_ns=period), fps is None)
    try:
        made: Plan = fastest(make, start_ns) if clock_ns == AUTO else make.plan(start_ns)
    except ProjectError as error:
        return row | {"refused": str(error)}
    work = {node.name: node.op.macs(graph.infos[node.name]) for node in graph.nodes}
    return row | {
        "clock_ns": made.clock_ns,
        "frames_per_second": round(made.fps, 3),
        "interval_cycles": made.interval,
        "latency_us": None if made.timing is None else round(made.timing.latency * made.clock_ns / 1000, 3),
        "shares": {field: round(made.estimate.share(field), 4) for field in FIELDS},
        "binding": binding(made),
        "macs_per_sample": sum(work.values()),
        **per_unit(made, work),
        "refused": None,
    }


def _table(rows: Sequence[Row]) -> list[str]:
    from qfx.hardware.cost.estimate import NAMES
    from qfx.hardware.cost.resources import FIELDS
    from qfx.hardware.folding.summary import table

    head = ("model", "asked fps", "fps", "binds", "board", "latency us", *(f"{NAMES[field]} %" for field in FIELDS), "MAC/DSP/cycle", "LUT/fps")
    lines, refused = [], []
    for row in rows:
        asked = "fastest" if row["asked_fps"] is None else f"{row['asked_fps']:g}"
        if row["refused"] is not None:
            lines.append((row["model"], asked, "-", "refused", row["board"], *[""] * (len(FIELDS) + 3)))
            refused.append(f"{row['model']} on {row['board']}, {asked}: {row['refused']}")
            continue
        binds = ", ".join(NAMES[field] for field in row["binding"]["resources"]) or row["binding"]["layer"]
        latency = "" if row["latency_us"] is None else f"{row['latency_us']:.1f}"
        work = "" if row["macs_per_dsp_cycle"] is None else f"{row['macs_per_dsp_cycle']:.2f}"
        shares = (f"{100 * row['shares'][field]:.1f}" for field in FIELDS)
        lines.append(
            (row["model"], asked, f"{row['frames_per_second']:.0f}", binds, row["board"], latency, *shares, work, f"{row['luts_per_fps']:.3g}")
        )
    return [*table(head, lines), *([""] * bool(refused)), *refused]


def _plot(rows: Sequence[Row], path: Path, force: bool) -> None:
    """Frames per second over the share of what binds: of each model and board the designs that were made, joined by a line."""
    from qfx.errors import DataError
    from qfx.files import writing

    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise DataError("plots need matplotlib", where="--plot", remedy="pip install matplotlib") from None
    made = [row for row in rows if row["refused"] is None]
    if not made:
        raise DataError("there is nothing to draw: every row is refused", where="--plot", remedy="leave --plot out, and see the table")
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for model, on in dict.fromkeys((row["model"], row["board"]) for row in made):
        points = sorted(
            (max(row["binding"]["shares"].values()), row["frames_per_second"]) for row in made if (row["model"], row["board"]) == (model, on)
        )
        axes.plot([100 * share for share, _ in points], [fps for _, fps in points], marker="o", linewidth=1, label=f"{model}, {on}")
    axes.set_xlabel("% of what may be used of the scarcest resource")
    axes.set_ylabel("frames per second")
    axes.set_yscale("log")
    axes.grid(alpha=0.25)
    axes.legend(fontsize="small")
    with writing(path, force=force) as staged:
        figure.savefig(staged, dpi=150, format=path.suffix.lstrip(".") or "png")
