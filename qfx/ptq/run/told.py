"""What a run tells on the terminal: a table for people, or JSON."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from qfx.nn.model import left_out_of
from qfx.ptq.report.html import Story, decibel, percent
from qfx.ptq.run.settings import Outcome


def print_account(outcome: Outcome, story: Story) -> None:
    """Print what was tried or done, step by step."""
    if outcome.found is not None:
        click.echo("word lengths for the budget, and what others would lose and take:")
        click.echo(str(outcome.found))
    for told in left_out_of(outcome.qmodel):
        click.echo(f"left out, as the recipe says: {told}")
    tried = bool(story.goal)
    table = Table(box=None, pad_edge=False)
    labelled = any(step.accuracy is not None for step in outcome.steps)
    accuracy = [f"accuracy on {story.stepped}"] if labelled else []
    for heading in ("tried" if tried else "after", "seconds", f"output SQNR on {story.judged}", *accuracy, ""):
        table.add_column(heading, justify="left" if heading in ("tried", "after", "") else "right", no_wrap=heading != "")
    for step in outcome.steps:
        right = [percent(step.accuracy)] if labelled else []
        table.add_row(step.name, f"{step.seconds:.1f}", decibel(step.output_db), *right, step.note)
    Console(width=120).print(table)
    if outcome.accuracy is not None:
        numbers = f"{percent(outcome.float_accuracy)} in float, {percent(outcome.accuracy)} in fixed point"
        click.echo(f"accuracy on all {story.evaluated} evaluation samples: {numbers}")
    if story.goal:
        click.echo(story.goal)


def as_data(outcome: Outcome, story: Story, output: Path, report: Path) -> dict[str, Any]:
    """The account as JSON values: accuracies are shares of right answers on so many of the first evaluation samples, SQNR is in dB (null: not
    measured or without end), ``steps`` as the table has them."""
    steps = [
        {"name": step.name, "seconds": step.seconds, "sqnr_db": _finite(step.output_db), "accuracy": step.accuracy, "note": step.note}
        for step in outcome.steps
    ]
    return {
        "output": str(output),
        "report": str(report),
        "passes": list(outcome.passes),
        "left_out": list(left_out_of(outcome.qmodel)),
        "steps": steps,
        "steps_sqnr_samples": story.judged,
        "steps_accuracy_samples": story.stepped,
        "sqnr_db": _finite(outcome.output_db),
        "float_accuracy": outcome.float_accuracy,
        "accuracy": outcome.accuracy,
        "accuracy_samples": story.evaluated,
        "goal_met": story.met,
        "warnings": [*story.warnings, *story.analysis.warnings],
        "recipe": outcome.recipe.to_toml(),
    }


def _finite(decibels: float | None) -> float | None:
    return decibels if decibels is not None and math.isfinite(decibels) else None
