"""``Budget``: training that ends where a circuit may cost no more."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from qfx.errors import RecipeError
from qfx.hardware.folding.plan import Plan
from qfx.hardware.unrolled import plan as unrolled
from qfx.nn.model import graph_module
from qfx.pages.notebook import notebook_table
from qfx.spec import changes_of
from qfx.training.budget.closest import closest, filled
from qfx.training.budget.controller import Controller
from qfx.training.budget.costs import Costs
from qfx.training.budget.limits import Limits

_STEEPNESS = 8
"""The power of the mean over the resources of a board: high, so that the scarcest decides, and not so high that another is forgotten."""

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
    shortens words by the little that is left. ``every``: after so many steps at most a board's design is made anew, and from a quarter of them on
    where words have changed much since; in between its cost follows the slopes that were measured with it. ``state_dict`` and ``load_state_dict``
    let training be resumed. One budget is for one model.
    """

    def __init__(self, *, every: int = 100, controller: Controller | None = None, **limits: Any) -> None:
        self.limits: Limits = Limits(**limits)
        if every < 1:
            raise RecipeError(f"every is {every}", where="budget", remedy="give a number of steps from 1 on")
        self.every = every
        self.controller: Controller = Controller() if controller is None else controller
        self.status: Status | None = None
        self._costs: Costs | None = None
        self._resumed: Mapping[str, Any] | None = None

    def __repr__(self) -> str:
        stands = "" if self.status is None else f", at {self.status.share:.1%} of it"
        return f"Budget({changes_of(self.limits).partition('(')[2].removesuffix(')')}{stands})"

    def _repr_html_(self) -> str:
        """What there may be of each part, and how much of it the model takes, for notebooks."""
        given = changes_of(self.limits).partition("(")[2].removesuffix(")")
        shares = {} if self.status is None else self.status.shares
        rows = [(name, f"{share:.1%}") for name, share in shares.items()]
        return notebook_table(f"budget: {given}", ("of", "taken"), rows, numbers=(1,), note="" if rows else "no step was made yet")

    def loss(self, qmodel: nn.Module) -> Tensor:
        """What the budget adds to the loss of this step: a scalar, differentiable by the learned word lengths alone. While all of these are frozen
        (``qfx.freeze``) it is 0 and the controller rests; where the model stands then is in ``status``, and ``meet`` brings it within its budget.

        Raises RecipeError for a model without learned word lengths, for a budget that none of them can meet, and for another model than that of the
        steps before; QfxError if all words of a layer have come to zero bits; UnsupportedError while quantizers are off.
        """
        costs = self._of(qmodel)
        expected = None
        if costs.due(self.every):
            expected = max(costs.numbers().values())
            costs.look()
        costs.age += 1
        shares = costs.shares()
        status = self._status({name: float(share.detach()) for name, share in shares.items()})
        if not costs.trained:
            self.status = replace(status, weight=0.0)
            return torch.zeros((), dtype=torch.float64)
        leap = 0.0 if expected is None else math.log(status.share / expected)
        self.controller = self.controller.step(math.log(status.share), leap)
        self.status = status
        return status.weight * torch.stack(list(shares.values())).pow(_STEEPNESS).mean().log() / _STEEPNESS

    def limit(self, **limits: Any) -> None:
        """Allow more or less from now on, of what the budget was made for: ``budget.limit(ebops=2000)``, as when it falls while training goes on, so
        that one run gives a whole front. The controller goes on as it is. Raises RecipeError, and changes nothing, for limits that no word length of
        the model that it steers can meet.
        """
        new = replace(self.limits, **limits)
        if self._costs is not None:
            self._costs.limit(new)
        self.limits = new

    def measure(self, qmodel: nn.Module) -> Status:
        """Where the model stands, exactly: a board's design is made for it. Moves nothing. It may be another model than that of ``loss``, such as an
        average of its checkpoints."""
        costs = self._beside(qmodel)
        costs.look()
        return self._status(costs.numbers())

    def meet(self, qmodel: nn.Module) -> Status:
        """Shorten learned words (frozen ones, too), all by the same fraction of a bit before rounding, by as little as brings the model within its
        budget; or, if less than 97 % of it are used, lengthen those that are not pruned, by half a bit at most. Of words that would get shorter
        together, those that need not stay as they were; if less than 97 % are used then, words of single quantizers get longer, bit by bit. Returns
        where it stands then: above its budget only where a layer would be left without any words.
        """
        status = self.measure(qmodel)
        if _ENOUGH <= status.share <= 1.0:
            return status
        costs = self._beside(qmodel)
        costs.take_steps(filled(costs, closest(costs, _SPARE if status.met else 0.0), _ENOUGH))
        return self.measure(qmodel)

    def plan(self, qmodel: nn.Module) -> Plan | unrolled.Plan:
        """The design that ``measure`` counts, of the model as it is now: on a board with all of its resources ``qfx hls`` may choose another, that
        takes more of what the budget is short of. It goes into a project by ``write_project(qfx.to_graph(qmodel), ..., schedule=plan)``, or to
        ``qfx hls`` by its file (``qfx.hardware.folding.file.text``). Raises RecipeError for a budget of counts."""
        return self._beside(qmodel).plan()

    def state_dict(self) -> dict[str, Any]:
        """The controller's state, and what was measured of the model and when, as plain data and tensors."""
        costs = self._resumed if self._costs is None else self._costs.state()
        return {"controller": self.controller.state(), "costs": costs, "limits": asdict(self.limits)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken, with a model in the state that it had then: to the same bits. With other limits the controller goes
        on, and the model is measured anew."""
        self.controller = self.controller.resumed(state["controller"])
        self._costs, self._resumed = None, state["costs"] if state["limits"] == asdict(self.limits) else None

    def _of(self, qmodel: nn.Module) -> Costs:
        model = graph_module(qmodel)
        if self._costs is None:
            self._costs, self._resumed = Costs(model, self.limits, self._resumed), None
        if self._costs.model is not model:
            raise RecipeError("is steering another model already", where="budget", remedy="make a Budget for each model")
        return self._costs

    def _beside(self, qmodel: nn.Module) -> Costs:
        model = graph_module(qmodel)
        return self._of(model) if self._costs is None or self._costs.model is model else Costs(model, self.limits)

    def _status(self, shares: Mapping[str, float]) -> Status:
        share = max(shares.values())
        return Status(share, shares, self.controller.weight(math.log(share)))
