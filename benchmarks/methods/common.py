"""Training and judging, alike for all experiments: Adam, a rate that falls along a cosine, fixed seeds."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from benchmarks.task_data import Data, clothes

JUDGED = 2000
"""Images that are judged."""

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of inputs, results and labels."""


def clothes_of(count: int) -> Data:
    """Fashion-MNIST: the first ``count`` images to train with, the first JUDGED to judge; of 0..1."""
    data = clothes()
    return Data((data.train_x[:count] + 1) / 2, data.train_y[:count], (data.test_x[:JUDGED] + 1) / 2, data.test_y[:JUDGED])


def cross_entropy(x: Tensor, found: Tensor, wanted: Tensor) -> Tensor:
    return F.cross_entropy(found, wanted)


def train(
    model: nn.Module,
    data: Data,
    epochs: float,
    rate: float,
    *,
    loss: Loss = cross_entropy,
    batch: int = 128,
    seed: int = 1,
    before: Callable[[int], None] | None = None,
) -> nn.Module:
    """``before`` is called with the number of each step before it."""
    quantized = type(model).__name__ == "QuantizedModel"
    optimizer = torch.optim.Adam(qfx.parameter_groups(model, lr=rate) if quantized else model.parameters(), rate)
    steps = int(epochs * (len(data.train_x) // batch))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    generator = torch.Generator().manual_seed(seed)
    order: list[Tensor] = []
    model.train()
    for step in range(steps):
        if not order:
            order = list(torch.split(torch.randperm(len(data.train_x), generator=generator), batch))[: len(data.train_x) // batch]
        if before is not None:
            before(step)
        places = order.pop()
        x, y = data.train_x[places], data.train_y[places]
        optimizer.zero_grad()
        loss(x, model(x), y).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def accuracy(model: nn.Module, data: Data) -> float:
    """Top-1 in percent."""
    model.eval()
    with torch.no_grad():
        parts = zip(torch.split(data.test_x, 500), torch.split(data.test_y, 500), strict=True)
        right = sum(int((model(x).argmax(1) == y).sum()) for x, y in parts)
    return 100 * right / len(data.test_x)
