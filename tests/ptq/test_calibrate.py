"""Calibration over several batches gives what one large batch gives, and holds no more than a batch."""

from __future__ import annotations

import copy
from collections.abc import Callable

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


def test_there_is_one_function() -> None:
    assert qfx.calibrate is ptq.calibrate
    qmodel, other = (qfx.quantize(network(), X[:1]) for _ in range(2))
    qfx.calibrate(qmodel, X)
    qfx.calibrate(other, example_input=X)
    assert points(qmodel) == points(other)
    with pytest.raises(DataError, match="got no data"):
        qfx.calibrate(qmodel)


def modes(qmodel: nn.Module) -> dict[str, bool]:
    return {name: module.training for name, module in qmodel.named_modules()}


BAD: dict[str, object] = {
    "NaN in a late batch": [X, torch.full_like(X, torch.nan)],
    "shape of a late batch": [X, X.permute(0, 2, 3, 1)],
    "not a tensor": [X, 3],
    "none": [],
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("call", [qfx.calibrate, ptq.calibrate])
def test_modes_stay_and_an_error_changes_nothing(name: str, call: Callable[..., None]) -> None:
    qmodel = qfx.quantize(network(), X).train()
    qmodel.get_submodule("1").eval()  # frozen
    before, state = modes(qmodel), copy.deepcopy(qmodel.state_dict())
    with pytest.raises(DataError):
        call(qmodel, BAD[name])
    assert modes(qmodel) == before
    assert all(torch.equal(state[key], value) for key, value in qmodel.state_dict().items())
    call(qmodel, 3 * X)
    assert modes(qmodel) == before
    assert not qmodel.get_submodule("1").training


def test_an_error_on_the_way_puts_everything_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the layers before have been placed already."""
    qmodel = qfx.quantize(network(), X).train()
    starts = {name: cast.frac_start for name, cast in qfx.quantizers(qmodel)}
    before, state = modes(qmodel), copy.deepcopy(qmodel.state_dict())
    qmodel.get_submodule("5").weight.data[0, 0] = torch.nan  # type: ignore[union-attr, index]
    with pytest.raises(DataError, match=r"^5\.weight"):
        qfx.calibrate(qmodel, 100 * X)
    assert modes(qmodel) == before
    assert all(torch.equal(state[key], value) for key, value in qmodel.state_dict().items() if key != "5.weight")
    assert all(cast.frac_start is starts[name] for name, cast in qfx.quantizers(qmodel))


def test_an_untrained_norm_takes_its_statistics_from_all_batches() -> None:
    torch.manual_seed(0)
    fresh = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    data = torch.randn(150, 2, 6, 6, generator=torch.Generator().manual_seed(2))
    expected = qfx.quantize(fresh, data).state_dict()
    for parts in (data, data.split(40)):
        qmodel = qfx.quantize(fresh, data[:3])
        qmodel.load_state_dict(fresh.state_dict())
        qfx.calibrate(qmodel, parts)
        assert all(torch.equal(expected[key], value) for key, value in qmodel.state_dict().items())


def test_calibrating_in_inference_mode_leaves_a_model_that_trains() -> None:
    qmodel = qfx.quantize(network(), X[:1]).train()
    with torch.inference_mode():
        qfx.calibrate(qmodel, X)
    with torch.no_grad():
        for _, cast in qfx.quantizers(qmodel):
            cast.frac_bits += 20.0  # out of reach: now their starts count
    qmodel(X).sum().backward()


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
