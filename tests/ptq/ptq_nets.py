"""What the tests of rounding share: a network of the size of the digits data, trained in a second, and small helpers."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import qfx
from qfx import Recipe, Spec
from qfx.ir.interpret import run_raw
from qfx.nn.layers import Weighted
from qfx.ptq import fold_batch_norm
from qfx.testing import adversarial_inputs, assert_bit_exact
from qfx.verify import raw_of


class Small(nn.Module):
    """A stem, a residual block, a strided depthwise pair, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv1, self.norm1 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.depthwise, self.norm3 = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8), nn.BatchNorm2d(8)
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))
        x = F.relu(self.norm3(self.depthwise(x)))
        return self.head(x.flatten(1))  # type: ignore[no-any-return]


@lru_cache(maxsize=1)
def digits() -> tuple[Tensor, Tensor]:
    """(images (1797, 1, 8, 8) from -1 to 1, labels)."""
    data = load_digits()
    return torch.from_numpy((data.images[:, None] / 8 - 1).astype(np.float32)), torch.from_numpy(data.target)


@lru_cache(maxsize=1)
def trained_small() -> nn.Module:
    """``Small``, trained on the first 1,000 digits, in evaluation mode."""
    torch.manual_seed(0)
    model = Small().train()
    x, y = digits()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(4):
        for picked in torch.randperm(1000).split(50):
            loss = F.cross_entropy(model(x[picked]), y[picked])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def recipe(weight: int, activation: int, **changes: Any) -> Recipe:
    """Per-channel weights, biases of 16 bits."""
    fields: dict[str, Any] = {
        "weight": Spec(weight, granularity="channel"),
        "bias": Spec(16, granularity="channel"),
        "activation": Spec(activation),
        "input": Spec(activation),
        "output": Spec(16),
    }
    return Recipe(**(fields | changes))


def quantized_small(weight: int = 4, activation: int = 8, **changes: Any) -> Any:
    """The trained network, BatchNorm folded, in fixed point."""
    x, _ = digits()
    return qfx.quantize(fold_batch_norm(trained_small(), x[:8]), x[:128], recipe(weight, activation, **changes)).eval()


def accuracy(model: nn.Module) -> float:
    """Percent of the last 797 digits."""
    x, y = digits()
    with torch.no_grad():
        return 100 * float((model(x[1000:]).argmax(1) == y[1000:]).float().mean())


def distance(model: nn.Module) -> float:
    """The mean squared difference of the logits to the float network's, on digits that no pass sees."""
    x, _ = digits()
    with torch.no_grad():
        return float((model(x[1000:]) - trained_small()(x[1000:])).square().mean())


def assert_on_grid(qmodel: nn.Module) -> None:
    """The cast of every weight changes nothing."""
    for path, layer in qmodel.named_modules():
        if isinstance(layer, Weighted):
            weight = layer.cast_weight()
            assert torch.equal(layer.weight_cast(weight).value, weight), path


def assert_exports_exactly(qmodel: nn.Module, data: Tensor | None = None, samples: int = 16) -> None:
    """The integer interpreter on the exported graph gives torch's very integers, on extreme inputs and on ``data`` (default: digits)."""
    qmodel.eval()
    graph = qfx.to_graph(qmodel)
    x = np.concatenate([adversarial_inputs(graph, np.random.default_rng(0), samples), (digits()[0] if data is None else data)[:samples].numpy()])
    with torch.no_grad():
        y = qmodel(torch.from_numpy(x))
    assert_bit_exact(raw_of(y.numpy(), graph, "torch"), run_raw(graph, x, check_ranges=True), names=("torch", "interpreter"))
