"""The weight of a cost in the loss, steered so that the cost comes to its budget and stays there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

_LEAST, _MOST = math.log(1e-5), math.log(1e3)
"""Where the logarithm of the weight may go: a budget that is never met must not make numbers that never come back."""

_FAR, _NEAR = 0.5, 0.2
"""Distances from the budget count up to so much, in the weight at once and in what it moves by: who is far off is told the same as who is farther."""

_SMOOTHING = 0.03
"""Of the speed: what one step says of it."""


@dataclass(frozen=True, slots=True)
class Controller:
    """A proportional-integral controller of the logarithm of a weight, whose integral looks ahead.

    ``error`` is log(cost / budget). The weight is exp(``integral`` + ``proportional`` * error). The integral moves by up to ``rate`` a step, as the
    error says that is due in ``horizon`` steps, if the cost goes on as fast as it does: word lengths move slowly, and a weight that grows as long as
    there is an error would be far too large when it is gone. In logarithms, since the scales of the task's loss and of the cost are unknown: in 100
    steps far from the budget the weight grows by a factor of 150, so that short trainings get there, too. ``integral`` starts low, so that training
    starts nearly as it would without a budget. Åström and Hägglund, "Advanced PID Control", 2006, chapter 3 (windup: the integral is kept within
    bounds; prediction is the derivative's part).

    The numbers were chosen once, by simulation and on small networks: costs that move at most by 0.0001 to 0.03 a step, under gradients and Adam,
    held up by tasks that differ by a factor of 1000, come within 3 % in long trainings without noise; in 300 steps, under noise and leaps of a
    board's measurements, within 8 %.
    """

    integral: float = math.log(1e-2)
    proportional: float = 8.0
    rate: float = 0.05
    horizon: float = 60.0
    speed: float = 0.0
    last: float = math.nan
    steps: int = 0

    def weight(self, error: float) -> float:
        """What the logarithm of the cost counts in the loss, at a distance of ``error`` from the budget."""
        return math.exp(min(max(self.integral + self.proportional * _bounded(error, _FAR), _LEAST), _MOST))

    def step(self, error: float, leap: float = 0.0) -> Controller:
        """The controller after a step at that distance. ``leap``: how much of the change since the last step is no movement, but came to light by a
        measurement; it would go on as little as the step before it."""
        moved = 0.0 if math.isnan(self.last) else error - self.last - leap
        speed = self.speed + _SMOOTHING * (moved - self.speed)
        ahead = _bounded((error + self.horizon * speed) / _NEAR, 1.0)
        integral = min(max(self.integral + self.rate * ahead, _LEAST), _MOST)
        return replace(self, integral=integral, speed=speed, last=error, steps=self.steps + 1)

    def state(self) -> dict[str, float]:
        """What ``resumed`` goes on from, as plain numbers."""
        return {"integral": self.integral, "speed": self.speed, "last": self.last, "steps": float(self.steps)}

    def resumed(self, state: Mapping[str, float]) -> Controller:
        """This controller in a state that ``state`` gave."""
        integral, speed, last = (float(state[name]) for name in ("integral", "speed", "last"))
        return replace(self, integral=integral, speed=speed, last=last, steps=int(state["steps"]))


def _bounded(error: float, most: float) -> float:
    return min(max(error, -most), most)
