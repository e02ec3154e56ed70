"""Sensitivity: losses that stand for what casts do, whichever way they are measured."""

from __future__ import annotations

import math
from functools import lru_cache

import pytest
import torch
from ptq_nets import digits, quantized_small, recipe, trained_small
from torch import Tensor, nn

import qfx
from qfx import DataError, QfxError, Recipe, RecipeError, Spec
from qfx.nn.layers import Weighted
from qfx.ptq import Table, fold_batch_norm, sensitivity
from qfx.ptq.allocation.by_output import canonical_correlation
from qfx.ptq.allocation.table import Measure

MEASURES: tuple[Measure, ...] = ("sqnr", "correlation", "fisher", "hessian", "taylor")


@lru_cache(maxsize=5)
def table(measure: Measure) -> Table:
    return sensitivity(quantized_small(8, 8), digits()[0][:96], widths=(2, 4, 8), measure=measure, roles=("weight", "activation", "input"))


@pytest.mark.parametrize("measure", MEASURES)
def test_every_quantizer_has_a_row_and_longer_words_lose_less(measure: Measure) -> None:
    found = table(measure)
    qmodel = quantized_small(8, 8)
    wanted = [name for name, _ in qfx.quantizers(qmodel) if not name.endswith(".bias") and name != "head.output"]
    assert sorted(row.name for row in found.rows) == sorted(wanted)
    weights = {f"{path}.weight": layer.weight.numel() for path, layer in qmodel.named_modules() if isinstance(layer, Weighted)}
    assert {row.name: row.numbers for row in found.rows if row.role == "weight"} == weights
    assert found.row("relu.output").numbers == 8 * 8 * 8
    assert found.row("input").role == "input"
    for row in found.rows:
        assert row.losses[0] > row.losses[2] >= 0, row
        assert row.losses[0] > 30 * row.losses[2], row  # 6 bits are 36 dB


def test_sqnr_is_that_of_the_float_model_with_one_weight_cast() -> None:
    x, _ = digits()
    model = fold_batch_norm(trained_small(), x[:8])
    with torch.no_grad():
        expected = model(x[:96])
        cast = quantized_small(4, 8).get_submodule("conv1")
        layer = model.get_submodule("conv1")
        assert isinstance(layer, nn.Conv2d)
        assert isinstance(cast, Weighted)
        layer.weight.copy_(cast.weight_cast(layer.weight).value)
        noise = float((model(x[:96]) - expected).double().square().sum() / expected.double().square().sum())
    assert table("sqnr").loss("conv1.weight", 4) == pytest.approx(noise, rel=1e-3)
    assert table("sqnr").decibels("conv1.weight", 4) == pytest.approx(-10 * math.log10(noise), abs=0.01)


@pytest.mark.parametrize("measure", ["fisher", "taylor"])
def test_gradients_predict_the_loss_of_a_linear_model(measure: Measure) -> None:
    """One linear layer: the distillation loss of small errors is known from the error itself."""
    torch.manual_seed(0)
    model, x = nn.Linear(6, 3), torch.randn(256, 6)
    weights = Recipe(weight=Spec(8), output=Spec(16))
    found = sensitivity(model, x, widths=(6,), measure=measure, recipe=weights, roles=("weight",), probes=200)
    qmodel = qfx.quantize(model, x, Recipe(weight=Spec(6), output=Spec(16)))
    layer = qmodel.get_submodule("layer")
    assert isinstance(layer, Weighted)
    with torch.no_grad():
        y, other = model(x), nn.functional.linear(x, layer.weight_cast(layer.weight).value, model.bias)
        p, q = torch.log_softmax(y, 1), torch.log_softmax(other, 1)
        loss = float((p.exp() * (p - q)).sum(1).mean() + (y - other).square().mean() / (y - y.mean()).square().mean())
    assert found.rows[0].losses[0] == pytest.approx(loss, rel=0.35)


def test_a_float_model_is_folded_and_quantized_first() -> None:
    x, _ = digits()
    found = sensitivity(trained_small(), x[:64], widths=(3,), measure="hessian", recipe=recipe(5, 7), roles=("weight",))
    assert [row.name for row in found.rows] == ["stem.weight", "conv1.weight", "conv2.weight", "depthwise.weight", "head.weight"]
    assert {row.width for row in found.rows} == {5}


def test_nothing_is_changed_and_a_seed_decides() -> None:
    x, _ = digits()
    qmodel = quantized_small(8, 8)
    before = {name: value.clone() for name, value in qmodel.state_dict().items()}
    first = sensitivity(qmodel, x[:64], widths=(3, 4), measure="taylor", seed=1)
    again = sensitivity(qmodel, [x[:64]], widths=(4, 3, 3), measure="taylor", seed=1)
    other = sensitivity(qmodel, x[:64], widths=(3, 4), measure="taylor", seed=2)
    assert first == again
    assert first != other
    assert all(torch.equal(value, qmodel.state_dict()[name]) for name, value in before.items())


def test_a_layer_that_nothing_reads_loses_nothing() -> None:
    class Silent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loud, self.silent, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
            nn.init.zeros_(self.last.weight)
            nn.init.ones_(self.last.bias)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.relu(self.silent(torch.relu(self.loud(x)))))  # type: ignore[no-any-return]

    for measure in MEASURES:
        found = sensitivity(Silent(), torch.randn(32, 4), widths=(2,), measure=measure)
        assert found.loss("silent.weight", 2) == 0.0


@pytest.mark.parametrize("measure", ["sqnr", "fisher"])
def test_progress_ends_where_it_said(measure: Measure) -> None:
    seen: list[tuple[str, int, int]] = []
    sensitivity(quantized_small(8, 8), digits()[0][:32], widths=(4,), measure=measure, progress=lambda *step: seen.append(step))
    assert all(done <= total == seen[0][2] for _, done, total in seen)
    assert seen[-1][1] == seen[-1][2]


def test_the_table_as_text() -> None:
    text = str(table("sqnr"))
    worst = max(table("sqnr").rows, key=lambda row: row.losses[0])
    assert text.splitlines()[2].startswith(worst.name)
    assert len(text.splitlines()) == 2 + len(table("sqnr").rows)


def test_what_is_refused() -> None:
    x, _ = digits()
    with pytest.raises(RecipeError, match="sqnr, correlation"):
        sensitivity(trained_small(), x[:8], measure="magic")  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="role"):
        sensitivity(trained_small(), x[:8], roles=("bias",))  # type: ignore[list-item, arg-type]
    for widths in ((), (0, 4), (4, 33)):
        with pytest.raises(RecipeError, match="1 to 32"):
            sensitivity(trained_small(), x[:8], widths=widths)
    with pytest.raises(DataError, match="no calibration data"):
        sensitivity(trained_small(), x[:0])
    with pytest.raises(QfxError, match="has no row"):
        table("sqnr").loss("nowhere", 4)
    with pytest.raises(QfxError, match="not measured at 5 bits"):
        table("sqnr").loss("conv1.weight", 5)


def test_canonical_correlation() -> None:
    generator = torch.Generator().manual_seed(0)
    a, noise = (torch.randn(400, 5, generator=generator) for _ in range(2))
    turned = a @ torch.randn(5, 5, generator=generator) + 3
    assert canonical_correlation(a, turned) == pytest.approx(1.0, abs=1e-9)
    assert canonical_correlation(a, noise) < 0.2
    assert canonical_correlation(a, a + noise) == pytest.approx(math.sqrt(0.5), abs=0.05)
    assert canonical_correlation(a, torch.ones(400, 5)) == 0.0
    assert canonical_correlation(torch.zeros(400, 2), torch.ones(400, 5)) == 1.0
