"""The parts of budgets that know no model: the controller, the limits, the archive."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
import torch
from torch import nn

import qfx
from qfx.errors import DataError, ProjectError, RecipeError
from qfx.training.budget.archive import Archive
from qfx.training.budget.controller import Controller
from qfx.training.budget.limits import Limits


@pytest.mark.parametrize("pull", [0.01, 0.02, 0.03])
@pytest.mark.parametrize("wants", [0.05, 0.5, 5.0])
@pytest.mark.parametrize("adam", [False, True])
def test_controller_brings_a_cost_to_its_budget(pull: float, wants: float, adam: bool) -> None:
    """A cost whose logarithm falls with the weight and rises with what the task wants of it, at most by ``pull`` a step."""
    controller, error, mean, square = Controller(), 2.0, 0.0, 0.0
    seen = []
    for step in range(1, 3001):
        gradient = wants * math.exp(-1.0 - error) - controller.weight(error)
        controller = controller.step(error)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        normalized = mean / (1 - 0.9**step) / math.sqrt(square / (1 - 0.999**step))
        error += pull * (normalized if adam else max(-1.0, min(1.0, gradient)))
        seen.append(error)
    assert max(abs(error) for error in seen[-300:]) < 0.03
    assert min(seen) > -0.35


@pytest.mark.parametrize("wants", [0.005, 0.05, 0.5, 5.0])
@pytest.mark.parametrize(("pull", "steps"), [(0.0025, 300), (0.0025, 1000), (0.0001, 20_000)])
def test_controller_in_short_and_long_trainings(wants: float, pull: float, steps: int) -> None:
    """Words of 8 bits that Adam moves by 0.02 bits a step or by 0.001, under noise, from a fifth above the budget; measurements bring leaps to light,
    each of them by chance up to 3 % off."""
    controller, error, mean, square, leap = Controller(), 0.22, 0.0, 0.0, 0.0
    draw, seen = random.Random(0), []
    for step in range(1, steps + 1):
        before, leap = leap, 0.03 * draw.uniform(-1, 1) if step % 100 == 0 else leap
        gradient = wants * (math.exp(-1.0 - error) + 0.5 * math.exp(-error) * draw.gauss(0, 1)) - controller.weight(error + leap)
        controller = controller.step(error + leap, leap - before)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        error += pull * mean / (1 - 0.9**step) / math.sqrt(square / (1 - 0.999**step))
        seen.append(error)
    assert max(map(abs, seen[-steps // 10 :])) < 0.08
    assert min(seen) > -0.12


def test_leaps_are_no_speed() -> None:
    still = Controller().step(0.125)
    assert still.step(0.25, 0.125).speed == still.step(0.125).speed == 0.0
    assert still.step(0.25).speed > 0.0


def test_controller_resumes_to_the_same_bits() -> None:
    whole = half = Controller()
    errors = [math.sin(i / 7) for i in range(40)]
    for error in errors:
        whole = whole.step(error)
    for error in errors[:20]:
        half = half.step(error)
    again = Controller().resumed(json.loads(json.dumps(half.state())))
    for error in errors[20:]:
        again = again.step(error)
    assert again.state() == whole.state()


def test_controller_keeps_within_bounds() -> None:
    controller = Controller()
    for _ in range(100_000):
        controller = controller.step(5.0)
    assert controller.weight(5.0) <= 1e3 * 1.0000001
    assert controller.weight(-1.0) > 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "nothing is given"),
        ({"ebops": 1, "mean_weight_bits": 2}, "ebops and mean_weight_bits are given"),
        ({"ebops": 0}, "ebops is 0"),
        ({"ebops": math.nan}, "ebops is nan"),
        ({"ebops": True}, "ebops is True"),
        ({"ebops": 100, "fps": 10}, "hardware without a board"),
        ({"board": "ultra96v2", "dsp": 1.5}, "dsp is 1.5"),
        ({"board": "ultra96v2", "lut": -3}, "lut is -3"),
        ({"board": "ultra96v2", "fps": 0}, "fps is 0"),
    ],
)
def test_limits_that_make_no_sense(given: dict[str, float], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Limits(**given)  # type: ignore[arg-type]


def test_limits_of_a_board() -> None:
    with pytest.raises(ProjectError, match="no board"):
        Limits(board="ultra97")
    limits = Limits(board="ultra96v2", dsp=0.5, lut=1000)
    amounts, whole = limits.amounts(), limits.whole
    assert amounts["dsp"] == whole.dsp / 2
    assert amounts["lut"] == 1000
    assert amounts["bram18"] == pytest.approx(0.9 * 2 * whole.bram36)
    assert Limits(board="ultra96v2", dsp=0).amounts()["dsp"] == 0


def _model() -> nn.Module:
    return qfx.quantize(nn.Sequential(nn.Linear(4, 3)), torch.randn(8, 4, generator=torch.Generator().manual_seed(0)))


def test_archive_keeps_the_front(tmp_path: Path) -> None:
    archive, model = Archive(tmp_path / "kept", name="bit operations"), _model()
    assert archive.add(model, cost=100, score=0.9)
    assert archive.add(model, cost=50, score=0.8)
    assert not archive.add(model, cost=60, score=0.8)  # dearer, no better
    assert archive.add(model, cost=40, score=0.85)  # beats the second
    assert [(kept.cost, kept.score) for kept in archive.front] == [(40, 0.85), (100, 0.9)]
    assert sorted(path.name for path in (tmp_path / "kept").glob("*.pt")) == sorted(kept.file for kept in archive.front)
    assert archive.best(within=99).score == 0.85
    with pytest.raises(DataError, match=r"no checkpoint costs at most 10; the cheapest costs 40"):
        archive.best(within=10)
    assert not archive.stale(1)
    assert not archive.add(model, cost=100, score=0.9)
    assert archive.stale(1)


def test_archive_goes_on(tmp_path: Path) -> None:
    model = _model()
    with torch.no_grad():
        model.get_parameter("0.weight").fill_(0.25)
    Archive(tmp_path).add(model, cost=1, score=2, extra={"epoch": 7})
    again = Archive(tmp_path)
    with torch.no_grad():
        model.get_parameter("0.weight").zero_()
    assert again.load(model, again.best(within=1)) == {"epoch": 7}
    assert bool((model.get_parameter("0.weight") == 0.25).all())
    (tmp_path / "front.json").write_text("{}")
    with pytest.raises(DataError, match="is no list of checkpoints"):
        Archive(tmp_path)


def test_archive_refuses_numbers_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the score is nan"):
        Archive(tmp_path).add(_model(), cost=1.0, score=math.nan)
    assert not list(tmp_path.iterdir())


def test_archive_draws(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "a")
    with pytest.raises(DataError, match="no points"):
        archive.plot(tmp_path / "front.png")
    archive.add(_model(), cost=10, score=0.5)
    archive.add(_model(), cost=20, score=0.75)
    archive.plot(tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(DataError, match="front\\.png"):
        archive.plot(tmp_path / "front.png")
