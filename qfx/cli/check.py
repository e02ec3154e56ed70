"""``qfx check``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click

from qfx.cli.common import DIFFERENCE, FILE, data_option, guard, inputs, json_option, print_json, samples_option
from qfx.cli.telling import telling


@click.command()
@click.option("--model", required=True, help="package.module:factory, or a float .onnx or torch.export .pt2 file.")
@data_option(".npz (inputs called x) or .npy of real inputs, batch first.")
@click.option("--recipe", type=FILE, default=None, help="recipe.toml  [default: 8 bits, weights per channel].")
@samples_option()
@json_option()
@guard
def check(model: str, data: Path, recipe: Path | None, samples: int | None, as_json: bool) -> None:
    """Say what every operation of a float model would become in fixed point, or why it has no such form and what to do.

    Nothing is quantized. The exit code is 1 if the model cannot be.
    """
    import torch

    from qfx.capture.check import check as check_model
    from qfx.capture.source import load_model_and_data, use_current_folder
    from qfx.recipe import Recipe

    use_current_folder()
    example = torch.from_numpy(inputs(data, samples))
    with telling("reading the model"):
        loaded, example = load_model_and_data(model, None, example, len(example), where=str(data))
        found = check_model(loaded, example, None if recipe is None else Recipe.load(recipe))
    if as_json:
        print_json({"ok": found.ok, "rows": [asdict(row) for row in found.rows]})
    else:
        click.echo(str(found))
        blocked = len(found.blocked)
        verdict = f"{blocked} of {len(found.rows)} have no fixed-point form" if blocked else f"all {len(found.rows)} have a fixed-point form"
        click.echo(f"\noperations: {verdict}")
    if not found.ok:
        sys.exit(DIFFERENCE)
