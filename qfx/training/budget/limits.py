"""What a model may take, as data, and how far from it a model is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import get_args

from qfx.errors import RecipeError
from qfx.hardware.board import Board, board, check_clock
from qfx.hardware.cost.estimate import LIMITS, capacity
from qfx.hardware.cost.resources import FIELDS
from qfx.nn.cost.hardware import Style
from qfx.spec import changes_of

_AMPLE = 4096
"""A board so many times as large holds every model unrolled that is to become small enough."""

_NUMBERS = ("ebops", "weight_bits", "mean_weight_bits", "fps", "clock_ns", *FIELDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """One of: ``ebops``, bit operations of a sample; ``weight_bits`` of all weights; ``mean_weight_bits`` of a weight; a ``board``.

    A board's limits are ``lut``, ``ff``, ``dsp``, ``bram18`` and ``uram``: a float is a share of what the board has (0.8), an int a number (200);
    what is not given is what ``qfx hls`` goes up to. ``fps``: frames a second that the design makes at ``clock_ns`` (default: the board's); without,
    the smallest design there is. ``style`` "unrolled": the whole network as one pipelined function. Raises RecipeError for what makes no sense.
    """

    ebops: float | None = None
    weight_bits: float | None = None
    mean_weight_bits: float | None = None
    board: str | None = None
    fps: float | None = None
    clock_ns: float | None = None
    lut: float | int | None = None
    ff: float | int | None = None
    dsp: float | int | None = None
    bram18: float | int | None = None
    uram: float | int | None = None
    style: Style = "streaming"

    def __repr__(self) -> str:
        return changes_of(self)

    def __post_init__(self) -> None:
        kinds = {name: getattr(self, name) for name in ("ebops", "weight_bits", "mean_weight_bits", "board")}
        given = [name for name, value in kinds.items() if value is not None]
        if len(given) != 1:
            told = f"{' and '.join(given)} are given" if given else "nothing is given"
            raise RecipeError(f"{told}", where="budget", remedy="give one of ebops, weight_bits, mean_weight_bits or board")
        if self.board is None and any(getattr(self, name) is not None for name in ("fps", "clock_ns", *FIELDS)):
            raise RecipeError("hardware without a board", where="budget", remedy="give board='ultra96v2' or another")
        for name in _NUMBERS:
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            least = 0.0 if name in FIELDS else math.ulp(0.0)  # a design may be asked to have no DSP block
            if value is not None and not (number and least <= value < math.inf):
                raise RecipeError(f"{name} is {value!r}", where="budget", remedy="give a number above 0")
            if isinstance(value, float) and name in FIELDS and value > 1:
                raise RecipeError(f"{name} is {value!r}", where="budget", remedy="give a share of at most 1.0, or a whole number of them")
        if self.style not in get_args(Style):
            raise RecipeError(f"style is {self.style!r}", where="budget", remedy=f"use one of {', '.join(get_args(Style))}")
        if self.style == "unrolled" and (self.board is None or self.fps is not None):
            raise RecipeError(
                "an unrolled design is for a board, and takes a frame every few cycles", where="budget", remedy="give board, and no fps"
            )
        if self.board is not None:
            whole = board(self.board)
            check_clock(whole.clock_ns if self.clock_ns is None else self.clock_ns, whole)

    def amounts(self) -> dict[str, float]:
        """How much of each resource of the board a design may take."""
        there = capacity(self.whole)
        found = {}
        for field in FIELDS:
            wished, has = getattr(self, field), getattr(there, field)
            most = has * LIMITS[field]
            found[field] = most if wished is None else min(most, wished * has if isinstance(wished, float) else float(wished))
        return found

    @property
    def whole(self) -> Board:
        assert self.board is not None
        return board(self.board)

    def ample(self) -> Board:
        """The board with so much of everything that a model is designed before it fits."""
        return replace(self.whole, **{field: getattr(self.whole, field) * _AMPLE for field in ("lut", "ff", "dsp", "bram36", "uram")})

    def told(self, shares: Mapping[str, float]) -> str:
        """Shares of the limits, for people."""
        return ", ".join(f"{100 * share:.1f} % of the {name}" for name, share in shares.items())
