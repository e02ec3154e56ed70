"""What a model takes of each part of a budget."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from qfx.errors import ProjectError, QfxError, RecipeError
from qfx.hardware.cost.estimate import NAMES
from qfx.hardware.cost.resources import FIELDS
from qfx.nn.cost.cost import weight_bits
from qfx.nn.cost.hardware import HardwareCost, Measured, MeasuredUnrolled, moved_points
from qfx.nn.cost.multiplications import Multiplications
from qfx.nn.layers import Weighted
from qfx.nn.model import QuantizedModel, quantizers
from qfx.training.budget.limits import Limits

_NEXT_TO_NOTHING = 1e-12


class Costs:
    """The costs of one model by one set of limits. ``age``: steps since what takes long was measured.

    Raises RecipeError for a model without learned word lengths, and for limits that no word length can meet.
    """

    def __init__(self, model: QuantizedModel, limits: Limits) -> None:
        self.model, self.limits = model, limits
        self.learned = [quantizer for _, quantizer in quantizers(model) if quantizer.spec.learn_width]
        if not self.learned:
            raise RecipeError(
                "no word length is learned, so that training cannot meet it", where="budget", remedy="set learn_width = true in the recipe's specs"
            )
        self.multiplications = Multiplications(model)
        self.measured: Measured | MeasuredUnrolled | None = None
        self.age = 0
        self._refuse_hopeless()
        self.look()

    def look(self) -> None:
        """Measure what is not known of every step. Raises QfxError for a layer whose weights have all come to zero bits."""
        self.age = 0
        self._refuse_collapsed()
        self.multiplications.refresh()
        if self.limits.board is not None:
            self.measured = self._hardware()

    def shares(self) -> dict[str, Tensor]:
        """The parts of the budget by name, each as what is taken by what may be; differentiable, and above 0."""
        limits, measured = self.limits, self.measured
        if limits.ebops is not None:
            found = {"bit operations": torch.stack(list(self.multiplications.bit_operations().values())).sum() / limits.ebops}
        elif measured is not None:
            amounts, taken = limits.amounts(), measured.now()
            found = {NAMES[field]: taken[index] / max(amounts[field], 1e-3) for index, field in enumerate(FIELDS)}
        else:
            bits, count = weight_bits(self.model)
            found = {"weight bits": bits / (limits.weight_bits or (limits.mean_weight_bits or 1.0) * count)}
        return {name: share.clamp(min=_NEXT_TO_NOTHING) for name, share in found.items()}

    def numbers(self) -> dict[str, float]:
        """``shares`` as plain numbers."""
        with torch.no_grad():
            return {name: float(share) for name, share in self.shares().items()}

    @contextlib.contextmanager
    def shorter(self, by: float | None) -> Iterator[Mapping[str, float]]:
        """In this context the learned words are ``by`` so many bits shorter before rounding (None: as short as they can be: of a bit on a board, of
        none else; less than 0: those that are not pruned are longer); gives the shares then."""
        before, age = self.measured, self.age
        try:
            with moved_points(self.learned, [-step for step in self._steps(by)]):
                if self.limits.board is not None:
                    self.measured = self._hardware()
                yield self.numbers()
        finally:
            self.measured, self.age = before, age

    def shorten(self, by: float | None) -> None:
        """As in ``shorter``, for good."""
        with torch.no_grad():
            for quantizer, step in zip(self.learned, self._steps(by), strict=True):
                quantizer.frac_bits.sub_(step)

    def _steps(self, by: float | None) -> list[Tensor | float]:
        least = 1 if self.limits.board is not None else 0
        lengths = [quantizer.bits().detach() for quantizer in self.learned]
        if by is None:
            return [length - least for length in lengths]
        return [torch.where(length > 0, by, 0.0) if by < 0 else by for length in lengths]

    def _hardware(self) -> Measured | MeasuredUnrolled:
        limits = self.limits
        return HardwareCost(self.model, limits.ample(), fps=limits.fps, clock_ns=limits.clock_ns, style=limits.style).measure()

    def _refuse_hopeless(self) -> None:
        """Raise RecipeError if the shortest words are not short enough."""
        try:
            with self.shorter(None) as shares:
                over = [f"{100 * share:.0f} % of the {name}" for name, share in shares.items() if share > 1]
                named = self._costliest() if self.limits.ebops is not None else ""
        except ProjectError as error:
            raise RecipeError(f"cannot be met, whatever is learned: {error.what}", where="budget", remedy=error.remedy) from error
        if over:
            larger = "allow more, or learn the word lengths of more tensors" if self.limits.board is None else "allow more, or take a larger board"
            raise RecipeError(f"cannot be met: even with the shortest words it takes {', '.join(over)}{named}", where="budget", remedy=larger)

    def _costliest(self) -> str:
        with torch.no_grad():
            costs = {name: float(cost) for name, cost in self.multiplications.bit_operations().items()}
        worst = [name for name, cost in sorted(costs.items(), key=lambda pair: -pair[1]) if cost > 0][:3]
        return f", most of it in {', '.join(worst)}" if worst else ""

    def _refuse_collapsed(self) -> None:
        for layer in self.model.modules():
            if isinstance(layer, Weighted) and layer.weight_cast.spec.learn_width and not bool((layer.weight_cast.bits().detach() > 0).any()):
                raise QfxError(
                    "every weight has come to zero bits, so that nothing passes the layer any more",
                    where=layer.name,
                    remedy=f"allow more, start from longer words, or keep its words: Override('{layer.name}.weight', {{'learn_width': False}})",
                )
