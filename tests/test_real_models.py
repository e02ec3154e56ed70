"""Published networks with their published weights on real images: the accuracy survives, and every executor gives the same raw integers.

The files lie in ``../shared/data`` beside the repository, or in the folder that ``$QFX_DATA`` names; tests that need them skip where they are absent.
"""

from __future__ import annotations

import copy
import io
import lzma
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx.hardware.project.csim import run_raw as run_csim
from qfx.hardware.project.project import write_project
from qfx.ir.interpret import run_raw
from qfx.testing import assert_bit_exact
from qfx.verify import raw_of

DATA = Path(os.environ.get("QFX_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
JUDGED = 300  # images
SAMPLE = 128  # images that place the binary points, none of them judged
COMPARED = 30  # images on which the executors are compared


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut that subsamples and pads the channels ("option A")."""

    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.stride, self.extra = stride, (planes - in_planes) // 2

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.stride != 1:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra, self.extra))
        out += x
        return F.relu(out)


class ResNet20(nn.Module):
    """He et al. 2016, section 4.2."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(BasicBlock(16, 16, 1) for _ in range(3)))
        self.layer2 = nn.Sequential(BasicBlock(16, 32, 2), *(BasicBlock(32, 32, 1) for _ in range(2)))
        self.layer3 = nn.Sequential(BasicBlock(32, 64, 2), *(BasicBlock(64, 64, 1) for _ in range(2)))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = F.avg_pool2d(x, x.size()[3])
        return self.linear(x.view(x.size(0), -1))


def same(in_planes: int, planes: int, kernel: int, stride: int) -> nn.Module:
    """A convolution with TensorFlow's SAME padding of an even image: at stride 2 the odd row and column go to the bottom and right."""
    total = kernel - stride if kernel > stride else 0
    before, after = total // 2, total - total // 2
    layers = nn.Sequential()
    if total:
        layers.add_module("pad", nn.ZeroPad2d((before, after, before, after)))
    layers.add_module("conv", nn.Conv2d(in_planes, planes, kernel, stride))
    return layers


class ResNet8(nn.Module):
    """MLPerf Tiny's image classifier, BatchNorm kept."""

    def __init__(self) -> None:
        super().__init__()
        norm = partial(nn.BatchNorm2d, eps=1e-3)
        self.conv0, self.bn0 = same(3, 16, 3, 1), norm(16)
        self.c1a, self.b1a, self.c1b, self.b1b = same(16, 16, 3, 1), norm(16), same(16, 16, 3, 1), norm(16)
        self.c2a, self.b2a, self.c2b, self.b2b, self.s2 = same(16, 32, 3, 2), norm(32), same(32, 32, 3, 1), norm(32), same(16, 32, 1, 2)
        self.c3a, self.b3a, self.c3b, self.b3b, self.s3 = same(32, 64, 3, 2), norm(64), same(64, 64, 3, 1), norm(64), same(32, 64, 1, 2)
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn0(self.conv0(x)))
        x = torch.relu(x + self.b1b(self.c1b(torch.relu(self.b1a(self.c1a(x))))))
        x = torch.relu(self.s2(x) + self.b2b(self.c2b(torch.relu(self.b2a(self.c2a(x))))))
        x = torch.relu(self.s3(x) + self.b3b(self.c3b(torch.relu(self.b3a(self.c3a(x))))))
        return self.fc(F.avg_pool2d(x, 8).flatten(1))


def needed(name: str) -> Path:
    """A file of the data folder; the test skips without it."""
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"{path} is absent; set QFX_DATA to the folder that holds {name}")
    return path


@cache
def images() -> tuple[Tensor, Tensor]:
    """The first images of the test set as RGB 0..255, NCHW, and their labels. Only so much of the file is unpacked."""
    count = JUDGED + SAMPLE
    with lzma.open(needed("cifar10/test_x.npy.xz")) as stream:
        head = np.lib.format.read_magic(stream)
        assert head == (1, 0)
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        assert (shape[1:], dtype) == ((32, 32, 3), np.uint8)
        pixels = np.frombuffer(stream.read(count * 32 * 32 * 3), dtype).reshape(count, 32, 32, 3)
    labels = np.load(io.BytesIO(needed("cifar10/test_y.npy").read_bytes()))[:count]
    return torch.tensor(pixels.transpose(0, 3, 1, 2).astype(np.float32)), torch.tensor(labels.astype(np.int64))


def resnet20() -> tuple[nn.Module, Tensor]:
    checkpoint = torch.load(needed("models/resnet20-12fca82f.th"), weights_only=True, map_location="cpu")
    model = ResNet20()
    model.load_state_dict({name.removeprefix("module."): value for name, value in checkpoint["state_dict"].items()})
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return model.eval(), (images()[0] / 255 - mean[:, None, None]) / deviation[:, None, None]


def resnet8() -> tuple[nn.Module, Tensor]:
    state = torch.load(needed("models/resnet8_cifar10.pt"), weights_only=True, map_location="cpu")
    convolution = ("conv0.", "c1", "c2", "c3", "s2.", "s3.")
    named = {name.replace(".", ".conv.", 1) if name.startswith(convolution) else name: value for name, value in state.items()}
    model = ResNet8()
    model.load_state_dict(named)
    return model.eval(), images()[0]


MODELS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {"resnet20": resnet20, "resnet8": resnet8}
ACCURACY = {"resnet20": 0.9173, "resnet8": 0.8719}
"""Of the float model, on all 10,000 images."""


@dataclass(frozen=True)
class Float:
    """A float model, its images, and what it makes of those that are judged."""

    model: nn.Module
    x: Tensor
    logits: Tensor

    @property
    def judged(self) -> Tensor:
        return self.x[:JUDGED]


@cache
def float_model(name: str) -> Float:
    model, x = MODELS[name]()
    with torch.no_grad():
        return Float(model, x, model(x[:JUDGED]))


def recipe(bits: int) -> qfx.Recipe:
    if bits == 8:
        return qfx.Recipe(batch_norm="fold")
    spec = qfx.Spec(bits)
    return qfx.Recipe(input=spec, weight=spec, bias=spec, scale=spec, shift=spec, reciprocal=spec, activation=spec, output=spec)


@cache
def fixed(name: str, bits: int) -> tuple[nn.Module, Tensor]:
    """The quantized model, and its results on the judged images."""
    source = float_model(name)
    model = qfx.quantize(source.model, source.x[JUDGED:], recipe(bits)).eval()
    with torch.no_grad():
        return model, model(source.judged)


def top1(logits: Tensor) -> float:
    """The share of judged images that are classified as labelled, in percent."""
    return 100 * (logits.argmax(1) == images()[1][:JUDGED]).double().mean().item()


@pytest.mark.parametrize("name", MODELS)
def test_the_float_model_is_the_published_one(name: str) -> None:
    assert abs(top1(float_model(name).logits) - 100 * ACCURACY[name]) < 5  # three standard deviations on so few images


@pytest.mark.parametrize("name", MODELS)
def test_16_bits_compute_what_the_float_model_computes(name: str) -> None:
    """The noise is that of rounding: a layer converted into something else would show, even if all executors agreed on it."""
    expected, (_, actual) = float_model(name).logits.double(), fixed(name, 16)
    error = actual - expected
    assert 10 * torch.log10(expected.square().sum() / error.square().sum()) > 45
    assert error.abs().amax(1).median() < 2**-10 * expected.abs().max()  # most images saturate nowhere
    assert abs(top1(actual) - top1(expected)) <= 1


@pytest.mark.parametrize("name", MODELS)
def test_8_bits_keep_the_accuracy_without_training(name: str) -> None:
    assert abs(top1(fixed(name, 8)[1]) - top1(float_model(name).logits)) <= 3


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("bits", [8, 16])
def test_executors_agree(name: str, bits: int, tmp_path: Path) -> None:
    model, logits = fixed(name, bits)
    x = float_model(name).judged[:COMPARED].numpy()
    path = tmp_path / f"{name}.onnx"
    qfx.export_onnx(model, path)
    graph = qfx.load_graph(path)
    expected_raw = run_raw(graph, x)
    assert len(np.unique(expected_raw)) > COMPARED  # not all zero or saturated
    with torch.no_grad():
        training = copy.deepcopy(model).train()(torch.tensor(x))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (exported,) = session.run(None, {session.get_inputs()[0].name: x})
    for executor, values in (("torch", logits[:COMPARED].numpy()), ("torch in training", training.numpy()), ("ONNX Runtime", exported)):
        assert_bit_exact(raw_of(values, graph, executor), expected_raw, names=(executor, "interpreter"))


@pytest.mark.usefixtures("gxx")
def test_c_simulation_agrees(tmp_path: Path) -> None:
    model, _ = fixed("resnet8", 8)
    x = float_model("resnet8").judged[:2].numpy()
    graph = qfx.to_graph(model, "resnet8")
    write_project(graph, tmp_path / "project", board="zcu102", golden_inputs=x)
    assert_bit_exact(run_csim(tmp_path / "project", x), run_raw(graph, x), names=("C simulation", "interpreter"))


@pytest.mark.parametrize("style", ["keep", "fold"])
def test_statistics_without_a_batch_counter_are_trained(style: str) -> None:
    """Checkpoints from before torch counted batches load with a counter of 0: the statistics are those of the checkpoint all the same."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    state = {name: value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    state |= {"1.running_mean": torch.tensor([0.5, -1.0, 2.0, 0.0]), "1.running_var": torch.tensor([4.0, 0.25, 9.0, 1.0])}
    model.load_state_dict(state)
    assert int(model[1].num_batches_tracked) == 0
    x = torch.randn(32, 3, 8, 8)
    spec = qfx.Spec(16)
    quantized = qfx.quantize(model, x, qfx.Recipe(input=spec, weight=spec, activation=spec, output=spec, batch_norm=style))
    statistics = dict(quantized.named_buffers())
    assert torch.equal(statistics["1.running_mean"], state["1.running_mean"])
    assert torch.equal(statistics["1.running_var"], state["1.running_var"])
    with torch.no_grad():
        assert (quantized(x) - model(x)).abs().max() < 2e-3


def test_the_statistics_of_a_real_legacy_checkpoint_stay() -> None:
    source, (model, _) = float_model("resnet20"), fixed("resnet20", 8)
    counters = [value for name, value in source.model.named_buffers() if name.endswith("num_batches_tracked")]
    assert counters
    assert not any(counters)
    after = dict(model.named_buffers())
    for name, value in source.model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            assert torch.equal(after[name], value), name
