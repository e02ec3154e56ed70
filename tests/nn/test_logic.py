"""Equality, bits, constant masks and constant places, in all executors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from executors import same_in_cpp, same_in_torch_and_the_file
from torch import Tensor, nn

import qfx
from qfx.errors import UnsupportedError

Form = Callable[["Net", Tensor], Tensor]
FORMS: dict[str, Form] = {
    "equal to a number": lambda m, x: (x == 0.5).float(),
    "unequal": lambda m, x: (x != 0.5) * x,
    "equal values": lambda m, x: (x == x.flip(1)).float(),
    "greater than a buffer": lambda m, x: (x > m.bound).float(),
    "less than a buffer": lambda m, x: torch.where(m.bound < x, x, -x),
    "and": lambda m, x: ((x > 0) & (x < 0.5)).float(),
    "or": lambda m, x: torch.logical_or(x < 0, x >= 0.5) * x,
    "not": lambda m, x: (~(x > 0)).float(),
    "where by a mask": lambda m, x: torch.where(m.mask, x, x.flip(2)),
    "where of a number": lambda m, x: torch.where(m.mask, x, 0.25),
    "where of a buffer": lambda m, x: torch.where(m.mask, m.bound, x),
    "masked_fill": lambda m, x: x.masked_fill(m.mask, -0.5),
    "masked_fill by zero": lambda m, x: x.masked_fill(m.mask, 0.0),
    "masked_fill by a comparison": lambda m, x: x.masked_fill(x > 0.5, 0.5),
    "tril": lambda m, x: torch.tril(x),
    "triu": lambda m, x: x.triu(1),
    "gather": lambda m, x: torch.gather(x, 2, m.places.expand(len(x), -1, -1, -1)),
    "product of rows": lambda m, x: x[:, :, :3].prod(2),
    "causal": lambda m, x: (x @ x.transpose(2, 3)).masked_fill(torch.ones(5, 5).triu(1).bool(), -float("inf")).softmax(-1),
}
MOVES = ("where by a mask", "masked_fill by zero", "tril", "triu", "gather", "equal to a number", "equal values", "and", "or", "not")
"""Those that give what torch gives of the cast numbers, to the last bit."""


class Net(nn.Module):
    """The form behind a convolution, whose result is cast to few bits, so that there are equal numbers."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 1)
        self.form = form
        generator = torch.Generator().manual_seed(3)
        self.register_buffer("bound", torch.randn(4, 1, 1, generator=generator) / 2)
        self.register_buffer("mask", torch.rand(1, 5, 6, generator=generator) > 0.5)
        self.register_buffer("places", torch.randint(0, 5, (1, 4, 2, 6), generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return self.form(self, self.conv(x))


@pytest.fixture(scope="module")
def made() -> dict[str, tuple[nn.Module, Tensor, nn.Module]]:
    """A quantized network of every form, an input, and the float one."""
    torch.manual_seed(0)
    x = torch.randn(4, 2, 5, 6)
    recipe = qfx.Recipe(activation=qfx.Spec(5), output=qfx.Spec(5))
    nets = {name: Net(form).eval() for name, form in FORMS.items()}
    return {name: (qfx.quantize(net, x, recipe).eval(), x, net) for name, net in nets.items()}


@pytest.mark.parametrize("name", FORMS)
def test_torch_the_graph_and_the_file_agree(name: str, made: dict[str, tuple[nn.Module, Tensor, nn.Module]], tmp_path: Path) -> None:
    same_in_torch_and_the_file(*made[name][:2], tmp_path)


@pytest.mark.parametrize("name", MOVES)
def test_torch_gives_the_same_on_the_cast_numbers(name: str, made: dict[str, tuple[nn.Module, Tensor, nn.Module]]) -> None:
    q, x, net = made[name]
    seen: list[Tensor] = []
    handle = q.get_submodule("conv.output_cast").register_forward_hook(lambda _module, _inputs, output: seen.append(output.tensor()))
    with torch.no_grad():
        found = q(x)
        handle.remove()
        expected = FORMS[name](net, seen[0])
    if name == "or":  # a product of values, which is cast
        assert torch.equal(found != 0, expected != 0)
    else:
        assert torch.equal(found, expected.to(found.dtype))


def test_c_simulation_agrees(fast: bool, made: dict[str, tuple[nn.Module, Tensor, nn.Module]], tmp_path: Path, gxx: str) -> None:
    same_in_cpp([(q, x) for q, x, _ in made.values()], tmp_path, fast=fast)


def test_what_is_not_to_be_seen_has_no_weight() -> None:
    torch.manual_seed(1)
    x = torch.randn(4, 2, 5, 6)
    q = qfx.quantize(Net(FORMS["causal"]).eval(), x).eval()
    with torch.no_grad():
        assert not q(x).triu(1).any()


def test_places_that_are_computed_are_refused() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.gather(x, 1, x.argmax(1, keepdim=True))

    with pytest.raises(UnsupportedError, match="differ from sample to sample"):
        qfx.quantize(Net(), torch.randn(3, 4))
    with pytest.raises(UnsupportedError, match="product of all axes"):
        qfx.quantize(nn.Sequential(nn.Linear(3, 3), Product()), torch.randn(3, 3))


class Product(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.prod()
