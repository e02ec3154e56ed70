"""``qfx hls`` and ``qfx estimate``."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import click

from qfx.cli.common import DIFFERENCE, FILE, data_option, feed, force_option, guard, json_option, output_option, print_json, samples_option
from qfx.cli.planning import Asked, decided, plan_options, summary_of
from qfx.cli.telling import telling

_PEER_SAMPLES = 64
"""Made-up inputs, the ends of every range among them, that a peer's project is compared on."""


@click.command()
@click.argument("model", type=FILE)
@output_option("The project folder to write.")
@plan_options
@click.option(
    "--backend",
    type=click.Choice(("qfx", "hls4ml")),
    default="qfx",
    show_default=True,
    help="What generates the project: qfx, or hls4ml with every type set, compiled and compared (docs/leaving.md).",
)
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
    backend: str,
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

    if top is not None:
        checked_top(top)
    if backend == "hls4ml":
        _with_hls4ml(model, output, asked, top, data, samples, as_json, force)
        return
    check_target(output, force=force)
    names = ["x"]
    if data is not None and zipfile.is_zipfile(data):  # several inputs come by the model's names for them
        names = [node.name for node in load_graph(model).inputs]
    golden = None if data is None else feed(data, samples, names)
    with telling("reading the model") as progress:
        asked, graph, made, why = decided(asked, model, progress)
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
    if why:
        click.echo(why, err=True)
    if as_json:
        print_json(summary_of(made).data(made, graph.name))
    else:
        click.echo(summary_of(made).as_text(made, graph.name))
    click.echo(f"wrote {output}: `make csim` there compiles and runs its test bench", err=as_json)


def _with_hls4ml(
    model: Path, output: Path, asked: Asked, top: str | None, data: Path | None, samples: int | None, as_json: bool, force: bool
) -> None:
    """A project of hls4ml's, if it computes what qfx does."""
    import numpy as np

    from qfx.cli.planning import refuse_for_peer
    from qfx.hardware.board import board, check_clock
    from qfx.hardware.peers.project import REPORT, check_target, write
    from qfx.ir.from_onnx import load_graph
    from qfx.testing import adversarial_inputs

    refuse_for_peer(asked)
    on = board(asked.board_name)
    clock_ns = on.clock_ns if asked.clock_ns is None else float(asked.clock_ns)
    check_clock(clock_ns, on)
    check_target(output, force=force)
    with telling("reading the model") as progress:
        graph = load_graph(model)
        x = adversarial_inputs(graph, np.random.default_rng(0), _PEER_SAMPLES)
        if data is not None:
            x = np.concatenate([x, feed(data, samples, [graph.input.name]).astype(np.float32)])
        progress("hls4ml writes the project and compiles it", 0, 1)
        row = write(graph, output, board=on, clock_ns=clock_ns, name=top or "qfx", x=x, force=force)
    if row.first is not None:
        click.echo(f"hls4ml differs first at {row.first}; {output} is not written", err=True)
        sys.exit(DIFFERENCE)
    click.echo(
        (output / REPORT).read_text(encoding="utf-8") if as_json else f"hls4ml: {len(x)} samples, 0 of {row.values} values differ", nl=not as_json
    )
    click.echo(f"wrote {output}", err=as_json)


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
        _, graph, made, why = decided(asked, model, progress)
        summary = summary_of(made)
        text = (summary.as_json if as_json else summary.as_text)(made, graph.name)
    if why:
        click.echo(why, err=True)
    click.echo(text, nl=False)
