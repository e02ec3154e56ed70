"""``qfx ptq`` as a user runs it: from a checkpoint to C simulation, interrupted, resumed, and with every kind of bad input."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ptq_user import BASE, MODULE, qfx_command, refusal, user_folder
from support.html_pages import check, look
from torch import nn

import qfx
from qfx.capture.source import from_factory, use_current_folder
from qfx.pages.html import count
from qfx.ptq.run.state import hash_of_model
from qfx.ptq.run.written import prove
from qfx.watch.runs import read


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return user_folder(tmp_path_factory.mktemp("user"))


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(folder)


def test_from_a_checkpoint_to_c_simulation(folder: Path, gxx: str, tmp_path: Path) -> None:
    model, report, project = tmp_path / "model.onnx", tmp_path / "why.html", tmp_path / "project"
    result = qfx_command(*BASE, "--recipe", "recipe.toml", "--eval", "test.npz", "--report", report, "-o", model)
    assert result.exit_code == 0, result.output
    assert "weights.pt: took " in result.stderr
    assert "100.00 % in float" in result.stdout
    assert re.search(r"gptq +\d", result.stdout)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "why.html"]
    assert qfx_command("hls", model, "--board", "ultra96v2", "-o", project).exit_code == 0
    x = np.load("test.npz")["x"]
    np.save(tmp_path / "x.npy", x)
    assert qfx_command("csim", project, "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy").exit_code == 0
    assert np.array_equal(np.load(tmp_path / "y.npy"), qfx.run(qfx.load_graph(model), x))
    assert qfx_command("verify", model, project, "--data", "test.npz").exit_code == 0


def test_the_report_is_whole(folder: Path, tmp_path: Path) -> None:
    result = qfx_command(
        *BASE, "--recipe", "recipe.toml", "--eval", "test.npz", "-o", tmp_path / "model.onnx", "--samples", 24, "--seed", 3, "--log", tmp_path
    )
    assert result.exit_code == 0, result.output
    (logged,) = read(tmp_path)
    text = (tmp_path / "model.html").read_text()
    page = check(text)
    assert [one.name for one in logged.passes][:2] == ["round to nearest", "fold"]
    assert all(f"{one.sqnr_db:.2f} dB" in text for one in logged.passes if one.sqnr_db is not None)
    assert text.count("<polyline") == 5  # a distribution at the input, two weights and two activations
    words = " ".join(page.text)
    for wanted in (
        "round to nearest",
        "fold",
        "calibrate",
        "gptq",
        "2.output",
        "0.weight",
        "5.bias",
        "ap_ufixed<6,",
        "24 samples",
        "[weight]",
        "3, 64",
    ):
        assert wanted in words, wanted


def test_the_same_options_give_the_same_file(folder: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        assert qfx_command(*BASE, "-o", tmp_path / name / "model.onnx").exit_code == 0
    assert (tmp_path / "a" / "model.onnx").read_bytes() == (tmp_path / "b" / "model.onnx").read_bytes()
    assert qfx_command(*BASE, "--recipe", "recipe.toml", "-o", tmp_path / "b" / "model.onnx", "--force").exit_code == 0
    assert (tmp_path / "a" / "model.onnx").read_bytes() != (tmp_path / "b" / "model.onnx").read_bytes()


def test_without_any_python_code(folder: Path, tmp_path: Path) -> None:
    scope: dict[str, type[nn.Module]] = {}
    exec(MODULE, scope)
    net = scope["Net"]().eval()
    torch.export.save(torch.export.export(net, (torch.randn(2, 1, 6, 6),)), tmp_path / "net.pt2")
    result = qfx_command("ptq", "--model", tmp_path / "net.pt2", "--calib", "calib.npz", "-o", tmp_path / "model.onnx", "--passes", "fold,calibrate")
    assert result.exit_code == 0, result.output
    assert qfx.load_graph(tmp_path / "model.onnx").infos


SLOWLY = """
import sys, time
from qfx.cli import main
from qfx.ptq.run import passes

adaround = passes.QUANTIZED_PASSES["adaround"]

def waiting(work):
    work.progress("adaround", 0, 2)
    time.sleep(300)
    return adaround(work)

passes.QUANTIZED_PASSES["adaround"] = waiting
main()
"""
"""The command, but that AdaRound waits until it is interrupted: it could be done before the test has sent the signal."""


def test_interrupted_by_the_keyboard(folder: Path, tmp_path: Path) -> None:
    options = (*BASE, "--passes", "fold,comq,adaround", "-o", tmp_path / "model.onnx")
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-c", SLOWLY, *(str(option) for option in options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("adaround"):
                process.send_signal(signal.SIGINT)
                break
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "--resume" in errors
    assert "Traceback" not in errors
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx.state"]
    assert "interrupted run" in refusal(*options)
    assert "another seed" in refusal(*options, "--resume", "--seed", 5)
    resumed = qfx_command(*options, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert "resuming behind 'comq'" in resumed.stderr
    (tmp_path / "again").mkdir()
    whole = qfx_command(*options[:-1], tmp_path / "again" / "model.onnx", "--resume")
    assert "nothing to resume" in whole.stderr
    assert (tmp_path / "model.onnx").read_bytes() == (tmp_path / "again" / "model.onnx").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "model.html", "model.onnx"]


def test_existing_files_stay(folder: Path, tmp_path: Path) -> None:
    for name in ("model.onnx", "model.html"):
        (tmp_path / name).write_text("mine")
        assert "exists" in refusal(*BASE, "-o", tmp_path / "model.onnx")
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()
    assert ".onnx" in refusal(*BASE, "-o", tmp_path / "model.pt")


def test_interrupted_while_files_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report is placed first; it goes again if the model cannot follow."""
    link = os.link

    def model_never(source: Path, target: Path) -> None:
        if Path(target).name == "model.onnx":
            raise KeyboardInterrupt
        link(source, target)

    monkeypatch.setattr(os, "link", model_never)
    assert qfx_command(*BASE, "-o", tmp_path / "model.onnx").exit_code == 130
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx.state"]
    monkeypatch.setattr(os, "link", link)
    assert qfx_command(*BASE, "-o", tmp_path / "model.onnx", "--resume").exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.html", "model.onnx"]


def test_a_run_that_fails_is_in_nobodys_way(folder: Path, tmp_path: Path) -> None:
    """GPTQ refuses a BatchNorm that is folded on the fly; with the right passes the same command works."""
    qfx.Recipe(batch_norm="fold").save(folder / "onthefly.toml")
    options = (*BASE, "--recipe", "onthefly.toml", "-o", tmp_path / "model.onnx")
    assert "fold_batch_norm" in refusal(*options, "--passes", "gptq")
    assert list(tmp_path.iterdir()) == []
    assert qfx_command(*options, "--passes", "fold,gptq").exit_code == 0


def test_another_forward_is_another_model(folder: Path) -> None:
    """The same layers and weights, called otherwise."""
    use_current_folder()
    net = "from usersnet import Net\n\nclass Other(Net):\n    def forward(self, x):\n        return super().forward(x)"
    (folder / "first.py").write_text(net + "\n")
    (folder / "second.py").write_text(net + " * 0.5\n")
    models = [from_factory(f"{name}:Other").eval() for name in ("first", "second", "first")]
    for model in models:
        model.load_state_dict(models[0].state_dict())
    hashes = [hash_of_model(model, torch.from_numpy(X)) for model in models]
    assert hashes[0] == hashes[2] != hashes[1]


X = np.zeros((4, 1, 6, 6), dtype=np.float32)
NAN = np.where(np.arange(4).reshape(4, 1, 1, 1) == 2, np.float32(np.nan), X + 1)

BAD_CALIBRATION = {
    "empty": (X[:0], r"holds no samples(.|\n)*few hundred"),
    "nan": (NAN, "1 of 4 samples hold NaN or infinity, first sample 2"),
    "infinity": (X + np.inf, "4 of 4 samples"),
    "channels last": (X.transpose(0, 2, 3, 1), r"x\.transpose\(0, 3, 1, 2\)"),
    "no channel axis": (X[:, 0], r"x\[:, None\]"),
    "flat": (X.reshape(4, 36), "save what the model takes"),
    "one axis": (X.ravel(), "batch first"),
    "text": (np.array(["a", "b"]), "not numbers"),
}


@pytest.mark.parametrize("case", BAD_CALIBRATION)
def test_bad_calibration_data(case: str, folder: Path, tmp_path: Path) -> None:
    array, complaint = BAD_CALIBRATION[case]
    np.savez(tmp_path / "bad.npz", x=array)
    options = [option if option != "calib.npz" else tmp_path / "bad.npz" for option in BASE]
    assert re.search(complaint, refusal(*options, "-o", tmp_path / "model.onnx"))
    assert [path.name for path in tmp_path.iterdir()] == ["bad.npz"]


BAD_EVALUATION = {
    "no labels": ({"x": X}, "not both 'x' and 'y'"),
    "too few": ({"x": X, "y": np.zeros(3, dtype=np.int64)}, "4 samples and 3 labels"),
    "one-hot": ({"x": X, "y": np.zeros((4, 3), dtype=np.float32)}, r"y\.argmax\(1\)"),
    "another shape": ({"x": X, "y": np.zeros((4, 2), dtype=np.int64)}, "labels of shape"),
    "another class": ({"x": X, "y": np.full(4, 3)}, "for 3 classes"),
    "another input": ({"x": X[..., :3], "y": np.zeros(4, dtype=np.int64)}, "does not run on samples"),
}


@pytest.mark.parametrize("case", BAD_EVALUATION)
def test_bad_evaluation_data(case: str, folder: Path, tmp_path: Path) -> None:
    arrays, complaint = BAD_EVALUATION[case]
    np.savez(tmp_path / "bad.npz", **arrays)  # type: ignore[arg-type]
    assert re.search(complaint, refusal(*BASE, "--eval", tmp_path / "bad.npz", "-o", tmp_path / "model.onnx"))
    assert [path.name for path in tmp_path.iterdir()] == ["bad.npz"]
    np.save(tmp_path / "bare.npy", X)
    assert "holds no labels" in refusal(*BASE, "--eval", tmp_path / "bare.npy", "-o", tmp_path / "model.onnx")


def test_other_bad_options(folder: Path, tmp_path: Path) -> None:
    output = ("-o", tmp_path / "model.onnx")
    assert "no pass 'magic'" in refusal(*BASE, "--passes", "fold,magic", *output)
    (tmp_path / "r.toml").write_text('[[override]]\npattern = "conv7"\nwidth = 4\n')
    assert "matches nothing" in refusal(*BASE, "--recipe", tmp_path / "r.toml", *output)
    assert "there is no module" in refusal("ptq", "--model", "nonet:Net", "--calib", "calib.npz", *output)
    assert "nearest is 0.weight" in _renamed(folder, tmp_path)
    assert not (tmp_path / "model.onnx").exists()


def _renamed(folder: Path, place: Path) -> str:
    """What is said of a checkpoint with one name wrong."""
    state = torch.load(folder / "weights.pt", weights_only=True)["state_dict"]
    torch.save({name.replace("0.weight", "0.wieght"): tensor for name, tensor in state.items()}, place / "renamed.pt")
    text = refusal("ptq", "--model", "usersnet:Net", "--checkpoint", place / "renamed.pt", "--calib", "calib.npz", "-o", place / "model.onnx")
    assert "missing: 0.weight" in text
    asked = ("ptq", "--model", "usersnet:Net", "--checkpoint", "weights.pt", "--calib", "calib.npz", "-o", place / "model.onnx")
    assert "nothing called 'ema'" in refusal(*asked, "--checkpoint-key", "ema")
    return text


def test_a_differing_bit_is_found(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 4)
    qmodel = qfx.quantize(nn.Sequential(nn.Linear(4, 3)), x).eval()
    qfx.export_onnx(qmodel, tmp_path / "model.onnx")
    prove(qmodel, tmp_path / "model.onnx", x)
    with torch.no_grad():  # one LSB of one weight
        layer = qmodel.get_submodule("0")
        layer.weight[0, 0] += 2.0 ** -float(torch.round(layer.weight_cast.frac_bits))
    with pytest.raises(qfx.QfxError, match="PyTorch differs at sample"):
        prove(qmodel, tmp_path / "model.onnx", x)


def test_help_needs_no_torch() -> None:
    code = "import sys; from click.testing import CliRunner; from qfx.cli import main; r = CliRunner().invoke(main, ['ptq', '--help']);"
    code += " assert r.exit_code == 0 and '--calib' in r.output; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_stands_in_the_window(folder: Path, tmp_path: Path) -> None:
    assert qfx_command(*BASE, "--recipe", "recipe.toml", "--eval", "test.npz", "-o", tmp_path / "model.onnx").exit_code == 0
    for width, dark in ((400, True), (1100, False)):
        found = look(tmp_path / "model.html", width=width, dark=dark)
        assert found.is_good(width=width, dark=dark), found


@pytest.mark.parametrize("goal", [False, True])
def test_every_accuracy_says_on_how_many_images_it_was_taken(folder: Path, tmp_path: Path, goal: bool) -> None:
    """Steps are judged on the first 1000, the float model and the result on all: never in one column. With a goal every model is judged on all."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "many.npz", x=rng.normal(size=(1200, 1, 6, 6)).astype(np.float32), y=rng.integers(0, 3, 1200))
    options = (*BASE, "--eval", tmp_path / "many.npz", *(("--max-drop", 50) if goal else ()))
    shown = qfx_command(*options, "--log", tmp_path / "log", "-o", tmp_path / "model.onnx")
    assert shown.exit_code == 0, shown.output
    assert f"accuracy on {1200 if goal else 1000} " in shown.stdout.splitlines()[0] + " "
    assert "output SQNR on 40" in shown.stdout.splitlines()[0]
    assert "accuracy on all 1200 evaluation samples: " in shown.stdout
    page_text = (tmp_path / "model.html").read_text()
    assert f"accuracy on {1200 if goal else 1000}" in page_text
    assert "accuracy in fixed point, 1200 samples" in page_text
    with np.load(tmp_path / "many.npz") as held:
        right = int((qfx.run(qfx.load_graph(tmp_path / "model.onnx"), held["x"]).argmax(1) == held["y"]).sum())
    assert f"<p>{count(right)} of {count(1200)} are right: " in page_text
    assert 'aria-label="Confusion matrix"' in page_text
    (run,) = read(tmp_path / "log")
    assert run.answers is not None
    assert (run.answers.right, run.answers.total) == (right, 1200)
    told = json.loads(qfx_command(*options, "-o", tmp_path / "model.onnx", "--force", "--json").stdout)
    assert (told["steps_accuracy_samples"], told["accuracy_samples"], told["steps_sqnr_samples"]) == (1200 if goal else 1000, 1200, 40)
    assert told["goal_met"] is (True if goal else None)
    listed = (Path(__file__).resolve().parents[3] / "docs" / "commands.md").read_text().split("| `ptq` | ")[-1]
    assert set(told) | set(told["steps"][0]) <= set(re.findall(r"`([a-z_]+)`", listed))


def test_progress_goes_to_stderr_and_outputs_where_they_are_asked_for(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link.onnx").symlink_to("disk/model.onnx")
    result = qfx_command(*BASE, "-o", tmp_path / "link.onnx", "--report", tmp_path / "new" / "folder" / "why.html")
    assert result.exit_code == 0, result.output
    for stage in ("float model", "round to nearest", "report"):
        assert f"{stage}\n" in result.stderr
        assert f"\n{stage}\n" not in result.stdout
    assert (tmp_path / "link.onnx").is_symlink()
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()) == [
        "disk/model.onnx",
        "new/folder/why.html",
    ]
