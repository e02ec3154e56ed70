"""What exported programs hold that a module does not show: bags in a row, double, transposed tokens; equal to the module, raw for raw."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nn_models import Calls
from torch import Tensor, nn

import qfx
from qfx import UnsupportedError
from qfx.capture.from_pt2 import from_pt2
from qfx.testing import assert_bit_exact

TOKENS = torch.randint(0, 9, (8, 5), generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))
ROWS = IMAGES.reshape(8, -1)[:, :5]
BATCHES = pytest.mark.parametrize("fixed", [True, False], ids=["fixed batch", "any batch"])
pytestmark = pytest.mark.filterwarnings("ignore:The tensor attributes")
"""Of torch.export, about torch.nn.GRU."""


def program(m: nn.Module, x: Tensor, folder: Path, fixed: bool = False) -> nn.Module:
    sizes: Any = {} if fixed else {"dynamic_shapes": ({0: torch.export.Dim("n", min=2)},)}
    torch.export.save(torch.export.export(m.eval(), (x,), strict=False, **sizes), folder / "m.pt2")
    return from_pt2(folder / "m.pt2", x)


def check(m: nn.Module, x: Tensor, folder: Path, fixed: bool = False) -> nn.Module:
    """The exported program and the module, equal in fixed point; returns the program's."""
    q, expected = qfx.quantize(program(m, x, folder, fixed), x), qfx.quantize(m, x)
    with torch.no_grad():
        assert_bit_exact(q(x).numpy(), expected(x).numpy(), names=("the exported program", "the module"))
    return q


@BATCHES
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_of_one_length(mode: str, fixed: bool, tmp_path: Path) -> None:
    m = Calls(lambda m, x: m.fc(m.bag(x)), bag=nn.EmbeddingBag(9, 4, mode=mode), fc=nn.Linear(4, 3))
    q = check(m, TOKENS, tmp_path, fixed)
    assert {name for name, _ in qfx.quantizers(q)} == {name for name, _ in qfx.quantizers(qfx.quantize(m, TOKENS))}
    q.load_state_dict(m.state_dict(), strict=True)


def test_bags_of_a_function(tmp_path: Path) -> None:
    m = Calls(lambda m, x: F.embedding_bag(x, m.table.weight), table=nn.Embedding(9, 4))
    check(m, TOKENS, tmp_path)


REFUSED: dict[str, tuple[Callable[[Any, Tensor], Tensor], str]] = {
    "weights": (lambda m, x: F.embedding_bag(x, m.table.weight, per_sample_weights=torch.ones(8, 5), mode="sum"), "with weights"),
    "lengths": (lambda m, x: F.embedding_bag(x.reshape(-1), m.table.weight, torch.arange(8) * 4), "bags of different lengths"),
    "padding": (lambda m, x: F.embedding_bag(x, m.table.weight, padding_idx=0), "padding_idx, which leaves numbers out"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_bags_are_refused(case: str, tmp_path: Path) -> None:
    function, message = REFUSED[case]
    with pytest.raises(UnsupportedError, match=message):
        qfx.quantize(program(Calls(function, table=nn.Embedding(9, 4)), TOKENS, tmp_path, fixed=True), TOKENS)


DOUBLES: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "rows": (lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)), ROWS),
    "images": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.ConvTranspose2d(4, 2, 2)), IMAGES),
    "steps": (lambda: Calls(lambda m, x: m.rnn(x)[0][:, -1], rnn=nn.GRU(6, 4, batch_first=True)), IMAGES[:, 0]),
    "constants": (lambda: Calls(lambda m, x: m.fc(x * torch.linspace(0.5, 1.0, 5).double() + 0.25), fc=nn.Linear(5, 3)), ROWS),
}


@pytest.mark.parametrize("case", DOUBLES)
def test_a_model_in_double_stays_in_double(case: str, tmp_path: Path) -> None:
    make, x = DOUBLES[case]
    torch.manual_seed(1)
    q = check(make().double(), x.double(), tmp_path)
    assert q(x.double()).dtype == torch.float64


def test_the_statistics_of_a_model_in_double(tmp_path: Path) -> None:
    m = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).double()
    m(IMAGES.double())  # in training: they are real now
    check(m, IMAGES.double(), tmp_path)


TIME_FIRST: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "turned back": lambda m, x: m.table(x.t()).transpose(0, 1),
    "a mean of the steps": lambda m, x: m.fc(m.table(x.t())).mean(0),
    "the last step": lambda m, x: m.rnn(m.table(x.t()))[0][-1],
    "turned otherwise": lambda m, x: m.rnn(m.table(x.T))[0][-1],
}


@BATCHES
@pytest.mark.parametrize("case", TIME_FIRST)
def test_an_embedding_of_tokens_with_the_time_in_front(case: str, fixed: bool, tmp_path: Path) -> None:
    check(Calls(TIME_FIRST[case], table=nn.Embedding(9, 4), fc=nn.Linear(4, 3), rnn=nn.GRU(4, 3)), TOKENS, tmp_path, fixed)
