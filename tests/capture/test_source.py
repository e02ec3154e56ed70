"""Factories: what may be named, and what is said when it does not work."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from qfx.capture.source import check_runs, from_factory, load_model, use_current_folder
from qfx.errors import DataError, ModelFileError

MODULE = """
import torch
from torch import nn

class Net(nn.Sequential):
    def __init__(self, classes=3):
        super().__init__(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, classes))

class Holder:
    @staticmethod
    def build():
        return Net(5)

ready = Net()
number = 7

def needs(argument):
    return Net()

def fails():
    raise RuntimeError("the weights are on another planet")

def gives_none():
    pass
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a package, and the current one."""
    (tmp_path / "sourcepkg").mkdir()
    (tmp_path / "sourcepkg" / "__init__.py").touch()
    (tmp_path / "sourcepkg" / "net.py").write_text(MODULE)
    (tmp_path / "sourcepkg" / "broken.py").write_text("import torch\n\nx = 1 / 0\n")
    (tmp_path / "sourcepkg" / "lacking.py").write_text("import no_such_package_anywhere\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name.startswith("sourcepkg")]:
        monkeypatch.delitem(sys.modules, name)
    use_current_folder()
    return tmp_path


@pytest.mark.parametrize(("source", "classes"), [("net:Net", 3), ("net:ready", 3), ("net:Holder.build", 5)])
def test_what_may_be_named(source: str, classes: int, here: Path) -> None:
    model = load_model(f"sourcepkg.{source}", None, torch.zeros(2, 3, 8, 8))
    assert not model.training
    assert model(torch.zeros(1, 3, 8, 8)).shape == (1, classes)


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("sourcepkg.net", r"not a model source(.|\n)*:factory"),
        ("sourcepkg/net.py:Net", r"not a model source(.|\n)*net:factory"),
        ("sourcepkg.nowhere:Net", r"no module 'sourcepkg\.nowhere'(.|\n)*PYTHONPATH"),
        ("nowhere_at_all:Net", "no module 'nowhere_at_all'"),
        ("sourcepkg.broken:Net", r"ZeroDivisionError: division by zero \(broken\.py, line 3\)"),
        ("sourcepkg.lacking:Net", "No module named 'no_such_package_anywhere'"),
        ("sourcepkg.net:Nett", r"no 'Nett' in it(.|\n)*Net"),
        ("sourcepkg.net:number", "is a int"),
        ("sourcepkg.net:needs", r"TypeError: .*argument(.|\n)*without arguments"),
        ("sourcepkg.net:fails", "the factory fails: RuntimeError: the weights are on another planet"),
        ("sourcepkg.net:gives_none", "returns a NoneType"),
    ],
)
def test_what_does_not_work(source: str, complaint: str, here: Path) -> None:
    with pytest.raises(ModelFileError, match=complaint) as refusal:
        from_factory(source)
    assert refusal.value.where == source
    assert refusal.value.remedy


@pytest.mark.parametrize(
    ("shape", "remedy"),
    [
        ((2, 8, 8, 3), r"x\.transpose\(0, 3, 1, 2\)"),
        ((2, 3, 9, 9), "save what the model takes"),
        ((2, 8, 8), "save what the model takes"),
    ],
)
def test_layouts(shape: tuple[int, ...], remedy: str, here: Path) -> None:
    with pytest.raises(DataError, match=r"does not run on samples of shape(.|\n)*" + remedy):
        load_model("sourcepkg.net:Net", None, torch.zeros(shape))


@pytest.mark.parametrize(("shape", "remedy"), [((2, 9, 4), r"x\.transpose\(0, 2, 1\)"), ((2, 4, 9), None), ((4, 9), "the batch axis is missing")])
def test_layouts_of_signals(shape: tuple[int, ...], remedy: str | None) -> None:
    class Signal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(4, 2, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.dim() != 3:
                raise ValueError("three axes")
            return self.conv(x)

    if remedy is None:
        check_runs(Signal(), torch.zeros(shape))
    else:
        with pytest.raises(DataError, match=remedy):
            check_runs(Signal(), torch.zeros(shape))


def test_a_model_that_gives_nan_is_refused() -> None:
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.bias.fill_(torch.nan)
    with pytest.raises(DataError, match="gives NaN"):
        check_runs(layer, torch.zeros(2, 2))
    with pytest.raises(DataError, match="samples of shape"):
        check_runs(nn.Linear(3, 2), torch.zeros(2, 2))


def test_files_bring_their_own_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="leave --checkpoint out"):
        load_model("net.onnx", tmp_path / "weights.pt", torch.zeros(1, 1))
