"""``Held``: a constant of a float model on its way into a fixed-point layer, and ``HeldConstant``, the part of a layer that casts it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from qfx.capture.traced import KEPT, called
from qfx.fixed.arith import Bounds
from qfx.fixed.digits import few_digits
from qfx.ir.values import Const
from qfx.nn.call import Call, name_of
from qfx.nn.fixed_layer import constant
from qfx.nn.layers.products.computed import Computed, computed_of, joined
from qfx.nn.qtensor import QTensor
from qfx.nn.quantizer import Quantizer, finest
from qfx.recipe import Spec

_SPARE = 4
"""A constant that is added starts at most so many bits finer than what it is added to: more would only widen the sum."""


@dataclass(frozen=True, eq=False)
class Held:
    """``factor * value`` or ``factor / value``: a number, a tensor that does not depend on the input, or one that is computed of some.

    ``name``: the dotted name of the parameter or buffer that it is; else "". ``shape``: its own, without the axes of the batch and before
    (``within`` tells it); () until then. ``itself``: of a parameter that the user's model holds, how it is read there.
    """

    value: float | Tensor | Computed
    name: str = ""
    factor: float = 1.0
    inverted: bool = False
    shape: tuple[int, ...] = ()
    itself: Computed | None = None

    def now(self) -> Tensor:
        """The constant in float64, with the gradient of its parameter."""
        found = self.value() if isinstance(self.value, Computed) else self.value
        value = found.double() if isinstance(found, Tensor) else torch.tensor(float(found), dtype=torch.float64)
        return self.factor / value if self.inverted else value if self.factor == 1.0 else value * self.factor

    @property
    def trained(self) -> bool:
        """Whether it is a parameter, or computed of some."""
        return self.value.trained if isinstance(self.value, Computed) else isinstance(self.value, nn.Parameter)

    @property
    def number(self) -> float | None:
        """What it is for good, if it is one number; None for a parameter, which may be trained, and for several."""
        fixed = not self.trained and self.now().numel() == 1
        return float(self.now()) if fixed else None

    def times(self, other: Held) -> Held:
        """The product with another."""
        for a, b in ((self, other), (other, self)):
            if b.number is not None:
                return replace(a, factor=a.factor * b.number)
        return self._with(other, torch.mul)

    def inverse(self) -> Held:
        if self.inverted:
            return self._with(None, torch.reciprocal)
        return replace(self, factor=1.0 / self.factor, inverted=True)

    def plus(self, other: Held) -> Held:
        return self._with(other, torch.add)

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Held:
        """A function of it."""
        return self._with(None, function)

    def _with(self, other: Held | None, function: Callable[..., Tensor]) -> Held:
        """A function of this constant, and another: computed anew whenever it is read if tensors of the model go into it, else held as it is."""
        operands = (self,) if other is None else (self, other)
        if not any(isinstance(operand._source(), Computed) for operand in operands):
            return Held(function(*(operand.now() for operand in operands)).detach())
        return Held(joined(function, [operand._exact() for operand in operands]))

    def _source(self) -> float | Tensor | Computed:
        return self.value if self.itself is None else self.itself

    def _exact(self) -> Computed | Tensor:
        """What ``now`` gives, as it is computed."""
        source = self._source()
        if not isinstance(source, Computed):
            return self.now().detach()
        wide = joined("double", [source])
        return joined(torch.div, [self.factor, wide]) if self.inverted else wide if self.factor == 1.0 else joined(torch.mul, [wide, self.factor])

    def shaped(self, shape: tuple[int, ...]) -> Held:
        return replace(self, shape=shape)

    def within(self, call: Call, rank: int) -> Held:
        """With its ``shape`` for a value of ``rank`` axes behind the batch. Refuses a constant that differs from sample to sample."""
        now = self.now()
        shape = tuple(now.shape)
        padded = (1,) * (rank + 1 - len(shape)) + shape
        if len(shape) == rank + 1 and shape[0] > 1 and torch.equal(now, now[:1].expand(shape)):  # made for every sample, as torch.zeros(len(x), ...)
            return Held(now[:1].detach(), shape=shape[1:])
        if len(padded) > rank + 1 or padded[0] != 1:
            what = f"a constant of shape {shape} beside a value of {rank + 1} axes, the batch included"
            raise call.refuse(what, "give it no more axes than the value, and a length of 1 along the batch")
        return replace(self, shape=padded[1:])


def held(call: Call, operand: Any) -> Held | None:
    """An argument of the call as a constant; None if it is computed from the input. Refuses what is neither, and numbers that are not finite."""
    if isinstance(operand, fx.Node):
        if operand in call.traced.shapes:
            return None
        operand = _unrepeated(call, operand)
    found, name = operand, ""
    if isinstance(operand, fx.Node):
        found = call.traced.fixed.get(operand)
        computed = None if operand.op == "get_attr" else computed_of(call.traced, operand)
        if operand.op == "get_attr":
            name = str(operand.target)
            holder, own = _holder(call.traced.module, name)
            if isinstance(own, nn.Parameter):
                found = own
            elif holder is None or not operand.meta.get(KEPT) or not isinstance(own, Tensor):
                name = ""  # checkpoints do not have it
        elif computed is not None and isinstance(found, Tensor):
            _check_finite(call, found, name_of(operand))
            return Held(computed)
    if isinstance(found, Tensor):
        _check_finite(call, found, name or name_of(operand))
        if isinstance(found, nn.Parameter) and isinstance(operand, fx.Node):
            return Held(found, name, itself=computed_of(call.traced, operand))
        return Held(found if isinstance(found, nn.Parameter) else found.detach().clone(), name)
    if isinstance(found, int | float) and math.isfinite(found):
        return Held(float(found))
    raise call.refuse(f"{call.name} with {operand!r}", "give numbers, tensors and values computed from the input")


_REPEATS = ("expand", "broadcast_to", "repeat", "tile")


def _unrepeated(call: Call, node: fx.Node) -> fx.Node:
    """What a constant repeats along axes, as ``bias.expand_as(x)`` does, where the operation repeats it anyway: so it is kept once, and trained."""
    source = node.args[0] if node.args else None
    if called(node) not in _REPEATS or not isinstance(source, fx.Node):
        return node
    value, short = call.traced.fixed.get(node), call.traced.fixed.get(source)
    if value is None or short is None or value.dim() > len(call.out_shape) + 1:
        return node
    others = [(1, *call.traced.shapes[other]) for other in call.values]
    try:
        together = tuple(torch.broadcast_shapes(*others, tuple(short.shape)))  # type: ignore[no-untyped-call]
        same = together[1:] == call.out_shape and torch.equal(short.broadcast_to(value.shape), value)
    except RuntimeError:  # not repeated as in arithmetic
        return node
    return _unrepeated(call, source) if same else node


def _check_finite(call: Call, value: Tensor, name: str) -> None:
    if value.is_complex() or not bool(torch.isfinite(value.detach().double()).all()):
        raise call.refuse(f"the constant {name!r} holds NaN, infinity or complex numbers", "repair the model")


def _holder(module: nn.Module, name: str) -> tuple[nn.Module | None, Any]:
    """The module that holds an attribute of a dotted name, and the attribute; (None, None) where there is none."""
    path, _, own = name.rpartition(".")
    try:
        holder = module.get_submodule(path)
    except AttributeError:
        return None, None
    return (holder, getattr(holder, own)) if own in holder._parameters or own in holder._buffers else (None, None)


def kept_form(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in which a constant is kept: (), (C,), or an axis for each of the value's."""
    if all(size == 1 for size in shape):
        return ()
    return shape if any(size > 1 for size in shape[1:]) else shape[:1]


class HeldConstant(nn.Module):
    """A constant in a layer: a number, a buffer or a parameter under its own name, or one computed of such elsewhere, and its cast.

    What the word length holds exactly (powers of two, small integers) is exact, and its binary point then stays. A parameter is trained, with the
    gradient of its cast (straight-through within its range) and of the reciprocal where it divides.
    """

    factor: float
    inverted: bool
    form: tuple[int, ...]
    origin: str
    own: str
    in_checkpoints: bool
    exact: bool
    cast: Quantizer

    computed: Computed | None

    def __init__(self, source: Held, spec: Spec, name: str, also: str) -> None:
        super().__init__()
        self.computed = None
        self.factor, self.inverted, self.form = source.factor, source.inverted, kept_form(source.shape)
        self.origin, self.own = source.name, source.name.rpartition(".")[2] or "value"
        self.number: float | None = None
        if isinstance(source.value, Computed):
            self.computed = source.value
        elif isinstance(source.value, nn.Parameter):
            self.register_parameter(self.own, source.value)
        elif isinstance(source.value, Tensor):
            self.register_buffer(self.own, source.value)
        else:
            self.number = float(source.value)
        self.in_checkpoints = self.number is None and self.computed is None
        self.exact = False
        if spec.signed is None:
            spec = replace(spec, signed=True)
        if not source.trained and spec.frac_bits is None and not spec.learn_width:
            grid = _exact_grid(source.now(), spec)
            if grid is not None:
                spec, self.exact = replace(spec, frac_bits=grid, learn=False), True
        self.cast = Quantizer(spec, channel_axis=0, name=name, also=also)

    def float_names(self) -> Mapping[str, str]:
        """What a float checkpoint calls the tensors here, by their names here; "" for one that it does not have."""
        return {self.own: self.origin} if self.in_checkpoints else {}

    def materialize(self) -> str:
        """Make a constant that is computed a parameter of the layer, of its present value. Returns its name here."""
        if self.computed is None:
            raise TypeError("the constant is not computed")
        value, self.computed, self.in_checkpoints = self.computed.parameter(), None, False
        self.register_parameter(self.own, value)
        return self.own

    def real(self) -> Tensor:
        """The constant as it is trained, in the form in which it is kept, in float64."""
        value = self._parameters.get(self.own) if self.own in self._parameters else self._buffers.get(self.own)
        if self.computed is not None:
            value = self.computed()
        if value is None:
            value = torch.full(
                (), self.number or 0.0, dtype=torch.float64, device=None if self.cast.frac_bits is None else self.cast.frac_bits.device
            )
        value = value.double()
        value = self.factor / value if self.inverted else value if self.factor == 1.0 else value * self.factor
        return value.reshape(self.form)

    def initialize(self, beside: Bounds | None) -> None:
        """``beside``: what it is added to; None for a factor."""
        most = None if beside is None else finest(beside) + _SPARE
        self.cast.initialize(self.real().detach(), most=most)

    def forward(self) -> QTensor:
        """The constant as the hardware sees it."""
        return self.cast(self.real())  # type: ignore[no-any-return]

    def const(self, where: str, *, negated: bool = False) -> Const:
        """The same for the graph."""
        value = self().value
        rows = self.form[0] if self.form else 1
        grids = self.cast.channel_grids(rows) if self.form else None
        return constant(-value if negated else value, where, grids)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Its mean along all axes but the channels, and that of its square: of one entry, or one for each channel."""
        value = self().value.detach().double()
        rows = value.reshape(self.form[0], -1) if self.form else value.reshape(1, 1)
        return rows.mean(1), rows.square().mean(1)


def _exact_grid(values: Tensor, spec: Spec) -> int | None:
    """The grid on which the word length holds the values exactly, and they have few digits where the spec says so."""
    const = Const.of(values.detach().cpu().numpy())
    hull, held_by = const.interval.hull, spec.type(signed=bool(spec.signed))
    if not isinstance(const.frac_bits, int) or abs(const.frac_bits) > 100:
        return None
    if spec.digits is not None and not np.isin(const.raw, few_digits(spec.width, bool(spec.signed), spec.digits, spec.digit_form)).all():
        return None
    return const.frac_bits if held_by.min_raw <= hull.lo and hull.hi <= held_by.max_raw else None


def rounded(number: float, spec: Spec, finest: int = 1100) -> Const:
    """A number as a constant: itself where the word length of the spec holds it, else the nearest that it holds, by the significant bits: all of
    them, or as many as lie on a grid of ``finest`` fractional bits, of which one is left at least."""
    exact = Const.of(number)
    width = spec.width - 1  # without a sign
    if abs(int(exact.raw)) < 1 << width:
        return exact
    _, exponent = math.frexp(abs(number))
    grid = min(max(width, 1) - exponent, max(finest, 1 - exponent))
    return Const.of(math.ldexp(round(math.ldexp(number, grid)), -grid))


def power_of_two(number: float) -> tuple[int, int] | None:
    """(sign, exponent) of plus or minus a power of two."""
    mantissa, exponent = math.frexp(abs(number))
    return (1 if number > 0 else -1, exponent - 1) if mantissa == 0.5 else None
