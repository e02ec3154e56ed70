"""Structured pruning before and with quantization: ResNet-20 and ResNet-8 on CIFAR-10 (first 2,000 test images); what is left to multiply, and
what a streaming design for the Ultra96-V2 takes."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import qfx
from benchmarks.cifar import Batches, training_images
from benchmarks.ptq import DATA, accuracy, calibration_images, float_model, images
from benchmarks.resnet8_front import network as resnet8
from qfx import Recipe, Spec
from qfx.hardware.board import board
from qfx.hardware.design.schedule import Request
from qfx.hardware.folding import search as fold
from qfx.ir.graph import Graph
from qfx.ir.passes.pipeline import optimize
from qfx.operators import Conv, Linear
from qfx.ptq import float_reference, fold_batch_norm, gptq, prune_channels

JUDGED = 2000


STEPS, BATCH, RATE = 200, 32, 1e-3
"""Of a quantized network that is trained on behind pruning."""


def main() -> None:
    before()
    within()


def before() -> None:
    """The float network is pruned, then quantized; nothing is trained."""
    x, y = images("test_x", JUDGED), torch.from_numpy(np.load(DATA / "cifar10" / "test_y.npy")[:JUDGED].astype(np.int64))
    calib = calibration_images(256)
    labels = torch.from_numpy(np.load(DATA / "cifar10" / "train_y.npy")[:256].astype(np.int64))
    model = float_model()

    def right(net: torch.nn.Module) -> float:
        with torch.no_grad():
            return 100 * float((torch.cat([net(part) for part in x.split(250)]).argmax(1) == y).float().mean())  # type: ignore[no-untyped-call]

    def loss(net: torch.nn.Module) -> Tensor:
        return F.cross_entropy(net(calib), labels)

    print(f"float {right(model):.2f} %", flush=True)
    for keep in (1.0, 0.75, 0.5):
        for method in ("apoptosis", "surgeon") if keep < 1 else ("surgeon",):
            pruned = model if keep == 1 else prune_channels(model, calib, keep=keep, method=method, loss=loss)
            folded = fold_batch_norm(pruned, calib[:4])
            q = qfx.quantize(folded, calib, Recipe(weight=Spec(6, granularity="channel"), activation=Spec(8))).eval()
            if method == "surgeon":
                print(f"{keep} kept: {hardware(qfx.to_graph(q))}", flush=True)
            gptq(q, calib, reference=float_reference(q))
            graph = qfx.to_graph(q)
            macs = sum(node.op.macs(graph.infos[node.name]) for node in graph.nodes if isinstance(node.op, Conv | Linear))
            print(f"{method}, {keep}: float {right(pruned):.2f} %, 6/8 bits {right(q):.2f}, {macs / 1e6:.1f} million products", flush=True)


def within() -> None:
    """A quantized ResNet-8 is pruned, by its own second order, and trained on."""
    x, y = resnet8.judged_images(JUDGED)
    batches = Batches(training_images(10_000), BATCH, 0, resnet8.scaled)
    parts = [batches.batch(step) for step in range(256 // BATCH)]
    calib, labels = (torch.cat(column) for column in zip(*parts, strict=True))

    def loss(net: torch.nn.Module) -> Tensor:
        return F.cross_entropy(net(calib), labels)

    recipe = Recipe(weight=Spec(6, granularity="channel"), bias=Spec(16, granularity="channel"), activation=Spec(8))
    q = qfx.quantize(fold_batch_norm(resnet8.network(), calib[:4]), calib, recipe).eval()
    print(f"6/8 bits: {accuracy(q, x, y):.2f} %, {hardware(qfx.to_graph(q), 10_000)}", flush=True)
    for keep in (0.75, 0.5):
        for method in ("surgeon", "apoptosis"):
            pruned = prune_channels(q, calib, keep=keep, method=method, loss=loss)
            told = f"{method}, {keep} kept: {accuracy(pruned, x, y):.2f} %"
            if method == "surgeon":
                print(f"{keep} kept: {hardware(qfx.to_graph(pruned), 10_000)}", flush=True)
            optimizer = torch.optim.Adam(qfx.parameter_groups(pruned, lr=RATE), RATE)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
            pruned.train()
            for step in range(STEPS):
                images, wanted = batches.batch(step)
                optimizer.zero_grad()
                F.cross_entropy(pruned(images), wanted).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
            print(f"{told}, trained {accuracy(pruned.eval(), x, y):.2f}", flush=True)


def hardware(graph: Graph, pace: int = 3000) -> str:
    """What a rate takes, and the fastest that fits, at 5 ns (estimated)."""
    told = []
    for request in (Request(fps=pace), Request(fit=True)):
        made = fold.resolve(optimize(graph), board("ultra96v2"), request, clock_ns=5.0)
        total = made.estimate.total
        told.append(f"{made.fps:.0f} frames/s: {total.dsp} DSP, {total.lut} LUT, {total.bram18} BRAM18")
    return "; ".join(told)


if __name__ == "__main__":
    main()
