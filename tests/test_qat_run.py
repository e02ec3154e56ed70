"""The training benchmark: a run that is interrupted ends in the same bits, and its batches follow from the seed and the step."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import qfx

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import qat
from benchmarks.cifar import Batches, Images, augmented
from benchmarks.models import Layers, ResNet
from benchmarks.ptq import normalized
from benchmarks.qat_run import Plan, Run, follow, load


def _images(count: int = 40) -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 32, 32, 3), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.randint(10, (count,), generator=generator))


def _run(optimizer: str, seed: int = 3) -> Run:
    images = _images()
    torch.manual_seed(0)
    model = ResNet(Layers(), depth=1)
    qmodel = qfx.quantize(model, normalized(images.pixels[:16]), qat.recipe(4))
    plan = Plan(4, 3, seed=seed, batch=16, optimizer=optimizer, point_rate=0.2, warm_up=2, points_until=0.6, statistics_until=0.5, taught=0.5)
    return Run(plan, qmodel, Batches(images, plan.batch, plan.seed), model.eval())


def _same(a: object, b: object) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a.nan_to_num(99), b.nan_to_num(99))
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(_same, a, b))
    return a == b


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_an_interrupted_run_ends_in_the_same_bits(optimizer: str, tmp_path: Path) -> None:
    whole = _run(optimizer)
    told: list[str] = []
    follow(whole, tmp_path / "whole.pt", every=100, told=told.append, judge=lambda: "judged")
    assert whole.step == 6
    assert len(told) == 3
    for stop in range(1, 6):
        path = tmp_path / f"{stop}.pt"
        follow(_run(optimizer), path, every=100, told=told.append, judge=lambda: "", until=stop)
        resumed = _run(optimizer)
        resumed.resume(load(path))
        assert resumed.step == stop
        follow(resumed, path, every=100, told=told.append, judge=lambda: "")
        assert _same(whole.state(), resumed.state()), stop
        assert _same(whole.state(), load(path)), stop


def test_points_and_statistics_stay_late_in_a_run() -> None:
    run = _run("adam")
    seen = []
    for _ in range(run.steps):
        run.advance()
        state = run.qmodel.state_dict()
        seen.append((state["conv1.weight_cast.frac_bits"].clone(), state["bn1.running_mean"].clone(), state["conv1.weight"].clone()))
    assert not torch.equal(seen[2][0], seen[3][0])
    assert torch.equal(seen[3][0], seen[5][0])
    assert not torch.equal(seen[1][1], seen[2][1])
    assert torch.equal(seen[2][1], seen[5][1])
    assert not torch.equal(seen[4][2], seen[5][2])


def test_a_checkpoint_of_another_run_is_refused() -> None:
    run = _run("adam")
    run.advance()
    with pytest.raises(ValueError, match="seed 3 there, 4 here"):
        _run("adam", seed=4).resume(run.state())


def test_batches_follow_from_seed_and_step() -> None:
    images = _images()
    batches, again, other = Batches(images, 16, 1), Batches(images, 16, 1), Batches(images, 16, 2)
    assert batches.steps_per_epoch == 2
    x, labels = batches.batch(5)
    assert _same((x, labels), again.batch(5))
    assert not torch.equal(labels, other.batch(5)[1])
    labels = torch.cat([batches.batch(step)[1] for step in (2, 3)])
    assert len(labels) == 32


def test_images_are_cropped_and_turned() -> None:
    pixels = torch.arange(1, 32 * 32 + 1).reshape(1, 32, 32, 1).expand(200, -1, -1, 3)
    changed = augmented(pixels, torch.Generator().manual_seed(0))
    assert changed.shape == pixels.shape
    found = set()
    for image in changed[..., 0]:
        straight, turned = image, image.flip(1)
        matches = []
        for flipped, candidate in ((False, straight), (True, turned)):
            for down in range(-4, 5):
                for right in range(-4, 5):
                    moved = torch.zeros(32, 32, dtype=image.dtype)
                    there = pixels[0, max(down, 0) : 32 + min(down, 0), max(right, 0) : 32 + min(right, 0), 0]
                    moved[max(-down, 0) : 32 - max(down, 0), max(-right, 0) : 32 - max(right, 0)] = there
                    if torch.equal(moved, candidate):
                        matches.append((flipped, down, right))
        assert len(matches) == 1
        found.add(matches[0])
    assert {flipped for flipped, _, _ in found} == {False, True}
    assert {down for _, down, _ in found} == set(range(-4, 5)) == {right for _, _, right in found}
