"""``qfx ptq``: a trained checkpoint in, a fixed-point ONNX file and a report out."""

from __future__ import annotations

import json
from pathlib import Path

import click
import torch
from torch import Tensor, nn

import qfx
from qfx.capture.refusals.blockers import require_supported
from qfx.capture.source import load_model, load_model_and_data, use_current_folder
from qfx.cli.telling import telling
from qfx.errors import DataError, QfxError
from qfx.export.to_graph import to_graph
from qfx.nn.model import left_out_of
from qfx.progress import Progress
from qfx.ptq.allocation.front import Budget
from qfx.ptq.data_free.datafree import SAMPLES_DISTILLED, distill
from qfx.ptq.measure import Labelled
from qfx.ptq.report.analysis import analyse
from qfx.ptq.report.html import Story, page
from qfx.ptq.report.step import Recorded
from qfx.ptq.run.goal import Goal, reach
from qfx.ptq.run.inputs import calibration_data, labelled_data, made_up, shape_of
from qfx.ptq.run.passes import FLOAT_PASSES, checked_passes
from qfx.ptq.run.pipeline import JUDGED_SAMPLES, START, example_count, run
from qfx.ptq.run.request import Request, check_options, check_targets, default_recipe, fingerprint, state_folder
from qfx.ptq.run.settings import Outcome, Settings
from qfx.ptq.run.state import Saved, State
from qfx.ptq.run.told import as_data, print_account
from qfx.ptq.run.written import PROVEN_SAMPLES, write_files
from qfx.recipe import Recipe
from qfx.watch.log import Log

_SHOWN = 6
"""Warnings on the terminal."""

TRIED_SAMPLES = 64
"""On so many a model is tried when it is loaded; one from an ONNX file is compared with ONNX Runtime there."""

ANALYSED_SAMPLES = 128
"""On so many calibration samples the report looks at every layer."""


def execute(request: Request) -> int:
    """Do what the command is asked; returns the exit code: 1 if a goal (``--max-drop``) is not met, 130 after an interrupt. Raises QfxError for bad
    input; a state for ``--resume`` is then left only if there is work in it."""
    use_current_folder()
    report = request.report or request.output.with_suffix(".html")
    check_targets(request, report)
    check_options(request)
    recipe = default_recipe() if request.recipe is None else Recipe.load(request.recipe)
    passes = None if request.passes is None else checked_passes(tuple(name.strip() for name in request.passes.split(",") if name.strip()))
    budget = None if request.budget is None else Budget.parse(request.budget)
    settings = Settings(recipe, passes, request.seed, request.batch, budget, request.measure or "fisher")
    goal = None if request.max_drop is None else Goal(request.max_drop / 100, request.widest)
    try:
        story, outcome = _work(request, settings, goal, report)
    except KeyboardInterrupt:
        state = State(state_folder(request.output), {})
        kept = f"what is done lies in {state.folder}; " if state.exists else ""
        click.echo(f"interrupted: {kept}go on with the same command and --resume", err=True)
        return 130
    warnings = (*story.warnings, *story.analysis.warnings)
    if request.as_json:
        click.echo(json.dumps(as_data(outcome, story, request.output, report), indent=2))
    else:
        print_account(outcome, story)
    if warnings:
        click.echo(
            f"{len(warnings)} warning{'s' if len(warnings) > 1 else ''}; the report has {'it' if len(warnings) == 1 else 'all of them'}:",
            err=request.as_json,
        )
        for warning in warnings[:_SHOWN]:
            click.echo(f"  {warning.splitlines()[0]}", err=request.as_json)
    click.echo(f"wrote {report}: what every pass gained, the error of every layer, ranges and binary points", err=request.as_json)
    click.echo(f"wrote {request.output}: `qfx hls {request.output} --board ...` makes a project of it", err=request.as_json)
    return 1 if story.met is False else 0


def _work(request: Request, settings: Settings, goal: Goal | None, report: Path) -> tuple[Story, Outcome]:
    """Everything from reading the model to writing the files."""
    with telling("reading the model and the data", after_s=0.0) as shown:
        bars, recorded = _logged(request, shown)
        model, data = _model_and_data(request)
        evaluation = None if request.evaluation is None else labelled_data(request.evaluation, model, data.dtype)
        state = State(state_folder(request.output), fingerprint(request, model, data, evaluation, settings, goal))
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
                outcome = run(model, data, settings, evaluation=evaluation, state=state, saved=saved, progress=bars, recorded=recorded)
            else:
                assert evaluation is not None  # check_options
                outcome, met = reach(model, data, settings, goal, evaluation, state=state, saved=saved, progress=bars, recorded=recorded)
        except QfxError:
            if saved is None and not _is_work(state.load()):
                state.remove()  # so that nothing is in the way of the corrected command
            raise
        bars("report", 0, 1)
        story = _story(request, settings, goal, outcome, met, data, evaluation)
        bars("comparing ONNX Runtime and the interpreter with PyTorch", 0, 1)
        write_files(outcome, request.output, data, report, page(story), force=request.force)
        if request.log is not None:
            log = Log(request.log)
            if outcome.answers is not None:
                log.answers(outcome.answers, len(outcome.steps))
            log.wrote(request.output)
        state.remove()
    return story, outcome


def _logged(request: Request, shown: Progress) -> tuple[Progress, Recorded | None]:
    """What is told of progress and of steps, on the terminal and in the log, if there is one."""
    if request.log is None:
        return shown, None
    log = Log(request.log)

    def both(stage: str, done: int, total: int) -> None:
        shown(stage, done, total)
        log(stage, done, total)

    return both, lambda step: log.passed(step.name, step.seconds, step.output_db, step.accuracy, step.note)


def _is_work(saved: Saved | None) -> bool:
    """Whether a state holds more than what takes seconds."""
    return saved is not None and (bool(saved.under_way) or any(step.name not in (*FLOAT_PASSES, START) for step in saved.steps))


def _model_and_data(request: Request) -> tuple[nn.Module, Tensor]:
    """The float model, and calibration data: real, or random numbers of that shape, from which the true ones are still to be distilled."""

    def tell(told: str) -> None:
        click.echo(told, err=True)

    if request.calibration is not None:
        data = calibration_data(request.calibration, request.samples)
        model, data = load_model_and_data(request.model, request.checkpoint, data, TRIED_SAMPLES, key=request.checkpoint_key, tell=tell)
        require_supported(model, data[:TRIED_SAMPLES])
        return model, data
    assert request.data_free is not None  # check_options
    example = made_up(shape_of(request.data_free), request.input_range, request.seed)
    model = load_model(request.model, request.checkpoint, example, where="--data-free", key=request.checkpoint_key, tell=tell)
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
        "checkpoint": request.checkpoint if request.checkpoint_key is None else f"{request.checkpoint}, {request.checkpoint_key}",
        "calibration data": f"{source}: {len(data)} samples of shape {' x '.join(map(str, data.shape[1:]))}{limits}",
        "evaluation data": None if evaluation is None else f"{request.evaluation}: {len(evaluation.x)} samples",
        "goal": told or None,
        "widest": request.widest,
        "budget": None if request.budget is None else f"{request.budget}, words weighed by {settings.measure}",
        "passes": ", ".join(outcome.passes) or "none",
        "left out": ", ".join(left_out_of(outcome.qmodel)) or None,
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
        graph=to_graph(outcome.qmodel, request.output.stem),
        answers=outcome.answers,
    )
