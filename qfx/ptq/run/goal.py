"""``autoquant`` as the command runs it: until the accuracy on labelled data is good enough, resumable between two attempts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from qfx.ptq.activations import Progress
from qfx.ptq.floating.fold import fold_batch_norm
from qfx.ptq.measure import Judge, Labelled, accuracy
from qfx.ptq.report.step import Recorded, Step
from qfx.ptq.run.auto import Attempt, autoquant
from qfx.ptq.run.pipeline import checked, example_count
from qfx.ptq.run.settings import Outcome, Settings
from qfx.ptq.run.state import Saved, State


@dataclass(frozen=True, slots=True)
class Goal:
    """``max_drop``: how far the share of right answers may fall below the float model's. ``widest``: words of weights and activations may become so
    long for it (None: they stay as the recipe says)."""

    max_drop: float
    widest: int | None = None

    def told(self, outcome: Outcome, met: bool) -> str:
        """What became of it, in one line."""
        least = max((outcome.float_accuracy or 0.0) - self.max_drop, 0.0)
        return f"the goal of {100 * least:.2f} % is {'met' if met else 'not met'}"


def reach(
    model: nn.Module,
    data: Tensor,
    settings: Settings,
    goal: Goal,
    evaluation: Labelled,
    *,
    state: State,
    saved: Saved | None,
    progress: Progress,
    recorded: Recorded | None = None,
) -> tuple[Outcome, bool]:
    """``qfx.autoquant``, judged by right answers on all of ``evaluation``: what came of it, each attempt a step of the account, and whether the goal
    is met.

    ``state`` keeps what was tried and the best model, ``saved`` is what it held: that is not tried again, and the result is the same as without an
    interrupt. ``recorded`` hears of every step. Of ``settings`` the passes and the budget are not looked at. Raises what ``autoquant`` raises.
    """
    findings = checked(fold_batch_norm(model, data[:1]), data, settings)
    known = None
    if saved is not None:
        known = tuple(Attempt(step.name, (), step.accuracy, step.seconds, step.note) for step in saved.steps), saved.tensors
    judge = Judge.between(model, data[: example_count(data)], evaluation, settings.batch)
    account = _Account(judge, evaluation, [] if saved is None else list(saved.steps))

    def keep(attempts: tuple[Attempt, ...], tensors: Mapping[str, Tensor]) -> None:
        account.add(attempts)
        if recorded is not None:
            recorded(account.steps[-1])
        state.save(Saved(tuple(account.steps), tensors))

    found = autoquant(
        model,
        data,
        account.score,
        max_drop=goal.max_drop,
        recipe=settings.recipe,
        widest=goal.widest,
        seed=settings.seed,
        batch=settings.batch,
        keep=keep,
        resume=known,
        progress=progress,
    )
    noise = judge.noise(found.qmodel)
    outcome = Outcome(
        found.qmodel,
        found.reference,
        found.passes,
        tuple(account.steps),
        found.float_score,
        found.score,
        noise,
        found.recipe,
        findings,
        answers=judge.answers(found.qmodel),
    )
    return outcome, found.met


@dataclass
class _Account:
    """What ``autoquant`` scores models by, which remembers the output's noise for the steps of the account."""

    judge: Judge
    evaluation: Labelled
    steps: list[Step]
    noise: float | None = None

    def score(self, model: nn.Module) -> float:
        """The share of right answers."""
        self.noise = self.judge.noise(model)
        return accuracy(model, self.evaluation, self.judge.batch)

    def add(self, attempts: tuple[Attempt, ...]) -> None:
        """A step for the last attempt."""
        last = attempts[-1]
        note = last.note or ", ".join(last.passes)
        self.steps.append(Step(last.name, last.seconds, None if last.score is None else self.noise, last.score, note))
