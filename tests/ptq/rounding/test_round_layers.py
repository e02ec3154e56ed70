"""Rounding passes on a whole trained network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from ptq_nets import accuracy, assert_exports_exactly, assert_on_grid, digits, distance, quantized_small, recipe, trained_small
from torch import Tensor, nn

import qfx
from qfx import Recipe, Spec
from qfx.errors import QfxError, RecipeError
from qfx.fixed.type import OMode, QMode
from qfx.nn.layers import Weighted
from qfx.ptq import adaround_blocks, correct_bias, tune
from qfx.ptq.float_reference import float_reference
from qfx.ptq.rounding.adaround import adaround
from qfx.ptq.rounding.comq import comq
from qfx.ptq.rounding.gptq import gptq
from qfx.ptq.rounding.grid import integer_range
from qfx.ptq.rounding.methods import round_weights

FAST_ADAROUND: dict[str, Any] = {"iterations": 120, "rate": 0.08}
PASSES: dict[str, Callable[..., Any]] = {"adaround": lambda q, x, **o: adaround(q, x, **FAST_ADAROUND, **o), "comq": comq, "gptq": gptq}


def calibration() -> Tensor:
    return digits()[0][:256]


@pytest.mark.parametrize("name", PASSES)
def test_pass_brings_the_model_nearer_and_exports_exactly(name: str) -> None:
    q = quantized_small(3, 8)
    start, start_accuracy = distance(q), accuracy(q)
    calls: list[tuple[str, int, int]] = []
    results = PASSES[name](q, calibration(), progress=lambda *call: calls.append(call))
    assert distance(q) < 0.35 * start
    assert accuracy(q) > start_accuracy
    assert [result.path for result in results] == ["stem", "conv1", "conv2", "depthwise", "head"]
    assert all(0 <= result.after < result.before for result in results)
    assert sum(result.moved for result in results) > 0
    assert calls == [(name, number, 5) for number in range(6)]
    assert_on_grid(q)
    assert_exports_exactly(q)


@pytest.mark.parametrize("name", PASSES)
def test_pass_repeats_for_a_seed_and_with_little_memory(name: str) -> None:
    def run(**options: Any) -> dict[str, Tensor]:
        q = quantized_small(3, 8)
        PASSES[name](q, calibration()[:96], **options)
        return dict(q.state_dict())

    first, again = run(), run()
    assert all(torch.equal(first[key], again[key]) for key in first)
    if name != "adaround":  # which keeps fewer rows then
        spilled = run(memory_bytes=1 << 17)
        assert all(torch.equal(first[key], spilled[key]) for key in first if key.endswith("weight"))


def test_errors_are_those_of_the_layer() -> None:
    """What a result says about the last layer, measured by running the models."""
    q = quantized_small(3, 8)
    reference, x = float_reference(q), calibration()
    results = round_weights(q, x, "comq", reference=reference)
    found: list[Tensor] = []
    handles = [model.get_submodule("head").register_forward_hook(lambda *call: found.append(call[2].tensor())) for model in (q, reference)]
    with torch.no_grad():
        q(x)
        reference(x)
    for handle in handles:
        handle.remove()
    assert float((found[0] - found[1]).square().mean()) == pytest.approx(results[-1].after, rel=0.02)  # the bias is rounded, that is all


def test_targets_come_from_the_given_reference() -> None:
    q = quantized_small(3, 8)
    reference = float_reference(q)
    for layer in q.modules():
        if isinstance(layer, Weighted):
            layer.set_cast_weight(layer.weight_cast(layer.cast_weight()).value.detach())  # an earlier pass has rounded to nearest
    start = distance(q)
    blind = quantized_small(3, 8)
    blind.load_state_dict(q.state_dict())
    comq(q, calibration(), reference=reference)
    comq(blind, calibration(), reference=float_reference(blind))
    assert distance(q) < 0.35 * start
    assert distance(blind) > distance(q)


def test_a_reference_that_comes_too_late_is_refused() -> None:
    """All weights are rounded: what could be taken from the model now is not the float one."""
    q = quantized_small(3, 8)
    comq(q, calibration(), layers=["conv2"])
    comq(q, calibration(), layers=["conv1"])  # the others are still as they were
    comq(q, calibration(), reference=float_reference(q))
    for later in (*PASSES.values(), correct_bias, tune, adaround_blocks):
        with pytest.raises(QfxError, match=r"rounded weights already(.|\n)*reference = float_reference"):
            later(q, calibration())


def test_only_the_named_layers_change() -> None:
    q = quantized_small(3, 8)
    before = {key: value.clone() for key, value in q.state_dict().items()}
    results = comq(q, calibration(), layers=["conv2"])
    changed = {key for key, value in q.state_dict().items() if not torch.equal(value, before[key])}
    assert [result.path for result in results] == ["conv2"]
    assert "conv2.weight" in changed
    assert changed <= {"conv2.weight", "conv2.bias", "conv2.bias_cast.frac_bits"}
    comq(q, calibration(), layers=["conv1"], correct_bias=False)
    assert torch.equal(q.state_dict()["conv1.bias"], before["conv1.bias"])


def test_bias_takes_the_mean_error_and_still_fits() -> None:
    """Weights of 1 bit cannot give the mean; a bias that must grow gets binary points that hold it."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 4))
    with torch.no_grad():
        model[0].bias.fill_(0.01)
    model.requires_grad_(False)
    x = torch.rand(200, 16, generator=generator) * 8 + 4
    q = qfx.quantize(model, x, Recipe(weight=Spec(2), bias=Spec(8), activation=Spec(12), input=Spec(12), output=Spec(16))).eval()
    reference = float_reference(q)
    comq(q, x, reference=reference)
    with torch.no_grad():
        left = q(x) - reference(x)
    unit = torch.exp2(-q.get_submodule("0").bias_cast.frac_bits.round()).detach()
    assert float(q.get_submodule("0").bias.abs().max()) > 1
    assert bool((left.mean(0).abs() <= unit.max()).all())
    assert_exports_exactly(q, x)


@pytest.mark.parametrize("o", list(OMode))
@pytest.mark.parametrize("signed", [True, False])
def test_weights_lie_on_the_grid_in_every_mode(o: OMode, signed: bool) -> None:
    if o is OMode.WRAP_SM and not signed:
        return
    generator = torch.Generator().manual_seed(1)
    model = nn.Sequential(nn.Conv1d(4, 6, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    x = torch.randn(64, 4, 8, generator=generator)
    q = qfx.quantize(model, x, Recipe(weight=Spec(3, q=QMode.TRN, o=o, signed=signed, granularity="channel"))).eval()
    reference = float_reference(q)
    for pass_ in PASSES.values():
        pass_(q, x, reference=reference)
        assert_on_grid(q)
    low, high = integer_range(q.get_submodule("0").weight_cast)
    raw = q.get_submodule("0").weight.detach() * torch.exp2(q.get_submodule("0").weight_cast.frac_bits.round()).detach()
    assert low <= float(raw.min()) <= float(raw.max()) <= high
    assert (low, high) == ((0, 7) if not signed else (-3, 3) if o in (OMode.SAT_SYM, OMode.WRAP_SM) else (-4, 3))
    assert_exports_exactly(q, x)


def test_transposed_convolution_without_a_bias_in_float64() -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(2)
    model = nn.Sequential(nn.ConvTranspose2d(2, 4, 3, stride=2, groups=2, bias=False), nn.LeakyReLU(0.25), nn.Conv2d(4, 2, 3)).double()
    x = torch.randn(32, 2, 5, 5, generator=generator).double()
    for name, pass_ in PASSES.items():
        q = qfx.quantize(model, x, recipe(3, 8)).eval()
        results = pass_(q, x)
        assert all(result.after <= result.before for result in results), name
        assert results[1].after < results[1].before
        assert q.get_submodule("0").weight.dtype is torch.float64
        assert_on_grid(q)


def test_kept_batch_norm_stays() -> None:
    x, _ = digits()
    q = qfx.quantize(trained_small(), x[:64], recipe(3, 8)).eval()
    assert q.get_submodule("norm") is not None
    before = {key: value.clone() for key, value in q.state_dict().items() if "norm" in key}
    start = distance(q)
    comq(q, calibration())
    assert distance(q) < 0.7 * start
    assert all(torch.equal(value, q.state_dict()[key]) for key, value in before.items())
    assert_exports_exactly(q)


def test_dead_layer_and_silent_channel_survive() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = 0.0, -1.0  # never fires
        model[2].weight.zero_()
        model[2].bias.zero_()
    x = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    for pass_ in PASSES.values():
        q = qfx.quantize(model, x, recipe(3, 8)).eval()
        pass_(q, x)
        assert torch.equal(q.get_submodule("2").weight, torch.zeros(3, 4))
        assert_on_grid(q)
        assert_exports_exactly(q, x)


def test_unknown_method_and_layer_are_refused() -> None:
    q = quantized_small()
    with pytest.raises(RecipeError, match=r"'adarond'.*\n.*adaround, comq, gptq"):
        round_weights(q, calibration(), "adarond")  # type: ignore[arg-type]
    with pytest.raises(QfxError, match="did you mean conv1"):
        comq(q, calibration(), layers=["conv_1"])


def test_interrupt_leaves_a_model_that_works() -> None:
    q = quantized_small(3, 8).train()

    def stop(stage: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    before = {key: value.clone() for key, value in q.state_dict().items()}
    with pytest.raises(KeyboardInterrupt):
        comq(q, calibration(), progress=stop)
    changed = {key.partition(".")[0] for key, value in q.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"stem", "conv1"}
    assert q.training
    assert_exports_exactly(q)
