"""Krishnamoorthi's whitepaper in power-of-two form, ResNet-8 on CIFAR-10: weights per layer and per channel, symmetric and asymmetric ranges, after
training and trained on, and what becomes of BatchNorm."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

import qfx
from benchmarks.cifar import Batches, training_images
from benchmarks.ptq import accuracy
from benchmarks.resnet8_front.network import judged_images, network, scaled
from qfx import Recipe, Spec
from qfx.ptq import calibrate, fold_batch_norm, shifted_ranges
from qfx.spec import ObserverName

JUDGED_AT_ONCE, JUDGED, EXAMPLE = 1_000, 2_000, 256
"""Test images that are judged after training, and where it went on; images that ranges start from."""
STEPS, BATCH, RATES = 200, 32, {8: 1e-4, 4: 1e-3}
"""How long, and with which rate by the bits of weights: the greater one takes more from words of 8 bits than their rounding does."""

RANGES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("per layer, symmetric", {"granularity": "tensor", "o": "AP_SAT_SYM"}),
    ("per layer, two's complement", {"granularity": "tensor"}),
    ("per layer, asymmetric", {"granularity": "tensor"}),
    ("per channel, symmetric", {"granularity": "channel", "o": "AP_SAT_SYM"}),
    ("per channel, two's complement", {"granularity": "channel"}),
)

HANDLED: tuple[tuple[Literal["fold", "keep"], str, float], ...] = (
    ("fold", "move", 1.0),
    ("fold", "stay", 0.0),
    ("keep", "move", 1.0),
    ("keep", "stay for the last half", 0.5),
    ("keep", "stay", 0.0),
)
"""What becomes of BatchNorm while training goes on, and from which share of the steps its statistics stay."""


def asked(bits: int, activation: int, *, observer: ObserverName = "minmax", signed: bool | None = None, **weight: Any) -> Recipe:
    return Recipe(
        input=Spec(8),
        weight=Spec(bits, observer=observer, **weight),
        bias=Spec(16, granularity="channel"),
        scale=Spec(8, granularity="channel"),
        shift=Spec(16, granularity="channel"),
        activation=Spec(activation, signed=signed, observer=observer),
        output=Spec(16),
    )


def ranged(folded: nn.Module, bits: int, activation: int, told: str, **weight: Any) -> Recipe:
    """``asked``, with the shifted ranges of ``folded``'s weights where the row says asymmetric."""
    recipe = asked(bits, activation, **weight)
    return replace(recipe, overrides=shifted_ranges(folded, bits)) if told.endswith(" asymmetric") else recipe


def after_training() -> None:
    """Nothing is trained: the ranges are those of the weights and of 256 images, as the whitepaper's are."""
    x, y = judged_images(JUDGED_AT_ONCE)
    images = scaled(training_images(EXAMPLE).pixels)
    folded = fold_batch_norm(network(), images[:4])
    print(f"ResNet-8, float {accuracy(folded, x, y):.1f} %", flush=True)

    def judged(recipe: Recipe) -> float:
        q = qfx.quantize(copy.deepcopy(folded), images, recipe).eval()
        calibrate(q, torch.split(images, 128))
        return accuracy(q, x, y)

    for bits in (8, 4):
        for told, spec in RANGES:
            recipe = ranged(folded, bits, 8, told, **spec)
            print(f"weights of {bits} bits {told}, activations of 8: {judged(recipe):.1f} %", flush=True)
    for activation in (8, 4):
        for signed in (True, None):
            recipe = asked(8, activation, signed=signed, granularity="channel")
            told = "signed" if signed else "unsigned where nothing is negative"
            print(f"8/{activation} bits, per channel, activations {told}: {judged(recipe):.1f} %", flush=True)
    for bits, activation in ((8, 8), (4, 8)):
        for granularity in ("tensor", "channel"):
            recipe = asked(bits, activation, observer="mse", granularity=granularity)
            print(f"{bits}/{activation} bits, per {granularity}, least squared error: {judged(recipe):.1f} %", flush=True)


def trained_on() -> None:
    """A few hundred steps from the float weights: granularity and symmetry, then BatchNorm."""
    x, y = judged_images(JUDGED)
    batches = Batches(training_images(10_000), BATCH, 0, scaled)
    example = torch.cat([batches.batch(step)[0] for step in range(EXAMPLE // BATCH)])
    model = network()
    print(f"ResNet-8, float {accuracy(model, x, y):.2f} %, {STEPS} steps of {BATCH} images", flush=True)
    folded = fold_batch_norm(copy.deepcopy(model), example[:4])

    def judged(source: nn.Module, recipe: Recipe, frozen_from: float = 1.0) -> str:
        q = qfx.quantize(copy.deepcopy(source), example, recipe).eval()
        before = accuracy(q, x, y)
        rate = RATES[recipe.weight.width]
        optimizer = torch.optim.Adam(qfx.parameter_groups(q, lr=rate), rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        q.train()
        for step in range(STEPS):
            if step == int(frozen_from * STEPS):
                qfx.freeze(q, binary_points=False)
            images, labels = batches.batch(step)
            optimizer.zero_grad()
            F.cross_entropy(q(images), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        return f"{before:.2f} %, trained {accuracy(q.eval(), x, y):.2f}"

    for weight, activation in ((8, 8), (4, 8), (4, 4)):
        for told, spec in RANGES:
            recipe = ranged(folded, weight, activation, told, observer="mse", **spec)
            print(f"{weight}/{activation} bits, {told}: {judged(folded, recipe)}", flush=True)
    for bits in (8, 4):
        own = asked(bits, bits, observer="mse", granularity="channel")
        for form, told, start in HANDLED:
            recipe = replace(own, batch_norm=form)
            print(f"{bits}/{bits} bits, per channel, BatchNorm {form!r}, statistics {told}: {judged(model, recipe, start)}", flush=True)


def main() -> None:
    after_training()
    trained_on()


if __name__ == "__main__":
    main()
