"""The numbers of the benchmark in a shorter form: published weights, real images, few of them, cheap passes; the aims with room for the sample.

The full form is ``make bench-ptq``.
"""

from __future__ import annotations

import copy
import importlib.util
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.ptq import adaround, gptq

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import ptq as bench
from benchmarks.models import Layers, ResNet

needs_data = pytest.mark.skipif(not (bench.DATA / bench.CHECKPOINT).is_file(), reason=f"{bench.DATA} has no {bench.CHECKPOINT}: set QFX_DATA")
needs_brevitas = pytest.mark.skipif(importlib.util.find_spec("brevitas") is None, reason="Brevitas is in the extra 'bench'")

JUDGED, CALIBRATION, COMPARED = 300, 64, 16
MARGIN = 1.5
"""Points of accuracy: three hundred images are not ten thousand, and the two models mistake mostly the same ones."""


@lru_cache(maxsize=1)
def calibration() -> Tensor:
    return bench.calibration_images(CALIBRATION)


@lru_cache(maxsize=1)
def judged() -> tuple[Tensor, Tensor]:
    return bench.judged_images(JUDGED)


def accuracy(model: nn.Module) -> float:
    return bench.accuracy(model, *judged())


@lru_cache(maxsize=1)
def float_accuracy() -> float:
    return accuracy(bench.float_model())


@lru_cache(maxsize=4)
def _nearest(weight: int, activation: int, observer: str) -> nn.Module:
    return bench.nearest(calibration(), weight, activation, observer)


def nearest(weight: int, activation: int, observer: str = "mse") -> nn.Module:
    return copy.deepcopy(_nearest(weight, activation, observer))


@needs_data
def test_8_bits_are_as_good_as_float() -> None:
    model = nearest(8, 8)
    assert accuracy(model) >= float_accuracy() - bench.AIMS[8, 8] - MARGIN
    assert bench.differing_bits(model, judged()[0][:COMPARED]) == 0


@needs_data
def test_6_bits_and_4_bit_weights_need_gptq() -> None:
    for widths in ((6, 6), (4, 8)):
        model = nearest(*widths)
        plain = accuracy(model)
        gptq(model, calibration())
        assert accuracy(model) >= float_accuracy() - bench.AIMS[widths] - MARGIN
        assert widths == (6, 6) or accuracy(model) > plain + 2
        assert bench.differing_bits(model, judged()[0][:COMPARED]) == 0


@needs_data
def test_4_bits_are_far_above_rounding_to_nearest() -> None:
    """Not the aim of the full form, which takes tuning: GPTQ and a few iterations alone."""
    plain = accuracy(nearest(4, 4, "minmax"))
    model = nearest(4, 4)
    gptq(model, calibration())
    assert accuracy(model) >= plain + 10
    assert bench.differing_bits(model, judged()[0][:COMPARED]) == 0


@needs_data
def test_adaround_helps_on_the_real_network() -> None:
    model = nearest(4, 8)
    before = accuracy(model)
    results = adaround(model, calibration()[:32], iterations=60, layers=["conv1", "blocks.0.conv1", "blocks.0.conv2", "blocks.1.conv1"])
    assert all(result.after < result.before for result in results)
    assert accuracy(model) > before - 1


@needs_data
@needs_brevitas
@pytest.mark.filterwarnings("ignore")
def test_the_row_of_brevitas_is_a_quantized_network() -> None:
    """At 8 bits it is as good as float, which shows that the flow is driven as it should be; at 4 bits its weights take at most 16 values."""
    from benchmarks.brevitas_ptq import post_training

    model = post_training(bench.float_model(), calibration()[:32], 8, 8, equalize=False, gptq=False)
    assert accuracy(model) >= float_accuracy() - 2
    few = post_training(bench.float_model(), calibration()[:8], 4, 4, equalize=False, gptq=False, correct_bias=False)
    channel = few.get_submodule("conv1").quant_weight().value[3].detach().unique()  # type: ignore[operator]
    assert len(channel) <= 16
    steps = torch.diff(channel)
    units = steps / steps.min()
    assert torch.equal(units, units.round())
    assert float(torch.log2(steps.min())).is_integer()


@needs_data
@needs_brevitas
@pytest.mark.filterwarnings("ignore")
def test_brevitas_learns_to_round() -> None:
    """From nearest, a few steps move some weights by one unit, none by more, and leave a network that recognizes images."""
    from benchmarks.brevitas_ptq import post_training

    options = {"least_error": True, "equalize": False, "gptq": False, "correct_bias": False}
    model = post_training(bench.float_model(), calibration()[:8], 4, 8, learn_rounding=True, steps=10, **options)
    moved = 0
    for name in ("conv1", "blocks.4.conv2", "fc"):
        layer = model.get_submodule(name)
        weight = layer.quant_weight()  # type: ignore[operator]
        units = weight.value / weight.scale - (layer.weight / weight.scale).round().clamp(-8, 7)  # type: ignore[operator]
        assert torch.equal(units, units.round())
        assert int(units.abs().max()) <= 1
        moved += int(units.count_nonzero())
    assert moved > 0
    assert accuracy(model) > 50


def test_differing_bits_sees_a_single_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted fault: ONNX Runtime is made to give one raw integer that is off by one."""
    torch.manual_seed(0)
    x = torch.randn(4, 3, 32, 32)
    model = qfx.quantize(ResNet(Layers(), depth=1), x, bench.recipe(4, 4)).eval()
    assert bench.differing_bits(model, x) == 0
    true = bench.onnx_runtime

    def faulty(path: Path, graph: qfx.Graph) -> object:
        def execute(inputs: np.ndarray) -> np.ndarray:
            raw = true(path, graph)(inputs).copy()
            raw[2, 5] ^= 1
            return raw

        return execute

    monkeypatch.setattr(bench, "onnx_runtime", faulty)
    assert bench.differing_bits(model, x) == 1


def test_verdicts() -> None:
    row = bench.Result("nearest, min-max", 4, 4, 60.0, 1.0, 100, 0)
    rows = [row, replace(row, method="GPTQ, tuned", accuracy=88.0), replace(row, method="Brevitas", accuracy=75.0, differing_bits=None)]
    assert bench.verdicts(rows, 91.0) == [
        "4/4: GPTQ, tuned is 3.00 below float (aim 6.0: reached), 28.00 above nearest with min-max, +13.00 to the best row of Brevitas"
    ]
    assert "missed" in bench.verdicts(rows[:1], 91.0)[0]
