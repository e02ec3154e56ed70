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


def lightning_file(folder: Path) -> Path:
    """A checkpoint that Lightning's own Trainer wrote, of a module with a criterion that has weights and an EMA beside the network."""
    import lightning.pytorch as pl

    class Module(pl.LightningModule):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.net, self.criterion = net(), nn.CrossEntropyLoss(weight=torch.ones(3))
            self.ema = torch.optim.swa_utils.AveragedModel(self.net, use_buffers=True)

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            return self.criterion(self.net(batch[0]), batch[1])  # type: ignore[no-any-return]

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.net.parameters(), lr=0.1)

    torch.manual_seed(3)
    module = Module(width=3)
    data = [(torch.rand(4, 1, 4, 4), torch.tensor([0, 1, 2, 0]))]
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "enable_checkpointing": False}
    trainer = pl.Trainer(max_steps=2, accelerator="cpu", default_root_dir=folder, **quiet)
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=None))
    trainer.save_checkpoint(folder / "last.ckpt")
    torch.save({"net": module.net.state_dict(), "ema": module.ema.module.state_dict()}, folder / "expected.pt")
    return folder / "last.ckpt"


@pytest.mark.filterwarnings("ignore")
def test_lightning_with_an_average_beside_the_network(tmp_path: Path) -> None:
    place = lightning_file(tmp_path)
    expected = torch.load(tmp_path / "expected.pt", weights_only=True)
    for key, wanted, filled in (
        (None, "net", "state_dict.net"),
        ("ema", "ema", "state_dict.ema.module"),
        ("state_dict.net", "net", "state_dict.net"),
    ):
        model = net()
        taken = load_checkpoint(model, place, key=key)
        assert taken.key == filled
        assert all(torch.equal(tensor, expected[wanted][name]) for name, tensor in model.state_dict().items())
    assert {"criterion.weight", "optimizer_states", "hyper_parameters", "loops"} <= set(taken.left)
    assert not torch.equal(expected["net"]["0.weight"], expected["ema"]["0.weight"])
    assert taken.others == ("state_dict.ema.module",)
    assert "also there: 'state_dict.ema.module' (--checkpoint-key" in str(taken)
    assert "took 9 tensors of 'state_dict.net'; left: " in str(taken)
    with pytest.raises(ModelFileError, match=r"nothing called 'emma'(.|\n)*state_dict\.net, state_dict\.ema\.module"):
        load_checkpoint(net(), place, key="emma")


def test_averages(tmp_path: Path) -> None:
    """Those of torch, alone; those of timm beside the weights and the options; shadows that keep no buffers, which take those of the weights."""
    import argparse

    state = trained()
    average = {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    averaged = torch.optim.swa_utils.AveragedModel(net(), use_buffers=True)
    averaged.module.load_state_dict(average)
    torch.save(averaged.state_dict(), tmp_path / "swa.pt")
    model = net()
    taken = load_checkpoint(model, tmp_path / "swa.pt")
    assert (taken.key, taken.left, taken.others) == ("module", ("n_averaged",), ())
    assert torch.equal(model[0].weight, average["0.weight"])

    torch.save({"state_dict": state, "state_dict_ema": average, "args": argparse.Namespace(lr=0.1), "epoch": 3}, tmp_path / "timm.pt")
    for key, wanted in ((None, state), ("ema", average), ("state_dict", state)):
        taken = load_checkpoint(model, tmp_path / "timm.pt", key=key)
        assert torch.equal(model[0].weight, wanted["0.weight"])
        assert taken.left == ("args", "epoch")
    torch.save({"state_dict_ema": average, "epoch": 3}, tmp_path / "alone.pt")
    assert load_checkpoint(model, tmp_path / "alone.pt").key == "state_dict_ema"

    names = {name for name, _ in net().named_parameters()}
    shadow = {"decay": 0.99, "shadow": {name: tensor for name, tensor in average.items() if name in names}}
    torch.save({"model": state, "ema": shadow}, tmp_path / "shadow.pt")
    assert load_checkpoint(model, tmp_path / "shadow.pt").key == "model"
    taken = load_checkpoint(model, tmp_path / "shadow.pt", key="ema")
    assert (taken.key, taken.filled) == ("ema.shadow", "model")
    assert torch.equal(model[0].weight, average["0.weight"])
    assert torch.equal(model[1].running_mean, state["1.running_mean"])


def test_several_that_fit_have_to_be_named(tmp_path: Path) -> None:
    state = trained()
    other = {name: tensor + 1 for name, tensor in state.items()}
    both = {f"{part}.{name}": tensor for part, tensors in (("student", state), ("teacher", other)) for name, tensor in tensors.items()}
    torch.save(both, tmp_path / "both.pt")
    model = net()
    before = model[0].weight.detach().clone()
    with pytest.raises(ModelFileError, match=r"2 groups of weights that fit(.|\n)*one of student, teacher"):
        load_checkpoint(model, tmp_path / "both.pt")
    assert torch.equal(model[0].weight, before)
    taken = load_checkpoint(model, tmp_path / "both.pt", key="teacher")
    assert torch.equal(model[0].weight, other["0.weight"])
    assert taken.others == ("student",)
    torch.save({"a": state, "b": dict(state)}, tmp_path / "same.pt")
    assert load_checkpoint(model, tmp_path / "same.pt").others == ()  # the same twice is no question


def test_a_part_that_was_compiled_or_distributed(tmp_path: Path) -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = net(), nn.Linear(3, 2)

    whole = Whole()
    for name, wrapped in (("compiled", "body._orig_mod."), ("distributed", "body.module.")):
        state = {key.replace("body.", wrapped): torch.rand_like(value.float()) for key, value in whole.state_dict().items()}
        state["body.module.1.num_batches_tracked"] = torch.tensor(3)
        state = {key: value for key, value in state.items() if "num_batches" not in key}
        torch.save(state, tmp_path / name)
        load_checkpoint(whole, tmp_path / name)
        assert torch.equal(whole.body[0].weight, state[f"{wrapped}0.weight"])


def test_folders_of_accelerate_and_transformers(tmp_path: Path) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    torch.manual_seed(5)
    source, optimizer = net(), torch.optim.Adam(net().parameters())
    prepared = accelerator.prepare(source, optimizer)
    for name, safe in (("safe", True), ("plain", False)):
        accelerator.save_state(str(tmp_path / name), safe_serialization=safe)
        model = net()
        taken = load_checkpoint(model, tmp_path / name)
        assert all(torch.equal(tensor, source.state_dict()[key]) for key, tensor in model.state_dict().items())
        assert "optimizer.bin" in taken.left
    accelerator.save_model(prepared[0], str(tmp_path / "shards"), max_shard_size=200)
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    for place in ("shards", "shards/model.safetensors.index.json"):
        model = net()
        assert load_checkpoint(model, tmp_path / place).left == ()
        assert all(torch.equal(tensor, source.state_dict()[key]) for key, tensor in model.state_dict().items())
    index = tmp_path / "shards" / "model.safetensors.index.json"
    text = index.read_text()
    (tmp_path / "outside.safetensors").write_bytes(next((tmp_path / "shards").glob("*.safetensors")).read_bytes())
    index.write_text(text.replace("model-00001", "../model-00001"))
    with pytest.raises(ModelFileError, match="lies elsewhere"):
        load_checkpoint(net(), tmp_path / "shards")
    index.write_text(text.replace("model-00001", "model-00002"))
    with pytest.raises(ModelFileError, match="lacks"):
        load_checkpoint(net(), tmp_path / "shards")
    index.write_text("[]")
    with pytest.raises(ModelFileError, match="no index"):
        load_checkpoint(net(), tmp_path / "shards")
    index.unlink()
    with pytest.raises(ModelFileError, match=r"without their index"):
        load_checkpoint(net(), tmp_path / "shards")


@pytest.mark.parametrize(
    ("file", "remedy"),
    [
        ("__0_0.distcp", "dcp_to_torch"),
        ("pytorch_model_fsdp_0/x", "merge-weights"),
        ("global_step3/bf16_optim_states.pt", "zero_to_fp32"),
        ("a", "name the"),
    ],
)
def test_folders_that_hold_parts_are_refused_with_how_to_join_them(file: str, remedy: str, tmp_path: Path) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("")
    with pytest.raises(ModelFileError, match=remedy):
        load_checkpoint(net(), tmp_path)


def test_a_quantized_model_in_a_module_is_found_too(tmp_path: Path) -> None:
    import qfx

    x = torch.rand(8, 1, 4, 4)
    qmodel, other = qfx.quantize(net(), x), qfx.quantize(net(), x)
    state = {f"net.{name}": tensor for name, tensor in qmodel.state_dict().items()}
    torch.save({"state_dict": {**state, "metric.total": torch.zeros(1)}, "epoch": 1}, tmp_path / "last.ckpt")
    taken = load_checkpoint(other, tmp_path / "last.ckpt")
    assert (taken.key, taken.left) == ("state_dict.net", ("metric.total", "epoch"))
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in qmodel.state_dict().items())
    with pytest.raises(ModelFileError, match="trained as"):
        load_checkpoint(qfx.quantize(net(), x, qfx.Recipe.uniform(4)), tmp_path / "last.ckpt")


def test_the_class_in_the_way_is_named(tmp_path: Path) -> None:
    torch.save({"state_dict": trained(), "options": Trap(tmp_path / "sprung")}, tmp_path / "last.ckpt")
    with pytest.raises(ModelFileError, match=r"pathlib\.Path(.|\n)*where the file is trusted"):
        load_checkpoint(net(), tmp_path / "last.ckpt")
