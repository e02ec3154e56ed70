"""The analysis of a quantized model: its numbers against direct computation, and planted faults."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import qfx
from qfx.ptq.float_reference import float_reference
from qfx.ptq.measure import sqnr
from qfx.ptq.report.analysis import Analysis, analyse
from qfx.ptq.report.html import decibel, number, percent, points


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(32, 2, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def qmodel(x: torch.Tensor) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    return qfx.quantize(model, x, qfx.Recipe(weight=qfx.Spec(5, granularity="channel"))).eval()


def of(qmodel: nn.Module, x: torch.Tensor) -> Analysis:
    return analyse(qmodel, float_reference(qmodel), x)  # type: ignore[arg-type]


def test_numbers(qmodel: nn.Module, x: torch.Tensor) -> None:
    found = of(qmodel, x)
    rows = {row.name: row for row in found.rows}
    assert list(rows) == ["input", "0.weight", "1.output", "3.weight", "3.output"]
    assert [name for name, _, _ in found.constants] == ["0.bias", "3.bias"]
    reference = float_reference(qmodel)
    with torch.no_grad():
        assert rows["3.output"].db == sqnr(reference(x), qmodel(x))
        cast = qmodel.get_submodule("input").cast
        assert rows["input"].db == rows["input"].own_db == sqnr(x, cast(x).tensor())
        layer = qmodel.get_submodule("0")
        assert rows["0.weight"].db == sqnr(layer.weight, layer.weight_cast(layer.weight).tensor())
    assert (rows["input"].low, rows["input"].high) == (float(x.min()), float(x.max()))
    assert rows["0.weight"].frac_bits == tuple(int(bits) for bits in layer.weight_cast.frac_bits.flatten())
    assert sum(rows["input"].histogram.exact) == x.numel() == sum(rows["input"].histogram.quantized)
    assert rows["1.output"].type.startswith("ap_ufixed<8,")
    assert found.warnings == ()
    assert found.samples == 32


def test_own_error_leaves_out_what_comes_from_before(qmodel: nn.Module, x: torch.Tensor) -> None:
    row = next(row for row in of(qmodel, x).rows if row.name == "1.output")
    assert row.own_db > row.db


def test_a_binary_point_too_far_right_is_seen(qmodel: nn.Module, x: torch.Tensor) -> None:
    """The planted fault: the first activations get a range that is four times too short."""
    cast = next(quantizer for name, quantizer in qfx.quantizers(qmodel) if name == "1.output")
    with torch.no_grad():
        cast.frac_bits += 3
        reads = torch.relu(qmodel.get_submodule("0")(qmodel.get_submodule("input")(x)).tensor())
    found = of(qmodel, x)
    row = next(row for row in found.rows if row.name == "1.output")
    assert row.clipped == float((reads > row.most + 0.5 * (row.most / 255)).double().mean()) > 0.01
    assert any(text.startswith("1.output:") and "beyond its type" in text for text in found.warnings)


def test_few_bits_are_poor(x: torch.Tensor) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU())
    found = of(qfx.quantize(model, x, qfx.Recipe.uniform(1, output=qfx.Spec(1))).eval(), x)
    assert any("only" in text and "dB" in text for text in found.warnings)


def test_words() -> None:
    assert points((3, 3, 3)) == "3"
    assert points((4, 3, 4)) == "3 (1 of 3), 4 (2 of 3)"
    assert (decibel(None), decibel(float("inf")), decibel(-float("inf")), decibel(12.345)) == ("", "exact", "no signal", "12.35 dB")
    assert (percent(None), percent(0.5), number(-0.0)) == ("", "50.00 %", "0")
