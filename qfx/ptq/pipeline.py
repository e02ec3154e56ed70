"""From a float model to a fixed-point one: passes one after the other, each with an account of what it gained, resumable in between."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, fx, nn

from qfx.errors import RecipeError
from qfx.nn.convert import quantize, quantizers
from qfx.ptq.fold import fold_batch_norm
from qfx.ptq.measure import Labelled, accuracy, outputs, sqnr
from qfx.ptq.reconstruct import LayerResult, Method, round_weights
from qfx.ptq.state import Saved, State, Step
from qfx.ptq.twin import float_twin
from qfx.recipe import Recipe

EXAMPLE_SAMPLES, EXAMPLE_BYTES = 256, 1 << 24
"""Binary points start from so many calibration samples, or from fewer large ones."""

JUDGED_SAMPLES = 1000
"""After each pass, accuracy is measured on so many evaluation samples; before the first and after the last on all."""

NEAREST_IS_GOOD_BITS = 6
"""Weights of at most so many bits are rounded by a pass; longer ones to nearest."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides the result beside model and data. ``passes``: in order; None for ``default_passes``. ``batch``: samples at a time."""

    recipe: Recipe
    passes: tuple[str, ...] | None = None
    seed: int = 0
    batch: int = 64


@dataclass(frozen=True, eq=False)
class Outcome:
    """The result of ``run``: the quantized model, the float model it came from as passes prepared it, its float twin, and the account."""

    qmodel: fx.GraphModule
    prepared: nn.Module
    twin: fx.GraphModule
    passes: tuple[str, ...]
    steps: tuple[Step, ...]
    float_accuracy: float | None
    accuracy: float | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Work:
    """What a pass on the quantized model gets."""

    qmodel: fx.GraphModule
    twin: fx.GraphModule
    data: Tensor
    settings: Settings
    progress: Progress
    layers_done: int = 0


Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total) as work goes on."""

FloatPass = Callable[[nn.Module, Tensor], nn.Module]
QuantizedPass = Callable[[Work], str]


def _round(method: Method) -> QuantizedPass:
    def run_pass(work: Work) -> str:
        settings = work.settings
        parts = list(torch.split(work.data, settings.batch))
        results = round_weights(work.qmodel, parts, method, twin=work.twin, seed=settings.seed, progress=work.progress)
        return _gained(results)

    return run_pass


def _gained(results: tuple[LayerResult, ...]) -> str:
    moved, weights = sum(result.moved for result in results), sum(result.weights for result in results)
    better = sum(result.after < result.before for result in results)
    return f"{moved} of {weights} weights moved; {better} of {len(results)} layers nearer to float"


FLOAT_PASSES: Mapping[str, FloatPass] = {"fold": fold_batch_norm}
"""Passes on the float model, by the names that ``--passes`` takes."""

QUANTIZED_PASSES: Mapping[str, QuantizedPass] = {"adaround": _round("adaround"), "comq": _round("comq"), "gptq": _round("gptq")}
"""Passes on the quantized model."""


def checked_passes(names: tuple[str, ...]) -> tuple[str, ...]:
    """``names`` if they are passes in an order that works. Raises RecipeError."""
    known = (*FLOAT_PASSES, *QUANTIZED_PASSES)
    for name in names:
        if name not in known:
            raise RecipeError(f"there is no pass {name!r}", where="--passes", remedy=f"the passes are: {', '.join(known)}")
    kinds = [name in QUANTIZED_PASSES for name in names]
    if kinds != sorted(kinds):
        late = names[next(index for index in range(1, len(names)) if kinds[index] < kinds[index - 1])]
        raise RecipeError(f"{late!r} works on the float model", where="--passes", remedy=f"name it before {names[kinds.index(True)]!r}")
    return names


def default_passes(qmodel: nn.Module) -> tuple[str, ...]:
    """The passes that suit the word lengths of ``qmodel``, which is quantized without any: folding always, rounding for few bits."""
    bits = {name: quantizer.word_length for name, quantizer in quantizers(qmodel)}
    weights = min((width for name, width in bits.items() if name.endswith(".weight")), default=32)
    return ("fold", "gptq") if weights <= NEAREST_IS_GOOD_BITS else ("fold",)


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
    than the arguments.

    ``data``: calibration samples, batch first. ``evaluation``: to count right answers with. ``state``: keeps every pass that is done; ``saved``,
    what it held: those passes are not done again. Raises what the passes and ``qfx.quantize`` raise.
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

    def run(self) -> Outcome:
        settings = self.settings
        self._tell("float model", 0, 1)
        judged = self.data[:EXAMPLE_SAMPLES]
        self.judged, self.expected = judged, outputs(self.model, judged, settings.batch)
        float_accuracy = self._accuracy(self.model)
        self._tell("float model", 1, 1)
        known = list(self.saved.steps) if self.saved is not None else []
        started = time.perf_counter()
        passes = settings.passes
        if passes is None or not known:
            plain = self._plain(passes is None)
            passes = default_passes(plain) if passes is None and plain is not None else passes
            self._record("round to nearest", known, started, plain)
        else:
            self.steps.append(known.pop(0))
        assert passes is not None
        prepared = self.model
        for name in checked_passes(passes):
            if name in FLOAT_PASSES:
                started = time.perf_counter()
                self._tell(name, 0, 1)
                with torch.no_grad():
                    prepared = FLOAT_PASSES[name](prepared, self._example())
                self._record(name, known, started, None if known else self._quantized(prepared))
                self._tell(name, 1, 1)
        qmodel = self._quantized(prepared)
        twin = float_twin(qmodel)
        if self.saved is not None:
            qmodel.load_state_dict(dict(self.saved.tensors))
        self._save(qmodel)
        for name in passes:
            if name in QUANTIZED_PASSES:
                self._pass(name, qmodel, twin, known)
        final = self._accuracy(qmodel)
        return Outcome(qmodel, prepared, twin, passes, tuple(self.steps), float_accuracy, final)

    def _pass(self, name: str, qmodel: fx.GraphModule, twin: fx.GraphModule, known: list[Step]) -> None:
        if known:
            self.steps.append(known.pop(0))
            return
        started = time.perf_counter()
        work = Work(qmodel, twin, self.data, self.settings, self._tell)
        note = QUANTIZED_PASSES[name](work)
        self._record(name, known, started, qmodel, note)
        self._save(qmodel)

    def _example(self) -> Tensor:
        size = self.data[0].numel() * self.data.element_size()
        return self.data[: max(min(EXAMPLE_SAMPLES, EXAMPLE_BYTES // size), 1)]

    def _quantized(self, model: nn.Module) -> fx.GraphModule:
        return quantize(model, self._example(), self.settings.recipe).eval()

    def _plain(self, required: bool) -> fx.GraphModule | None:
        """The model quantized without any pass. A recipe may name what only passes make (the bias that folding adds): then there is none."""
        try:
            return self._quantized(self.model)
        except RecipeError:
            if not required:
                return None
        return self._quantized(fold_batch_norm(self.model, self._example()))

    def _record(self, name: str, known: list[Step], started: float, qmodel: nn.Module | None, note: str = "") -> None:
        if known:
            self.steps.append(known.pop(0))
            return
        seconds = time.perf_counter() - started
        step = Step(name, round(seconds, 3), None, None, note)
        if qmodel is not None:
            measured = sqnr(self.expected, outputs(qmodel, self.judged, self.settings.batch))
            judge = None if self.evaluation is None else accuracy(qmodel, self.evaluation.first(JUDGED_SAMPLES), self.settings.batch)
            step = replace(step, output_db=measured, accuracy=judge)
        self.steps.append(step)

    def _accuracy(self, model: nn.Module) -> float | None:
        return None if self.evaluation is None else accuracy(model, self.evaluation, self.settings.batch)

    def _save(self, qmodel: nn.Module) -> None:
        if self.state is not None:
            self.state.save(Saved(tuple(self.steps), qmodel.state_dict()))

    def _tell(self, stage: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(stage, done, total)


__all__ = ["FLOAT_PASSES", "QUANTIZED_PASSES", "Outcome", "Settings", "Work", "checked_passes", "default_passes", "run"]
