"""ResNet-8 with its published weights, its images, and what a design of it costs on the Ultra96-V2."""

from __future__ import annotations

import io
import lzma
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.budgets.networks import ResNet8
from benchmarks.ptq import DATA
from qfx import ProjectError, Recipe, Spec
from qfx.hardware.board import board
from qfx.hardware.cost.estimate import LIMITS
from qfx.nn.cost.hardware import HardwareCost

CHECKPOINT = "models/resnet8_cifar10.pt"
BOARD = "ultra96v2"
_LEVELS = 256

_BELOW, _DESIGNS = 0.97, 6
"""Each design must cost so much less than the one before, and how many are tried."""


def scaled(pixels: Tensor) -> Tensor:
    """Pixels (N, H, W, 3) of 0..255 as (N, 3, H, W) of 0 to less than 1."""
    return pixels.permute(0, 3, 1, 2).contiguous().float() / _LEVELS


def network() -> nn.Module:
    """The published weights, which are for pixels of 0..255; here, exactly the same of ``scaled`` ones. In evaluation mode."""
    model = ResNet8()
    model.load_state_dict(torch.load(DATA / CHECKPOINT, weights_only=True, map_location="cpu"))
    with torch.no_grad():
        model.conv0.weight.mul_(_LEVELS)
    return model.eval()


def judged_images(count: int | None = None) -> tuple[Tensor, Tensor]:
    """Scaled, and their labels."""
    pixels = np.load(io.BytesIO(lzma.decompress((DATA / "cifar10" / "test_x.npy.xz").read_bytes())))[:count]
    labels = np.load(DATA / "cifar10" / "test_y.npy").astype(np.int64)[:count]
    return scaled(torch.from_numpy(pixels)), torch.from_numpy(labels)


def recipe(bits: int, learned: bool) -> Recipe:
    """Weights, a binary point per channel, and activations of so many bits, or so many to start from. The image and BatchNorm's scales have 8 bits,
    biases, shifts and the result 16, in both cases."""
    return Recipe(
        input=Spec(8),
        weight=Spec(bits, granularity="channel", learn_width=learned),
        activation=Spec(bits, learn_width=learned),
        bias=Spec(16, granularity="channel"),
        scale=Spec(8, granularity="channel"),
        shift=Spec(16, granularity="channel"),
        output=Spec(16),
    )


@dataclass(frozen=True)
class Cost:
    """LUTs and DSP blocks of a design, and the larger of their shares of the board: the cost."""

    lut: int
    dsp: int
    bram18: int

    @property
    def share(self) -> float:
        whole = board(BOARD)
        return max(self.lut / whole.lut, self.dsp / whole.dsp)


def cheapest(qmodel: nn.Module, fps: float) -> Cost:
    """The least share that is found: a design is made on the whole board, and then others that must take less and less of its LUTs and its DSP
    blocks, as long as one fits."""
    whole = board(BOARD)
    best, there = None, whole
    for _ in range(_DESIGNS):
        try:
            taken = HardwareCost(qmodel, there, fps=fps).plan().estimate.total
        except ProjectError:
            break
        cost = Cost(taken.lut, taken.dsp, taken.bram18)
        if best is not None and cost.share >= best.share:
            break
        best = cost
        share = _BELOW * best.share
        there = replace(whole, lut=int(share * whole.lut / LIMITS["lut"]), dsp=int(share * whole.dsp / LIMITS["dsp"]))
    if best is None:
        raise ProjectError(f"no design of it makes {fps:g} frames a second", where=BOARD, remedy="ask for fewer with --fps")
    return best
