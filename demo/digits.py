"""The demo: handwritten digits from float training to bit-exact C++.

A residual CNN with BatchNorm is trained in float and then in fixed point, with learned binary points, down a ladder of 8, 6 and 4 bits, taught by the
float network. Each rung becomes an ONNX file and HLS projects for two boards, and every executor of them is run on the whole test set. Exits with 1
if a single bit differs, with 2 for an error.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from digits_data import Digits, Part, digits
from digits_model import SmallResNet
from digits_plots import plot_accuracy, plot_start_and_end, plot_training, plot_trajectories
from digits_proof import BOARDS, Paths, check_out, prove, write
from digits_training import History, accuracy, train_fixed, train_float
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

import qfx
from qfx.verify import REFERENCE, Comparison

CALIBRATION = 256
"""Training images from which the binary points start."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything. ``bits``: the rungs of the ladder, from the top. ``test_images``: None for all of them."""

    bits: tuple[int, ...] = (8, 6, 4)
    float_epochs: int = 20
    fixed_epochs: int = 12
    test_images: int | None = None


QUICK = Plan(bits=(4,), float_epochs=2, fixed_epochs=1, test_images=40)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One word length: how it was trained, how well it does on the test set, and what the executors say of each other."""

    history: History
    accuracy: float
    comparisons: tuple[Comparison, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for models, projects and plots (default: out)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights and of the order of the images (default: 0)")
    parser.add_argument("--quick", action="store_true", help="one word length, few epochs and few images: only to see that everything works")
    options = parser.parse_args(arguments)
    console = Console()
    try:
        return demo(options.out, QUICK if options.quick else Plan(), options.seed, console)
    except qfx.QfxError as error:
        console.print(f"error: {error}", style="bold red", markup=False, highlight=False)
        return 2


def demo(out: Path, plan: Plan, seed: int, console: Console) -> int:
    """Everything, in order; 0 if all executors agree on every bit, else 1."""
    began = time.monotonic()
    check_out(out, plan.bits)
    torch.set_num_threads(1)  # a network this small gains nothing from a second thread, and loses much where another program wants the core
    torch.manual_seed(seed)
    data = digits()
    test = data.test if plan.test_images is None else data.test.first(plan.test_images)
    model = SmallResNet()
    outcomes: dict[int, Outcome] = {}
    with _progress(console) as progress:
        task = progress.add_task("float32 training", total=plan.float_epochs)
        tasks = {bits: _tasks(progress, bits, plan) for bits in plan.bits}
        float_history = train_float(model, data, epochs=plan.float_epochs, seed=seed, on_epoch=lambda: progress.advance(task))
        rungs = qfx.ladder(model, data.train.images[:CALIBRATION], [qfx.Recipe.uniform(bits) for bits in plan.bits])
        for bits, qmodel in zip(plan.bits, rungs, strict=True):
            outcomes[bits] = _fixed(qmodel, model, Paths(out, bits), data, test, plan, seed, progress, tasks[bits])
    float_accuracy = accuracy(model, test)
    np.savez(out / "test.npz", x=test.images.numpy(), y=test.labels.numpy())
    fixed = {bits: outcome.history for bits, outcome in outcomes.items()}
    plot_training(out / "training.png", float_history, fixed)
    plot_start_and_end(out / "binary_points.png", fixed)
    plot_trajectories(out / "binary_points_learned.png", fixed)
    plot_accuracy(out / "accuracy.png", float_accuracy, {bits: outcome.accuracy for bits, outcome in outcomes.items()}, len(test))
    _write_results(out / "results.json", seed, len(test), float_accuracy, outcomes)
    console.print(_table(float_accuracy, outcomes, len(test)))
    differing = sum(row.differing_bits for outcome in outcomes.values() for row in outcome.comparisons)
    _report(console, out, outcomes, differing, time.monotonic() - began)
    return 1 if differing else 0


def _fixed(
    qmodel: torch.nn.Module,
    teacher: SmallResNet,
    paths: Paths,
    data: Digits,
    test: Part,
    plan: Plan,
    seed: int,
    progress: Progress,
    tasks: tuple[TaskID, TaskID],
) -> Outcome:
    training, proof = tasks
    progress.start_task(training)
    history = train_fixed(qmodel, teacher, data, epochs=plan.fixed_epochs, seed=seed, on_epoch=lambda: progress.advance(training))
    progress.start_task(proof)
    write(qmodel, paths, test.images)
    progress.advance(proof)
    comparisons = prove(qmodel, paths, test.images, on_step=lambda: progress.advance(proof))
    return Outcome(history, accuracy(qmodel, test), tuple(comparisons))


def _progress(console: Console) -> Progress:
    return Progress(TextColumn("{task.description:<34}"), BarColumn(28), MofNCompleteColumn(), TimeElapsedColumn(), console=console)


def _tasks(progress: Progress, bits: int, plan: Plan) -> tuple[TaskID, TaskID]:
    return (
        progress.add_task(f"{bits}-bit training", start=False, total=plan.fixed_epochs),
        progress.add_task(f"{bits}-bit export, HLS, C simulation", start=False, total=1 + len(BOARDS)),
    )


def _table(float_accuracy: float, outcomes: dict[int, Outcome], images: int) -> Table:
    first = next(iter(outcomes.values())).comparisons
    table = Table(
        title=f"The whole way, on {images} test images that training never saw",
        caption=f"Accuracies in %; then how many bits differ from the {REFERENCE},\n"
        f"in all {first[0].values:,} outputs of the test set, compared as raw integers.",
    )
    for heading in ("bits", "float", "fixed", *(row.executor.replace(" ", "\n") for row in first), "inter-\npreter"):
        table.add_column(heading, justify="right", no_wrap=True)
    for bits, outcome in outcomes.items():
        counts = (f"[{'bold red' if row.differing_bits else 'green'}]{row.differing_bits}" for row in outcome.comparisons)
        table.add_row(str(bits), f"{float_accuracy:.2f}", f"{outcome.accuracy:.2f}", *counts, "[dim]reference")
    return table


def _report(console: Console, out: Path, outcomes: dict[int, Outcome], differing: int, seconds: float) -> None:
    for bits, outcome in outcomes.items():
        for row in outcome.comparisons:
            if row.first is not None:
                console.print(f"{bits} bits, {row.executor}: differs first at {row.first}", style="red", highlight=False)
    verdict = "no bit differs" if not differing else f"{differing} bits differ"
    console.print(f"{verdict}; {seconds:.0f} s in all", style="bold red" if differing else "bold green", highlight=False)
    bits = min(outcomes)
    paths = Paths(out, bits)
    lines = (
        f"In {out}/: models (.onnx), an HLS project per word length and board, plots (.png) and results.json. Go on with",
        f"  qfx inspect {paths.model}",
        f"  qfx verify {paths.model} {paths.project(BOARDS[0])} --data {out / 'test.npz'}",
        f"  make -C {paths.project(BOARDS[0])} csim",
    )
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _write_results(path: Path, seed: int, images: int, float_accuracy: float, outcomes: dict[int, Outcome]) -> None:
    rows = [
        {
            "bits": bits,
            "fixed_accuracy_percent": outcome.accuracy,
            "differing_bits": {row.executor: row.differing_bits for row in outcome.comparisons},
        }
        for bits, outcome in outcomes.items()
    ]
    results = {"seed": seed, "test_images": images, "float_accuracy_percent": float_accuracy, "reference": REFERENCE, "fixed": rows}
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
