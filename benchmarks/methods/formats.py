"""Numbers of weights, and of activations: minifloats, power-exponent codes, learned levels and uniform words, a perceptron on Fashion-MNIST; nothing
or an epoch trained."""

from __future__ import annotations

import copy

import torch
from torch import nn

import qfx
from benchmarks.methods.common import accuracy, clothes_of, train
from benchmarks.task_data import Data
from qfx import Recipe, Spec
from qfx.ptq import learn_powers, search_powers

EPOCHS_OF_LEVELS = 4
ACTIVATIONS = Spec(8)


def network(data: Data) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    return train(net, data, 5, 2e-3)


def main() -> None:
    data = clothes_of(10_000)
    model = network(data)
    print(f"float {accuracy(model, data):.2f} %", flush=True)
    example = data.train_x[:256]

    def recipe(activation: Spec = ACTIVATIONS, **weight: object) -> Recipe:
        return Recipe(weight=Spec(**{"granularity": "channel", **weight}), activation=activation)  # type: ignore[arg-type]

    recipes = {
        "E5M2": recipe(numbers="E5M2"),
        "E4M3": recipe(numbers="E4M3"),
        "E2M1 (4 bits)": recipe(numbers="E2M1"),
        "E4M3, activations too": recipe(Spec(numbers="E4M3"), numbers="E4M3"),
        "E2M1, activations too": recipe(Spec(numbers="E2M1"), numbers="E2M1"),
        "uniform, 4 bits, activations too": recipe(Spec(4), width=4),
        "uniform, 4 bits": recipe(width=4),
        "power, codes of 4 bits": search_powers(model, example, recipe(width=10), 4),
        "uniform, 3 bits": recipe(width=3),
        "power, codes of 3 bits": search_powers(model, example, recipe(width=10), 3),
        "power, codes of 3 bits, learned": learn_powers(model, example, recipe(width=10), 3),
    }
    for name, chosen in recipes.items():
        q = qfx.quantize(copy.deepcopy(model), example, chosen)
        before = accuracy(q, data)
        train(q, data, 1, 5e-4)
        print(f"{name}: {before:.2f} %, trained for an epoch {accuracy(q, data):.2f}", flush=True)
    learned_levels(model, data, example)


def learned_levels(model: nn.Module, data: Data, example: torch.Tensor) -> None:
    for bits in (3, 2):
        base = Recipe(weight=Spec(8), activation=Spec(8))
        q = qfx.quantize(copy.deepcopy(model), example, base)
        levels = qfx.Levels(q, bits)
        optimizer = torch.optim.Adam(levels.parameters(), 0.3)

        share = [3.0]  # of the regularizer in the loss: grows to 30

        def loss(x: torch.Tensor, found: torch.Tensor, wanted: torch.Tensor, levels: qfx.Levels = levels, share: list[float] = share) -> torch.Tensor:
            return nn.functional.cross_entropy(found, wanted) + share[0] * levels.loss()

        def step(number: int, optimizer: torch.optim.Optimizer = optimizer, share: list[float] = share) -> None:
            if number:
                optimizer.step()
            optimizer.zero_grad()
            share[0] = 3.0 + 27.0 * number / (EPOCHS_OF_LEVELS * (len(data.train_x) // 128))

        train(q, data, EPOCHS_OF_LEVELS, 5e-4, loss=loss, before=step)
        learned = copy.deepcopy(model)
        learned.load_state_dict(qfx.float_state(q))
        small = qfx.quantize(learned, example, Recipe(weight=base.weight, activation=base.activation, overrides=levels.overrides()))
        before = accuracy(small, data)
        train(small, data, 1, 5e-4)
        print(f"{2**bits - 1} levels by regularization: {before:.2f} %, trained for an epoch {accuracy(small, data):.2f}", flush=True)


if __name__ == "__main__":
    main()
