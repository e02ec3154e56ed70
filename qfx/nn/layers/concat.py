"""Values joined along the channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from qfx import operators as ops
from qfx.capture.refusals import limits
from qfx.fixed.arith import channelwise
from qfx.nn.call import Call, Family, Layers
from qfx.nn.clipped import Clipped
from qfx.nn.fixed_layer import FixedLayer, Steps, Traits
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
    dim = call.get("dim", call.arguments.get("axis", 0))
    if dim % (len(call.in_shape) + 1) != 1:
        raise call.refuse(f"concatenation along axis {dim}", limits.joined_elsewhere(len(call.inputs), dim % (len(call.in_shape) + 1)))
    return [QConcat()] if len(call.inputs) > 1 else []


FAMILY = Family(
    layers=(QConcat,),
    functions=dict.fromkeys((torch.cat, torch.concat, torch.concatenate), ("tensors dim", _concat)),
)
