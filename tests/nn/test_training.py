"""Training on a small real task: any optimizer lowers the loss, the binary points move, checkpoints come back, the hardware side follows."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from nn_models import check_exact
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

import qfx
from qfx import QfxError, Recipe, Spec
from qfx.nn.quantizer import Quantizer


def task() -> tuple[Tensor, Tensor]:
    """Four classes of 6x6 pictures: a bar, somewhere, in one of four directions, in noise."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 4, (256,), generator=generator)
    x = 0.3 * torch.randn(256, 1, 6, 6, generator=generator)
    for index, label in enumerate(y.tolist()):
        at = int(torch.randint(1, 5, (1,), generator=generator))
        picture = x[index, 0]
        line = (picture[at], picture[:, at], picture.diagonal(), picture.flip(1).diagonal())[label]
        if label == 3:
            for step in range(6):
                picture[step, 5 - step] += 1
        else:
            line += 1
    return x, y


X, Y = task()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.05),
        nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip


def points(q: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in q.named_parameters() if name.endswith("frac_bits") and p.requires_grad}


def train(q: nn.Module, optimizer: Optimizer, steps: int = 25) -> tuple[float, float]:
    """Loss in evaluation mode before and after."""

    def loss() -> float:
        with torch.no_grad():
            return float(F.cross_entropy(q.eval()(X), Y))

    torch.manual_seed(1)
    before = loss()
    for step in range(steps):
        part = slice(step % 4 * 64, step % 4 * 64 + 64)
        optimizer.zero_grad()
        F.cross_entropy(q.train()(X[part]), Y[part]).backward()
        optimizer.step()
    return before, loss()


OPTIMIZERS: dict[str, Callable[[list[dict[str, object]]], Optimizer]] = {
    "SGD": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9),
    "Adam": lambda groups: torch.optim.Adam(groups, lr=0.01),
    "AdamW": lambda groups: torch.optim.AdamW(groups, lr=0.01, weight_decay=0.01),
    "RMSprop": lambda groups: torch.optim.RMSprop(groups, lr=0.005),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("style", ["keep", "fold"])
def test_any_optimizer_lowers_the_loss_and_moves_binary_points(name: str, style: str) -> None:
    q = qfx.quantize(network(), X, Recipe.uniform(4, batch_norm=style))
    start = points(q)
    rate = {"SGD": 0.05, "Adam": 0.01, "AdamW": 0.01, "RMSprop": 0.005}[name]
    before, after = train(q, OPTIMIZERS[name](qfx.parameter_groups(q, lr=rate)))
    assert after < 0.7 * before
    end = points(q)
    narrow = [key for key in start if "weight" in key or key.startswith(("2.output", "6.output"))]
    assert len(narrow) == 5
    assert all(not torch.equal(start[key], end[key]) for key in narrow)
    check_exact(q, samples=30)


def test_plain_parameters_do_as_well() -> None:
    q = qfx.quantize(network(), X, Recipe.uniform(6))
    before, after = train(q, torch.optim.Adam(q.parameters(), lr=0.01))
    assert after < 0.7 * before


def test_learned_types_really_change() -> None:
    q = qfx.quantize(network(), X, Recipe.uniform(4))
    types = {name: str(quantizer.types()[0]) for name, quantizer in qfx.quantizers(q)}
    train(q, torch.optim.Adam(qfx.parameter_groups(q, lr=0.01, binary_point_lr=0.1)), steps=40)
    changed = [name for name, quantizer in qfx.quantizers(q) if str(quantizer.types()[0]) != types[name]]
    assert changed
    check_exact(q)


def test_learn_false_keeps_binary_points() -> None:
    roles = {role: Spec(6, learn=False) for role in ("input", "weight", "bias", "scale", "shift", "activation", "output")}
    q = qfx.quantize(network(), X, Recipe(**roles))
    assert not points(q)
    fixed = {name: str(quantizer.types()) for name, quantizer in qfx.quantizers(q)}
    before, after = train(q, torch.optim.Adam(qfx.parameter_groups(q, lr=0.01)))
    assert after < before
    assert fixed == {name: str(quantizer.types()) for name, quantizer in qfx.quantizers(q)}


def test_learned_widths_move_and_stay_exact() -> None:
    q = qfx.quantize(network(), X, Recipe(weight=Spec(3, learn_width=True), activation=Spec(3, learn_width=True)))
    widths = {name: p.detach().clone() for name, p in q.named_parameters() if name.endswith(".int_bits")}
    assert len(widths) == 5
    _, after = train(q, torch.optim.Adam(qfx.parameter_groups(q, lr=0.01, binary_point_lr=0.05)), steps=30)
    assert after < 1.2
    assert any(not torch.equal(widths[name], p) for name, p in q.named_parameters() if name in widths)
    check_exact(q)


@pytest.mark.parametrize("granularity", ["channel", "element"])
def test_finer_granularities_train_too(granularity: str) -> None:
    recipe = Recipe(weight=Spec(4, granularity=granularity), activation=Spec(4, granularity=granularity))
    q = qfx.quantize(network(), X, recipe)
    start = points(q)
    before, after = train(q, torch.optim.Adam(qfx.parameter_groups(q, lr=0.01)), steps=20)
    assert after < before
    end = points(q)
    assert all(not torch.equal(start[key], end[key]) for key in start if "weight" in key or key.startswith(("2.output", "6.output")))
    check_exact(q)


def test_parameter_groups_hold_each_parameter_once() -> None:
    q = qfx.quantize(network(), X, Recipe(activation=Spec(6, learn_width=True)))
    q.get_submodule("0").weight.requires_grad_(False)
    own, learned = qfx.parameter_groups(q, lr=0.1, weight_decay=0.01)
    assert (own["lr"], own["weight_decay"], learned["lr"], learned["weight_decay"]) == (0.1, 0.01, 1.0, 0.0)
    assert qfx.parameter_groups(q, lr=0.1, binary_point_lr=0.2)[1]["lr"] == 0.2
    ids = [id(p) for group in (own, learned) for p in group["params"]]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(p) for p in q.parameters() if p.requires_grad}
    of_quantizers = {id(p) for module in q.modules() if isinstance(module, Quantizer) for p in module.parameters() if p.requires_grad}
    assert {id(p) for p in learned["params"]} == of_quantizers
    with pytest.raises(QfxError, match="is not a quantized model"):
        qfx.parameter_groups(network(), lr=0.1)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_group_of_binary_points_asks_for_one_step(name: str) -> None:
    """It moves them as far as the plain step does, to a few units in the last place of a float32."""
    points = []
    for fused in (True, False):
        torch.manual_seed(0)
        q = qfx.quantize(network(), X)
        groups = qfx.parameter_groups(q, lr=0.01)
        assert [group.get("fused") for group in groups] == [None, True]
        if not fused:
            del groups[1]["fused"]
        start = [point.detach().clone() for point in groups[1]["params"]]
        for point in groups[1]["params"]:
            point.grad = torch.full_like(point, 0.25)
        optimizer = OPTIMIZERS[name](groups)
        for _ in range(3):
            optimizer.step()
        points.append(torch.stack([(point.detach() - before).sum() for point, before in zip(groups[1]["params"], start, strict=True)]))
    assert bool((points[0].abs() > 1e-3).all())
    torch.testing.assert_close(points[0], points[1], rtol=1e-5, atol=1e-6)


def test_points_elsewhere_ask_for_nothing() -> None:
    assert "fused" not in qfx.parameter_groups(qfx.quantize(network(), X).to("meta"), lr=0.01)[1]


def test_checkpoints_come_back_in_a_fresh_model(tmp_path: Path) -> None:
    recipe = Recipe(weight=Spec(4, granularity="channel"), activation=Spec(5, learn_width=True))
    q = qfx.quantize(network(), X, recipe)
    train(q, torch.optim.Adam(qfx.parameter_groups(q, lr=0.01, binary_point_lr=0.1)), steps=8)
    torch.save(q.state_dict(), tmp_path / "q.pt")
    save_file(q.state_dict(), str(tmp_path / "q.safetensors"))
    states = (torch.load(tmp_path / "q.pt", weights_only=True), load_file(str(tmp_path / "q.safetensors")))
    for seed, state in enumerate(states):
        fresh = network()
        for parameter in fresh.parameters():
            nn.init.normal_(parameter, generator=torch.Generator().manual_seed(seed))
        other = qfx.quantize(fresh, X * 3, recipe)
        assert not torch.equal(other.eval()(X), q.eval()(X))
        other.load_state_dict(state, strict=True)
        assert torch.equal(other.eval()(X), q.eval()(X))
        assert qfx.to_graph(other).nodes[0] == qfx.to_graph(q).nodes[0]
        check_exact(other)


def test_the_forward_is_the_same_in_every_mode() -> None:
    for style in ("keep", "fold"):
        model = network()
        model[4] = nn.Identity()  # dropout alone may tell the modes apart
        q = qfx.quantize(model, X, Recipe.uniform(4, batch_norm=style))
        train(q, torch.optim.Adam(qfx.parameter_groups(q, lr=0.01)), steps=3)
        trains, evaluates = copy.deepcopy(q).train(), copy.deepcopy(q).eval()
        expected = evaluates(X)
        assert torch.equal(trains(X), expected)
        with torch.no_grad():
            assert torch.equal(evaluates(X), expected)
        with torch.inference_mode():
            assert torch.equal(evaluates(X), expected)


def test_calibrate_after_a_float_checkpoint() -> None:
    """Load other weights, calibrate: the same binary points as quantizing the other model."""
    other = network()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter *= 7
    for module in (model := network()), other:
        module[1].num_batches_tracked += 1  # trained
    q = qfx.quantize(model, X)
    q.load_state_dict(other.state_dict())
    qfx.calibrate(q, X)
    expected = qfx.quantize(other, X).state_dict()
    assert all(torch.equal(expected[name], tensor) for name, tensor in q.state_dict().items())
