"""``python -m benchmarks.resnet8_front``: ResNet-8 on CIFAR-10, accuracy against cost on the Ultra96-V2, by where word lengths come from.

They are one for all, searched before training, or learned. Cost: the larger of the shares of the board's LUTs and DSP blocks that the cheapest design
takes which makes ``--fps`` frames a second. Each searched and each learned point may cost as much as one of the uniform points. All start from the
published float weights (87.19 %), are trained for the same number of steps on the same images in the same order, and are judged on all 10,000 test
images. Everything is fixed point, the first and the last layer, BatchNorms and shortcuts too. Data from ``../shared/data`` (or ``$QFX_DATA``).

A run can be stopped anywhere: finished points lie in ``--out`` and are passed over, so the same command goes on with the others.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import torch

from benchmarks.ptq import DATA
from benchmarks.resnet8_front.network import CHECKPOINT
from benchmarks.resnet8_front.point import Found, Kind, Plan, Point, kept, make
from benchmarks.timing import machine
from qfx.training.budget.plot import plot_fronts

UNIFORM, OTHERS = "4,8,2,3,6,5", "4,6,3,5"


def table(found: Sequence[Found]) -> list[str]:
    """A row for each point, by cost."""
    lines = ["| words | LUT | DSP | share of the board, % | top-1, % | differing bits |", "|---|---|---|---|---|---|"]
    for point in sorted(found, key=lambda one: (list(_KINDS).index(one.kind), one.share)):
        words = f"{point.name.removeprefix('uniform-')} bits" if point.kind == "uniform" else f"{point.kind}, at most {100 * point.allowed:.1f} %"
        lines.append(f"| {words} | {point.lut:,} | {point.dsp} | {100 * point.share:.1f} | {point.accuracy:.2f} | {point.differing_bits} |")
    return lines


def compare(found: Sequence[Found]) -> list[str]:
    """Searched and learned less uniform, at the cost of each uniform point."""
    lines = []
    for point in sorted((one for one in found if one.kind == "uniform"), key=lambda one: one.share):
        told = []
        for kind in ("searched", "learned"):
            ours = [one.accuracy for one in found if one.kind == kind and one.share <= point.share]
            told.append(f"{kind} {max(ours) - point.accuracy:+.2f}" if ours else f"no {kind} point is as cheap")
        lines.append(f"at {100 * point.share:.1f} % of the board ({point.name}): {', '.join(told)}")
    return lines


def report(found: Sequence[Found], folder: Path, plan: Plan) -> None:
    """Table and plot of what there is."""
    steps = f"{found[0].steps} steps of {plan.batch}, seed {plan.seed}; Ultra96-V2, {plan.fps:g} frames a second; {found[0].images} test images"
    lines = [steps, "", *table(found), "", *compare(found)]
    (folder / "front.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines), flush=True)
    if importlib.util.find_spec("matplotlib"):
        drawn = {name: [(100 * one.share, one.accuracy) for one in found if one.kind == kind] for kind, name in _KINDS.items() if _any(found, kind)}
        cost = f"ResNet-8 on the Ultra96-V2 at {plan.fps:g} frames/s: larger share of LUT, DSP, %"
        plot_fronts(drawn, folder / "front.png", cost=cost, score="CIFAR-10 top-1, %", force=True)


_KINDS: Mapping[Kind, str] = {
    "uniform": "uniform word lengths",
    "searched": "searched word lengths, then trained",
    "learned": "learned word lengths",
}
"""In the order of tables."""


def _any(found: Sequence[Found], kind: Kind) -> bool:
    return any(one.kind == kind for one in found)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resnet8_front", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--uniform", default=UNIFORM, help=f"bits of the uniform points, in this order (default: {UNIFORM})")
    for others in ("searched", "learned"):
        told = f"the uniform points at whose cost words are {others} (default: {OTHERS}); '' for none"
        parser.add_argument(f"--{others}", default=OTHERS, help=told)
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
    points = [Point(int(text), kind) for kind in _KINDS for text in str(getattr(asked, kind)).split(",") if text]
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
        if point.kind != "uniform" and Point(point.bits).name not in found:
            sys.exit(f"{point.name} may cost what {Point(point.bits).name} does: add it to --uniform")
        allowed = 1.0 if point.kind == "uniform" else found[Point(point.bits).name].share
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
