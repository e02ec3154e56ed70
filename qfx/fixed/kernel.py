"""The differentiable Cast of torch tensors: exact forward in every mode, surrogate gradients for values, binary points and word lengths.

The forward is ``overflow(round(v * 2**F)) * 2**-F``, equal to ``reference.py`` bit for bit, and never depends on training, tracing or grad mode. The
backward recomputes the Cast from what is alive anyway, so that nothing but the inputs is kept. Two executors give the same bits: ``native.py`` (one
fused C++ pass) and ``eager.py`` (torch operators).

Gradients, with s = 2**-F the least significant bit, q = Cast(v), and "in range" decided on the rounded value (7.99 that rounds up into overflow is
saturated):

=======================================  =======  =====================  ===========================================
case                                     dq/dv    dq/dF                  dq/dW
=======================================  =======  =====================  ===========================================
in range, any mode                       1        -ln2 * (q - v)         0
saturated high (AP_SAT, AP_SAT_SYM)      0        -ln2 * q               ln2 * 2**(W - F - 1 if signed else W - F)
saturated low                            0        -ln2 * q               -ln2 * 2**(W - F - 1) if signed else 0
overflow, AP_SAT_ZERO                    0        0                      0
overflow, AP_WRAP (any N)                1        -ln2 * (q - v)         0
overflow, AP_WRAP_SM, bits not inverted  1        -ln2 * (q - v)         0
overflow, AP_WRAP_SM, bits inverted      -1       -ln2 * (q + v)         0
=======================================  =======  =====================  ===========================================

They are the derivatives almost everywhere with rounding taken as the identity: q = d * v + M * s for an integer M and d = dq/dv, hence
dq/dF = -ln2 * (q - d * v). F and W are rounded with a straight-through estimator. Sources: Jain et al., "Trained Quantization Thresholds for Accurate
and Efficient Fixed-Point Inference of Deep Neural Networks", 2019 (thresholds in the log2 domain); Esser et al., "Learned Step Size Quantization",
2019 (scaling the step's gradient, here ``frac_grad_scale``).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qfx.errors import DataError
from qfx.fixed import eager, native
from qfx.fixed.plan import FLOAT32_FRAC_BITS, CastMode, Plan, plan_of
from qfx.fixed.type import FixedType, OMode  # noqa: F401 (OMode: for the doctests)

__all__ = ["CastMode", "PlainCast", "cast", "channel_moments", "quantize", "quantize_pair"]


def cast(x: Tensor, to: FixedType) -> Tensor:
    """Cast every element of ``x`` into the type ``to``; the result holds values (multiples of ``to.lsb``), in the shape of ``x``.

    The result is float32 if ``x`` is (float16 and bfloat16 count as float32) and float32 holds every value of the type, else float64; integer
    tensors count as float64. Exact for every input that the dtype of ``x`` can hold. Gradient: to ``x``, by the table above.

    Raises ExactnessError for a type wider than 53 bits, DataError for NaN, infinity or a complex tensor.

    >>> x = torch.tensor([0.30, 7.99, -9.0], requires_grad=True)
    >>> cast(x, FixedType.parse("ap_fixed<8,4,AP_RND,AP_SAT>")).tolist()
    [0.3125, 7.9375, -8.0]
    >>> cast(x, FixedType.parse("ap_fixed<8,4,AP_RND,AP_SAT>")).sum().backward()
    >>> x.grad.tolist()
    [1.0, 0.0, 0.0]
    """
    if torch.compiler.is_compiling():
        result: Tensor = torch.compiler.disable(cast)(x, to)  # type: ignore[no-untyped-call]
        return result
    mode, frac_bits = _of_type(to)
    if x.dtype is not torch.float32 and x.dtype is not torch.float64:
        x = _as_float(x)
    _refuse_nonfinite(x)
    if x.dtype is not torch.float64 and not FLOAT32_FRAC_BITS[0] <= to.frac_bits <= FLOAT32_FRAC_BITS[1]:
        x = x.double()
    if frac_bits.device != x.device:
        frac_bits = frac_bits.to(x.device)
    return quantize(x, frac_bits, to.width, mode)


def quantize(
    x: Tensor,
    frac_bits: Tensor,
    width: int | Tensor,
    mode: CastMode,
    *,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    addend: Tensor | None = None,
    negative_slope: float = 1.0,
    upper: float | None = None,
    frac_grad_scale: float = 1.0,
    check_finite: bool = False,
) -> Tensor:
    """``Cast(min(leaky(x * scale + shift + addend), upper))`` with a learned binary point and, if wanted, a learned word length.

    ``frac_bits`` broadcasts against ``x`` (shape () per tensor, (1, C, 1, 1) or (O, 1, 1, 1) per channel, the shape of ``x`` per element) and
    ``width`` is an int or a tensor of one number; both are real and rounded to the nearest integer, ties to even. ``scale`` and ``shift`` are scalars
    or vectors over axis 1, ``addend`` has the shape of ``x``, leaky(u) = u if u > 0 else u * negative_slope (1.0: no activation, 0.0: ReLU).

    Before the Cast nothing is rounded: the caller guarantees that every intermediate needs at most 53 significand bits. The result, in the shape of
    ``x``, is float32 if ``x`` and ``addend`` are and the word length is at most 24, else float64 (half types count as float32, integers as float64).

    Gradients go to every tensor, by the table at the top of this module, chained through the affine part and the activation (0 at and above
    ``upper``; ``negative_slope`` at and below 0). That of ``frac_bits`` is summed to its shape and multiplied by ``frac_grad_scale``.

    Raises ExactnessError for a word length above 53 and for a binary point outside -100..120 (float32 result) or -512..566 (float64 result);
    DataError for shapes that do not fit and, only if ``check_finite``, for NaN or infinity (unchecked they give unspecified numbers).

    >>> x, f = torch.tensor([0.3, 9.0]), torch.tensor(4.2, requires_grad=True)
    >>> q = quantize(x, f, 8, CastMode(o=OMode.SAT))
    >>> q.tolist()
    [0.25, 7.9375]
    >>> q.sum().backward()
    >>> expected = -math.log(2) * ((0.25 - float(x[0])) + 7.9375)  # in range: q - x; saturated: q
    >>> math.isclose(f.grad.item(), expected, rel_tol=1e-6)
    True
    """
    if torch.compiler.is_compiling():  # a fused pass already: torch.compile breaks the graph here instead of looking inside
        result: Tensor = torch.compiler.disable(quantize)(  # type: ignore[no-untyped-call]
            x,
            frac_bits,
            width,
            mode,
            scale=scale,
            shift=shift,
            addend=addend,
            negative_slope=negative_slope,
            upper=upper,
            frac_grad_scale=frac_grad_scale,
            check_finite=check_finite,
        )
        return result
    if x.is_neg() or frac_bits.is_neg():  # views that say minus; the fused pass reads what lies in memory
        x, frac_bits = x.resolve_neg(), frac_bits.resolve_neg()
    if scale is None and shift is None and addend is None and type(width) is int and not check_finite and x.dtype is torch.float32:
        plan = plan_of(mode, width, negative_slope, upper)
        bound = native.flat(plan, x, frac_bits)
        if bound is not None:  # the common case, with as little Python as possible
            if torch.is_grad_enabled() and (x.requires_grad or frac_bits.requires_grad):
                return _QuantizeFlat.apply(x, frac_bits, bound, frac_grad_scale)  # type: ignore[no-any-return, no-untyped-call]
            return native.forward_flat(bound, x, frac_bits)
    if x.dtype is not torch.float32 and x.dtype is not torch.float64:
        x = _as_float(x)
    if addend is not None:
        if addend.shape != x.shape:
            raise DataError(f"addend has shape {tuple(addend.shape)}, x {tuple(x.shape)}", remedy="give both the same shape")
        if addend.dtype is not x.dtype:
            x, addend = x.double(), addend.double()
    scale, shift, addend = (None if tensor is None else tensor.resolve_neg() for tensor in (scale, shift, addend))
    if isinstance(width, Tensor):
        width_parameter: Tensor | None = width
        width = round(width.detach().item())
    else:
        width_parameter = None
    plan = plan_of(mode, width, negative_slope, upper)
    if check_finite:
        for tensor in (x, scale, shift, addend):
            if tensor is not None:
                _refuse_nonfinite(tensor)
    if frac_bits.dim() and not _broadcasts(frac_bits.shape, x.shape):
        raise DataError(f"frac_bits has shape {tuple(frac_bits.shape)}, x {tuple(x.shape)}", remedy="give a shape that broadcasts to that of x")
    return _Quantize.apply(  # type: ignore[no-any-return, no-untyped-call]
        x, frac_bits, width_parameter, scale, shift, addend, plan, frac_grad_scale
    )


class PlainCast(NamedTuple):
    """The arguments of a ``quantize`` without affine part or activation."""

    x: Tensor
    frac_bits: Tensor
    width: int | Tensor
    mode: CastMode
    frac_grad_scale: float


def quantize_pair(a: PlainCast, b: PlainCast) -> tuple[Tensor, Tensor]:
    """``quantize`` twice, as one step of autograd where that is possible: for small layers the steps cost more than the numbers."""
    pair = _flat_plan(a), _flat_plan(b)
    if pair[0] is None or pair[1] is None or not torch.is_grad_enabled():
        first, second = (quantize(c.x, c.frac_bits, c.width, c.mode, frac_grad_scale=c.frac_grad_scale) for c in (a, b))
        return first, second
    grad_scales = a.frac_grad_scale, b.frac_grad_scale
    return _QuantizePair.apply(a.x, a.frac_bits, b.x, b.frac_bits, pair, grad_scales)  # type: ignore[no-any-return, no-untyped-call]


def _flat_plan(c: PlainCast) -> native.Bound | None:
    """What ``native.forward_flat`` needs, if it can do the cast."""
    if type(c.width) is not int or c.x.dtype is not torch.float32 or c.x.is_neg() or c.frac_bits.is_neg() or torch.compiler.is_compiling():
        return None
    return native.flat(plan_of(c.mode, c.width, 1.0, None), c.x, c.frac_bits)


def channel_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per channel (axis 1) over all other axes: two float64 vectors, accumulated in float64; no gradient.

    >>> mean, variance = channel_moments(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    >>> mean.tolist(), variance.tolist()
    ([2.0, 5.0], [1.0, 0.0])
    """
    if torch.compiler.is_compiling():
        moments: tuple[Tensor, Tensor] = torch.compiler.disable(channel_moments)(x)  # type: ignore[no-untyped-call]
        return moments
    if x.dim() < 2 or x.numel() == 0:
        raise DataError(f"no channels or no elements in shape {tuple(x.shape)}", remedy="give a tensor of shape (N, C, ...) that is not empty")
    x = x.detach().resolve_neg()
    if x.dtype is not torch.float32 and x.dtype is not torch.float64:
        x = _as_float(x)
    return native.channel_moments(x) or eager.channel_moments(x)


class _Quantize(torch.autograd.Function):
    """One fused forward, one fused backward; keeps the inputs only."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        frac_bits: Tensor,
        width: Tensor | None,
        scale: Tensor | None,
        shift: Tensor | None,
        addend: Tensor | None,
        plan: Plan,
        frac_grad_scale: float,
    ) -> Tensor:
        ctx.save_for_backward(x, frac_bits, width, scale, shift, addend)
        ctx.plan, ctx.frac_grad_scale = plan, frac_grad_scale
        return _forward(plan, x, frac_bits, scale, shift, addend)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _once_backward(ctx, grad) if torch.is_grad_enabled() else _backward(ctx, grad)


class _QuantizeFlat(torch.autograd.Function):
    """``_Quantize`` for what ``native.flat`` takes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, frac_bits: Tensor, bound: native.Bound, frac_grad_scale: float) -> Tensor:
        ctx.save_for_backward(x, frac_bits)
        ctx.call = (bound, frac_grad_scale)
        return native.forward_flat(bound, x, frac_bits)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _once_backward_flat(ctx, grad) if torch.is_grad_enabled() else _backward_flat(ctx, grad)


class _QuantizePair(torch.autograd.Function):
    """Two of ``_QuantizeFlat``."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, x_bits: Tensor, y: Tensor, y_bits: Tensor, bounds: tuple[native.Bound, native.Bound], grad_scales: tuple[float, float]
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, x_bits, y, y_bits)
        ctx.call = (*bounds, *grad_scales)
        return native.forward_flat(bounds[0], x, x_bits), native.forward_flat(bounds[1], y, y_bits)

    @staticmethod
    def backward(ctx: Any, grad_x: Tensor, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        return (_once_backward_pair if torch.is_grad_enabled() else _backward_pair)(ctx, grad_x, grad_y)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, frac_bits, width, scale, shift, addend = ctx.saved_tensors
    grad = grad.resolve_neg()
    plan, grad_scale, needs = ctx.plan, ctx.frac_grad_scale, ctx.needs_input_grad
    parameters = needs[1] or needs[3] or needs[4]
    grads = native.backward(plan, grad, x, frac_bits, scale, shift, addend, grad_scale, parameters, needs[2])
    if grads is None:
        grads = eager.backward(plan, grad, x, frac_bits, scale, shift, addend, grad_scale)
    by_x, by_frac, by_width, by_scale, by_shift, by_addend = grads
    by_width = by_width.to(width.dtype).reshape(width.shape) if needs[2] and by_width is not None else None
    return by_x, by_frac, by_width, by_scale, by_shift, by_addend, None, None


def _backward_flat(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, frac_bits = ctx.saved_tensors
    bound, grad_scale = ctx.call
    by_x, by_frac = native.backward_flat(bound, grad.resolve_neg(), x, frac_bits, grad_scale, ctx.needs_input_grad[1])
    return by_x, by_frac, None, None


def _backward_pair(ctx: Any, grad_x: Tensor, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    x, x_bits, y, y_bits = ctx.saved_tensors
    x_bound, y_bound, x_grad_scale, y_grad_scale = ctx.call
    needs = ctx.needs_input_grad
    by_x = native.backward_flat(x_bound, grad_x.resolve_neg(), x, x_bits, x_grad_scale, needs[1])
    by_y = native.backward_flat(y_bound, grad_y.resolve_neg(), y, y_bits, y_grad_scale, needs[3])
    return *by_x, *by_y, None, None


_once_backward = once_differentiable(_backward)  # refuses a second derivative; costs time, so used only where one could be asked for
_once_backward_flat = once_differentiable(_backward_flat)
_once_backward_pair = once_differentiable(_backward_pair)


def _forward(plan: Plan, x: Tensor, frac_bits: Tensor, scale: Tensor | None, shift: Tensor | None, addend: Tensor | None) -> Tensor:
    result = native.forward(plan, x, frac_bits, scale, shift, addend)
    return eager.forward(plan, x, frac_bits, scale, shift, addend) if result is None else result


@lru_cache(maxsize=4096)
def _of_type(to: FixedType) -> tuple[CastMode, Tensor]:
    return CastMode.of(to), torch.tensor(float(to.frac_bits), dtype=torch.float32, device="cpu")


@lru_cache(maxsize=4096)
def _broadcasts(shape: torch.Size, to: torch.Size) -> bool:
    """Whether ``shape`` broadcasts to exactly ``to``."""
    return len(shape) <= len(to) and all(a in (1, b) for a, b in zip(reversed(shape), reversed(to), strict=False))


def _as_float(x: Tensor) -> Tensor:
    if x.dtype in (torch.float16, torch.bfloat16):
        return x.float()
    if x.is_complex():
        raise DataError("a complex tensor has no fixed-point value", remedy="cast its real and imaginary parts")
    return x.double()


def _refuse_nonfinite(x: Tensor) -> None:
    """A sum is finite only if all of its terms are: one cheap pass decides almost always."""
    if x.numel() == 0 or math.isfinite(float(x.detach().sum())):
        return
    finite = torch.isfinite(x.detach()).reshape(-1)
    if not bool(finite.all()):
        index = int((~finite).nonzero()[0])
        value = float(x.detach().reshape(-1)[index])
        raise DataError(f"{value} at flat index {index} of a tensor of shape {tuple(x.shape)}", remedy="remove NaN and infinity from the data")
