"""Constant masks of attention: what is hidden by minus infinity, or by a number far below, gets one that has a fixed-point form."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_batch_axis import E, Encodes, T, check, encoder_layer, exported, from_legacy_onnx, samples
from torch import Tensor, nn

import qfx
from qfx.errors import UnsupportedError

Masked = Callable[[Any, Tensor], Tensor]

MASKS: dict[str, Masked] = {
    "filled": lambda m, x: x.masked_fill(m.seen[:, :, :T, :T] == 0, -math.inf),
    "filled by a large number": lambda m, x: torch.masked_fill(x, m.seen == 0, -1e9),
    "chosen": lambda m, x: torch.where(m.seen > 0, x, torch.tensor(-math.inf)),
    "chosen the other way": lambda m, x: torch.where(m.seen == 0, torch.tensor(-1e9), x),
    "chosen by a method": lambda m, x: x.where(m.seen > 0, torch.finfo(torch.float32).min),
    "added": lambda m, x: x + m.hidden,
    "added in place": lambda m, x: x.add_(m.hidden),
    "added first": lambda m, x: m.hidden + x,
    "made of zeros and ones": lambda m, x: x + (1.0 - m.seen) * -10000.0,
    "added before a bias": lambda m, x: x + m.hidden + m.bias,
}


class Causal(nn.Module):
    """Attention that sees what came before."""

    def __init__(self, mask: Masked) -> None:
        super().__init__()
        self.parts, self.result, self.mask = nn.Linear(E, 3 * E), nn.Linear(E, E), mask
        self.bias = nn.Parameter(torch.randn(T, T))
        self.register_buffer("seen", torch.tril(torch.ones(1, 1, T, T)))
        self.register_buffer("hidden", torch.full((T, T), -math.inf).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in self.parts(x).chunk(3, -1))
        seen = F.softmax(self.mask(self, q @ k.transpose(-2, -1) * 0.5), -1)
        result: Tensor = self.result((seen @ v).transpose(1, 2).flatten(2))
        return result


class Ready(Causal):
    """By torch's own attention."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in self.parts(x).chunk(3, -1))
        result: Tensor = self.result(F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask(self, x)).transpose(1, 2).flatten(2))
        return result


class EncodesCausal(Encodes):
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layers[0](self.before(x).transpose(0, 1), nn.Transformer.generate_square_subsequent_mask(T))
        return result.mean(0)


MODELS: dict[str, Callable[[], nn.Module]] = {
    **{name: lambda mask=mask: Causal(mask) for name, mask in MASKS.items()},  # type: ignore[misc]
    "given to attention": lambda: Ready(lambda m, x: m.hidden),
    "given to attention as what is seen": lambda: Ready(lambda m, x: m.seen > 0),
    "given to an encoder layer": lambda: EncodesCausal(encoder_layer()),
}


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name]().eval()


@pytest.mark.parametrize("name", MODELS)
def test_masks_of_attention(name: str) -> None:
    model, x = made(name), samples()
    check(model, x, name)
    if name in MASKS:
        q, later = qfx.quantize(model, x).eval(), x.clone()
        later[:, -1] += 1.0
        with torch.no_grad():
            assert torch.equal(q(later)[:, :-1], q(x)[:, :-1])  # nothing of what comes later is seen


@pytest.mark.parametrize("name", [name for name in MODELS if name != "added in place"])
def test_masks_in_exported_programs(name: str, tmp_path: Path) -> None:
    check(exported(made(name), samples(), tmp_path / "model.pt2"), samples(), name)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_masks_in_onnx(name: str, tmp_path: Path) -> None:
    check(from_legacy_onnx(made(name), samples(), tmp_path / "model.onnx"), samples(), name)


class Elsewhere(Causal):
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.mask(self, self.result(x))
        return result


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (lambda m, x: F.relu(x + m.hidden[:, -1:]), "holds NaN, infinity"),
        (lambda m, x: F.log_softmax(x @ x.transpose(1, 2) + m.hidden, -1), "holds NaN, infinity"),
    ],
)
def test_what_is_no_mask_of_attention_is_refused(mask: Masked, message: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(UnsupportedError, match=message):
        qfx.quantize(Elsewhere(mask).eval(), samples())
