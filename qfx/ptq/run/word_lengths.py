"""The word lengths that a run with a budget chooses: what the quantizers lose is measured, then searched for the least loss that the budget takes."""

from __future__ import annotations

import glob
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from qfx.nn.convert import quantize
from qfx.nn.model import quantizers
from qfx.progress import Progress
from qfx.ptq.allocation.front import Budget, Designs, Found
from qfx.ptq.allocation.hardware import refuse_hopeless
from qfx.ptq.allocation.search import search
from qfx.ptq.allocation.sensitivity import WIDTHS, sensitivity
from qfx.ptq.allocation.sites import present_widths
from qfx.ptq.allocation.table import Table
from qfx.ptq.run.settings import Settings
from qfx.ptq.run.state import Saved
from qfx.recipe import Override


def choose_word_lengths(
    prepared: nn.Module,
    judged: Tensor,
    settings: Settings,
    budget: Budget,
    *,
    saved: Saved | None,
    keep: Callable[[Table, Designs], None],
    progress: Progress,
) -> Found:
    """For the float model ``prepared``. ``keep`` is called with what is measured, and with every design that the search has made; what ``saved`` has
    of either is not done again. Raises what ``search`` raises."""
    table = None if saved is None else saved.table
    if table is None:
        table = _measured(prepared, judged, settings, budget, progress)
        keep(table, {})
    return search(
        prepared,
        judged,
        table,
        budget,
        recipe=settings.recipe,
        keep=partial(keep, table),
        resume=None if saved is None else saved.designs,
        progress=progress,
    )


def _measured(prepared: nn.Module, judged: Tensor, settings: Settings, budget: Budget, progress: Progress) -> Table:
    """What the quantizers lose whose word lengths the recipe does not fix by an override."""
    recipe = settings.recipe
    plain = quantize(prepared, judged, recipe).eval()
    fixed = [override for override in recipe.overrides if "width" in override.changes]
    names = [name for name, own in quantizers(plain) if not any(override.matches(name, own.also) for override in fixed)]
    widths = sorted({*WIDTHS, *present_widths(plain)})
    budget.check(plain, names, widths[0])
    if budget.board is not None:  # before what takes long
        shorter = tuple(Override(glob.escape(name), {"width": widths[0]}) for name in names)
        shortest = replace(recipe, overrides=(*recipe.overrides, *shorter))
        refuse_hopeless(budget, quantize(prepared, judged, shortest).eval(), widths[0])
    parts = torch.split(judged, settings.batch)
    table = sensitivity(plain, parts, widths=widths, measure=settings.measure, seed=settings.seed, progress=progress)
    return replace(table, rows=tuple(row for row in table.rows if row.name in names))
