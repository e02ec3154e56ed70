"""Calibration over several batches gives what one large batch gives, and holds no more than a batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx import DataError, QfxError, Recipe, Spec, ptq
from qfx.recipe import ObserverName


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))
    model(X)  # moves the statistics
    return model.eval()


X = torch.randn(40, 2, 6, 6, generator=torch.Generator().manual_seed(1)) * torch.linspace(0.1, 3, 40).reshape(40, 1, 1, 1)


def points(qmodel: nn.Module) -> dict[str, list[float]]:
    return {name: cast.frac_bits.detach().flatten().tolist() for name, cast in qfx.quantizers(qmodel)}


@pytest.mark.parametrize("observer", ["mse", "minmax", "percentile", "kl"])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("batch_norm", ["keep", "fold"])
def test_batches_give_what_one_batch_gives(observer: ObserverName, granularity: str, batch_norm: str) -> None:
    spec = Spec(6, observer=observer, percentile=99.0, granularity=granularity)  # type: ignore[arg-type]
    recipe = Recipe(weight=spec, activation=spec, input=spec, output=spec, batch_norm=batch_norm)  # type: ignore[arg-type]
    expected = qfx.quantize(network(), X, recipe)
    qmodel = qfx.quantize(network(), X[:1], recipe)
    assert points(qmodel) != points(expected)
    for data in (X, list(X.split(7)), iter(X.split(7))):
        qfx.calibrate(qmodel, X[:1])
        ptq.calibrate(qmodel, data)
        assert points(qmodel) == points(expected)


def test_data_is_gone_through_as_it_comes() -> None:
    """A loader is asked twice for its batches, and never holds two of them at once."""
    held: list[int] = []

    class Loader:
        def __iter__(self):  # type: ignore[no-untyped-def]
            for part in X.split(10):
                batch = part.clone()
                held.append(batch.data_ptr())
                yield batch

    qmodel = qfx.quantize(network(), X[:1])
    ptq.calibrate(qmodel, Loader())
    ptq.calibrate(expected := qfx.quantize(network(), X[:1]), X)
    assert points(qmodel) == points(expected)
    assert len(held) >= 8


def test_mode_is_kept_and_bad_data_refused() -> None:
    qmodel = qfx.quantize(network(), X).train()
    ptq.calibrate(qmodel, X)
    assert qmodel.training

    def bad(data: Tensor | list[Tensor]) -> None:
        with pytest.raises(DataError):
            ptq.calibrate(qmodel, data)

    bad(X[:0])
    bad([])
    bad(torch.full_like(X, torch.nan))
    bad(X.permute(0, 2, 3, 1))
    with pytest.raises(QfxError):
        ptq.calibrate(network(), X)
