"""BatchNorm in both of its fixed-point forms: an affine step of its own, and folded into the layer before it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from qfx import operators as ops
from qfx.distributed.ranks import Moments, Ranks, other_processes
from qfx.errors import DataError, QfxError
from qfx.fixed.kernel import channel_moments
from qfx.fixed.layout import memory_format
from qfx.nn.call import Call, Family, Layers
from qfx.nn.casts import room
from qfx.nn.casts.told import Question
from qfx.nn.clipped import Clipped
from qfx.nn.fixed_layer import FixedLayer, Own, Steps, Traits, constant
from qfx.nn.past import Past, Statistics, backward_pass, unknown
from qfx.nn.qtensor import QTensor
from qfx.nn.quantizer import Quantizer, finest
from qfx.recipe import Recipe, Spec


class FoldedNorm(NamedTuple):
    """What a folded BatchNorm hands to the layer before it: ``scale`` and ``shift`` per channel, and in training ``observe``, which is shown
    that layer's products and its bias, and gives the products back with the gradient of a normalized batch. Inside a backward pass there is
    ``recall`` as well: told what products a FoldedNorm gives, it finds the one that the forward had which is computed again.
    """

    scale: Tensor
    shift: Tensor
    observe: Callable[[Tensor, Tensor | None], Tensor] | None
    recall: Callable[[Callable[[FoldedNorm], Tensor]], FoldedNorm] | None = None


class Norm(FixedLayer, abstract=True):
    """BatchNorm's parameters and running statistics under their usual names.

    The forward computes with the running statistics in training too, and moves them afterwards. Where a backward pass runs the forward again
    (``torch.utils.checkpoint``), it computes with the statistics of the first time, and moves nothing. All calls in one forward of the model compute
    with the statistics at its start, though each moves them.
    """

    name: str
    eps: float
    momentum: float | None

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=False, reads_uncast=True, called_again="shared", holds_constants=True)

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    kind: str = ""
    """The class of the torch layer."""
    frozen: bool = False
    """Whether the statistics stay in training too (``qfx.freeze``)."""
    ranks: Ranks | None = None
    """The processes whose batches count as one (``qfx.synchronize``)."""
    _start: Statistics | None = None  # those at the start of the forward of the model that is going on, of a norm that it calls several times

    def __init__(self, source: nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm, name: str) -> None:
        super().__init__()
        self.name, self.kind = name, type(source).__name__
        self.eps, self.momentum = source.eps, source.momentum
        self.register_parameter("weight", source.weight)
        self.register_parameter("bias", source.bias)
        for buffer in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(buffer, getattr(source, buffer))
        self._past = Past()

    def train(self, mode: bool = True) -> Self:
        return super().train(mode and not self.frozen)

    @contextlib.contextmanager
    def one_forward(self) -> Iterator[None]:
        """Around a forward of the whole model."""
        self._start = Statistics(self.running_mean.clone(), self.running_var.clone())
        try:
            yield
        finally:
            self._start = None

    def affine(self, used: Statistics | None = None) -> tuple[Tensor, Tensor]:
        """(scale, shift) in float: y = x * scale + shift, from the running statistics, or those that are given."""
        mean, variance = (self.running_mean, self.running_var) if used is None else used
        scale = torch.rsqrt(variance + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        shift = -mean * scale
        return scale, shift if self.bias is None else shift + self.bias

    def own_moments(self, x: Tensor) -> Moments:
        """Those of this process' batch, per channel."""
        return Moments(*channel_moments(x), x.numel() // x.shape[1])

    def whole_moments(self, own: Moments) -> Moments:
        """Those of the batches of all ranks. Raises DataError where torch would: one number says nothing about a variance."""
        if self.ranks is not None:
            own = self.ranks.moments(own)
        elif self.kind == "SyncBatchNorm" and other_processes():
            what = "a SyncBatchNorm in one of several processes that nothing keeps together"
            raise QfxError(what, where=self.name, remedy="call qfx.synchronize(qmodel) in every process before training")
        if own.numbers <= 1:
            raise DataError(
                "expected more than 1 value per channel when training: one value per channel has no variance",
                where=self.name,
                remedy="train with larger batches (drop_last=True in the DataLoader), or put this BatchNorm in evaluation mode: eval()",
            )
        return own

    def update(self, moments: Moments) -> None:
        """Move the running statistics towards a batch's, as ``torch.nn.BatchNorm2d`` does."""
        mean, variance, count = moments
        with torch.no_grad():
            running_mean, running_var = self.running_mean, self.running_var  # an attribute of a module is a search
            tracked = self.num_batches_tracked.add_(1)
            step = self.momentum if self.momentum is not None else tracked.double().reciprocal().to(running_mean)  # nobody waits for the count
            running_mean.lerp_(mean.to(running_mean), step)
            running_var.lerp_((variance * (count / max(count - 1, 1))).to(running_var), step)

    def batch_gradient(self, x: Tensor, scale: Tensor | None, moments: Moments, inverse_deviation: Tensor) -> Tensor:
        """``x`` with the gradient of a batch that is normalized, of all ranks: see ``_BatchGradient``."""
        together = None if self.ranks is None else (self.ranks, moments.numbers)
        return _BatchGradient.apply(x, scale, moments.mean, inverse_deviation, together)  # type: ignore[no-any-return, no-untyped-call]

    @property
    def is_untrained(self) -> bool:
        """Whether no batch ever moved the statistics. The counter alone does not tell: old checkpoints have none."""
        return int(self.num_batches_tracked) == 0 and bool((self.running_mean == 0).all()) and bool((self.running_var == 1).all())

    def start_from(self, x: Tensor) -> None:
        """Take the statistics of ``x``, so that the first forward of an untrained model is normalized. One value per channel has none."""
        moments = self.own_moments(x)
        if self.ranks is not None:
            moments = self.ranks.moments(moments)
        if moments.numbers <= 1:
            return
        self.running_mean.copy_(moments.mean)
        self.running_var.copy_(moments.variance)

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        """By the running statistics, whatever it reads."""
        scale, _ = self.affine()
        return Clipped.normal(torch.zeros_like(scale) if self.bias is None else self.bias, scale.abs() * self.running_var.sqrt())

    def scales_channels(self, channels: int) -> bool:
        return False


class QBatchNorm(Norm):
    """BatchNorm as a fixed-point affine step: ``x * scale + shift`` per channel, both cast, the arithmetic exact.

    The scale and shift come from the running statistics in training too, so that the forward value never depends on the mode; training then
    moves the statistics for the next step, as PyTorch's BatchNorm does (``eval()`` on this module freezes them). The gradient by x in training is
    that of a batch normalized by its own statistics (Ioffe and Szegedy, "Batch Normalization", 2015): without it, networks that are trained
    from scratch do not come near their float accuracy.
    """

    scale_cast: Quantizer
    shift_cast: Quantizer

    def __init__(self, source: nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm, recipe: Recipe, name: str) -> None:
        super().__init__(source, name)
        self.scale_cast = Quantizer(signed_spec(recipe.spec(f"{name}.scale", "scale")), channel_axis=0, name=f"{name}.scale")
        self.shift_cast = Quantizer(signed_spec(recipe.spec(f"{name}.shift", "shift")), channel_axis=0, name=f"{name}.shift")

    def initialize(self, x: QTensor) -> None:
        if self.is_untrained:
            self.start_from(x.tensor())
        scale, shift = self.affine()
        self.scale_cast.initialize(scale)
        self.shift_cast.initialize(shift, most=finest(x.interval * self.scale_cast.interval()))

    def restart(self, values: Iterable[QTensor], arguments: Callable[[], tuple[QTensor, ...]]) -> None:
        if self.is_untrained:  # its statistics are those of all batches
            parts = list(values)
            self.initialize(QTensor(torch.cat([part.tensor() for part in parts]), parts[0].interval))
        else:
            self.initialize(*arguments())

    def questions(self, arguments: Sequence[Any]) -> Iterable[Question]:
        for cast, numbers in zip((self.scale_cast, self.shift_cast), self.affine(), strict=True):
            yield from room.question(cast, numbers)

    def constants(self, used: Statistics | None = None) -> tuple[QTensor, QTensor]:
        """The scale and the shift as the hardware sees them, by the running statistics or those that are given."""
        scale, shift = self.affine(used)
        room.make_room(self.scale_cast, scale)
        room.make_room(self.shift_cast, shift)
        return self.scale_cast.with_another(scale, self.shift_cast, shift)

    def forward(self, x: QTensor) -> QTensor:
        if not self.training:
            scale, shift = self.constants()
            return x.affine(scale.value, shift.value, x.interval * scale.interval + shift.interval, where=self.name)
        value = x.tensor()
        own = self.own_moments(value)
        again = backward_pass() >= 0
        if again:
            step = self._past.recall(own, self.name)
            whole, used = step.whole, step.used
        else:
            whole = self.whole_moments(own)
            used = self._start if self._start is not None else Statistics(self.running_mean.clone(), self.running_var.clone())
        scale, shift = self.constants(used)
        value = self.batch_gradient(value, None, whole, torch.rsqrt(whole.variance + self.eps))
        if not again:
            self._past.keep(own, whole, used)
            self.update(whole)
        return QTensor(value, x.interval).affine(scale.value, shift.value, x.interval * scale.interval + shift.interval, where=self.name)

    def operators(self) -> Steps:
        scale, shift = self.constants()
        return [
            (
                "",
                ops.Affine(
                    constant(scale.value, f"{self.name}.scale", self.scale_cast.channel_grids(len(scale.value))),
                    constant(shift.value, f"{self.name}.shift", self.shift_cast.channel_grids(len(shift.value))),
                ),
            )
        ]

    def multiplied(self, bits: Sequence[Tensor], own: Own) -> Tensor:
        scale = own(self.scale_cast, self.running_mean.shape)
        return bits[0] * scale.reshape(-1, *([1] * (bits[0].dim() - 2)))

    def bits_added(self, recipe: Recipe) -> int:
        return recipe.scale.width


class QFoldedBatchNorm(Norm):
    """BatchNorm folded into the layer before it: that layer casts ``weight * scale`` and ``bias * scale + shift``.

    In training the running statistics are moved by what the folded layer's result says about the unfolded one's; those of a channel whose
    scale is 0 stay.
    """

    def forward(self) -> FoldedNorm:
        if not self.training:
            return FoldedNorm(*self.affine(), None)
        if backward_pass() >= 0:
            with torch.no_grad():  # what autograd saves must be what it saved in the forward that is computed again
                return FoldedNorm(*self.affine(), None, self._recall)
        used = Statistics(self.running_mean.clone(), self.running_var.clone())
        return FoldedNorm(*self.affine(used), partial(self._observe, used, None))

    def operators(self) -> Steps:
        return []  # the layer before it carries its scale and its shift

    def _recall(self, products: Callable[[FoldedNorm], Tensor]) -> FoldedNorm:
        """What the forward was given that is computed again: the one of the latest whose products have the moments that were seen then."""
        for step in self._past.candidates():
            with torch.no_grad():
                found = channel_moments(products(FoldedNorm(*self.affine(step.used), partial(self._observe, step.used, step.whole))))
            if self._past.is_step(step, *found):
                return FoldedNorm(*self.affine(step.used), partial(self._observe, step.used, step.whole))
        raise unknown(self.name)

    def _observe(self, used: Statistics, known: Moments | None, products: Tensor, bias: Tensor | None) -> Tensor:
        """``products``: the folded layer's result before its bias. Its moments are the unfolded layer's, times scale (bias not counted); ``known``
        where they are recalled."""
        scale, shift = self.affine(used)
        exact_scale = scale.detach().double()
        silent = exact_scale.abs() < 1e-12  # a channel of weight zero says nothing about the unfolded layer
        exact_scale = torch.where(silent, torch.ones_like(exact_scale), exact_scale)
        own = self.own_moments(products) if known is None else known
        whole = self.whole_moments(own) if known is None else known
        mean, variance, count = whole
        carried = shift.detach().double()
        offset = 0.0 if bias is None else (bias.detach().double() - carried) / exact_scale  # the unfolded layer's own bias
        unfolded = variance / exact_scale.square()
        if backward_pass() < 0:
            self._past.keep(own, whole, used)
            self.update(Moments(mean / exact_scale + offset, unfolded, count))
            self.running_mean.copy_(torch.where(silent, used.mean, self.running_mean))
            self.running_var.copy_(torch.where(silent, used.variance, self.running_var))
        inverse_deviation = torch.rsqrt(unfolded + self.eps) / exact_scale.abs()
        return self.batch_gradient(products, scale, whole, inverse_deviation)


class _BatchGradient(torch.autograd.Function):
    """``x`` itself, with the gradient of BatchNorm in training.

    ``mean`` and ``inverse_deviation``: those of the batch, per channel. With n = (x - mean) * inverse_deviation, the gradient g becomes
    g - mean(g) - n * mean(g * n): what changing x does to a result that is normalized anew for every batch. If x is a product with ``scale`` per
    channel whose own gradient was cut off, that is sum(g * x) / scale (0 where the scale is 0).

    ``together``: the ranks whose batches are one, and how many numbers a channel has in all. The means are then over all of them; what a parameter
    gets is of this rank's part alone, as any parameter's gradient in a distributed backward pass.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor | None, mean: Tensor, inverse_deviation: Tensor, together: tuple[Ranks, int] | None) -> Tensor:
        ctx.save_for_backward(x, scale, mean, inverse_deviation)
        ctx.together = together
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, mean, inverse_deviation = ctx.saved_tensors
        mean, inverse_deviation = mean.to(x), inverse_deviation.to(x)
        together: tuple[Ranks, int] | None = ctx.together
        alone, terms = together is None, scale is not None or together is not None
        wanted = [alone, terms, terms]
        by_x, by_n, total = torch.ops.aten.native_batch_norm_backward(
            grad.contiguous(memory_format=memory_format(x)), x, inverse_deviation.reciprocal(), None, None, mean, inverse_deviation, True, 0.0, wanted
        )
        if together is not None:
            ranks, count = together
            mean_by_n, mean_total = ranks.sum(torch.stack([by_n, total]).double()) / count
            shape = (-1, *([1] * (x.dim() - 2)))
            centred = (x - mean.reshape(shape)) * (inverse_deviation * mean_by_n).to(x).reshape(shape)
            by_x = grad - centred - mean_total.to(x).reshape(shape)
        if scale is None:
            return by_x, None, None, None, None
        by_scale = (by_n / inverse_deviation + mean * total) / scale
        return by_x, torch.where(scale.abs() < 1e-12, torch.zeros_like(scale), by_scale.to(scale)), None, None, None


def signed_spec(spec: Spec) -> Spec:
    """Constants are signed unless the recipe says otherwise."""
    return spec if spec.signed is not None else replace(spec, signed=True)


def _batch_norm(call: Call) -> Layers:
    assert isinstance(call.module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm)
    if call.module.running_mean is None:
        raise call.refuse("BatchNorm without running statistics", "use track_running_stats=True")
    return [QBatchNorm(call.module, call.recipe, call.path)]


FAMILY = Family(layers=(QBatchNorm,), modules=dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm), _batch_norm))
