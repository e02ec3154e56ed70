"""Lightning's DDP on two processes: the callback keeps them together."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert int(first["1.num_batches_tracked"]) == 2
