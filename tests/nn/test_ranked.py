"""What ranks first along an axis, and where it stands, in all executors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from executors import same_in_cpp, same_in_torch_and_the_file
from torch import Tensor, nn

import qfx
from qfx.capture.apart.ranked import argtopk, topk
from qfx.errors import UnsupportedError
from qfx.nn.qtensor import QTensor

FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "argmax of channels": lambda x: x.argmax(1, keepdim=True),
    "argmax of rows": lambda x: torch.argmax(x, -1),
    "argmin": lambda x: x.argmin(2),
    "place of the greatest": lambda x: x.max(1).indices,
    "place of the least": lambda x: torch.min(x, 3)[1],
    "greatest two": lambda x: x.topk(2)[0],
    "places of the greatest two": lambda x: torch.topk(x, 2, 1).indices,
    "least three": lambda x: x.topk(3, dim=2, largest=False).values,
    "one": lambda x: x.topk(1, 1)[0],
    "both": lambda x: torch.cat([part.float() for part in x.topk(2, 1)], 1),
    "sorted": lambda x: x.sort(2)[0],
    "sorted from the greatest": lambda x: torch.sort(x, dim=1, descending=True).values,
    "argsort": lambda x: x.argsort(3),
    "third": lambda x: x.kthvalue(3, 1).values,
    "median": lambda x: x.median(2)[0],
    "median of four": lambda x: torch.median(x, 1, keepdim=True).values,
    "reckoned with": lambda x: x * x.argmax(1, keepdim=True).float() + 1,
}


class Net(nn.Module):
    """The form behind a convolution, whose result is cast to few bits, so that there are equal numbers."""

    def __init__(self, form: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 1)
        self.form = form

    def forward(self, x: Tensor) -> Tensor:
        return self.form(self.conv(x))


@pytest.fixture(scope="module")
def made() -> dict[str, tuple[nn.Module, Tensor]]:
    """A quantized network of every form, and an input."""
    torch.manual_seed(0)
    x = torch.randn(4, 2, 5, 6)
    recipe = qfx.Recipe(activation=qfx.Spec(3), output=qfx.Spec(3))
    return {name: (qfx.quantize(Net(form).eval(), x, recipe).eval(), x) for name, form in FORMS.items()}


@pytest.mark.parametrize("name", FORMS)
def test_torch_gives_the_same_on_the_cast_numbers(name: str, made: dict[str, tuple[nn.Module, Tensor]]) -> None:
    """Of equal numbers torch's argmax takes the first, as qfx does; its topk may take others, and its sort keeps their order if it is told to."""
    q, x = made[name]
    seen: list[Tensor] = []
    handle = q.get_submodule("conv.output_cast").register_forward_hook(lambda _module, _inputs, output: seen.append(output.tensor()))
    with torch.no_grad():
        found = q(x)
        handle.remove()
        stable = {
            "places of the greatest two": lambda x: argtopk(x, 2, 1),
            "both": lambda x: torch.cat([topk(x, 2, 1), argtopk(x, 2, 1).float()], 1),
            "argsort": lambda x: torch.argsort(x, dim=3, stable=True),
        }
        if name != "reckoned with":  # whose result is cast
            form = stable.get(name, FORMS[name])
            assert torch.equal(found, form(seen[0]).to(found.dtype))


@pytest.mark.parametrize("name", FORMS)
def test_torch_the_graph_and_the_file_agree(name: str, made: dict[str, tuple[nn.Module, Tensor]], tmp_path: Path) -> None:
    same_in_torch_and_the_file(*made[name], tmp_path)


def test_c_simulation_agrees(fast: bool, made: dict[str, tuple[nn.Module, Tensor]], tmp_path: Path, gxx: str) -> None:
    same_in_cpp([*made.values()], tmp_path, fast=fast)


def test_the_first_of_equal_numbers_goes_before() -> None:
    x = torch.tensor([[1.0, 3.0, 3.0, 0.0, 3.0, 0.0]])
    assert argtopk(x, 4).tolist() == [[1, 2, 4, 0]]
    assert argtopk(x, 3, 1, False).tolist() == [[3, 5, 0]]
    assert torch.argmax(x, 1).tolist() == [1]
    assert torch.argmin(x, 1).tolist() == [3]
    assert topk(x, 4).tolist() == [[3.0, 3.0, 3.0, 1.0]]


def test_the_gradient_goes_back_to_where_the_numbers_stood() -> None:
    torch.manual_seed(1)
    x = torch.randn(6, 5)
    q = qfx.quantize(nn.Sequential(nn.Linear(5, 5), Last(lambda y: y.topk(2, 1)[0])), x).train()
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: QTensor) -> None:
        output.value.retain_grad()
        seen.append(output.value)

    q.get_submodule("0.output_cast").register_forward_hook(keep)
    weight = torch.randn(6, 2)
    (q(x) * weight).sum().backward()
    expected = torch.zeros(6, 5)
    expected.scatter_(1, argtopk(seen[0].detach(), 2, 1), weight)
    assert torch.equal(seen[0].grad, expected)


class Last(nn.Module):
    def __init__(self, form: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.form = form

    def forward(self, x: Tensor) -> Tensor:
        return self.form(x)


def test_places_are_whole_numbers_whatever_the_recipe_says() -> None:
    x = torch.randn(8, 300)
    q = qfx.quantize(Last(lambda x: x.argmax(1, keepdim=True)), x, qfx.Recipe(output=qfx.Spec(4))).eval()
    graph = qfx.to_graph(q)
    info = graph.infos[graph.output]
    assert (info.type.width, info.type.frac_bits, info.type.signed) == (9, 0, False)
    assert q(x).max() > 15
    assert not np.mod(q(x).numpy(), 1).any()


def test_the_batch_is_not_ranked() -> None:
    for form in (lambda x: x.argmax(0), torch.argmax, lambda x: x.topk(2, 0)[0], torch.median):
        with pytest.raises(UnsupportedError):
            qfx.quantize(Last(form), torch.randn(3, 4))
