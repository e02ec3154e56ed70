"""From a float model to a fixed-point one: passes one after the other, each with an account of what it gained, resumable in between."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, fx, nn

from qfx.errors import RecipeError
from qfx.nn.convert import quantize
from qfx.ptq.checks import Finding, check_model, require
from qfx.ptq.fold import fold_batch_norm
from qfx.ptq.measure import Labelled, accuracy, outputs, sqnr
from qfx.ptq.passes import FLOAT_PASSES, LAYERWISE, QUANTIZED_PASSES, Work, checked_passes, default_passes
from qfx.ptq.state import Saved, State, Step
from qfx.ptq.twin import float_twin
from qfx.ptq.walk import Progress
from qfx.recipe import Recipe

EXAMPLE_SAMPLES, EXAMPLE_BYTES = 256, 1 << 24
"""Binary points start from so many calibration samples, or from fewer large ones; on these, too, the output's noise is measured."""

JUDGED_SAMPLES = 1000
"""After each pass, accuracy is measured on so many evaluation samples; of the float model and the result on all."""

SAVE_SECONDS = 5.0
"""Within a pass the state is saved no more often than this."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides the result beside model and data. ``passes``: in order; None for ``default_passes``. ``batch``: samples at a time."""

    recipe: Recipe
    passes: tuple[str, ...] | None = None
    seed: int = 0
    batch: int = 64


@dataclass(frozen=True, eq=False)
class Outcome:
    """The result of ``run``: the quantized model, the float twin that passes compared it with, the passes, the account of them, and the shares of
    right answers on all evaluation data (None without). ``findings``: what ``check_model`` warns of, in the model that the float passes left."""

    qmodel: fx.GraphModule
    twin: fx.GraphModule
    passes: tuple[str, ...]
    steps: tuple[Step, ...]
    float_accuracy: float | None
    accuracy: float | None
    findings: tuple[Finding, ...] = ()


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
    within those that go layer by layer; ``saved``, what it held: that is not done again, and the result is the same as without an interrupt. Raises
    what the passes and ``qfx.quantize`` raise.
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

    def run(self) -> Outcome:
        self._tell("float model", 0, 1)
        self.known = [] if self.saved is None else list(self.saved.steps)
        self.judged = self.data[: example_count(self.data)]
        self.expected = outputs(self.model, self.judged, self.settings.batch)
        float_accuracy = self._all_right(self.model)
        self._tell("float model", 1, 1)
        passes = self._start()
        prepared = self.model
        for name in passes:
            if name in FLOAT_PASSES:
                prepared = self._float_pass(name, prepared)
        findings = self._checked(prepared)
        qmodel = self._quantized(prepared)
        twin = float_twin(qmodel)
        if self.saved is not None:
            qmodel.load_state_dict(dict(self.saved.tensors))
        else:
            self._save(qmodel)
        for name in passes:
            if name in QUANTIZED_PASSES:
                self._quantized_pass(name, qmodel, twin)
        return Outcome(qmodel, twin, passes, tuple(self.steps), float_accuracy, self._all_right(qmodel), findings)

    def _start(self) -> tuple[str, ...]:
        """Quantize without any pass, for comparison, and find out which passes there are to be."""
        started, passes, plain = time.perf_counter(), self.settings.passes, None
        self._tell("round to nearest", 0, 1)
        if passes is None or not self.known:
            try:
                plain = self._quantized(self.model)
            except RecipeError:  # a recipe may name what only folding makes
                plain = self._quantized(fold_batch_norm(self.model, self.judged))
        if passes is None:
            assert plain is not None
            passes = default_passes(plain)
        self._record("round to nearest", started, plain)
        self._tell("round to nearest", 1, 1)
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

    def _quantized_pass(self, name: str, qmodel: fx.GraphModule, twin: fx.GraphModule) -> None:
        if self.known:
            self.steps.append(self.known.pop(0))
            return
        begun = self.saved is not None and self.saved.under_way == name and len(self.steps) == len(self.saved.steps)
        done = self.saved.layers_done if begun and self.saved is not None else 0
        started = last = time.perf_counter()

        def tell(stage: str, number: int, total: int) -> None:
            nonlocal last
            now = time.perf_counter()
            if name in LAYERWISE and 0 < number < total and now - last >= SAVE_SECONDS:
                self._save(qmodel, name, number)
                last = now
            self._tell(name, number, total)

        settings = self.settings
        note = QUANTIZED_PASSES[name](Work(qmodel, twin, self.data, settings.batch, settings.seed, tell, done))
        self._record(name, started, qmodel, note)
        self._save(qmodel)

    def _checked(self, prepared: nn.Module) -> tuple[Finding, ...]:
        self._tell("checks", 0, 1)
        per_tensor = self.settings.recipe.weight.granularity == "tensor"
        found = require(check_model(prepared, list(torch.split(self.data, self.settings.batch))))
        self._tell("checks", 1, 1)
        return tuple(finding for finding in found if per_tensor or finding.name != "uneven-channels")

    def _quantized(self, model: nn.Module) -> fx.GraphModule:
        return quantize(model, self.judged, self.settings.recipe).eval()

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

    def _save(self, qmodel: nn.Module, under_way: str = "", layers_done: int = 0) -> None:
        if self.state is not None:
            self.state.save(Saved(tuple(self.steps), qmodel.state_dict(), under_way, layers_done))

    def _tell(self, stage: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(stage, done, total)


def example_count(data: Tensor) -> int:
    """How many calibration samples binary points start from, and the output's noise is measured on."""
    size = data[0].numel() * data.element_size()
    return max(min(EXAMPLE_SAMPLES, EXAMPLE_BYTES // size, len(data)), 1)
