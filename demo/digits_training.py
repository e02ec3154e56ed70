"""Training, the same for the float network and for its fixed-point forms, and a record of what happened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from digits_data import Digits, Part
from torch import Tensor, nn

import qfx

BATCH = 50
LEARNING_RATE = 3e-3
FINE_TUNING_RATE = 1e-3
BINARY_POINT_RATE = 2e-2
"""Bits per step, at most: what Adam moves a binary point by."""

Epoch = Callable[[], None]


@dataclass(frozen=True, slots=True)
class History:
    """One entry per epoch: mean cross-entropy in training (nats), validation accuracy after it (percent).

    ``binary_points``: by quantizer, the real-valued number of fractional bits before the first step and after every step; empty for a float network.
    """

    loss: tuple[float, ...]
    accuracy: tuple[float, ...]
    binary_points: dict[str, tuple[float, ...]]
    steps_per_epoch: int


def train_float(model: nn.Module, data: Digits, *, epochs: int, seed: int, on_epoch: Epoch) -> History:
    """Train in float32 with Adam and a cosine schedule. ``on_epoch`` is called after every epoch."""
    return _train(model, [{"params": list(model.parameters()), "lr": LEARNING_RATE}], {}, data, epochs, seed, on_epoch)


def train_fixed(qmodel: nn.Module, data: Digits, *, epochs: int, seed: int, on_epoch: Epoch) -> History:
    """Train a network from ``qfx.quantize``: the same loop; its binary points are parameters with a learning rate of their own."""
    groups = qfx.parameter_groups(qmodel, lr=FINE_TUNING_RATE, binary_point_lr=BINARY_POINT_RATE)
    points = {name: quantizer.frac_bits for name, quantizer in qfx.quantizers(qmodel) if quantizer.frac_bits.requires_grad}
    return _train(qmodel, groups, points, data, epochs, seed, on_epoch)


def accuracy(model: nn.Module, part: Part) -> float:
    """Percent of the images whose greatest score is that of their label."""
    model.eval()
    with torch.no_grad():
        return 100.0 * float((model(part.images).argmax(1) == part.labels).float().mean())


def _train(
    model: nn.Module,
    groups: list[dict[str, Any]],
    points: dict[str, Tensor],
    data: Digits,
    epochs: int,
    seed: int,
    on_epoch: Epoch,
) -> History:
    generator = torch.Generator().manual_seed(seed)
    steps = len(data.train) // BATCH
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    losses, accuracies, trail = [], [], [_snapshot(points)]
    for _ in range(epochs):
        model.train()
        total = 0.0
        for batch in torch.split(torch.randperm(len(data.train), generator=generator), BATCH):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(data.train.images[batch]), data.train.labels[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += loss.item()
            trail.append(_snapshot(points))
        losses.append(total / steps)
        accuracies.append(accuracy(model, data.validation))
        on_epoch()
    return History(tuple(losses), tuple(accuracies), dict(zip(points, zip(*trail, strict=True), strict=True)), steps)


def _snapshot(points: dict[str, Tensor]) -> tuple[float, ...]:
    return tuple(torch.stack([point.detach() for point in points.values()]).tolist()) if points else ()
