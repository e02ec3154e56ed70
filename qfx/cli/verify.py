"""``qfx verify``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from qfx.cli.common import DIFFERENCE, FILE, FOLDER, data_option, feed, guard, json_option, print_json, samples_option
from qfx.cli.common import count as count_of
from qfx.cli.telling import telling

if TYPE_CHECKING:
    from qfx.trace import Divergence
    from qfx.verify import Comparison


@click.command()
@click.argument("model", type=FILE)
@click.argument("project", type=FOLDER)
@data_option(".npz (inputs called x) or .npy, batch first, PyTorch's layout.")
@click.option("--fast", is_flag=True, help="Compare the fast emulator too.")
@click.option("--layers", "--trace", "every", is_flag=True, help="Compare every layer of the C++ too  [default: only for a sample that differs].")
@samples_option()
@json_option()
@guard
def verify(model: Path, project: Path, data: Path, fast: bool, every: bool, samples: int | None, as_json: bool) -> None:
    """Compare ONNX Runtime and the C simulation of PROJECT with the integer interpreter on MODEL, raw integer by raw integer.

    Exits with 1 and names the first differing value, and the layer of the C++ where the difference starts, if anything differs.
    """
    from qfx import formats
    from qfx.hardware.project.csim import run_raw, told
    from qfx.hardware.project.project import changed_files, read_project
    from qfx.ir.from_onnx import load_graph
    from qfx.trace import locate
    from qfx.verify import verify as compare_all

    formats.refuse(formats.kind_of_file(model), str(model))
    with telling("reading the model"):
        x = feed(data, samples, [node.name for node in load_graph(model).inputs])
    builds = {"C simulation": False, "fast emulator": True} if fast else {"C simulation": False}
    layers: dict[str, tuple[int, Divergence | None]] = {}
    with telling("reading the model") as progress:
        executors = {name: partial(run_raw, project, fast=which, progress=progress) for name, which in builds.items()}
        comparisons = compare_all(model, x, executors, progress=progress)
        for row in comparisons:
            if row.executor in builds and (every or row.first is not None):
                start = 0 if every or row.first is None else row.first.sample
                part = x if every else _sample(x, start)
                count, found = locate(model, project, part, fast=builds[row.executor], progress=progress)
                layers[row.executor] = count, None if found is None else replace(found, sample=found.sample + start)
    differs = any(row.first is not None for row in comparisons) or any(found is not None for _, found in layers.values())
    if as_json:
        print_json(_as_data(count_of(x), comparisons, layers, differs))
    else:
        _print_table(count_of(x), comparisons)
    _say(comparisons, layers, quiet=as_json)
    if differs:
        changed = changed_files(read_project(project))
        if changed:
            click.echo(f"note: of the project, {told(changed)} changed since it was written", err=True)
        sys.exit(DIFFERENCE)


def _sample(x: Any, number: int) -> Any:
    """One sample of the data."""
    piece = slice(number, number + 1)
    return {name: array[piece] for name, array in x.items()} if isinstance(x, dict) else x[piece]


def _print_table(samples: int, comparisons: Sequence[Comparison]) -> None:
    table = Table(title=f"{samples} samples against the integer interpreter", title_justify="left")
    for heading in ("executor", "values", "differing values", "differing bits"):
        table.add_column(heading, justify="left" if heading == "executor" else "right")
    for row in comparisons:
        table.add_row(row.executor, str(row.values), str(row.differing_values), str(row.differing_bits))
    Console().print(table)


def _say(comparisons: Sequence[Comparison], layers: dict[str, tuple[int, Divergence | None]], *, quiet: bool) -> None:
    """Where the executors differ first, on stderr; that all layers are equal, on stdout unless it is ``quiet``."""
    for row in comparisons:
        if row.first is not None:
            click.echo(f"{row.executor} differs first at {row.first}", err=True)
        if row.executor not in layers:
            continue
        count, found = layers[row.executor]
        if found is not None:
            click.echo(f"{row.executor} differs first in {found}", err=True)
        elif not count:
            click.echo(f"{row.executor}: nothing travels between the layers of an unrolled design; --fast looks at the emulator's", err=True)
        else:
            click.echo(f"{row.executor}: all {count} values that travel between layers are equal", err=quiet or row.first is not None)


def _as_data(samples: int, comparisons: Sequence[Comparison], layers: dict[str, tuple[int, Divergence | None]], differs: bool) -> dict[str, Any]:
    """{"samples", "equal", "executors": [{"executor", "values", "differing_values", "differing_bits", "first"}], "layers": [{"executor", "values",
    "first"}]}; "first" is the first difference, or null."""
    traced = [{"executor": name, "values": count, "first": None if found is None else asdict(found)} for name, (count, found) in layers.items()]
    return {"samples": samples, "equal": not differs, "executors": [asdict(row) for row in comparisons], "layers": traced}
