"""Training with few bits in the backward pass and in the update, and with switched word lengths: a perceptron on Fashion-MNIST, two epochs."""

from __future__ import annotations

import torch
from torch import nn

import qfx
from benchmarks.methods.common import JUDGED, clothes_of
from benchmarks.methods.common import accuracy as _accuracy
from benchmarks.task_data import Data
from qfx import Recipe, Spec
from qfx.training.adaptive import AdaptivePrecision
from qfx.training.dynamic import with_dynamic
from qfx.training.gradients import FixedGradients, FixedWeights


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


def run(data: Data, gradients: int | None, seed: int | None, weights: int | None, adaptive: bool = False, forward: int = 8) -> tuple[float, str]:
    recipe = Recipe.uniform(forward)
    if adaptive:
        recipe = Recipe(weight=Spec(16, learn_width=True, learn=False, learn_range=False), activation=Spec(8))
    q = qfx.quantize(network(), data.train_x[:256], recipe)
    if gradients is not None:
        FixedGradients(q, gradients, seed=seed)
    optimizer = torch.optim.SGD(qfx.parameter_groups(q, lr=0.05), momentum=0.9)
    floats = [parameter for name, parameter in q.named_parameters() if name.endswith(("weight", "bias"))]
    settled = None if weights is None else FixedWeights(floats, weights, seed=seed)
    words = AdaptivePrecision(q) if adaptive else None
    told: list[str] = []
    generator = torch.Generator().manual_seed(0)
    for _ in range(4 if adaptive else 2):
        for rows in torch.split(torch.randperm(len(data.train_x), generator=generator), 64):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(q(data.train_x[rows]), data.train_y[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            if words is not None:
                words.watch(loss)
            optimizer.step()
            if settled is not None:
                settled.settle()
        if words is not None:
            told.append("/".join(f"{switch.before}-{switch.after}" for switch in words.switch()) + f" ({words.strategy})")
    return _accuracy(q, data), ", ".join(told)


def dynamic(data: Data, bits: int) -> float:
    net = with_dynamic(network(), data.train_x[:2], bits=bits)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        for rows in torch.split(torch.randperm(len(data.train_x), generator=generator), 64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(data.train_x[rows]), data.train_y[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return _accuracy(net, data)


def main() -> None:
    data = clothes_of(10_000)
    print(f"{JUDGED} images judged")
    for name, gradients, seed, weights in (
        ("float gradients and updates", None, None, None),
        ("gradients of 8 bits, nearest", 8, None, None),
        ("gradients of 4 bits, nearest", 4, None, None),
        ("gradients of 4 bits, stochastic", 4, 0, None),
        ("weights updated in 12 bits, nearest", None, None, 12),
        ("weights updated in 12 bits, stochastic", None, 0, 12),
        ("weights updated in 8 bits, nearest", None, None, 8),
        ("weights updated in 8 bits, stochastic", None, 0, 8),
        ("gradients of 4, weights of 12 bits, stochastic", 4, 0, 12),
    ):
        print(f"{name}: {run(data, gradients, seed, weights)[0]:.2f} %", flush=True)
    for name, gradients in (("float gradients", None), ("gradients of 4 bits, stochastic", 4)):
        print(f"forward of 4 bits, {name}: {run(data, gradients, 0, None, forward=4)[0]:.2f} %", flush=True)
    for bits in (16, 8):
        print(f"dynamic fixed point of {bits} bits, forward and backward: {dynamic(data, bits):.2f} %", flush=True)
    found, told = run(data, None, None, None, adaptive=True)
    print(f"four epochs, words switched behind each, {told}: {found:.2f} %", flush=True)


if __name__ == "__main__":
    main()
