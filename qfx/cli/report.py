"""``qfx report``."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from qfx.cli.common import DIFFERENCE, FILE, FOLDER, data_option, feed, force_option, guard, json_option, output_option, print_json, samples_option
from qfx.cli.planning import Asked, optional_plan_options, plan_of, summary_of
from qfx.cli.telling import telling

if TYPE_CHECKING:
    from qfx.hardware.folding.plan import Plan
    from qfx.hardware.project.project import Project
    from qfx.hardware.sequential.plan import Plan as Sequential
    from qfx.hardware.unrolled.plan import Plan as Unrolled
    from qfx.progress import Progress
    from qfx.report import Report
    from qfx.verify import Comparison


@click.command()
@click.argument("target", metavar="MODEL_PROJECT_OR_LOG", type=FILE)
@data_option(".npz (inputs called x) or .npy, batch first, PyTorch's layout; on a page class numbers called y tell the accuracy.", required=False)
@output_option("Write one page of HTML: graph, ranges, errors, and of a board resources, timeline and folding.", required=False)
@click.option("--project", type=FOLDER, default=None, help="With -o: the project of MODEL, whose design the page shows.")
@click.option("--log", type=FOLDER, default=None, help="With -o: the log of how MODEL came to be, of a training or of `qfx ptq`.")
@optional_plan_options("With -o: the board that the page shows a design for; the other options as for `qfx hls`.")
@click.option("--verify", is_flag=True, help="With -o: run ONNX Runtime and the project's C++ on the data too; exits with 1 if a bit differs.")
@click.option("--model", type=FILE, default=None, help="The model of a project that holds none.")
@click.option("--fast", is_flag=True, help="Take the fast emulator instead of the C++ with the vendor's headers.")
@samples_option()
@json_option()
@force_option("Replace an existing page.")
@guard
def report(
    target: Path,
    data: Path | None,
    output: Path | None,
    project: Path | None,
    log: Path | None,
    asked: Asked,
    verify: bool,
    model: Path | None,
    fast: bool,
    samples: int | None,
    as_json: bool,
    force: bool,
) -> None:
    """Count what every cast loses on the data, overflow (above and below the range) and significant bits (rounded), or, with -o, write one page that
    shows a model from its types to its board.

    For a project the C++ counts as well, and the command exits with 1 if it counts differently. There a cast may do the work of the ReLU before it:
    those numbers are counted apart.
    """
    from qfx.report import is_project

    is_folder = is_project(target) or target.is_dir()
    if output is not None:
        if is_folder and not is_project(target) and log is None and (found := _logged(target)):
            log, target = target, found[0]
            is_folder = False
            if target == log:
                _history(log, output, data is not None or project is not None or bool(asked.board_name) or verify, as_json, force)
                return
        if is_folder and project is not None:
            raise click.UsageError("Give the project once, in place of MODEL or with --project.")
        _page(target, data, output, target if is_folder else project, log, asked, model, verify, fast, samples, as_json, force)
        return
    if project is not None or log is not None or asked.board_name or force or verify:
        raise click.UsageError("--project, --log, --board, --verify and --force belong to a page: give -o report.html.")
    if data is None:
        raise click.UsageError("Missing option '--data'; a page (-o report.html) can do without.")
    _counts(target, data, model, fast, samples, as_json, is_folder)


def _counts(target: Path, data: Path, model: Path | None, fast: bool, samples: int | None, as_json: bool, is_folder: bool) -> None:
    from qfx.hardware.project.csim import told
    from qfx.hardware.project.project import changed_files, read_project
    from qfx.ir.from_onnx import load_graph
    from qfx.report import report as report_model
    from qfx.report import report_project

    graph = None if is_folder else load_graph(target)
    names = list(read_project(target).inputs) if graph is None else [node.name for node in graph.inputs]
    x = feed(data, samples, names)
    with telling("reading the model") as progress:
        found = report_project(target, x, model=model, fast=fast, progress=progress) if graph is None else report_model(graph, x, progress=progress)
    if as_json:
        print_json(found.to_json())
    else:
        _print_table(found)
    for row in found.differing:
        click.echo(f"{row.node}: the interpreter counts {row.loss}, the C++ {row.simulated}", err=True)
    if found.differing:
        changed = changed_files(read_project(target))
        if changed:
            click.echo(f"note: of the project, {told(changed)} changed since it was written", err=True)
        sys.exit(DIFFERENCE)
    if is_folder and not as_json:
        click.echo("the C++ counts the same")


def _page(
    target: Path,
    data: Path | None,
    output: Path,
    project: Path | None,
    log: Path | None,
    asked: Asked,
    model: Path | None,
    verify: bool,
    fast: bool,
    samples: int | None,
    as_json: bool,
    force: bool,
) -> None:
    from qfx.data import load_labels
    from qfx.files import check_target, writing
    from qfx.hardware.project.project import read_project
    from qfx.ir.from_onnx import load_graph
    from qfx.pages.measured import measure
    from qfx.pages.model import model_page
    from qfx.watch.page import history
    from qfx.watch.runs import last_answers, read

    if verify and (project is None or data is None):
        raise click.UsageError("--verify runs the C++ of a project on data: give --project and --data.")
    check_target(output, force=force)
    runs = [] if log is None else read(log)
    made_of = None if project is None else read_project(project)
    path = _model_of(made_of, target, model)
    with telling("reading the model") as progress:
        graph = load_graph(path)
        labels = None if data is None else load_labels(data)
        x = None if data is None else feed(data, samples, [node.name for node in graph.inputs])
        plan, notes = _plan(made_of, asked, path, progress)
        measured = None if x is None else measure(graph, x, None if labels is None else labels[:samples], progress=progress)
        compared = _compared(path, project, x, fast, progress) if verify and project is not None else []
        text = model_page(
            graph, path.name, measured=measured, plan=plan, notes=notes, compared=compared, history=history(runs), answers=last_answers(runs, path)
        )
    with writing(output, force=force) as staged:
        staged.write_text(text, encoding="utf-8")
    if as_json:
        print_json({"output": str(output), **({} if measured is None else measured.to_json(graph))})
    else:
        click.echo(f"wrote {output}")
    for row in compared:
        if row.first is not None:
            click.echo(f"{row.executor} differs first at {row.first}", err=True)
    if any(row.first is not None for row in compared):
        sys.exit(DIFFERENCE)


def _logged(folder: Path) -> list[Path]:
    """Whether there is a log in the folder or below it, and then the last model that one names, or the folder itself."""
    from qfx.watch.runs import read

    runs = read(folder)
    models = [path for run in runs if run.model and (path := Path(run.model)).is_file()]
    return [max(models, key=lambda path: path.stat().st_mtime_ns)] if models else [folder] if runs else []


def _history(log: Path, output: Path, more: bool, as_json: bool, force: bool) -> None:
    """The page of a log alone."""
    from qfx.errors import DataError
    from qfx.files import writing
    from qfx.watch.page import watch_page
    from qfx.watch.runs import read

    if more:
        raise DataError("names no model that is there", where=str(log), remedy="name the model, and the log with --log")
    with writing(output, force=force) as staged:
        staged.write_text(watch_page(read(log), str(log), live=False), encoding="utf-8")
    if as_json:
        print_json({"output": str(output)})
    else:
        click.echo(f"wrote {output}")


def _compared(model: Path, project: Path, x: Any, fast: bool, progress: Progress) -> list[Comparison]:
    """ONNX Runtime and the project's C++, or its emulator, beside the interpreter."""
    from qfx.hardware.project.csim import run_raw
    from qfx.verify import verify

    name = "the fast emulator" if fast else "the C simulation"
    return verify(model, x, {name: partial(run_raw, project, fast=fast, progress=progress)}, progress=progress)


def _model_of(project: Project | None, target: Path, model: Path | None) -> Path:
    """The file of the model. Raises ProjectError if the project was made from another, or there is none."""
    from qfx.errors import ProjectError

    if project is None:
        return target
    held = project.path / "model.onnx"
    path = model or (target if target.is_file() else held)
    if not path.is_file():
        remedy = "name the ONNX file that it was made from with --model"
        raise ProjectError(f"{path.name} is missing, so there is nothing to show", where=str(project.path), remedy=remedy)
    if (digest := project.files.get("model.onnx")) is not None and hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        raise ProjectError(f"was made from another model than {path}", where=str(project.path), remedy="write the project again, or name its model")
    return path


def _plan(project: Project | None, asked: Asked, model: Path, progress: Progress) -> tuple[Plan | Unrolled | Sequential | None, list[str]]:
    """The design of the project, or of what was asked for (None: of nothing), and what to know of it."""
    from qfx.hardware.folding.plan import Plan as FoldedPlan

    if project is None:
        return (plan_of(asked, model, progress)[1] if asked.board_name else None), []
    folding = project.path / "folding.toml"
    own = Asked(
        board_name=asked.board_name or project.board,
        clock_ns=project.clock_ns,
        fps=None,
        fit=False,
        folding=folding if folding.is_file() else None,
        shift_and_add=False,
        weights="stream" if project.weights == "stream" else "rom",  # where else they lie the folding says, layer by layer
        ports=None,
        style=project.style,
        adders="qfx",
    )
    if replace(asked, board_name="") != replace(own, board_name="", clock_ns=None, folding=None, weights="rom", style="streaming"):
        raise click.UsageError("A project has its folding and clock already: leave these options out, or name the model alone.")
    graph, plan = plan_of(own, model, progress)
    summary, before = summary_of(plan), _json(project.path / "report.json")
    now = summary.data(plan, graph.name)
    differs = [key for key in ("resources", "interval_cycles") if before.get(key) != now[key]]
    gap = before.get("binding", {}).get("gap")
    if gap is not None and not differs and isinstance(plan, FoldedPlan):
        plan = replace(plan, gap=float(gap))  # the folding was searched for
    note = "the project's report.json says otherwise: its folding.toml was changed, or another version of qfx wrote it; `qfx hls` writes it anew"
    return plan, [f"{' and '.join(differs).replace('_', ' ')}: {note}"] if differs else []


def _json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def _print_table(found: Report) -> None:
    table = Table(title=f"what each cast loses on {found.samples} samples", title_justify="left")
    for heading in ("cast", "to", "values", "ReLU", "above", "below", "rounded", "missing bits"):
        table.add_column(heading, justify="left" if heading in ("cast", "to") else "right", overflow="fold")
    for row in found.rows:
        loss = row.loss
        counts = (loss.values, row.by_relu, loss.above, loss.below - row.by_relu, loss.rounded, loss.missing_bits)
        table.add_row(row.node, row.type, *(str(count) for count in counts))
    Console(width=160).print(table)
