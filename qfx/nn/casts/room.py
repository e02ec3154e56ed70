"""Room for constants that training moves: biases, and BatchNorm's scales and shifts, which follow its statistics.

Calibration puts the binary point of such a constant where its word just holds it. A shift that was small then, in a channel of its own, has a range
as small, and would stay in it: what a cast cuts off has no gradient, and a learned binary point takes hundreds of steps to move by one position. In
words as long as these, a bit of resolution is worth next to nothing, and what is cut off of a constant much. So where one has outgrown its range, the
binary point moves to where it is held.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from qfx.fixed.type import OMode
from qfx.nn.casts import near, quick, told
from qfx.nn.observer import choose_frac_bits
from qfx.nn.quantizer import LONG_WORD, Quantizer

_OUTGROWN = 1 + 2.0**-8
"""Times the range: calibration by squared error cuts off a little less than that, which stays as it is."""


def may_make_room(cast: Quantizer) -> bool:
    """Whether ``make_room`` would ever move its binary points."""
    spec = cast.spec
    short = spec.width < LONG_WORD or spec.o not in (OMode.SAT, OMode.SAT_SYM) or spec.learn_width or spec.frac_bits is not None
    return cast.makes_room and not short


def limit(cast: Quantizer) -> float:
    """What no number of a constant may be beyond, times two to its binary point, or ``make_room`` would move that; infinity: it never would."""
    return 2.0 ** (cast.spec.width - int(cast.mode.signed)) * _OUTGROWN if may_make_room(cast) else math.inf


def make_room(cast: nn.Module, constant: Tensor) -> None:
    """Move the binary points of ``cast`` to the left, in place, as far as it takes to hold ``constant``, if that has outgrown its range.

    What is not long (``LONG_WORD`` bits), wraps, has its word length learned or its position given by the spec stays, and so does the type of an
    imported constant (``Quantizer.makes_room``). It follows from the constant
    and the binary points alone, so that a forward in training, in evaluation and inside a backward pass do the same. The tensors are exchanged, not
    written into: a backward pass that is still to come finds what its forward saw.
    """
    if not isinstance(cast, Quantizer):
        return  # a loop's values stand open while it is calibrated
    if cast.off or not cast.is_initialized or not may_make_room(cast):
        return
    spec, most = cast.spec, limit(cast)
    told_of = told.look(cast, "room")
    if told_of is not None and told_of.item() <= most:
        return
    if torch.is_grad_enabled() and quick.holds(cast, constant, most):
        return
    with torch.no_grad():
        points, numbers = cast.points(), constant.detach()
        if float(_greatest(points, numbers)) <= most:
            return
        told.forget(cast)
        needed = choose_frac_bits((numbers,), spec.width, cast.mode, tuple(points.shape), observer="minmax").to(points)
        held = needed < points
        cast.frac_bits.data = torch.where(held, needed, cast.frac_bits.detach())
        cast.frac_start.data = torch.where(held, torch.minimum(needed, cast.frac_start), cast.frac_start)


def question(cast: nn.Module, constant: Tensor) -> Iterable[told.Question]:
    """What ``make_room`` has to be told of a constant on a GPU."""
    if isinstance(cast, Quantizer) and not cast.off and cast.is_initialized and may_make_room(cast):
        with torch.no_grad():
            yield told.Question(cast, "room", _greatest(near.there(cast.frac_bits, cast.frac_start, cast.spec), constant.detach()), limit(cast))


def _greatest(points: Tensor, numbers: Tensor) -> Tensor:
    return (numbers.abs() * torch.exp2(points.to(numbers.dtype))).max()
