"""ResNet-8 with its published weights, its images, and what a design of it costs on the Ultra96-V2."""

from __future__ import annotations

import io
import lzma
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.budgets.networks import ResNet8
from benchmarks.ptq import DATA
from qfx import Recipe, Spec
from qfx.errors import ProjectError
from qfx.hardware.board import board
from qfx.hardware.cost.estimate import LIMITS, capacity
from qfx.hardware.cost.resources import FIELDS
from qfx.hardware.design.schedule import Request
from qfx.hardware.folding.search import resolve
from qfx.nn.cost.hardware import HardwareCost
from qfx.ptq.allocation.hardware import smaller

CHECKPOINT = "models/resnet8_cifar10.pt"
BOARD = "ultra96v2"
_LEVELS = 256

_LEAST, _APART = 0.05, 0.005
"""Shares of the board: where the search for the cheapest design begins, and how near it comes."""


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
    """Weights, a binary point per channel, and activations of so many bits, or so many to start from: their resolution is learned then, their range
    stays, since a budget shortens words at both ends alike. The image and BatchNorm's scales have 8 bits, biases, shifts and the result 16, in both
    cases."""
    return Recipe(
        input=Spec(8),
        weight=Spec(bits, granularity="channel", learn_width=learned, learn_range=not learned),
        activation=Spec(bits, learn_width=learned, learn_range=not learned),
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


def allowed(share: float) -> dict[str, float]:
    """Equal shares of the board's LUTs and DSP blocks, and all of the rest, by resource."""
    whole = capacity(board(BOARD))
    return {name: getattr(whole, name) * (share if name in ("lut", "dsp") else LIMITS[name]) for name in FIELDS}


def cheapest(qmodel: nn.Module, fps: float) -> Cost:
    """The least share that is found: of two shares between which it must lie, the middle one is asked for again and again. Raises ProjectError if the
    whole board is not enough."""
    whole, graph = board(BOARD), HardwareCost(qmodel, BOARD, fps=fps).graph()

    def made(share: float) -> Cost:
        limits = {name: int(amount) for name, amount in allowed(share).items()}
        taken = resolve(graph, smaller(whole, limits), Request(fps=fps), clock_ns=whole.clock_ns).estimate.total
        return Cost(taken.lut, taken.dsp, taken.bram18)

    low, best = _LEAST, made(min(LIMITS["lut"], LIMITS["dsp"]))
    while best.share - low > _APART:
        middle = (low + best.share) / 2
        try:
            best = made(middle)
        except ProjectError:
            low = middle
    return best
