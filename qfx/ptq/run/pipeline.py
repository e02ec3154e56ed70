"""From a float model to a fixed-point one: passes one after the other, each with an account of what it gained, resumable in between."""

from __future__ import annotations

import glob
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, fx, nn

from qfx.errors import DataError, RecipeError
from qfx.nn.convert import quantize
from qfx.nn.model import quantizers
from qfx.ptq.activations import Progress
from qfx.ptq.allocation.front import Budget, Designs, Found
from qfx.ptq.allocation.hardware import refuse_hopeless
from qfx.ptq.allocation.search import search
from qfx.ptq.allocation.sensitivity import WIDTHS, sensitivity
from qfx.ptq.allocation.sites import present_widths
from qfx.ptq.allocation.table import Measure, Table
from qfx.ptq.calibrate import with_input_sign
from qfx.ptq.float_reference import float_reference
from qfx.ptq.floating.checks import Finding, check_model, require
from qfx.ptq.floating.fold import fold_batch_norm
from qfx.ptq.measure import Labelled, accuracy, outputs, sqnr
from qfx.ptq.run.passes import FLOAT_PASSES, QUANTIZED_PASSES, Work, checked_passes, default_passes
from qfx.ptq.run.state import Saved, State, Step
from qfx.recipe import Override, Recipe

EXAMPLE_SAMPLES, EXAMPLE_BYTES = 256, 1 << 24
"""Binary points start from so many calibration samples, or from fewer large ones; on these, too, the output's noise is measured."""

JUDGED_SAMPLES = 1000
"""After each pass, accuracy is measured on so many evaluation samples; of the float model and the result on all."""

SAVE_SECONDS = 5.0
"""Within a pass the state is saved no more often than this."""


START, SEARCH = "round to nearest", "word lengths"
"""The names of the step that quantizes without any pass, and of the one that chooses word lengths for a budget."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides the result beside model and data. ``passes``: in order; None for ``default_passes``. ``batch``: samples at a time. ``budget``:
    what the model may take; word lengths are then chosen for it between the passes on the float model and the others, by what ``measure`` says they
    lose. None: they are the recipe's."""

    recipe: Recipe
    passes: tuple[str, ...] | None = None
    seed: int = 0
    batch: int = 64
    budget: Budget | None = None
    measure: Measure = "fisher"


@dataclass(frozen=True, eq=False)
class Outcome:
    """The result of ``run``: the quantized model, the float reference that passes compared it with, the passes, the account of them, and the shares
    of right answers on all evaluation data (None without). ``output_db``: signal to quantization noise of its output, as in a ``Step``. ``findings``:
    what ``check_model`` warns of, in the model that the float passes left. ``found``: the word lengths that were chosen for a budget, if there was
    one; ``recipe``: what the model was quantized by in the end."""

    qmodel: fx.GraphModule
    reference: fx.GraphModule
    passes: tuple[str, ...]
    steps: tuple[Step, ...]
    float_accuracy: float | None
    accuracy: float | None
    output_db: float
    recipe: Recipe
    findings: tuple[Finding, ...] = ()
    found: Found | None = None


def run(
    model: nn.Module,
    data: Tensor,
    settings: Settings,
    *,
    evaluation: Labelled | None = None,
    state: State | None = None,
    saved: Saved | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Quantize ``model`` by the recipe and make it good with passes. ``model`` and ``data`` stay as they are; the result depends on nothing else
    than model, data and settings.

    ``data``: calibration samples, batch first. ``evaluation``: to count right answers with. ``state``: keeps what is done, after every pass and
    within those that go by layers, blocks or epochs; ``saved``, what it held: that is not done again, and the result is the same as without an
    interrupt. Raises what the passes, ``qfx.quantize`` and ``search`` raise.
    """
    return _Run(model, data, settings, evaluation, state, saved, progress).run()


@dataclass
class _Run:
    model: nn.Module
    data: Tensor
    settings: Settings
    evaluation: Labelled | None
    state: State | None
    saved: Saved | None
    progress: Progress | None
    steps: list[Step] = field(default_factory=list)
    known: list[Step] = field(default_factory=list)
    found: Found | None = None

    def run(self) -> Outcome:
        self._tell("float model", 0, 1)
        self.known = [] if self.saved is None else list(self.saved.steps)
        self.judged = self.data[: example_count(self.data)]
        self.settings = replace(self.settings, recipe=with_input_sign(self.settings.recipe, self.data))
        self.expected = outputs(self.model, self.judged, self.settings.batch)
        float_accuracy = self._all_right(self.model)
        self._tell("float model", 1, 1)
        passes = self._start()
        prepared = self.model
        for name in passes:
            if name in FLOAT_PASSES:
                prepared = self._float_pass(name, prepared)
        self._tell("checks", 0, 1)
        findings = checked(prepared, self.data, self.settings)
        self._tell("checks", 1, 1)
        self._word_lengths(prepared)
        qmodel = self._quantized(prepared)
        if self.settings.passes is None:  # words may have become shorter
            passes = default_passes(qmodel)
        reference = float_reference(qmodel)
        if self.saved is not None and self.saved.tensors:
            _load(qmodel, self.saved.tensors)
        else:
            self._save(qmodel)
        for name in passes:
            if name in QUANTIZED_PASSES:
                self._quantized_pass(name, qmodel, reference)
        noise = sqnr(self.expected, outputs(qmodel, self.judged, self.settings.batch))
        return Outcome(
            qmodel, reference, passes, tuple(self.steps), float_accuracy, self._all_right(qmodel), noise, self._recipe(), findings, self.found
        )

    def _start(self) -> tuple[str, ...]:
        """Quantize without any pass, for comparison, and find out which passes there are to be."""
        started, passes, plain = time.perf_counter(), self.settings.passes, None
        self._tell(START, 0, 1)
        if passes is None or not self.known:
            try:
                plain = self._quantized(self.model)
            except RecipeError:  # a recipe may name what only folding makes
                plain = self._quantized(fold_batch_norm(self.model, self.judged))
        if passes is None:
            assert plain is not None
            passes = default_passes(plain)
        self._record(START, started, plain)
        self._tell(START, 1, 1)
        return checked_passes(passes)

    def _float_pass(self, name: str, model: nn.Module) -> nn.Module:
        started = time.perf_counter()
        self._tell(name, 0, 1)
        with torch.no_grad():
            result = FLOAT_PASSES[name](model, self.judged, self.data)
        plain = None
        if not self.known:
            try:
                plain = self._quantized(result)
            except RecipeError:  # it may name what only a later pass makes
                plain = None
        self._record(name, started, plain)
        self._tell(name, 1, 1)
        return result

    def _word_lengths(self, prepared: nn.Module) -> None:
        """Choose word lengths for the budget, if there is one."""
        settings, started = self.settings, time.perf_counter()
        if settings.budget is None:
            return
        if self.known and self.saved is not None:
            self.found = self.saved.found
        else:
            table = self._sensitivity(prepared, self._quantized(prepared), settings.budget)
            self.found = search(
                prepared,
                self.judged,
                table,
                settings.budget,
                recipe=settings.recipe,
                keep=partial(self._save_search, table),
                resume=None if self.saved is None else self.saved.designs,
                progress=self._tell,
            )
        note = "" if self.found is None else str(self.found.point)
        self._record(SEARCH, started, None if self.known else self._quantized(prepared), note)

    def _sensitivity(self, prepared: nn.Module, plain: fx.GraphModule, budget: Budget) -> Table:
        """What the quantizers lose whose word lengths the recipe does not fix by an override."""
        settings = self.settings
        if self.saved is not None and self.saved.table is not None:
            return self.saved.table
        fixed = [override for override in settings.recipe.overrides if "width" in override.changes]
        names = [name for name, own in quantizers(plain) if not any(override.matches(name, own.also) for override in fixed)]
        widths = sorted({*WIDTHS, *present_widths(plain)})
        budget.check(plain, names, widths[0])
        if budget.board is not None:  # before what takes long
            shorter = tuple(Override(glob.escape(name), {"width": widths[0]}) for name in names)
            recipe = replace(settings.recipe, overrides=(*settings.recipe.overrides, *shorter))
            refuse_hopeless(budget, quantize(prepared, self.judged, recipe).eval(), widths[0])
        parts = torch.split(self.judged, settings.batch)
        table = sensitivity(plain, parts, widths=widths, measure=settings.measure, seed=settings.seed, progress=self._tell)
        table = replace(table, rows=tuple(row for row in table.rows if row.name in names))
        self._save_search(table, {})
        return table

    def _save_search(self, table: Table, designs: Designs) -> None:
        if self.state is not None:
            self.state.save(Saved(tuple(self.steps), {}, table=table, designs=designs))

    def _quantized_pass(self, name: str, qmodel: fx.GraphModule, reference: fx.GraphModule) -> None:
        if self.known:
            self.steps.append(self.known.pop(0))
            return
        settings, saved = self.settings, self.saved
        begun = saved is not None and saved.under_way == name and len(self.steps) == len(saved.steps)
        started = last = time.perf_counter()

        def keep(done: int, tensors: Mapping[str, Tensor]) -> None:
            nonlocal last
            now = time.perf_counter()
            if done and now - last >= SAVE_SECONDS:
                self._save(qmodel, name, done, tensors)
                last = now

        work = Work(qmodel, reference, self.data, settings.batch, settings.seed, self._tell, keep)
        if begun and saved is not None:
            work = replace(work, done=saved.done, kept=saved.kept)
        note = QUANTIZED_PASSES[name](work)
        self._record(name, started, qmodel, note)
        self._save(qmodel)

    def _quantized(self, model: nn.Module) -> fx.GraphModule:
        return quantize(model, self.judged, self._recipe()).eval()

    def _recipe(self) -> Recipe:
        return self.settings.recipe if self.found is None else self.found.recipe

    def _record(self, name: str, started: float, qmodel: nn.Module | None, note: str = "") -> None:
        """Add a step to the account: what was known of it, or what is measured now."""
        if self.known:
            self.steps.append(self.known.pop(0))
            return
        step = Step(name, round(time.perf_counter() - started, 3), None, None, note)
        if qmodel is not None:
            noise = sqnr(self.expected, outputs(qmodel, self.judged, self.settings.batch))
            right = None if self.evaluation is None else accuracy(qmodel, self.evaluation.first(JUDGED_SAMPLES), self.settings.batch)
            step = replace(step, output_db=noise, accuracy=right)
        self.steps.append(step)

    def _all_right(self, model: nn.Module) -> float | None:
        return None if self.evaluation is None else accuracy(model, self.evaluation, self.settings.batch)

    def _save(self, qmodel: nn.Module, under_way: str = "", done: int = 0, kept: Mapping[str, Tensor] | None = None) -> None:
        if self.state is not None:
            self.state.save(Saved(tuple(self.steps), qmodel.state_dict(), under_way, done, kept or {}, found=self.found))

    def _tell(self, stage: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(stage, done, total)


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
