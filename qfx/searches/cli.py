"""The options of ``qfx sweep``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qfx.cli.common import FILE, data_option, force_option, guard, json_option, output_option, samples_option

if TYPE_CHECKING:
    from qfx.searches.cells import CostName


@click.command()
@click.option("--model", required=True, help="package.module:factory, or a float .onnx or torch.export .pt2 file.")
@click.option("--checkpoint", type=FILE, default=None, help="The factory's weights.")
@data_option(".npz (inputs called x) or .npy of real inputs, batch first, unlabelled.", "--calib")
@click.option("--eval", "evaluation", type=FILE, required=True, help=".npz of inputs x and class numbers y, to count right answers.")
@click.option("--recipe", "recipes", type=FILE, multiple=True, help="A recipe.toml; may be repeated  [default: that of qfx ptq].")
@click.option("--weight-bits", default=None, metavar="LIST", help="Word lengths of weights, such as 4,6,8  [default: the recipe's].")
@click.option("--activation-bits", default=None, metavar="LIST", help="Those of activations.")
@click.option("--budget", "budgets", multiple=True, metavar="BUDGET", help="As in qfx ptq; may be repeated; `none` is one, too  [default: none].")
@click.option("--passes", default="", help="Comma-separated passes of qfx ptq  [default: what suits the word lengths].")
@click.option(
    "--cost", type=click.Choice(("bit-operations", "weight-bits")), default="bit-operations", show_default=True, help="What should be little."
)
@click.option(
    "--trials", type=click.IntRange(min=1), default=None, help="Look at so many cells, chosen by Optuna from what it has seen  [default: all]."
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=None,
    help="Processes that share the work, here or on the cluster  [default: 1; one a Dask worker].",
)
@click.option("--dask", default="", metavar="ADDRESS", help="The scheduler of a Dask cluster, such as tcp://host:8786, whose workers do the work.")
@click.option("--storage", default="", help="The database: a SQLite file, or a URL as Optuna takes it  [default: OUTPUT/sweep.db].")
@click.option("--study", default="qfx", show_default=True, help="The name of the study in the database.")
@click.option("--joins", is_flag=True, help="Help with a sweep that was started elsewhere: work until nothing is left, no table.")
@output_option("The folder to write: models, sweep.json, front.png.")
@json_option()
@force_option("Forget what the study found, and begin anew.")
@click.option("--seed", default=0, show_default=True, help="Of everything random.")
@click.option("--batch", type=click.IntRange(min=1), default=64, show_default=True, help="Samples at a time.")
@samples_option("Use only the first so many calibration samples.")
@guard
def sweep(
    model: str,
    checkpoint: Path | None,
    data: Path,
    evaluation: Path,
    recipes: tuple[Path, ...],
    weight_bits: str | None,
    activation_bits: str | None,
    budgets: tuple[str, ...],
    passes: str,
    cost: CostName,
    trials: int | None,
    workers: int | None,
    dask: str,
    storage: str,
    study: str,
    joins: bool,
    output: Path,
    as_json: bool,
    force: bool,
    seed: int,
    batch: int,
    samples: int | None,
) -> None:
    """Quantize a model by many recipes, word lengths and budgets, and show which are worth having.

    Every cell is a run of `qfx ptq`. What is done is kept in a database as it comes: the same command goes on after whatever ended it, and the same
    command with --joins, here or on another machine that reaches the database, helps. The exit code is 1 if no cell could be had.
    """
    from qfx.searches.cells import NONE, Space, word_lengths
    from qfx.searches.command import Request, execute
    from qfx.searches.work import Subject

    space = Space(
        tuple(map(str, recipes)) or ("",),
        word_lengths(weight_bits, "--weight-bits"),
        word_lengths(activation_bits, "--activation-bits"),
        tuple(dict.fromkeys(budgets)) or (NONE,),
    )
    subject = Subject(
        model, "" if checkpoint is None else str(checkpoint), str(data), str(evaluation), passes, cost, seed, batch, 0 if samples is None else samples
    )
    again = ["sweep", *_without([word for word in sys.argv[2:] if word != "--force"], "--workers", "--dask")]
    sys.exit(execute(Request(subject, space, output, storage, study, trials, workers, dask, joins, as_json, force), again))


def _without(arguments: list[str], *options: str) -> list[str]:
    """The command line without some options of one value."""
    kept, skip = [], False
    for argument in arguments:
        if not skip and argument.partition("=")[0] not in options:
            kept.append(argument)
        skip = not skip and argument in options
    return kept
