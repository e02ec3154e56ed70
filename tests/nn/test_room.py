"""Constants that training moves beyond their range: they are held, in every mode and in every executor."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import qfx
from qfx import Recipe, Spec
from qfx.ir.interpret import run
from qfx.nn.casts.room import make_room
from qfx.nn.quantizer import Quantizer


def shifted() -> tuple[nn.Module, torch.Tensor]:
    """A convolution and a BatchNorm whose shift is next to nothing in one channel, quantized; and images."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    with torch.no_grad():
        norm.bias.copy_(torch.tensor([1e-3, 0.5, -0.25, 1.0]))
        norm.running_mean.zero_()
        norm.num_batches_tracked.fill_(1)
    model = nn.Sequential(nn.Conv2d(2, 4, 3, bias=True), norm, nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 3))
    x = torch.randn(8, 2, 6, 6)
    recipe = Recipe(weight=Spec(6), shift=Spec(16, granularity="channel"), bias=Spec(16, granularity="channel"), activation=Spec(6))
    return qfx.quantize(model.eval(), x, recipe), x


def test_a_shift_grows_beyond_its_range() -> None:
    qmodel, _ = shifted()
    norm = qmodel.get_submodule("1")
    with torch.no_grad():
        norm.bias.copy_(torch.tensor([3.7, 0.5, -0.25, -9.0]))
    scale, shift = norm.constants()
    wanted = norm.affine()[1].detach()
    steps = 2.0 ** -norm.shift_cast.points()
    assert ((shift.value - wanted).abs() <= steps / 2).all()
    assert (scale.value > 0).all()
    assert (steps.flatten()[1:3] < steps.flatten()[3]).all()  # who has not outgrown its range keeps its resolution


def test_the_gradient_of_a_bias_beyond_its_range() -> None:
    qmodel, x = shifted()
    linear = qmodel.get_submodule("4")
    with torch.no_grad():
        linear.bias.copy_(torch.tensor([6.0, -3.0, 0.1]))
    qmodel(x).sum().backward()
    assert torch.equal(linear.bias.grad, torch.full((3,), 8.0))


def test_training_evaluation_and_interpreter_agree() -> None:
    qmodel, x = shifted()
    with torch.no_grad():
        qmodel.get_submodule("1").bias.add_(5.0)
        qmodel.get_submodule("4").bias.mul_(100.0)
    trained = qmodel.train()(x)
    state = {name: value.clone() for name, value in qmodel.state_dict().items()}
    qmodel.load_state_dict(state)
    again, _ = shifted()
    with torch.no_grad():
        again.get_submodule("1").bias.add_(5.0)
        again.get_submodule("4").bias.mul_(100.0)
    evaluated = again.eval()(x)
    assert torch.equal(trained, evaluated)
    assert torch.equal(torch.as_tensor(run(qfx.to_graph(again), x.numpy()), dtype=trained.dtype), evaluated)


def test_a_backward_pass_finds_what_its_forward_saw() -> None:
    qmodel, x = shifted()
    first = qmodel(x).square().sum()
    with torch.no_grad():
        for name in ("1", "4"):
            qmodel.get_submodule(name).bias.data = qmodel.get_submodule(name).bias.data * 50
    qmodel(x)  # moves binary points in between
    first.backward()
    gradient = qmodel.get_submodule("0").weight.grad.clone()
    other, _ = shifted()
    other(x).square().sum().backward()
    assert torch.equal(gradient, other.get_submodule("0").weight.grad)


@pytest.mark.parametrize("spec", [Spec(8), Spec(16, frac_bits=14), Spec(16, o="AP_WRAP"), Spec(16, learn_width=True)], ids=str)  # type: ignore[arg-type]
def test_what_stays(spec: Spec) -> None:
    cast = Quantizer(spec, channel_axis=0, name="bias")
    cast.initialize(torch.tensor([0.5, 0.25]))
    before = cast.frac_bits.detach().clone()
    make_room(cast, torch.tensor([50.0, 0.25]))
    assert torch.equal(cast.frac_bits.detach(), before)


def test_what_calibration_cut_off_stays_cut_off() -> None:
    cast = Quantizer(Spec(16, granularity="channel"), channel_axis=0, name="bias")
    numbers = torch.tensor([0.99999, -1.0, 0.3])
    cast.initialize(numbers)
    before = cast.frac_bits.detach().clone()
    make_room(cast, numbers)
    assert torch.equal(cast.frac_bits.detach(), before)
