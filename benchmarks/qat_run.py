"""A training run of a network in fixed point that can be interrupted anywhere: what it is, where it stands, and its steps."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qfx
from benchmarks.cifar import Batches

MOMENTUM = 0.9
RATES = {"adam": 1e-3, "sgd": 0.02}
"""Of weights, at the start."""


@dataclass(frozen=True)
class Plan:
    """All that a run's result depends on, beside the network that it starts from and the images.

    ``stream``, ``ends``: word lengths of their own, for ``benchmarks.qat.recipe``. ``balanced``: whether the float weights are scaled to fit their
    grids first (``benchmarks.qat.balance``). ``goes_on``: whether binary points stay where the network has them that it starts from.
    ``rough_teacher``: whether the teacher computes in bfloat16.
    ``rate``: of weights, at the start; it falls to nothing along a cosine after ``warm_up`` steps, and so does ``point_rate``, of binary points.
    ``settles``: whether binary points that flip come to rest (``qfx.Settling``). ``points_until``, ``statistics_until``: the shares of all
    steps after which the binary points, and the statistics of BatchNorm, stay.
    ``taught``: the share of the loss that compares with the float network's result, softened by ``temperature``; the rest is cross-entropy.
    """

    bits: int
    epochs: int
    stream: int = 0
    ends: int = 0
    balanced: bool = False
    goes_on: bool = False
    rough_teacher: bool = False
    seed: int = 0
    batch: int = 128
    optimizer: str = "adam"
    rate: float = RATES["adam"]
    point_rate: float = 2e-3
    weight_decay: float = 0.0
    warm_up: int = 200
    settles: bool = True
    points_until: float = 0.5
    statistics_until: float = 0.9
    taught: float = 0.0
    temperature: float = 4.0
    channels_last: bool = False
    """How numbers lie in memory: the forward's are the same, sums of gradients have another order."""


class Rough(nn.Module):
    """A float network that computes in bfloat16, where a processor is faster in that."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.model(x).float()  # type: ignore[no-any-return]


class Run:
    """A network that is being trained. ``step`` is how many steps are behind it."""

    def __init__(self, plan: Plan, qmodel: nn.Module, batches: Batches, teacher: nn.Module | None) -> None:
        self.plan, self.batches = plan, batches
        self._format = torch.channels_last if plan.channels_last else torch.contiguous_format
        self.qmodel: nn.Module = qmodel.to(memory_format=self._format)  # type: ignore[call-overload]
        self.distillation = None if teacher is None else qfx.Distillation(teacher, temperature=plan.temperature)
        self.step = 0
        self.losses: list[float] = []
        """The mean of each epoch that is over."""
        self._sum = 0.0
        self._settling = qfx.Settling(qmodel) if plan.settles else None
        groups = qfx.parameter_groups(qmodel, lr=plan.rate, binary_point_lr=plan.point_rate, weight_decay=plan.weight_decay)
        self._rates = [group["lr"] for group in groups]
        if plan.optimizer == "adam":
            self._optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99))
        else:
            self._optimizer = torch.optim.SGD(groups, momentum=MOMENTUM, nesterov=True)

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.plan.epochs * self.batches.steps_per_epoch

    def share(self, step: int) -> float:
        """How much of the learning rates counts in a step."""
        if step < self.plan.warm_up:
            return (step + 1) / self.plan.warm_up
        return 0.5 * (1 + math.cos(math.pi * (step - self.plan.warm_up) / max(self.steps - self.plan.warm_up, 1)))

    def advance(self) -> None:
        """One step."""
        plan = self.plan
        self.qmodel.train()
        points, statistics = (self.step >= until * self.steps for until in (plan.points_until, plan.statistics_until))
        qfx.freeze(self.qmodel, binary_points=points, statistics=statistics)
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * self.share(self.step)
        x, labels = self.batches.batch(self.step)
        x = x.contiguous(memory_format=self._format)
        result = self.qmodel(x)
        loss = F.cross_entropy(result, labels)
        if self.distillation is not None:
            loss = (1 - plan.taught) * loss + plan.taught * self.distillation(x, result)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        if self._settling is not None and not points:
            self._settling.step()
        self._sum += float(loss.detach())
        self.step += 1
        if self.step % self.batches.steps_per_epoch == 0:
            self.losses.append(self._sum / self.batches.steps_per_epoch)
            self._sum = 0.0

    def state(self) -> dict[str, Any]:
        """All that going on takes: tensors, numbers and texts."""
        return {
            "plan": asdict(self.plan),
            "images": len(self.batches.images),
            "step": self.step,
            "losses": self.losses,
            "sum": self._sum,
            "model": self.qmodel.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "settling": {} if self._settling is None else self._settling.state_dict(),
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Be where a run of the same plan was when it gave ``state``. Raises ValueError for one of another plan."""
        before = {"channels_last": Plan.channels_last}  # of checkpoints that do not know it yet
        theirs, ours = {**before, **state["plan"], "images": state["images"]}, {**asdict(self.plan), "images": len(self.batches.images)}
        if theirs != ours:
            changes = ", ".join(f"{name} {theirs.get(name)} there, {value} here" for name, value in ours.items() if theirs.get(name) != value)
            raise ValueError(f"the checkpoint is of another run: {changes}")
        self.qmodel.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._settling is not None:
            self._settling.load_state_dict(state["settling"])
        self.step, self.losses, self._sum = state["step"], list(state["losses"]), state["sum"]


def save(state: dict[str, Any], path: Path) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".new")
    torch.save(state, beside)
    os.replace(beside, path)


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True, map_location="cpu")  # type: ignore[no-any-return]


def follow(run: Run, path: Path, *, every: int, told: Callable[[str], None], judge: Callable[[], str], until: int | None = None) -> None:
    """Take the run to its end, or ``until`` a step, with a checkpoint in ``path`` every so many steps; says how far it is, and what the network's
    ``judge`` says after each epoch."""
    began, first = time.monotonic(), run.step
    end = run.steps if until is None else min(until, run.steps)
    while run.step < end:
        run.advance()
        over = run.step % run.batches.steps_per_epoch == 0
        if run.step % every == 0 or over or run.step == end:
            save(run.state(), path)
        if run.step % every == 0 or over:
            left = (time.monotonic() - began) / (run.step - first) * (run.steps - run.step)
            found = f", loss {run.losses[-1]:.4f}, {judge()}" if over else ""
            told(f"{run.plan.bits} bits: step {run.step} of {run.steps}, {_duration(left)} left{found}")


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def parameters_of(state: dict[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """The float network's part of a quantized network's state."""
    return {name: state[name] for name in names}
