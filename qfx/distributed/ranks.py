"""``Ranks``: what the processes of a distributed training agree on, each having seen its own part of the data."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from qfx.errors import DataError, UnsupportedError


class Moments(NamedTuple):
    """Mean and biased variance per channel (float64) of so many numbers each."""

    mean: Tensor
    variance: Tensor
    numbers: int


class Ranks:
    """The processes of a group. Every method is collective: all of them call it, in the same order; all get the same, to the bit.

    Sums are added up in the order of the ranks, whatever the backend's algorithm is. A copy of a module, and one that was pickled, belongs to no
    group: in the place of a copy of this stands None.
    """

    size: int

    def __init__(self, group: Any = None) -> None:
        self.group = group
        self.size = dist.get_world_size(group)

    def parts(self, x: Tensor) -> list[Tensor]:
        """The tensor of each rank; all have the same shape and dtype."""
        found = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(self.size)]
        dist.all_gather(found, x.detach().contiguous(), group=self.group)
        return found

    def sum(self, x: Tensor) -> Tensor:
        total, *others = self.parts(x)
        for other in others:
            total += other
        return total

    def least(self, x: Tensor) -> Tensor:
        """Elementwise; NaN of any rank shows as NaN."""
        return torch.stack(self.parts(x)).amin(0)

    def greatest(self, x: Tensor) -> Tensor:
        """Elementwise; NaN of any rank shows as NaN."""
        return torch.stack(self.parts(x)).amax(0)

    def count(self, number: int, device: torch.device | None = None) -> int:
        return int(self.sum(torch.tensor(number, dtype=torch.int64, device=device)))

    def moments(self, own: Moments) -> Moments:
        """Those of the numbers of all ranks (Chan et al., "Updating formulae and a pairwise algorithm for computing sample variances", 1979)."""
        count = torch.full((1,), float(own.numbers), dtype=torch.float64, device=own.mean.device)
        rows = torch.stack(self.parts(torch.cat([count, own.mean, own.variance])))
        channels = own.mean.numel()
        counts, means, variances = rows[:, :1], rows[:, 1 : channels + 1], rows[:, channels + 1 :]
        total = counts.sum(0)
        mean = (counts * means).sum(0) / total
        variance = (counts * (variances + (means - mean).square())).sum(0) / total
        return Moments(mean, variance, int(total))

    def agree(self, error: DataError | None) -> None:
        """Raises DataError on every rank if there is one on any, so that none waits for another that is gone."""
        told: list[Any] = [None] * self.size
        dist.all_gather_object(told, None if error is None else (error.what, error.where, error.remedy), group=self.group)
        if error is not None:
            raise error
        for rank, other in enumerate(told):
            if other is not None:
                what, where, remedy = other
                raise DataError(f"on rank {rank}: {what}", where=where, remedy=remedy)

    def objects(self, own: Any) -> list[Any]:
        """The plain data of each rank."""
        told: list[Any] = [None] * self.size
        dist.all_gather_object(told, own, group=self.group)
        return told

    def take_first(self, x: Tensor) -> None:
        """Overwrite ``x`` by that of the group's first rank."""
        with torch.no_grad():
            x.copy_(self.parts(x)[0])

    def average_gradient(self, parameter: Tensor) -> None:
        """Replace the gradient of a parameter by the mean of those of all ranks."""
        if parameter.grad is not None:
            parameter.grad.copy_(self.sum(parameter.grad) / self.size)

    def __deepcopy__(self, memo: object) -> None:
        return None

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()


def other_processes() -> bool:
    """Whether this process is one of several of a distributed run."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def refuse_shards(model: nn.Module, where: str, remedy: str) -> None:
    """Raises UnsupportedError, naming the first parameter of which this process has only a part."""
    for name, parameter in model.named_parameters():
        if type(parameter).__name__ == "DTensor":  # by name: the class is slow to import
            raise UnsupportedError(f"{name} is sharded: each process has a part of it", where=where, remedy=remedy)
