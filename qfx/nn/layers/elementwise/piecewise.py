"""Piecewise linear functions: rectifiers of any slope, comparisons with constants, choices between two values, signs and thresholds."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from qfx import operators as ops
from qfx.capture.apart.decompositions import FAR_BELOW
from qfx.fixed.arith import Interval, rectified
from qfx.nn.call import Call, Family, Layers
from qfx.nn.clipped import Clipped
from qfx.nn.fixed_layer import FixedLayer, Steps, Traits
from qfx.nn.layers.arithmetic import QAdd, QMul, QSub
from qfx.nn.layers.elementwise.constant import QAddConstant, QMulConstant, QScaleBy, WithConstant
from qfx.nn.layers.elementwise.expand import QExpand
from qfx.nn.layers.elementwise.expression import Expression, Operand, Term
from qfx.nn.layers.elementwise.held import Held, power_of_two, rounded
from qfx.nn.layers.elementwise.masks import QMask, QOffset
from qfx.nn.layers.relu import QLeakyReLU, QReLU
from qfx.nn.qtensor import QTensor, dtype_of
from qfx.operators.compare import Sign

_BIT = Interval(0, 1, 0)


class QPReLU(WithConstant):
    """x for x >= 0, else x times a slope that is cast, one or one per channel; exact. Gradients: those of torch.where(x < 0, x * slope, x)."""

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=False, reads_uncast=True, ends_chain=True)

    def initialize(self, x: QTensor) -> None:
        self.constant.initialize(None)

    def forward(self, x: QTensor) -> QTensor:
        slope: QTensor = self.constant()
        interval = rectified(x.interval, slope.interval)
        value = x.tensor()
        value = value.to(dtype_of(interval, value.dtype, where=self.name))
        factor = slope.value.reshape(-1, *(1,) * (value.dim() - 2)).to(value) if slope.value.dim() else slope.value.to(value)
        return QTensor(torch.where(value < 0, value * factor, value), interval)

    def operators(self) -> Steps:
        return [("", ops.PRelu(self.constant.const(f"{self.name}.constant")))]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        slope, _ = self.constant.moments()
        x = sources[0]
        (up, up_var), (down, down_var) = x.limited(0.0, torch.inf).moments(), x.limited(-torch.inf, 0.0).moments()
        slope = slope.to(up)
        variance = up_var + slope.square() * down_var - 2 * slope * up * down  # the two are never nonzero at once
        return Clipped.normal(up + slope * down, variance.clamp(min=0).sqrt())

    def scales_channels(self, channels: int) -> bool:
        return True

    def bits_added(self, recipe: Any) -> int:
        return int(recipe.constant.width)


class QCompare(FixedLayer):
    """1 where x compares with a number, else 0; exact, the number as it is given. No gradient."""

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=True, reads_uncast=False)

    def __init__(self, sign: Sign, bound: ops.Const) -> None:
        super().__init__()
        self.sign: Sign = sign
        self.bound: ops.Const = bound

    def forward(self, x: QTensor) -> QTensor:
        value = x.tensor().detach()
        return QTensor(_TORCH[self.sign](value, float(self.bound.values)).to(value.dtype), _BIT)

    def operators(self) -> Steps:
        return [("", ops.Compare(self.sign, self.bound))]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        x, bound = sources[0], float(self.bound.values)
        above = torch.special.ndtr((x.mean - bound) / x.std.clamp(min=1e-30))
        return bits(above if self.sign in (">", ">=") else 1 - above)

    def scales_channels(self, channels: int) -> bool:
        return False


class QNot(FixedLayer):
    """1 - x of what is 0 or 1."""

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=True, reads_uncast=False)

    def forward(self, x: QTensor) -> QTensor:
        return QTensor(1.0 - x.tensor(), _BIT)

    def operators(self) -> Steps:
        return [("", ops.Affine(ops.Const.of(-1.0), ops.Const.of(1.0)))]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        return bits(1 - sources[0].moments()[0])

    def scales_channels(self, channels: int) -> bool:
        return False


def bits(chance: torch.Tensor) -> Clipped:
    """What is 1 with a chance, else 0."""
    chance = chance.clamp(0, 1)
    return Clipped.normal(chance, (chance * (1 - chance)).sqrt())


_TORCH: dict[Sign, Callable[[torch.Tensor, float], torch.Tensor]] = {">": torch.gt, ">=": torch.ge, "<": torch.lt, "<=": torch.le}


def _with_slope(call: Call, slope: Held) -> Layers:
    number = slope.number
    if number == 1.0:
        return []
    if number == 0.0:
        return [QReLU()]
    power = None if number is None else power_of_two(number)
    if power is not None and power[0] > 0 and power[1] <= 0:
        return [QLeakyReLU(power[1])]
    return [QPReLU(slope, call.recipe, call.path, call.first)]


def _leaky_relu(call: Call) -> Layers:
    return _with_slope(call, Held(float(call.get("negative_slope", 0.01))))


def _rrelu(call: Call) -> Layers:
    """As in evaluation: the mean of the slopes."""
    if call.module is None and call.get("training", False):
        raise call.refuse("RReLU in training mode", "leave training off; its slope is then the mean of the two")
    return _with_slope(call, Held((float(call.get("lower", 1 / 8)) + float(call.get("upper", 1 / 3))) / 2))


def _prelu(call: Call) -> Layers:
    if isinstance(call.module, nn.PReLU):
        slope = Held(call.module.weight, f"{call.path if not call.first else call.first}.weight")
    else:
        found = Expression(call)["weight"]
        if isinstance(found, Term):
            raise call.refuse("PReLU whose slopes are computed from the input", "use torch.where, or products of relu(x) and relu(-x)")
        slope = found
    count = slope.now().numel()
    if count not in (1, call.in_shape[0]):
        raise call.refuse(f"PReLU with {count} slopes for {call.in_shape[0]} channels", "give one, or one for each channel")
    shape = (count, *(1,) * (len(call.in_shape) - 1)) if count > 1 else ()
    return [QPReLU(slope.shaped(shape), call.recipe, call.path, call.first)]


def _compare(sign: Sign) -> Callable[[Call], Layers]:
    mirrored: dict[Sign, Sign] = {">": "<", ">=": "<=", "<": ">", "<=": ">="}

    def rule(call: Call) -> Layers:
        e = Expression(call)
        a, b = e["input"], e["other"]
        if isinstance(a, Term) and isinstance(b, Term):
            difference = e.pair(a, b, QSub, "_difference")
            return e.parts(e.layer(lambda: QCompare(sign, ops.Const.of(0.0)), difference, suffix="_compared"))
        x, constant, way = (a, b, sign) if isinstance(a, Term) else (b, a, mirrored[sign])
        return e.parts(compared(e, x, constant, way))

    return rule


def compared(e: Expression, x: Operand, constant: Operand, sign: Sign) -> Term:
    """Whether a value compares with a constant: one fixed number, or others, by the sign of the difference, which is exact."""
    if not isinstance(x, Term) or not isinstance(constant, Held):
        raise e.call.refuse(f"{e.call.name} of constants", "compute it in the constructor, and keep it in a buffer")
    number = constant.number
    if number is None:
        offset = constant.within(e.call, len(x.shape))
        wide = e.expanded(x, tuple(max(pair) for pair in zip(x.shape, offset.shape, strict=True)))

        def difference(path: str, first: str) -> FixedLayer:
            return QOffset(offset, e.call.recipe, path, first, constant_sign=-1)

        moved = Term(wide.shape, make=difference, reads=(wide,), suffix="_difference")
        return e.layer(lambda: QCompare(sign, ops.Const.of(0.0)), moved, suffix="_compared")
    spec = e.call.recipe.spec(f"{e.call.path}.constant", "constant", f"{e.call.first or e.call.path}.constant")
    return e.layer(lambda: QCompare(sign, rounded(number, spec)), x, suffix="_compared")


def _where(call: Call) -> Layers:
    """condition * input + (1 - condition) * other, where the condition is 0 or 1."""
    e = Expression(call)
    condition = e["condition"]
    if isinstance(condition, Held):
        return e.parts(_by_mask(e, condition.now() != 0, e["input"], e["other"]))
    return e.parts(chosen(e, condition, e["input"], e["other"]))


def _masked_fill(call: Call) -> Layers:
    """The value where the mask holds. What hides scores from a softmax is written otherwise before it comes here."""
    value = call.arguments.get("value")
    if isinstance(value, int | float) and not value > FAR_BELOW:
        raise call.refuse(f"masked_fill by {value}, and not in front of a softmax alone", "fill with a number that the result has room for")
    e = Expression(call)
    mask = e["mask"]
    if isinstance(mask, Held):
        return e.parts(_by_mask(e, mask.now() != 0, e["value"], e["input"]))
    return e.parts(chosen(e, mask, e["value"], e["input"]))


def _by_mask(e: Expression, mask: torch.Tensor, a: Operand, b: Operand) -> Operand:
    """``a`` where a constant mask holds, else ``b``: nothing is computed of what is not taken."""
    if isinstance(a, Held) and isinstance(b, Held):
        raise e.call.refuse("where of constants", "compute it in the constructor, and keep it in a buffer")
    parts = [_masked(e, part, chosen_) for part, chosen_ in ((a, mask), (b, ~mask)) if not (isinstance(part, Held) and part.number == 0.0)]
    return parts[0] if len(parts) == 1 else e.sum(parts[0], parts[1], QJoined)


def _masked(e: Expression, part: Operand, mask: torch.Tensor) -> Operand:
    if isinstance(part, Held):
        return part.times(Held(mask.double()))
    rank = len(part.shape)
    held_mask = Held(mask.float()).within(e.call, rank)
    wide = e.expanded(part, tuple(max(pair) for pair in zip(part.shape, held_mask.shape, strict=True)))

    def make(path: str, first: str) -> FixedLayer:
        return QMask(mask.float().reshape(held_mask.shape), rank, e.call.recipe, path, first)

    return Term(wide.shape, make=make, reads=(wide,), suffix="_masked")


def chosen(e: Expression, condition: Term, a: Operand, b: Operand) -> Operand:
    """``a`` where the condition, which is 0 or 1, holds, else ``b``."""
    without = e.layer(QNot, condition, suffix="_not")
    first = None if isinstance(a, Held) and a.number == 0.0 else e.product(condition, a, QMul)
    second = None if isinstance(b, Held) and b.number == 0.0 else e.product(without, b, QMul)
    if first is None or second is None:
        return second if first is None and second is not None else first if first is not None else e.product(condition, Held(0.0), QMul)
    return e.sum(first, second, QAdd)


def _threshold(call: Call) -> Layers:
    """x where it is greater than the threshold, else the value."""
    limit, value = float(call.get("threshold", 0.0)), float(call.get("value", 0.0))
    if limit == 0.0 and value == 0.0:
        return [QReLU()]
    e = Expression(call)
    x = e["input"]
    if not isinstance(x, Term):
        raise call.refuse("the threshold of a constant", "compute it in the constructor")
    return e.parts(chosen(e, compared(e, x, Held(limit), ">"), x, Held(value)))


def _sign(call: Call) -> Layers:
    """[x > 0] - [x < 0]; no gradient, as torch's."""
    e = Expression(call)
    x = e["input"]
    zero = Held(0.0)
    return e.parts(e.layer(QSignOf, compared(e, x, zero, ">"), compared(e, x, zero, "<"), suffix="_sign"))


class QSignOf(QSub):
    """The difference of two bits: -1, 0 or 1, which needs no Cast."""

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=True, reads_uncast=True, aligns=True)


class QJoined(QAdd):
    """The sum of two values, one of which is 0 at every place: it needs no Cast but where their grids differ much."""

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=True, reads_uncast=True, aligns=True)


def _neg(call: Call) -> Layers:
    return [QScaleBy(-1, 0)]


_NEG, _SIGN = ("input", _neg), ("input", _sign)
_LEAKY = ("input negative_slope inplace", _leaky_relu)
_COMPARISONS: tuple[tuple[str, Sign], ...] = (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))
_COMPARED = {name: ("input other", _compare(sign)) for name, sign in _COMPARISONS}
_LONG = {"gt": "greater", "ge": "greater_equal", "lt": "less", "le": "less_equal"}

FAMILY = Family(
    layers=(
        QPReLU,
        QLeakyReLU,
        QReLU,
        QCompare,
        QNot,
        QSignOf,
        QJoined,
        QMask,
        QOffset,
        QAdd,
        QSub,
        QMul,
        QMulConstant,
        QAddConstant,
        QScaleBy,
        QExpand,
    ),
    modules={nn.LeakyReLU: _leaky_relu, nn.PReLU: _prelu, nn.RReLU: _rrelu, nn.Threshold: _threshold},
    functions={
        F.leaky_relu: _LEAKY,
        F.leaky_relu_: ("input negative_slope", _leaky_relu),
        F.prelu: ("input weight", _prelu),
        F.rrelu: ("input lower upper training inplace", _rrelu),
        F.threshold: ("input threshold value inplace", _threshold),
        operator.neg: _NEG,
        torch.neg: _NEG,
        torch.sign: _SIGN,
        torch.sgn: _SIGN,
        torch.where: ("condition input other", _where),
        torch.masked_fill: ("input mask value", _masked_fill),
        **{getattr(operator, name): entry for name, entry in _COMPARED.items()},
        **{getattr(torch, name): entry for name, entry in _COMPARED.items()},
        **{getattr(torch, long): _COMPARED[name] for name, long in _LONG.items()},
    },
    methods={
        **dict.fromkeys(("neg", "neg_"), _NEG),
        **dict.fromkeys(("sign", "sign_", "sgn"), _SIGN),
        **_COMPARED,
        **{long: _COMPARED[name] for name, long in _LONG.items()},
        "where": ("input condition other", _where),
        "masked_fill": ("input mask value", _masked_fill),
        "prelu": ("input weight", _prelu),
    },
    takes_constants=True,
    elementwise=True,
)
