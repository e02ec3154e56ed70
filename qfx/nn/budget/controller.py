"""The weight of a cost in the loss, steered so that the cost comes to its budget and stays there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

_LEAST, _MOST = math.log(1e-9), math.log(1e3)
"""Where the logarithm of the weight may go: a budget that is never met must not make numbers that never come back."""

_REACH = 1.0
"""Distances from the budget count up to so much (a factor of e): who is far off is told the same as who is farther."""


@dataclass(frozen=True, slots=True)
class Controller:
    """A proportional-integral controller of the logarithm of a weight.

    ``error`` is log(cost / budget). The weight is exp(``integral`` + ``proportional`` * error), and the integral moves by ``rate`` * error a step. In
    logarithms, since neither the scale of the task's loss nor that of the cost is known: a cost that stays above its budget by a tenth makes
    the weight grow by the same factor every step, until it moves. ``integral`` starts low, so that training starts as it would without a budget.
    Åström and Hägglund, "Advanced PID Control", 2006, chapter 3 (windup: the integral is kept within bounds).
    """

    integral: float = math.log(1e-2)
    proportional: float = 2.0
    rate: float = 0.02
    steps: int = 0

    def weight(self, error: float) -> float:
        """What the cost counts in the loss, at a distance of ``error`` from the budget."""
        return math.exp(min(max(self.integral + self.proportional * _bounded(error), _LEAST), _MOST))

    def step(self, error: float) -> Controller:
        """The controller after a step at that distance."""
        integral = min(max(self.integral + self.rate * _bounded(error), _LEAST), _MOST)
        return replace(self, integral=integral, steps=self.steps + 1)

    def state(self) -> dict[str, float]:
        """What ``resumed`` goes on from, as plain numbers."""
        return {"integral": self.integral, "steps": float(self.steps)}

    def resumed(self, state: Mapping[str, float]) -> Controller:
        return replace(self, integral=float(state["integral"]), steps=int(state["steps"]))


def _bounded(error: float) -> float:
    return min(max(error, -_REACH), _REACH)
