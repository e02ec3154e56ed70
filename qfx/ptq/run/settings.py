"""What decides the result of a run beside model and data, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from qfx.pages.answers import Answers
from qfx.ptq.allocation.front import Budget, Found
from qfx.ptq.allocation.table import Measure
from qfx.ptq.floating.checks import Finding
from qfx.ptq.report.step import Step
from qfx.recipe import Recipe


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
    one; ``recipe``: what the model was quantized by in the end. ``answers``: which class was taken for which, on all evaluation data."""

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
    answers: Answers | None = None
