"""The pipeline: passes in order, what they gain, and that an interrupted run that goes on gives the very same model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.errors import DataError, RecipeError
from qfx.ptq.measure import Labelled, accuracy, sqnr
from qfx.ptq.run import pipeline
from qfx.ptq.run import state as state_module
from qfx.ptq.run.passes import FLOAT_PASSES, QUANTIZED_PASSES, checked_passes, default_passes
from qfx.ptq.run.pipeline import run
from qfx.ptq.run.settings import Settings
from qfx.ptq.run.state import State


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.fc1, self.fc2 = nn.Linear(24, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)) + x)
        return self.fc2(torch.relu(self.fc1(nn.functional.max_pool2d(x, 3).flatten(1))))


@pytest.fixture(scope="module")
def data() -> Tensor:
    return torch.randn(96, 1, 6, 6, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def model(data: Tensor) -> nn.Module:
    torch.manual_seed(0)
    net = Net()
    with torch.no_grad():
        net(data)  # the norms' statistics
    return net.eval()


def recipe(weights: int, activations: int) -> qfx.Recipe:
    return qfx.Recipe(weight=qfx.Spec(weights, granularity="channel"), bias=qfx.Spec(16, granularity="channel"), activation=qfx.Spec(activations))


def exported(qmodel: nn.Module, folder: Path) -> bytes:
    qfx.export_onnx(qmodel, folder / "model.onnx")
    return (folder / "model.onnx").read_bytes()


def test_defaults_follow_the_word_lengths(model: nn.Module, data: Tensor) -> None:
    found = {bits: default_passes(qfx.quantize(model, data, recipe(*bits))) for bits in ((8, 8), (6, 6), (4, 8), (4, 4))}
    assert found[8, 8] == ("fold", "calibrate", "bias")
    assert found[6, 6] == found[4, 8] == ("fold", "calibrate", "gptq")
    assert found[4, 4] == ("fold", "calibrate", "gptq", "tune")
    assert default_passes(qfx.quantize(model, data)) == ("fold", "equalize", "calibrate", "bias")


def test_every_pass_runs_and_is_accounted_for(model: nn.Module, data: Tensor) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    passes = (*FLOAT_PASSES, *(name for name in QUANTIZED_PASSES if name not in ("adaround", "adaround-blocks")))
    outcome = run(model, data, Settings(recipe(5, 8), passes))
    assert [step.name for step in outcome.steps] == ["round to nearest", *passes]
    assert all(step.output_db is not None and step.seconds >= 0 for step in outcome.steps)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_account_is_right_and_rounding_gains(model: nn.Module, data: Tensor) -> None:
    with torch.no_grad():
        labels = model(data).argmax(1)
    outcome = run(model, data, Settings(recipe(3, 8)), evaluation=Labelled(data, labels))
    with torch.no_grad():
        expected = sqnr(model(data), outcome.qmodel(data))
    assert outcome.steps[-1].output_db == expected
    assert outcome.float_accuracy == 1.0
    assert outcome.accuracy == accuracy(outcome.qmodel, Labelled(data, labels), 64) == outcome.steps[-1].accuracy
    first, last = outcome.steps[0].output_db, outcome.steps[-1].output_db
    assert first is not None
    assert last is not None
    assert last > first + 3


class Interrupter:
    """Stops at the n-th word of progress, as Ctrl-C would."""

    def __init__(self, at: int) -> None:
        self.at, self.count, self.last = at, 0, ""

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.count += 1
        self.last = f"{stage} {done}"
        if self.count == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("passes", "stops"),
    [
        (("fold", "calibrate", "comq", "tune"), {"fold 0": None, "comq 1": "comq", "tune 6": "", "tune 31": "tune"}),
        (("fold", "adaround"), {"adaround 1": "adaround"}),
        (("fold", "adaround-blocks"), {"adaround-blocks 10": "", "adaround-blocks 50": "adaround-blocks"}),
    ],
)
def test_interrupted_and_resumed_is_the_same(
    passes: tuple[str, ...], stops: dict[str, str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr("qfx.ptq.run.passes.BLOCK_ITERATIONS", 40)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)).eval()
    data = torch.randn(24, 1, 6, 6)
    settings = Settings(recipe(4, 4), passes, seed=5, batch=8)
    words: list[str] = []
    whole = run(net, data, settings, progress=lambda stage, done, total: words.append(f"{stage} {done}"))
    expected = exported(whole.qmodel, tmp_path)
    for word, under_way in stops.items():
        state = State(tmp_path / word, {})
        with pytest.raises(KeyboardInterrupt):
            run(net, data, settings, state=state, progress=Interrupter(words.index(word) + 1))
        saved = state.load()
        assert (None if saved is None else saved.under_way) == under_way
        again: list[str] = []
        resumed = run(net, data, settings, state=state, saved=saved, progress=lambda stage, done, total: again.append(f"{stage} {done}"))  # noqa: B023
        assert exported(resumed.qmodel, tmp_path) == expected, word
        assert [(step.name, step.output_db) for step in resumed.steps] == [(step.name, step.output_db) for step in whole.steps]
        assert len(again) < len(words) or not under_way


class Centred(nn.Conv2d):
    """A convolution whose weights have a mean of 0, which its forward computes."""

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.conv2d(input, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias)


def test_a_model_that_computes_its_weights_goes_through_interrupted_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "SAVE_SECONDS", 0.0)
    torch.manual_seed(0)
    net = nn.Sequential(Centred(1, 3, 3), nn.ReLU(), nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 3)), nn.Flatten(), nn.Linear(12, 4)).eval()
    data = torch.randn(24, 1, 6, 6)
    settings = Settings(recipe(4, 4), ("calibrate", "comq", "bias", "tune"), batch=8)
    words: list[str] = []
    whole = run(net, data, settings, progress=lambda stage, done, total: words.append(f"{stage} {done}"))
    expected = exported(whole.qmodel, tmp_path)
    for word in ("calibrate 0", "comq 0", "comq 1", "bias correction 0", "tune 20"):
        state = State(tmp_path / word, {})
        with pytest.raises(KeyboardInterrupt):
            run(net, data, settings, state=state, progress=Interrupter(words.index(word) + 1))
        resumed = run(net, data, settings, state=state, saved=state.load())
        assert exported(resumed.qmodel, tmp_path) == expected, word


def test_layers_done_are_not_done_again(model: nn.Module, data: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "SAVE_SECONDS", 0.0)
    settings = Settings(recipe(4, 8), ("fold", "gptq"))
    words: list[str] = []
    run(model, data, settings, progress=lambda stage, done, total: words.append(f"{stage} {done} of {total}"))
    state = State(tmp_path / "state", {})
    with pytest.raises(KeyboardInterrupt):
        run(model, data, settings, state=state, progress=Interrupter(words.index("gptq 3 of 4") + 1))
    saved = state.load()
    assert saved is not None
    assert (saved.under_way, saved.done) == ("gptq", 3)
    later: list[str] = []
    run(model, data, settings, state=state, saved=saved, progress=lambda stage, done, total: later.append(f"{stage} {done} of {total}"))
    assert [word for word in later if word.startswith("gptq")] == ["gptq 3 of 4", "gptq 4 of 4"]


def test_a_state_of_another_run_is_refused(model: nn.Module, data: Tensor, tmp_path: Path) -> None:
    run(model, data, Settings(recipe(8, 8), ("fold",)), state=State(tmp_path / "state", {"model": "a", "seed": "1"}))
    with pytest.raises(DataError, match="another model, another seed"):
        State(tmp_path / "state", {"model": "b", "seed": "2"}).load()
    assert State(tmp_path / "state", {"model": "a", "seed": "1"}).load() is not None


def test_a_first_save_that_is_interrupted_leaves_nothing_to_resume(
    model: nn.Module, data: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = state_module.save_file

    def interrupted(tensors: dict[str, Tensor], path: Path) -> None:
        write(tensors, path)
        raise KeyboardInterrupt

    monkeypatch.setattr(state_module, "save_file", interrupted)
    state = State(tmp_path / "state", {})
    with pytest.raises(KeyboardInterrupt):
        run(model, data, Settings(recipe(8, 8), ("fold",)), state=state)
    assert state.folder.exists()
    assert not state.exists
    assert state.load() is None
    state.remove()
    assert not state.folder.exists()
    (tmp_path / "file").write_text("mine")
    State(tmp_path / "file", {}).remove()
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("damage", ["tensors-0.safetensors", "cut"])
def test_a_damaged_state_is_refused(damage: str, model: nn.Module, data: Tensor, tmp_path: Path) -> None:
    state = State(tmp_path / "state", {})
    run(model, data, Settings(recipe(8, 8), ("fold",)), state=state)
    if damage == "cut":
        (state.folder / "state.json").write_text('{"version": 1')
    else:
        (state.folder / damage).unlink()
    with pytest.raises(DataError, match=r"is damaged(.|\n)*--force"):
        state.load()
    state.remove()
    assert not state.folder.exists()


def test_a_state_is_no_pickle(model: nn.Module, data: Tensor, tmp_path: Path) -> None:
    state = State(tmp_path / "state", {})
    run(model, data, Settings(recipe(8, 8), ("fold", "calibrate")), state=state)
    assert sorted(path.suffix for path in state.folder.iterdir()) == [".json", ".safetensors"]
    for path in state.folder.iterdir():
        content = path.read_bytes()
        header = content if path.suffix == ".json" else content[8 : 8 + int.from_bytes(content[:8], "little")]
        assert isinstance(json.loads(header), dict), path


def test_order_and_names_of_passes() -> None:
    with pytest.raises(RecipeError, match=r"no pass 'adarund'(.|\n)*adaround"):
        checked_passes(("fold", "adarund"))
    with pytest.raises(RecipeError, match=r"'fold' works on the float model(.|\n)*before 'comq'"):
        checked_passes(("comq", "fold"))


def test_a_recipe_may_name_what_folding_makes(model: nn.Module, data: Tensor) -> None:
    """conv1 has no bias before BatchNorm is folded into it."""
    named = qfx.Recipe(weight=qfx.Spec(8, granularity="channel"), overrides=[qfx.Override("conv1.bias", {"width": 12})])
    outcome = run(model, data, Settings(named))
    assert outcome.qmodel.get_submodule("conv1").bias_cast.word_length == 12
    with pytest.raises(RecipeError, match="nothing"):
        run(model, data, Settings(qfx.Recipe(overrides=[qfx.Override("conv9.bias", {"width": 12})])))


def test_dead_parts_are_findings(model: nn.Module, data: Tensor) -> None:
    net = Net()
    net.load_state_dict(model.state_dict())
    with torch.no_grad():
        net.bn1.bias[2] = -1000.0
    outcome = run(net.eval(), data, Settings(recipe(8, 8)))
    assert any(finding.name == "silent-channels" and "2" in finding.what for finding in outcome.findings)


def test_accuracy_refuses_labels_that_do_not_fit(model: nn.Module, data: Tensor) -> None:
    for labels, complaint in ((torch.zeros(96, 2, dtype=torch.int64), "labels of shape"), (torch.full((96,), 4), "for 4 classes")):
        with pytest.raises(DataError, match=complaint):
            accuracy(model, Labelled(data, labels), 32)


def test_sqnr() -> None:
    x = torch.tensor([3.0, 4.0])
    assert sqnr(x, x + torch.tensor([0.0, 0.5])) == pytest.approx(20.0)
    assert sqnr(x, x) == float("inf")
    assert sqnr(torch.zeros(2), x) == -float("inf")


def test_the_documentation_lists_the_passes() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "ptq.md").read_text(encoding="utf-8")
    for name, kind in [*((name, "float") for name in FLOAT_PASSES), *((name, "quantized") for name in QUANTIZED_PASSES)]:
        assert f"| `{name}` | {kind} |" in page


def test_all_data_decide_whether_the_input_has_a_sign(model: nn.Module) -> None:
    """Of 256 and more samples the binary points start on the first ones."""
    data = torch.rand(300, 1, 6, 6, generator=torch.Generator().manual_seed(5))
    for last, start in ((1.0, "ap_ufixed<8,"), (-1.0, "ap_fixed<8,")):
        data[-1, 0, 0, 0] = last
        made = run(model, data, Settings(recipe(8, 8), ("fold", "calibrate")))
        assert str(dict(qfx.quantizers(made.qmodel))["input"]).startswith(f"Quantizer({start}")
