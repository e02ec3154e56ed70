"""Recurrent networks whose weights are computed of others: weight and spectral normalization are trained through, in all executors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from executors import same_in_cpp, same_in_torch_and_the_file
from nn_models import Calls
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import qfx

KINDS: dict[str, Callable[..., nn.Module]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


class Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight * 0.5


WAYS: dict[str, Callable[[nn.Module], object]] = {
    "weight_norm": lambda rnn: parametrizations.weight_norm(rnn, "weight_hh_l0"),
    "spectral_norm": lambda rnn: parametrizations.spectral_norm(rnn, "weight_hh_l0"),
    "of the input": lambda rnn: parametrizations.weight_norm(rnn, "weight_ih_l0"),
    "of both": lambda rnn: [parametrizations.weight_norm(rnn, name) for name in ("weight_ih_l0", "weight_hh_l0")],
    "of the own": lambda rnn: parametrize.register_parametrization(rnn, "weight_hh_l0", Halved()),
    "of a bias": lambda rnn: parametrize.register_parametrization(rnn, "bias_hh_l0", Halved()),
}


def data() -> Tensor:
    return torch.randn(8, 5, 4, generator=torch.Generator().manual_seed(0))


def made(kind: str, way: str) -> nn.Module:
    torch.manual_seed(0)
    rnn = KINDS[kind](4, 6, batch_first=True)
    WAYS[way](rnn)
    model = Calls(lambda m, x: m.fc(m.rnn(x)[0]), rnn=rnn, fc=nn.Linear(6, 3)).train()
    model(data())  # torch keeps what it computed
    return model.eval()


def near(q: nn.Module, model: nn.Module) -> bool:
    with torch.no_grad():
        expected = model(data())
        return float((q(data()) - expected).abs().max()) < 0.05 * float(expected.abs().max())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_trained_through_what_computes_them(kind: str, way: str, tmp_path: Path) -> None:
    model = made(kind, way)
    q = qfx.quantize(model, data())
    assert near(q.eval(), model)
    originals = [name for name, _ in model.named_parameters() if "parametrizations" in name]
    held = dict(q.named_parameters())
    assert originals
    assert set(originals) <= set(held)
    optimizer = torch.optim.SGD(q.parameters(), lr=1e-2)
    before = {name: held[name].detach().clone() for name in originals}
    q.train()(data()).square().mean().backward()
    optimizer.step()
    assert all(not torch.equal(held[name], before[name]) for name in originals)
    q.load_state_dict(model.state_dict())
    assert all(torch.equal(held[name], before[name]) for name in originals)
    same_in_torch_and_the_file(q.eval(), data(), tmp_path)


def test_c_simulation_agrees(tmp_path: Path) -> None:
    models = []
    for kind, way in (("lstm", "weight_norm"), ("gru", "spectral_norm")):
        q = qfx.quantize(made(kind, way), data())
        optimizer = torch.optim.SGD(q.parameters(), lr=1e-2)
        q.train()(data()).square().mean().backward()
        optimizer.step()
        models.append((q.eval(), data()))
    same_in_cpp(models, tmp_path / "plain", fast=False)
    same_in_cpp(models, tmp_path / "fast", fast=True)


def test_the_model_is_left_as_it_is() -> None:
    model = made("lstm", "weight_norm")
    with torch.no_grad():
        before = model(data())
        qfx.quantize(model, data())
        assert torch.equal(model(data()), before)
    assert parametrize.is_parametrized(model.rnn, "weight_hh_l0")
