"""Axes in another order, the batch first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from qfx import operators as ops
from qfx.nn.call import Call, Family, Layers
from qfx.nn.clipped import Clipped
from qfx.nn.fixed_layer import FixedLayer, Steps, Traits
from qfx.nn.qtensor import QTensor


class QPermute(FixedLayer):
    """Axes permuted; ``perm`` counts the axes behind the batch from 0."""

    traits: ClassVar[Traits] = Traits(moves_only=True, keeps_grid=True, reads_uncast=False)

    def __init__(self, perm: tuple[int, ...]) -> None:
        super().__init__()
        self.perm = perm

    def forward(self, x: QTensor) -> QTensor:
        interval = x.interval if self.perm[0] == 0 else x.interval.hull
        return QTensor(x.tensor().permute(0, *(axis + 1 for axis in self.perm)), interval)

    def operators(self) -> Steps:
        return [("", ops.Transpose(self.perm))]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        return sources[0] if self.perm[0] == 0 else sources[0].pooled()

    def scales_channels(self, channels: int) -> bool:
        return self.perm[0] == 0


def _permute(call: Call) -> Layers:
    dims = call.get("dims")
    return _permutation(call, tuple(dims[0]) if len(dims) == 1 and not isinstance(dims[0], int) else tuple(dims))


def _transpose(call: Call) -> Layers:
    rank = len(call.in_shape) + 1
    perm = list(range(rank))
    a, b = call.get("dim0") % rank, call.get("dim1") % rank
    perm[a], perm[b] = perm[b], perm[a]
    return _permutation(call, tuple(perm))


def _movedim(call: Call) -> Layers:
    order = torch.empty(tuple(range(1, len(call.in_shape) + 2)), device="meta").movedim(call.get("source"), call.get("destination")).shape
    return _permutation(call, tuple(size - 1 for size in order))


def _permutation(call: Call, perm: tuple[int, ...]) -> Layers:
    perm = tuple(axis % len(perm) for axis in perm)
    if perm[0] != 0:
        raise call.refuse("moves the batch axis", "keep the batch first")
    return [QPermute(tuple(axis - 1 for axis in perm[1:]))]


FAMILY = Family(
    layers=(QPermute,),
    functions={
        torch.permute: ("input *dims", _permute),
        **dict.fromkeys((torch.transpose, torch.swapdims), ("input dim0 dim1", _transpose)),
        torch.swapaxes: ("input dim0 dim1", _transpose),
        **dict.fromkeys((torch.movedim, torch.moveaxis), ("input source destination", _movedim)),
    },
    methods={
        "permute": ("input *dims", _permute),
        **dict.fromkeys(("transpose", "swapdims", "swapaxes"), ("input dim0 dim1", _transpose)),
        **dict.fromkeys(("movedim", "moveaxis"), ("input source destination", _movedim)),
    },
)
