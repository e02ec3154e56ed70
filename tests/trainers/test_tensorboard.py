"""What is logged, through a real SummaryWriter, read back by TensorBoard's own reader."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from trainers.events_read import read, scalars
from trainers.nets import X, learned, quantized
from trainers.test_course import Loop

import qfx
from qfx import Budget, DataError, ProjectError, QfxError
from qfx.ir.losses import losses
from qfx.trainers import logs, tensorboard
from qfx.trainers.course import Course
from qfx.trainers.peers import peer
from qfx.watch.log import Log


def test_a_plain_loop_logs_formats_costs_and_distributions(tmp_path: Path) -> None:
    qmodel = quantized(learned())
    writer = tensorboard.summary_writer(tmp_path)
    tensorboard.log(writer, qmodel, 3, losses_on=X)
    writer.close()
    events = read(tmp_path)
    for name, quantizer in qfx.quantizers(qmodel):
        ((step, length),) = scalars(events, f"qfx/word_length/{name}")
        assert (step, length) == (3, pytest.approx(float(quantizer.word_lengths().mean())))
        assert scalars(events, f"qfx/binary_point/{name}")[0][1] == pytest.approx(float(quantizer.points().mean()))
    with torch.no_grad():
        assert scalars(events, "qfx/cost/bit_operations") == [(3, float(qfx.cost(qmodel).bit_operations))]
    lost = losses(qfx.to_graph(qmodel), X.numpy())
    assert any(loss.rounded for loss in lost.values())
    for name, loss in lost.items():
        assert scalars(events, f"qfx/saturated/{name}")[0][1] == pytest.approx((loss.above + loss.below) / loss.values)
        assert scalars(events, f"qfx/rounded/{name}")[0][1] == pytest.approx(loss.rounded / loss.values)
    assert events.Histograms("qfx/weights/0")[0].histogram_value.num == 48
    assert events.Histograms("qfx/word_lengths/0.weight")[0].histogram_value.num == 8
    assert "qfx/word_lengths/2.output" not in events.Tags()["histograms"]  # one word length is no distribution


def test_a_course_logs_every_so_often_and_at_the_end(tmp_path: Path) -> None:
    course = Course(budget=Budget(ebops=5000), settling=2, log_every=5, histograms_every=10, board="zcu104", fps=1000)
    sink = tensorboard.TensorBoard(tmp_path)
    course.sinks.append(sink)
    Loop(quantized(learned()), course).run()
    course.end()
    sink.writer.close()
    events = read(tmp_path)
    for tag in ("qfx/word_length/0.weight", "qfx/budget/share", "qfx/resting", "qfx/cost/lut", "qfx/cost/fps"):
        assert [step for step, _ in scalars(events, tag)] == [5, 10, 12], tag
    assert [event.step for event in events.Histograms("qfx/weights/0")] == [10, 12]
    assert scalars(events, "qfx/cost/lut")[-1][1] == qfx.cost(course.model, "zcu104", fps=1000).lut.item()


def test_logs_of_ptq_and_sweeps_become_runs(tmp_path: Path) -> None:
    ptq, sweep = Log(tmp_path / "logs" / "ptq"), Log(tmp_path / "logs" / "sweep")
    ptq.passed("fold", 0.5, 31.25, None)
    ptq.passed("gptq", 1.5, 33.5, 0.875)
    sweep.tried("w4", 2.0, 4096, 0.75, ("bit operations", "accuracy"))
    sweep.tried("w8", 2.0, 8192, 0.5, ("bit operations", "accuracy"))
    sweep.scalars({"loss": 0.25}, 7)
    assert tensorboard.of_logs(tmp_path / "logs", tmp_path / "board") == ["ptq", "sweep"]
    events = read(tmp_path / "board" / "ptq")
    assert scalars(events, "qfx/pass/sqnr_db") == [(1, 31.25), (2, 33.5)]
    assert scalars(events, "qfx/pass/accuracy") == [(2, 0.875)]
    assert [event.tensor_proto.string_val for event in events.Tensors("qfx/pass/text_summary")] == [[b"fold"], [b"gptq"]]
    events = read(tmp_path / "board" / "sweep")
    assert scalars(events, "qfx/tried/bit_operations") == [(1, 4096.0), (2, 8192.0)]
    assert scalars(events, "qfx/tried/accuracy") == [(1, 0.75), (2, 0.5)]
    assert scalars(events, "loss") == [(7, 0.25)]
    with pytest.raises(DataError):
        tensorboard.of_logs(tmp_path / "none", tmp_path / "board")


def test_a_board_that_is_too_small_is_refused_before_training_and_costs_no_training_later() -> None:
    with pytest.raises(ProjectError):
        Course(board="zcu104", fps=1e12).begin(quantized())
    course = Course(board="zcu104", fps=1000)
    course.begin(quantized())
    assert "qfx/cost/lut" in course.summary()
    course.fps = 1e12  # as if words had grown
    assert course.summary() == logs.costs(course.model)


def test_what_is_off_has_no_cost() -> None:
    qmodel = quantized()
    assert logs.costs(qmodel)
    qfx.switch(qmodel, "0.*", on=False)
    assert logs.costs(qmodel) == {}
    assert logs.losses(qmodel, X) == {}
    assert logs.formats(qmodel)


@pytest.mark.parametrize(
    ("package", "module", "install"),
    [
        ("tensorboard", "", "tensorboard"),
        ("lightning", "lightning", "lightning"),
        ("pytorch_lightning", "pytorch_lightning", "pytorch-lightning"),
        ("transformers", "huggingface", r"transformers\[torch\]"),
    ],
)
def test_a_package_that_is_missing_is_named_with_how_to_get_it(
    package: str, module: str, install: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package or name == f"qfx.trainers.{module}"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)  # type: ignore[arg-type]  # as if it were not installed
    asked = partial(peer, f"qfx.trainers.{module}", install) if module else partial(tensorboard.summary_writer, tmp_path / "runs")
    with pytest.raises(QfxError, match=rf"{install} (is not installed|cannot be imported)(.|\n)*pip install {install}"):
        asked()
    assert not (tmp_path / "runs").exists()


def test_no_door_imports_a_trainer_before_it_is_asked_for(thorough: bool) -> None:
    if not thorough:
        pytest.skip("runs with --thorough: a process of its own")
    code = "import sys, qfx.trainers.course, qfx.trainers.tensorboard; print({'lightning', 'transformers', 'tensorboard'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
