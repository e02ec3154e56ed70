"""``Budget``: training that ends where a circuit may cost no more."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from qfx.errors import RecipeError
from qfx.nn.model import graph_module
from qfx.training.budget.controller import Controller
from qfx.training.budget.costs import Costs
from qfx.training.budget.limits import Limits

_STEEPNESS = 8
"""The power of the mean over the resources of a board: high, so that the scarcest decides, and not so high that another is forgotten."""

_PRECISION = 2.0**-8
"""To so many bits ``meet`` finds by how much words must be shorter."""

_FIRST, _LAST = 0.25, 64.0

_ENOUGH, _SPARE = 0.97, 0.5


@dataclass(frozen=True, slots=True)
class Status:
    """Where a model stands: at ``share`` of its budget (1.0 is all of it, of the scarcest part), at ``shares`` of its parts, and what the logarithm
    of the cost counts in the loss at present (``weight``)."""

    share: float
    shares: Mapping[str, float]
    weight: float

    @property
    def met(self) -> bool:
        return self.share <= 1.0

    def __str__(self) -> str:
        return ", ".join(f"{name} {100 * share:.1f} %" for name, share in self.shares.items())


class Budget:
    """A budget for a model whose word lengths are learned (``Spec.learn_width``).

    ``Budget(ebops=4000)``, ``Budget(mean_weight_bits=3)``, ``Budget(board="ultra96v2", fps=2000, dsp=0.8)``: the arguments are those of ``Limits``.
    ``loss(qmodel)`` joins the task's loss, once for each step of the optimizer:

        loss = F.cross_entropy(qmodel(x), y) + budget.loss(qmodel)

    It is the logarithm of cost / budget, times a weight that a controller steers, so that there is no factor to tune. ``meet(qmodel)`` at the end
    shortens words by the little that is left. ``every``: after so many steps a board's design is made anew; in between its cost follows the slopes
    that were measured with it. ``state_dict`` and ``load_state_dict`` let training be resumed. One budget is for one model.
    """

    def __init__(self, *, every: int = 100, controller: Controller | None = None, **limits: Any) -> None:
        self.limits = Limits(**limits)
        if every < 1:
            raise RecipeError(f"every is {every}", where="budget", remedy="give a number of steps from 1 on")
        self.every = every
        self.controller = Controller() if controller is None else controller
        self.status: Status | None = None
        self._costs: Costs | None = None

    def loss(self, qmodel: nn.Module) -> Tensor:
        """What the budget adds to the loss of this step: a scalar, differentiable by the learned word lengths alone.

        Raises RecipeError for a model without such, and for a budget that none of them can meet; QfxError if every weight of a layer has come to zero
        bits.
        """
        costs = self._of(qmodel)
        if costs.age >= self.every:
            costs.look()
        costs.age += 1
        shares = costs.shares()
        status = self._status({name: float(share.detach()) for name, share in shares.items()})
        self.controller = self.controller.step(math.log(status.share))
        self.status = status
        return status.weight * torch.stack(list(shares.values())).pow(_STEEPNESS).mean().log() / _STEEPNESS

    def limit(self, **limits: Any) -> None:
        """Allow more or less from now on, of what the budget was made for: ``budget.limit(ebops=2000)``, as when it falls while training goes on, so
        that one run gives a whole front. The controller goes on as it is. Whether words can be short enough is looked at when a budget is made,
        not here.
        """
        self.limits = replace(self.limits, **limits)
        if self._costs is not None:
            self._costs.limits = self.limits

    def measure(self, qmodel: nn.Module) -> Status:
        """Where the model stands, exactly: a board's design is made for it. Moves nothing."""
        costs = self._of(qmodel)
        costs.look()
        return self._status(costs.numbers())

    def meet(self, qmodel: nn.Module) -> Status:
        """Shorten learned words, all by the same fraction of a bit before rounding, by as little as brings the model within its budget; or, if less
        than 97 % of it are used, lengthen those that are not pruned, by half a bit at most. Returns where it stands then."""
        status = self.measure(qmodel)
        if _ENOUGH <= status.share <= 1.0:
            return status
        costs = self._of(qmodel)
        longer, shorter = (-_SPARE, 0.0) if status.met else (0.0, _FIRST)  # with the one it is too large, with the other it is not
        if status.met and self._met(costs, longer):
            longer = shorter = -_SPARE
        while shorter < _LAST and not self._met(costs, shorter):
            longer, shorter = shorter, 2 * shorter
        while shorter - longer > _PRECISION:
            middle = (shorter + longer) / 2
            longer, shorter = (longer, middle) if self._met(costs, middle) else (middle, shorter)
        costs.shorten(shorter)
        return self.measure(qmodel)

    def state_dict(self) -> dict[str, Any]:
        """The controller's state, and how long ago the board's design was made, as plain data."""
        return {"controller": self.controller.state(), "age": 0 if self._costs is None else self._costs.age}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken, with a model in the state that it had then."""
        self.controller = self.controller.resumed(state["controller"])
        self._costs = None

    def _of(self, qmodel: nn.Module) -> Costs:
        model = graph_module(qmodel)
        if self._costs is None or self._costs.model is not model:
            self._costs = Costs(model, self.limits)
        return self._costs

    def _met(self, costs: Costs, by: float) -> bool:
        with costs.shorter(by) as shares:
            return all(share <= 1.0 for share in shares.values())

    def _status(self, shares: Mapping[str, float]) -> Status:
        share = max(shares.values())
        return Status(share, shares, self.controller.weight(math.log(share)))
