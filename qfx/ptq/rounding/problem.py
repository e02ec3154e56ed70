"""The problem that every rounding method solves: the weights of one layer, integers so chosen that its result moves least. To nearest is not best.

A solver takes a ``Problem``, a layer as matrices (see ``rows.py``), and returns the chosen integers, as floats of the weight's shape. None needs
labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from qfx.nn.casts.digits import Numbers
from qfx.ptq.rounding.grid import Around, around


@dataclass(frozen=True, eq=False)
class Rows:
    """Some of a layer's rows, for what depends on the activation that follows.

    ``x`` (G, n, K): the inputs; ``result`` (G, n, O): what the float weights make of them, and ``goal`` (G, n, O) what they should; both before the
    activation, whose slope for negative numbers is ``negative_slope``.
    """

    x: Tensor
    result: Tensor
    goal: Tensor
    negative_slope: float

    def act(self, value: Tensor) -> Tensor:
        return torch.where(value > 0, value, value * self.negative_slope)


@dataclass(frozen=True, eq=False)
class Problem:
    """Find integers q in [low, high] so that ``x @ (q * scale).T`` plus the bias is near ``y``, over the rows of a layer.

    ``weight`` (G, O, K): float weights; ``scale`` (G, O, K): powers of two; ``present`` (G, O, K): the integers that the layer has now. ``x`` is what
    the quantized layers before give, ``y`` the float model's result. Of the rows there are only moments, in float64, with ``rest`` = y - what the
    float weights and the bias make of x: ``gram`` (G, K, K) = covariance of x, ``pull`` (G, O, K) = covariance of rest and x, ``power`` (G, O) =
    variance of rest, ``mean_x`` (G, 1, K) and ``mean_rest`` (G, O, 1). With ``free_bias`` the bias will take any mean error, so that only variances
    count. ``rows``: if an activation follows at once. ``allowed``: the integers to choose from, where they are not all between ``low`` and ``high``.
    ``kept`` (G, O, K): of sparse weights, which may be other than 0; ``weight`` is dense all the same.
    """

    weight: Tensor
    scale: Tensor
    present: Tensor
    low: int
    high: int
    gram: Tensor
    pull: Tensor
    power: Tensor
    mean_x: Tensor
    mean_rest: Tensor
    free_bias: bool
    rows: Rows | None = None
    allowed: Numbers | None = None
    kept: Tensor | None = None

    def around(self) -> Around:
        """The integers around the float weights."""
        found = around(self.weight / self.scale, self.low, self.high, self.allowed)
        return found if self.kept is None else found.among(self.kept)

    def sparse(self, raw: Tensor) -> Tensor:
        """Integers with 0 wherever nothing is kept."""
        return raw if self.kept is None else raw * self.kept.to(raw.dtype)

    def nearest(self, ratio: Tensor) -> Tensor:
        """The nearest integer to each number, in its dtype; of two the greater."""
        return torch.floor(ratio + 0.5).clamp(self.low, self.high) if self.allowed is None else self.allowed.nearest(ratio).to(ratio.dtype)

    def hessian(self) -> Tensor:
        """(G, K, K): half the second derivative of one output's squared error by its weights."""
        return self.gram if self.free_bias else self.gram + self.mean_x.transpose(1, 2) @ self.mean_x

    def target(self) -> Tensor:
        """(G, O, K): minus half the gradient of the squared errors at the float weights."""
        return self.pull if self.free_bias else self.pull + self.mean_rest @ self.mean_x

    def moved(self, raw: Tensor) -> Tensor:
        """How far integers are from the float weights, in float64."""
        return raw.double() * self.scale.double() - self.weight.double()

    def error(self, raw: Tensor, *, free_bias: bool | None = None) -> float:
        """The mean squared difference to ``y`` that integers ``raw`` leave; ``free_bias`` (default: the problem's) counts no mean error."""
        moved = self.moved(raw)
        variance = self.power + ((moved @ self.gram - 2 * self.pull) * moved).sum(2)
        free = self.free_bias if free_bias is None else free_bias
        return float(variance.mean() if free else (variance + self.mean_error(raw).square()).mean())

    def mean_error(self, raw: Tensor) -> Tensor:
        """(G, O): the mean of y minus the result; adding it to the bias removes it."""
        return (self.mean_rest - self.moved(raw) @ self.mean_x.transpose(1, 2)).squeeze(2)


Solver = Callable[[Problem], Tensor]
"""From a layer's problem to its integers."""
