"""2:4 sparsity: a vision transformer on Fashion-MNIST, weights of 6 and activations of 8 bits; and what an unrolled perceptron's hardware takes."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

import qfx
from benchmarks.methods.common import accuracy, clothes_of, train
from benchmarks.task_models import Vit
from qfx import Override, Recipe, Spec
from qfx.hardware.board import board
from qfx.hardware.unrolled.plan import plan
from qfx.ir.passes.pipeline import optimize
from qfx.ptq import float_reference, gptq

DENSE = (Override("patch.weight", {"sparsity": "1:1"}),)  # it has one input channel


def recipe(sparsity: str) -> Recipe:
    return Recipe(weight=Spec(6, granularity="channel", sparsity=sparsity), activation=Spec(8), overrides=DENSE)


def main() -> None:
    data = clothes_of(6_000)
    torch.manual_seed(0)
    model = train(Vit(width=32, depth=2), data, 5, 3e-3, batch=64)
    print(f"float {accuracy(model, data):.2f} %", flush=True)
    example = data.train_x[:256]
    for sparsity in ("4:4", "2:4", "1:4"):
        q = qfx.quantize(copy.deepcopy(model), example, recipe(sparsity))
        plain = accuracy(q, data)
        passed = copy.deepcopy(q)
        gptq(passed, example, reference=float_reference(passed))
        told = f"{sparsity}: by magnitude {plain:.2f} %, with GPTQ {accuracy(passed, data):.2f}"
        lesson = qfx.Distillation(model)

        def taught(x: Tensor, found: Tensor, wanted: Tensor, lesson: qfx.Distillation = lesson) -> Tensor:
            return lesson(x, found)

        train(q, data, 1, 5e-4, batch=64, loss=taught)
        print(f"{told}, trained for an epoch {accuracy(q, data):.2f}", flush=True)
    hardware()


def hardware() -> None:
    """16-64-32-32-5, 4 bits, random weights: unrolled on a ZCU102."""
    for sparsity in ("4:4", "2:4", "1:4"):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 5))
        q = qfx.quantize(net, torch.rand(256, 16), Recipe(weight=Spec(4, sparsity=sparsity), activation=Spec(4)))
        found = plan(optimize(qfx.to_graph(q)), board("zcu102"), clock_ns=5.0)
        print(f"unrolled, {sparsity}: {found.adders} adders, {found.estimate.total.lut} LUT")


if __name__ == "__main__":
    main()
