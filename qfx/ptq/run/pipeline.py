"""From a float model to a fixed-point one: passes one after the other, each with an account of what it gained, resumable in between."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, fx, nn

from qfx.errors import DataError, RecipeError
from qfx.nn.convert import quantize
from qfx.progress import Progress
from qfx.ptq.allocation.front import Designs, Found
from qfx.ptq.allocation.table import Table
from qfx.ptq.calibrate import with_input_sign
from qfx.ptq.float_reference import float_reference
from qfx.ptq.floating.checks import Finding, check_model, require
from qfx.ptq.floating.fold import fold_batch_norm
from qfx.ptq.measure import Judge, Labelled
from qfx.ptq.report.step import Recorded, Step
from qfx.ptq.run.passes import FLOAT_PASSES, QUANTIZED_PASSES, Work, checked_passes, default_passes
from qfx.ptq.run.settings import Outcome, Settings
from qfx.ptq.run.state import Saved, State
from qfx.ptq.run.word_lengths import choose_word_lengths
from qfx.recipe import Recipe

EXAMPLE_SAMPLES, EXAMPLE_BYTES = 256, 1 << 24
"""Binary points start from so many calibration samples, or from fewer large ones; on these, too, the output's noise is measured."""

JUDGED_SAMPLES = 1000
"""After each pass, accuracy is measured on so many evaluation samples; of the float model and the result on all."""

SAVE_SECONDS = 5.0
"""Within a pass the state is saved no more often than this."""

START, SEARCH = "round to nearest", "word lengths"
"""The names of the step that quantizes without any pass, and of the one that chooses word lengths for a budget."""


def run(
    model: nn.Module,
    data: Tensor,
    settings: Settings,
    *,
    evaluation: Labelled | None = None,
    state: State | None = None,
    saved: Saved | None = None,
    progress: Progress | None = None,
    recorded: Recorded | None = None,
) -> Outcome:
    """Quantize ``model`` by the recipe and make it good with passes. ``model`` and ``data`` stay as they are; the result depends on nothing else
    than model, data and settings.

    ``data``: calibration samples, batch first. ``evaluation``: to count right answers with. ``state``: keeps what is done, after every pass and
    within those that go by layers, blocks or epochs; ``saved``, what it held: that is not done again, and the result is the same as without an
    interrupt. ``recorded`` hears of every step. Raises what the passes, ``qfx.quantize`` and ``search`` raise.
    """
    tell = progress or (lambda stage, done, total: None)
    tell("float model", 0, 1)
    settings = replace(settings, recipe=with_input_sign(settings.recipe, data))
    judge = Judge.between(model, data[: example_count(data)], evaluation, settings.batch)
    float_accuracy = judge.right(model)
    tell("float model", 1, 1)
    work = _Run(model, data, settings, judge, state, saved, tell, recorded, known=[] if saved is None else list(saved.steps))
    passes = work.start()
    prepared = work.float_passes(passes)
    tell("checks", 0, 1)
    findings = checked(prepared, data, settings)
    tell("checks", 1, 1)
    work.word_lengths(prepared)
    qmodel = work.quantized(prepared)
    if settings.passes is None:  # words may have become shorter
        passes = default_passes(qmodel)
    reference = float_reference(qmodel)
    work.quantized_passes(passes, qmodel, reference)
    steps, noise, answers = tuple(work.steps), judge.noise(qmodel), judge.answers(qmodel)
    right = None if answers is None else answers.right / max(answers.total, 1)
    return Outcome(qmodel, reference, passes, steps, float_accuracy, right, noise, work.recipe, findings, work.found, answers)


@dataclass
class _Run:
    """The stages of a run, in order, and what is known of it: the ``steps`` done, those that were ``known`` from before an interrupt and are still to
    come, and the word lengths that were ``found``."""

    model: nn.Module
    data: Tensor
    settings: Settings
    judge: Judge
    state: State | None
    saved: Saved | None
    tell: Progress
    recorded: Recorded | None
    known: list[Step]
    steps: list[Step] = field(default_factory=list)
    found: Found | None = None

    @property
    def recipe(self) -> Recipe:
        """What the model is quantized by: with the word lengths, once they are chosen."""
        return self.settings.recipe if self.found is None else self.found.recipe

    def quantized(self, model: nn.Module) -> fx.GraphModule:
        """The float model in fixed point, rounded to nearest."""
        return quantize(model, self.judge.inputs, self.recipe).eval()

    def start(self) -> tuple[str, ...]:
        """Quantize without any pass, for comparison, and find out which passes there are to be."""
        started, passes, plain = time.perf_counter(), self.settings.passes, None
        self.tell(START, 0, 1)
        if passes is None or not self.known:
            try:
                plain = self.quantized(self.model)
            except RecipeError:  # a recipe may name what only folding makes
                plain = self.quantized(fold_batch_norm(self.model, self.judge.inputs))
        if passes is None:
            assert plain is not None
            passes = default_passes(plain)
        self._record(START, started, plain)
        self.tell(START, 1, 1)
        return checked_passes(passes)

    def float_passes(self, passes: tuple[str, ...]) -> nn.Module:
        """The float model after those of ``passes`` that work on it."""
        prepared = self.model
        for name in passes:
            if name in FLOAT_PASSES:
                prepared = self._float_pass(name, prepared)
        return prepared

    def _float_pass(self, name: str, model: nn.Module) -> nn.Module:
        started = time.perf_counter()
        self.tell(name, 0, 1)
        with torch.no_grad():
            result = FLOAT_PASSES[name](model, self.judge.inputs, self.data)
        plain = None
        if not self.known:
            try:
                plain = self.quantized(result)
            except RecipeError:  # it may name what only a later pass makes
                plain = None
        self._record(name, started, plain)
        self.tell(name, 1, 1)
        return result

    def word_lengths(self, prepared: nn.Module) -> None:
        """Choose word lengths for the budget, if there is one."""
        settings, saved, started = self.settings, self.saved, time.perf_counter()
        if settings.budget is None:
            return
        if self.known and saved is not None:
            self.found = saved.found
        else:
            self.found = choose_word_lengths(
                prepared, self.judge.inputs, settings, settings.budget, saved=saved, keep=self._save_search, progress=self.tell
            )
        note = "" if self.found is None else str(self.found.point)
        self._record(SEARCH, started, None if self.known else self.quantized(prepared), note)

    def quantized_passes(self, passes: tuple[str, ...], qmodel: fx.GraphModule, reference: fx.GraphModule) -> None:
        """Those of ``passes`` that work on the quantized model, in place, from where an interrupt came."""
        if self.saved is not None and self.saved.tensors:
            _load(qmodel, self.saved.tensors)
        else:
            self._save(qmodel)
        for name in passes:
            if name not in QUANTIZED_PASSES:
                continue
            if self.known:
                self.steps.append(self.known.pop(0))
            else:
                self._quantized_pass(name, qmodel, reference)

    def _quantized_pass(self, name: str, qmodel: fx.GraphModule, reference: fx.GraphModule) -> None:
        saved, started = self.saved, time.perf_counter()
        work = Work(qmodel, reference, self.data, self.settings.batch, self.settings.seed, self.tell, self._keeping(qmodel, name, started))
        if saved is not None and saved.under_way == name and len(self.steps) == len(saved.steps):
            work = replace(work, done=saved.done, kept=saved.kept)
        note = QUANTIZED_PASSES[name](work)
        self._record(name, started, qmodel, note)
        self._save(qmodel)

    def _keeping(self, qmodel: nn.Module, name: str, started: float) -> Callable[[int, Mapping[str, Tensor]], None]:
        """What saves the parts of a pass that are done, no more often than every ``SAVE_SECONDS``."""
        last = started

        def keep(done: int, tensors: Mapping[str, Tensor]) -> None:
            nonlocal last
            now = time.perf_counter()
            if done and now - last >= SAVE_SECONDS:
                self._save(qmodel, name, done, tensors)
                last = now

        return keep

    def _record(self, name: str, started: float, qmodel: nn.Module | None, note: str = "") -> None:
        """Add a step to the account: what was known of it, or what is measured now."""
        if self.known:
            self.steps.append(self.known.pop(0))
            return
        step = Step(name, round(time.perf_counter() - started, 3), None, None, note)
        if qmodel is not None:
            step = replace(step, output_db=self.judge.noise(qmodel), accuracy=self.judge.right(qmodel, JUDGED_SAMPLES))
        self.steps.append(step)
        if self.recorded is not None:
            self.recorded(step)

    def _save(self, qmodel: nn.Module, under_way: str = "", done: int = 0, kept: Mapping[str, Tensor] | None = None) -> None:
        if self.state is not None:
            self.state.save(Saved(tuple(self.steps), qmodel.state_dict(), under_way, done, kept or {}, found=self.found))

    def _save_search(self, table: Table, designs: Designs) -> None:
        if self.state is not None:
            self.state.save(Saved(tuple(self.steps), {}, table=table, designs=designs))


def _load(qmodel: fx.GraphModule, tensors: Mapping[str, Tensor]) -> None:
    try:
        qmodel.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise DataError(
            "holds tensors of another model", where="the state of the interrupted run", remedy="start anew: --force in place of --resume"
        ) from error


def checked(prepared: nn.Module, data: Tensor, settings: Settings) -> tuple[Finding, ...]:
    """What ``check_model`` warns of in the model that the float passes left. Raises DataError for what no pass can go on with."""
    found = require(check_model(prepared, list(torch.split(data, settings.batch))))
    per_tensor = settings.recipe.weight.granularity == "tensor"
    return tuple(finding for finding in found if per_tensor or finding.name != "uneven-channels")


def example_count(data: Tensor) -> int:
    """How many calibration samples binary points start from, and the output's noise is measured on."""
    size = data[0].numel() * data.element_size()
    return max(min(EXAMPLE_SAMPLES, EXAMPLE_BYTES // size, len(data)), 1)
