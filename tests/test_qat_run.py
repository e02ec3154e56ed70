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
from benchmarks.qat_run import Plan, Rough, Run, follow, load
from qfx.nn.quantizer import Quantizer


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


def test_word_lengths_of_the_stream_and_of_the_ends() -> None:
    torch.manual_seed(0)
    qmodel = qfx.quantize(ResNet(Layers(), depth=1), torch.randn(16, 3, 32, 32), qat.recipe(3, stream=8, ends=6))
    found = {name: cast.word_length for name, cast in qfx.quantizers(qmodel)}
    assert {found[f"blocks.{place}.conv1.operand"] for place in range(3)} == {3}
    assert {found[f"blocks.{place}.{name}"] for place in range(3) for name in ("relu1.output", "conv1.weight", "conv2.weight")} == {3}
    assert {found[f"blocks.{place}.relu2.output"] for place in range(3)} == {found["relu.output"]} == {8}
    assert {found[name] for name in ("conv1.weight", "fc.weight", "adaptive_avg_pool2d.output")} == {6}


def test_balanced_weights_fit_better_and_the_network_gives_the_same() -> None:
    torch.manual_seed(0)
    model, x = ResNet(Layers(), depth=1).eval(), torch.randn(4, 3, 32, 32)
    before, weights = model(x).detach(), [part.weight.detach().clone() for part in model.modules() if isinstance(part, torch.nn.Conv2d)]
    qat.balance(model, 3)
    torch.testing.assert_close(model(x).detach(), before, rtol=1e-3, atol=1e-4)
    spec = qfx.Spec(3, granularity="channel")
    for old, new in zip(weights, (part.weight.detach() for part in model.modules() if isinstance(part, torch.nn.Conv2d)), strict=True):
        factor = (new / old).flatten(1)
        assert torch.allclose(factor, factor[:, :1].expand_as(factor))
        assert float(factor.min()) >= 1
        assert float(factor.max()) < 2
        errors = []
        for weight in (old, new):
            cast = Quantizer(spec, channel_axis=0)
            cast.initialize(weight)
            errors.append(float((cast(weight).tensor().detach() - weight).square().sum() / weight.square().sum()))
        assert errors[1] < errors[0]


def test_a_rough_teacher_gives_nearly_the_same() -> None:
    torch.manual_seed(0)
    model, x = torch.nn.Linear(8, 4), torch.randn(5, 8)
    with torch.no_grad():
        rough, exact = Rough(model)(x), model(x)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    torch.testing.assert_close(rough, exact, rtol=0.02, atol=0.02)


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


def test_options_are_the_plan() -> None:
    assert qat.plans(qat.asked_for(["--bits", "3,2", "--epochs", "12,20"])) == [Plan(3, 12), Plan(2, 20)]
    given = "--goes-on --channels-last --rough-teacher --balanced --no-settling --stream 8 --ends 6 --teacher float --taught 0.7 --optimizer sgd"
    (plan,) = qat.plans(qat.asked_for(given.split()))
    assert (plan.goes_on, plan.channels_last, plan.rough_teacher, plan.balanced, plan.settles) == (True, True, True, True, False)
    assert (plan.stream, plan.ends, plan.taught, plan.rate) == (8, 6, 0.7, 0.02)


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
