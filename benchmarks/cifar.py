"""CIFAR-10 for training: all 50,000 images, in an order and with changes that follow from a seed and the number of the step alone."""

from __future__ import annotations

import io
import lzma
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.ptq import DATA, normalized

PADDING = 4
"""Black pixels around an image before it is cropped to its size again."""

_ORDER, _CHANGES = 0, 1
"""What a stream of random numbers is for."""


@dataclass(frozen=True, eq=False)
class Images:
    """Pixels (N, H, W, 3) of 0..255, and classes."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@lru_cache(maxsize=1)
def training_images(count: int | None = None) -> Images:
    """The first of the training part's images, default all."""
    labels = torch.from_numpy(np.load(DATA / "cifar10" / "train_y.npy").astype(np.int64))[:count]
    parts: list[np.ndarray] = []
    for path in sorted((DATA / "cifar10").glob("train_x*.npy.xz")):
        if sum(map(len, parts)) < len(labels):
            parts.append(np.load(io.BytesIO(lzma.decompress(path.read_bytes()))))
    return Images(torch.from_numpy(np.concatenate(parts)[:count]), labels)


@dataclass(frozen=True)
class Batches:
    """The batches of a training run: each epoch in another order, each image cropped out of a wider one and turned over by chance. The batch of a
    step depends on nothing but ``seed`` and the step, so that a run can go on from any of them."""

    images: Images
    size: int
    seed: int
    prepared: Callable[[Tensor], Tensor] = normalized
    """What a network gets of pixels (N, H, W, 3) of 0..255."""

    @property
    def steps_per_epoch(self) -> int:
        """Without the last, shorter batch, which is left out."""
        return len(self.images) // self.size

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """(prepared images, labels) of the step."""
        epoch, index = divmod(step, self.steps_per_epoch)
        order = torch.randperm(len(self.images), generator=_generator(self.seed, _ORDER, epoch))
        chosen = order[index * self.size : (index + 1) * self.size]
        changed = augmented(self.images.pixels[chosen], _generator(self.seed, _CHANGES, step))
        return self.prepared(changed), self.images.labels[chosen]


def augmented(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Each image moved by up to ``PADDING`` pixels either way, what is uncovered black, and with even chance turned over from left to right."""
    count, height, width, _ = pixels.shape
    wider = F.pad(pixels, (0, 0, PADDING, PADDING, PADDING, PADDING))
    down, right = torch.randint(2 * PADDING + 1, (2, count, 1), generator=generator)
    turned = torch.rand(count, 1, generator=generator) < 0.5
    columns = torch.arange(width).expand(count, -1)
    columns = right + torch.where(turned, width - 1 - columns, columns)
    rows = down + torch.arange(height)
    return wider[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _generator(seed: int, purpose: int, number: int) -> torch.Generator:
    """Streams that have nothing to do with each other."""
    mixed = np.random.SeedSequence((seed, purpose, number)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed) >> 1)
