"""``qfx ptq``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qfx.cli.common import FILE, FOLDER, data_option, force_option, guard, json_option, output_option, samples_option

if TYPE_CHECKING:
    from qfx.ptq.allocation.table import Measure


@click.command()
@click.option("--model", required=True, help="package.module:factory, or a float .onnx or torch.export .pt2 file.")
@click.option("--checkpoint", type=FILE, default=None, help="The factory's weights: a file of torch.save or safetensors, or a folder of them.")
@click.option("--checkpoint-key", default=None, metavar="KEY", help="Which weights of the checkpoint, where there are several: ema, student.")
@data_option(
    ".npz (inputs called x) or .npy of real inputs, batch first, unlabelled; a folder of them, or WebDataset shards.", "--calib", required=False
)
@click.option("--data-free", default=None, metavar="SHAPE", help="No data: distil inputs of this shape (3x32x32) from BatchNorm statistics.")
@click.option(
    "--input-range", type=float, nargs=2, default=None, metavar="LOW HIGH", help="With --data-free: limits of inputs  [default: mean 0, deviation 1]."
)
@click.option("--recipe", type=FILE, default=None, help="recipe.toml  [default: 8 bits, weights per channel].")
@click.option("--eval", "evaluation", type=FILE, default=None, help=".npz of inputs x and class numbers y, to count right answers.")
@click.option("--passes", default=None, help="Comma-separated passes, in order  [default: what suits the word lengths].")
@click.option(
    "--budget", default=None, help="Choose word lengths: mean-weight-bits=4, weight-bits=N, or board=B,fps=N,lut=N,dsp=N,bram18=N,clock-ns=N."
)
@click.option(
    "--measure",
    type=click.Choice(("sqnr", "correlation", "fisher", "hessian", "taylor")),
    default=None,
    help="With --budget: what says how much the model loses by short words  [default: fisher].",
)
@click.option(
    "--max-drop", type=float, default=None, metavar="POINTS", help="Try passes until accuracy on --eval is at most so many points below float's."
)
@click.option("--widest", type=click.IntRange(1, 32), default=None, help="With --max-drop: words may become so long for it.")
@output_option("The ONNX file to write.")
@click.option("--report", type=FILE, default=None, help="The HTML report to write  [default: the output's name with .html].")
@click.option("--log", type=FOLDER, default=None, help="A folder for a log that `qfx watch` follows.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run.")
@json_option()
@force_option("Replace existing files, and what an interrupted run left.")
@click.option("--seed", default=0, show_default=True, help="Of everything random.")
@click.option("--batch", type=click.IntRange(min=1), default=64, show_default=True, help="Samples at a time.")
@samples_option("Use only the first so many calibration samples; with --data-free: make so many (32).")
@guard
def ptq(
    model: str,
    checkpoint: Path | None,
    checkpoint_key: str | None,
    data: Path | None,
    data_free: str | None,
    input_range: tuple[float, float] | None,
    recipe: Path | None,
    evaluation: Path | None,
    passes: str | None,
    budget: str | None,
    measure: Measure | None,
    max_drop: float | None,
    widest: int | None,
    output: Path,
    report: Path | None,
    log: Path | None,
    resume: bool,
    as_json: bool,
    force: bool,
    seed: int,
    batch: int,
    samples: int | None,
) -> None:
    """Make a fixed-point model of a trained float one, from a few hundred unlabelled inputs.

    Writes an ONNX file for `qfx hls`, and a report that says what every pass gained and where the error is. Ctrl-C keeps what is done for --resume.
    With --max-drop the exit code is 1 if the goal is not met.
    """
    from qfx.ptq.run.command import execute
    from qfx.ptq.run.request import Request

    request = Request(
        model=model,
        checkpoint=checkpoint,
        calibration=data,
        data_free=data_free,
        input_range=input_range,
        recipe=recipe,
        evaluation=evaluation,
        passes=passes,
        budget=budget,
        measure=measure,
        max_drop=max_drop,
        widest=widest,
        output=output,
        report=report,
        resume=resume,
        as_json=as_json,
        force=force,
        seed=seed,
        batch=batch,
        samples=samples,
        checkpoint_key=checkpoint_key,
        log=log,
    )
    sys.exit(execute(request))
