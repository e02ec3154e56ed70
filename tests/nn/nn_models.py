"""What the tests of the training side share: small models, and the two ways to check a conversion without a tolerance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

import qfx
from qfx import Graph, Recipe, Spec
from qfx.ir.interpret import run_raw
from qfx.testing import adversarial_inputs, assert_bit_exact
from qfx.verify import raw_of

WIDE = Recipe(**{role: Spec(16) for role in ("input", "weight", "bias", "scale", "shift", "activation", "output")})
"""Enough bits for small integers to pass unchanged."""


class Calls(nn.Module):
    """A forward given as a function of the module and its input."""

    def __init__(self, function: Callable[..., object], **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> object:
        return self.function(self, x)


def integers(*shape: int, seed: int = 0) -> Tensor:
    """Small integers as floats."""
    return torch.randint(-4, 5, shape, generator=torch.Generator().manual_seed(seed)).float()


def check_exact(q: nn.Module, *, samples: int = 12, seed: int = 0, dtype: torch.dtype = torch.float32) -> Graph:
    """Torch in evaluation mode equals the integer interpreter, raw for raw, on adversarial inputs. Returns the graph."""
    q.eval()
    graph = qfx.to_graph(q)
    x = adversarial_inputs(graph, np.random.default_rng(seed), samples)
    with torch.no_grad():
        y = q(torch.from_numpy(x).to(dtype))
    assert_bit_exact(raw_of(y.numpy(), graph, "torch"), run_raw(graph, x, check_ranges=True), names=("torch", "interpreter"))
    return graph


def check_same_numbers(model: nn.Module, x: Tensor) -> nn.Module:
    """On integer weights and data nothing is rounded: the converted model must return the float model's very numbers. Returns the conversion."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randint(-3, 4, parameter.shape, generator=generator).float())
        expected = model.eval()(x.clone())
    q = qfx.quantize(model, x.clone(), WIDE)
    with torch.no_grad():
        actual = q(x)
    assert actual.shape == expected.shape
    assert_bit_exact(actual.double().numpy(), expected.double().numpy(), names=("fixed point", "float"))
    check_exact(q)
    return q


def trained(model: nn.Module, x: Tensor) -> nn.Module:
    """The model with running statistics that have seen data, in evaluation mode."""
    model.train()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for _ in range(3):
            model(x + 0.1 * torch.randn(x.shape, generator=generator))
    return model.eval()


def small_network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.Dropout(0.3), nn.Flatten(), nn.Linear(36, 3)
    )  # fmt: skip


DATA = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(3))
