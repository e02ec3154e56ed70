"""What a Cast is for autograd: one step, which keeps its inputs and nothing else, and goes one of three ways.

=========  ===========================================  ==============================================================
way        the tensors that it takes                    who computes
=========  ===========================================  ==============================================================
``Flat``   x, frac_bits                                 C++ for one float32 binary point (``native.flat`` says where)
``Pair``   x, frac_bits, y, frac_bits of y              the same, twice: for small tensors a step costs more than they do
``Whole``  x, frac_bits, int_bits, scale, shift,        C++ or Triton where they can (``native.fused`` and ``gpu.launch.fused`` say
           addend                                       where), else torch operators
=========  ===========================================  ==============================================================

A way has ``forward(*tensors)`` and ``backward(ctx, *grads)``: the gradient of each tensor, behind a None for the way, from the tensors that autograd
kept and what it says it needs.

Where ``recorded.cpp`` could be built and the tensors are ordinary ones of the CPU, ``plain`` and ``whole`` make the step in C++. The same code
computes the same gradients, and the step costs a tenth.

``kernel.py`` chooses the way, and has the table that all of them follow. The gradient needs the inputs, since it recomputes the Cast; each way
leaves out what is not asked for, as far as that saves time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qfx.fixed import eager, native
from qfx.fixed.arith import FLOAT32_BITS
from qfx.fixed.gpu import launch
from qfx.fixed.plan import CastMode, Plan
from qfx.fixed.recorded import recorded


class Flat(NamedTuple):
    """A plain Cast with one binary point."""

    bound: native.Bound
    frac_grad_scale: float

    def forward(self, x: Tensor, frac_bits: Tensor) -> Tensor:
        return native.forward_flat(self.bound, x, frac_bits)

    def backward(self, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, frac_bits = ctx.saved_tensors
        by_x, by_frac = native.backward_flat(self.bound, grad.resolve_neg(), x, frac_bits, self.frac_grad_scale, ctx.needs_input_grad[2])
        return None, by_x, by_frac


class Pair(NamedTuple):
    """Two plain Casts."""

    x_bound: native.Bound
    y_bound: native.Bound
    x_grad_scale: float
    y_grad_scale: float

    def forward(self, x: Tensor, x_bits: Tensor, y: Tensor, y_bits: Tensor) -> tuple[Tensor, Tensor]:
        return native.forward_flat(self.x_bound, x, x_bits), native.forward_flat(self.y_bound, y, y_bits)

    def backward(self, ctx: Any, grad_x: Tensor, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, x_bits, y, y_bits = ctx.saved_tensors
        _, _, needs_x_bits, _, needs_y_bits = ctx.needs_input_grad
        x_bound, y_bound, x_grad_scale, y_grad_scale = self
        by_x, by_x_bits = native.backward_flat(x_bound, grad_x.resolve_neg(), x, x_bits, x_grad_scale, needs_x_bits)
        by_y, by_y_bits = native.backward_flat(y_bound, grad_y.resolve_neg(), y, y_bits, y_grad_scale, needs_y_bits)
        return None, by_x, by_x_bits, by_y, by_y_bits


class Whole(NamedTuple):
    """Any Cast, with what comes before it. ``fused``: the C++ or Triton for it; None where torch operators compute it."""

    plan: Plan
    fused: native.Fused | launch.Fused | None
    frac_grad_scale: float

    def forward(
        self, x: Tensor, frac_bits: Tensor, int_bits: Tensor | None, scale: Tensor | None, shift: Tensor | None, addend: Tensor | None
    ) -> Tensor:
        if self.fused is None:
            return eager.forward(self.plan, x, frac_bits, int_bits, scale, shift, addend)
        return self.fused.forward(x, frac_bits, int_bits, scale, shift, addend)

    def backward(self, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, frac_bits, int_bits, scale, shift, addend = ctx.saved_tensors
        grad = grad.resolve_neg()
        if self.fused is None:
            return None, *eager.backward(self.plan, grad, x, frac_bits, int_bits, scale, shift, addend, self.frac_grad_scale)
        parameters = any(ctx.needs_input_grad[2:6])  # all but x and the addend
        return None, *self.fused.backward(grad, x, frac_bits, int_bits, scale, shift, addend, self.frac_grad_scale, parameters)


class Step(torch.autograd.Function):
    """``apply(way, *tensors)``: the way's forward, and its backward once autograd asks."""

    @staticmethod
    def forward(ctx: Any, way: Flat | Pair | Whole, *tensors: Any) -> Any:
        ctx.save_for_backward(*tensors)
        ctx.way = way
        return way.forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return _once_backward(ctx, *grads) if torch.is_grad_enabled() else ctx.way.backward(ctx, *grads)


def _backward(ctx: Any, *grads: Tensor) -> Any:
    return ctx.way.backward(ctx, *grads)


_once_backward = once_differentiable(_backward)  # refuses a second derivative; costs time, so used only where one could be asked for


def plain(
    x: Tensor, frac_bits: Tensor, width: int, mode: CastMode, negative_slope: float, upper: float | None, frac_grad_scale: float
) -> Tensor | None:
    """A Cast with one binary point and nothing before it, recorded in C++; None where that cannot be."""
    if width > FLOAT32_BITS or not (x.requires_grad or frac_bits.requires_grad):
        return None
    native_step = recorded()
    if native_step is None:
        return None
    bound = native.flat_bound(mode, width, negative_slope, upper)
    return None if bound is None else native_step.cast(bound.flat_address, frac_grad_scale, x, frac_bits)


def whole(way: Whole, *tensors: Tensor | None) -> Tensor:
    """Any Cast, recorded if autograd records. ``tensors``: x, frac_bits, int_bits, scale, shift, addend."""
    if isinstance(way.fused, native.Fused) and torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors):
        native_step = recorded()
        if native_step is not None:
            x, frac_bits, *others = tensors
            assert x is not None
            assert frac_bits is not None
            found = native_step.cast(way.fused.entry_address, way.frac_grad_scale, x, frac_bits, *others)
            if found is not None:
                return found
    return Step.apply(way, *tensors)  # type: ignore[no-any-return, no-untyped-call]
