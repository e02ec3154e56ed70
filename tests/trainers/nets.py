"""A small task and networks for trainers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import qfx
from qfx import Recipe, Spec

X = torch.randn(48, 6, generator=torch.Generator().manual_seed(1))
Y = (X @ torch.randn(6, 3, generator=torch.Generator().manual_seed(2))).argmax(1)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def learned() -> Recipe:
    return Recipe(weight=Spec(8, granularity="channel", learn_width=True), activation=Spec(8, learn_width=True))


def quantized(recipe: Recipe | None = None) -> nn.Module:
    return qfx.quantize(net(), X, Recipe.uniform(6) if recipe is None else recipe)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two states are equal bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())
