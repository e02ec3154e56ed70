"""Tracing: Python may decide by sizes, but by neither data nor the length of the batch."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from nn_models import Calls
from torch import Tensor, nn

import qfx
from qfx import UnsupportedError
from qfx.ir.interpret import run_raw
from qfx.verify import raw_of


class SamePadding(nn.Module):
    """Pads as TensorFlow does: how much follows from the input's size."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for size, kernel, stride in zip(reversed(x.size()[2:]), reversed(self.conv.kernel_size), reversed(self.conv.stride), strict=True):
            total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return self.conv(F.pad(x, pads) if any(pads) else x)


class Sized(nn.Module):
    """Uses sizes in every way that Python knows."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = SamePadding(nn.Conv2d(2, 4, 3, 2)), SamePadding(nn.Conv2d(4, 4, 3))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, *_ = x.shape
        if x.dim() != 4 or x.ndim != 4 or channels != 2:
            raise ValueError(x.shape)
        x = F.relu(self.b(F.relu(self.a(x))))
        if x.shape[-1] > 2:
            x = F.max_pool2d(x, 2)
        return self.head(F.avg_pool2d(x, x.size(2)).view(batch, -1))


def test_sizes_are_known() -> None:
    torch.manual_seed(0)
    model, x = Sized().eval(), torch.randn(5, 2, 9, 8)
    qmodel = qfx.quantize(model, x, qfx.Recipe.uniform(16, input=qfx.Spec(16)))
    graph = qfx.to_graph(qmodel)
    for batch in (x, x[:1], torch.randn(7, 2, 9, 8)):
        with torch.no_grad():
            raw = raw_of(qmodel(batch).numpy(), graph, "torch")
            error = (qmodel(batch) - model(batch)).abs().max()
        assert (raw == run_raw(graph, batch.numpy())).all()
        assert error < 1e-2  # the float network; 16 bits keep it within this


class Decides(nn.Module):
    def __init__(self, decision: str) -> None:
        super().__init__()
        self.decision = decision

    def forward(self, x: Tensor) -> Tensor:
        by_data, by_batch = x.sum() > 0 if self.decision == "data" else False, x.shape[0] > 2 if self.decision == "batch" else False
        return F.relu(x) if by_data or by_batch else x


@pytest.mark.parametrize("decision", ["data", "batch"])
def test_other_decisions_are_refused_where_they_are_made(decision: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(Decides(decision)))
    with pytest.raises(qfx.UnsupportedError, match=r"^1\.0: cannot be traced.*\n  remedy: let no Python decision"):
        qfx.quantize(model, torch.randn(6, 4))


def test_tracing_leaves_torch_as_it_was() -> None:
    before = nn.Module.__call__, nn.Module.__getattr__
    qfx.quantize(Sized().eval(), torch.randn(2, 2, 9, 8))
    with pytest.raises(qfx.UnsupportedError):
        qfx.quantize(Decides("data"), torch.randn(6, 4))
    assert (nn.Module.__call__, nn.Module.__getattr__) == before


def test_a_model_whose_result_is_not_finite_is_refused_for_its_operation() -> None:
    with pytest.raises(UnsupportedError, match="of a base that is not positive, has no fixed-point form"):
        qfx.quantize(Calls(lambda m, x: (-0.5) ** x), torch.tensor([[-1.0, 0.5, 2.0]]))
