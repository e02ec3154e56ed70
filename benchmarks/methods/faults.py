"""Stuck bits, flips and variability: a perceptron on Fashion-MNIST, weights of 4 bits; accuracy before and after training against them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn

import qfx
from benchmarks.methods.common import accuracy, clothes_of, train
from qfx import Recipe, Spec
from qfx.faults.definition import Faults
from qfx.faults.training import inject

KINDS: dict[str, tuple[Callable[[float], Faults], tuple[float, ...]]] = {
    "stuck, known": (lambda rate: Faults(rate / 2, rate / 2, seed=5), (0.01, 0.05, 0.1, 0.2)),
    "flips, unknown": (lambda rate: Faults(flips=rate, seed=5), (0.01, 0.05, 0.1)),
    "variability, unknown": (lambda rate: Faults(variability=rate, seed=5), (0.2, 0.4)),
}


def main() -> None:
    data = clothes_of(10_000)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    model = train(net, data, 4, 2e-3)
    recipe = Recipe(weight=Spec(4, granularity="channel"), activation=Spec(6))
    clean = train(qfx.quantize(model, data.train_x[:256], recipe), data, 1, 1e-3)
    print(f"float {accuracy(model, data):.2f} %, 4 bits without faults {accuracy(clean, data):.2f}", flush=True)
    for kind, (make, rates) in KINDS.items():
        for rate in rates:
            q, faults = copy.deepcopy(clean), make(rate)
            inject(q, faults)
            before = accuracy(q, data)
            if kind.endswith("unknown"):  # other faults in each step; judged with ones that it has not seen

                def others(step: int, q: nn.Module = q, faults: Faults = faults) -> None:
                    if step % 4 == 0:
                        inject(q, faults.at(step))

                train(q, data, 2, 1e-3, before=others)
                inject(q, faults)
            else:
                train(q, data, 2, 1e-3)
            print(f"{kind}, {rate}: {before:.2f} %, trained {accuracy(q, data):.2f}", flush=True)


if __name__ == "__main__":
    main()
