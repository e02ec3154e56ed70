"""Lightning's own Trainer, under both of its names: a run, a resumed run, logs, exports."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
from trainers.events_read import read, scalars
from trainers.nets import X, Y, learned, quantized, same

import qfx
from qfx import Budget, ModelFileError, QfxError
from qfx.trainers.events import Anneal, Freeze, Meet, Switch

pytestmark = [
    pytest.mark.filterwarnings("ignore::Warning:lightning"),
    pytest.mark.filterwarnings("ignore::Warning:pytorch_lightning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
]

PACKAGES = {"lightning": "lightning.pytorch", "pytorch_lightning": "pytorch_lightning"}


def callback(package: str, *events: Any, **settings: Any) -> Any:
    return import_module(f"qfx.trainers.{package}").QfxCallback(*events, **settings)


def module(package: str, *, sgd: bool = False) -> Any:
    """A LightningModule that knows nothing of qfx but ``quantize`` and ``parameter_groups``."""
    base: Any = import_module(PACKAGES[package]).LightningModule

    class Module(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = quantized(learned())

        def training_step(self, batch: Any, _: int) -> Any:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch: Any, _: int) -> None:
            self.log("val_accuracy", (self.net(batch[0]).argmax(1) == batch[1]).float().mean())

        def configure_optimizers(self) -> Any:
            groups = qfx.parameter_groups(self, lr=2e-2, binary_point_lr=0.3)
            return torch.optim.SGD(groups) if sgd else torch.optim.Adam(groups)

    return Module()


def fit(package: str, model: Any, called: Any, folder: Path, *, epochs: int, ckpt: Path | None = None, validate: bool = False, **more: Any) -> Any:
    lightning = import_module(PACKAGES[package])
    settings = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "enable_checkpointing": False, **more}
    trainer = lightning.Trainer(max_epochs=epochs, default_root_dir=folder, accelerator="cpu", callbacks=called, **settings)
    loader = DataLoader(TensorDataset(X, Y), batch_size=12)
    trainer.fit(model, loader, loader if validate else None, ckpt_path=ckpt)
    return trainer


def course(package: str, **settings: Any) -> Any:
    events = (Switch("3.*", on=False, step=0), Switch("3.*", epoch=1), Anneal(step=6, to_step=10), Freeze(step=10, statistics=False), Meet(step=11))
    return callback(package, *events, budget=Budget(ebops=5000), settling=2, **settings)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_run_logs_and_exports(package: str, tmp_path: Path) -> None:
    loggers = import_module(f"{PACKAGES[package]}.loggers")
    archive = qfx.Archive(tmp_path / "front")
    called = course(package, log_every=4, histograms_every=8, export=tmp_path / "model.onnx", archive=archive, score="val_accuracy")
    model = module(package)
    log = loggers.TensorBoardLogger(tmp_path, name="", version="run")
    trainer = fit(package, model, [called], tmp_path, epochs=3, validate=True, logger=log, num_sanity_val_steps=1)
    assert trainer.global_step == 12
    events = read(tmp_path / "run")
    assert [step for step, _ in scalars(events, "qfx/word_length/0.weight")] == [4, 8, 12]
    assert [step for step, _ in scalars(events, "qfx/cost/bit_operations")] == [4, 8, 12]  # at 4 the epoch is over, and all is on
    assert [event.step for event in events.Histograms("qfx/weights/0")] == [8, 12]
    graph = qfx.load_graph(tmp_path / "model.onnx")
    with torch.no_grad():
        assert np.array_equal(qfx.run(graph, X.numpy()), model.net(X).numpy())
    assert {name for name, quantizer in qfx.quantizers(model.net) if quantizer.frozen} == {name for name, _ in qfx.quantizers(model.net)}
    assert archive.seen == 3
    with pytest.raises(ModelFileError, match=r"model\.onnx: the file exists(.|\n)*force=True"):
        fit(package, module(package), [callback(package, export=tmp_path / "model.onnx")], tmp_path, epochs=1)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_resumed_run_ends_in_the_same_bits(package: str, tmp_path: Path, thorough: bool) -> None:
    if package != "lightning" and not thorough:
        pytest.skip("runs with --thorough: the hooks are the same")
    whole, first, second = module(package), module(package), module(package)
    fit(package, whole, [course(package)], tmp_path, epochs=3)
    checkpoints = import_module(f"{PACKAGES[package]}.callbacks").ModelCheckpoint(dirpath=tmp_path / package, save_last=True)
    fit(package, first, [course(package), checkpoints], tmp_path, epochs=2, enable_checkpointing=True)
    fit(package, second, [course(package)], tmp_path, epochs=3, ckpt=tmp_path / package / "last.ckpt")
    assert same(whole.state_dict(), second.state_dict())
    assert not same(whole.state_dict(), first.state_dict())
    careless = module(package)  # planted: a callback that keeps nothing of the run before
    kept = torch.load(tmp_path / package / "last.ckpt", weights_only=True)
    kept["callbacks"] = {}
    torch.save(kept, tmp_path / "careless.ckpt")
    fit(package, careless, [course(package)], tmp_path, epochs=3, ckpt=tmp_path / "careless.ckpt")
    assert not same(whole.state_dict(), careless.state_dict())


def test_accumulated_gradients_meet_the_budget_once_a_step(tmp_path: Path) -> None:
    def steps(**more: Any) -> int:
        called = callback("lightning", budget=Budget(ebops=5000))
        fit("lightning", module("lightning", sgd=True), [called], tmp_path, epochs=1, **more)
        return int(called.course.budget.controller.steps)

    assert (steps(), steps(accumulate_grad_batches=2)) == (4, 2)


def test_a_module_without_a_quantized_model_is_refused(tmp_path: Path) -> None:
    plain = module("lightning")
    plain.net = torch.nn.Linear(6, 3)
    plain.configure_optimizers = lambda: torch.optim.SGD(plain.parameters(), lr=0.1)
    with pytest.raises(QfxError, match="not a quantized model"):
        fit("lightning", plain, [callback("lightning")], tmp_path, epochs=1)
