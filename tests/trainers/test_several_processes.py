"""Lightning and transformers on two processes: the callback keeps them together."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import qfx

pytest.importorskip("lightning")

SCRIPT = """
import sys, warnings
import lightning, torch, qfx
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from qfx.trainers.lightning import QfxCallback

warnings.simplefilter("ignore")
X, Y = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 4

class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))
        self.net = qfx.quantize(model, X[:4], qfx.Recipe.uniform(4))

    def training_step(self, batch, index):
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

if __name__ == "__main__":
    module = Module()
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    trainer = lightning.Trainer(accelerator="cpu", devices=2, strategy="ddp", max_epochs=1, callbacks=[QfxCallback()], **quiet)
    trainer.fit(module, DataLoader(TensorDataset(X, Y), 8, shuffle=False))
    torch.save(module.net.state_dict(), f"{sys.argv[1]}/{trainer.global_rank}.pt")
"""


def test_both_processes_of_lightning_have_one_model(tmp_path: Path) -> None:
    import torch

    (tmp_path / "train_two.py").write_text(SCRIPT, encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "train_two.py", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert int(first["1.num_batches_tracked"]) == 2


TRANSFORMERS = """
import os, sys, warnings
warnings.simplefilter("ignore")
import torch, qfx
import torch.nn.functional as F
from torch import nn
from transformers import Trainer, TrainingArguments
from qfx.trainers.events import Anneal, Freeze, Meet, Switch
from qfx.trainers.huggingface import QfxCallback

X, Y = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 4
DATA = [{"x": x, "labels": y} for x, y in zip(X, Y)]

class WithLoss(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))
        spec = qfx.Spec(6, learn_width=True)
        self.net = qfx.quantize(model, X[:4], qfx.Recipe(weight=spec, activation=spec))

    def forward(self, x, labels):
        logits = self.net(x)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}

folder, how = sys.argv[1:]
settings = dict(per_device_train_batch_size=8, max_steps=6, save_steps=3, logging_steps=2, seed=1, report_to="tensorboard", disable_tqdm=True)
model = WithLoss()
optimizer = torch.optim.AdamW(qfx.parameter_groups(model, lr=1e-2, binary_point_lr=0.1))
events = (Switch("4.*", on=False, step=0), Switch("4.*", step=1), Anneal(step=1, to_step=3), Meet(step=4), Freeze(step=4))
callback = QfxCallback(*events, budget=qfx.Budget(ebops=150_000), log_every=2, losses_on=X[:4], export=f"{folder}/{how}.onnx")
args = TrainingArguments(folder, use_cpu=True, ddp_backend="gloo", **settings)
trainer = Trainer(model, args, train_dataset=DATA, eval_dataset=DATA, optimizers=(optimizer, None), callbacks=[callback])
trainer.train(resume_from_checkpoint=how == "resumed" and f"{folder}/checkpoint-3")
trainer.evaluate()
torch.save(model.net.state_dict(), f"{folder}/{how}{os.environ['RANK']}.pt")
"""


def test_both_processes_of_transformers_have_one_model(tmp_path: Path, thorough: bool) -> None:
    """Started by torchrun: both end in the same bits, one of them exports, and a resumed run of both ends as the whole one did."""
    if not thorough:
        pytest.skip("with --thorough")
    pytest.importorskip("transformers")
    import torch

    (tmp_path / "train.py").write_text(TRANSFORMERS, encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    for how in ("whole", "resumed"):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train.py", str(tmp_path / "out"), how]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr[-3000:]
    first, *others = (torch.load(tmp_path / "out" / f"{how}{rank}.pt") for how in ("whole", "resumed") for rank in (0, 1))
    assert all(list(first) == list(other) and all(torch.equal(first[name], other[name]) for name in first) for other in others)
    x = torch.randn(4, 3, 8, 8).numpy()
    whole, resumed = (qfx.run(qfx.load_graph(tmp_path / "out" / f"{how}.onnx"), x) for how in ("whole", "resumed"))
    assert (whole == resumed).all()
