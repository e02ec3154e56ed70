"""EDSR, small, twice the size of CIFAR-10 images: 8 and 4 bits with learned binary points, with and without the transfer of feature maps."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from benchmarks.methods.common import train
from benchmarks.task_data import Data, photographs
from benchmarks.task_models import Edsr
from qfx import Recipe, Spec


def psnr(model: nn.Module, data: Data) -> float:
    model.eval()
    with torch.no_grad():
        found = torch.cat([model(part) for part in torch.split(data.test_x, 100)])
    return float((-10 * (found.clamp(0, 1) - data.test_y).square().mean((1, 2, 3)).log10()).mean())


def near(x: Tensor, found: Tensor, wanted: Tensor) -> Tensor:
    return F.l1_loss(found, wanted)


def main() -> None:
    data = photographs(3000, 300)
    bicubic = F.interpolate(data.test_x, scale_factor=2, mode="bicubic", align_corners=False).clamp(0, 1)
    print(f"bicubic {float((-10 * (bicubic - data.test_y).square().mean((1, 2, 3)).log10()).mean()):.2f} dB")
    torch.manual_seed(0)
    model = train(Edsr(16, 2), data, 6, 3e-3, loss=near, batch=32)
    print(f"float {psnr(model, data):.2f} dB", flush=True)
    for bits in (8, 4):
        recipe = Recipe(weight=Spec(bits, granularity="channel"), activation=Spec(bits), internal=Spec(8), input=Spec(8))
        for transfer in (False, True):
            q = qfx.quantize(copy.deepcopy(model), data.train_x[:64], recipe)
            before = psnr(q, data)
            features = {"body.0.add.output": "body.0", "body.1.add.output": "body.1"}
            lesson = qfx.Distillation(model, q, results="numbers", features=features, transfer="maps", feature_share=1.0)

            def loss(x: Tensor, found: Tensor, wanted: Tensor, lesson: qfx.Distillation = lesson, transfer: bool = transfer) -> Tensor:
                return near(x, found, wanted) + (0.1 * lesson(x, found) if transfer else 0)

            train(q, data, 2, 1e-3, loss=loss, batch=32)
            told = "with the transfer of maps" if transfer else "without transfer"
            print(f"{bits} bits, {told}: {before:.2f} dB, trained {psnr(q, data):.2f}", flush=True)


if __name__ == "__main__":
    main()
