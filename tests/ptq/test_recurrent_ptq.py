"""Passes after training on recurrent networks: calibration places what is inside of loops, passes that change weights keep all executors equal."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from nn_models import check_exact
from torch import Tensor, nn

import qfx
from qfx import ptq
from qfx.nn.clipped import Clipped
from qfx.nn.layers.sequences.loop import QScan


class Net(nn.Module):
    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.a, self.rnn, self.b, self.head = nn.Linear(5, 8), rnn, nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(F.relu(self.b(self.rnn(F.relu(self.a(x)))[0][:, -1])))
        return found


X = torch.randn(128, 6, 5, generator=torch.Generator().manual_seed(0))
KINDS: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: nn.LSTM(8, 6, 2, batch_first=True),
    "gru": lambda: nn.GRU(8, 3, batch_first=True, bidirectional=True),
}


def net(kind: str) -> Net:
    torch.manual_seed(0)
    return Net(KINDS[kind]()).eval()


def error(q: nn.Module, m: nn.Module) -> float:
    expected = m(X)
    return float(((q(X) - expected).square().mean() / expected.var()).detach())


def test_calibration_places_the_casts_in_the_loop() -> None:
    m = net("lstm")
    q = qfx.quantize(m, X[:16] * 0.05, qfx.Recipe.uniform(6))
    assert q.rnn.l0.gates.types()[0].int_bits < 2
    before, other = error(q, m), copy.deepcopy(q)
    qfx.calibrate(q, X)
    fresh = qfx.quantize(m, X, qfx.Recipe.uniform(6))
    assert error(q, m) < before
    assert q.rnn.l0.gates.types() == fresh.rnn.l0.gates.types()
    assert q.rnn.l1.cell.types() == fresh.rnn.l1.cell.types()
    qfx.calibrate(other, [X[:40], X[40:41], X[41:]])
    assert [cast.types() for _, cast in qfx.quantizers(other)] == [cast.types() for _, cast in qfx.quantizers(q)]
    check_exact(q)


@pytest.mark.parametrize("kind", KINDS)
def test_the_float_reference_is_the_float_model(kind: str) -> None:
    m = net(kind)
    reference = ptq.float_reference(qfx.quantize(m, X))
    assert torch.allclose(reference(X), m(X), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_equalization_changes_no_value(kind: str) -> None:
    m = net(kind)
    assert torch.allclose(ptq.equalize(m, X)(X), m(X), atol=1e-5)


PASSES: dict[str, Callable[[nn.Module, nn.Module], object]] = {
    "bias correction": lambda q, reference: ptq.correct_bias(q, X, reference=reference),
    "comq": lambda q, reference: ptq.round_weights(q, X, method="comq", reference=reference),
    "gptq": lambda q, reference: ptq.round_weights(q, X, method="gptq", reference=reference),
    "tuning": lambda q, reference: ptq.tune(q, X, reference=reference),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PASSES)
def test_passes_help_and_leave_all_executors_equal(name: str, kind: str) -> None:
    m = net(kind)
    q = qfx.quantize(m, X, qfx.Recipe.uniform(5))
    before = error(q, m)
    hidden = [layer.hidden.weight.clone() for layer in q.modules() if isinstance(layer, QScan)]
    PASSES[name](q, ptq.float_reference(q))
    assert error(q, m) < before
    if name != "tuning":  # which trains all weights
        assert all(torch.equal(a, layer.hidden.weight) for a, layer in zip(hidden, (p for p in q.modules() if isinstance(p, QScan)), strict=True))
    check_exact(q)


def test_rounded_weights_are_known_as_such() -> None:
    q = qfx.quantize(net("lstm"), X)
    ptq.round_weights(q, X, method="comq")
    with pytest.raises(qfx.QfxError, match="rounded weights already"):
        ptq.correct_bias(q, X)


@pytest.mark.parametrize("kind", KINDS)
def test_the_distribution_of_a_loop_is_that_of_its_states(kind: str) -> None:
    """Sums of a normal sequence: mean and deviation of h over samples, units and times."""
    q = qfx.quantize(net(kind), X, qfx.Recipe.uniform(12))
    loop = q.rnn.l0
    x = qfx.nn.qtensor.QTensor(torch.randn(512, loop._features, 24, generator=torch.Generator().manual_seed(1)), loop.gates.interval())
    with torch.no_grad():
        y = loop(x).tensor()[:, 12:].double()
    one = torch.ones(loop._features, dtype=torch.float64)
    found = loop.distribution([Clipped.normal(0 * one, one)])
    mean, variance = found.moments()
    assert found.channels == 1
    assert abs(float(mean) - float(y.mean())) < 0.1 * float(y.std())
    assert 0.7 < float(variance.sqrt()) / float(y.std()) < 1.4  # numbers taken as independent
