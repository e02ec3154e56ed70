"""``python -m benchmarks.qat``: ResNet-20 on CIFAR-10 trained in pure fixed point, down a ladder of word lengths.

All layers are fixed point with power-of-two scales, the first, the last, the BatchNorms and the shortcuts too. Weights have a binary point per
channel; weights and activations have the rung's bits, the images 8, biases, BatchNorm's scales and shifts, and the result 16. With ``--stream 8``
what is multiplied has the rung's bits and what shortcuts add has 8; with ``--ends 8`` the weights of the first layer, and the weights and the operand
of the last, have 8. The first rung starts from the published float weights, each other from the one before. Data from ``../shared/data`` (or
``$QFX_DATA``).

A run can be stopped anywhere: with ``--resume`` it goes on, and ends in the same bits.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import qfx
from benchmarks.cifar import Batches, training_images
from benchmarks.ptq import CHECKPOINT, DATA, accuracy, calibration_images, differing_bits, float_model, judged_images
from benchmarks.qat_run import RATES, Plan, Rough, Run, follow, load, parameters_of, save
from benchmarks.timing import machine
from qfx import Override, Recipe, Spec

EXAMPLE, GLANCED, COMPARED = 512, 2000, 300
"""How many images binary points start from, are judged after each epoch, and are compared bit by bit at the end."""


def recipe(bits: int, stream: int = 0, ends: int = 0) -> Recipe:
    """Everything that is not named has the defaults: 16 bits for biases, BatchNorm's scales and shifts, and the result. ``stream``: bits of what
    blocks give and shortcuts add, where it is not what is multiplied; ``ends``: of the first layer's weights, and of what the last one multiplies.
    0: ``bits``, too."""
    wide = ("conv1.weight", "fc.weight", "adaptive_avg_pool2d.output") if ends else ()
    return Recipe(
        input=Spec(8),
        weight=Spec(bits, granularity="channel"),
        bias=Spec(16, granularity="channel"),
        scale=Spec(16, granularity="channel"),
        shift=Spec(16, granularity="channel"),
        activation=Spec(stream or bits),
        operand=Spec(bits) if stream else None,
        overrides=tuple(Override(name, {"width": ends}) for name in wide),
    )


def quantized(plan: Plan, state: dict[str, Tensor] | None) -> nn.Module:
    """The network at the start of a rung: with the published weights, or those of another network in fixed point, and binary points placed anew, or
    (``plan.goes_on``) where that network has them."""
    model = copy.deepcopy(float_model())
    if state is not None:
        model.load_state_dict(parameters_of(state, model.state_dict()))
    elif plan.balanced:
        balance(model, plan.bits)
    qmodel = qfx.quantize(model, calibration_images(EXAMPLE), recipe(plan.bits, plan.stream, plan.ends))
    if plan.goes_on:
        qmodel.load_state_dict(state or {})
    return qmodel


def balance(model: nn.Module, bits: int) -> None:
    """Multiply the weights of each channel by the factor from 1 to 2 with which a power-of-two scale fits them best, and the statistics of the
    BatchNorm behind by it too: in float the network gives the same (but for BatchNorm's epsilon); in place."""
    factors = torch.exp2(torch.arange(16) / 16)
    grid = torch.exp2(torch.arange(-4.0, 13.0))
    modules = list(model.modules())
    convs = [module for module in modules if isinstance(module, nn.Conv2d)]
    norms = [module for module in modules if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        for conv, bn in zip(convs, norms, strict=True):
            scales = (factors[:, None] * grid).reshape(-1, 1, 1)  # (factor, position): what a weight counts in least significant bits
            weight = conv.weight.flatten(1)
            rounded = (weight * scales).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) / scales
            error = (rounded - weight).square().sum(2).reshape(len(factors), len(grid), -1).amin(1)
            best = factors[error.argmin(0)]
            conv.weight.mul_(best.reshape(-1, 1, 1, 1))
            assert bn.running_mean is not None
            assert bn.running_var is not None
            bn.running_mean.mul_(best)
            bn.running_var.mul_(best.square())


def rung(plan: Plan, start: dict[str, Tensor] | None, folder: Path, asked: argparse.Namespace) -> dict[str, Tensor]:
    """Train at one word length, judge, export; the network's state at the end."""
    finished, going = folder / "final.pt", folder / "checkpoint.pt"
    if finished.is_file() and asked.resume:
        return load(finished)["model"]  # type: ignore[no-any-return]
    run = Run(plan, quantized(plan, start), Batches(training_images(asked.images), plan.batch, plan.seed), _teacher(plan))
    if going.is_file() and asked.resume:
        run.resume(load(going))
    x, labels = judged_images(asked.test)
    glanced = min(GLANCED, len(labels))

    def judge() -> str:
        run.qmodel.eval()
        return f"{accuracy(run.qmodel, x[:glanced], labels[:glanced]):.2f} % of {glanced}"

    say(folder, f"{plan.bits} bits: at step {run.step}, {judge()}; {asdict(plan)}")
    began = time.monotonic()
    follow(run, going, every=asked.every, told=lambda text: say(folder, text), judge=judge)
    run.qmodel.eval()
    found = {
        "bits": plan.bits,
        "epochs": plan.epochs,
        "accuracy": accuracy(run.qmodel, x, labels),
        "test_images": len(labels),
        "differing_bits": differing_bits(run.qmodel, x[:COMPARED]),
        "compared": min(COMPARED, len(labels)),
        "seconds_since_start_or_resume": round(time.monotonic() - began),
        "plan": asdict(plan),
    }
    qfx.export_onnx(run.qmodel, folder / "model.onnx")
    (folder / "result.json").write_text(json.dumps(found, indent=1) + "\n")
    say(folder, json.dumps(found))
    state = run.qmodel.state_dict()
    save({"model": state, "bits": plan.bits}, finished)
    return state


def _teacher(plan: Plan) -> nn.Module | None:
    if not plan.taught:
        return None
    return Rough(float_model()) if plan.rough_teacher else float_model()


def say(folder: Path, text: str) -> None:
    """On stdout and in the folder's log."""
    line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}"
    print(line, flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a") as log:
        print(line, file=log)


def plans(asked: argparse.Namespace) -> list[Plan]:
    """One for each rung."""
    bits = [int(text) for text in asked.bits.split(",")]

    def each(text: str) -> list[Any]:
        values = [float(part) for part in str(text).split(",")]
        return values * len(bits) if len(values) == 1 else values

    columns = {name: each(getattr(asked, name)) for name in ("epochs", "rate", "point_rate")}
    if any(len(values) != len(bits) for values in columns.values()):
        sys.exit(f"--epochs, --rate and --point-rate take one number, or one for each of --bits {asked.bits}")
    shared = {
        name: getattr(asked, name)
        for name in (
            "stream",
            "ends",
            "balanced",
            "goes_on",
            "channels_last",
            "rough_teacher",
            "seed",
            "batch",
            "optimizer",
            "weight_decay",
            "warm_up",
            "settles",
            "points_until",
            "statistics_until",
        )
    }
    taught = asked.taught if asked.teacher == "float" else 0.0
    return [
        Plan(width, int(epochs), rate=rate, point_rate=point_rate, taught=taught, temperature=asked.temperature, **shared)
        for width, epochs, rate, point_rate in zip(bits, *columns.values(), strict=True)
    ]


def asked_for(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's options, of the command line without ``arguments``: their defaults are the plan's."""
    plan = Plan(4, 12)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.qat", description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--bits", default="4", help="of weights and activations; several make a ladder: 8,4,3,2")
    parser.add_argument("--stream", type=int, default=plan.stream, help="bits of what blocks give and shortcuts add; 0: as what is multiplied")
    parser.add_argument("--ends", type=int, default=plan.ends, help="bits of weights of the first and the last layer, and of the last one's operand")
    parser.add_argument("--balanced", action="store_true", help="start from weights scaled to fit power-of-two scales; BatchNorm takes that back")
    parser.add_argument("--goes-on", action="store_true", help="start from the binary points of --from too, which has the same word lengths")
    parser.add_argument("--channels-last", action="store_true", help="images and weights lie with the channels last: the same bits, often faster")
    parser.add_argument("--rough-teacher", action="store_true", help="the teacher computes in bfloat16")
    parser.add_argument("--epochs", default="12", help="of each rung, or one number for each")
    parser.add_argument("--from", dest="start", type=Path, default=None, help="final.pt of a rung to start from, instead of the float weights")
    parser.add_argument("--teacher", choices=("none", "float"), default="none", help="distillation: what the network's result is compared with")
    parser.add_argument("--taught", type=float, default=0.8, help="share of the loss that --teacher has")
    parser.add_argument("--temperature", type=float, default=plan.temperature)
    parser.add_argument("--optimizer", choices=tuple(RATES), default="adam")
    parser.add_argument("--rate", default=None, help="learning rate of weights, or one for each rung")
    parser.add_argument("--point-rate", default=plan.point_rate, help="learning rate of binary points, or one for each rung")
    parser.add_argument("--weight-decay", type=float, default=plan.weight_decay)
    parser.add_argument("--batch", type=int, default=plan.batch)
    parser.add_argument("--warm-up", type=int, default=plan.warm_up, help="steps in which the rates rise")
    parser.add_argument("--no-settling", dest="settles", action="store_false", help="let binary points flip")
    parser.add_argument(
        "--points-until", type=float, default=plan.points_until, help="share of the steps after which binary points stay; 0: all along"
    )
    parser.add_argument("--statistics-until", type=float, default=plan.statistics_until, help="and the statistics of BatchNorm")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("build/qat"), help="a folder for each rung goes there")
    parser.add_argument("--resume", action="store_true", help="go on where the run in --out stopped")
    parser.add_argument("--every", type=int, default=100, help="steps from checkpoint to checkpoint")
    parser.add_argument("--images", type=int, default=None, help="train on so many images (default: all 50,000)")
    parser.add_argument("--test", type=int, default=None, help="judge on so many test images (default: all 10,000)")
    asked = parser.parse_args(arguments)
    asked.rate = RATES[asked.optimizer] if asked.rate is None else asked.rate
    return asked


def main() -> None:
    asked = asked_for()
    if not (DATA / CHECKPOINT).is_file():
        sys.exit(f"{DATA} has no {CHECKPOINT}: set QFX_DATA to the folder with the real data")
    if asked.goes_on and (asked.start is None or "," in asked.bits):
        sys.exit("--goes-on takes one rung, and --from")
    torch.set_num_threads(asked.threads)
    state = None if asked.start is None else load(asked.start)["model"]
    print(machine(), os.getpid(), flush=True)
    for wanted in plans(asked):
        folder = asked.out / f"{wanted.bits}-bits"
        if (folder / "log.txt").exists() and not asked.resume:
            sys.exit(f"{folder} holds a run already: --resume goes on with it, another --out begins anew")
        state = rung(wanted, state, folder, asked)


if __name__ == "__main__":
    main()
