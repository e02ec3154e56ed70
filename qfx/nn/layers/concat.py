"""Values joined along the channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from qfx import operators as ops
from qfx.fixed.arith import channelwise
from qfx.nn.call import Call, Family, Layers, Part
from qfx.nn.clipped import Clipped
from qfx.nn.fixed_layer import FixedLayer, Steps, Traits
from qfx.nn.layers.permute import QPermute
from qfx.nn.layers.reshape import QReshape
from qfx.nn.qtensor import QTensor


class QConcat(FixedLayer):
    """Joined along the channels, on the finest of the grids; exact."""

    traits = Traits(moves_only=False, keeps_grid=True, reads_uncast=False)

    def forward(self, *parts: QTensor) -> QTensor:
        values = [part.tensor() for part in parts]
        interval = channelwise(bound for part in parts for bound in part.interval.spread(part.shape[1]))
        dtype = torch.float64 if any(value.dtype is torch.float64 for value in values) else torch.float32
        return QTensor(torch.cat([value.to(dtype) for value in values], 1), interval)

    def operators(self) -> Steps:
        return [("", ops.Concat())]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        parts = sources if all(part.channels > 1 for part in sources) else [part.pooled() for part in sources]
        joined = Clipped(*(torch.cat([getattr(part, name) for part in parts]) for name in ("mean", "std", "low", "high")))
        return joined if parts is sources else joined.pooled()

    def scales_channels(self, channels: int) -> bool:
        return False


def _concat(call: Call) -> Layers:
    dim = call.get("dim", call.arguments.get("axis", 0)) % (len(call.in_shape) + 1)
    if dim == 0:
        raise call.refuse("concatenation along axis 0", "concatenate along another axis: that is the batch")
    if len(call.inputs) < 2:
        return []
    return [QConcat()] if dim == 1 else _joined([*range(len(call.inputs))], dim - 1, len(call.in_shape), ())


def _stack(call: Call) -> Layers:
    rank = len(call.in_shape) + 1
    dim = call.get("dim", 0) % (rank + 1)
    if dim == 0:
        raise call.refuse("stacking along the batch", "stack along another axis (dim=1)")
    apart = (*call.in_shape[: dim - 1], 1, *call.in_shape[dim - 1 :])
    apart_parts = [Part(QReshape(apart), (index,), f"_{index}") for index in range(len(call.inputs))]
    if len(apart_parts) == 1:
        return [QReshape(apart)]
    if dim == 1:
        return [*apart_parts, Part(QConcat(), tuple(apart_parts))]
    return [*apart_parts, *_joined(apart_parts, dim - 1, rank, ("turned",))]


def _joined(sources: Sequence[int | Part], axis: int, rank: int, words: tuple[str, ...]) -> list[Part]:
    """``sources`` joined along ``axis``, which trades places with the channels before and after."""
    order = [*range(rank)]
    order[0], order[axis] = axis, 0
    label = "_".join(("", *words, "in"))
    turned = [Part(QPermute(tuple(order)), (source,), f"{label}_{index}") for index, source in enumerate(sources)]
    joined = Part(QConcat(), tuple(turned), "_joined")
    return [*turned, joined, Part(QPermute(tuple(order)), (joined,))]


FAMILY = Family(
    layers=(QConcat, QReshape, QPermute),
    functions={
        **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), ("tensors dim", _concat)),
        torch.stack: ("tensors dim", _stack),
    },
)
