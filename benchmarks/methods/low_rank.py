"""Low-rank weights inside the rounding: a language model of letters on this repository's pages; what the optimizer keeps, and bits a letter."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx import Recipe, Spec
from qfx.training.low_rank import low_rank

LENGTH, WIDTH, DEPTH = 32, 256, 4
ROOT = Path(__file__).resolve().parents[2]


class Block(nn.Module):
    """Attention that looks back, and a perceptron."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(n, t, 3, 4, c // 4).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(attended.transpose(1, 2).reshape(n, t, c))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class Letters(nn.Module):
    def __init__(self, letters: int) -> None:
        super().__init__()
        self.letters = nn.Embedding(letters, WIDTH)
        self.places = nn.Parameter(0.02 * torch.randn(1, LENGTH, WIDTH))
        self.blocks = nn.Sequential(*(Block(WIDTH) for _ in range(DEPTH)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, letters)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.letters(x) + self.places)))  # type: ignore[no-any-return]


def text() -> tuple[Tensor, int]:
    pages = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")))
    kinds = sorted(set(pages))
    numbers = {letter: place for place, letter in enumerate(kinds)}
    return torch.tensor([numbers[letter] for letter in pages]), len(kinds)


def batches(numbers: Tensor, steps: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(len(numbers) * 9 // 10 - LENGTH - 1, (steps, 16), generator=generator)
    return [torch.stack([numbers[start : start + LENGTH + 1] for start in row.tolist()]) for row in starts]


def bits(model: nn.Module, numbers: Tensor) -> float:
    held = numbers[len(numbers) * 9 // 10 :][: 64 * (LENGTH + 1)].reshape(64, LENGTH + 1)
    model.eval()
    with torch.no_grad():
        return float(F.cross_entropy(model(held[:, :-1]).flatten(0, 1), held[:, 1:].flatten())) / 0.6931


def train(model: nn.Module, numbers: Tensor, steps: int, rate: float, seed: int) -> torch.optim.Optimizer:
    optimizer = torch.optim.Adam([parameter for parameter in model.parameters() if parameter.requires_grad], rate)
    model.train()
    for row in batches(numbers, steps, seed):
        optimizer.zero_grad()
        F.cross_entropy(model(row[:, :-1]).flatten(0, 1), row[:, 1:].flatten()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return optimizer


def kept(optimizer: torch.optim.Optimizer) -> float:
    """MiB of states."""
    tensors = (value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 2**20


def gradients(model: nn.Module) -> float:
    """MiB of gradients."""
    return sum(part.grad.numel() * part.grad.element_size() for part in model.parameters() if part.grad is not None) / 2**20


def main() -> None:
    numbers, letters = text()
    torch.manual_seed(0)
    model = Letters(letters)
    train(model, numbers, 300, 1e-3, 0)
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{count / 1e6:.2f} million parameters; float {bits(model, numbers):.3f} bits a letter", flush=True)
    recipe = Recipe(weight=Spec(3, granularity="channel"), activation=Spec(8))
    example = batches(numbers, 1, 9)[0][:, :-1]
    for rank in (None, 8):
        net = copy.deepcopy(model)
        if rank is not None:
            low_rank(net, rank)
        q = qfx.quantize(net, example, recipe)
        before = bits(q, numbers)
        optimizer = train(q, numbers, 60, 1e-3, 1)
        told = "all weights" if rank is None else f"rank {rank}"
        held = f"Adam keeps {kept(optimizer):.1f} MiB, gradients take {gradients(q):.1f}"
        print(f"3-bit weights, {told}: {before:.3f} bits, trained {bits(q, numbers):.3f}; {held}", flush=True)


if __name__ == "__main__":
    main()
