"""``qfx ptq`` without data, for a budget, and for a goal."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from ptq_user import BASE, qfx_command, refusal, user_folder
from support.html_pages import Page, check
from torch import nn

import qfx
from qfx.cli import main
from qfx.ptq import weight_bits
from qfx.ptq.allocation import hardware
from qfx.ptq.allocation.front import Budget
from qfx.ptq.allocation.sensitivity import WIDTHS
from qfx.ptq.allocation.table import Measure
from qfx.ptq.run import auto, command, pipeline, word_lengths
from qfx.ptq.run.passes import QUANTIZED_PASSES, Work

NO_DATA = BASE[:-2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return user_folder(tmp_path_factory.mktemp("user"))


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(folder)


def report(path: Path) -> Page:
    return check(path.with_suffix(".html").read_text())


def test_without_data(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    result = qfx_command(*NO_DATA, "--data-free", "1x6x6", "--eval", "test.npz", "-o", model)
    assert result.exit_code == 0, result.output
    accuracy = re.search(r"100.00 % in float, ([0-9.]+) % in fixed point", result.stdout)
    assert accuracy is not None
    assert float(accuracy[1]) > 90
    words = " ".join(report(model).text)
    assert "none: distilled from BatchNorm statistics: 32 samples of shape 1 x 6 x 6" in words
    assert "calib.npz" not in words


def test_without_data_the_range_of_inputs_is_kept(tmp_path: Path) -> None:
    for name, more in (("a", ()), ("b", ("--input-range", -0.25, 0.25))):
        result = qfx_command(*NO_DATA, "--data-free", "1x6x6", *more, "--samples", 8, "-o", tmp_path / f"{name}.onnx")
        assert result.exit_code == 0, result.output
    wide, narrow = (qfx.load_graph(tmp_path / f"{name}.onnx").nodes[0].op.cast.element for name in ("a", "b"))
    assert narrow.frac_bits > wide.frac_bits
    assert float(np.ldexp(1.0, narrow.int_bits - 1)) <= 0.5


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ((*NO_DATA,), "give one of --data and --data-free"),
        ((*BASE, "--data-free", "1x6x6"), "give one of --data and --data-free"),
        ((*NO_DATA, "--data-free", "1,6,6"), "is no shape"),
        ((*NO_DATA, "--data-free", "1x0x6"), "is no shape"),
        ((*NO_DATA, "--data-free", "1x9x9"), "--data-free: the model does not run on samples of shape"),
        ((*NO_DATA, "--data-free", "1x6x6", "--input-range", "1", "0"), "--input-range"),
        ((*BASE, "--input-range", "0", "1"), "--input-range"),
        ((*BASE, "--max-drop", "1"), "needs labelled data"),
        ((*BASE, "--widest", "9"), "is for a goal"),
        ((*BASE, "--eval", "test.npz", "--max-drop", "1", "--passes", "fold"), "not with --passes"),
        ((*BASE, "--eval", "test.npz", "--max-drop", "1", "--budget", "weight-bits=900"), "not with --budget"),
        ((*BASE, "--eval", "test.npz", "--max-drop", "-1"), "--max-drop"),
        ((*BASE, "--measure", "sqnr"), "weighs words for a budget"),
        ((*BASE, "--budget", "board=ultra96v2,fps=0"), "fps is 0"),
        ((*BASE, "--budget", "bits=4"), "is no part of a budget"),
        ((*BASE, "--budget", "lut=4"), "give either weight_bits"),
        ((*BASE, "--budget", "mean-weight-bits=four"), "is 'four'"),
        ((*BASE, "--budget", "mean-weight-bits=1"), r"cannot be met(.|\n)*2\.00 per weight"),
        ((*BASE, "--budget", "board=nexys,fps=1"), "nexys"),
    ],
)
def test_bad_options(options: tuple[str, ...], complaint: str, tmp_path: Path) -> None:
    assert re.search(complaint, refusal(*options, "-o", tmp_path / "model.onnx"))
    assert list(tmp_path.iterdir()) == []


def test_the_report_needs_a_name_of_its_own(tmp_path: Path) -> None:
    assert "is the output, too" in refusal(*BASE, "-o", tmp_path / "model.onnx", "--report", tmp_path / "model.onnx")


def test_every_option_is_explained() -> None:
    page_text = (Path(__file__).resolve().parents[3] / "docs" / "ptq.md").read_text(encoding="utf-8")
    for option in main.commands["ptq"].params:
        assert f"`{max(option.opts, key=len)}" in page_text or f"`{option.opts[0]}`" in page_text, option.opts
    measures = next(option for option in main.commands["ptq"].params if option.name == "measure")
    assert set(measures.type.choices) == set(get_args(Measure))  # type: ignore[attr-defined]


def test_without_statistics_there_is_no_data(folder: Path, tmp_path: Path) -> None:
    (folder / "plain.py").write_text("from torch import nn\n\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(36, 3))\n")
    assert "no BatchNorm statistics" in refusal("ptq", "--model", "plain:net", "--data-free", "1x6x6", "-o", tmp_path / "model.onnx")


def recipe_of(page: Page) -> qfx.Recipe:
    """The recipe that a report shows."""
    text = next(text for text in page.text if text.startswith("batch_norm"))
    tomllib.loads(text)
    return qfx.Recipe.from_toml(text)


def test_a_budget_of_bits(folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    result = qfx_command(*BASE, "--budget", "mean-weight-bits=4.5", "--eval", "test.npz", "-o", model)
    assert result.exit_code == 0, result.output
    assert re.search(r"> loss [0-9.e-]+, \d+ weight bits", result.stdout)
    page = report(model)
    words = " ".join(page.text)
    assert "Word lengths for the budget" in words
    assert "gptq" in words  # which suits the words that were found, not those of the recipe
    scope: dict[str, type[nn.Module]] = {}
    exec((folder / "usersnet.py").read_text(), scope)
    x = torch.from_numpy(np.load("calib.npz")["x"])
    qmodel = qfx.quantize(qfx.ptq.fold_batch_norm(scope["Net"]().eval(), x), x, recipe_of(page))
    weights = 4 * 9 + 36 * 3
    assert 4 * weights < weight_bits(qmodel) <= 4.5 * weights
    assert len({quantizer.word_length for name, quantizer in qfx.quantizers(qmodel) if name.endswith(".weight")}) > 1


def test_a_budget_of_hardware(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    result = qfx_command(*BASE, "--budget", "board=ultra96v2,fps=100000", "--measure", "sqnr", "-o", model)
    assert result.exit_code == 0, result.output
    chosen = re.search(r"Chosen: loss \S+, \d+ weight bits, \d+ LUT, .* (\d+) fps", " ".join(report(model).text))
    assert chosen is not None
    assert int(chosen[1]) >= 100000
    estimate = qfx_command("estimate", model, "--board", "ultra96v2", "--fps", 100000)
    assert estimate.exit_code == 0, estimate.output


@dataclass
class Stopper:
    """Stands in for a pass: the n-th call is interrupted, as by Ctrl-C."""

    run: Callable[[Work], str]
    at: int
    calls: int = 0

    def __call__(self, work: Work) -> str:
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return self.run(work)


def test_a_budget_resumed_is_not_searched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = (*BASE, "--budget", "board=ultra96v2,fps=100000", "--passes", "fold,comq", "-o")
    (tmp_path / "whole").mkdir()
    assert qfx_command(*options, tmp_path / "whole" / "model.onnx").exit_code == 0
    monkeypatch.setattr(pipeline, "QUANTIZED_PASSES", {**QUANTIZED_PASSES, "comq": Stopper(QUANTIZED_PASSES["comq"], 1)})
    assert qfx_command(*options, tmp_path / "model.onnx").exit_code == 130
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == []
    monkeypatch.setattr(pipeline, "QUANTIZED_PASSES", QUANTIZED_PASSES)
    monkeypatch.setattr(word_lengths, "search", None)
    changed = [option if option != "board=ultra96v2,fps=100000" else "board=ultra96v2,fps=100001" for option in options]
    assert "another budget" in refusal(*changed, tmp_path / "model.onnx", "--resume")
    resumed = qfx_command(*options, tmp_path / "model.onnx", "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert (tmp_path / "model.onnx").read_bytes() == (tmp_path / "whole" / "model.onnx").read_bytes()
    ours, theirs = (next(text for text in report(path / "model.onnx").text if text.startswith("Chosen: ")) for path in (tmp_path, tmp_path / "whole"))
    assert ours == theirs


def test_an_interrupted_search_keeps_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = (*BASE, "--budget", "mean-weight-bits=4.5", "--passes", "fold,comq", "-o")
    (tmp_path / "whole").mkdir()
    assert qfx_command(*options, tmp_path / "whole" / "model.onnx").exit_code == 0
    search = word_lengths.search
    monkeypatch.setattr(word_lengths, "search", interrupted)
    assert qfx_command(*options, tmp_path / "model.onnx").exit_code == 130
    monkeypatch.setattr(word_lengths, "search", search)
    monkeypatch.setattr(word_lengths, "sensitivity", None)
    resumed = qfx_command(*options, tmp_path / "model.onnx", "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert (tmp_path / "model.onnx").read_bytes() == (tmp_path / "whole" / "model.onnx").read_bytes()


def test_an_interrupted_search_keeps_its_designs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = (*BASE, "--budget", "board=ultra96v2,fps=100000,lut=2600", "--passes", "fold", "-o")
    made: list[object] = []
    resolve = hardware.resolve

    def counted(*arguments: Any, **named: Any) -> Any:
        made.append(named)
        if len(made) == stop:
            raise KeyboardInterrupt
        return resolve(*arguments, **named)

    stop, place = 0, tmp_path / "whole"
    place.mkdir()
    monkeypatch.setattr(hardware, "resolve", counted)
    assert qfx_command(*options, place / "model.onnx").exit_code == 0
    whole = len(made)
    assert whole > 4
    made.clear()
    stop = whole - 1
    assert qfx_command(*options, tmp_path / "model.onnx").exit_code == 130
    made.clear()
    stop = 0
    resumed = qfx_command(*options, tmp_path / "model.onnx", "--resume")
    assert resumed.exit_code == 0, resumed.output
    measured = 1 + 2 * (len(WIDTHS) - 1)  # of the middle words, and of every other length of weights and of activations
    assert len(made) == measured + 2  # and two designs
    assert (tmp_path / "model.onnx").read_bytes() == (place / "model.onnx").read_bytes()


def interrupted(*arguments: object, **named: object) -> None:
    raise KeyboardInterrupt


def test_words_that_the_recipe_fixes_stay(folder: Path, tmp_path: Path) -> None:
    fixed = [qfx.Override("0.weight", {"width": 7}), qfx.Override("2.output", {"width": 11})]
    qfx.Recipe(weight=qfx.Spec(8, granularity="channel"), overrides=fixed).save(folder / "fixed.toml")
    result = qfx_command(*BASE, "--recipe", "fixed.toml", "--budget", "mean-weight-bits=4", "-o", tmp_path / "model.onnx")
    assert result.exit_code == 0, result.output
    page = report(tmp_path / "model.onnx")
    found = recipe_of(page)
    assert found.spec("0.weight", "weight").width == 7
    assert found.spec("2.output", "activation").width == 11
    assert found.spec("5.weight", "weight").width == 3  # (4 * 144 - 7 * 36) / 108
    complaint = refusal(*BASE, "--recipe", "fixed.toml", "--budget", "mean-weight-bits=3", "--force", "-o", tmp_path / "model.onnx")
    assert "3.25 per weight" in complaint  # (2 * 108 + 7 * 36) / 144


def test_without_data_resumed_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = (*NO_DATA, "--data-free", "1x6x6", "--samples", 8, "--recipe", "recipe.toml", "-o")
    (tmp_path / "whole").mkdir()
    assert qfx_command(*options, tmp_path / "whole" / "model.onnx").exit_code == 0
    monkeypatch.setattr(pipeline, "QUANTIZED_PASSES", {**QUANTIZED_PASSES, "gptq": interrupted})
    assert qfx_command(*options, tmp_path / "model.onnx").exit_code == 130
    monkeypatch.setattr(pipeline, "QUANTIZED_PASSES", QUANTIZED_PASSES)
    monkeypatch.setattr(command, "distill", None)
    assert "another calibration data" in refusal(*options, tmp_path / "model.onnx", "--resume", "--input-range", 0, 1)
    resumed = qfx_command(*options, tmp_path / "model.onnx", "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert (tmp_path / "model.onnx").read_bytes() == (tmp_path / "whole" / "model.onnx").read_bytes()


GOAL = (*BASE, "--recipe", "two.toml", "--eval", "test.npz", "--max-drop", "0", "--widest", "4")


@pytest.fixture
def two(folder: Path) -> None:
    qfx.Recipe(weight=qfx.Spec(2, granularity="channel"), activation=qfx.Spec(3)).save(folder / "two.toml")


@pytest.mark.usefixtures("two")
def test_a_goal_resumed_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = dict(QUANTIZED_PASSES)
    passes["adaround"] = lambda work: "left out here: it takes long"
    monkeypatch.setattr(auto, "QUANTIZED_PASSES", passes)
    whole = qfx_command(*GOAL, "-o", tmp_path / "model.onnx")
    assert whole.exit_code == 0, whole.output
    lines = " ".join(report(tmp_path / "model.onnx").text)
    assert "What was tried" in lines
    expected = (tmp_path / "model.onnx").read_bytes()
    tried = re.findall(r"^(calibration|folding|equalization|GPTQ|COMQ|tuning|words of \S+ bits) ", whole.stdout, re.MULTILINE)
    assert {"GPTQ", "COMQ", "tuning"} <= set(tried)
    for name, at in (("calibrate", 2), ("gptq", 1), ("comq", 1), ("tune", 1)):
        (tmp_path / name).mkdir()
        output = tmp_path / name / "model.onnx"
        monkeypatch.setattr(auto, "QUANTIZED_PASSES", {**passes, name: Stopper(passes[name], at)})
        stopped = qfx_command(*GOAL, "-o", output)
        assert stopped.exit_code == 130, stopped.output
        assert [path.name for path in output.parent.iterdir()] == ["model.onnx.state"]
        monkeypatch.setattr(auto, "QUANTIZED_PASSES", passes)
        assert "another goal" in refusal(*GOAL[:-1], "5", "--resume", "-o", output)
        resumed = qfx_command(*GOAL, "--resume", "-o", output)
        assert resumed.exit_code == whole.exit_code, resumed.output
        assert "resuming behind" in resumed.stderr
        assert output.read_bytes() == expected
        assert sorted(path.name for path in output.parent.iterdir()) == ["model.html", "model.onnx"]


def test_a_goal_that_is_met_at_once(tmp_path: Path) -> None:
    result = qfx_command(*BASE, "--eval", "test.npz", "--max-drop", "10", "-o", tmp_path / "model.onnx")
    assert result.exit_code == 0, result.output
    assert "is met" in result.stdout
    assert "GPTQ" not in result.stdout


def test_a_goal_that_is_not_met_is_said_so(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The labels are such that only the float model is always right: one bit for all words never is."""
    qfx.Recipe(weight=qfx.Spec(1), activation=qfx.Spec(1), input=qfx.Spec(1), output=qfx.Spec(1)).save(folder / "one.toml")
    fast: Mapping[str, Callable[[Work], str]] = {name: lambda work: "left out" for name in QUANTIZED_PASSES}
    monkeypatch.setattr(auto, "QUANTIZED_PASSES", fast)
    result = qfx_command(*BASE, "--recipe", "one.toml", "--eval", "test.npz", "--max-drop", "0", "-o", tmp_path / "model.onnx")
    assert result.exit_code == 1, result.output
    assert "is not met" in result.stdout
    assert "From cheap to costly: the goal of 100.00 % is not met." in " ".join(report(tmp_path / "model.onnx").text)
    assert (tmp_path / "model.onnx").exists()


def test_budgets_as_text() -> None:
    assert Budget.parse("board=zcu102, fps=2.5e3, lut=100") == Budget(board="zcu102", fps=2500.0, lut=100)
    assert Budget.parse("weight-bits=12") == Budget(weight_bits=12)
    with pytest.raises(qfx.RecipeError, match="given twice"):
        Budget.parse("weight-bits=12,weight_bits=13")
