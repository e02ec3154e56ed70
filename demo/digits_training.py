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

POINTS_STAY, STATISTICS_STAY = 0.6, 0.9
"""Of the steps in fixed point: from when on binary points, and BatchNorm's statistics, stay where they are."""

TEACHING = 0.5
"""Of the loss in fixed point: what the float network says; the rest are the labels."""

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


def train_fixed(qmodel: nn.Module, teacher: nn.Module, data: Digits, *, epochs: int, seed: int, on_epoch: Epoch) -> History:
    """Train a rung of ``qfx.ladder``: the same loop, with what makes it end well at few bits (docs/training.md).

    Binary points are parameters with a learning rate of their own; those that flip come to rest, and all stay late in training, as BatchNorm's
    statistics do. The float network ``teacher`` says which of the wrong digits are nearly right.
    """
    settling, distillation = qfx.Settling(qmodel), qfx.Distillation(teacher)

    def taught(images: Tensor, scores: Tensor, loss: Tensor) -> Tensor:
        return (1 - TEACHING) * loss + TEACHING * distillation(images, scores)

    def after_step(part: float) -> None:
        settling.step()
        if part >= POINTS_STAY:
            qfx.freeze(qmodel, statistics=part >= STATISTICS_STAY)

    groups = qfx.parameter_groups(qmodel, lr=FINE_TUNING_RATE, binary_point_lr=BINARY_POINT_RATE)
    points = {name: quantizer.frac_bits for name, quantizer in qfx.quantizers(qmodel) if quantizer.frac_bits.requires_grad}
    return _train(qmodel, groups, points, data, epochs, seed, on_epoch, taught, after_step)


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
    taught: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda images, scores, loss: loss,
    after_step: Callable[[float], None] = lambda part: None,
) -> History:
    """``taught`` makes of images, scores and their cross-entropy what is minimized; ``after_step`` gets the part of the steps that is done."""
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
            images = data.train.images[batch]
            scores = model(images)
            loss = F.cross_entropy(scores, data.train.labels[batch])
            taught(images, scores, loss).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            after_step(len(trail) / (epochs * steps))
            total += loss.item()
            trail.append(_snapshot(points))
        losses.append(total / steps)
        accuracies.append(accuracy(model, data.validation))
        on_epoch()
    return History(tuple(losses), tuple(accuracies), dict(zip(points, zip(*trail, strict=True), strict=True)), steps)


def _snapshot(points: dict[str, Tensor]) -> tuple[float, ...]:
    return tuple(torch.stack([point.detach() for point in points.values()]).tolist()) if points else ()
