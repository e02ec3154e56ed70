"""``Budget``: training that ends where a circuit may cost so much."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qfx.errors import ProjectError, QfxError, RecipeError
from qfx.hardware.cost.estimate import NAMES
from qfx.hardware.cost.resources import FIELDS
from qfx.nn.budget.controller import Controller
from qfx.nn.budget.limits import Limits
from qfx.nn.cost.cost import weight_bits
from qfx.nn.cost.hardware import HardwareCost, Measured
from qfx.nn.cost.multiplications import Multiplications
from qfx.nn.layers import Weighted
from qfx.nn.model import graph_module, quantizers
from qfx.nn.quantizer import Quantizer

_STEEPNESS = 8
"""The power of the mean over the resources of a board: high, so that the scarcest decides, and not so high that another is forgotten."""

_PRECISION = 2.0**-8
"""To so many bits ``meet`` finds by how much words must be shorter."""

_SHORTEN = 32.0


@dataclass(frozen=True, slots=True)
class Status:
    """Where a model stands: by ``share`` of its budget (1.0 is all of it, of the scarcest part), ``shares`` by name, and the cost's ``weight`` in the
    loss at present."""

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

    ``Budget(ebops=4000)``, ``Budget(mean_weight_bits=3)``, ``Budget(board="ultra96v2", fps=2000, dsp=0.8)``: see ``Limits`` for the arguments.
    ``loss(qmodel)`` is added to the task's loss, once for each step of the optimizer:

        loss = F.cross_entropy(qmodel(x), y) + budget.loss(qmodel)

    It is the logarithm of the cost by the budget, times a weight that a controller steers, so that there is no factor to tune. ``meet(qmodel)`` at the
    end shortens words by the little that is left. ``every``: after so many steps a board's design is made anew; in between its cost follows the slopes
    that were measured with it. ``state_dict`` and ``load_state_dict`` let training be resumed.
    """

    def __init__(self, *, every: int = 100, controller: Controller | None = None, **limits: Any) -> None:
        self.limits = Limits(**limits)
        if every < 1:
            raise RecipeError(f"every is {every}", where="budget", remedy="give a number of steps from 1 on")
        self.every = every
        self.controller = Controller() if controller is None else controller
        self.status: Status | None = None
        self._model: nn.Module | None = None
        self._multiplications: Multiplications | None = None
        self._measured: Measured | None = None
        self._age = 0

    def loss(self, qmodel: nn.Module) -> Tensor:
        """What the budget adds to the loss of this step: a scalar that reaches the learned word lengths. Call it once a step.

        Raises RecipeError for a model without learned word lengths, and for a budget that no word length can meet; QfxError if every weight of a layer
        has come to zero bits.
        """
        self._meet_model(qmodel)
        if self._age >= self.every:
            self._look()
        self._age += 1
        shares = self._shares()
        error = (
            math.log(max(float(share.detach()) for share in shares.values())) if all(float(s) > 0 for s in shares.values()) else self._scarce(shares)
        )
        weight = self.controller.weight(error)
        self.status = Status(math.exp(error), {name: float(share.detach()) for name, share in shares.items()}, weight)
        self.controller = self.controller.step(error)
        stacked = torch.stack(list(shares.values())).clamp(min=1e-12)
        return weight * stacked.pow(_STEEPNESS).mean().log() / _STEEPNESS

    def measure(self, qmodel: nn.Module) -> Status:
        """Where the model stands, exactly: a board's design is made for it. Moves nothing."""
        self._meet_model(qmodel)
        self._look()
        with torch.no_grad():
            shares = {name: float(share) for name, share in self._shares().items()}
        share = max(shares.values())
        return Status(share, shares, self.controller.weight(math.log(max(share, 1e-12))))

    def meet(self, qmodel: nn.Module) -> Status:
        """Shorten learned words, all by the same fraction of a bit before rounding, by as little as brings the model within its budget. Does nothing to a
        model that is. Returns where it stands then. Raises RecipeError if even words of no bits are too many."""
        status = self.measure(qmodel)
        if status.met:
            return status
        learned = _learned(qmodel)
        start = [quantizer.frac_bits.detach().clone() for quantizer in learned]
        shorter, longer = _SHORTEN, 0.0  # at the one it is met, at the other it is not
        by = 0.25
        while by < _SHORTEN:
            if self._at(qmodel, learned, start, by).met:
                shorter = by
                break
            longer, by = by, 2 * by
        while shorter - longer > _PRECISION:
            middle = (shorter + longer) / 2
            shorter, longer = (middle, longer) if self._at(qmodel, learned, start, middle).met else (shorter, middle)
        return self._at(qmodel, learned, start, shorter)

    def state_dict(self) -> dict[str, Any]:
        """The controller's state, as plain data."""
        return {"controller": self.controller.state(), "age": self._age}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken. A board's design is made anew at the next step."""
        self.controller = self.controller.resumed(state["controller"])
        self._measured = None
        self._model = None

    # ---- costs ----

    def _meet_model(self, qmodel: nn.Module) -> None:
        model = graph_module(qmodel)
        if model is self._model:
            return
        learned = _learned(qmodel)
        if not learned:
            raise RecipeError(
                "no word length is learned, so that training cannot meet it", where="budget", remedy="set learn_width = true in the recipe's specs"
            )
        self._model, self._multiplications, self._measured = model, Multiplications(model), None
        self._refuse_hopeless(learned)
        self._look()

    def _look(self) -> None:
        """Measure what is not known of every step."""
        assert self._model is not None and self._multiplications is not None
        self._age = 0
        self._refuse_collapsed()
        self._multiplications.refresh()
        if self.limits.board is not None:
            self._measured = HardwareCost(self._model, self.limits.ample(), fps=self.limits.fps, clock_ns=self.limits.clock_ns).measure()

    def _shares(self) -> dict[str, Tensor]:
        """The parts of the budget, each as what is taken by what may be."""
        limits = self.limits
        assert self._model is not None and self._multiplications is not None
        if limits.ebops is not None:
            return {"bit operations": torch.stack(list(self._multiplications.bit_operations().values())).sum() / limits.ebops}
        if limits.board is None:
            bits, count = weight_bits(self._model)
            return {"weight bits": bits / (limits.weight_bits if limits.weight_bits is not None else (limits.mean_weight_bits or 1.0) * count)}
        assert self._measured is not None
        amounts, taken = limits.amounts(), self._measured.now()
        return {NAMES[field]: taken[index] / max(amounts[field], 1e-3) for index, field in enumerate(FIELDS)}

    @staticmethod
    def _scarce(shares: Mapping[str, Tensor]) -> float:
        return math.log(max(1e-12, *(float(share.detach()) for share in shares.values())))

    def _at(self, qmodel: nn.Module, learned: list[Quantizer], start: list[Tensor], by: float) -> Status:
        """Where the model stands with words shorter ``by`` so many bits."""
        with torch.no_grad():
            for quantizer, before in zip(learned, start, strict=True):
                quantizer.frac_bits.copy_(before - by)
        return self.measure(qmodel)

    def _refuse_hopeless(self, learned: list[Quantizer]) -> None:
        """Raise RecipeError if the shortest words are not short enough: of a bit on a board, of none else."""
        assert self._model is not None
        with _shortest(learned, 1 if self.limits.board is not None else 0):
            if self.limits.board is not None:
                try:
                    self._measured = HardwareCost(self._model, self.limits.ample(), fps=self.limits.fps, clock_ns=self.limits.clock_ns).measure()
                except ProjectError as error:
                    raise RecipeError(f"cannot be met, whatever is learned: {error.what}", where="budget", remedy=error.remedy) from error
            shares = {name: float(share.detach()) for name, share in self._shares().items()}
            fixed = self._largest_fixed()
        over = {name: share for name, share in shares.items() if share > 1}
        if over:
            told = ", ".join(f"{100 * share:.0f} % of the {name}" for name, share in over.items())
            raise RecipeError(
                f"cannot be met, not even with the shortest words: what is left takes {told}{fixed}",
                where="budget",
                remedy="allow more, or learn the word lengths of more tensors" if self.limits.board is None else "allow more, or take a larger board",
            )

    def _largest_fixed(self) -> str:
        """The layers that cost most with the words that are there now."""
        assert self._multiplications is not None
        if self.limits.board is not None:
            return ""
        costs = {name: float(cost.detach()) for name, cost in self._multiplications.bit_operations().items()}
        worst = [name for name, cost in sorted(costs.items(), key=lambda pair: -pair[1]) if cost > 0][:3]
        return f" (most of it in {', '.join(worst)})" if worst else ""

    def _refuse_collapsed(self) -> None:
        """Raise QfxError for a layer without a bit left: nothing would pass it, and no gradient."""
        assert self._model is not None
        for layer in self._model.modules():
            if isinstance(layer, Weighted) and layer.weight_cast.spec.learn_width and not bool((layer.weight_cast.bits().detach() > 0).any()):
                raise QfxError(
                    "every weight has come to zero bits, so that nothing passes the layer any more",
                    where=layer.name,
                    remedy="allow more, start from longer words, or keep this layer's word length: Override(name + '.weight', {'learn_width': False})",
                )


def _learned(qmodel: nn.Module) -> list[Quantizer]:
    return [quantizer for _, quantizer in quantizers(qmodel) if quantizer.spec.learn_width]


@contextlib.contextmanager
def _shortest(learned: list[Quantizer], bits: int) -> Iterator[None]:
    """In this context the learned words have so many bits."""
    kept = [quantizer.frac_bits.detach().clone() for quantizer in learned]
    try:
        with torch.no_grad():
            for quantizer in learned:
                quantizer.frac_bits.add_(bits - quantizer.bits().detach())
        yield
    finally:
        with torch.no_grad():
            for quantizer, before in zip(learned, kept, strict=True):
                quantizer.frac_bits.copy_(before)
