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

    On the CPU the group of binary points asks for torch's ``fused`` step, which SGD, Adam, AdamW and Adagrad have and others leave alone: these are
    many parameters of one number, of which each costs more to call than to compute. (On a GPU torch takes them together anyway.) ``differentiable``
    optimizers do not go with it: take it out of the group for them.

    >>> import torch, qfx
    >>> q = qfx.quantize(torch.nn.Linear(4, 2), torch.randn(8, 4))
    >>> optimizer = torch.optim.Adam(qfx.parameter_groups(q, lr=1e-3))
    """
    quantized_parts(qmodel)  # refuses what has none
    points = [p for q in qmodel.modules() if isinstance(q, Quantizer) for p in q.parameters(recurse=False) if p.requires_grad]
    known = {id(p) for p in points}
    own = [p for p in qmodel.parameters() if p.requires_grad and id(p) not in known]
    of_points: dict[str, Any] = {"params": points, "lr": 10 * lr if binary_point_lr is None else binary_point_lr, "weight_decay": 0.0}
    if points and all(point.is_cpu for point in points):
        of_points["fused"] = True
    return [{"params": own, "lr": lr, "weight_decay": weight_decay}, of_points]
