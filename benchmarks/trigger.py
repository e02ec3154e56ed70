"""``python -m benchmarks.trigger``: 16-64-32-32-5 with learned word lengths, fully unrolled in so many LUTs, beside its 8-bit twin.

Five classes made of spoken digits (0 and 1, 2 and 3, and so on), by 16 features of each recording. For each seed three networks are trained in float,
and from the first of them two in fixed point, in the same way (as many epochs, the same rates, a little noise on inputs, distillation from the
three): one with 8 bits everywhere, and one whose word lengths are learned under a budget of LUTs. The budget is reached after half of the epochs;
after three quarters the word lengths are frozen, and the weights settle. What is judged is the network after the last epoch: no epoch is chosen.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import math
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from benchmarks.fronts import BOARD, Found, built, five_classes, graph_of, mlp, operations
from benchmarks.task_data import DATA, Data
from benchmarks.timing import machine
from qfx import Recipe, Spec

SIZES = (16, 64, 32, 32, 5)
BATCH, RATE, NOISE, TEACHERS = 128, 4e-3, 0.1, 3
REACHED, FROZEN = 0.5, 0.75
"""Of the epochs: when the budget is as small as it gets, when word lengths are frozen."""

WEIGHT = Spec(width=6, granularity="element", learn_width=True, o="AP_WRAP")  # type: ignore[arg-type]
ACTIVATION = Spec(width=7, granularity="element", learn_width=True)
LEARNED = Recipe(input=ACTIVATION, weight=WEIGHT, bias=Spec(width=8), activation=ACTIVATION, output=Spec(width=16))


class Mean(nn.Module):
    """Several networks, which vote with their probabilities: logarithms of the mean."""

    def __init__(self, parts: list[nn.Sequential]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([F.log_softmax(part(x), 1) for part in self.parts]).logsumexp(0) - math.log(len(self.parts))


def fit(model: nn.Module, data: Data, epochs: int, optimizer: torch.optim.Optimizer, loss_of: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    """Train for so many epochs, at a rate that falls along a cosine. ``loss_of``: inputs, classes, and the part of the steps that are done."""
    steps = epochs * (len(data.train_x) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.01 + 0.99 * (1 + math.cos(math.pi * min(step / steps, 1))) / 2)
    done = itertools.count()
    for _ in range(epochs):
        model.train()
        for places in torch.split(torch.randperm(len(data.train_x)), BATCH):
            if len(places) < BATCH:
                continue
            x = data.train_x[places]
            loss = loss_of(x + NOISE * torch.randn_like(x), data.train_y[places], next(done) / steps)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
            optimizer.step()
            schedule.step()
    model.eval()


def in_float(data: Data, epochs: int) -> nn.Sequential:
    model = mlp(SIZES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=1e-2)
    fit(model, data, epochs, optimizer, lambda x, y, part: F.cross_entropy(model(x), y))
    return model


def in_fixed_point(start: nn.Module, teacher: nn.Module, data: Data, epochs: int, recipe: Recipe, luts: int = 0) -> nn.Module:
    """``start`` by a recipe, trained further; ``luts``: what it may take in the end, 0 for no budget."""
    model = qfx.quantize(copy.deepcopy(start), data.train_x[:256], recipe)
    optimizer = torch.optim.Adam(qfx.parameter_groups(model, lr=RATE, binary_point_lr=2e-2))
    distillation = qfx.Distillation(teacher, temperature=2.0)
    first = built(Found(0, 0, 0, 0), graph_of(model), data).luts
    budget = qfx.Budget(board=BOARD, style="unrolled", lut=first, every=200) if luts else None

    def loss_of(x: Tensor, y: Tensor, part: float) -> Tensor:
        results = model(x)
        loss = 0.3 * F.cross_entropy(results, y) + 0.7 * distillation(x, results)
        if budget is None:
            return loss
        if part < FROZEN:
            budget.limit(lut=round(first * (luts / first) ** min(part / REACHED, 1)))
        else:
            qfx.freeze(model)
        return loss + budget.loss(model)

    fit(model, data, epochs, optimizer, loss_of)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trigger", description=__doc__.split("\n")[0])
    parser.add_argument("--luts", type=int, default=14_900, help="what training goes for")
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--float-epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"{DATA} is not there: set QFX_DATA to the folder with the real data")
    torch.set_num_threads(options.threads)
    data = five_classes(chosen=0)
    print(machine(), f"\n\n{len(data.train_x)} recordings to train on, {len(data.test_x)} to judge by; {options.epochs} epochs\n", flush=True)
    print(
        "| seed | float, % | 8 bits, % | learned, % | LUT, learned | 8 bits | latency, cycles | bit operations | s |\n|---|" + "---|" * 8, flush=True
    )
    rows = []
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        began = time.perf_counter()
        floats = [in_float(data, options.float_epochs) for _ in range(TEACHERS)]
        teacher = Mean(floats)
        twin = in_fixed_point(floats[0], teacher, data, options.epochs, Recipe.uniform(8))
        learned = in_fixed_point(floats[0], teacher, data, options.epochs, LEARNED, options.luts)
        of_float = 100 * float((floats[0](data.test_x).argmax(1) == data.test_y).float().mean())
        of_twin, of_learned = (built(Found(0, operations(model), 0, 0), graph_of(model), data) for model in (twin, learned))
        rows.append((of_float, of_twin.accuracy, of_learned.accuracy, of_learned.luts))
        print(
            f"| {seed} | {of_float:.2f} | {of_twin.accuracy:.2f} | {of_learned.accuracy:.2f} | {of_learned.luts:,} | {of_twin.luts:,} | "
            f"{of_learned.latency} | {of_learned.operations:,.0f} | {time.perf_counter() - began:.0f} |",
            flush=True,
        )
    mean, most = np.array(rows).mean(0), np.array(rows).max(0)
    print(f"\nmean: float {mean[0]:.2f}, 8 bits {mean[1]:.2f}, learned {mean[2]:.2f} %; at most {most[3]:,.0f} LUT")


if __name__ == "__main__":
    main()
