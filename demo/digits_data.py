"""Real data that needs no download: scikit-learn's 1797 handwritten digits of 8 x 8 pixels, split once and for all."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]
from torch import Tensor

SPLIT_SEED = 2024
TRAIN, VALIDATION = 1000, 257
"""The other 540 digits are the test set."""


@dataclass(frozen=True, slots=True)
class Part:
    """``images``: float32 (N, 1, 8, 8), multiples of 1/16 from 0 to 1. ``labels``: int64 (N,), 0 to 9."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> Part:
        return Part(self.images[:count], self.labels[:count])


@dataclass(frozen=True, slots=True)
class Digits:
    """``train`` is what the optimizer sees, ``validation`` what the curves show, ``test`` what only the final table looks at."""

    train: Part
    validation: Part
    test: Part


def digits() -> Digits:
    """The same three parts on every call and every machine: each digit is in exactly one of them."""
    data = load_digits()
    images = torch.tensor(data.images / 16, dtype=torch.float32).unsqueeze(1)
    labels = torch.tensor(data.target, dtype=torch.int64)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SPLIT_SEED))
    parts = torch.split(order, [TRAIN, VALIDATION, len(labels) - TRAIN - VALIDATION])
    return Digits(*(Part(images[part], labels[part]) for part in parts))
