"""``qfx convert``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qfx.cli.common import DIFFERENCE, FILE, data_option, feed, force_option, guard, json_option, output_option, print_json, samples_option
from qfx.cli.telling import telling

if TYPE_CHECKING:
    from qfx.verify import Comparison

_CHECKED = 32


@click.command()
@click.argument("model", type=FILE)
@click.option("--to", "form", required=True, type=click.Choice(("qdq", "qonnx", "integer")), help="The form of the file (docs/leaving.md).")
@output_option("The ONNX file to write.")
@click.option(
    "--batch", type=click.IntRange(min=1), default=None, help="A fixed batch size  [default: any; with --to qonnx 1, as its executor wants]."
)
@click.option(
    "--check",
    "checked",
    type=click.IntRange(min=0),
    default=_CHECKED,
    show_default=True,
    help="So many made-up inputs, the ends of every range among them, go through the file before it is written.",
)
@data_option(".npy or .npz with inputs that go through the file too.", required=False)
@samples_option()
@json_option()
@force_option("Replace an existing file.")
@guard
def convert(
    model: Path, form: str, output: Path, batch: int | None, checked: int, data: Path | None, samples: int | None, as_json: bool, force: bool
) -> None:
    """Write MODEL, an ONNX file from qfx.export_onnx, as a file of another kind that computes exactly the same numbers.

    Layers that the form cannot express exactly are refused by name. What runs such files (ONNX Runtime with its graph optimizations on and off, the
    package qonnx) runs this one and is compared with the integer interpreter, raw integer by raw integer; where they differ, nothing is written, and
    the command exits with 1.
    """
    import numpy as np

    from qfx.files import check_target, writing
    from qfx.ir.feeds import feeds
    from qfx.ir.from_onnx import load_graph
    from qfx.leaving import convert as leaving
    from qfx.testing import adversarial_feeds

    check_target(output, force=force)
    with telling("reading the model") as progress:
        graph = load_graph(model)
        given = {} if data is None else feeds(graph, feed(data, samples, [node.name for node in graph.inputs]))
        progress("writing it anew", 0, 1)
        made = leaving.convert(graph, form, batch=batch)
        x = adversarial_feeds(graph, np.random.default_rng(0), checked)
        if given:
            x = {name: np.concatenate([x[name], array.astype(np.float32)]) for name, array in given.items()}
        count = len(next(iter(x.values())))
        progress("running the file", 0, 1)
        comparisons = leaving.checked(graph, made, form, x) if count else []
    differs = any(row.first is not None for row in comparisons)
    if not differs:
        with writing(output, force=force) as staged:
            staged.write_bytes(made.SerializeToString(deterministic=True))
    if as_json:
        print_json({"form": form, "samples": count, "equal": not differs, "executors": [asdict(row) for row in comparisons]})
    else:
        click.echo("\n".join(_told(count, comparisons)) or "not checked")
    if differs:
        click.echo(f"{output} is not written: what runs it computes something else", err=True)
        sys.exit(DIFFERENCE)
    click.echo(f"wrote {output}", err=as_json)


def _told(count: int, comparisons: list[Comparison]) -> list[str]:
    return [
        f"{row.executor}: {count} samples, {row.differing_values} of {row.values} values differ"
        + ("" if row.first is None else f"; first at {row.first}")
        for row in comparisons
    ]
