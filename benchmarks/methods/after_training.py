"""What of the works on quantizing after training is in no other table: without data, words by measures of sensitivity, and blocks; ResNet-20 on
CIFAR-10, 500 test images, nothing trained."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

import qfx
from benchmarks.ptq import accuracy, calibration_images, float_model, judged_images, nearest, recipe
from qfx import Recipe
from qfx.ptq import Budget, adaround_blocks, calibrate, float_reference, fold_batch_norm, quantize_without_data, search, sensitivity
from qfx.ptq.allocation.table import Measure

MEASURES: tuple[Measure, ...] = ("correlation", "taylor", "fisher")


def main() -> None:
    x, y = judged_images(500)
    images = calibration_images(256)
    print(f"float {accuracy(float_model(), x, y):.1f} %", flush=True)
    print(f"8/8 bits: with 256 images {accuracy(nearest(images, 8, 8), x, y):.1f} %", flush=True)
    for method in ("statistics", "distill"):
        free = quantize_without_data(float_model(), torch.zeros(1, 3, 32, 32), recipe(8, 8), method=method, input_range=(-2.2, 2.7))
        print(f"8/8 bits without data, {method}: {accuracy(free, x, y):.1f} %", flush=True)
    blocks = nearest(images, 4, 8)
    adaround_blocks(blocks, images, reference=float_reference(blocks))
    print(f"4/8 bits: nearest {accuracy(nearest(images, 4, 8), x, y):.1f} %, blocks of 300 iterations {accuracy(blocks, x, y):.1f}", flush=True)
    folded = fold_batch_norm(float_model(), images[:4])
    for measure in MEASURES:
        table = sensitivity(folded, images[:32], widths=(3, 4, 6, 8), measure=measure, recipe=recipe(8, 8), roles=("weight",))
        found = search(folded, images, table, Budget(mean_weight_bits=4), recipe=recipe(8, 8))
        model = nearest_by(folded, images, found.recipe)
        print(f"4.0 bits a weight on average by {measure}, activations of 8, to nearest: {accuracy(model, x, y):.1f} %", flush=True)


def nearest_by(folded: nn.Module, images: Tensor, chosen: Recipe) -> nn.Module:
    """As ``nearest``, by a recipe."""
    model = qfx.quantize(copy.deepcopy(folded), images, chosen).eval()
    calibrate(model, torch.split(images, 128))
    return model


if __name__ == "__main__":
    main()
