"""Losses that compare a model in training with a teacher."""

from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx import Distillation, QfxError, Recipe
from qfx.ptq import float_reference
from qfx.training.distillation import map_distance, relative_error, soft_divergence


def _network(channels: int = 4) -> nn.Module:
    torch.manual_seed(channels)
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(1, channels, 3, padding=1), bn=nn.BatchNorm2d(channels), relu=nn.ReLU(), more=nn.Conv2d(channels, channels, 3),
            act=nn.ReLU(), flat=nn.Flatten(), fc=nn.Linear(16 * channels, 3),
        )
    )  # fmt: skip


def _x() -> Tensor:
    return torch.randn(16, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def _kl_by_hand(result: Tensor, target: Tensor, temperature: float) -> float:
    p, q = (target / temperature).double().softmax(1), (result / temperature).double().softmax(1)
    return float((p * (p / q).log()).sum(1).mean() * temperature**2)


def test_the_divergence_is_that_of_the_definition() -> None:
    result, target = torch.randn(8, 5), torch.randn(8, 5)
    for temperature in (1.0, 4.0):
        assert float(soft_divergence(result, target, temperature)) == pytest.approx(_kl_by_hand(result, target, temperature), rel=1e-4)
    assert float(soft_divergence(result, result, 2.0)) == pytest.approx(0, abs=1e-6)
    maps = torch.randn(2, 5, 3, 3), torch.randn(2, 5, 3, 3)
    flat = [part.movedim(1, -1).reshape(-1, 5) for part in maps]
    assert float(soft_divergence(*maps)) == pytest.approx(_kl_by_hand(*flat, 1.0), rel=1e-4)


def test_a_model_learns_what_its_teacher_gives() -> None:
    teacher, x = _network(), _x()
    student = _network()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    qmodel = qfx.quantize(student, x, Recipe.uniform(6)).train()
    teacher.train()
    kept = copy.deepcopy(teacher.state_dict())
    distillation = Distillation(teacher, temperature=2.0)
    optimizer = torch.optim.Adam(qfx.parameter_groups(qmodel, lr=1e-2))
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = distillation(x, qmodel(x))
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(kept[name], value) for name, value in teacher.state_dict().items())  # evaluated, though it is in training mode
    assert teacher.training
    assert all(module.training for module in teacher.modules())


@pytest.mark.parametrize("transfer", ["values", "maps"])
def test_features_of_the_float_model(transfer: str) -> None:
    model, x = _network().eval(), _x()
    qmodel = qfx.quantize(model, x, Recipe.uniform(4)).train()
    plain = Distillation(model)(x, qmodel(x))
    distillation = Distillation(model, qmodel, features=["relu", "act"], feature_share=0.5, transfer=transfer)
    seen = float_reference(qmodel)  # a copy: watches nothing
    with torch.no_grad():
        qmodel.eval()(x)  # an evaluation in between does not count
    qmodel.train()
    total = distillation(x, qmodel(x))
    casts = dict(qfx.quantizers(qmodel))
    reached: dict[str, Tensor] = {}
    handles = [
        casts[f"{name}.output"].register_forward_hook(lambda _m, _a, out, name=name: reached.update({name: out.tensor()})) for name in ("relu", "act")
    ]
    result = qmodel(x)
    inner = {"relu": F.relu(model.bn(model.conv(x)))}
    inner["act"] = F.relu(model.more(inner["relu"]))
    compare = relative_error if transfer == "values" else map_distance
    by_hand = sum(compare(reached[name], inner[name].detach()) for name in inner) / 2
    torch.testing.assert_close(distillation(x, result), Distillation(model)(x, result) + 0.5 * by_hand)
    for handle in handles:
        handle.remove()
    assert float(total.detach()) > float(plain.detach())
    total.backward()
    assert all(parameter.grad is not None for name, parameter in qmodel.named_parameters() if name in ("conv.weight", "bn.weight"))
    distillation.close()
    assert not any(module._forward_hooks for part in (model, qmodel, seen) for module in part.modules())


def test_maps_alone_bring_a_rough_model_nearer() -> None:
    """Their gradient reaches every weight in front of the maps, and following it alone makes the maps agree."""
    model, x = _network().eval(), _x()
    qmodel = qfx.quantize(model, x, Recipe.uniform(3)).train()
    lesson = Distillation(model, qmodel, features=["act"], transfer="maps")

    def apart() -> Tensor:
        result = qmodel(x)
        return lesson(x, result) - Distillation(model)(x, result)

    weights = [parameter for name, parameter in qmodel.named_parameters() if name in ("conv.weight", "more.weight")]
    assert all(float(part.abs().max()) > 0 for part in torch.autograd.grad(apart(), weights))
    optimizer = torch.optim.Adam(qmodel.parameters(), 2e-3)
    first = float(apart().detach())
    for _ in range(40):
        optimizer.zero_grad()
        loss = apart()
        loss.backward()
        optimizer.step()
    assert float(apart().detach()) < 0.7 * first


def test_a_larger_teacher_by_maps() -> None:
    teacher, x = _network(8), _x()
    qmodel = qfx.quantize(_network(4), x)
    distillation = Distillation(teacher, qmodel, features={"relu.output": "relu", "act": "act"}, transfer="maps")
    assert float(distillation(x, qmodel(x)).detach()) > 0
    values = Distillation(teacher, qmodel, features=["relu"])
    with pytest.raises(QfxError, match="features of shape"):
        values(x, qmodel(x))


def test_maps_of_one_length() -> None:
    a = torch.randn(3, 4, 5, 5)
    assert float(map_distance(a, 3 * a)) == pytest.approx(0, abs=1e-6)
    assert float(map_distance(a, a[:, :, :, torch.randperm(5)])) > 0


def test_numbers_and_several_results() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 2)

        def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            return {"a": self.a(x), "b": self.b(y)}

    torch.manual_seed(0)
    model, x, y = Two(), torch.randn(8, 4), torch.randn(8, 4)
    qmodel = qfx.quantize(model, (x, y), Recipe.uniform(5))
    distillation = Distillation(model, results="numbers")
    result, target = qmodel(x, y), model(x, y)
    by_hand = sum(relative_error(result[name], target[name].detach()) for name in "ab") / 2
    torch.testing.assert_close(distillation((x, y), result), by_hand)
    torch.testing.assert_close(distillation({"x": x, "y": y}, result), by_hand)
    with pytest.raises(QfxError, match="the teacher's have"):
        distillation((x, y), result["a"])


def test_what_cannot_be_compared_is_refused() -> None:
    model, x = _network(), _x()
    qmodel = qfx.quantize(model, x)
    with pytest.raises(QfxError, match="features need the model in training"):
        Distillation(model, features=["relu"])
    with pytest.raises(QfxError, match="no quantizer is called 'relu1'"):
        Distillation(model, qmodel, features=["relu1"])
    with pytest.raises(QfxError, match="the teacher has no module 'relu2'"):
        Distillation(model, qmodel, features={"relu": "relu2"})
    for wrong in ({"temperature": 0.0}, {"results": "logits"}, {"transfer": "all"}):
        with pytest.raises(QfxError):
            Distillation(model, **wrong)
    distillation = Distillation(model, qmodel, features=["relu"])
    result = qmodel(x)
    distillation(x, result)
    with pytest.raises(QfxError, match="has not run since"):
        distillation(x, result)
    with pytest.raises(QfxError, match="is not a quantized model"):
        Distillation(model, model, features=["relu"])


def test_a_layer_that_runs_twice_in_the_teacher() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.relu, self.b = nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.relu(self.a(self.relu(x))))

    model, x = Twice(), torch.randn(8, 4)
    qmodel = qfx.quantize(model, x)
    distillation = Distillation(model, qmodel, features={"relu_1.output": "relu"})
    with pytest.raises(QfxError, match="runs 2 times in the teacher"):
        distillation(x, qmodel(x))
