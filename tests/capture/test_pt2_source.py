"""Files of torch.export as sources of models: against the module that was exported, and what is refused."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from qfx.capture.from_pt2 import from_pt2
from qfx.errors import DataError, ModelFileError, UnsupportedError


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.Conv2d(4, 4, 3, padding="same", groups=2)
        self.bn = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn(self.conv1(x)))
        out = self.conv2(out)
        out += x
        return self.relu(out)


class Net(nn.Module):
    """Residual blocks, functional calls, a buffer, slices, padding, a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.5, 0.4, 0.3]).reshape(3, 1, 1))
        self.stem = nn.Conv2d(3, 4, 3, stride=2)
        self.blocks = nn.Sequential(Block(), Block())
        self.drop, self.fc = nn.Dropout(0.5), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu6(self.stem((x - self.mean) / 0.25)))
        x = F.pad(x[:, :, ::2, 1:], (0, 0, 0, 0, 1, 1))
        x = F.max_pool2d(F.pad(x, (1, 0)), 2)
        return self.fc(self.drop(x.mean((2, 3)).view(x.size(0), -1)))


class Chain(nn.Module):
    """One dimension, a transposed convolution, pooling, concatenation, upsampling."""

    def __init__(self, upsample: bool = True) -> None:
        super().__init__()
        self.upsample = upsample
        self.a, self.b = nn.Conv1d(2, 4, 3, padding=1), nn.ConvTranspose1d(4, 4, 4, stride=2, padding=1)
        self.act, self.pool = nn.LeakyReLU(0.25), nn.AvgPool1d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.b(self.act(self.a(x))))
        left, right = torch.split(x, 2, dim=1)
        if self.upsample:
            left = F.interpolate(left, scale_factor=2.0)[:, :, ::2]
        x = torch.cat([right, left, x * 2], dim=1)
        return F.adaptive_avg_pool1d(x, 2).flatten(1)


class Magnitudes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x**2 - x.abs() + torch.square(x).relu()


class Cube(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x**3


def export(model: nn.Module, x: Tensor, path: Path, *, dynamic: bool = True, core: bool = False) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        program = torch.export.export(model.eval(), (x,), dynamic_shapes=({0: torch.export.Dim("n", min=1)},) if dynamic else None)
        torch.export.save(program.run_decompositions() if core else program, path)
    return path


def trained(model: nn.Module, x: Tensor) -> nn.Module:
    with torch.no_grad():
        model.train()(x)
    return model.eval()


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], bool, bool]] = {
    "net": (Net, (3, 13, 13), True, False),
    "net, fixed batch": (Net, (3, 13, 13), False, False),
    "net, core operators": (Net, (3, 13, 13), True, True),
    "chain": (Chain, (2, 8), True, False),
    "magnitudes": (Magnitudes, (3, 5), True, False),
    "magnitudes, core operators": (Magnitudes, (3, 5), True, True),
    "chain, core operators": (lambda: Chain(upsample=False), (2, 8), False, True),
}


@pytest.mark.parametrize("case", CASES)
def test_gives_what_the_module_gives(case: str, tmp_path: Path) -> None:
    make, shape, dynamic, core = CASES[case]
    torch.manual_seed(0)
    x = torch.randn(6, *shape)
    model = trained(make(), x)
    found = from_pt2(export(model, x[:4], tmp_path / "net.pt2", dynamic=dynamic, core=core), x)
    torch.testing.assert_close(found(x), model(x), rtol=1e-4, atol=1e-5)
    paths = {name for name, module in found.named_modules() if isinstance(module, nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.Linear)}
    assert paths == {name for name, module in model.named_modules() if isinstance(module, nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.Linear)}
    qmodel = qfx.quantize(found, x, qfx.Recipe.uniform(12, input=qfx.Spec(16), output=qfx.Spec(20)))
    assert (qmodel.eval()(x) - model(x)).abs().max() < 0.05 * model(x).abs().max()


class Commonest(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mode(1)[0]


class Complex(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft(x).abs()


@pytest.mark.parametrize(("layer", "complaint"), [(Commonest(), r"mode(.|\n)*docs/layers.md"), (Complex(), "fft")])
def test_refused(layer: nn.Module, complaint: str, tmp_path: Path) -> None:
    x = torch.randn(2, 4)
    path = export(nn.Sequential(layer), x, tmp_path / "net.pt2", dynamic=False)
    with pytest.raises(UnsupportedError, match=complaint) as refusal:
        from_pt2(path, x)
    assert refusal.value.where.startswith("0")


class Modern(nn.Module):
    """Operators of today's networks, and two that have no fixed-point form."""

    def __init__(self, *, refused: bool) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.SiLU(), nn.MaxPool2d(3, 2, ceil_mode=True))
        self.norm, self.act, self.leak, self.head = nn.GroupNorm(2, 4), nn.Hardtanh(), nn.LeakyReLU(0.01), nn.Linear(4, 2)
        self.refused = refused

    def forward(self, x: Tensor) -> Tensor:
        x = self.leak(self.act(self.norm(self.stem(x))))
        x = x * torch.sigmoid(x.mean((2, 3), keepdim=True))
        if self.refused:
            x = x.mode(1, keepdim=True)[0] + torch.fft.fft(x).abs()
        return self.head(x.amax((2, 3))).softmax(1)


def test_operators_of_today(tmp_path: Path) -> None:
    x = torch.randn(4, 3, 8, 8)
    model = Modern(refused=False).eval()
    found = from_pt2(export(model, x, tmp_path / "net.pt2"), x)
    torch.testing.assert_close(found(x), model(x), rtol=1e-4, atol=1e-5)
    qmodel = qfx.quantize(found, x).eval()
    with torch.no_grad():
        assert (qmodel(x).numpy() == qfx.run(qfx.to_graph(qmodel), x.numpy())).all()


def test_all_blockers_at_once(tmp_path: Path) -> None:
    x = torch.randn(4, 3, 8, 8)
    path = export(Modern(refused=True), x, tmp_path / "net.pt2")
    with pytest.raises(UnsupportedError, match="obstacles on the way") as caught:
        from_pt2(path, x)
    assert [blocker.where for blocker in caught.value.blockers][:2] == ["mode", "fft_fft"]
    assert all(blocker.remedy and blocker.where in str(caught.value) for blocker in caught.value.blockers)
    with pytest.raises(UnsupportedError) as again:
        from_pt2(path, x)
    assert str(again.value) == str(caught.value)


@pytest.mark.parametrize("change", [nn.utils.parametrizations.weight_norm, lambda layer: nn.utils.parametrizations.spectral_norm(layer.eval())])
def test_weights_that_are_computed_of_parameters(change: Callable[[nn.Module], nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(change(nn.Conv2d(3, 4, 3)), nn.ReLU()), torch.randn(4, 3, 8, 8)
    path = export(model, x, tmp_path / "net.pt2")
    torch.testing.assert_close(from_pt2(path, x)(x), model(x), rtol=1e-4, atol=1e-5)


def test_training_mode_is_refused(tmp_path: Path) -> None:
    x = torch.randn(4, 2, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(nn.Sequential(nn.BatchNorm1d(2)).train(), (x,)), tmp_path / "net.pt2")
    with pytest.raises(UnsupportedError, match=r"model\.eval\(\)"):
        from_pt2(tmp_path / "net.pt2", x)


def test_wrong_shape(tmp_path: Path) -> None:
    path = export(nn.Sequential(nn.Linear(4, 2)), torch.randn(3, 4), tmp_path / "net.pt2")
    with pytest.raises(DataError, match="the model takes 4"):
        from_pt2(path, torch.randn(3, 5))


def edited(path: Path, name: str, edit: Callable[[Any], Any]) -> Path:
    """A copy of the archive with one of its JSON files edited."""
    copy = path.with_name("edited.pt2")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy, "w") as new:
        for entry in old.namelist():
            content = old.read(entry)
            if entry.endswith(name):
                data = json.loads(content)
                edit(data)
                content = json.dumps(data).encode()
            new.writestr(entry, content)
    return copy


def test_pickled_tensors_are_refused(tmp_path: Path) -> None:
    """A pickle in a weight's place is never opened."""
    x = torch.randn(3, 4)
    path = export(nn.Sequential(nn.Linear(4, 2)), x, tmp_path / "net.pt2")

    def use_pickle(data: Any) -> None:
        data["config"]["0.weight"]["use_pickle"] = True

    with pytest.raises(ModelFileError, match=r"'0\.weight' as a pickled object"):
        from_pt2(edited(path, "model_weights_config.json", use_pickle), x)


def test_damaged_files(tmp_path: Path) -> None:
    x = torch.randn(3, 4)
    path = export(nn.Sequential(nn.Linear(4, 2)), x, tmp_path / "net.pt2")
    (tmp_path / "cut.pt2").write_bytes(path.read_bytes()[:500])
    for name in ("cut.pt2", "nowhere.pt2"):
        with pytest.raises(ModelFileError, match="cannot be"):
            from_pt2(tmp_path / name, x)
    with pytest.raises(ModelFileError, match="cannot be understood"):
        from_pt2(edited(path, "model.json", lambda data: data.pop("graph_module")), x)
    with zipfile.ZipFile(tmp_path / "other.pt2", "w") as archive:
        archive.writestr("something", "else")
    with pytest.raises(ModelFileError, match=r"no models/model\.json"):
        from_pt2(tmp_path / "other.pt2", x)
