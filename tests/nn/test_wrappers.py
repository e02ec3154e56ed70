"""Models in the wrappers that training puts around them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.optim.swa_utils import AveragedModel

import qfx
from qfx import QfxError
from qfx.ptq import calibrate, float_reference

X = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """One process that counts as a group of them."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "DataParallel": nn.DataParallel,
    "DistributedDataParallel": nn.parallel.DistributedDataParallel,
    "AveragedModel": AveragedModel,
    "torch.compile": torch.compile,  # type: ignore[dict-item]
    "a compiled average": lambda model: torch.compile(AveragedModel(model)),  # type: ignore[dict-item, return-value]
    "an average of a compiled one": lambda model: AveragedModel(torch.compile(model)),  # type: ignore[arg-type]
}

needs_group = pytest.mark.usefixtures("group")
quiet = pytest.mark.filterwarnings("ignore")


@quiet
@needs_group
@pytest.mark.parametrize("name", WRAPPERS)
def test_functions_take_what_is_inside(name: str, tmp_path: Path) -> None:
    plain = qfx.quantize(network(), X).eval()
    q = copy.deepcopy(plain)
    wrapped = WRAPPERS[name](q).eval()
    assert qfx.to_graph(wrapped) == qfx.to_graph(plain)
    files = []
    for model in (plain, wrapped):
        qfx.export_onnx(model, tmp_path / "model.onnx")
        files.append((tmp_path / "model.onnx").read_bytes())
    assert files[0] == files[1]
    assert list(dict(qfx.quantizers(wrapped))) == list(dict(qfx.quantizers(plain)))
    groups = qfx.parameter_groups(wrapped, lr=0.1)
    assert {id(p) for group in groups for p in group["params"]} <= {id(p) for p in wrapped.parameters()}
    for run in (qfx.calibrate, calibrate):
        run(plain, 2 * X)
        run(wrapped, 2 * X)
        assert qfx.to_graph(wrapped) == qfx.to_graph(plain)
    assert torch.equal(float_reference(wrapped)(X), float_reference(plain)(X))


@quiet
@needs_group
@pytest.mark.parametrize("name", WRAPPERS)
def test_quantizing_takes_the_float_model_inside(name: str) -> None:
    model = network()
    expected, found = qfx.quantize(model, X), qfx.quantize(WRAPPERS[name](copy.deepcopy(model)), X)
    assert expected.training == found.training
    assert list(expected.state_dict()) == list(found.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(expected.state_dict().values(), found.state_dict().values(), strict=True))


@quiet
@needs_group
@pytest.mark.parametrize("name", WRAPPERS)
def test_training_in_a_wrapper_and_its_checkpoint(name: str) -> None:
    wrapped = WRAPPERS[name](qfx.quantize(network(), X).train())
    wrapped(X).square().sum().backward()
    wrapped.load_state_dict(wrapped.state_dict())
    with pytest.raises(QfxError):
        wrapped.load_state_dict(WRAPPERS[name](qfx.quantize(network(), X, qfx.Recipe.uniform(4))).state_dict())


class Lit(nn.Module):
    """What a training framework may put around a model."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def test_another_wrapper_is_refused_by_the_name_of_what_is_inside(tmp_path: Path) -> None:
    wrapped = Lit(qfx.quantize(network(), X))
    calls: list[Callable[[], object]] = [
        lambda: qfx.to_graph(wrapped),
        lambda: qfx.export_onnx(wrapped, tmp_path / "m.onnx"),
        lambda: dict(qfx.quantizers(wrapped)),
        lambda: qfx.calibrate(wrapped, X),
        lambda: calibrate(wrapped, X),
    ]
    for call in calls:
        with pytest.raises(QfxError, match=r"^Lit: is not a quantized model") as caught:
            call()
        assert ".module" in caught.value.remedy
    groups = qfx.parameter_groups(wrapped, lr=0.1)  # a float model of which a quantized one is a part is trained as a whole
    assert {id(p) for group in groups for p in group["params"]} == {id(p) for p in wrapped.parameters() if p.requires_grad}
    with pytest.raises(QfxError, match="is quantized already"):
        qfx.quantize(wrapped, X)
    for other in (network(), None, 3):
        with pytest.raises(QfxError, match="is not a quantized model"):
            qfx.to_graph(other)  # type: ignore[arg-type]
