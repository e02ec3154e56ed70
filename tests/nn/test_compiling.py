"""torch.compile runs a quantized model as it is; what records models instead is refused, with what to use."""

from __future__ import annotations

import copy
import io
import logging
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx import Recipe, UnsupportedError

X = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(16) % 4


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)  # torch tells of graph breaks
    yield
    logging.disable(logging.NOTSET)
    torch._dynamo.reset()


WRAPPINGS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "itself": lambda q: q,
    "inside a model": lambda q: nn.Sequential(nn.Identity(), q, nn.LogSoftmax(1)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
@pytest.mark.parametrize("style", ["keep", "fold"])
@pytest.mark.parametrize("name", WRAPPINGS)
def test_training_compiled_is_training(backend: str, style: str, name: str) -> None:
    model = WRAPPINGS[name](qfx.quantize(network(), X, Recipe.uniform(4, batch_norm=style)).train())
    other = copy.deepcopy(model)
    compiled = torch.compile(other, backend=backend)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, other)]
    for step in range(3):
        outputs = [m(X + step) for m in (model, compiled)]
        if name == "itself":  # what the user put around it is compiled, and may round otherwise
            assert torch.equal(*outputs)
        for output, optimizer in zip(outputs, optimizers, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(output, Y).backward()
            optimizer.step()
    if name == "itself":
        assert all(torch.equal(model.state_dict()[key], value) for key, value in other.state_dict().items())
        with torch.no_grad():
            assert torch.equal(model.eval()(X), compiled.eval()(X))


def through_trace(q: nn.Module) -> object:
    return torch.jit.trace(q, X)


def through_script(q: nn.Module) -> object:
    return torch.jit.script(q)


def through_onnx(q: nn.Module) -> object:
    return torch.onnx.export(q, (X,), io.BytesIO(), dynamo=False)


def through_export(q: nn.Module) -> object:
    return torch.export.export(q, (X,), strict=False)


RECORDERS = {
    "torch.jit.trace": through_trace,
    "torch.jit.script": through_script,
    "torch.onnx.export": through_onnx,
    "torch.export": through_export,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", RECORDERS)
@pytest.mark.parametrize("around", WRAPPINGS)
@pytest.mark.parametrize("training", [False, True])
def test_recording_says_what_to_use(name: str, around: str, training: bool) -> None:
    if name == "torch.export" and not hasattr(torch.compiler, "is_exporting"):
        pytest.skip("this version of torch does not tell")
    q = WRAPPINGS[around](qfx.quantize(network(), X)).train(training)
    before = copy.deepcopy(q.state_dict())
    with pytest.raises(UnsupportedError) as caught:
        RECORDERS[name](q)
    assert caught.value.what.startswith(name)
    assert "qfx.export_onnx" in caught.value.remedy
    assert all(torch.equal(before[key], value) for key, value in q.state_dict().items())
    q(X)


@pytest.mark.filterwarnings("ignore")
def test_a_strict_export_shows_the_remedy() -> None:
    q = qfx.quantize(network(), X).eval()
    with pytest.raises(Exception, match=r"qfx\.export_onnx"):  # torch wraps it in an error of its own
        torch.export.export(q, (X,), strict=True)


@pytest.mark.filterwarnings("ignore")
def test_copies_are_guarded_too() -> None:
    q = qfx.quantize(network(), X).eval()
    stream = io.BytesIO()
    torch.save(q, stream)
    stream.seek(0)
    for model in (copy.deepcopy(q), torch.load(stream, weights_only=False)):
        with pytest.raises(UnsupportedError):
            through_trace(model)
        expected: Tensor = q(X)
        assert torch.equal(model(X), expected)
