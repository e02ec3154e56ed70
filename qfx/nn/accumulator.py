"""``Accumulating``: the Cast of weights whose sums have an accumulator of a chosen width.

``Spec.accumulator`` = P bits, signed. What a sum of products may need is known exactly: with p and n the sums of an output's positive and negative
raw weights (n >= 0), and inputs from -b to a (raw, padding's 0 among them), every partial sum in any order lies between -(p * b + n * a) and
p * a + n * b, and both are reached. ``Spec.accumulator_mode`` says what follows:

"bound": weights are kept where no partial sum leaves P bits. An output whose cast weights would leave them gets, instead, the nearest point
(least squared error) of the grid that does not: weights with |raw| = max(round(|w| - t), 0) for the least t >= 0 that fits, of equals the first. So
rounding is part of it and cannot break the bound, whatever the rounding mode; weights that fit are cast as ever. For inputs of one sign p and n are
bounded each by itself, (2**(P - 1) - 1) / a and 2**(P - 1) / a, which is the bound of A2Q+ without the demand that weights add up to 0; for inputs of
two signs it is p + n <= (2**(P - 1) - 1) / max(a, b), the bound of A2Q.

The gradient is that of the projection onto the ball of that size, rounding taken as the identity. Of an output that was projected (of one sign's
weights, where signs are bounded apart), with A its weights that are not 0 and s their signs, dL/dw = g - s * mean over A of s * g within A. Weights
that were projected to 0 keep their g, so that they can come back; those that saturate get 0. The ball has the radius K * 2**-F, so the binary point
gets dL/dF = -ln2 * (mean over A of |w|) * (sum over A of s * g), times ``frac_grad_scale``.

"wrap", "saturate": weights are free, and the sum is cast to P bits on the grid of the products. A sum that wraps at every addition is the wide sum
wrapped once (arithmetic modulo 2**P), so the accumulator itself has P bits. Saturation is that of the finished sum: one at every addition would
depend on the order of additions, which is another in every folding, and in every executor.

The bias is added behind the accumulator. Sources: Colbert et al., "A2Q: Accumulator-Aware Quantization with Guaranteed Overflow Avoidance", ICCV
2023, arXiv 2308.13504; Colbert et al., "A2Q+: Improving Accumulator-Aware Weight Quantization", 2024, arXiv 2401.10432.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qfx.errors import ExactnessError, ModelFileError, QfxError, UnsupportedError
from qfx.fixed.arith import FLOAT32_BITS, Bounds, Interval, channelwise
from qfx.fixed.kernel import CastMode, quantize
from qfx.fixed.type import FixedType, OMode, QMode
from qfx.ir.values import Info
from qfx.nn.qtensor import QTensor
from qfx.nn.quantizer import Quantizer
from qfx.operators import ArrayType, Cast, Conv, Linear
from qfx.recipe import AccumulatorMode, Spec

_HALVINGS, _FIRST_LOOK = 40, 8
"""Of the interval in which the shrinkage is looked for, and after how many it is first asked which outputs have found theirs."""

_MODES: tuple[AccumulatorMode, ...] = ("bound", "wrap", "saturate")
"""How they are numbered in checkpoints: never reorder."""

_KEY = "accumulator_type"


class Budget(NamedTuple):
    """What an output's raw weights may add up to: the positive ones and the negative ones, or ``joint``, all together (both fields are that)."""

    positive: int
    negative: int
    joint: bool


class Accumulating(Quantizer):
    """The Cast of a weight with ``spec.accumulator``. ``meet`` tells it what inputs the weights meet, before every forward."""

    met: Interval | None = None
    """The inputs of the last forward."""
    shared: bool = False
    """Whether several calls share the weights: their inputs count all together, and never less again."""

    def __init__(self, spec: Spec, **named: Any) -> None:
        super().__init__(spec, **named)
        assert spec.accumulator is not None
        self.bits_held: int = spec.accumulator
        self.register_buffer(_KEY, torch.tensor(codes(spec), dtype=torch.int32))

    @property
    def narrows(self) -> bool:
        """Whether the sum is cast."""
        return self.spec.accumulator_mode != "bound"

    def meet(self, x: Interval) -> None:
        """The weights meet ``x`` next, and zeros. Raises ExactnessError where not even one weight of one bit would fit."""
        x = x.with_zero()
        if self.shared and self.met is not None:
            x = Interval(min(x.lo, self.met.lo), max(x.hi, self.met.hi), x.frac_bits)
        if self.met == x:
            return
        self.met = x
        if not self.narrows and (budget := self._budget) is not None and min(budget.positive, budget.negative) < 1:
            raise ExactnessError(
                f"an accumulator of {self.bits_held} bits holds no product of inputs of {x.width} bits",
                where=self.name or "Accumulating",
                remedy=f"use accumulator = {x.width + (not x.signed)} at least, and more for several products; or shorter inputs",
            )

    def share(self) -> None:
        """Several calls share the weights."""
        if self.narrows:
            told = f"several calls share weights whose accumulator's mode is {self.spec.accumulator_mode!r}"
            raise UnsupportedError(told, where=self.name, remedy='give each call a module of its own, or use accumulator_mode = "bound"')
        self.shared = True

    # ---- weights within bounds ----

    @property
    def _budget(self) -> Budget | None:
        return None if self.met is None else budget(self.met, self.bits_held)

    def forward(self, x: QTensor | Tensor) -> QTensor:
        """Cast; outputs (axis 0) whose sums could leave the accumulator as the nearest weights with which they cannot."""
        result = super().forward(x)
        over = self._over(result)
        if over is not None:
            result = super().forward(self._within(x.tensor() if isinstance(x, QTensor) else x, over))
        return result

    def with_another(self, x: Tensor, other: Quantizer, y: Tensor) -> tuple[QTensor, QTensor]:
        result, another = super().with_another(x, other, y)
        over = self._over(result)
        return (result, another) if over is None else (super().forward(self._within(x, over)), another)

    def _over(self, cast: QTensor) -> Tensor | None:
        """Which outputs' partial sums could leave the accumulator; None for none."""
        if self.narrows or self.off or self.met is None:
            return None
        with torch.no_grad():
            raw = (cast.value.detach().double() * torch.exp2(self.points().double())).flatten(1)
            positive = raw.clamp(min=0).sum(1)
            negative = positive - raw.sum(1)
            least, most = -self.met.lo, self.met.hi  # 0 lies between
            half = 2.0 ** (self.bits_held - 1)
            # Two products of at most 48 bits, or far beyond the bound: float64 decides rightly.
            over = (positive * most + negative * least > half - 1) | (positive * least + negative * most > half)
        return over if bool(over.any()) else None

    def _within(self, x: Tensor, over: Tensor) -> Tensor:
        found = self._budget
        assert found is not None
        kind = self.mode.type(self.spec.width, 0)
        limits = kind.max_raw, -kind.min_raw
        if x.dtype is not torch.float64 and self.spec.width > FLOAT32_BITS:
            x = x.double()
        result: Tensor = _Nearest.apply(x, self._counted()[0], over, found, limits, self.frac_grad_scale)  # type: ignore[no-untyped-call]
        return result

    def initialize_from(self, parts: Iterable[QTensor | Tensor], *, most: int | Tensor | None = None) -> None:
        """As a Quantizer; where weights would leave the accumulator, the binary points stand where the squared error is least, no finer than that."""
        super().initialize_from(parts, most=most)
        first = next(iter(parts))
        if self.spec.frac_bits is not None or self.narrows:
            return
        x = (first.tensor() if isinstance(first, QTensor) else first).detach()
        with torch.no_grad():
            start = self.frac_bits.detach().clone()
            error = self._error(x, start)
            if self._over(super().forward(x)) is None:
                return
            best = start.clone()
            for coarser in range(1, self.spec.width + 1):
                self.place(start - coarser, afresh=True)
                found = self._error(x, start)
                best = torch.where(found < error, start - coarser, best)
                error = torch.minimum(found, error)
            self.place(best, afresh=True)

    def _error(self, x: Tensor, like: Tensor) -> Tensor:
        squared: Tensor = (self.forward(x).value.double() - x.double()).square()
        return squared.flatten(1).sum(1).reshape(like.shape) if like.dim() else squared.sum()

    def held(self, products: Bounds) -> Bounds:
        """What is known of sums of ``products``, whatever the weights: they do not leave the accumulator."""
        return products if self.narrows or self.off else _held(products, self.bits_held)

    # ---- sums that are cast ----

    def accumulate(self, value: Tensor, products: Bounds) -> tuple[Tensor, Bounds]:
        """The sums (batch, outputs, ...) on the grids of ``products``, cast to the accumulator's width, and what bounds them."""
        grids = tuple(float(interval.frac_bits) for interval in products.spread(value.shape[1]))
        frac_bits = torch.tensor(grids if len(set(grids)) > 1 else grids[0], device=value.device, dtype=value.dtype)
        if frac_bits.dim():
            frac_bits = frac_bits.reshape(1, -1, *(1,) * (value.dim() - 2))
        return quantize(value, frac_bits, self.bits_held, self._sum_mode), _full(products, self.bits_held)

    def cast_of_sum(self, weight: QTensor, rank: int) -> Cast:
        """The same as an operator, behind sums of ``rank`` axes."""
        if self.met is None:
            raise QfxError("has met no input yet", where=self.name, remedy="run the model once")
        grids = [interval.frac_bits + self.met.frac_bits for interval in weight.interval.spread(len(weight.value))]
        integer = tuple(self.bits_held - grid for grid in grids) if len(set(grids)) > 1 else (self.bits_held - grids[0],)
        mode = self._sum_mode
        kind = FixedType(self.bits_held, max(integer), True, mode.q, mode.o)
        return Cast(ArrayType(kind, integer, (len(integer), *(1,) * (rank - 1)) if len(integer) > 1 else ()))

    @property
    def _sum_mode(self) -> CastMode:
        return CastMode(True, QMode.TRN, OMode.WRAP if self.spec.accumulator_mode == "wrap" else OMode.SAT)


def codes(spec: Spec) -> tuple[int, int]:
    """How a checkpoint tells the accumulator: width and mode, (0, 0) for none."""
    bits = getattr(spec, "accumulator", None)  # a model that an earlier version pickled has none
    return (0, 0) if bits is None else (bits, _MODES.index(spec.accumulator_mode))


def misfit(quantizer: Quantizer, state_dict: Mapping[str, Any], prefix: str) -> ModelFileError | None:
    """Why the entries below ``prefix`` would mean other numbers here: their sums had another accumulator. One that does not tell types fits."""
    kept, ours = state_dict.get(prefix + _KEY), codes(quantizer.spec)
    if not isinstance(kept, Tensor) and f"{prefix}cast_type" not in state_dict:
        return None
    if isinstance(kept, Tensor) and kept.is_meta:
        return None
    bits, mode = (int(code) for code in kept.flatten().tolist()) if isinstance(kept, Tensor) else (0, 0)
    if (bits, mode) == ours:
        return None
    name = quantizer.name or prefix.rstrip(".") or "Quantizer"
    if not bits:
        remedy = "quantize with the recipe of the checkpoint's model, which has no accumulator for this quantizer"
    else:
        told = _MODES[mode] if 0 <= mode < len(_MODES) else mode
        changes = f"{{'accumulator': {bits}, 'accumulator_mode': {told!r}}}"
        remedy = f"quantize with the recipe of the checkpoint's model; for this quantizer Override({name!r}, {changes}) does it"
    return ModelFileError(f"the checkpoint was trained with {_told(bits, mode)}, the model has {_told(*ours)}", where=name, remedy=remedy)


def _told(bits: int, mode: int) -> str:
    return f"an accumulator of {bits} bits ({_MODES[mode] if 0 <= mode < len(_MODES) else mode})" if bits else "no bound on accumulators"


def accumulating(cast: object) -> Accumulating | None:
    """The cast, if it has to do with accumulators, and casts."""
    return cast if isinstance(cast, Accumulating) and not cast.off else None


def check_width(weight_cast: object, op: Conv | Linear, x: Info) -> None:
    """Raises ExactnessError where sums that weights are kept within would need a wider accumulator for an input ``x``: a graph may know less of it
    than the layer does, of learned word lengths that wrap, each in the bits of the longest."""
    cast = accumulating(weight_cast)
    if cast is None or cast.narrows:
        return
    needed = replace(op, bias=None).accumulator(x).width
    if needed > cast.bits_held:
        raise ExactnessError(
            f"its accumulator has {needed} bits instead of {cast.bits_held}: its inputs lie on grids finer than their numbers",
            where=cast.name,
            remedy="let the learned word lengths before it saturate (o = AP_SAT) instead of wrap, or use a fixed one",
        )


@lru_cache(maxsize=1024)
def budget(x: Interval, bits: int) -> Budget | None:
    """What an output's raw weights may add up to, if they meet ``x`` (0 is in it) and partial sums are to fit ``bits`` bits, signed."""
    most, least = (1 << (bits - 1)) - 1, 1 << (bits - 1)
    if not x.lo and not x.hi:
        return None
    if not x.lo:
        return Budget(most // x.hi, least // x.hi, False)
    if not x.hi:
        return Budget(least // -x.lo, most // -x.lo, False)
    together = most // max(-x.lo, x.hi)
    return Budget(together, together, True)


@lru_cache(maxsize=1024)
def _held(products: Bounds, bits: int) -> Bounds:
    half = 1 << (bits - 1)
    if isinstance(products, Interval):
        return Interval(max(products.lo, -half), min(products.hi, half - 1), products.frac_bits)
    return channelwise(Interval(max(each.lo, -half), min(each.hi, half - 1), each.frac_bits) for each in products.channels)


@lru_cache(maxsize=1024)
def _full(products: Bounds, bits: int) -> Bounds:
    half = 1 << (bits - 1)
    if isinstance(products, Interval):
        return Interval(-half, half - 1, products.frac_bits)
    return channelwise(Interval(-half, half - 1, each.frac_bits) for each in products.channels)


def nearest(size: Tensor, most: int, limit: int) -> Tensor:
    """The integers from 0 to ``limit`` that add up to at most ``most`` in every row, with the least squared distance from ``size`` (rows, n), float64
    and not negative: max(round(size - t), 0) for the least t >= 0 that fits. (Adding 1 to k costs 2 * (k - size) + 1, which grows with k: so the
    steps are worth taking in the order of size - k, down to where nothing is won or nothing is left.) Equals are served from the left."""

    result = _shrunk(size, 0.0, limit)
    todo = torch.nonzero(result.sum(1) > most).flatten()
    rows = size[todo]
    low, high = torch.zeros_like(rows[:, :1]), rows.amax(1, keepdim=True)
    for halving in range(_HALVINGS):
        middle = (low + high) / 2
        found = _shrunk(rows, middle, limit)
        total = found.sum(1, keepdim=True)
        low, high = torch.where(total <= most, low, middle), torch.where(total <= most, middle, high)
        if halving < _FIRST_LOOK or halving % 4:
            continue
        done = (total == most).flatten()  # nothing is left: the others go on, those with equals to the end
        if bool(done.any()):
            result[todo[done]] = found[done]
            todo, rows, low, high = (tensor[~done] for tensor in (todo, rows, low, high))
        if not len(todo):
            return result
    found = _shrunk(rows, high, limit)
    wanted = (_shrunk(rows, low, limit) - found).clamp_(max=1)
    left = most - found.sum(1, keepdim=True)
    result[todo] = found + wanted * (wanted.cumsum(1) <= left)
    return result


def _shrunk(size: Tensor, by: Tensor | float, limit: int) -> Tensor:
    return torch.sub(size, by + 0.5).ceil_().clamp_(0, limit)


class _Nearest(torch.autograd.Function):
    """(x, frac_bits) -> x with the rows ``over`` on the grid and within the budget."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, frac_bits: Tensor, over: Tensor, within: Budget, limits: tuple[int, int], scale: float) -> Tensor:
        grid = torch.exp2(torch.round(frac_bits.detach().double()))
        size = x.detach()[over].double() * (grid[over] if grid.dim() else grid)
        flat = size.flatten(1)
        up, down = flat.clamp(min=0), -flat.clamp(max=0)
        if within.joint:
            raw = torch.sign(flat) * nearest(flat.abs(), within.positive, min(limits))
        else:
            raw = nearest(up, within.positive, limits[0]) - nearest(down, within.negative, limits[1])
        result = x.detach().clone()
        result[over] = (raw.reshape(size.shape) / (grid[over] if grid.dim() else grid)).to(result.dtype)
        ctx.save_for_backward(x, frac_bits, over, result)
        ctx.within, ctx.limits, ctx.scale = within, limits, scale
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, frac_bits, over, result = ctx.saved_tensors
        shape = x[over].shape
        g, v, q = (tensor[over].flatten(1).double() for tensor in (grad, x, result))
        grid = torch.exp2(torch.round(frac_bits.detach().double()))
        grid = grid[over].reshape(-1, 1) if grid.dim() else grid
        raw, size = q * grid, v * grid
        by_x, by_f = g.clone(), -math.log(2) * (q - v) * g
        within: Budget = ctx.within
        signs = (0,) if within.joint else (1, -1)
        for sign, most in zip(signs, within[:2], strict=False):
            side = torch.ones_like(raw, dtype=torch.bool) if not sign else raw.sign().eq(sign) | (raw.eq(0) & size.sign().eq(sign))
            live = side & (raw != 0)
            s = raw.sign() * live
            # At the bound: what rounding alone would give does not fit.
            full = (torch.ceil(size.abs() - 0.5).clamp(0, max(ctx.limits)) * side).sum(1, keepdim=True) > most
            count = live.sum(1, keepdim=True).clamp(min=1)
            tangent = (s * g).sum(1, keepdim=True) / count
            by_x = torch.where(full & live, by_x - s * tangent, by_x)
            shrink = (q.abs() * live).sum(1, keepdim=True) / count
            by_f = torch.where(full & side, -math.log(2) * shrink * s * g, by_f)
        saturated = torch.where(size > 0, size > ctx.limits[0] + 0.5, size < -ctx.limits[1] - 0.5) & (raw.abs() >= min(ctx.limits))
        by_x = by_x.masked_fill(saturated, 0.0)
        grad_x, grad_f = None, None
        if ctx.needs_input_grad[0]:
            grad_x = grad.clone()
            grad_x[over] = by_x.reshape(shape).to(grad_x.dtype)
        if ctx.needs_input_grad[1]:
            rows = by_f.sum(1) * ctx.scale
            if frac_bits.dim():
                grad_f = torch.zeros_like(frac_bits)
                grad_f[over] = rows.reshape(-1, *(1,) * (frac_bits.dim() - 1)).to(grad_f.dtype)
            else:
                grad_f = rows.sum().to(frac_bits.dtype)
        return grad_x, grad_f, None, None, None, None
