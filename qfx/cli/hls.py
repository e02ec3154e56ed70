"""``qfx hls`` and ``qfx estimate``."""

from __future__ import annotations

import zipfile
from pathlib import Path

import click

from qfx.cli.common import FILE, data_option, feed, force_option, guard, json_option, output_option, print_json, samples_option
from qfx.cli.planning import Asked, plan_of, plan_options, summary_of
from qfx.cli.telling import telling


@click.command()
@click.argument("model", type=FILE)
@output_option("The project folder to write.")
@plan_options
@click.option("--top", default=None, help="The name of the top function  [default: from the model's name].")
@data_option(".npy or .npz with inputs for the test bench's golden vectors  [default: a few made up].", "--golden", required=False)
@samples_option()
@json_option("Print report.json instead of the table.")
@force_option("Replace an existing qfx project in the output folder.")
@guard
def hls(
    model: Path,
    output: Path,
    asked: Asked,
    top: str | None,
    data: Path | None,
    samples: int | None,
    as_json: bool,
    force: bool,
) -> None:
    """Write a Vivado/Vitis HLS project for MODEL, an ONNX file from qfx.export_onnx.

    Without --fps, --fit and --folding every layer works on one number at a time.
    """
    from qfx.hardware.design.names import checked_top
    from qfx.hardware.project.project import check_target, write_project
    from qfx.ir.from_onnx import load_graph

    check_target(output, force=force)
    if top is not None:
        checked_top(top)
    names = ["x"]
    if data is not None and zipfile.is_zipfile(data):  # several inputs come by the model's names for them
        names = [node.name for node in load_graph(model).inputs]
    golden = None if data is None else feed(data, samples, names)
    with telling("reading the model") as progress:
        graph, made = plan_of(asked, model, progress)
        progress("writing the project and its golden vectors", 0, 1)
        write_project(
            graph,
            output,
            board=made.estimate.board,
            clock_ns=made.clock_ns,
            top=top,
            schedule=made,
            weights=asked.weights,
            style=asked.style,
            force=force,
            golden_inputs=golden,
            extra_files={"model.onnx": model.read_bytes()},
        )
    if as_json:
        print_json(summary_of(made).data(made, graph.name))
    else:
        click.echo(summary_of(made).as_text(made, graph.name))
    click.echo(f"wrote {output}: `make csim` there compiles and runs its test bench", err=as_json)


@click.command()
@click.argument("model", type=FILE)
@plan_options
@json_option("Print report.json instead of the table.")
@guard
def estimate(
    model: Path,
    asked: Asked,
    as_json: bool,
) -> None:
    """Print what `qfx hls` with the same options would make: folding, cycles and resources of every layer. Writes nothing."""
    with telling("reading the model") as progress:
        graph, made = plan_of(asked, model, progress)
        summary = summary_of(made)
        text = (summary.as_json if as_json else summary.as_text)(made, graph.name)
    click.echo(text, nl=False)
