"""``qfx report``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from qfx.cli.common import DIFFERENCE, FILE, data_option, feed, guard, json_option, print_json, samples_option
from qfx.cli.telling import telling

if TYPE_CHECKING:
    from qfx.report import Report


@click.command()
@click.argument("target", metavar="MODEL_OR_PROJECT", type=FILE)
@data_option(".npz (inputs called x) or .npy, batch first, PyTorch's layout.")
@click.option("--model", type=FILE, default=None, help="The model of a project that holds none.")
@click.option("--fast", is_flag=True, help="Let the fast emulator count instead of the C++ with the vendor's headers.")
@samples_option()
@json_option()
@guard
def report(target: Path, data: Path, model: Path | None, fast: bool, samples: int | None, as_json: bool) -> None:
    """Count what every cast loses on the data: overflow (above and below the range) and significant bits (rounded).

    For a project the C++ counts as well, and the command exits with 1 if it counts differently. There a cast may do the work of the ReLU before it:
    those numbers are counted apart.
    """
    from qfx.hardware.project.csim import told
    from qfx.hardware.project.project import changed_files, read_project
    from qfx.ir.from_onnx import load_graph
    from qfx.report import is_project, report_project
    from qfx.report import report as report_model

    is_folder = is_project(target) or target.is_dir()
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


def _print_table(found: Report) -> None:
    table = Table(title=f"what each cast loses on {found.samples} samples", title_justify="left")
    for heading in ("cast", "to", "values", "ReLU", "above", "below", "rounded", "missing bits"):
        table.add_column(heading, justify="left" if heading in ("cast", "to") else "right", overflow="fold")
    for row in found.rows:
        loss = row.loss
        counts = (loss.values, row.by_relu, loss.above, loss.below - row.by_relu, loss.rounded, loss.missing_bits)
        table.add_row(row.node, row.type, *(str(count) for count in counts))
    Console(width=160).print(table)
