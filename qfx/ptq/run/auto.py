"""``autoquant``: passes from cheap to costly until a fixed-point model is good enough."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from qfx.errors import DataError, QfxError, RecipeError
from qfx.nn.convert import quantize
from qfx.nn.model import quantizers
from qfx.pages.notebook import notebook_table
from qfx.ptq.activations import Progress, batches
from qfx.ptq.calibrate import with_input_sign
from qfx.ptq.float_reference import float_reference
from qfx.ptq.run.passes import FLOAT_PASSES, QUANTIZED_PASSES, Work
from qfx.recipe import ObserverName, Override, Recipe, Spec

EXAMPLE = 64
"""Samples that binary points start from, before they are placed from all of them."""

BATCH = 64
"""Samples at a time."""

ROUNDING = 1e-9
"""By so little a score may miss the goal: differences of shares are rounded."""

OBSERVERS: tuple[ObserverName, ...] = ("kl", "percentile")
"""What is tried beside the recipe's own observers."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One thing that was tried: its name, the passes in order, the score (None if it could not be done; ``note`` says why) and its seconds."""

    name: str
    passes: tuple[str, ...]
    score: float | None
    seconds: float
    note: str = ""


@dataclass(frozen=True, eq=False)
class AutoResult:
    """The best model that was found, in evaluation mode, its float ``reference``, and the recipe and the passes that it was made with; ``met`` says
    whether it reaches ``float_score - max_drop``. ``attempts``: all that was tried, in order; printing the result lists them."""

    qmodel: fx.GraphModule
    reference: fx.GraphModule
    recipe: Recipe
    passes: tuple[str, ...]
    attempts: tuple[Attempt, ...]
    float_score: float
    score: float
    max_drop: float
    met: bool

    @property
    def twin(self) -> fx.GraphModule:
        """The earlier name of ``reference``."""
        return self.reference

    def __str__(self) -> str:
        longest = max(len(attempt.name) for attempt in self.attempts)
        lines = [f"{'float':{longest}}  {self.float_score:10.4f}"]
        for attempt in self.attempts:
            score = "         -" if attempt.score is None else f"{attempt.score:10.4f}"
            lines.append(f"{attempt.name:{longest}}  {score}  {attempt.seconds:7.1f} s  {attempt.note or ', '.join(attempt.passes)}")
        goal = f"{self.float_score - self.max_drop:.4f}"
        lines.append(f"the goal of {goal} is {'met' if self.met else 'not met'}: {self.score:.4f}")
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = [("float", f"{self.float_score:.4f}", "", "")]
        for one in self.attempts:
            rows.append((one.name, "" if one.score is None else f"{one.score:.4f}", f"{one.seconds:.1f}", one.note or ", ".join(one.passes)))
        return notebook_table("what was tried", ("attempt", "score", "seconds", "how"), rows, numbers=(1, 2), note=str(self).rpartition("\n")[2])


def autoquant(
    model: nn.Module,
    calib: Tensor | Iterable[Tensor],
    evaluate: Callable[[nn.Module], float],
    *,
    max_drop: float,
    recipe: Recipe | None = None,
    widest: int | None = None,
    seed: int = 0,
    batch: int = BATCH,
    keep: Callable[[tuple[Attempt, ...], Mapping[str, Tensor]], None] | None = None,
    resume: tuple[tuple[Attempt, ...], Mapping[str, Tensor]] | None = None,
    progress: Progress | None = None,
) -> AutoResult:
    """Quantize ``model`` after training so that ``evaluate`` gives at least what it gives for the float model, less ``max_drop``.

    ``calib``: unlabelled inputs, a tensor or batches of one shape. ``evaluate``: from a model in evaluation mode to a number, the higher the better
    (accuracy on labelled data that is not calibrated on, say). ``batch``: samples at a time, in the passes. ``recipe``: word lengths and modes;
    default 8 bits, weights and biases per channel.

    Tried in this order, until the goal is met: calibration; BatchNorm folded; other observers for the activations; equalization; then, on the best of
    these, bias correction; GPTQ; COMQ; AdaRound; tuning of the best model so far; and last, if ``widest`` is given, words of weights and activations
    one bit longer at a time, up to so many bits, with the passes that served best. What an attempt cannot do (a recipe that names a bias that only
    folding makes, say) is noted, and the next one follows. ``model`` stays as it is. Deterministic for a ``seed`` if ``evaluate`` is.

    ``keep`` is called after each attempt with all attempts so far and the tensors of the best model. Given as ``resume`` to a later call with the
    same arguments, they are not made again, and the result is the same.

    Raises DataError for bad data or a score that is not a number, RecipeError for a bad ``max_drop`` or ``widest``, and the first error if no attempt
    could be done at all.
    """
    if not math.isfinite(max_drop) or max_drop < 0:
        raise RecipeError(f"max_drop is {max_drop!r}", where="autoquant", remedy="give how far the score may fall, 0 or more")
    if widest is not None and not 1 <= widest <= 32:
        raise RecipeError(f"widest is {widest!r}", where="autoquant", remedy="give a word length from 1 to 32")
    data = torch.cat(_of_one_shape(batches(calib)))
    channel = Spec(granularity="channel")
    start = with_input_sign(Recipe(weight=channel, bias=replace(channel, width=16)) if recipe is None else recipe, data)
    known, tensors = ((), {}) if resume is None else resume
    run = _Run(copy.deepcopy(model).eval(), data, evaluate, max_drop, start, widest, seed, batch, keep, list(known), tensors, progress)
    return run.run()


def _of_one_shape(parts: list[Tensor]) -> list[Tensor]:
    if any(part.shape[1:] != parts[0].shape[1:] for part in parts):
        raise DataError("batches of several shapes", where="calibration", remedy="give inputs of one shape")
    return parts


@dataclass(frozen=True, eq=False)
class _State:
    """A quantized model with its reference from before any pass that changed weights, and how it came about."""

    qmodel: fx.GraphModule
    reference: fx.GraphModule
    recipe: Recipe
    passes: tuple[str, ...]
    score: float


@dataclass
class _Run:
    model: nn.Module
    data: Tensor
    evaluate: Callable[[nn.Module], float]
    max_drop: float
    recipe: Recipe
    widest: int | None
    seed: int
    batch: int
    keep: Callable[[tuple[Attempt, ...], Mapping[str, Tensor]], None] | None
    known: list[Attempt]
    tensors: Mapping[str, Tensor]
    progress: Progress | None
    attempts: list[Attempt] = field(default_factory=list)
    errors: list[QfxError] = field(default_factory=list)
    best: _State | None = None
    last_best: int = -1

    def run(self) -> AutoResult:
        float_score = self._score(self.model)
        goal = float_score - self.max_drop
        self.last_best = _best_of(self.known)
        for _ in self._tries():
            if self.best is not None and self.best.score >= goal - ROUNDING:
                break
        if self.best is None:
            raise self.errors[0]
        best = self.best
        met = best.score >= goal - ROUNDING
        return AutoResult(best.qmodel, best.reference, best.recipe, best.passes, tuple(self.attempts), float_score, best.score, self.max_drop, met)

    def _tries(self) -> Iterator[None]:
        """Each step makes one attempt. What comes later builds on the best of what came before."""
        self._made("calibration", ("calibrate",), self.recipe)
        yield
        self._made("folding", ("fold", "calibrate"), self.recipe)
        yield
        for observer in OBSERVERS:
            activation = replace(self.recipe.activation, observer=observer)
            self._made(f"folding, {observer}", ("fold", "calibrate"), replace(self.recipe, activation=activation))
            yield
        recipe = self.recipe if self.best is None else self.best.recipe
        self._made("equalization", ("fold", "equalize", "calibrate"), recipe)
        yield
        for name, more in (("bias correction", "bias"), ("GPTQ", "gptq"), ("COMQ", "comq"), ("AdaRound", "adaround")):
            base = self._base()
            self._made(name, (*base, more), recipe)
            yield
        self._tuned()
        yield
        if self.best is not None and self.widest is not None:
            passes = self.best.passes
            recipe = self.best.recipe
            while (wider := _wider(recipe, self.best.qmodel, self.widest)) is not None:
                recipe = wider
                self._made(f"words of {recipe.weight.width}/{recipe.activation.width} bits", passes, recipe)
                yield

    def _base(self) -> tuple[str, ...]:
        """The passes of the best model up to calibration, with BatchNorm folded: what rounding passes need."""
        passes = ("fold", "calibrate") if self.best is None else self.best.passes
        kept = passes[: passes.index("calibrate") + 1]
        return kept if "fold" in kept else ("fold", *kept)

    def _made(self, name: str, passes: tuple[str, ...], recipe: Recipe) -> None:
        """Try passes from the float model on."""
        if self._is_known(name, passes, recipe):
            return
        with self._attempt(name, passes) as attempt:
            qmodel, reference = self._quantized(passes, recipe)
            for step in passes:
                if step in QUANTIZED_PASSES:
                    attempt.note = QUANTIZED_PASSES[step](self._work(qmodel, reference))
            attempt.keep(_State(qmodel, reference, recipe, passes, self._score(qmodel)))

    def _quantized(self, passes: tuple[str, ...], recipe: Recipe) -> tuple[fx.GraphModule, fx.GraphModule]:
        """The model after the passes on the float one, and its reference."""
        example, prepared = self.data[:EXAMPLE], self.model
        for step in passes:
            if step in FLOAT_PASSES:
                prepared = FLOAT_PASSES[step](prepared, example, self.data)
        qmodel = quantize(prepared, example, recipe).eval()
        return qmodel, float_reference(qmodel)

    def _is_known(self, name: str, passes: tuple[str, ...], recipe: Recipe) -> bool:
        """Whether this attempt was made before an interrupt; then what came of it is taken over."""
        if not self.known:
            return False
        attempt = self.known.pop(0)
        if attempt.name != name:
            raise QfxError(f"knows of {attempt.name!r} where {name!r} is next", where="resume", remedy="give the arguments of the call that kept it")
        attempt = replace(attempt, passes=passes)
        self.attempts.append(attempt)
        if attempt.score is None:
            self.errors.append(QfxError(attempt.note))
        elif self.best is None or attempt.score > self.best.score:
            qmodel, reference = self._quantized(passes, recipe)
            if len(self.attempts) - 1 == self.last_best:
                qmodel.load_state_dict(dict(self.tensors))
            self.best = _State(qmodel, reference, recipe, passes, attempt.score)
        return True

    def _tuned(self) -> None:
        """Try to tune the best model so far."""
        best = self.best
        if best is None:
            return
        passes = (*best.passes, "tune")
        if self._is_known("tuning", passes, best.recipe):
            return
        with self._attempt("tuning", passes) as attempt:
            qmodel = copy.deepcopy(best.qmodel)
            attempt.note = QUANTIZED_PASSES["tune"](self._work(qmodel, best.reference))
            attempt.keep(_State(qmodel, best.reference, best.recipe, passes, self._score(qmodel)))

    def _attempt(self, name: str, passes: tuple[str, ...]) -> _Attempt:
        if self.progress is not None:
            self.progress(name, 0, 1)
        return _Attempt(self, name, passes)

    def _work(self, qmodel: fx.GraphModule, reference: fx.GraphModule) -> Work:
        return Work(qmodel, reference, self.data, self.batch, self.seed, self.progress or _silent)

    def _score(self, model: nn.Module) -> float:
        with torch.no_grad():
            score: Any = self.evaluate(model)
        try:
            number = float(score)
        except (TypeError, ValueError):
            number = math.nan
        if math.isnan(number):
            raise DataError(f"gave {score!r}", where="evaluate", remedy="return a number, the higher the better")
        return number


@dataclass
class _Attempt:
    """A context that keeps the account of one attempt, and turns an error of qfx into a note."""

    run: _Run
    name: str
    passes: tuple[str, ...]
    note: str = ""
    state: _State | None = None

    def keep(self, state: _State) -> None:
        self.state = state

    def __enter__(self) -> _Attempt:
        self.began = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        run, state = self.run, self.state
        if error is not None and (not isinstance(error, QfxError) or error.where == "evaluate"):
            return False
        seconds = round(time.perf_counter() - self.began, 3)
        if isinstance(error, QfxError):
            run.errors.append(error)
            run.attempts.append(Attempt(self.name, self.passes, None, seconds, str(error)))
        elif state is not None:
            run.attempts.append(Attempt(self.name, self.passes, state.score, seconds, self.note))
            if run.best is None or state.score > run.best.score:
                run.best = state
        if run.keep is not None:
            run.keep(tuple(run.attempts), {} if run.best is None else run.best.qmodel.state_dict())
        if run.progress is not None:
            run.progress(self.name, 1, 1)
        return True


def _best_of(attempts: Iterable[Attempt]) -> int:
    """Which of them is the best, the first of equals; -1 if none has a score."""
    scores = [-math.inf if attempt.score is None else attempt.score for attempt in attempts]
    return scores.index(max(scores)) if scores and max(scores) > -math.inf else -1


def _wider(recipe: Recipe, qmodel: fx.GraphModule, widest: int) -> Recipe | None:
    """The recipe with every weight and activation that is short one bit longer; None if all are as long as they may be."""
    weight, activation, entry = (min(max(spec.width, widest), spec.width + 1) for spec in (recipe.weight, recipe.activation, recipe.input))
    operand = recipe.operand and replace(recipe.operand, width=min(max(recipe.operand.width, widest), recipe.operand.width + 1))
    overrides = tuple(
        Override(own.pattern, {**own.changes, "width": min(max(own.changes["width"], widest), own.changes["width"] + 1)})
        if "width" in own.changes and _is_weight_or_activation(own, qmodel)
        else own
        for own in recipe.overrides
    )
    wider = replace(
        recipe,
        weight=replace(recipe.weight, width=weight),
        activation=replace(recipe.activation, width=activation),
        input=replace(recipe.input, width=entry),
        operand=operand,
        overrides=overrides,
    )
    return None if wider == recipe else wider


def _is_weight_or_activation(override: Override, qmodel: fx.GraphModule) -> bool:
    names = (name for name, quantizer in quantizers(qmodel) if override.matches(name, quantizer.also))
    return any(name.endswith(".weight") or name == "input" or name.rpartition(".")[2].startswith(("output", "operand")) for name in names)


def _silent(stage: str, done: int, total: int) -> None:
    pass
