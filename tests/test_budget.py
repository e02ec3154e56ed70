"""Budgets from end to end: small networks with learned word lengths are trained in a plain loop until they cost what they may."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nn_models import check_exact
from torch import Tensor, nn

import qfx
from qfx import Archive, Budget, Override, QfxError, Recipe, RecipeError, Spec, UnsupportedError
from qfx.hardware.board import board
from qfx.hardware.design.schedule import Request
from qfx.hardware.folding.search import resolve
from qfx.hardware.project.project import prepare, write_project
from qfx.nn.cost.multiplications import Multiplications
from qfx.training.budget.controller import Controller

X = torch.randn(256, 8, generator=torch.Generator().manual_seed(1))
Y = (X @ torch.randn(8, 3, generator=torch.Generator().manual_seed(2))).argmax(1)
IMAGES = torch.rand(16, 2, 8, 8, generator=torch.Generator().manual_seed(3))
LABELS = torch.arange(16) % 3


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


class Images(nn.Module):
    """Convolutions, one of them depthwise, BatchNorms and a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.b, self.norm_b = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), nn.BatchNorm2d(4)
        self.out = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.a(x)))
        return self.out(F.max_pool2d(torch.relu(self.norm_b(self.b(y)) + y), 4).flatten(1))  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])  # type: ignore[no-any-return]


def learned(granularity: str, width: int = 8, **fields: Any) -> Recipe:
    wide = "tensor" if granularity == "tensor" else "channel"
    weight = Spec(width, granularity=granularity, learn_width=True)  # type: ignore[arg-type]
    return Recipe(weight=weight, activation=Spec(width, granularity=wide, learn_width=True), **fields)  # type: ignore[arg-type]


def quantized(granularity: str = "tensor", width: int = 8) -> nn.Module:
    return qfx.quantize(mlp(), X, learned(granularity, width))


def images(granularity: str = "channel") -> nn.Module:
    torch.manual_seed(0)
    return qfx.quantize(Images(), IMAGES, learned(granularity, 6))


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(qfx.parameter_groups(model, lr=2e-3, binary_point_lr=1e-2))


def train(model: nn.Module, budget: Budget, optimizer: torch.optim.Optimizer, steps: int, x: Tensor = X, y: Tensor = Y) -> None:
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        (F.cross_entropy(model(x), y) + budget.loss(model)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


# ---- it is met ----


def full(budget: Budget, model: nn.Module) -> bool:
    """Whether no quantizer's words can have a bit more."""
    for _, quantizer in qfx.quantizers(model):
        if quantizer.spec.learn_width:
            quantizer.frac_bits.data += 1
            more = budget.measure(model)
            quantizer.frac_bits.data -= 1
            if more.met:
                return False
    return True


@pytest.mark.parametrize("granularity", ["tensor", "channel", "element"])
@pytest.mark.parametrize("limits", [{"ebops": 10_000}, {"mean_weight_bits": 3}, {"weight_bits": 1500}], ids=lambda limits: next(iter(limits)))
def test_a_count_is_met(granularity: str, limits: dict[str, float]) -> None:
    model, budget = quantized(granularity), Budget(**limits)
    before = budget.measure(model)
    train(model, budget, optimizer_of(model), 150)
    trained = budget.measure(model)
    met = budget.meet(model)
    assert trained.share < before.share
    assert met.share <= 1.0
    assert met.share >= 0.97 or full(budget, model)
    found = qfx.cost(model)
    counted = {"ebops": found.bit_operations, "mean_weight_bits": found.weight_bits / found.weights, "weight_bits": found.weight_bits}
    (name, most), *_ = limits.items()
    assert met.share == pytest.approx(counted[name].item() / most, rel=1e-12)


@pytest.mark.parametrize(
    ("granularity", "limits"),
    [
        ("tensor", {"fps": 4e6, "lut": 750}),
        ("channel", {"fps": 4e6, "lut": 880}),
        ("element", {"style": "unrolled", "lut": 4000}),
        ("tensor", {"style": "unrolled", "lut": 5000}),
    ],
)
def test_a_board_is_met(granularity: str, limits: dict[str, Any], tmp_path: Path) -> None:
    model, budget = quantized(granularity), Budget(board="ultra96v2", every=40, **limits)
    before = budget.measure(model)
    train(model, budget, optimizer_of(model), 80)
    met = budget.meet(model)
    assert before.share > 1.0
    assert 0.97 <= met.share <= 1.0
    graph = qfx.to_graph(model.eval())
    check_exact(model)
    request = Request(fps=limits["fps"]) if "fps" in limits else None
    project = write_project(graph, tmp_path / "hls", board="ultra96v2", schedule=request, style=limits.get("style", "streaming"))
    assert project.style == limits.get("style", "streaming")
    counted = budget.plan(model)
    assert write_project(graph, tmp_path / "counted", board="ultra96v2", schedule=counted, style=project.style).files
    assert counted.estimate.total.lut <= limits["lut"]


def steered(controller: Controller) -> tuple[float, float, nn.Module]:
    """Where a training of 200 steps by that controller ends of 80 % of the LUTs of 8 bits, no DSP block: before and after ``meet``."""
    model = quantized("channel")
    taken = Budget(board="ultra96v2", fps=4e6, dsp=0).plan(model).estimate.total
    budget = Budget(board="ultra96v2", fps=4e6, lut=int(0.8 * taken.lut), dsp=0, controller=controller)
    assert 1.1 < budget.measure(model).share <= 1.26
    train(model, budget, torch.optim.Adam(qfx.parameter_groups(model, lr=2e-3, binary_point_lr=2e-2)), 200)
    return budget.measure(model).share, budget.meet(model).share, model


def test_training_itself_comes_to_a_boards_budget() -> None:
    """In a short training, so that ``meet`` has next to nothing left to do; without the weight that the controller makes it does not."""
    trained, met, model = steered(Controller())
    assert 0.88 <= trained <= 1.1
    assert 0.97 <= met <= 1.0
    check_exact(model)
    assert steered(Controller(integral=-11.0, proportional=0.0, rate=0.0))[0] > 1.12


# ---- nothing but the loss moves ----


def states(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("training", [True, False])
def test_looking_moves_nothing(training: bool) -> None:
    model = images().train(training)
    model.get_submodule("norm").train(False)
    modes, kept = [module.training for module in model.modules()], states(model)
    twin = images().train(training)
    twin.get_submodule("norm").train(False)
    for limits in ({"ebops": 150_000}, {"mean_weight_bits": 3}, {"board": "ultra96v2", "fps": 1e4}):
        budget = Budget(**limits)  # type: ignore[arg-type]
        budget.loss(model)
        budget.measure(model)
        qfx.cost(model, budget.limits.board, fps=budget.limits.fps)
        str(qfx.summary(model, budget.limits.board, fps=budget.limits.fps))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, kept[name]) for name, value in states(model).items())
    assert torch.equal(model(IMAGES), twin(IMAGES))
    assert all(torch.equal(value, states(twin)[name]) for name, value in states(model).items())


# ---- gradients ----


@pytest.mark.parametrize("granularity", ["tensor", "channel", "element"])
@pytest.mark.parametrize("what", ["bit_operations", "weight_bits"])
def test_gradients_are_differences(granularity: str, what: str) -> None:
    """A bit more or less of one word changes a cost by as much as its gradient says, ranges of what is not cast left as they are: exactly, since
    costs are linear in each word."""
    model = images(granularity)
    multiplications = Multiplications(model)

    def total() -> Tensor:
        return sum(multiplications.bit_operations().values(), torch.zeros(())) if what == "bit_operations" else qfx.cost(model).weight_bits

    assert total().item() == getattr(qfx.cost(model), what).item()
    total().backward()  # type: ignore[no-untyped-call]
    compared = 0
    for _, quantizer in qfx.quantizers(model):
        if not quantizer.spec.learn_width:
            continue
        gradient = quantizer.frac_bits.grad
        expected = torch.zeros_like(quantizer.frac_bits) if gradient is None else gradient
        for index in (0, -1):
            flat = quantizer.frac_bits.data.view(-1)
            ends = []
            for step in (1.0, -1.0):
                flat[index] += step
                ends.append(total().item())
                flat[index] -= step
            assert (ends[0] - ends[1]) / 2 == pytest.approx(float(expected.view(-1)[index]), rel=1e-6, abs=1e-9)
            compared += 1
    assert compared >= 10


# ---- interrupted ----


def saved(*parts: Any) -> list[dict[str, Any]]:
    held = io.BytesIO()
    torch.save([part.state_dict() for part in parts], held)
    held.seek(0)
    found: list[dict[str, Any]] = torch.load(held, weights_only=True)
    return found


@pytest.mark.parametrize(
    ("make", "limits"),
    [
        (quantized, {"ebops": 10_000}),
        (images, {"ebops": 150_000}),
        (quantized, {"board": "ultra96v2", "fps": 4e6, "lut": 1000}),
        (quantized, {"board": "ultra96v2", "style": "unrolled", "lut": 4000}),
    ],
)
def test_resumed_to_the_same_bits(make: Callable[[], nn.Module], limits: dict[str, Any]) -> None:
    """Between two measurements, too: what was measured, and how long ago, is part of the state."""
    x, y = (IMAGES, LABELS) if make is images else (X, Y)
    whole, steering = make(), Budget(every=7, **limits)
    optimizer = optimizer_of(whole)
    train(whole, steering, optimizer, 10, x, y)
    model_state, optimizer_state, budget_state = saved(whole, optimizer, steering)
    train(whole, steering, optimizer, 10, x, y)

    again, resumed = make(), Budget(every=7, **limits)
    other = optimizer_of(again)
    again.load_state_dict(model_state)
    other.load_state_dict(optimizer_state)
    resumed.load_state_dict(budget_state)
    train(again, resumed, other, 10, x, y)
    assert all(torch.equal(value, states(again)[name]) for name, value in states(whole).items())
    assert resumed.controller == steering.controller
    assert resumed.status == steering.status


def test_limits_are_checked() -> None:
    """Another limit that no word length meets is refused as the first would have been, and leaves the one before."""
    for limits, less in (({"ebops": 10_000}, {"ebops": 10}), ({"board": "ultra96v2", "fps": 4e6, "lut": 1000}, {"lut": 10})):
        model, budget = quantized(), Budget(**limits)  # type: ignore[arg-type]
        budget.loss(model)
        before = budget.limits
        with pytest.raises(RecipeError, match="cannot be met: even with the shortest words it takes"):
            budget.limit(**less)
        assert budget.limits == before
        assert budget.measure(model).shares == Budget(**limits).measure(model).shares  # type: ignore[arg-type]
    budget.limit(lut=900)
    assert budget.measure(model).shares == Budget(board="ultra96v2", fps=4e6, lut=900).measure(model).shares
    with pytest.raises(RecipeError, match=r"(?s)there is no design.*give board="):
        Budget(ebops=10_000).plan(model)


def test_resumed_with_another_limit() -> None:
    model, budget = quantized(), Budget(ebops=10_000)
    train(model, budget, optimizer_of(model), 3)
    tighter = Budget(ebops=8_000)
    tighter.load_state_dict(budget.state_dict())
    assert tighter.controller == budget.controller
    assert tighter.measure(model).share == pytest.approx(budget.measure(model).share * 10 / 8)


def test_an_archive_ends_a_training(tmp_path: Path) -> None:
    model, budget, archive = quantized("channel"), Budget(ebops=12_000), Archive(tmp_path / "front", name="bit operations")
    optimizer = optimizer_of(model)
    for _ in range(30):
        train(model, budget, optimizer, 10)
        with torch.no_grad():
            score = float((model(X).argmax(1) == Y).float().mean())
        archive.add(model, cost=qfx.cost(model).bit_operations.item(), score=score)
        if archive.stale(4):
            break
    chosen = archive.front[0]
    assert list(archive.front) == sorted(archive.front, key=lambda kept: (kept.cost, kept.score))
    archive.load(model, chosen)
    assert qfx.cost(model).bit_operations.item() == chosen.cost
    check_exact(model)


# ---- hardware with learned word lengths ----


def prune(model: nn.Module) -> None:
    """Channels, weights and words that training would have shortened: by different amounts, some to nothing."""
    for place, (name, quantizer) in enumerate(qfx.quantizers(model)):
        if quantizer.spec.learn_width and quantizer.frac_bits.dim():
            steps = (torch.arange(quantizer.frac_bits.numel()) * 3 + place) % 4
            steps[-1] = 12 if name.endswith(".weight") else steps[-1]
            quantizer.frac_bits.data -= steps.reshape(quantizer.frac_bits.shape)


def test_words_inside_a_loop_have_their_slopes() -> None:
    """A recurrent cell is one node of the graph: what each word in its body costs is told by a design in which it alone is shorter."""
    torch.manual_seed(0)
    spec = Spec(8, learn_width=True)
    recipe = Recipe(weight=spec, activation=spec, internal=Spec(12, learn_width=True))
    model = qfx.quantize(Recurrent(), torch.randn(8, 5, 4, generator=torch.Generator().manual_seed(4)), recipe)
    qfx.cost(model, "ultra96v2", fps=1e5).lut.backward()  # type: ignore[no-untyped-call]
    inside = {name: quantizer for name, quantizer in qfx.quantizers(model) if name.startswith("lstm.l0.") and quantizer.spec.learn_width}
    assert {"lstm.l0.state", "lstm.l0.cell", "lstm.l0.sigmoid"} <= set(inside)
    assert all(inside[f"lstm.l0.{name}"].frac_bits.grad > 0 for name in ("state", "cell", "sigmoid"))


@pytest.mark.parametrize("make", [quantized, images])
@pytest.mark.parametrize("granularity", ["channel", "element"])
def test_hardware_of_learned_words_is_what_the_estimator_says(make: Callable[[str], nn.Module], granularity: str) -> None:
    model = make(granularity)
    prune(model)
    found = qfx.cost(model, "zcu102", fps=1e5)
    plan = resolve(prepare(qfx.to_graph(model)), board("zcu102"), Request(fps=1e5), clock_ns=board("zcu102").clock_ns)
    assert {name: value.item() for name, value in found.resources.items()} == {
        name: float(getattr(plan.estimate.total, name)) for name in found.resources
    }
    check_exact(model)


# ---- bad input ----


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"ebops": 10}, r"cannot be met: even with the shortest words it takes [\d.]+ % of the bit operations, most of it in 0, 2, 4"),
        ({"weight_bits": 3}, r"cannot be met: even with the shortest words it takes [\d.]+ % of the weight bits"),
        ({"mean_weight_bits": 0.001}, "cannot be met"),
        ({"board": "ultra96v2", "fps": 4e6, "lut": 10}, r"cannot be met: even with the shortest words it takes [\d.]+ % of the LUT"),
        ({"board": "ultra96v2", "fps": 1e12}, "cannot be met, whatever is learned"),
        ({"board": "ultra96v2", "style": "unrolled", "lut": 10}, "cannot be met"),
    ],
)
@pytest.mark.parametrize("granularity", ["tensor", "element"])
def test_hopeless(limits: dict[str, Any], said: str, granularity: str) -> None:
    model = quantized(granularity)
    before = states(model)
    with pytest.raises(RecipeError, match=said):
        Budget(**limits).loss(model)
    assert all(torch.equal(value, before[name]) for name, value in states(model).items())


def test_no_learned_words() -> None:
    with pytest.raises(RecipeError, match=r"(?s)no word length is learned.*learn_width = true"):
        Budget(ebops=100).loss(qfx.quantize(mlp(), X))
    with pytest.raises(QfxError, match="is not a quantized model"):
        Budget(ebops=100).loss(mlp())


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_a_collapsed_layer_is_named(granularity: str) -> None:
    model, budget = quantized(granularity), Budget(ebops=10_000, every=3)
    budget.loss(model)
    dict(qfx.quantizers(model))["2.weight"].frac_bits.data.sub_(20)
    budget.loss(model)
    budget.loss(model)
    with pytest.raises(QfxError, match=r"(?s)2\.weight: every weight has come to zero bits.*learn_width"):
        budget.loss(model)
    with pytest.raises(QfxError, match=r"2\.weight: every weight"):
        Budget(ebops=10_000).loss(model)


@pytest.mark.parametrize("granularity", ["tensor", "channel", "element"])
def test_meeting_cuts_no_layer_off(granularity: str) -> None:
    """However little is allowed, and whatever has not been trained."""
    for limits in ({"ebops": 1400}, {"weight_bits": 450}):
        model = quantized(granularity)
        status = Budget(**limits).meet(model)  # type: ignore[arg-type]
        assert status.met
        assert all(quantizer.word_length > 0 for name, quantizer in qfx.quantizers(model))


def test_nan() -> None:
    model, budget = quantized(), Budget(ebops=10_000)
    budget.loss(model)
    before = budget.controller
    dict(qfx.quantizers(model))["2.weight"].frac_bits.data.fill_(math.nan)
    with pytest.raises(QfxError, match=r"2\.weight: its learned word length is NaN"):
        budget.loss(model)
    assert budget.controller == before


def test_another_model() -> None:
    model, budget = quantized(), Budget(ebops=10_000)
    budget.loss(model)
    other = quantized("channel")
    assert budget.measure(other).share == Budget(ebops=10_000).measure(other).share
    with pytest.raises(RecipeError, match=r"(?s)steering another model already.*a Budget for each model"):
        budget.loss(other)
    assert budget.loss(model).requires_grad


def test_frozen() -> None:
    """A controller does not wind up while nothing can move; what is left is met at the end."""
    model, budget = quantized(), Budget(ebops=10_000)
    train(model, budget, optimizer_of(model), 5)
    before = budget.controller
    qfx.freeze(model)
    loss = budget.loss(model)
    assert (float(loss), loss.requires_grad) == (0.0, False)
    assert budget.controller == before
    assert budget.status is not None
    assert not budget.status.met
    assert budget.meet(model).met
    qfx.freeze(model, "*.weight", on=False)
    assert budget.loss(model).requires_grad


@pytest.mark.parametrize("limits", [{"ebops": 10_000}, {"mean_weight_bits": 3}, {"board": "ultra96v2"}])
def test_switched_off(limits: dict[str, Any]) -> None:
    model, budget = quantized(), Budget(**limits)
    budget.loss(model)
    qfx.switch(model, "*.weight", on=False)
    for call in (budget.loss, budget.measure, budget.meet, Budget(**limits).loss, qfx.cost, qfx.summary):
        with pytest.raises(UnsupportedError, match=r"(?s)0\.weight: 3 quantizers are off: 0\.weight, 2\.weight, 4\.weight.*switch them on"):
            call(model)
    qfx.switch(model, on=True)
    budget.loss(model)


def test_wrapped() -> None:
    model, budget = quantized(), Budget(ebops=10_000)
    parallel = nn.DataParallel(model)
    budget.loss(parallel).backward()  # type: ignore[no-untyped-call]
    assert dict(qfx.quantizers(model))["0.weight"].frac_bits.grad is not None
    average = torch.optim.swa_utils.AveragedModel(model)
    average.update_parameters(model)
    assert budget.measure(average) == budget.measure(model)
    assert budget.meet(average).met
    assert not budget.measure(model).met  # the average has words of its own


def test_ranges_alone_are_learned() -> None:
    """Where training may not move binary points, words get shorter on the side of the range."""
    spec = Spec(8, learn_width=True, learn=False)
    model = qfx.quantize(mlp(), X, Recipe(weight=spec, activation=spec))
    points = {name: quantizer.points().clone() for name, quantizer in qfx.quantizers(model)}
    assert Budget(ebops=10_000).meet(model).met
    assert all(torch.equal(quantizer.points(), points[name]) for name, quantizer in qfx.quantizers(model))


def test_words_that_are_kept() -> None:
    recipe = learned("channel", overrides=(Override("4.weight", {"learn_width": False}),))
    model = qfx.quantize(mlp(), X, recipe)
    assert Budget(ebops=10_000).meet(model).met
    assert dict(qfx.quantizers(model))["4.weight"].word_length == 8
