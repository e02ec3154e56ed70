"""What a plain training loop takes: what stays, what is not cast yet, ladders of word lengths, quantized parts of float models."""

from __future__ import annotations

import copy
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from nn_models import check_exact
from torch import Tensor, nn

import qfx
from qfx import QfxError, Recipe, Spec
from qfx.errors import RecipeError, UnsupportedError
from qfx.ptq import float_reference


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(1, 4, 3, padding=1), bn=nn.BatchNorm2d(4), relu=nn.ReLU(), more=nn.Conv2d(4, 4, 3, padding=1), norm=nn.BatchNorm2d(4),
            act=nn.ReLU(), flat=nn.Flatten(), fc=nn.Linear(144, 3),
        )
    )  # fmt: skip


def _task(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(32, 1, 6, 6, generator=generator), torch.randint(3, (32,), generator=generator)


def _train(qmodel: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 4) -> None:
    x, y = _task()
    qmodel.train()
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(qmodel(x), y).backward()
        optimizer.step()


def _adam(qmodel: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(qfx.parameter_groups(qmodel, lr=1e-2, binary_point_lr=0.2))


def _points(qmodel: nn.Module) -> dict[str, Tensor]:
    return {name: quantizer.frac_bits.detach().clone() for name, quantizer in qfx.quantizers(qmodel)}


def _moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


# ---- freeze ----


@pytest.mark.parametrize("style", ["keep", "fold"])
def test_what_is_frozen_stays_whatever_the_loop_says(style: str) -> None:
    x, _ = _task()
    qmodel = qfx.quantize(_network(), x, Recipe(batch_norm=style))
    optimizer = _adam(qmodel)
    _train(qmodel, optimizer)
    with torch.no_grad():
        value = qmodel(x)  # in training mode: moves the statistics, after it has computed
        kept = copy.deepcopy(qmodel)
        qfx.freeze(qmodel)
        assert torch.equal(qmodel(x), kept(x))
        assert not torch.equal(qmodel(x), value)
    points, mean, weight = _points(qmodel), qmodel.get_submodule("bn").running_mean.clone(), qmodel.get_submodule("conv").weight.detach().clone()
    optimizer.step()  # by gradients that are still there
    _train(qmodel, optimizer)
    assert not _moved(points, _points(qmodel))
    assert torch.equal(mean, qmodel.get_submodule("bn").running_mean)
    assert not torch.equal(weight, qmodel.get_submodule("conv").weight)
    check_exact(qmodel)
    qfx.freeze(qmodel, on=False)
    _train(qmodel, optimizer)
    assert _moved(points, _points(qmodel))
    assert not torch.equal(mean, qmodel.get_submodule("bn").running_mean)


def test_a_part_is_frozen_by_its_name() -> None:
    qmodel = qfx.quantize(_network(), _task()[0])
    optimizer = _adam(qmodel)
    qfx.freeze(qmodel, "norm", binary_points=False)
    qfx.freeze(qmodel, "*.weight", statistics=False)
    qfx.freeze(qmodel, "type:ReLU")
    points, means = _points(qmodel), {name: qmodel.get_submodule(name).running_mean.clone() for name in ("bn", "norm")}
    _train(qmodel, optimizer)
    moved = _moved(points, _points(qmodel))
    assert moved
    assert not any(name.endswith(".weight") or name in ("relu.output", "act.output") for name in moved)
    assert "norm.scale" in moved
    assert torch.equal(means["norm"], qmodel.get_submodule("norm").running_mean)
    assert not torch.equal(means["bn"], qmodel.get_submodule("bn").running_mean)
    qfx.freeze(qmodel, "type:BatchNorm2d", binary_points=False)
    means["bn"] = qmodel.get_submodule("bn").running_mean.clone()
    _train(qmodel, optimizer)
    assert torch.equal(means["bn"], qmodel.get_submodule("bn").running_mean)
    with pytest.raises(RecipeError, match="'convolution' matches nothing"):
        qfx.freeze(qmodel, "convolution")


def test_what_was_never_learned_is_not_learned_after_thawing() -> None:
    qmodel = qfx.quantize(_network(), _task()[0], Recipe(weight=Spec(8, learn=False)))
    qfx.freeze(qmodel)
    qfx.freeze(qmodel)
    qfx.freeze(qmodel, on=False)
    casts = dict(qfx.quantizers(qmodel))
    assert not casts["conv.weight"].frac_bits.requires_grad
    assert casts["relu.output"].frac_bits.requires_grad


# ---- switch ----


def test_all_off_is_the_float_model_and_all_on_is_as_before() -> None:
    x, _ = _task()
    qmodel = qfx.quantize(_network(), x, Recipe.uniform(3)).eval()
    before, state, points = qmodel(x), copy.deepcopy(qmodel.state_dict()), _points(qmodel)
    qfx.switch(qmodel, on=False)
    assert torch.equal(qmodel(x), float_reference(qmodel)(x))
    model = _network().eval()
    model.load_state_dict(qfx.float_state(qmodel))
    torch.testing.assert_close(qmodel(x), model(x), atol=1e-5, rtol=1e-4)
    assert "off" in repr(qmodel.get_submodule("conv"))
    _train(qmodel, _adam(qmodel))
    assert not _moved(points, _points(qmodel))
    qfx.switch(qmodel, on=True)
    assert not torch.equal(qmodel.eval()(x), before)  # its weights were trained
    qmodel.load_state_dict(state)
    assert torch.equal(qmodel(x), before)
    check_exact(qmodel)


def test_gradual_quantization() -> None:
    x, _ = _task()
    qmodel = qfx.quantize(_network(), x, Recipe.uniform(4))
    optimizer = _adam(qmodel)
    qfx.switch(qmodel, on=False)
    for pattern in ("*.weight", "conv", "bn", "relu", "more", "*"):
        qfx.switch(qmodel, pattern, on=True)
        _train(qmodel, optimizer, 1)
        qmodel.eval()
        evaluated = qmodel(x)
        qmodel.train()
        assert torch.equal(qmodel(x), evaluated)  # whatever the mode
    check_exact(qmodel)


def test_an_export_refuses_what_is_off(tmp_path: Path) -> None:
    qmodel = qfx.quantize(_network(), _task()[0])
    qfx.switch(qmodel, "conv", on=False)
    with pytest.raises(UnsupportedError, match=r"2 quantizers are off: conv.weight, conv.bias") as caught:
        qfx.export_onnx(qmodel, tmp_path / "model.onnx")
    assert "qfx.switch" in caught.value.remedy
    assert not (tmp_path / "model.onnx").exists()
    qfx.switch(qmodel, "conv", on=True)
    qfx.export_onnx(qmodel, tmp_path / "model.onnx")


def test_tables_are_functions_where_numbers_are_on_no_grid() -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 5)
    model = nn.Sequential(nn.Linear(5, 4), nn.Sigmoid(), nn.Linear(4, 3), nn.Tanh())
    qmodel = qfx.quantize(model, x, Recipe(activation=Spec(12))).eval()
    before = qmodel(x)
    qfx.switch(qmodel, on=False)
    torch.testing.assert_close(qmodel(x).float(), model(x).detach(), atol=1e-5, rtol=1e-4)
    qfx.switch(qmodel, "*.output", on=True)
    assert (qmodel(x) - before).abs().max() < 0.05
    qfx.switch(qmodel, on=True)
    assert torch.equal(qmodel(x), before)
    check_exact(qmodel)


def test_loops_can_be_off() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.fc = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.lstm(x)[0])

    torch.manual_seed(0)
    model, x = Last(), torch.randn(8, 6, 4)
    qmodel = qfx.quantize(model, x).eval()
    before = qmodel(x)
    qfx.switch(qmodel, on=False)
    torch.testing.assert_close(qmodel(x).float(), model(x).detach(), atol=1e-4, rtol=1e-4)
    qfx.switch(qmodel, "type:LSTM", on=True)
    assert (qmodel(x) - before).abs().max() < 0.1
    qfx.switch(qmodel, on=True)
    assert torch.equal(qmodel(x), before)


def test_a_pattern_that_switches_nothing() -> None:
    with pytest.raises(RecipeError, match="'conv1' matches nothing"):
        qfx.switch(qfx.quantize(_network(), _task()[0]), "conv1", on=False)


# ---- ladders ----


def test_a_ladder_hands_on_weights_and_statistics() -> None:
    model, (x, _) = _network(), _task()
    untouched = copy.deepcopy(model.state_dict())
    last: dict[str, Tensor] = {}
    widths = []
    for qmodel in qfx.ladder(model, x, [Recipe.uniform(bits) for bits in (8, 4, 2)]):
        state = qfx.float_state(qmodel)
        assert state.keys() == model.state_dict().keys()
        for name, value in last.items():
            assert torch.equal(state[name], value), name
        widths.append(dict(qfx.quantizers(qmodel))["conv.weight"].word_length)
        fresh = copy.deepcopy(model)
        fresh.load_state_dict(state)
        assert all(
            torch.equal(a, b)
            for a, b in zip(_points(qmodel).values(), _points(qfx.quantize(fresh, x, Recipe.uniform(widths[-1]))).values(), strict=True)
        )
        _train(qmodel, _adam(qmodel))
        check_exact(qmodel)
        last = qfx.float_state(qmodel)
    assert widths == [8, 4, 2]
    assert all(torch.equal(untouched[name], value) for name, value in model.state_dict().items())


def test_a_float_state_has_the_names_of_the_float_model() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(7, 4)
            self.fc = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
            self.position = nn.Parameter(torch.randn(5, 4))
            self.unused = nn.Parameter(torch.randn(3))
            self.own = nn.Parameter(torch.randn(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            y = self.fc(self.table(x) + self.position)
            return F.linear(y, self.own)

    torch.manual_seed(0)
    model, x = Net(), torch.randint(7, (6, 5))
    rungs = qfx.ladder(model, x, [Recipe.uniform(8), Recipe.uniform(6)])
    first = next(rungs)
    assert set(qfx.float_state(first)) == set(model.state_dict()) - {"unused"}
    with torch.no_grad():
        for parameter in first.parameters():
            if parameter.dim() > 1:
                parameter.mul_(1.5)
    learned = qfx.float_state(first)
    second = qfx.float_state(next(rungs))
    assert all(torch.equal(learned[name], second[name]) for name in learned)


def test_a_ladder_of_a_single_layer() -> None:
    x = torch.randn(8, 4)
    model = nn.Linear(4, 3)
    for qmodel in qfx.ladder(model, x, [Recipe.uniform(8), Recipe.uniform(4)]):
        with torch.no_grad():
            qmodel.get_parameter("layer.weight").add_(1)
    assert torch.allclose(qmodel.get_parameter("layer.weight"), model.weight + 2)


# ---- a quantized part of a float model ----


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = _network()
        self.head = nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.Linear(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


def test_only_a_part_is_quantized(tmp_path: Path) -> None:
    model, (x, y) = Whole(), _task()
    model.backbone = qfx.quantize(model.backbone, x, Recipe.uniform(6))
    groups = qfx.parameter_groups(model, lr=1e-2, binary_point_lr=0.2)
    trained = [parameter for group in groups for parameter in group["params"]]
    assert {id(parameter) for parameter in trained} == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert len(groups[1]["params"]) == sum(name.endswith("frac_bits") for name, parameter in model.named_parameters() if parameter.requires_grad)
    optimizer = torch.optim.Adam(groups)
    points, head = _points(model.backbone), model.head[0].weight.detach().clone()
    losses = []
    model.train()
    for _ in range(30):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y % 2)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert _moved(points, _points(model.backbone))
    assert not torch.equal(head, model.head[0].weight)
    qfx.freeze(model)
    points = _points(model.backbone)
    loss = F.cross_entropy(model.train()(x), y % 2)
    loss.backward()
    optimizer.step()
    assert not _moved(points, _points(model.backbone))
    state = copy.deepcopy(model.state_dict())
    again = Whole()
    again.backbone = qfx.quantize(again.backbone, x, Recipe.uniform(6))
    again.load_state_dict(state)
    assert torch.equal(again.eval()(x), model.eval()(x))
    check_exact(model.backbone)
    with pytest.raises(QfxError, match=r"give its quantized part, .backbone"):
        qfx.export_onnx(model, tmp_path / "model.onnx")
    qfx.export_onnx(model.backbone, tmp_path / "model.onnx")
    with pytest.raises(UnsupportedError, match="is quantized already"):
        qfx.quantize(model, x)
    with pytest.raises(QfxError, match="is not a quantized model"):
        qfx.parameter_groups(model.head, lr=1e-2)
