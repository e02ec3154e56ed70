"""``python -m benchmarks.memory``: the peak of what tensors take in a training step, quantized, beside the same network in float32."""

from __future__ import annotations

import argparse
import copy
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import qfx
from benchmarks.models import Layers, ResNet, mlp

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))


def peak(model: nn.Module, x: Tensor, labels: Tensor) -> int:
    """Bytes that a step of SGD with momentum takes at most beyond what stands before it: by what torch's allocator tells of each tensor."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    model.train()

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    for _ in range(2):
        step()
    optimizer.zero_grad()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    told = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(told, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def compared(build: Callable[[], nn.Module], x: Tensor, classes: int) -> tuple[float, float]:
    """MiB of float32 and of qfx at 8 bits."""
    torch.manual_seed(0)
    model, labels = build(), torch.randint(classes, (len(x),))
    qmodel = qfx.quantize(model, x[:4], qfx.Recipe.uniform(8))
    base, other = (peak(m, x, labels) / 2**20 for m in (model, qmodel))
    return base, other


def _resnet18() -> nn.Module:
    model: nn.Module = copy.deepcopy(importlib.import_module("large_networks").make_large("resnet18")[0])
    return model


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, int]] = {
    "MLP": (lambda: mlp(Layers()), (16,), 1024, 5),
    "ResNet-20": (lambda: ResNet(Layers()), (3, 32, 32), 128, 10),
    "ResNet-18": (_resnet18, (3, 224, 224), 16, 1000),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--network", choices=NETWORKS, action="append", help="which (default: all)")
    parser.add_argument("--batch", type=int, help="images in a step (default: 1024, 128, 16)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for name in options.network or NETWORKS:
        build, shape, batch, classes = NETWORKS[name]
        count = options.batch or batch
        base, other = compared(build, torch.randn(count, *shape), classes)
        print(f"{name}, batch {count}: float32 {base:.1f} MiB, qfx at 8 bits {other:.1f} MiB, {other / base:.2f}", flush=True)


if __name__ == "__main__":
    main()
