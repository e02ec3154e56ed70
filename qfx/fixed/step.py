"""What a Cast is for autograd: one step, which keeps its inputs and nothing else, and goes one of three ways.

========  ===============================================  ==============================================================
way       the tensors that it takes                        who computes
========  ===============================================  ==============================================================
`Flat`    x, frac_bits                                     C++ for one float32 binary point (``native.flat`` says where)
`Pair`    x, frac_bits, y, frac_bits of y                  the same, twice: for small tensors a step costs more than they do
`Whole`   x, frac_bits, width, scale, shift, addend        C++ where it can (``native.fused`` says where), else torch operators
========  ===============================================  ==============================================================

``kernel.py`` chooses the way, and has the table that all of them follow. The gradient needs the inputs, since it recomputes the Cast; each way
leaves out what autograd does not ask for, as far as that saves time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qfx.fixed import eager, native
from qfx.fixed.plan import Plan

Saved = tuple[Any, ...]
"""The tensors of a way; what was not given is None."""


class Flat(NamedTuple):
    """A plain Cast with one binary point."""

    bound: native.Bound
    frac_grad_scale: float

    def forward(self, x: Tensor, frac_bits: Tensor) -> Tensor:
        return native.forward_flat(self.bound, x, frac_bits)

    def backward(self, needs: tuple[bool, ...], saved: Saved, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, frac_bits = saved
        return native.backward_flat(self.bound, grad.resolve_neg(), x, frac_bits, self.frac_grad_scale, needs[1])


class Pair(NamedTuple):
    """Two plain Casts."""

    first: Flat
    second: Flat

    def forward(self, x: Tensor, x_bits: Tensor, y: Tensor, y_bits: Tensor) -> tuple[Tensor, Tensor]:
        return self.first.forward(x, x_bits), self.second.forward(y, y_bits)

    def backward(self, needs: tuple[bool, ...], saved: Saved, grad_x: Tensor, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        return *self.first.backward(needs[:2], saved[:2], grad_x), *self.second.backward(needs[2:], saved[2:], grad_y)


class Whole(NamedTuple):
    """Any Cast, with what comes before it. ``fused``: the C++ for it; None where torch operators compute it."""

    plan: Plan
    fused: native.Fused | None
    frac_grad_scale: float

    def forward(
        self, x: Tensor, frac_bits: Tensor, width: Tensor | None, scale: Tensor | None, shift: Tensor | None, addend: Tensor | None
    ) -> Tensor:
        """``width`` counts as what the plan says: it is there for its gradient."""
        if self.fused is None:
            return eager.forward(self.plan, x, frac_bits, scale, shift, addend)
        return self.fused.forward(x, frac_bits, scale, shift, addend)

    def backward(self, needs: tuple[bool, ...], saved: Saved, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, frac_bits, width, scale, shift, addend = saved
        grad = grad.resolve_neg()
        if self.fused is None:
            grads = eager.backward(self.plan, grad, x, frac_bits, scale, shift, addend, self.frac_grad_scale)
        else:
            parameters = needs[1] or needs[3] or needs[4]
            grads = self.fused.backward(grad, x, frac_bits, scale, shift, addend, self.frac_grad_scale, parameters, needs[2])
        by_x, by_frac, by_width, by_scale, by_shift, by_addend = grads
        by_width = by_width.to(width.dtype).reshape(width.shape) if needs[2] and by_width is not None else None
        return by_x, by_frac, by_width, by_scale, by_shift, by_addend


class Step(torch.autograd.Function):
    """``apply(way, *tensors)``: the way's forward, and its backward once autograd asks."""

    @staticmethod
    def forward(ctx: Any, way: Flat | Pair | Whole, *tensors: Any) -> Any:
        ctx.save_for_backward(*tensors)
        ctx.way = way
        return way.forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _once_backward(ctx, *grads) if torch.is_grad_enabled() else _backward(ctx, *grads)


def _backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    return None, *ctx.way.backward(ctx.needs_input_grad[1:], ctx.saved_tensors, *grads)


_once_backward = once_differentiable(_backward)  # refuses a second derivative; costs time, so used only where one could be asked for
