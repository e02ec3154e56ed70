"""Checkpoints in every wrapping, and what must not come out of one."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from qfx.capture.checkpoint import load_checkpoint, read_state
from qfx.errors import ModelFileError


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


def trained() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {name: torch.rand_like(tensor) if tensor.is_floating_point() else tensor + 7 for name, tensor in net().state_dict().items()}


WRAPPINGS: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "plain": lambda state: state,
    "data parallel": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "state_dict": lambda state: {"state_dict": state, "best_prec1": 91.6, "epoch": 3},
    "model": lambda state: {"model": state, "args": {"lr": 0.1}},
    "model_state_dict, compiled, data parallel": lambda state: {"model_state_dict": {f"module._orig_mod.{name}": t for name, t in state.items()}},
}


@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS)
def test_wrappings(wrap: Callable[[dict[str, Tensor]], object], tmp_path: Path) -> None:
    state = trained()
    torch.save(wrap(state), tmp_path / "weights.pt")
    model = net()
    load_checkpoint(model, tmp_path / "weights.pt")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_safetensors_under_any_name(tmp_path: Path) -> None:
    state = trained()
    for name in ("weights.safetensors", "weights.pt"):
        save_file(state, tmp_path / name)
        model = net()
        load_checkpoint(model, tmp_path / name)
        assert torch.equal(model[0].weight, state["0.weight"])


def test_counters_of_batches_may_be_missing(tmp_path: Path) -> None:
    state = trained()
    del state["1.num_batches_tracked"]
    torch.save(state, tmp_path / "weights.pt")
    load_checkpoint(net(), tmp_path / "weights.pt")


class Trap:
    """Unpickling an object of this class leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("legacy", [False, True])
def test_no_code_of_the_file_runs(tmp_path: Path, legacy: bool) -> None:
    sprung = tmp_path / "sprung"
    content = {"state_dict": trained(), "hook": Trap(sprung)}
    if legacy:
        (tmp_path / "weights.pt").write_bytes(pickle.dumps(content))
    else:
        torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(ModelFileError, match=r"run code(.|\n)*model\.state_dict\(\)"):
        read_state(tmp_path / "weights.pt")
    assert not sprung.exists()
    if legacy:
        pickle.loads((tmp_path / "weights.pt").read_bytes())
    else:
        torch.load(tmp_path / "weights.pt", weights_only=False)
    assert sprung.exists()  # the trap works


def test_whole_models_are_refused(tmp_path: Path) -> None:
    torch.save(net(), tmp_path / "model.pt")
    with pytest.raises(ModelFileError, match="run code"):
        read_state(tmp_path / "model.pt")


def test_names_that_do_not_match_are_listed_with_the_nearest(tmp_path: Path) -> None:
    state = trained()
    state["3.weigth"] = state.pop("3.weight")
    state["extra"] = torch.zeros(2)
    state["0.weight"] = torch.zeros(2, 1, 5, 5)
    torch.save(state, tmp_path / "weights.pt")
    model = net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ModelFileError) as refusal:
        load_checkpoint(model, tmp_path / "weights.pt")
    text = str(refusal.value)
    assert "1 names missing, 2 not in the model, 1 of another shape" in text
    assert "missing: 3.weight 3x8; the nearest is 3.weigth 3x8" in text
    assert "not in the model: extra 2" in text
    assert "0.weight has shape 2x1x5x5, the model's 2x1x3x3" in text
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    torch.save({f"other.{i}": torch.zeros(1) for i in range(40)}, tmp_path / "weights.pt")
    with pytest.raises(ModelFileError, match="and 28 more"):
        load_checkpoint(net(), tmp_path / "weights.pt")


def test_nan_is_refused(tmp_path: Path) -> None:
    state = trained()
    state["3.bias"][1] = torch.nan
    torch.save(state, tmp_path / "weights.pt")
    model = net()
    with pytest.raises(ModelFileError, match=r"3\.bias holds NaN"):
        load_checkpoint(model, tmp_path / "weights.pt")
    assert not torch.equal(model[0].weight, state["0.weight"])


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "no checkpoint"),
        (b"hello, this is no checkpoint", "no checkpoint"),
        (b"\x10\0\0\0\0\0\0\0{bad json here!}", "damaged"),
    ],
)
def test_files_that_are_no_checkpoint(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "weights.pt").write_bytes(content)
    with pytest.raises(ModelFileError, match=complaint):
        read_state(tmp_path / "weights.pt")


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {}, {"state_dict": {}}])
def test_files_without_tensors(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(ModelFileError, match="no tensors by name"):
        read_state(tmp_path / "weights.pt")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_state(tmp_path / "nowhere.pt")
