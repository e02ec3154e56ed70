"""Adam with a step size for each element, and the cosine that its steps fall by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from qfx.ptq.tuning.kept import collected, numbered


def cosine(done: float) -> float:
    """From 1 to 0, when a share ``done`` of all steps is over; a half in the mean."""
    return 0.5 * (1 + math.cos(math.pi * done))


class ElementwiseAdam:
    """``torch.optim.Adam``, which has one step size a tensor, with one for each element: channels of one weight have units of their own.

    torch's moves numbers that start at 0 before each step, so that afterwards they are the step itself, in shares of the step sizes.
    """

    parameters: tuple[Tensor, ...]
    sizes: tuple[Tensor, ...]

    def __init__(self, parameters: Sequence[Tensor], sizes: Sequence[Tensor]) -> None:
        """``sizes``: the size of a whole step, for each parameter a number or one for each element."""
        self.parameters, self.sizes = tuple(parameters), tuple(sizes)
        self._moves = [torch.zeros_like(parameter, requires_grad=False) for parameter in self.parameters]
        self._adam = torch.optim.Adam(self._moves, eps=1e-12)

    @classmethod
    def resumed(cls, parameters: Sequence[Tensor], kept: Mapping[str, Tensor]) -> ElementwiseAdam:
        """As it was when it gave ``tensors``."""
        adam = cls(parameters, collected("size", kept))
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in kept.items():
            part, _, rest = key.partition(".")
            if part == "adam":
                index, _, name = rest.partition(".")
                state.setdefault(int(index), {})[name] = value.clone()
        adam._adam.load_state_dict({**adam._adam.state_dict(), "state": state})
        return adam

    def tensors(self) -> dict[str, Tensor]:
        """All that going on takes, beside the parameters themselves."""
        state = self._adam.state_dict()["state"]
        return numbered("size", self.sizes) | {f"adam.{index}.{name}": value for index in state for name, value in state[index].items()}

    def clear(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def step(self, share: float) -> None:
        """Move by at most about ``share`` of the step sizes."""
        for group in self._adam.param_groups:
            group["lr"] = share
        for parameter, move in zip(self.parameters, self._moves, strict=True):
            move.grad = parameter.grad
        with torch.no_grad():
            self._adam.step()
            for parameter, move, size in zip(self.parameters, self._moves, self.sizes, strict=True):
                parameter.addcmul_(move, size.to(parameter.dtype))
                move.zero_()
