"""Rounding to whole numbers: nearest with ties to even, down, up, and towards zero."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch

from qfx import operators as ops
from qfx.errors import QfxError
from qfx.fixed.arith import Bounds
from qfx.fixed.reference import round_raw
from qfx.fixed.type import FixedType, OMode, QMode
from qfx.ir.casting import cast_interval
from qfx.nn.call import Call, Family, Layers
from qfx.nn.clipped import Clipped
from qfx.nn.fixed_layer import FixedLayer, Steps, Traits
from qfx.nn.layers.arithmetic import QSub
from qfx.nn.layers.elementwise.expression import Expression, Term
from qfx.nn.qtensor import QTensor, check_float64

_TORCH: dict[QMode, Callable[[torch.Tensor], torch.Tensor]] = {QMode.RND_CONV: torch.round, QMode.TRN: torch.floor, QMode.TRN_ZERO: torch.trunc}


class QWhole(FixedLayer):
    """The whole number of x by a rounding mode of ``ap_fixed``: a Cast without fractional bits, of a word that holds all that comes, so that nothing
    overflows. ``negated``: of -x, and the result negated again: down becomes up. The gradient is 0, as torch has it."""

    mode: QMode
    negated: bool

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=True, reads_uncast=True, ends_chain=True)

    def __init__(self, mode: QMode, *, negated: bool = False) -> None:
        super().__init__()
        self.mode, self.negated = mode, negated
        self._type: FixedType | None = None

    def forward(self, x: QTensor) -> QTensor:
        bounds = -x.interval if self.negated else x.interval
        self._type = _word(bounds, self.mode)
        whole = cast_interval(bounds, ops.ArrayType.of(self._type), tuple(x.shape[1:]))
        value = x.tensor()
        result = -_TORCH[self.mode](-value) if self.negated else _TORCH[self.mode](value)
        return QTensor(result, check_float64(-whole if self.negated else whole, self.name))

    def operators(self) -> Steps:
        """That of the type that the last forward met."""
        if self._type is None:
            raise QfxError("has no type yet", where=self.name, remedy="run the model once")
        cast = ops.Cast(ops.ArrayType.of(self._type))
        if not self.negated:
            return [("", cast)]
        minus = ops.Affine(ops.Const.of(-1.0), None)
        return [(".turned", minus), (".whole", cast), ("", minus)]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        """Rounding spreads numbers evenly within a step: a twelfth more variance, and half a step down or up."""
        x = sources[0]
        moved = 0.0 if self.mode is not QMode.TRN else 0.5 if self.negated else -0.5
        function = torch.ceil if self.negated else _TORCH[self.mode]
        low, high = (torch.where(torch.isfinite(bound), function(bound), bound) for bound in (x.low, x.high))
        return replace(x, mean=x.mean + moved, std=(x.std.square() + 1 / 12).sqrt(), low=low, high=high)

    def scales_channels(self, channels: int) -> bool:
        return False


def _word(bounds: Bounds, mode: QMode) -> FixedType:
    """The shortest type of whole numbers that holds what these numbers become; on their own grid where that is coarser."""
    hull = bounds.hull
    grid = min(0, hull.frac_bits)
    lo, hi = (round_raw(end, 1 << hull.frac_bits - grid, mode) for end in (hull.lo, hull.hi))
    width = max(max(hi, -lo - 1).bit_length() + (lo < 0), 1)
    return FixedType(width, width - grid, lo < 0, mode, OMode.SAT)


def _to(mode: QMode, *, negated: bool = False) -> Callable[[Call], Layers]:
    def rule(call: Call) -> Layers:
        return [QWhole(mode, negated=negated)]

    return rule


def _round(call: Call) -> Layers:
    decimals = call.get("decimals", 0)
    if decimals:
        raise call.refuse(f"round to {decimals} decimals", "round to whole numbers: x.mul(10).round() / 10 says the same of one decimal")
    return [QWhole(QMode.RND_CONV)]


def _frac(call: Call) -> Layers:
    """x - trunc(x), exact; the gradient is 1."""
    e = Expression(call)
    x = e["input"]
    if not isinstance(x, Term):
        raise call.refuse("frac of a constant", "compute it in the constructor, and keep it in a buffer")
    return e.parts(e.pair(x, e.layer(lambda: QWhole(QMode.TRN_ZERO), x, suffix="_whole"), QSub, "_difference"))


_ENTRIES: dict[str, tuple[str, Any]] = {
    "round": ("input decimals", _round),
    "floor": ("input", _to(QMode.TRN)),
    "ceil": ("input", _to(QMode.TRN, negated=True)),
    "trunc": ("input", _to(QMode.TRN_ZERO)),
    "frac": ("input", _frac),
}

FAMILY = Family(
    layers=(QWhole, QSub),
    functions={
        getattr(torch, f"{name}{changing}"): entry
        for name, entry in _ENTRIES.items()
        for changing in ("", "_")
        if hasattr(torch, f"{name}{changing}")
    },
    methods={f"{name}{changing}": entry for name, entry in _ENTRIES.items() for changing in ("", "_")},
    elementwise=True,
)
