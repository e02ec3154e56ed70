"""Running statistics as they were: what activation checkpointing needs, which runs a part of the network again inside the backward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from qfx.distributed.ranks import Moments
from qfx.errors import ExactnessError

KEPT = 32
"""So many forwards may wait for their backward."""


class Statistics(NamedTuple):
    """Running mean and variance."""

    mean: Tensor
    variance: Tensor


@dataclass(eq=False, slots=True)
class Step:
    """One forward in training: the moments of its batch, which tell it from others, those of the batches of all ranks, and the running statistics
    that it used. ``task``: the backward pass that recalled it last."""

    own: Moments
    whole: Moments
    used: Statistics
    task: int = -1


def backward_pass() -> int:
    """The number of the backward pass that this thread is in; -1 outside. A forward inside one is a recomputation."""
    return torch._C._current_graph_task_id()


class Past:
    """The latest forwards of one BatchNorm. A copy of the module starts with none."""

    def __init__(self) -> None:
        self.steps: tuple[Step, ...] = ()

    def keep(self, own: Moments, whole: Moments, used: Statistics) -> None:
        """Remember a forward whose batch had these moments."""
        self.steps = (Step(own, whole, used), *self.steps[: KEPT - 1])

    def candidates(self) -> list[Step]:
        """Latest first, as a backward pass comes to them; those that this pass has had already come last."""
        task = backward_pass()
        return sorted(self.steps, key=lambda step: step.task == task)

    def is_step(self, step: Step, mean: Tensor, variance: Tensor) -> bool:
        """Whether the moments of a recomputed batch are those of the step, bit by bit; if so it counts as recalled."""
        same = torch.equal(step.own.mean, mean) and torch.equal(step.own.variance, variance)
        if same:
            step.task = backward_pass()
        return same

    def recall(self, own: Moments, where: str) -> Step:
        """The forward with these moments. ExactnessError if none of those kept had them."""
        for step in self.candidates():
            if self.is_step(step, own.mean, own.variance):
                return step
        raise unknown(where)

    def __deepcopy__(self, memo: object) -> Past:
        return Past()

    def __reduce__(self) -> tuple[type[Past], tuple[()]]:
        return Past, ()


def unknown(where: str) -> ExactnessError:
    return ExactnessError(
        f"is computed again inside a backward pass, with numbers that none of its latest {KEPT} forwards had",
        where=where,
        remedy="with activation checkpointing run backward after each forward, and keep randomness the same (preserve_rng_state=True); "
        "else call eval() on this layer, which freezes its statistics",
    )
