"""``python -m benchmarks.tasks``: recurrence, attention and super-resolution on real data, 8 bits against float, in one table.

Each network is trained in float from a fixed seed, quantized (every layer, table and state), judged, trained on in fixed point for at most three
epochs, and judged again. Recordings, images and licences: ``benchmarks/README.md``. Data from ``../shared/data`` (or ``$QFX_DATA``).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from benchmarks.ptq import differing_bits
from benchmarks.task_data import BANDS, DATA, FRAMES, Data, clothes, photographs, spoken_digits
from benchmarks.task_models import Edsr, SpeechLSTM, SpeechTransformer, Vit
from benchmarks.timing import machine
from qfx import Recipe

COMPARED = 64
"""Samples on which PyTorch, the integer interpreter and ONNX Runtime are compared bit by bit."""


def _accuracy(found: Tensor, wanted: Tensor) -> float:
    """Top-1 in percent."""
    return 100 * float((found.argmax(1) == wanted).float().mean())


def _psnr(found: Tensor, wanted: Tensor) -> float:
    """Peak signal to noise in dB, of values of 0..1, the mean over the images."""
    return float((-10 * (found.clamp(0, 1) - wanted).square().mean((1, 2, 3)).log10()).mean())


@dataclass(frozen=True)
class Task:
    """A network, its data, what is minimized, what is judged; how long and how fast it learns, in float and in fixed point. ``aim``: how far below
    float the result may lie."""

    name: str
    unit: str
    aim: float
    model: Callable[[], nn.Module]
    data: Callable[[], Data]
    loss: Callable[[Tensor, Tensor], Tensor]
    judge: Callable[[Tensor, Tensor], float]
    epochs: int
    rate: float
    tuned_rate: float
    batch: int = 64


TASKS = (
    Task("LSTM, spoken digits", "%", 1.0, lambda: SpeechLSTM(BANDS), spoken_digits, F.cross_entropy, _accuracy, 30, 3e-3, 3e-4),
    Task("transformer, spoken digits", "%", 1.0, lambda: SpeechTransformer(BANDS, FRAMES), spoken_digits, F.cross_entropy, _accuracy, 40, 2e-3, 2e-4),
    Task("ViT, Fashion-MNIST", "%", 1.0, Vit, clothes, F.cross_entropy, _accuracy, 6, 1e-3, 1e-4, 128),
    Task("EDSR x2, CIFAR-10", "dB", 0.1, Edsr, photographs, F.l1_loss, _psnr, 4, 1e-3, 1e-4, 32),
)


def train(model: nn.Module, task: Task, data: Data, epochs: int, rate: float) -> nn.Module:
    """Adam with a rate that falls to nothing along a cosine; says on stderr how far it is."""
    torch.manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    steps = epochs * -(-len(data.train_x) // task.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for epoch in range(epochs):
        total = 0.0
        for places in torch.split(torch.randperm(len(data.train_x)), task.batch):
            loss = task.loss(model(data.train_x[places]), data.train_y[places])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(places)
        print(f"{task.name}: epoch {epoch + 1} of {epochs}, loss {total / len(data.train_x):.4f}", file=sys.stderr, flush=True)
    return model.eval()


def judged(model: nn.Module, task: Task, data: Data) -> float:
    with torch.no_grad():
        found = torch.cat([model(part) for part in torch.split(data.test_x, 250)])
    return task.judge(found, data.test_y)


def run(task: Task, epochs: int, tuned_epochs: int, bits: int, folder: Path) -> list[str]:
    """One row of the table."""
    data = task.data()
    torch.manual_seed(0)
    model = task.model()
    kept = folder / f"{type(model).__name__}-{epochs or task.epochs}.pt"
    if kept.is_file():
        model.load_state_dict(torch.load(kept, weights_only=True))
    else:
        train(model, task, data, epochs or task.epochs, task.rate)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), kept)
    reference = judged(model.eval(), task, data)
    began = time.perf_counter()
    quantized = qfx.quantize(model, data.train_x[:256], Recipe.uniform(bits)).eval()
    seconds = time.perf_counter() - began
    before = judged(quantized, task, data)
    began = time.perf_counter()
    train(quantized, task, data, tuned_epochs, task.tuned_rate)
    minutes = (time.perf_counter() - began) / 60
    after = judged(quantized, task, data)
    wrong = differing_bits(quantized, data.test_x[:COMPARED])
    figures = [f"{value:.2f}" for value in (reference, before, after)] + [f"{after - reference:+.2f}"]
    return [task.name, task.unit, *figures, f"{seconds:.0f}", f"{minutes:.1f}", str(wrong)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tasks", description=__doc__.split("\n")[0])
    parser.add_argument("--task", action="append", help="only tasks whose name holds this word; may be repeated")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bits", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=0, help="of training in float; default: each task's own")
    parser.add_argument("--tuned-epochs", type=int, default=3, help="of training in fixed point")
    parser.add_argument("--kept", type=Path, default=Path("build/tasks"), help="where the float networks are kept from run to run")
    options = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"{DATA} is not there: set QFX_DATA to the folder with the real data")
    torch.set_num_threads(options.threads)
    print(machine(), flush=True)
    head = ["task", "", "float", f"{options.bits} bits", "trained on", "against float", "quantizing, s", "training, min", "differing"]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head), flush=True)
    for task in TASKS:
        if not options.task or any(word.lower() in task.name.lower() for word in options.task):
            print("| " + " | ".join(run(task, options.epochs, options.tuned_epochs, options.bits, options.kept)) + " |", flush=True)


if __name__ == "__main__":
    main()
