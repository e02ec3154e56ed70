"""``autoquant`` as the command runs it: until the accuracy on labelled data is good enough, resumable between two attempts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from qfx.ptq.auto import Attempt, AutoResult, autoquant
from qfx.ptq.fold import fold_batch_norm
from qfx.ptq.measure import Labelled, accuracy, outputs, sqnr
from qfx.ptq.pipeline import Outcome, Settings, checked, example_count
from qfx.ptq.state import Saved, State, Step
from qfx.ptq.walk import Progress


@dataclass(frozen=True, slots=True)
class Goal:
    """``max_drop``: how far the share of right answers may fall below the float model's. ``widest``: words of weights and activations may become so
    long for it (None: they stay as the recipe says)."""

    max_drop: float
    widest: int | None = None


def reach(
    model: nn.Module, data: Tensor, settings: Settings, goal: Goal, evaluation: Labelled, *, state: State, saved: Saved | None, progress: Progress
) -> tuple[Outcome, AutoResult]:
    """``qfx.autoquant``, judged by right answers on all of ``evaluation``; each attempt is a step of the account.

    ``state`` keeps what was tried and the best model, ``saved`` is what it held: that is not tried again, and the result is the same as without an
    interrupt. ``settings.passes`` and ``settings.budget`` are not looked at. Raises what ``autoquant`` raises.
    """
    findings = checked(fold_batch_norm(model, data[:1]), data, settings)
    judge = _Judge(model, data[: example_count(data)], evaluation, settings.batch, [] if saved is None else list(saved.steps))

    def keep(attempts: tuple[Attempt, ...], tensors: Mapping[str, Tensor]) -> None:
        judge.account(attempts)
        state.save(Saved(tuple(judge.steps), tensors))

    found = autoquant(
        model,
        data,
        judge,
        max_drop=goal.max_drop,
        recipe=settings.recipe,
        widest=goal.widest,
        seed=settings.seed,
        keep=keep,
        resume=None
        if saved is None
        else (tuple(Attempt(step.name, (), step.accuracy, step.seconds, step.note) for step in saved.steps), saved.tensors),
        progress=progress,
    )
    noise = sqnr(judge.expected, outputs(found.qmodel, judge.judged, settings.batch))
    outcome = Outcome(found.qmodel, found.twin, found.passes, tuple(judge.steps), found.float_score, found.score, noise, found.recipe, findings)
    return outcome, found


@dataclass
class _Judge:
    """Counts right answers, and remembers the output's noise for the account."""

    model: nn.Module
    judged: Tensor
    evaluation: Labelled
    batch: int
    steps: list[Step]
    noise: float | None = None
    expected: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.expected = outputs(self.model, self.judged, self.batch)

    def __call__(self, model: nn.Module) -> float:
        self.noise = sqnr(self.expected, outputs(model, self.judged, self.batch))
        return accuracy(model, self.evaluation, self.batch)

    def account(self, attempts: tuple[Attempt, ...]) -> None:
        """A step for the last attempt."""
        last = attempts[-1]
        note = last.note or ", ".join(last.passes)
        self.steps.append(Step(last.name, last.seconds, None if last.score is None else self.noise, last.score, note))
