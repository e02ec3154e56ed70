"""BatchNorm in both of its fixed-point forms: an affine step of its own, and folded into the layer before it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from qfx.errors import DataError, ExactnessError
from qfx.fixed.kernel import channel_moments
from qfx.nn.qtensor import QTensor
from qfx.nn.quantizer import Quantizer, finest
from qfx.recipe import Recipe, Spec

REMEMBERED = 8
"""So many batches back, activation checkpointing can run the forward of a BatchNorm again."""


class FoldedNorm(NamedTuple):
    """What a folded BatchNorm hands to the layer before it: ``scale`` and ``shift`` per channel, and in training ``observe``, which is shown
    that layer's products and its bias, and gives the products back with the gradient of a normalized batch.
    """

    scale: Tensor
    shift: Tensor
    observe: Callable[[Tensor, Tensor | None], Tensor] | None


class _Seen(NamedTuple):
    """The moments of a batch in training, and the running statistics that its forward computed with."""

    mean: Tensor
    variance: Tensor
    running_mean: Tensor
    running_var: Tensor


class Norm(nn.Module):
    """BatchNorm's parameters and running statistics under their usual names.

    The forward computes with the running statistics in training too, and moves them afterwards. Where a backward pass runs the forward again
    (``torch.utils.checkpoint``), it computes with the statistics of the first time, and moves nothing.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, source: nn.BatchNorm1d | nn.BatchNorm2d, name: str) -> None:
        super().__init__()
        self.name = name
        self.eps, self.momentum = source.eps, source.momentum
        self.register_parameter("weight", source.weight)
        self.register_parameter("bias", source.bias)
        for buffer in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(buffer, getattr(source, buffer))
        self._seen: deque[_Seen] = deque(maxlen=REMEMBERED)

    def affine(self, seen: _Seen | None = None) -> tuple[Tensor, Tensor]:
        """(scale, shift) in float: y = x * scale + shift, from the running statistics, or from those of an earlier forward."""
        mean, variance = (self.running_mean, self.running_var) if seen is None else (seen.running_mean, seen.running_var)
        if torch.compiler.is_compiling():  # a compiled backward would read the statistics after they have moved
            result: tuple[Tensor, Tensor] = torch.compiler.disable(self._affine)(mean, variance)  # type: ignore[no-untyped-call]
            return result
        return self._affine(mean, variance)

    def _affine(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        scale = torch.rsqrt(variance + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        shift = -mean * scale
        return scale, shift if self.bias is None else shift + self.bias

    def update(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics towards a batch's mean and biased variance over ``count`` numbers, as ``torch.nn.BatchNorm2d`` does."""
        with torch.no_grad():
            self.num_batches_tracked += 1
            step = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
            self.running_mean.lerp_(mean.to(self.running_mean), step)
            self.running_var.lerp_((variance * (count / max(count - 1, 1))).to(self.running_var), step)

    def check_batch(self, x: Tensor) -> int:
        """How many numbers a batch has per channel. Raises DataError for a single one, of which no variance can be taken, as torch does."""
        count = x.numel() // x.shape[1]
        if count < 2:
            raise DataError(
                f"a batch of shape {tuple(x.shape)} has one value per channel, which has no variance",
                where=self.name,
                remedy="train with larger batches (drop_last=True in the DataLoader), or put this BatchNorm in evaluation mode",
            )
        return count

    def remember(self, mean: Tensor, variance: Tensor) -> None:
        """Keep the statistics that this forward computed with, for the case that a backward pass runs it again."""
        self._seen.append(_Seen(mean, variance, self.running_mean.clone(), self.running_var.clone()))

    def recall(self, mean: Tensor, variance: Tensor) -> _Seen:
        """What was remembered of the forward of the batch with these moments. ExactnessError if it is too long ago, or was none of this batch."""
        for seen in reversed(self._seen):
            if torch.equal(seen.mean, mean) and torch.equal(seen.variance, variance):
                return seen
        raise ExactnessError(
            "a backward pass runs the forward of a batch again that is not among the last ones",
            where=self.name,
            remedy=f"run at most {REMEMBERED} forwards before their backward, or use no activation checkpointing for this layer",
        )

    @property
    def is_untrained(self) -> bool:
        """Whether no batch ever moved the statistics. The counter alone does not tell: old checkpoints have none."""
        return int(self.num_batches_tracked) == 0 and bool((self.running_mean == 0).all()) and bool((self.running_var == 1).all())

    def start_from(self, x: Tensor) -> None:
        """Take the statistics of ``x``, so that the first forward of an untrained model is normalized."""
        mean, variance = channel_moments(x)
        self.running_mean.copy_(mean)
        self.running_var.copy_(variance)


class QBatchNorm(Norm):
    """BatchNorm as a fixed-point affine step: ``x * scale + shift`` per channel, both cast, the arithmetic exact.

    The scale and shift come from the running statistics in training too, so that the forward value never depends on the mode; training then
    moves the statistics for the next step, as PyTorch's BatchNorm does (``eval()`` on this module freezes them). The gradient by x in training is
    that of a batch normalized by its own statistics (Ioffe and Szegedy, "Batch Normalization", 2015): without it, networks that are trained
    from scratch do not come near their float accuracy.
    """

    def __init__(self, source: nn.BatchNorm1d | nn.BatchNorm2d, recipe: Recipe, name: str) -> None:
        super().__init__(source, name)
        self.scale_cast = Quantizer(signed_spec(recipe.spec(f"{name}.scale", "scale")), channel_axis=0, name=f"{name}.scale")
        self.shift_cast = Quantizer(signed_spec(recipe.spec(f"{name}.shift", "shift")), channel_axis=0, name=f"{name}.shift")

    def initialize(self, x: QTensor) -> None:
        if self.is_untrained:
            self.start_from(x.tensor())
        scale, shift = self.affine()
        self.scale_cast.initialize(scale)
        self.shift_cast.initialize(shift, most=finest(x.interval * self.scale_cast.interval()))

    def constants(self, seen: _Seen | None = None) -> tuple[QTensor, QTensor]:
        """The scale and the shift as the hardware sees them."""
        scale, shift = self.affine(seen)
        return self.scale_cast.with_another(scale, self.shift_cast, shift)

    def forward(self, x: QTensor) -> QTensor:
        if not self.training:
            scale, shift = self.constants()
            return x.affine(scale.value, shift.value, x.interval * scale.interval + shift.interval, where=self.name)
        value = x.tensor()
        count = self.check_batch(value)
        mean, variance = channel_moments(value)
        seen = self.recall(mean, variance) if runs_again() else None
        scale, shift = self.constants(seen)
        value = _BatchGradient.apply(value, None, mean, torch.rsqrt(variance + self.eps))  # type: ignore[no-untyped-call]
        if seen is None:
            self.move(mean, variance, count)
        return QTensor(value, x.interval).affine(scale.value, shift.value, x.interval * scale.interval + shift.interval, where=self.name)

    def move(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Remember the statistics, then move them."""
        if torch.compiler.is_compiling():
            torch.compiler.disable(self.move)(mean, variance, count)  # type: ignore[no-untyped-call]
            return
        self.remember(mean, variance)
        self.update(mean, variance, count)


class QFoldedBatchNorm(Norm):
    """BatchNorm folded into the layer before it: that layer casts ``weight * scale`` and ``bias * scale + shift``.

    In training the running statistics are moved by what the folded layer's result says about the unfolded one's; those of a channel whose
    scale is 0 stay.
    """

    def forward(self) -> FoldedNorm:
        if not self.training:
            return FoldedNorm(*self.affine(), None)
        seen = self._latest() if runs_again() else None
        return FoldedNorm(*self.affine(seen), lambda products, bias: self._observe(products, bias, seen))

    def _latest(self) -> _Seen:
        """The forward that is run again: the last one that was not, as backward passes go through forwards. ``_observe`` compares the batch."""
        if not self._seen:
            raise ExactnessError("a backward pass runs a forward again that is not known", where=self.name, remedy="please report this defect")
        return self._seen[-1]

    def _observe(self, products: Tensor, bias: Tensor | None, seen: _Seen | None) -> Tensor:
        """``products``: the folded layer's result before its bias. Its moments are the unfolded layer's, times scale (bias not counted)."""
        count = self.check_batch(products)
        scale, shift = self.affine(seen)
        exact_scale = scale.detach().double()
        silent = exact_scale.abs() < 1e-12  # a channel of weight zero says nothing about the unfolded layer
        exact_scale = torch.where(silent, torch.ones_like(exact_scale), exact_scale)
        mean, variance = channel_moments(products)
        carried = shift.detach().double()
        offset = 0.0 if bias is None else (bias.detach().double() - carried) / exact_scale  # the unfolded layer's own bias
        unfolded = variance / exact_scale.square()
        if seen is None:
            self._move(mean, variance, mean / exact_scale + offset, unfolded, silent, count)
        else:
            self.recall(mean, variance)
            self._seen.pop()
        inverse_deviation = torch.rsqrt(unfolded + self.eps) / exact_scale.abs()
        return _BatchGradient.apply(products, scale, mean, inverse_deviation)  # type: ignore[no-any-return, no-untyped-call]

    def _move(self, mean: Tensor, variance: Tensor, unfolded_mean: Tensor, unfolded: Tensor, silent: Tensor, count: int) -> None:
        if torch.compiler.is_compiling():
            torch.compiler.disable(self._move)(mean, variance, unfolded_mean, unfolded, silent, count)  # type: ignore[no-untyped-call]
            return
        self.remember(mean, variance)
        old_mean, old_variance = self.running_mean.clone(), self.running_var.clone()
        self.update(unfolded_mean, unfolded, count)
        self.running_mean.copy_(torch.where(silent, old_mean, self.running_mean))
        self.running_var.copy_(torch.where(silent, old_variance, self.running_var))


class _BatchGradient(torch.autograd.Function):
    """``x`` itself, with the gradient of BatchNorm in training.

    ``mean`` and ``inverse_deviation``: those of the batch, per channel. With n = (x - mean) * inverse_deviation, the gradient g becomes
    g - mean(g) - n * mean(g * n): what changing x does to a result that is normalized anew for every batch. If x is a product with ``scale`` per
    channel whose own gradient was cut off, that is sum(g * x) / scale (0 where the scale is 0).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor | None, mean: Tensor, inverse_deviation: Tensor) -> Tensor:
        ctx.save_for_backward(x, scale, mean, inverse_deviation)
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, mean, inverse_deviation = ctx.saved_tensors
        mean, inverse_deviation = mean.to(x), inverse_deviation.to(x)
        wanted = [True, scale is not None, scale is not None]
        by_x, by_n, total = torch.ops.aten.native_batch_norm_backward(
            grad.contiguous(), x, inverse_deviation.reciprocal(), None, None, mean, inverse_deviation, True, 0.0, wanted
        )
        if scale is None:
            return by_x, None, None, None
        by_scale = (by_n / inverse_deviation + mean * total) / scale
        return by_x, torch.where(scale.abs() < 1e-12, torch.zeros_like(scale), by_scale.to(scale)), None, None


def signed_spec(spec: Spec) -> Spec:
    """Constants are signed unless the recipe says otherwise."""
    return spec if spec.signed is not None else replace(spec, signed=True)


def runs_again() -> bool:
    """Whether a backward pass is under way in this thread: a forward is then one that activation checkpointing runs again."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._current_graph_task_id() != -1
