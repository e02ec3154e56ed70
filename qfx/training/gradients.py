"""Backward passes in fixed point: gradients of few bits behind casts, weights that have no float master, and loss scaling."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from qfx.errors import QfxError
from qfx.fixed import stochastic
from qfx.nn.model import quantizers
from qfx.nn.qtensor import QTensor
from qfx.nn.quantizer import Quantizer

LARGE = 0.05
"""The share of a tensor's gradients that counts as large."""

_WINDOW = 3
"""How many binary points below that of the greatest gradient are tried."""


class FixedGradients:
    """Gradients of ``bits`` bits, signed, with a power-of-two scale for each tensor, at every cast that ``pattern`` matches, from now on.

    What arrives at a cast in the backward pass is rounded to fixed point there, before it goes on to layers and weights, whose products then are
    those of integers. The interval adapts: in each backward pass that binary point is taken with which the *large* gradients (the greatest LARGE
    share in magnitude) have the least squared error, of those that hold the greatest and some finer ones, which clip it. ``seed``: stochastic
    rounding, another draw in each pass (None: to nearest). ``close()`` ends it. The last binary point is in ``frac_bits`` by the quantizer's name.

    Source: Kim et al., "Toward INT4 Fixed-Point Training via Exploring Quantization Error for Gradients", ECCV 2024, arXiv 2407.12637: the error of
    large gradients, not of all, decides about training, and the interval is adapted to it. (Theirs moves the interval by a rule from step to step;
    here all candidates are tried, and scales are powers of two.) Raises QfxError for a pattern that matches nothing, or bits that are not 2 to 16.
    """

    bits: int
    seed: int | None

    def __init__(self, qmodel: nn.Module, bits: int = 4, *, seed: int | None = 0, pattern: str = "*.output") -> None:
        if bits not in range(2, 17):
            raise QfxError(f"bits is {bits!r}", where="FixedGradients", remedy="use 2 to 16")
        self.bits, self.seed = bits, seed
        self.frac_bits: dict[str, int] = {}
        self._casts = [cast for name, cast in quantizers(qmodel) if fnmatch.fnmatchcase(name, pattern)]
        if not self._casts:
            raise QfxError(f"the pattern {pattern!r} matches nothing", where="FixedGradients", remedy="use a quantizer's name, such as '*.output'")
        for cast in self._casts:
            cast.behind = (*cast.behind, self._cast)
        self._passes = 0

    def __repr__(self) -> str:
        return f"FixedGradients({self.bits} bits{_rounding(self.seed)}, behind {len(self._casts)} casts)"

    def close(self) -> None:
        for cast in self._casts:
            cast.behind = tuple(change for change in cast.behind if change != self._cast)

    def _cast(self, cast: Quantizer, result: QTensor) -> QTensor:
        value = result.value
        return QTensor(_Backward.apply(value, self, cast.name), result.interval) if value.requires_grad else result  # type: ignore[no-untyped-call]

    def fixed(self, grad: Tensor, name: str) -> Tensor:
        """The gradient in fixed point."""
        self._passes += 1
        point = best_point(grad, self.bits)
        if point is None:
            return grad
        self.frac_bits[name] = point
        seed = None if self.seed is None else self.seed + (self._passes << 20)
        return rounded(grad, point, self.bits, seed)


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: FixedGradients, name: str) -> Tensor:
        ctx.gradients, ctx.name = gradients, name
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.gradients.fixed(grad, ctx.name), None, None


def best_point(grad: Tensor, bits: int, large: float = LARGE) -> int | None:
    """The fractional bits with which the large numbers of ``grad`` have the least squared error, rounded to nearest; None if all are 0."""
    size = grad.detach().abs().flatten().double()
    top = float(size.max()) if size.numel() else 0.0
    if not top or not math.isfinite(top):
        return None
    some = size.topk(max(int(large * size.numel()), 1)).values
    coarsest = bits - 2 - math.frexp(top)[1] + 1  # holds the greatest: top * 2**F < 2**(bits - 1)
    points = range(coarsest - 1, coarsest + _WINDOW + 1)
    errors = [float((_clipped(torch.round(some * 2.0**point), bits) * 2.0**-point - some).square().sum()) for point in points]
    return points[errors.index(min(errors))]


def rounded(x: Tensor, frac_bits: int, bits: int, seed: int | None) -> Tensor:
    """``x`` in a signed word, symmetric: to nearest (of two to even), or stochastically by ``qfx.fixed.stochastic``."""
    if seed is None:
        raw = torch.round(x.detach().double() * 2.0**frac_bits)
    else:
        raw = torch.from_numpy(stochastic.round_array(x.detach().double().cpu().numpy(), frac_bits, seed)).to(x.device).double()
    return (_clipped(raw, bits) * 2.0**-frac_bits).to(x.dtype)


def _rounding(seed: int | None) -> str:
    return " to nearest" if seed is None else f", stochastically from seed {seed}"


def _clipped(raw: Tensor, bits: int) -> Tensor:
    most = 2.0 ** (bits - 1) - 1
    return raw.clamp(-most, most)


class FixedWeights:
    """Weights that are themselves fixed point in training: ``settle()`` behind each ``optimizer.step()`` rounds every parameter to ``bits`` bits.

    No float master copy is left: a step smaller than half a last place is lost, if rounded to nearest, and has its effect in expectation, if rounded
    stochastically (``seed``), bit for bit the same each time. Binary points are chosen once, by the greatest magnitude and one bit of headroom.
    Source: Gupta et al., "Deep Learning with Limited Numerical Precision", 2015; see the survey of low-precision training on docs/methods.md.
    All of ``parameters`` that are trained are rounded: of a quantized model ``parameters()`` are its learned binary points, too, so name those that
    are meant. Raises QfxError for bits that are not 2 to 32, or where nothing is trained.
    """

    bits: int
    seed: int | None
    frac_bits: list[int]

    def __init__(self, parameters: Iterable[nn.Parameter], bits: int = 16, *, seed: int | None = 0) -> None:
        if bits not in range(2, 33):
            raise QfxError(f"bits is {bits!r}", where="FixedWeights", remedy="use 2 to 32")
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        if not self._parameters:
            raise QfxError("no parameter that is trained", where="FixedWeights", remedy="give parameters with requires_grad, in a list or once")
        self.bits, self.seed, self._steps = bits, seed, 0
        tops = [max(float(parameter.detach().abs().max()) if parameter.numel() else 0.0, 2.0**-30) for parameter in self._parameters]
        self.frac_bits = [bits - 2 - math.frexp(top)[1] for top in tops]
        self.settle()

    def __repr__(self) -> str:
        return f"FixedWeights({self.bits} bits{_rounding(self.seed)}, {len(self._parameters)} parameters)"

    def settle(self) -> None:
        """Round all parameters, in place."""
        with torch.no_grad():
            for place, (parameter, point) in enumerate(zip(self._parameters, self.frac_bits, strict=True)):
                seed = None if self.seed is None else self.seed + (self._steps << 32) + (place << 16)
                parameter.copy_(rounded(parameter, point, self.bits, seed))
        self._steps += 1


class LossScale:
    """Dynamic loss scaling by powers of two: ``scale.backward(loss)``, then ``if scale.ready(parameters): optimizer.step()``.

    Gradients that would vanish in few bits are lifted by ``value``; ``ready`` takes it out again, exactly, halves it and says False where a gradient
    is not finite, and doubles it after ``patience`` good steps. Source: Micikevicius et al., "Mixed Precision Training", 2018. Raises QfxError for a
    value that is not positive and finite.
    """

    value: float
    patience: int

    def __init__(self, value: float = 2.0**10, patience: int = 500) -> None:
        if not 0 < value < float("inf"):
            raise QfxError(f"the value is {value!r}", where="LossScale", remedy="use a power of two, such as 1024")
        self.value, self.patience, self._good = 2.0 ** round(math.log2(value)), patience, 0

    def __repr__(self) -> str:
        return f"LossScale({self.value:g}, patience={self.patience})"

    def backward(self, loss: Tensor) -> None:
        (loss * self.value).backward()  # type: ignore[no-untyped-call]

    def ready(self, parameters: Iterable[nn.Parameter]) -> bool:
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if not all(bool(torch.isfinite(grad).all()) for grad in grads):
            self.value, self._good = self.value / 2, 0
            return False
        for grad in grads:
            grad.div_(self.value)
        self._good += 1
        if self._good == self.patience:
            self.value, self._good = self.value * 2, 0
        return True
