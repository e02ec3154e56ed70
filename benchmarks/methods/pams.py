"""EDSR, small, twice the size of CIFAR-10 images: 8 and 4 bits with learned binary points, with and without the transfer of feature maps."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from benchmarks.methods.common import train
from benchmarks.task_data import Data, photographs
from benchmarks.task_models import Edsr
from qfx import Override, Recipe, Spec


def psnr(model: nn.Module, data: Data) -> float:
    model.eval()
    with torch.no_grad():
        found = torch.cat([model(part) for part in torch.split(data.test_x, 100)])
    return float((-10 * (found.clamp(0, 1) - data.test_y).square().mean((1, 2, 3)).log10()).mean())


def near(x: Tensor, found: Tensor, wanted: Tensor) -> Tensor:
    return F.l1_loss(found, wanted)


RATES = {8: 1e-3, 4: 2e-4}
"""Of training, by bits."""

SHARES = (0.0, 4 / 256, 1.0)
"""What the distance of maps counts in the loss. That of the authors' program, 1,000 times the mean over positions beside an L1 loss of pixels of
0..255, is 4 / 256 of a sum over 256 positions beside one of pixels of 0..1."""


def recipe(bits: int) -> Recipe:
    """The body in so many bits, the layers around it in 8: the authors leave these in float."""
    around = tuple(Override(name, {"width": 8}) for name in ("head.*", "tail.*", "add.output", "add_1.*"))
    return Recipe(weight=Spec(bits, granularity="channel"), activation=Spec(bits), internal=Spec(8), input=Spec(8), overrides=around)


def main() -> None:
    data = photographs(3000, 300)
    bicubic = F.interpolate(data.test_x, scale_factor=2, mode="bicubic", align_corners=False).clamp(0, 1)
    print(f"bicubic {float((-10 * (bicubic - data.test_y).square().mean((1, 2, 3)).log10()).mean()):.2f} dB")
    torch.manual_seed(0)
    model = train(Edsr(16, 2), data, 6, 3e-3, loss=near, batch=32)
    print(f"float {psnr(model, data):.2f} dB", flush=True)
    features = {"body.0.add.output": "body.0", "body.1.add.output": "body.1"}
    for bits in (8, 4):
        for share in SHARES:
            q = qfx.quantize(copy.deepcopy(model), data.train_x[:64], recipe(bits))
            before = psnr(q, data)
            lesson = qfx.Distillation(model, q, results="numbers", features=features, transfer="maps")

            def maps(x: Tensor, found: Tensor, q: nn.Module = q, lesson: qfx.Distillation = lesson) -> Tensor:
                """The distance of maps alone: the lesson less what it says of the results."""
                return lesson(x, found) - qfx.Distillation(lesson.teacher, results="numbers")(x, found)

            def loss(x: Tensor, found: Tensor, wanted: Tensor, share: float = share, maps: Callable[..., Tensor] = maps) -> Tensor:
                return near(x, found, wanted) + (share * maps(x, found) if share else 0)

            first = q(data.train_x[:64])
            pulls = [pull(q, part) for part in (near(data.train_x[:64], first, data.train_y[:64]), maps(data.train_x[:64], first))]
            train(q, data, 2, RATES[bits], loss=loss, batch=32)
            with torch.no_grad():
                apart = float(maps(data.test_x, q(data.test_x)))
            told = f"distance of maps counted {share:.3g} (gradient of the body {share * pulls[1]:.2g}, of L1 {pulls[0]:.2g})"
            print(f"{bits} bits, {told}: {before:.2f} dB, trained {psnr(q, data):.2f}, distance {apart:.5f}", flush=True)


def pull(q: nn.Module, loss: Tensor) -> float:
    """The length of the gradient of the body's weights."""
    weights = [parameter for name, parameter in q.named_parameters() if name.startswith("body") and name.endswith("weight")]
    found = torch.autograd.grad(loss, weights, retain_graph=True)
    return float(sum(part.square().sum() for part in found) ** 0.5)


if __name__ == "__main__":
    main()
