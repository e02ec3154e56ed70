"""The word lengths nearest to those that were learned with which a model keeps within its budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from qfx.nn.cost.hardware import movable
from qfx.training.budget.costs import SPARED, Costs

_PRECISION = 2.0**-8
"""To so many bits it is found by how much words must be shorter."""

_FIRST, _LAST, _STRIDE = 0.25, 64.0, 1.0
"""What is tried first, how far it goes, and by how much at most it goes on where a cost need not fall with each bit."""

_TRIES = 32

Steps = list[Tensor]


def closest(costs: Costs, longest: float) -> Steps:
    """The steps (see ``Costs.steps``) from ``longest`` bits longer down to where every share is at most 1, the first that is found by halving.

    Words that are rounded alike get shorter together, at once; so what shortens between the last step that is too long and the first that is not is
    taken quantizer by quantizer, in the order of the network, and within one position by position: as few as will do.
    """

    def met(steps: Sequence[Tensor]) -> bool:
        return all(share <= 1.0 for share in costs.with_steps(steps).values())

    if longest > 0 and met(costs.steps(longest)):
        return costs.steps(longest)
    longer, shorter = (longest, 0.0) if longest > 0 else (0.0, -_FIRST)
    folded = costs.limits.board is not None and costs.limits.style != "unrolled"
    last, stride = (costs.longest(), _STRIDE) if costs.limits.board is not None else (_LAST, _LAST)
    least = SPARED if folded and met(costs.steps(-last, SPARED)) else 1
    while shorter > -last and not met(costs.steps(shorter, least)):
        longer, shorter = shorter, shorter - min(-shorter, stride) if shorter < 0 else -_FIRST
    while longer - shorter > _PRECISION:
        middle = (shorter + longer) / 2
        longer, shorter = (longer, middle) if met(costs.steps(middle, least)) else (middle, shorter)
    before, after = costs.steps(longer, least), costs.steps(shorter, least)
    whole = _fewest(len(before), lambda count: met([*after[:count], *before[count:]]))
    if whole == 0:
        return before
    index = whole - 1

    def partly(count: int) -> Tensor:
        first = torch.arange(before[index].numel(), device=before[index].device).reshape(before[index].shape) < count
        return torch.where(first, after[index], before[index])

    def mixed(count: int) -> Steps:
        return [*after[:index], partly(count), *before[whole:]]

    return mixed(_fewest(before[index].numel(), lambda count: met(mixed(count))))


def filled(costs: Costs, steps: Steps, enough: float) -> Steps:
    """The steps with words of single quantizers longer, bit by bit, those first that are nearest to the next, where the budget leaves room for them,
    until ``enough`` of it is used or no more is found; on a board after so many designs. One step for all words may be much at once."""
    share, tries = max(costs.with_steps(steps).values()), 0
    longer = True
    while longer:
        longer = False
        for index in sorted(range(len(steps)), key=lambda index: _to_longer(costs, index, steps[index])):
            if share >= enough or (costs.limits.board is not None and tries >= _TRIES):
                return steps
            more = [*steps]
            more[index] = steps[index] + torch.where(costs.learned[index].bits().detach() > 0, 1.0, 0.0)
            found, tries = max(costs.with_steps(more).values()), tries + 1
            if share < found <= 1.0:
                steps, share, longer = more, found, True
    return steps


def _to_longer(costs: Costs, index: int, step: Tensor) -> float:
    """How far the quantizer's words are from the next bit, on average."""
    place = movable(costs.learned[index]).detach() + step
    return float((torch.round(place) - place).mean())


def _fewest(most: int, enough: Callable[[int], bool]) -> int:
    """The least number up to ``most`` that is enough, by halving; ``most`` is taken to be."""
    least = 0
    while least < most:
        middle = (least + most) // 2
        least, most = (least, middle) if enough(middle) else (middle + 1, most)
    return most
