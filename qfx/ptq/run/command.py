"""``qfx ptq``: a trained checkpoint in, a fixed-point ONNX file and a report out."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import qfx
from qfx.capture.refusals.blockers import require_supported
from qfx.capture.source import load_model, use_current_folder
from qfx.cli.telling import telling
from qfx.errors import DataError, QfxError
from qfx.export.onnx_file import save
from qfx.export.to_graph import to_graph
from qfx.files import check_target, writing_all
from qfx.progress import Progress
from qfx.ptq.allocation.front import Budget
from qfx.ptq.allocation.table import Measure
from qfx.ptq.data_free.datafree import SAMPLES_DISTILLED, distill
from qfx.ptq.measure import Labelled, outputs
from qfx.ptq.report.analysis import analyse
from qfx.ptq.report.html import Story, decibel, page, percent
from qfx.ptq.run.goal import Goal, reach
from qfx.ptq.run.inputs import calibration_data, labelled_data, made_up, shape_of
from qfx.ptq.run.passes import FLOAT_PASSES, checked_passes
from qfx.ptq.run.pipeline import JUDGED_SAMPLES, START, Outcome, Settings, example_count, run
from qfx.ptq.run.state import Saved, State, hash_of_array, hash_of_model
from qfx.recipe import Recipe, Spec
from qfx.verify import verify

PROVEN_SAMPLES = 32
"""On so many calibration samples ONNX Runtime and the integer interpreter must give PyTorch's numbers before a file is written."""

TRIED_SAMPLES = 64
"""On so many a model is tried when it is loaded; one from an ONNX file is compared with ONNX Runtime there."""

ANALYSED_SAMPLES = 128
"""On so many calibration samples the report looks at every layer."""


@dataclass(frozen=True)
class Request:
    """The options of the command."""

    model: str
    checkpoint: Path | None
    calibration: Path | None
    data_free: str | None
    input_range: tuple[float, float] | None
    recipe: Path | None
    evaluation: Path | None
    passes: str | None
    budget: str | None
    measure: Measure | None
    max_drop: float | None
    widest: int | None
    output: Path
    report: Path | None
    resume: bool
    as_json: bool
    force: bool
    seed: int
    batch: int
    samples: int | None


def execute(request: Request) -> int:
    """Do what the command is asked; returns the exit code: 1 if a goal (``--max-drop``) is not met, 130 after an interrupt. Raises QfxError for bad
    input; a state for ``--resume`` is then left only if there is work in it."""
    use_current_folder()
    report = request.report or request.output.with_suffix(".html")
    _check_targets(request, report)
    _check_options(request)
    recipe = default_recipe() if request.recipe is None else Recipe.load(request.recipe)
    passes = None if request.passes is None else checked_passes(tuple(name.strip() for name in request.passes.split(",") if name.strip()))
    budget = None if request.budget is None else Budget.parse(request.budget)
    settings = Settings(recipe, passes, request.seed, request.batch, budget, request.measure or "fisher")
    goal = None if request.max_drop is None else Goal(request.max_drop / 100, request.widest)
    try:
        story, outcome = _work(request, settings, goal, report)
    except KeyboardInterrupt:
        state = State(_state_folder(request.output), {})
        kept = f"what is done lies in {state.folder}; " if state.exists else ""
        click.echo(f"interrupted: {kept}go on with the same command and --resume", err=True)
        return 130
    warnings = (*story.warnings, *story.analysis.warnings)
    if request.as_json:
        click.echo(json.dumps(_as_data(outcome, story, request.output, report), indent=2))
    else:
        _print(outcome, story)
    if warnings:
        click.echo(f"{len(warnings)} warning{'s' if len(warnings) > 1 else ''}: see the report", err=request.as_json)
    click.echo(f"wrote {report}: what every pass gained, the error of every layer, ranges and binary points", err=request.as_json)
    click.echo(f"wrote {request.output}: `qfx hls {request.output} --board ...` makes a project of it", err=request.as_json)
    return 1 if story.met is False else 0


def _work(request: Request, settings: Settings, goal: Goal | None, report: Path) -> tuple[Story, Outcome]:
    """Everything from reading the model to writing the files."""
    with telling("reading the model and the data", after_s=0.0) as bars:
        model, data = _model_and_data(request)
        evaluation = None if request.evaluation is None else labelled_data(request.evaluation, model)
        state = State(_state_folder(request.output), _fingerprint(request, model, data, evaluation, settings, goal))
        if state.exists and not request.resume and not request.force:
            raise DataError("holds an interrupted run", where=str(state.folder), remedy="go on with it: --resume; or start anew: --force")
        saved = state.load() if request.resume else None
        if request.resume:
            click.echo(_resuming(saved), err=True)
        else:
            state.remove()
        if request.data_free is not None:
            data = state.inputs = _distilled(request, model, data, saved, bars)
            if saved is None:
                state.save(Saved((), {}))
        met = None
        try:
            if goal is None:
                outcome = run(model, data, settings, evaluation=evaluation, state=state, saved=saved, progress=bars)
            else:
                assert evaluation is not None  # _check_options
                outcome, met = reach(model, data, settings, goal, evaluation, state=state, saved=saved, progress=bars)
        except QfxError:
            if saved is None and not _is_work(state.load()):
                state.remove()  # so that nothing is in the way of the corrected command
            raise
        bars("report", 0, 1)
        story = _story(request, settings, goal, outcome, met, data, evaluation)
        bars("comparing ONNX Runtime and the interpreter with PyTorch", 0, 1)
        write_files(outcome, request.output, data, report, page(story), force=request.force)
        state.remove()
    return story, outcome


def _is_work(saved: Saved | None) -> bool:
    """Whether a state holds more than what takes seconds."""
    return saved is not None and (bool(saved.under_way) or any(step.name not in (*FLOAT_PASSES, START) for step in saved.steps))


def _check_options(request: Request) -> None:
    """Raise DataError for options that do not go together."""
    if (request.calibration is None) == (request.data_free is None):
        raise DataError("give one of --data and --data-free", where="options", remedy="real inputs serve better; --data-free 3x32x32 does without")
    if request.input_range is not None and request.data_free is None:
        raise DataError("limits inputs that are made up", where="--input-range", remedy="leave it out, or use --data-free instead of --data")
    if request.measure is not None and request.budget is None:
        raise DataError("weighs words for a budget", where="--measure", remedy="leave it out, or give --budget too")
    if request.max_drop is None:
        if request.widest is not None:
            raise DataError("is for a goal", where="--widest", remedy="give --max-drop too")
        return
    if request.evaluation is None:
        raise DataError("needs labelled data", where="--max-drop", remedy="give --eval test.npz, with inputs x and class numbers y")
    for name, value in (("--passes", request.passes), ("--budget", request.budget)):
        if value is not None:
            raise DataError(f"chooses passes and words itself: not with {name}", where="--max-drop", remedy=f"leave {name} out")
    if not 0 <= request.max_drop <= 100:
        raise DataError(f"is {request.max_drop}", where="--max-drop", remedy="give how many points of accuracy may be lost, such as 0.5")


def _model_and_data(request: Request) -> tuple[nn.Module, Tensor]:
    """The float model, and calibration data: real, or random numbers of that shape, from which the true ones are still to be distilled."""
    if request.calibration is not None:
        data = calibration_data(request.calibration, request.samples)
        model = load_model(request.model, request.checkpoint, data[:TRIED_SAMPLES])
        require_supported(model, data[:TRIED_SAMPLES])
        return model, data
    assert request.data_free is not None  # _check_options
    example = made_up(shape_of(request.data_free), request.input_range, request.seed)
    model = load_model(request.model, request.checkpoint, example, where="--data-free")
    require_supported(model, example)
    return model, example


def _distilled(request: Request, model: nn.Module, example: Tensor, saved: Saved | None, progress: Progress) -> Tensor:
    """Inputs made of the model's statistics, or those that were before an interrupt."""
    if saved is not None and saved.inputs is not None:
        return saved.inputs
    count = SAMPLES_DISTILLED if request.samples is None else request.samples
    return distill(model, example, count=count, input_range=request.input_range, seed=request.seed, progress=progress)


def _resuming(saved: Saved | None) -> str:
    if saved is None or not (saved.steps or saved.under_way):
        return "nothing to resume: starting from the beginning"
    begun = f"; of {saved.under_way!r}, parts done: {saved.done}" if saved.under_way else ""
    return f"resuming behind {saved.steps[-1].name!r}{begun}"


def _story(
    request: Request, settings: Settings, goal: Goal | None, outcome: Outcome, met: bool | None, data: Tensor, evaluation: Labelled | None
) -> Story:
    source = request.calibration if request.calibration is not None else "none: distilled from BatchNorm statistics"
    limits = "" if request.input_range is None else f", from {request.input_range[0]:g} to {request.input_range[1]:g}"
    told = "" if goal is None or met is None else goal.told(outcome, met)
    given = {
        "model": request.model,
        "checkpoint": request.checkpoint,
        "calibration data": f"{source}: {len(data)} samples of shape {' x '.join(map(str, data.shape[1:]))}{limits}",
        "evaluation data": None if evaluation is None else f"{request.evaluation}: {len(evaluation.x)} samples",
        "goal": told or None,
        "widest": request.widest,
        "budget": None if request.budget is None else f"{request.budget}, words weighed by {settings.measure}",
        "passes": ", ".join(outcome.passes) or "none",
        "seed, batch": f"{settings.seed}, {settings.batch}",
        "output": request.output,
        "versions": f"qfx {qfx.__version__}, torch {torch.__version__}",
    }
    return Story(
        title=request.output.name,
        options=[(name, str(text)) for name, text in given.items() if text is not None],
        recipe=outcome.recipe.to_toml(),
        steps=outcome.steps,
        float_accuracy=outcome.float_accuracy,
        accuracy=outcome.accuracy,
        output_db=outcome.output_db,
        evaluated=0 if evaluation is None else len(evaluation.x),
        judged=example_count(data),
        stepped=0 if evaluation is None else len(evaluation.x) if goal is not None else min(JUDGED_SAMPLES, len(evaluation.x)),
        proven=min(PROVEN_SAMPLES, len(data)),
        analysis=analyse(outcome.qmodel, outcome.reference, data[: min(ANALYSED_SAMPLES, example_count(data))]),
        warnings=[str(finding) for finding in outcome.findings],
        goal=told,
        met=met,
        found=outcome.found,
    )


def default_recipe() -> Recipe:
    """8 bits for weights (per channel), activations and input."""
    return Recipe(weight=Spec(8, granularity="channel"), bias=Spec(16, granularity="channel"))


def write_files(outcome: Outcome, output: Path, data: Tensor, report: Path, text: str, *, force: bool) -> None:
    """Write the ONNX file and the report, both whole or neither, once ONNX Runtime and the interpreter have given PyTorch's numbers for a part of
    ``data``."""
    graph = to_graph(outcome.qmodel, output.stem)
    with writing_all((report, output), force=force) as (page_file, staged):
        save(graph, staged, force=True)
        prove(outcome.qmodel, staged, data[:PROVEN_SAMPLES])
        page_file.write_text(text, encoding="utf-8")


def prove(qmodel: nn.Module, path: Path, x: Tensor) -> None:
    """Raise QfxError unless ONNX Runtime and the integer interpreter on the file at ``path`` give what ``qmodel`` gives, raw by raw."""
    from qfx.ir.from_onnx import load_graph
    from qfx.verify import raw_of

    graph = load_graph(path)
    expected = outputs(qmodel, x, len(x)).numpy()
    comparisons = verify(path, x.numpy(), {"PyTorch": lambda _: raw_of(expected, graph, "PyTorch")})
    for comparison in comparisons:
        if comparison.first is not None:
            raise QfxError(f"{comparison.executor} differs at {comparison.first}", where=str(path), remedy="please report this defect")


def _check_targets(request: Request, report: Path) -> None:
    if report.resolve() == request.output.resolve():
        raise DataError("is the output, too", where=str(report), remedy="give the report a name of its own")
    for path in (request.output, report):
        check_target(path, force=request.force)
    if request.output.suffix != ".onnx":
        raise DataError("is not the name of a .onnx file", where=str(request.output), remedy="write -o model.onnx")


def _state_folder(output: Path) -> Path:
    return output.with_name(f"{output.name}.state")


def _fingerprint(
    request: Request, model: nn.Module, data: Tensor, evaluation: Labelled | None, settings: Settings, goal: Goal | None
) -> dict[str, str]:
    """All that decides the result, by the name that an error calls it."""
    made = f"{request.data_free} {request.input_range} {request.samples}"
    found = {
        "version of qfx": qfx.__version__,
        "model": hash_of_model(model, data[:1]),
        "calibration data": hash_of_array(data.numpy()) if request.data_free is None else made,
        "recipe": hashlib.sha256(settings.recipe.to_toml().encode()).hexdigest(),
        "list of passes": "default" if settings.passes is None else ",".join(settings.passes),
        "seed": str(settings.seed),
        "batch size": str(settings.batch),
        "budget": str(settings.budget),
        "measure": settings.measure,
        "goal": str(goal),
        "output": request.output.name,
    }
    if evaluation is not None:
        found["evaluation data"] = hash_of_array(evaluation.x.numpy()) + hash_of_array(evaluation.y.numpy())
    return found


def _print(outcome: Outcome, story: Story) -> None:
    if outcome.found is not None:
        click.echo("word lengths for the budget, and what others would lose and take:")
        click.echo(str(outcome.found))
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


def _as_data(outcome: Outcome, story: Story, output: Path, report: Path) -> dict[str, Any]:
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
