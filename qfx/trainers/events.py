"""What happens to a quantized model in the course of a training, and when: plain frozen data, applied by ``Course``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from qfx.errors import QfxError


@dataclass(frozen=True, kw_only=True, repr=False)
class Event:
    """Something that happens once, behind ``step`` steps of the optimizer, ``epoch`` epochs or the ``share`` of all steps: one of the three is given.
    0 is before the first step, ``share=1`` behind the last one.

    Raises QfxError for none of them or several, and for negative ones and shares above 1.
    """

    step: int | None = None
    epoch: float | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        given = {name: value for name in ("step", "epoch", "share") if (value := getattr(self, name)) is not None}
        if len(given) != 1:
            told = " and ".join(given) or "no moment"
            raise QfxError(f"is given {told}", where=type(self).__name__, remedy="give one of step=100, epoch=3 and share=0.5")
        ((name, value),) = given.items()
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf or (name == "share" and value > 1):
            raise QfxError(f"{name} is {value!r}", where=type(self).__name__, remedy="give a number from 0 on, a share of at most 1")

    def due(self, step: int, epoch: float, steps: int | None) -> bool:
        """Whether it is time, behind so many steps (of ``steps`` in all) and epochs."""
        if self.epoch is not None:
            return epoch >= self.epoch
        return step >= moment(self, self.step, self.share, steps)

    def __repr__(self) -> str:
        """The fields that are not at their defaults: how a checkpoint tells what has happened."""
        told = [f"{f.name}={value!r}" for f in fields(self) if (value := getattr(self, f.name)) != f.default]
        return f"{type(self).__name__}({', '.join(sorted(told))})"


@dataclass(frozen=True, repr=False)
class Freeze(Event):
    """``qfx.freeze`` with these arguments."""

    pattern: str = "*"
    binary_points: bool = True
    statistics: bool = True
    on: bool = True


@dataclass(frozen=True, repr=False)
class Switch(Event):
    """``qfx.switch`` with these arguments: gradual quantization."""

    pattern: str = "*"
    on: bool = True


@dataclass(frozen=True, repr=False)
class Anneal(Event):
    """From its moment on the steps that an optimizer gives binary points (and learned word lengths) count less and less, along half a cosine, down to
    ``last`` of what they are at ``to_step`` or ``to_share``, and stay there. It scales what has moved behind each step, so any optimizer and
    schedule of learning rates will do. ``pattern``: which quantizers, as in ``qfx.Override``. The moment is a step or a share; raises QfxError for
    an epoch."""

    pattern: str = "*"
    to_step: int | None = None
    to_share: float | None = None
    last: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        start, end = (self.step, self.to_step) if self.step is not None else (self.share, self.to_share)
        if self.epoch is not None or start is None or end is None or end <= start or (self.to_step is not None and self.to_share is not None):
            raise QfxError("has no beginning and end", where="Anneal", remedy="give share=0.3 and to_share=0.6, or step=100 and to_step=200")
        if not 0 <= self.last <= 1:
            raise QfxError(f"last is {self.last!r}", where="Anneal", remedy="give a number from 0 to 1")

    def factor(self, step: int, steps: int | None) -> float:
        """What a step counts that is the one behind ``step`` others."""
        start, end = moment(self, self.step, self.share, steps), moment(self, self.to_step, self.to_share, steps)
        along = min(max((step - start) / max(end - start, 1e-12), 0.0), 1.0)
        return self.last + (1 - self.last) * (1 + math.cos(math.pi * along)) / 2


@dataclass(frozen=True, repr=False)
class Limit(Event):
    """``budget.limit`` with these limits: ``Limit({"ebops": 2000}, share=0.5)``."""

    limits: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, repr=False)
class Meet(Event):
    """``budget.meet``: words are shortened by the little that is left, or lengthened where there is room."""


def moment(event: Event, step: int | None, share: float | None, steps: int | None) -> float:
    """A step or a share of all steps in steps. Raises QfxError for a share of a training whose length is not known."""
    if step is not None:
        return step
    if steps is None:
        raise QfxError("is a share of a training whose number of steps is not known", where=str(event), remedy="give step= or epoch=")
    assert share is not None  # Event has checked it
    return share * steps
