"""Other shapes for the same elements in the same order, and what changes nothing at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from qfx import operators as ops
from qfx.nn.call import Call, Family, Layers
from qfx.nn.clipped import Clipped
from qfx.nn.fixed_layer import FixedLayer, Steps, Traits
from qfx.nn.qtensor import QTensor


class QReshape(FixedLayer):
    """The same elements in the same order; ``shape`` leaves the batch out."""

    traits: ClassVar[Traits] = Traits(moves_only=True, keeps_grid=True, reads_uncast=False)

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: QTensor) -> QTensor:
        interval = x.interval if self.shape[0] == x.shape[1] else x.interval.hull
        return QTensor(x.tensor().reshape(-1, *self.shape), interval)

    def operators(self) -> Steps:
        return [("", ops.Reshape(self.shape))]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        x = sources[0]
        if x.channels == 1 or self.shape[0] == x.channels:
            return x
        repeat, rest = divmod(self.shape[0], x.channels)
        return x.at(torch.arange(x.channels).repeat_interleave(repeat)) if len(self.shape) == 1 and rest == 0 else x.pooled()

    def scales_channels(self, channels: int) -> bool:
        return self.shape[0] == channels or len(self.shape) == 1  # (C, ...) to (C, ...) or flat: each channel's numbers stay side by side


def _no_layer(call: Call) -> Layers:
    return []


class QDetach(FixedLayer):
    """The same values; no gradient goes back."""

    traits: ClassVar[Traits] = Traits(moves_only=True, keeps_grid=True, reads_uncast=False)

    def forward(self, x: QTensor) -> QTensor:
        return QTensor(x.tensor().detach(), x.interval)

    def operators(self) -> Steps:
        return []

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        return sources[0]

    def scales_channels(self, channels: int) -> bool:
        return True


def _detach(call: Call) -> Layers:
    return [QDetach()]


def _converted(call: Call) -> Layers:
    """A conversion that changes no number; one that could round is refused."""
    source, result = (call.traced.dtypes.get(node) for node in (call.inputs[0], call.node))
    if result not in (torch.float32, torch.float64, source):
        raise call.refuse(f"a conversion from {source} to {result}", "leave the dtype alone: casts decide what is rounded")
    return []


def _reshape(call: Call) -> Layers:
    if any(isinstance(argument, torch.dtype) for argument in (*call.node.args, *call.node.kwargs.values())):
        raise call.refuse("a view of the bits as another dtype", "leave the dtype alone")
    return [] if call.in_shape == call.out_shape else [QReshape(call.out_shape)]


FAMILY = Family(
    layers=(QReshape, QDetach),
    modules={nn.Flatten: _reshape, nn.Unflatten: _reshape, nn.Identity: _no_layer},
    functions=dict.fromkeys((torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze), ("input", _reshape)),
    methods={
        **dict.fromkeys(("flatten", "unflatten", "view", "reshape", "squeeze", "unsqueeze"), ("input", _reshape)),
        **dict.fromkeys(("contiguous", "clone", "cpu", "cuda"), ("input", _no_layer)),
        **dict.fromkeys(("float", "double", "to", "type", "type_as", "half", "bfloat16", "int", "long", "bool"), ("input", _converted)),
        "detach": ("input", _detach),
    },
)
