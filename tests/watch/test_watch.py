"""``qfx watch``: what is logged is what is shown, in the terminal, on the page and as JSON, while it is written."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from support.html_pages import check, look
from torch import nn

import qfx
from qfx import DataError, ModelFileError, QfxError
from qfx.cli import main
from qfx.pages.answers import Answers
from qfx.trainers.course import Course
from qfx.trainers.events import Freeze
from qfx.watch.front import front, letters
from qfx.watch.log import FILE, Log
from qfx.watch.page import watch_page
from qfx.watch.runs import last_answers, read
from qfx.watch.serve import server
from qfx.watch.terminal import spark


def watch(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["watch", *map(str, arguments)], env={"COLUMNS": "140"})


def report(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two runs: a training, and one of ``qfx ptq`` that is under way."""
    log = Log(tmp_path / "runs" / "train")
    for step in range(10):
        log.scalars({"loss": 1.0 / (step + 1), "broken": float("nan"), "qfx/binary_point/fc.weight": 5 + step // 5, "qfx/saturated/fc": 0.25}, step)
    other = Log(tmp_path / "runs" / "ptq")
    other("gptq", 0, 4)
    other.passed("fold", 0.5, 31.25, 0.915, "two layers")
    other("gptq", 4, 4)
    return tmp_path / "runs"


def test_what_is_written_is_read(folder: Path) -> None:
    runs = {run.name: run for run in read(folder)}
    assert set(runs) == {"train", "ptq"}
    assert runs["train"].series["loss"] == [(step, 1.0 / (step + 1)) for step in range(10)]
    assert "broken" not in runs["train"].series
    assert list(runs["train"].metrics()) == ["loss"]
    assert runs["train"].quantizers()["fc.weight"]["binary_point"][-1] == (9, 6.0)
    assert runs["ptq"].stage == ("gptq", 4, 4)
    assert [(one.name, one.sqnr_db, one.accuracy, one.note) for one in runs["ptq"].passes] == [("fold", 31.25, 0.915, "two layers")]


def test_what_stands_in_the_window(folder: Path, tmp_path: Path) -> None:
    assert watch(folder, "-o", tmp_path / "page.html").exit_code == 0
    for width, dark in ((400, True), (1100, False)):
        found = look(tmp_path / "page.html", width=width, dark=dark)
        assert found.is_good(width=width, dark=dark), found


def test_a_line_that_is_half_written_is_no_harm(folder: Path) -> None:
    with (folder / "train" / FILE).open("a", encoding="utf-8") as stream:
        stream.write('{"step": 10, "val')
    assert len(read(folder)[-1].series["loss"]) == 10


def test_terminal_page_and_json(folder: Path, tmp_path: Path) -> None:
    shown = watch(folder, "--once")
    assert shown.exit_code == 0, shown.output
    for wanted in ("loss", "0.1", "fc.weight", "25.00 %", "31.25 dB", "91.50 %", "gptq"):
        assert wanted in shown.stdout, wanted
    told = json.loads(watch(folder, "--json").stdout)
    assert told[0]["passes"][0]["sqnr_db"] == 31.25
    assert watch(folder, "-o", tmp_path / "page.html").exit_code == 0
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = check(text)
    assert "connect-src" not in text
    assert {"loss", "two layers", "fc.weight"} <= set(page.text)
    assert watch(folder, "-o", tmp_path / "page.html").exit_code == 2
    assert "is not a folder" in watch(folder / "nowhere", "--once").stderr


def test_the_front_of_a_sweep(tmp_path: Path) -> None:
    """Of five cells three are on the front; a cell that is measured again counts once."""
    log = Log(tmp_path / "sweep")
    cells = {"a": (100, 0.5), "b": (200, 0.75), "worse": (250, 0.7), "c": (400, 0.9), "late": (400, 0.85)}
    for name, (cost, score) in [("b", (999, 0.1)), *cells.items()]:
        log.tried(name, 1.5, cost, score, ("bit operations", "accuracy"))
    (run,) = read(tmp_path)
    assert {one.name: (one.cost, one.score) for one in run.tried} == cells
    assert run.front == [(100, 0.5), (200, 0.75), (400, 0.9)]
    assert [one.name for one in front(run.tried)] == ["a", "b", "c"]
    shown = watch(tmp_path, "--once").stdout
    assert shown.count("●") == 3
    assert shown.count("·") == 2
    for wanted in ("90.00 %", "accuracy against bit operations", "on the front"):
        assert wanted in shown, wanted
    assert "worse" not in shown
    text = watch_page([run], "x", live=False)
    words = check(text).text
    assert words.count("on the front") == 3
    assert "worse: 70.00 %, 250 bit operations" in words
    lines = letters(run.tried, "bit operations", "accuracy", wide=31, tall=9)
    marks = [line.partition("│")[2] for line in lines[:9]]
    assert marks == [" " * 30 + "●", " " * 30 + "·", "", " " * 10 + "●", " " * 15 + "·", "", "", "", "●"]


def test_a_front_of_one(tmp_path: Path) -> None:
    Log(tmp_path).tried("only", 1.0, 8.0, 0.0, ("bits", "accuracy"))
    assert "●" in watch(tmp_path, "--once").stdout
    check(watch_page(read(tmp_path), "x", live=False))


def test_an_empty_folder_waits(tmp_path: Path) -> None:
    assert "nothing has been written" in watch(tmp_path, "--once").stdout
    check(watch_page(read(tmp_path), "x", live=False))


def test_a_browser_gets_what_is_there_now(folder: Path) -> None:
    with server(folder, 0) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{serving.server_address[1]}/"
        first = urllib.request.urlopen(place).read().decode()
        assert "connect-src 'self'" in first
        Log(folder / "train").scalars({"val_f1": 0.75}, 11)
        assert ">val_f1<" not in first
        assert ">val_f1<" in urllib.request.urlopen(place).read().decode()
        for request in (urllib.request.Request(place, headers={"Host": "elsewhere.example"}), place + "etc/passwd"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(request)
        with pytest.raises(DataError, match="cannot be used"):
            server(folder, serving.server_address[1])
        serving.shutdown()


def test_a_training_is_followed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    qmodel = qfx.quantize(nn.Linear(4, 2), torch.randn(8, 4))
    page, model = tmp_path / "page.html", tmp_path / "out" / "net.onnx"
    course = Course(Freeze(share=0.5), log_every=2, losses_on=torch.randn(4, 4), log=tmp_path / "a", report=page, export=model)
    course.begin(qmodel, steps=6)
    for step in range(6):
        course.before_step()
        course.after_step(step + 1)
        course.told({"loss": torch.tensor(0.5, requires_grad=True), "name": "no number"})
    course.evaluated({"accuracy": 0.5})
    course.end()
    (run,) = read(tmp_path)
    assert run.series["loss"] == [(step + 1, 0.5) for step in range(6)]
    assert run.series["accuracy"] == [(6, 0.5)]
    assert [step for step, _ in run.series["qfx/cost/bit_operations"]] == [2, 4, 6]
    weight = dict(qfx.quantizers(qmodel))["layer.weight"]
    assert run.quantizers()["layer.weight"]["binary_point"][-1][1] == float(weight.points().mean())
    words = " ".join(check(page.read_text(encoding="utf-8")).text)
    for wanted in (
        "Losses, costs",
        "The same all the time: loss 0.5, bit operations",
        "Graph with its types",
        "Error by layer",
        "qfx report net.onnx",
    ):
        assert wanted in words, wanted
    assert run.model == str(model)
    spans = run.quantizers()["input"]
    x = course.losses_on
    assert (spans["least"][-1][1], spans["most"][-1][1]) == (float(x.min()), float(x.max()))
    shown = watch(tmp_path, "--once").stdout
    assert "greatest" in shown
    assert f"{float(x.max()):.3g}" in shown
    with pytest.raises(ModelFileError, match="exists"):
        Course(log=tmp_path / "a", report=page).begin(qmodel)
    with pytest.raises(QfxError, match="a report needs a log"):
        Course(report=page)


def test_answers_of_a_training(tmp_path: Path) -> None:
    """Scores that a loop hands over are counted where the log is shown; behind the last step those of the exported model on ``judged_on`` count."""
    torch.manual_seed(0)
    x, y = torch.randn(40, 4), torch.arange(40) % 3
    qmodel = qfx.quantize(nn.Linear(4, 3), x)
    page, model = tmp_path / "page.html", tmp_path / "net.onnx"
    course = Course(log_every=None, judged_on=(x, y), log=tmp_path / "a", report=page, export=model)
    course.begin(qmodel, steps=1)
    course.after_step(1)
    scores = torch.eye(3)[[0, 2, 2, 1, 1]].bfloat16()
    course.judged(scores, torch.tensor([0, 1, 1, 1, 2]))
    (run,) = read(tmp_path)
    assert run.answers == Answers(((1, 0, 0), (0, 1, 2), (0, 1, 0)), None)
    assert "40.00 % of 5 right behind step 1; most often 1 is taken for 2 (2 times)" in " ".join(watch(tmp_path, "--once").stdout.split())
    assert json.loads(watch(tmp_path, "--json").stdout)[0]["answers"]["confusion"] == [[1, 0, 0], [0, 1, 2], [0, 1, 0]]
    words = " ".join(check(watch_page([run], "x", live=False)).text)
    assert "Behind step 1: 2 of 5 are right: 40.00 %" in words
    with pytest.raises(DataError, match="labels from 0 to 3"):
        course.judged(scores, torch.tensor([0, 1, 2, 3, 0]))
    course.end()
    taken = qfx.run(qfx.load_graph(model), x.numpy()).argmax(1)
    right = int((taken == y.numpy()).sum())
    assert 0 < right < 40
    again = tmp_path / "again.html"
    assert report(tmp_path / "a", "-o", again).exit_code == 0
    for made in (page, again):
        words = " ".join(check(made.read_text(encoding="utf-8")).text)
        assert f"As the log has it: {right} of 40 are right: {right / 40:.2%}".replace("%", " %") in words
        assert "right answers on 40" in words
        assert words.count("Accuracy and confusions") == 1
    np.savez(tmp_path / "two.npz", x=x[:2].numpy(), y=taken[:2])
    assert report(tmp_path / "a", "--data", tmp_path / "two.npz", "-o", again, "--force").exit_code == 0
    words = " ".join(check(again.read_text(encoding="utf-8")).text)
    assert "2 of 2 are right" in words
    assert "As the log has it" not in words
    for wrong in ({"judged_on": (x, y)}, {"judged_on": x, "log": tmp_path / "b"}):
        with pytest.raises(QfxError, match="judged_on is a pair"):
            Course(**wrong)  # type: ignore[arg-type]


def test_answers_of_several_runs(tmp_path: Path) -> None:
    """Those of the run that the model came of; of others none, unless one alone has any."""
    first, second = Answers(((1, 0), (2, 3)), None), Answers(((4, 0), (0, 4)), None)
    Log(tmp_path / "a").answers(first, 3)
    Log(tmp_path / "a").wrote(tmp_path / "a.onnx")
    assert last_answers(read(tmp_path)) == last_answers(read(tmp_path), tmp_path / "other.onnx") == first
    Log(tmp_path / "b").answers(second, 5)
    assert last_answers(read(tmp_path), tmp_path / "a.onnx") == first
    assert last_answers(read(tmp_path)) is None
    assert first + second == Answers(((5, 0), (2, 7)), None)


def test_a_report_of_a_log(tmp_path: Path) -> None:
    """Of a log that names a model the page of both, of one that names none that of the log; or the two are named apart."""
    Log(tmp_path / "runs").scalars({"loss": 0.5}, 1)
    Log(tmp_path / "runs").scalars({"loss": 0.25}, 2)
    alone = report(tmp_path / "runs", "-o", tmp_path / "a.html")
    assert alone.exit_code == 0, alone.output
    words = check((tmp_path / "a.html").read_text(encoding="utf-8")).text
    assert "loss" in words
    assert "Graph with its types" not in words
    refused = report(tmp_path / "runs", "--board", "ultra96v2", "-o", tmp_path / "b.html")
    assert refused.exit_code == 2
    assert "names no model" in refused.stderr
    model = tmp_path / "net.onnx"
    qfx.export_onnx(qfx.quantize(nn.Linear(4, 2), torch.randn(8, 4)), model)
    assert report(model, "--log", tmp_path / "runs", "-o", tmp_path / "c.html").exit_code == 0
    Log(tmp_path / "runs").wrote(model)
    assert report(tmp_path / "runs", "-o", tmp_path / "d.html").exit_code == 0
    text = (tmp_path / "d.html").read_text(encoding="utf-8")
    assert text == (tmp_path / "c.html").read_text(encoding="utf-8")
    assert {"Graph with its types", "Losses, costs", "loss"} <= set(check(text).text)
    assert "belong to a page" in report(model, "--log", tmp_path / "runs", "--data", "x.npz").stderr
    (tmp_path / "empty").mkdir()
    assert report(tmp_path / "empty", "-o", tmp_path / "e.html").exit_code == 2


def test_others_files(tmp_path: Path) -> None:
    text = "epoch,step,val_loss,acc\n0,4,0.5,\n1,9,,0.75\n2,14,nan,\n3,19,inf,\n"  # of a training that went astray
    (tmp_path / "metrics.csv").write_text(text, encoding="utf-8")
    (tmp_path / "hf").mkdir()
    history = {"log_history": [{"step": 3, "epoch": 1.0, "loss": 0.25}, {"step": 6, "loss": float("nan")}]}
    (tmp_path / "hf" / "trainer_state.json").write_text(json.dumps(history), encoding="utf-8")
    archive = qfx.Archive(tmp_path / "front", name="bits")
    archive.add(qfx.quantize(nn.Linear(4, 2), torch.randn(8, 4)), cost=100.0, score=0.5)
    runs = {run.name: run for run in read(tmp_path)}
    assert runs[tmp_path.name].series == {"val_loss": [(4, 0.5)], "acc": [(9, 0.75)]}
    assert runs["hf"].series == {"loss": [(3, 0.25)]}
    assert (runs["front"].front, runs["front"].cost) == ([(100.0, 0.5)], "bits")
    check(watch_page(list(runs.values()), "x", live=False))


def test_lines_of_blocks() -> None:
    assert spark([(i, float(i)) for i in range(8)]) == "▁▂▃▄▅▆▇█"
    assert spark([(0, 1.0), (1, 1.0)]) == "▁▁"
    assert len(spark([(i, float(i % 7)) for i in range(1000)], 20)) == 20
