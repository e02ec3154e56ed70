"""The differentiable Cast of torch tensors: exact forward in every mode, surrogate gradients for values, binary points and word lengths.

The forward is ``overflow(round(v * 2**F)) * 2**-F``, equal to ``reference.py`` bit for bit, and never depends on training, tracing or grad mode. The
backward recomputes the Cast from what is alive anyway, so that nothing but the inputs is kept. Three executors give the same bits: ``native.py`` (one
fused C++ pass), ``gpu/`` (one in Triton) and ``eager.py`` (torch operators). Here it is decided, call by call, in which floats a result comes and
which way it is computed; ``step.py`` goes that way, forward and backward.

Gradients, with s = 2**-F the least significant bit, q = Cast(v), and "in range" decided on the rounded value (7.99 that rounds up into overflow is
saturated):

=======================================  =======  =====================
case, the word length fixed              dq/dv    dq/dF
=======================================  =======  =====================
in range, any mode                       1        -ln2 * (q - v)
saturated (AP_SAT, AP_SAT_SYM)           0        -ln2 * q
overflow, AP_SAT_ZERO                    0        0
overflow, AP_WRAP (any N)                1        -ln2 * (q - v)
overflow, AP_WRAP_SM, bits not inverted  1        -ln2 * (q - v)
overflow, AP_WRAP_SM, bits inverted      -1       -ln2 * (q + v)
=======================================  =======  =====================

They are the derivatives almost everywhere with rounding taken as the identity: q = d * v + M * s for an integer M and d = dq/dv, hence
dq/dF = -ln2 * (q - d * v). With integer bits I (``int_bits``) each binary point has a word length of its own, W = I + F, between 0 and the width.
Then F is the resolution at a fixed range and I the range at a fixed resolution, with B = 2**(I - 1) if signed, else 2**I:

=======================================  =======  =====================  ===================
case, W = I + F                          dq/dv    dq/dF                  dq/dI
=======================================  =======  =====================  ===================
in range                                 1        -ln2 * (q - v)         0
saturated high, q = B - s                0        ln2 * s                ln2 * B
saturated low, q = -B (AP_SAT)           0        0                      -ln2 * B
saturated low, q = s - B (AP_SAT_SYM)    0        -ln2 * s               -ln2 * B
saturated low, unsigned                  0        0                      0
overflow, AP_WRAP with N = 0             1        -ln2 * (q - v)         0
no bits, q = 0                           1        ln2 * v                0
=======================================  =======  =====================  ===================

In range the expected square of the error is s**2 / 12, whose derivative by F these give in expectation: 2 * (q - v) * dq/dF averages -2 * ln2 *
s**2 / 12. Where no bits are left q is 0 whatever F is; F and v keep the gradients that they would have in range of a word with some, so that what
was pruned can come back. F and I are rounded with a straight-through estimator. Sources: Jain et al., "Trained Quantization Thresholds for Accurate
and Efficient Fixed-Point Inference of Deep Neural Networks", 2019 (thresholds in the log2 domain); Esser et al., "Learned Step Size Quantization",
2019 (scaling the step's gradient, here ``frac_grad_scale``); Sun et al., "HGQ: High Granularity Quantization", 2024, arXiv 2405.00645 (a resolution
for each element, down to none).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from qfx.errors import DataError
from qfx.fixed import eager, native, step
from qfx.fixed.gpu import launch
from qfx.fixed.plan import FLOAT32_FRAC_BITS, CastMode, plan_of
from qfx.fixed.step import Flat, Pair, Step, Whole
from qfx.fixed.type import FixedType, OMode

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
    if torch.compiler.is_dynamo_compiling():
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
    width: int,
    mode: CastMode,
    *,
    int_bits: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    addend: Tensor | None = None,
    negative_slope: float = 1.0,
    upper: float | None = None,
    frac_grad_scale: float = 1.0,
    check_finite: bool = False,
) -> Tensor:
    """``Cast(min(leaky(x * scale + shift + addend), upper))`` with learned binary points and, if wanted, learned word lengths.

    ``frac_bits`` broadcasts against ``x`` (shape () per tensor, (1, C, 1, 1) or (O, 1, 1, 1) per channel, the shape of ``x`` per element);
    ``int_bits`` has its shape and dtype and makes the word length of each binary point int_bits + frac_bits, at least 0 and at most ``width``,
    instead of ``width``. Both are real and rounded to the nearest integer, ties to even. ``scale`` and ``shift`` are scalars or vectors over axis 1,
    ``addend`` has the shape of ``x``, leaky(u) = u if u > 0 else u * negative_slope (1.0: no activation, 0.0: ReLU).

    Before the Cast nothing is rounded: the caller guarantees that every intermediate needs at most 53 significand bits. The result, in the shape of
    ``x``, is float32 if ``x`` and ``addend`` are and the word length is at most 24, else float64 (half types count as float32, integers as float64).

    Gradients go to every tensor, by the tables at the top of this module, chained through the affine part and the activation (0 at and above
    ``upper``; ``negative_slope`` at and below 0). Those of ``frac_bits`` and ``int_bits`` are summed to their shape and multiplied by
    ``frac_grad_scale``.

    Raises ExactnessError for a word length above 53 and for a binary point outside -100..120 (float32 result) or -512..566 (float64 result);
    DataError for ``int_bits`` under other modes than AP_SAT, AP_SAT_SYM and AP_WRAP with N = 0, for shapes that do not fit
    and, only if ``check_finite``, for NaN or infinity (unchecked they give unspecified numbers).

    >>> x, f = torch.tensor([0.3, 9.0]), torch.tensor(4.2, requires_grad=True)
    >>> q = quantize(x, f, 8, CastMode(o=OMode.SAT))
    >>> q.tolist()
    [0.25, 7.9375]
    >>> q.sum().backward()
    >>> expected = -math.log(2) * ((0.25 - float(x[0])) + 7.9375)  # in range: q - x; saturated: q
    >>> math.isclose(f.grad.item(), expected, rel_tol=1e-6)
    True
    """
    if torch.compiler.is_dynamo_compiling():  # a fused pass already: torch.compile breaks the graph here instead of looking inside
        result: Tensor = torch.compiler.disable(quantize)(  # type: ignore[no-untyped-call]
            x,
            frac_bits,
            width,
            mode,
            int_bits=int_bits,
            scale=scale,
            shift=shift,
            addend=addend,
            negative_slope=negative_slope,
            upper=upper,
            frac_grad_scale=frac_grad_scale,
            check_finite=check_finite,
        )
        return result
    plain = scale is None and shift is None and addend is None and int_bits is None and not check_finite
    if plain and torch.is_grad_enabled():
        given = step.plain(x, frac_bits, width, mode, negative_slope, upper, frac_grad_scale)
        if given is not None:  # the common case, with as little Python as possible
            return given
    if x.is_neg() or frac_bits.is_neg():  # views that say minus; the fused pass reads what lies in memory
        x, frac_bits = x.resolve_neg(), frac_bits.resolve_neg()
    if plain:
        bound = native.flat(x, frac_bits, mode, width, negative_slope, upper)
        if bound is not None:
            if torch.is_grad_enabled() and (x.requires_grad or frac_bits.requires_grad):
                return Step.apply(Flat(bound, frac_grad_scale), x, frac_bits)  # type: ignore[no-any-return, no-untyped-call]
            return native.forward_flat(bound, x, frac_bits)
    x, addend = _floats(x, addend)
    if scale is not None:
        scale = scale.resolve_neg()
    if shift is not None:
        shift = shift.resolve_neg()
    if addend is not None:
        addend = addend.resolve_neg()
    if int_bits is not None:
        _check_int_bits(mode, frac_bits, int_bits)
        int_bits = int_bits.resolve_neg()
    plan = plan_of(mode, width, negative_slope, upper)
    if check_finite:
        for tensor in (x, scale, shift, addend):
            if tensor is not None:
                _refuse_nonfinite(tensor)
    if frac_bits.dim() and not _broadcasts(frac_bits.shape, x.shape):
        raise DataError(f"frac_bits has shape {tuple(frac_bits.shape)}, x {tuple(x.shape)}", remedy="give a shape that broadcasts to that of x")
    executor = native if x.is_cpu else launch
    way = Whole(plan, executor.fused(plan, x, frac_bits, int_bits, scale, shift, addend), frac_grad_scale)
    return step.whole(way, x, frac_bits, int_bits, scale, shift, addend)


class PlainCast(NamedTuple):
    """The arguments of a ``quantize`` without affine part or activation."""

    x: Tensor
    frac_bits: Tensor
    width: int
    mode: CastMode
    frac_grad_scale: float
    int_bits: Tensor | None = None


def quantize_pair(a: PlainCast, b: PlainCast) -> tuple[Tensor, Tensor]:
    """``quantize`` twice, as one step of autograd where that is possible: for small layers the steps cost more than the numbers."""
    if a.int_bits is None and b.int_bits is None and torch.is_grad_enabled() and not torch.compiler.is_dynamo_compiling():
        found = [step.plain(c.x, c.frac_bits, c.width, c.mode, 1.0, None, c.frac_grad_scale) for c in (a, b)]
        if found[0] is not None and found[1] is not None:
            return found[0], found[1]
    a_bound, b_bound = _flat(a), _flat(b)
    if a_bound is None or b_bound is None or not torch.is_grad_enabled():
        both = (a, b)
        first, second = (quantize(c.x, c.frac_bits, c.width, c.mode, int_bits=c.int_bits, frac_grad_scale=c.frac_grad_scale) for c in both)
        return first, second
    way = Pair(a_bound, b_bound, a.frac_grad_scale, b.frac_grad_scale)
    return Step.apply(way, a.x, a.frac_bits, b.x, b.frac_bits)  # type: ignore[no-any-return, no-untyped-call]


def _flat(c: PlainCast) -> native.Bound | None:
    if c.int_bits is not None or c.x.is_neg() or c.frac_bits.is_neg() or torch.compiler.is_dynamo_compiling():
        return None
    return native.flat(c.x, c.frac_bits, c.mode, c.width, 1.0, None)


def _check_int_bits(mode: CastMode, frac_bits: Tensor, int_bits: Tensor) -> None:
    if mode.n or mode.o not in (OMode.SAT, OMode.SAT_SYM, OMode.WRAP):
        raise DataError(f"word lengths of their own under {mode.o.value} (n={mode.n})", remedy="use AP_SAT, AP_SAT_SYM or AP_WRAP with n = 0")
    if int_bits.shape != frac_bits.shape or int_bits.dtype is not frac_bits.dtype:
        shapes = f"int_bits has shape {tuple(int_bits.shape)} ({int_bits.dtype}), frac_bits {tuple(frac_bits.shape)} ({frac_bits.dtype})"
        raise DataError(shapes, remedy="give both the same shape and dtype")


def _floats(x: Tensor, addend: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Both as float32 or both as float64."""
    if x.dtype is not torch.float32 and x.dtype is not torch.float64:
        x = _as_float(x)
    if addend is None:
        return x, None
    if addend.shape != x.shape:
        raise DataError(f"addend has shape {tuple(addend.shape)}, x {tuple(x.shape)}", remedy="give both the same shape")
    return (x, addend) if addend.dtype is x.dtype else (x.double(), addend.double())


def channel_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per channel (axis 1) over all other axes: two float64 vectors, accumulated in float64; no gradient.

    >>> mean, variance = channel_moments(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    >>> mean.tolist(), variance.tolist()
    ([2.0, 5.0], [1.0, 0.0])
    """
    if torch.compiler.is_dynamo_compiling():
        moments: tuple[Tensor, Tensor] = torch.compiler.disable(channel_moments)(x)  # type: ignore[no-untyped-call]
        return moments
    if x.dim() < 2 or x.numel() == 0:
        raise DataError(f"no channels or no elements in shape {tuple(x.shape)}", remedy="give a tensor of shape (N, C, ...) that is not empty")
    x = x.detach().resolve_neg()
    if x.dtype is not torch.float32 and x.dtype is not torch.float64:
        x = _as_float(x)
    return native.channel_moments(x) or eager.channel_moments(x)


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
