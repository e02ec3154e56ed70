"""Which state of a model that is tuned is kept: the best on the samples that are held out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class BestState:
    """How far tuning has come: the loss ``before``, the ``losses`` after each epoch, and the ``values`` of the parameters after the ``best`` one (0:
    those before)."""

    before: float
    values: list[Tensor]
    best: int = 0
    losses: list[float] = field(default_factory=list)

    @classmethod
    def started(cls, loss: float, parameters: Sequence[Tensor]) -> BestState:
        """Before the first epoch."""
        return cls(loss, _copies(parameters))

    @property
    def least(self) -> float:
        """The loss of the best state."""
        return min([self.before, *self.losses])

    def add(self, loss: float, parameters: Sequence[Tensor]) -> None:
        """The state after one more epoch."""
        if loss < self.least:
            self.best, self.values = len(self.losses) + 1, _copies(parameters)
        self.losses.append(loss)

    def settle(self, parameters: Sequence[Tensor]) -> None:
        """Give the parameters the values of the best state."""
        with torch.no_grad():
            for parameter, value in zip(parameters, self.values, strict=True):
                parameter.copy_(value)

    def tensors(self) -> dict[str, Tensor]:
        """All that going on takes."""
        losses = torch.tensor([self.before, *self.losses], dtype=torch.float64)
        return {"losses": losses, "best": torch.tensor(self.best), **numbered("best", self.values)}

    @classmethod
    def resumed(cls, kept: Mapping[str, Tensor]) -> BestState:
        """As it was when it gave ``tensors``."""
        before, *losses = kept["losses"].tolist()
        return cls(before, collected("best", kept), int(kept["best"]), losses)


def numbered(name: str, tensors: Iterable[Tensor]) -> dict[str, Tensor]:
    """Tensors by the keys under which they are kept."""
    return {f"{name}.{index}": tensor for index, tensor in enumerate(tensors)}


def collected(name: str, kept: Mapping[str, Tensor]) -> list[Tensor]:
    """Copies of the tensors that ``numbered`` named."""
    count = sum(key.startswith(f"{name}.") for key in kept)
    return [kept[f"{name}.{index}"].clone() for index in range(count)]


def _copies(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in parameters]
