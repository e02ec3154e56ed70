"""What a model takes of each part of a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from qfx.errors import ProjectError, QfxError, RecipeError
from qfx.export.to_graph import refuse_off
from qfx.hardware.board import Board
from qfx.hardware.cost.estimate import NAMES
from qfx.hardware.cost.resources import FIELDS
from qfx.hardware.folding.plan import Plan
from qfx.hardware.timing.fifo import Known
from qfx.hardware.unrolled import plan as unrolled
from qfx.nn.cost.cost import weight_bits
from qfx.nn.cost.hardware import HardwareCost, Line, UnrolledLine, line_of, movable, moved_points
from qfx.nn.cost.multiplications import Multiplications
from qfx.nn.model import QuantizedModel, quantizers
from qfx.nn.quantizer import Quantizer
from qfx.training.budget.limits import Limits

_NEXT_TO_NOTHING = 1e-12

_MUCH = 0.2
"""Of the longest words have changed by a bit, or of the bit operations."""

SPARED = 2
"""Bits of the longest words of a tensor below which the cost of a folded design does not push them: what they save there is little, and a word of one
bit, let alone of none, that a whole tensor goes through is not won back. ``meet`` goes there where nothing else is left."""

_ALL = 64.0
"""More bits than any word has."""

_MAY_VANISH = ("bias", "shift", "constant", "internal")
"""A network may be left without these."""


class Costs:
    """The costs of one model by one set of limits. ``age``: steps since what takes long was measured. ``state``: go on from what ``state()`` gave,
    with a model in the state that it had then.

    Raises RecipeError for a model without learned word lengths, and for limits that no word length can meet.
    """

    model: QuantizedModel
    limits: Limits
    quantizers: list[Quantizer]
    learned: list[Quantizer]
    multiplications: Multiplications
    age: int

    def __init__(self, model: QuantizedModel, limits: Limits, state: Mapping[str, Any] | None = None) -> None:
        self.model, self.limits = model, limits
        self.quantizers = [quantizer for _, quantizer in quantizers(model)]
        self.learned = [quantizer for quantizer in self.quantizers if quantizer.spec.learn_width]
        if not self.learned:
            raise RecipeError(
                "no word length is learned, so that training cannot meet it", where="budget", remedy="set learn_width = true in the recipe's specs"
            )
        self._refuse_collapsed()
        self.multiplications = Multiplications(model)
        self.line: Line | UnrolledLine | None = None
        self.age = 0
        self.known: Known = {}
        if state is not None:
            self._resume(state)
            return
        self._refuse_hopeless()
        self.look()

    def due(self, every: int) -> bool:
        """Whether to look again: after ``every`` steps, or after a quarter of them if the design has changed so that its slopes say little."""
        return self.age >= every or (self.line is not None and 4 * self.age >= every and self.line.changed() > _MUCH)

    def look(self) -> None:
        """Measure what is not known of every step. Raises QfxError for a layer whose words have all come to zero bits."""
        self.age = 0
        self._refuse_collapsed()
        self.multiplications.refresh()
        if self.limits.board is not None:
            self.line = self._hardware().measure(self.multiplications).line

    def state(self) -> dict[str, Any]:
        """What the next steps follow from besides the model, as plain data."""
        line = None if self.line is None else self.line.state()
        return {"age": self.age, "ranges": [widths.cpu() for widths in self.multiplications.ranges], "line": line}

    def _resume(self, state: Mapping[str, Any]) -> None:
        self.age = int(state["age"])
        self.multiplications.ranges = state["ranges"]
        if state["line"] is not None:
            self.line = line_of(state["line"], self.multiplications)

    @property
    def trained(self) -> bool:
        """Whether any word length is trained at present, none of them frozen otherwise."""
        return any(parameter.requires_grad for quantizer in self.learned for parameter in quantizer.parameters(recurse=False))

    def shares(self) -> dict[str, Tensor]:
        """The parts of the budget by name, each as what is taken by what may be; differentiable, and above 0."""
        if any(quantizer.off for quantizer in self.quantizers):
            refuse_off(self.model)
        if self.line is not None:
            return self._by_board(self.line.now(SPARED))
        return self._above_nothing(self._counted())

    def _counted(self) -> dict[str, Tensor]:
        limits = self.limits
        if limits.ebops is not None:
            return {"bit operations": torch.stack(list(self.multiplications.bit_operations().values())).sum() / limits.ebops}
        bits, count = weight_bits(self.model)
        return {"weight bits": bits / (limits.weight_bits or (limits.mean_weight_bits or 1.0) * count)}

    def _counted_anew(self) -> dict[str, float]:
        """With the ranges of now; those of the last look stay what the steps count with."""
        ranges = self.multiplications.ranges
        try:
            if self.limits.ebops is not None:
                self.multiplications.refresh()
            return {name: float(share) for name, share in self._above_nothing(self._counted()).items()}
        finally:
            self.multiplications.ranges = ranges

    def _by_board(self, taken: Tensor) -> dict[str, Tensor]:
        amounts = self.limits.amounts()
        return self._above_nothing({NAMES[field]: taken[index] / max(amounts[field], 1e-3) for index, field in enumerate(FIELDS)})

    @staticmethod
    def _above_nothing(shares: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: share.clamp(min=_NEXT_TO_NOTHING) for name, share in shares.items()}

    def numbers(self) -> dict[str, float]:
        """``shares`` as plain numbers."""
        with torch.no_grad():
            return {name: float(share) for name, share in self.shares().items()}

    # ---- other word lengths ----

    def with_steps(self, steps: Sequence[Tensor]) -> dict[str, float]:
        """The shares if the words of each learned quantizer had so many bits more, measured. The model stays as it is."""
        with moved_points(self.learned, steps), torch.no_grad():
            if self.limits.board is None:
                return self._counted_anew()
            return {name: float(share) for name, share in self._by_board(torch.tensor(self._hardware().taken())).items()}

    def take_steps(self, steps: Sequence[Tensor]) -> None:
        """Make the words of each learned quantizer so many bits longer."""
        with torch.no_grad():
            for quantizer, step in zip(self.learned, steps, strict=True):
                movable(quantizer).add_(step)

    def steps(self, by: float, least: int = 1) -> list[Tensor]:
        """The steps that make all words that are not pruned ``by`` bits longer, before they are rounded. Less than 0: all words shorter, but those
        keep ``least`` bits (or as many as they have) that a network cannot be left without."""
        found = []
        for quantizer in self.learned:
            lengths, before = quantizer.bits().detach(), movable(quantizer).detach()
            if by >= 0:
                found.append(torch.where(lengths > 0, by, torch.zeros_like(before)))
                continue
            last = torch.round(before) - (lengths - least)  # there a word has so many bits
            found.append(torch.where(self._kept(quantizer), torch.maximum(before + by, torch.minimum(last, before)), before + by) - before)
        return found

    def _kept(self, quantizer: Quantizer) -> Tensor:
        """Whose words keep a bit in any case: of weights the longest of each output; of activations the longest, on a board all that there are."""
        lengths = quantizer.bits().detach()
        if quantizer.channel_axis == 0 and lengths.dim():
            rows = lengths.reshape(lengths.shape[0], -1)
            kept = torch.zeros_like(rows).scatter_(1, rows.argmax(1, keepdim=True), 1.0).reshape(lengths.shape) > 0
        elif self.limits.board is None and lengths.dim():
            kept = (torch.arange(lengths.numel(), device=lengths.device) == lengths.argmax()).reshape(lengths.shape)
        else:
            kept = torch.ones_like(lengths, dtype=torch.bool)
        return kept & (lengths > 0)

    def plan(self) -> Plan | unrolled.Plan:
        """The design of the model as it is now. Raises ProjectError for an unrolled one that does not fit the board."""
        if self.limits.board is None:
            raise RecipeError("counts bits, not hardware: there is no design", where="budget", remedy="give board='ultra96v2' or another")
        return self._hardware(self.limits.whole).plan()

    def _hardware(self, unrolled_on: Board | None = None) -> HardwareCost:
        """What measures the design: the one that comes nearest to the limits, whether a model fits yet or not."""
        limits = self.limits
        if limits.style == "unrolled":
            return HardwareCost(self.model, unrolled_on or limits.ample(), clock_ns=limits.clock_ns, style=limits.style)
        allowed = None if limits.fps is None else limits.amounts()
        return HardwareCost(self.model, limits.whole, fps=limits.fps, clock_ns=limits.clock_ns, allowed=allowed, known=self.known)

    def limit(self, limits: Limits) -> None:
        """Count by other limits from now on. Raises RecipeError, and stays as it was, if no word length can meet them."""
        before, self.limits = self.limits, limits
        try:
            self._refuse_hopeless()
        except RecipeError:
            self.limits = before
            raise

    def longest(self) -> float:
        """Of all learned words."""
        return max(float(quantizer.bits().detach().amax()) for quantizer in self.learned)

    def _refuse_hopeless(self) -> None:
        """Raise RecipeError if the shortest words are not short enough; on a board, where none are that are some bits longer, either: what a search
        for a design finds need not get smaller with each bit, and a word of one bit has no place in a DSP block."""
        tried = [-_ALL, *(-float(bits) for bits in range(int(self.longest()) - 1, 0, -1) if self.limits.fps is not None)]
        found: list[tuple[float, dict[str, float]]] = []
        for by in tried:
            try:
                found.append((by, self.with_steps(self.steps(by))))
            except ProjectError as error:
                raise RecipeError(f"cannot be met, whatever is learned: {error.what}", where="budget", remedy=error.remedy) from error
            if max(found[-1][1].values()) <= 1.0:
                return
        by, shares = min(found, key=lambda pair: max(pair[1].values()))
        over = [f"{100 * share:.1f} % of the {name}" for name, share in shares.items() if share > 1]
        with moved_points(self.learned, self.steps(by)):
            named = self._costliest() if self.limits.ebops is not None else ""
        larger = "allow more, or learn the word lengths of more tensors" if self.limits.board is None else "allow more, or take a larger board"
        shortest = "the shortest words" if by == -_ALL else f"words that are {-by:g} bits shorter, the best that was found,"
        raise RecipeError(f"cannot be met: even with {shortest} it takes {', '.join(over)}{named}", where="budget", remedy=larger)

    def _costliest(self) -> str:
        with torch.no_grad():
            costs = {name: float(cost) for name, cost in self.multiplications.bit_operations().items()}
        worst = [name for name, cost in sorted(costs.items(), key=lambda pair: -pair[1]) if cost > 0][:3]
        return f", most of it in {', '.join(worst)}" if worst else ""

    def _refuse_collapsed(self) -> None:
        for quantizer in self.learned:
            role = quantizer.name.rpartition(".")[2]
            if role not in _MAY_VANISH and quantizer.word_length == 0:
                raise QfxError(
                    f"every {'weight' if role == 'weight' else 'number'} has come to zero bits, so that nothing passes any more",
                    where=quantizer.name,
                    remedy=f"allow more, start from longer words, or keep them: Override({quantizer.name!r}, {{'learn_width': False}})",
                )
