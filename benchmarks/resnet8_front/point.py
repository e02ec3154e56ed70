"""One point of a front: a network that is trained at uniform word lengths, or at learned ones within a budget, and judged."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from benchmarks.cifar import Batches, training_images
from benchmarks.ptq import accuracy
from benchmarks.qat_run import save
from benchmarks.resnet8_front.network import BOARD, Cost, allowed, cheapest, judged_images, network, recipe, scaled
from qfx.hardware.board import board
from qfx.hardware.cost.estimate import capacity
from qfx.hardware.cost.resources import FIELDS
from qfx.ir.interpret import run_raw
from qfx.nn.cost.hardware import HardwareCost, Line, movable
from qfx.ptq import Budget, fold_batch_norm, search, sensitivity
from qfx.verify import compare, raw_of

EXAMPLE, COMPARED = 256, 200
"""Images that binary points start from, and on which PyTorch and the integer interpreter are compared bit by bit."""


_MARGIN = 0.985
_CHEAP, _CHEAP_BITS = 0.01, 8


@dataclass(frozen=True)
class Plan:
    """All that the points of one run share. ``images`` for training, None: all 50,000. Adam; rates (``rate`` of weights, ``point_rate`` of binary
    points, ``length_rate`` of those and of word lengths where these are learned) rise for ``warm_up`` steps and fall to nothing along a cosine.
    ``points_until``, ``statistics_until``: the shares of all steps after which binary points and word lengths, and the statistics of BatchNorm, stay.
    ``taught``: the share of the loss that compares with the float network's result, softened by ``temperature``; the rest is cross-entropy."""

    fps: float = 8000
    epochs: float = 1.0
    images: int | None = None
    batch: int = 128
    seed: int = 0
    rate: float = 1e-3
    point_rate: float = 5e-3
    length_rate: float = 1e-2
    warm_up: int = 20
    points_until: float = 0.6
    statistics_until: float = 0.9
    taught: float = 0.7
    temperature: float = 4.0
    headroom: int = 0
    """Learned words start so many bits longer than those of the uniform point at whose cost they are learned, and those that cost next to nothing
    with 8 bits."""
    weight_losses: float = 0.1
    """What losses by casts of weights count, in the search for words: training takes most of them back."""


Kind = Literal["uniform", "learned", "searched"]
"""Where a point's word lengths come from: one for all, training under a budget, or a search before it (``qfx.ptq.search``)."""

_OWN: Mapping[str, Kind] = {"length_rate": "learned", "headroom": "learned", "weight_losses": "searched"}
"""What points of one kind alone follow from."""

_SEARCHED = (2, 3, 4, 5, 6, 8)
"""The word lengths that a search chooses among."""


@dataclass(frozen=True)
class Point:
    """``bits``: of all words of a uniform point, else of the uniform point whose cost may not be exceeded."""

    bits: int
    kind: Kind = "uniform"

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.bits}"

    def follows(self, plan: Plan) -> dict[str, Any]:
        """From what of the plan."""
        return {name: value for name, value in asdict(plan).items() if _OWN.get(name, self.kind) == self.kind}


@dataclass(frozen=True)
class Found:
    """What came of a point. ``allowed``: the share of the board that it might take, 1 without a budget. ``lengths``: bits of the longest word of each
    weight and activation."""

    name: str
    kind: Kind
    lut: int
    dsp: int
    bram18: int
    share: float
    allowed: float
    accuracy: float
    images: int
    differing_bits: int
    steps: int
    seconds: float
    lengths: dict[str, int]


def learning(plan: Plan) -> Batches:
    return Batches(training_images(plan.images), plan.batch, plan.seed, scaled)


def train(qmodel: nn.Module, plan: Plan, batches: Batches, budget: qfx.Budget | None, told: Callable[[int, int, float, str], None]) -> None:
    """To the plan's end, in place. With a budget, word lengths are learned until ``points_until``, are brought within it then, and stay.
    ``told`` gets the steps that are done, of how many, and the mean loss since it was told before, every 20 steps."""
    steps = round(plan.epochs * batches.steps_per_epoch)
    distillation = qfx.Distillation(fold_batch_norm(network(), batches.batch(0)[0][:4]), temperature=plan.temperature)
    groups = qfx.parameter_groups(qmodel, lr=plan.rate, binary_point_lr=plan.point_rate if budget is None else plan.length_rate)
    rates = [group["lr"] for group in groups]
    optimizer = torch.optim.Adam(groups)
    rested, losses = False, []
    for step in range(steps):
        qmodel.train()
        rests = step >= plan.points_until * steps
        if rests and not rested and budget is not None:
            budget.meet(qmodel)
        rested = rests
        qfx.freeze(qmodel, binary_points=rests, statistics=step >= plan.statistics_until * steps)
        share = min((step + 1) / plan.warm_up, 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * share
        x, labels = batches.batch(step)
        result = qmodel(x)
        loss = (1 - plan.taught) * F.cross_entropy(result, labels) + plan.taught * distillation(x, result)
        losses.append(float(loss.detach()))
        if budget is not None and not rests:
            loss = loss + budget.loss(qmodel)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if budget is not None and not rests:
            level(qmodel)
        if (step + 1) % 20 == 0 or step + 1 == steps:
            told(step + 1, steps, sum(losses) / len(losses), "" if budget is None else f"budget: {budget.status}")
            losses.clear()
    qmodel.eval()


def level(qmodel: nn.Module) -> None:
    """Give the channels of each weight one word length, the mean of theirs, in place: a word is as wide as the widest, so that shorter ones would
    lose accuracy and save nothing."""
    with torch.no_grad():
        for _, quantizer in qfx.quantizers(qmodel):
            integer = quantizer.learned_ints
            if integer is not None and quantizer.frac_bits.numel() > 1:
                quantizer.frac_bits.copy_((integer + quantizer.frac_bits).mean() - integer)


def differing_bits(qmodel: nn.Module, x: Tensor) -> int:
    """Raw bits in which PyTorch differs from the integer interpreter, over all results."""
    graph = qfx.to_graph(qmodel, "resnet8")
    with torch.no_grad():
        emulated = raw_of(qmodel(x).numpy(), graph, "PyTorch")
    return compare(graph, run_raw(graph, x.numpy()), emulated, "PyTorch").differing_bits


def lengths(qmodel: nn.Module) -> dict[str, int]:
    """Bits of the longest word of each weight and activation, by the quantizer's name."""
    return {
        name: int(quantizer.bits().detach().max()) for name, quantizer in qfx.quantizers(qmodel) if quantizer.spec.learn_width or "weight" in name
    }


def start(point: Point, plan: Plan, batches: Batches, most: float) -> nn.Module:
    """The network as it is before training, that may take ``most`` of the board if its words are learned or searched."""
    torch.manual_seed(plan.seed)
    example = torch.cat([batches.batch(step)[0] for step in range(math.ceil(EXAMPLE / plan.batch))])
    if point.kind == "searched":
        return qfx.quantize(network(), example, searched(point, plan, example, most))
    learned = point.kind == "learned"
    qmodel = qfx.quantize(network(), example, recipe(point.bits + plan.headroom * learned, learned))
    if learned:
        lengthen_cheap(qmodel, plan.fps)
    return qmodel


def searched(point: Point, plan: Plan, example: Tensor, most: float) -> qfx.Recipe:
    """The words that lose least by the curvature of the loss and take no more than ``most`` of the board."""
    whole, plain = board(BOARD), recipe(point.bits, False)
    table = sensitivity(qfx.quantize(network(), example, plain).eval(), example, widths=_SEARCHED, measure="fisher")
    budget = Budget(board=BOARD, fps=plan.fps, lut=int(_MARGIN * most * whole.lut), dsp=max(int(_MARGIN * most * whole.dsp), 1))
    return search(network(), example, table.counted("weight", plan.weight_losses), budget, recipe=plain).recipe


def lengthen_cheap(qmodel: nn.Module, fps: float) -> None:
    """Give the words of a quantizer 8 bits where all the bits that are added take less than ``_CHEAP`` of the design's LUTs and of its DSP blocks,
    by the slopes of the design that is there. In place."""
    whole = capacity(board(BOARD))
    cost = cheapest(qmodel, fps).share
    line = HardwareCost(qmodel, BOARD, fps=fps, allowed=allowed(cost)).measure().line
    assert isinstance(line, Line)
    with torch.no_grad():
        for quantizer, slope in line.slopes:
            added = _CHEAP_BITS - float(quantizer.bits().max())
            share = max(added * slope[FIELDS.index(name)] / (cost * getattr(whole, name)) for name in ("lut", "dsp"))
            if added > 0 and share < _CHEAP:
                movable(quantizer).add_(added)


def budget_of(plan: Plan, most: float) -> qfx.Budget:
    """Equal shares of the board's LUTs and DSP blocks, a little less than is allowed: weights that are trained on come to need other adders."""
    whole = board(BOARD)
    return qfx.Budget(board=BOARD, fps=plan.fps, lut=int(_MARGIN * most * whole.lut), dsp=max(int(_MARGIN * most * whole.dsp), 1))


def make(point: Point, plan: Plan, most: float, folder: Path, told: Callable[[int, int, float, str], None], judged: int | None) -> Found:
    """Train and judge; the state and what was found lie in ``folder`` then."""
    began = time.monotonic()
    batches = learning(plan)
    qmodel = start(point, plan, batches, most)
    train(qmodel, plan, batches, budget_of(plan, most) if point.kind == "learned" else None, told)
    x, labels = judged_images(judged)
    cost: Cost = cheapest(qmodel, plan.fps)
    found = Found(
        name=point.name,
        kind=point.kind,
        lut=cost.lut,
        dsp=cost.dsp,
        bram18=cost.bram18,
        share=cost.share,
        allowed=most,
        accuracy=accuracy(qmodel, x, labels),
        images=len(labels),
        differing_bits=differing_bits(qmodel, x[:COMPARED]),
        steps=round(plan.epochs * batches.steps_per_epoch),
        seconds=round(time.monotonic() - began),
        lengths=lengths(qmodel),
    )
    folder.mkdir(parents=True, exist_ok=True)
    save({"model": qmodel.state_dict(), "plan": point.follows(plan)}, folder / f"{point.name}.pt")
    (folder / f"{point.name}.json").write_text(json.dumps({"plan": point.follows(plan), "found": asdict(found)}, indent=1) + "\n", encoding="utf-8")
    return found


def kept(point: Point, plan: Plan, folder: Path) -> Found | None:
    """What was found before. Raises ValueError if it is of another plan."""
    path = folder / f"{point.name}.json"
    if not path.is_file():
        return None
    held = json.loads(path.read_text(encoding="utf-8"))
    theirs, ours = held["plan"], point.follows(plan)
    if theirs != ours:
        changes = ", ".join(f"{name} {theirs.get(name)} there, {value} here" for name, value in ours.items() if theirs.get(name) != value)
        raise ValueError(f"{path} is of another run: {changes}")
    return Found(**held["found"])
