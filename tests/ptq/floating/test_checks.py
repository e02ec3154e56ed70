"""Every finding has its name, appears where its fault is planted, and nowhere else."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from ptq_models import IMAGES, Residual, settled
from ptq_models import separable as any_separable
from torch import Tensor, nn

from qfx import DataError, ptq
from qfx.ptq.floating.checks import ERRORS, WARNINGS, Finding

WIDE = torch.randn(24, 3, 6, 8, generator=torch.Generator().manual_seed(3))


def with_nan() -> Tensor:
    x = WIDE.clone()
    x[5, 1, 2, 3], x[20, 0, 0, 0] = torch.nan, torch.inf
    return x


def constant(channel: int) -> Tensor:
    x = WIDE.clone()
    x[:, channel] = 0.25
    return x


SHAPE = (3, 6, 8)
DATA: dict[str, tuple[object, dict[str, object], str, str]] = {
    "none": (WIDE[:0], {}, "empty-data", "no inputs"),
    "no batches": ([], {}, "empty-data", "no inputs"),
    "empty batches": ([WIDE[:0]], {}, "empty-data", "no inputs"),
    "NaN": (with_nan(), {}, "nan-data", "inputs 5, 20"),
    "NaN in a later batch": (with_nan()[:20].split(4), {}, "nan-data", "input 5"),
    "channels last": (WIDE.permute(0, 2, 3, 1), {"shape": SHAPE}, "wrong-layout", "(NHWC)"),
    "turned": (WIDE.transpose(2, 3), {"shape": SHAPE}, "wrong-layout", "(24, 3, 8, 6)"),
    "no batch": (WIDE[0], {"shape": SHAPE}, "wrong-shape", "without a batch axis"),
    "flat": (WIDE.flatten(1), {"shape": SHAPE}, "wrong-shape", "(24, 144)"),
    "other size": (WIDE[..., :5], {"shape": SHAPE}, "wrong-shape", "(24, 3, 6, 5)"),
    "no tensors": ([(WIDE, 1)], {}, "wrong-shape", "tuple"),
    "batches that differ": ([WIDE, WIDE[:, :2]], {}, "wrong-shape", "2 channels"),
    "a constant channel": (constant(1).split(10), {}, "constant-input", "channel 1 of 3 is"),
    "no labels": (WIDE, {"labels_needed": True}, "missing-labels", "accuracy"),
    "too few labels": (WIDE, {"labels": torch.zeros(3, dtype=torch.int64)}, "wrong-labels", "(3,) for 24"),
    "scores": (WIDE, {"labels": torch.rand(24, 10)}, "wrong-labels", "float32"),
    "negative labels": (WIDE, {"labels": torch.full((24,), -1)}, "wrong-labels", "no classes"),
}


@pytest.mark.parametrize("kind", DATA)
def test_data(kind: str) -> None:
    data, options, name, what = DATA[kind]
    (finding,) = ptq.check_data(data, **options)  # type: ignore[arg-type]
    assert finding.name == name
    assert what in finding.what
    assert finding.remedy
    assert name in (*ERRORS, *WARNINGS)
    if finding.is_error:
        with pytest.raises(DataError, match=finding.where):
            ptq.require((finding,))
    else:
        assert ptq.require((finding,)) == (finding,)


def test_remedies_work() -> None:
    """What is said to help is what makes the finding go away."""
    for kind in ("channels last", "turned", "no batch", "flat"):
        data, options, _, _ = DATA[kind]
        (finding,) = ptq.check_data(data, **options)  # type: ignore[arg-type]
        repaired = eval(finding.remedy.removeprefix("use ").partition(", if")[0], {"x": data})
        assert ptq.check_data(repaired, **options) == ()  # type: ignore[arg-type]


def test_good_data_gives_no_finding() -> None:
    labels = torch.arange(24)
    assert ptq.check_data(WIDE, shape=SHAPE, labels=labels, labels_needed=True) == ()
    assert ptq.check_data(iter(WIDE.split(7)), shape=SHAPE) == ()
    assert ptq.check_data((WIDE * 20).to(torch.uint8), shape=SHAPE) == ()
    assert ptq.check_data(WIDE[:1, :, :1, :1]) == (), "one number per channel says nothing"


def test_a_finding_is_a_value() -> None:
    finding = Finding("dead-layer", "conv", "all of its weights are zero", "remove it")
    assert finding == dataclasses.replace(finding)
    assert str(finding) == "conv: all of its weights are zero [dead-layer]\n  remedy: remove it"
    with pytest.raises(dataclasses.FrozenInstanceError):
        finding.name = "x"  # type: ignore[misc]


def separable() -> nn.Module:
    """A network all of whose channels fire."""
    model = any_separable()
    with torch.no_grad():
        for name in ("expand", "depthwise", "project"):
            model.get_parameter(f"{name}.bias").fill_(0.5)
    return model


def names(model: nn.Module, data: object = IMAGES, **options: object) -> list[tuple[str, str]]:
    return [(finding.name, finding.where) for finding in ptq.check_model(model, data, **options)]  # type: ignore[arg-type]


def test_a_good_model_gives_no_finding() -> None:
    assert names(separable()) == []
    assert names(separable(), iter(IMAGES.split(5))) == []


class Named(nn.Module):
    """A functional ReLU inside of a block."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Inner()

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x).mean((2, 3))  # type: ignore[no-any-return]


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x))


def test_dead_layers_and_silent_channels() -> None:
    model = separable()
    with torch.no_grad():
        model.get_parameter("depthwise.bias")[torch.tensor([2, 5])] = -100.0
    assert names(model) == [("silent-channels", "relu2")]
    (finding,) = ptq.check_model(model, IMAGES)
    assert finding.what == "channels 2, 5 of 8 never fire on the data"
    with torch.no_grad():
        model.get_parameter("project.weight").zero_()
        model.get_parameter("project.bias").fill_(-1)
    assert names(model) == [("dead-layer", "project"), ("silent-channels", "relu2"), ("dead-layer", "relu3")]
    functional = Named()
    with torch.no_grad():
        functional.block.conv.bias.fill_(-1e3)
    assert names(functional) == [("dead-layer", "block.relu")]


def test_a_channel_that_fires_once_is_alive() -> None:
    model = separable()
    with torch.no_grad():
        model.get_parameter("expand.weight")[0] = torch.tensor([1.0, 0.0, 0.0]).reshape(3, 1, 1)
        model.get_parameter("expand.bias")[0] = -50.0
    data = IMAGES.clone()
    assert ("silent-channels", "relu1") in names(model, data)
    data[11, 0, 3, 3] = 60.0
    assert ("silent-channels", "relu1") not in names(model, data.split(4))


def test_uneven_weights() -> None:
    model = separable()
    with torch.no_grad():
        model.get_parameter("project.weight")[3] *= 2.0**-9
    (finding,) = ptq.check_model(model, IMAGES)
    assert (finding.name, finding.where) == ("uneven-channels", "project")
    assert "output channel 3 of 6" in finding.what
    assert names(model, bits_lost=12) == []
    with torch.no_grad():
        model.get_parameter("project.weight")[3] = 0.0
    assert names(model) == []


def test_weights_of_channels_that_never_fire_do_not_matter() -> None:
    torch.manual_seed(0)
    model = ptq.fold_batch_norm(settled(Residual()), IMAGES)
    with torch.no_grad():
        for layer in ("conv1", "conv2"):
            model.get_parameter(f"{layer}.bias").fill_(2.0)
            model.get_parameter(f"{layer}.weight").div_(model.get_parameter(f"{layer}.weight").abs().amax((1, 2, 3), keepdim=True))
            model.get_parameter(f"{layer}.weight")[1] *= 2.0**-9
    found = names(model)
    assert ("uneven-channels", "conv1") in found
    assert ("uneven-channels", "conv2") in found
    with torch.no_grad():
        model.get_parameter("conv1.bias")[1] = -1.0
        model.get_parameter("conv2.bias")[1] = -1e4  # whatever the other branch adds
    found = names(model)
    assert ("uneven-channels", "conv1") not in found
    assert ("uneven-channels", "conv2") not in found
    assert [where for name, where in found if name == "silent-channels"][-2:] == ["relu_1", "relu_2"]


def test_numbers_that_are_none() -> None:
    model = separable()
    with torch.no_grad():
        model.get_parameter("fc.weight")[0, 0] = torch.nan
    assert names(model) == [("nan-weights", "fc.weight")]
    with pytest.raises(DataError, match="NaN"):
        ptq.require(ptq.check_model(model, IMAGES))
    assert names(separable(), with_nan()) == [("nan-data", "data")]


def test_layouts_are_found_by_trying() -> None:
    (finding,) = ptq.check_model(separable(), IMAGES.permute(0, 2, 3, 1))
    assert finding.name == "wrong-layout"
    assert finding.remedy == "use x.permute(0, 3, 1, 2)"
    assert names(separable(), IMAGES[:, :2]) == [("wrong-shape", "data")]


@pytest.mark.parametrize("fold", [False, True])
def test_data_that_is_prepared_otherwise_than_in_training(fold: bool) -> None:
    torch.manual_seed(0)
    model = Residual().train()
    for _ in range(60):
        model(IMAGES)  # moves the statistics
    model.eval()
    if fold:
        model = ptq.fold_batch_norm(model, IMAGES)  # type: ignore[assignment]
    assert "unlike-training" not in [name for name, _ in names(model)]
    found = [finding for finding in ptq.check_model(model, 50 + 60 * IMAGES) if finding.name == "unlike-training"]
    assert [finding.where for finding in found] == ["bn0"]


def test_the_model_is_left_as_it_is() -> None:
    model = settled(Residual()).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ptq.check_model(model, IMAGES)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
