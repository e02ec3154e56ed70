"""``python -m benchmarks.resnet8_front``: ResNet-8 on CIFAR-10, accuracy against cost on the Ultra96-V2, with uniform and with learned word lengths.

Cost: the larger of the shares of the board's LUTs and DSP blocks that the cheapest design takes which makes ``--fps`` frames a second. Each learned
point may cost as much as one of the uniform points. Both start from the published float weights (87.19 %), are trained for the same number of steps
on the same images in the same order, and are judged on all 10,000 test images. Everything is fixed point, the first and the last layer, BatchNorms
and shortcuts too. Data from ``../shared/data`` (or ``$QFX_DATA``).

A run can be stopped anywhere: finished points lie in ``--out`` and are passed over, so the same command goes on with the others.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import torch

from benchmarks.ptq import DATA
from benchmarks.resnet8_front.network import CHECKPOINT
from benchmarks.resnet8_front.point import Found, Plan, Point, kept, make
from benchmarks.timing import machine
from qfx.training.budget.plot import plot_fronts

UNIFORM, LEARNED = "4,8,2,3,6,5", "4,6,3,5,2"


def table(found: Sequence[Found]) -> list[str]:
    """A row for each point, by cost."""
    lines = ["| words | LUT | DSP | share of the board, % | top-1, % | differing bits |", "|---|---|---|---|---|---|"]
    for point in sorted(found, key=lambda one: (one.learned, one.share)):
        words = f"learned, at most {100 * point.allowed:.1f} %" if point.learned else f"{point.name.removeprefix('uniform-')} bits"
        lines.append(f"| {words} | {point.lut:,} | {point.dsp} | {100 * point.share:.1f} | {point.accuracy:.2f} | {point.differing_bits} |")
    return lines


def compare(found: Sequence[Found]) -> list[str]:
    """Learned less uniform, at the cost of each uniform point."""
    lines = []
    for point in sorted((one for one in found if not one.learned), key=lambda one: one.share):
        ours = [one.accuracy for one in found if one.learned and one.share <= point.share]
        told = f"{max(ours) - point.accuracy:+.2f}" if ours else "no learned point is as cheap"
        lines.append(f"at {100 * point.share:.1f} % of the board ({point.name}): {told}")
    return lines


def report(found: Sequence[Found], folder: Path, plan: Plan) -> None:
    """Table and plot of what there is."""
    steps = f"{found[0].steps} steps of {plan.batch}, seed {plan.seed}; Ultra96-V2, {plan.fps:g} frames a second; {found[0].images} test images"
    lines = [steps, "", *table(found), "", *compare(found)]
    (folder / "front.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines), flush=True)
    if importlib.util.find_spec("matplotlib"):
        drawn = {
            name: [(100 * one.share, one.accuracy) for one in found if one.learned is learned] for name, learned in _KINDS if _any(found, learned)
        }
        cost = f"ResNet-8 on the Ultra96-V2 at {plan.fps:g} frames/s: larger share of LUT, DSP, %"
        plot_fronts(drawn, folder / "front.png", cost=cost, score="CIFAR-10 top-1, %", force=True)


_KINDS = (("learned word lengths", True), ("uniform word lengths", False))


def _any(found: Sequence[Found], learned: bool) -> bool:
    return any(one.learned is learned for one in found)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resnet8_front", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--uniform", default=UNIFORM, help=f"bits of the uniform points, in this order (default: {UNIFORM})")
    parser.add_argument("--learned", default=LEARNED, help=f"the uniform points at whose cost words are learned (default: {LEARNED}); '' for none")
    parser.add_argument("--out", type=Path, default=Path("build/resnet8"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--test", type=int, default=None, help="judge on so many test images (default: all 10,000)")
    for field in fields(Plan):
        kind = int if field.name in ("images", "batch", "seed", "warm_up", "headroom") else float
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default, help=f"default: {field.default}")
    asked = parser.parse_args(arguments)
    if not (DATA / CHECKPOINT).is_file():
        sys.exit(f"{DATA} has no {CHECKPOINT}: set QFX_DATA to the folder with the real data")
    torch.set_num_threads(asked.threads)
    plan = Plan(**{field.name: getattr(asked, field.name) for field in fields(Plan)})
    asked.out.mkdir(parents=True, exist_ok=True)
    print(machine(), plan, flush=True)
    uniform, learned = ([int(text) for text in str(texts).split(",") if text] for texts in (asked.uniform, asked.learned))
    points = [*(Point(bits) for bits in uniform), *(Point(bits, learned=True) for bits in learned)]
    found: dict[str, Found] = {}
    try:
        for point in points:
            before = kept(point, plan, asked.out)
            if before is not None:
                found[point.name] = before
    except ValueError as error:
        sys.exit(f"{error}; another --out begins anew")
    waiting = [point for point in points if point.name not in found]
    for number, point in enumerate(waiting):
        if point.learned and Point(point.bits).name not in found:
            sys.exit(f"{point.name} may cost what {Point(point.bits).name} does: add it to --uniform")
        allowed = found[Point(point.bits).name].share if point.learned else 1.0
        found[point.name] = make(point, plan, allowed, asked.out, _Progress(point.name, len(waiting) - number - 1), asked.test)
        report(list(found.values()), asked.out, plan)
    if not waiting:
        report(list(found.values()), asked.out, plan)


class _Progress:
    """Prints how far a point is, and how long it and the ``others`` behind it will take at the pace so far."""

    def __init__(self, name: str, others: int) -> None:
        self.name, self.others, self.began = name, others, time.monotonic()

    def __call__(self, step: int, steps: int, loss: float, told: str) -> None:
        pace = (time.monotonic() - self.began) / step
        left, after = ((pace * count) / 60 for count in (steps - step, steps * self.others))
        moment = time.strftime("%H:%M:%S")
        print(
            f"{moment} {self.name}: step {step} of {steps}, {left:.0f} min left and {after:.0f} min for other points, loss {loss:.3f} {told}",
            flush=True,
        )


if __name__ == "__main__":
    main()
