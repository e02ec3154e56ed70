"""2:4 sparsity: a vision transformer on Fashion-MNIST, weights of 6 and activations of 8 bits; what an unrolled perceptron's hardware takes; and
ResNet-20 as a streaming design, with all weights and without the zeros."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

import qfx
from benchmarks.methods.common import accuracy, clothes_of, train
from benchmarks.ptq import accuracy as resnet_accuracy
from benchmarks.ptq import calibration_images, float_model, judged_images
from benchmarks.task_models import Vit
from qfx import Override, Recipe, Spec
from qfx.hardware.board import board
from qfx.hardware.design.schedule import Request
from qfx.hardware.folding import search as fold
from qfx.hardware.project import csim
from qfx.hardware.project.project import write_project
from qfx.hardware.unrolled.plan import plan
from qfx.ir.interpret import quantize_input, run_from_raw
from qfx.ir.passes.pipeline import optimize
from qfx.ptq import float_reference, fold_batch_norm, gptq

DENSE = (Override("patch.weight", {"sparsity": "1:1"}),)  # it has one input channel


def recipe(sparsity: str) -> Recipe:
    return Recipe(weight=Spec(6, granularity="channel", sparsity=sparsity), activation=Spec(8), overrides=DENSE)


def main() -> None:
    data = clothes_of(6_000)
    torch.manual_seed(0)
    model = train(Vit(width=32, depth=2), data, 5, 3e-3, batch=64)
    print(f"float {accuracy(model, data):.2f} %", flush=True)
    example = data.train_x[:256]
    for sparsity in ("4:4", "2:4", "1:4"):
        q = qfx.quantize(copy.deepcopy(model), example, recipe(sparsity))
        plain = accuracy(q, data)
        passed = copy.deepcopy(q)
        gptq(passed, example, reference=float_reference(passed))
        told = f"{sparsity}: by magnitude {plain:.2f} %, with GPTQ {accuracy(passed, data):.2f}"
        lesson = qfx.Distillation(model)

        def taught(x: Tensor, found: Tensor, wanted: Tensor, lesson: qfx.Distillation = lesson) -> Tensor:
            return lesson(x, found)

        train(q, data, 1, 5e-4, batch=64, loss=taught)
        print(f"{told}, trained for an epoch {accuracy(q, data):.2f}", flush=True)
        transformer(q.eval(), data.test_x[:20], sparsity)
    hardware()
    streaming()


def transformer(q: nn.Module, x: Tensor, sparsity: str) -> None:
    """The vision transformer as a streaming design, the fastest that fits the Ultra96-V2; and whether its C++ gives the interpreter's numbers."""
    graph = optimize(qfx.to_graph(q))
    made = fold.resolve(graph, board("ultra96v2"), Request(fit=True), clock_ns=5.0)
    with tempfile.TemporaryDirectory() as folder:
        project = write_project(graph, Path(folder) / "vit", board="ultra96v2", clock_ns=5.0, schedule=made)
        found = csim.run_raw(project.path, x.numpy(), fast=True)
    wrong = int((found != run_from_raw(graph, quantize_input(graph, x.numpy()))).sum())
    few, total = sum(bool(folding.sparsity) for _, folding in made.schedule.foldings), made.estimate.total
    told = f"{total.dsp} DSP, {total.lut} LUT, {total.bram18} BRAM18, {few} layers without zeros"
    print(f"  streaming, {sparsity}: {made.fps:.0f} frames/s, {told}; {wrong} of {found.size} numbers of the C++ differ", flush=True)


def streaming() -> None:
    """ResNet-20, channels of weights by magnitude and GPTQ, nothing trained: what it takes at a rate, and the fastest that fits."""
    images = calibration_images(256)
    x, y = judged_images(1_000)
    for bits in (8, 4):
        for sparsity in ("4:4", "2:4", "1:4"):
            dense = (Override("conv1.weight", {"sparsity": "1:1"}),)  # it has three input channels
            asked = Recipe(input=Spec(8), weight=Spec(bits, granularity="channel", sparsity=sparsity), activation=Spec(bits), overrides=dense)
            q = qfx.quantize(fold_batch_norm(float_model(), images[:4]), images, asked).eval()
            gptq(q, images, reference=float_reference(q))
            graph = optimize(qfx.to_graph(q))
            told = [f"{bits} bits, {sparsity}: GPTQ {resnet_accuracy(q, x, y):.1f} %"]
            for request in (Request(fps=3000), Request(fit=True)):
                made = fold.resolve(graph, board("ultra96v2"), request, clock_ns=5.0)
                total = made.estimate.total
                few = sum(bool(folding.sparsity) for _, folding in made.schedule.foldings)
                told.append(f"{made.fps:.0f} frames/s: {total.lut} LUT, {total.dsp} DSP, {total.bram18} BRAM18, {few} layers without zeros")
            print("; ".join(told), flush=True)


def hardware() -> None:
    """16-64-32-32-5, 4 bits, random weights: unrolled on a ZCU102."""
    for sparsity in ("4:4", "2:4", "1:4"):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 5))
        q = qfx.quantize(net, torch.rand(256, 16), Recipe(weight=Spec(4, sparsity=sparsity), activation=Spec(4)))
        found = plan(optimize(qfx.to_graph(q)), board("zcu102"), clock_ns=5.0)
        print(f"unrolled, {sparsity}: {found.adders} adders, {found.estimate.total.lut} LUT")


if __name__ == "__main__":
    main()
