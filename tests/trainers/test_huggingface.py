"""The Trainer of transformers itself: a run, a resumed run, logs, exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from trainers.events_read import read, scalars
from trainers.nets import X, Y, learned, quantized, same
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments

import qfx
from qfx import Budget, ModelFileError, QfxError
from qfx.trainers.events import Anneal, Freeze, Meet, Switch
from qfx.trainers.huggingface import QfxCallback

DATA = [{"x": x, "labels": y} for x, y in zip(X, Y, strict=True)]


class WithLoss(nn.Module):
    """What the Trainer takes: a dict with the loss in it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = quantized(learned())

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.net(x)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def trainer(model: nn.Module, callbacks: list[Any], folder: Path, *, steps: int = 12, **more: Any) -> Trainer:
    settings: dict[str, Any] = {"report_to": "none", "save_strategy": "no", "logging_steps": 4, "disable_tqdm": True, "use_cpu": True, **more}
    args = TrainingArguments(str(folder), per_device_train_batch_size=12, max_steps=steps, seed=3, **settings)
    optimizer = torch.optim.AdamW(qfx.parameter_groups(model, lr=2e-2, binary_point_lr=0.3))
    return Trainer(model, args, train_dataset=DATA, eval_dataset=DATA, optimizers=(optimizer, None), callbacks=callbacks)  # type: ignore[arg-type]


def callback(**settings: Any) -> QfxCallback:
    events = (Switch("3.*", on=False, step=0), Switch("3.*", epoch=1), Anneal(step=6, to_step=10), Freeze(step=10, statistics=False), Meet(step=11))
    return QfxCallback(*events, budget=Budget(ebops=5000), settling=2, **settings)


def test_a_run_logs_and_exports(tmp_path: Path) -> None:
    model = WithLoss()
    archive = qfx.Archive(tmp_path / "front")
    called = callback(log_every=4, histograms_every=8, export=tmp_path / "model.onnx", archive=archive, score="-eval_loss")
    made = trainer(model, [called], tmp_path / "out", report_to="tensorboard", eval_strategy="epoch")
    made.train()
    events = read(tmp_path / "out" / "runs" / "qfx")
    assert [step for step, _ in scalars(events, "qfx/word_length/0.weight")] == [4, 8, 12]
    assert [event.step for event in events.Histograms("qfx/weights/0")] == [8, 12]
    history = [entry for entry in made.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in history] == [4, 8, 12]
    with torch.no_grad():
        assert history[-1]["qfx/cost/bit_operations"] == float(qfx.cost(model.net).bit_operations)
        graph = qfx.load_graph(tmp_path / "model.onnx")
        assert np.array_equal(qfx.run(graph, X.numpy()), model.net(X).numpy())
    assert archive.seen == 3
    with pytest.raises(ModelFileError, match=r"the file exists(.|\n)*force=True"):
        trainer(WithLoss(), [QfxCallback(export=tmp_path / "model.onnx")], tmp_path / "again")


@pytest.mark.parametrize("restore", [False, True])
def test_a_resumed_run_ends_in_the_same_bits(restore: bool, tmp_path: Path, thorough: bool) -> None:
    if not restore and not thorough:
        pytest.skip("runs with --thorough: without it the trainer does less")
    whole, first, second = WithLoss(), WithLoss(), WithLoss()
    more = {"restore_callback_states_from_checkpoint": restore, "lr_scheduler_type": "constant"}
    trainer(whole, [callback()], tmp_path / "a", **more).train()
    trainer(first, [callback()], tmp_path / "b", steps=8, save_strategy="steps", save_steps=8, **more).train()
    place = tmp_path / "b" / "checkpoint-8"
    trainer(second, [callback()], tmp_path / "c", **more).train(resume_from_checkpoint=str(place))
    assert same(whole.state_dict(), second.state_dict())
    assert not same(whole.state_dict(), first.state_dict())
    state = json.loads((place / "trainer_state.json").read_text())
    del state["stateful_callbacks"]["qfx"]  # planted: nothing is kept of the run before
    (place / "trainer_state.json").write_text(json.dumps(state))
    careless = WithLoss()
    trainer(careless, [callback()], tmp_path / "d", **more).train(resume_from_checkpoint=str(place))
    assert not same(whole.state_dict(), careless.state_dict())


def test_a_writer_of_ones_own_and_the_best_checkpoint(tmp_path: Path) -> None:
    """The state is kept where the trainer decides to save only behind an evaluation."""
    best = {"save_strategy": "best", "metric_for_best_model": "eval_loss", "eval_strategy": "steps", "eval_steps": 4}
    stopping = EarlyStoppingCallback(early_stopping_patience=9)
    made = trainer(WithLoss(), [callback(log_every=6, writer=tmp_path / "mine"), stopping], tmp_path / "out", **best)
    made.train()
    assert [step for step, _ in scalars(read(tmp_path / "mine"), "qfx/word_length/0.weight")] == [6, 12]
    kept = sorted((tmp_path / "out").glob("checkpoint-*/trainer_state.json"))
    assert kept
    assert all("qfx" in json.loads(place.read_text())["stateful_callbacks"] for place in kept)


def test_scaled_gradients_are_refused(tmp_path: Path) -> None:
    made = trainer(WithLoss(), [callback()], tmp_path / "out")
    made.args.fp16 = True
    with pytest.raises(QfxError, match=r"fp16(.|\n)*bf16"):
        made.callback_handler.on_train_begin(made.args, made.state, made.control)
