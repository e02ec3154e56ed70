"""Parameters sorted for the optimizer."""

from __future__ import annotations

from typing import Any

from torch import nn

from qfx.nn.model import quantized_parts
from qfx.nn.quantizer import Quantizer


def parameter_groups(qmodel: nn.Module, *, lr: float, binary_point_lr: float | None = None, weight_decay: float = 0.0) -> list[dict[str, Any]]:
    """Two groups for any torch optimizer: the network's own parameters, and the binary points (and learned word lengths).

    Binary points live on the scale of bits and must move by 0.5 to change a type, hence a rate of their own: ``binary_point_lr``, default
    ``10 * lr``. They never get weight decay. Every trainable parameter is in exactly one group. ``qmodel``: from ``qfx.quantize``, or a float module
    of which such ones are parts.

    >>> import torch, qfx
    >>> q = qfx.quantize(torch.nn.Linear(4, 2), torch.randn(8, 4))
    >>> optimizer = torch.optim.Adam(qfx.parameter_groups(q, lr=1e-3))
    """
    quantized_parts(qmodel)  # refuses what has none
    points = [p for q in qmodel.modules() if isinstance(q, Quantizer) for p in q.parameters(recurse=False) if p.requires_grad]
    known = {id(p) for p in points}
    own = [p for p in qmodel.parameters() if p.requires_grad and id(p) not in known]
    return [
        {"params": own, "lr": lr, "weight_decay": weight_decay},
        {"params": points, "lr": 10 * lr if binary_point_lr is None else binary_point_lr, "weight_decay": 0.0},
    ]
