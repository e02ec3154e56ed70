"""What all layers with weights share: sums of products by cast constants, exact; Quantizers do the casting."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from qfx.fixed.arith import Bounds, Channels, Interval
from qfx.fixed.type import OMode
from qfx.nn.accumulator import Accumulating, accumulating
from qfx.nn.backends import refuse_inexact
from qfx.nn.casts import near, quick, told
from qfx.nn.casts.digits import leaves_out
from qfx.nn.casts.lean import LARGE, keeping, unchanged
from qfx.nn.casts.room import make_room, question
from qfx.nn.casts.sparse import weight_cast
from qfx.nn.clipped import Clipped
from qfx.nn.fixed_layer import Own, Steps, Traits, constant
from qfx.nn.layers.batch_norm import FoldedNorm, QFoldedBatchNorm, signed_spec
from qfx.nn.layers.products.computing import Computing
from qfx.nn.layers.products.weights import Form, Weights
from qfx.nn.qtensor import QTensor, check_float64
from qfx.nn.quantizer import Quantizer, finest
from qfx.operators import Affine, Const
from qfx.recipe import Recipe

Source = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d | Weights
"""Who holds the tensors of a layer."""


class _Known(NamedTuple):
    """What the sums can come to, without and with the bias, and whether float32 holds those with it; and the bounds that they follow from, which are
    the same objects until a binary point moves."""

    x: Bounds
    weight: Bounds
    bias: Bounds | None
    terms: int
    products: Bounds
    total: Bounds
    fits: bool


class Weighted(Computing, abstract=True):
    """Weights, an optional bias, and their quantizers; the float parameters keep the names ``weight`` and ``bias``.

    They are those of ``source``: a torch module, or ``Weights`` that the model holds by themselves. A parameter there is the parameter here.
    """

    weight_cast: Quantizer
    bias_cast: Quantizer

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=False, reads_uncast=False, called_again="shared", holds_constants=True)

    weight: Tensor
    bias: Tensor | None
    groups = 1
    form: Form | None = None
    """How the weight is cast, if not as it is kept."""
    _known: _Known | None = None

    def __init__(self, source: Source, recipe: Recipe, name: str) -> None:
        super().__init__()
        self.name = name
        if isinstance(source, Weights):
            roles = [role for role in ("weight", "bias") if getattr(source, role) is not None]
            self.form = source.form
            self.origins: Mapping[str, str] = {role: source.origins.get(role, "") for role in roles}
        for role in ("weight", "bias"):
            tensor = getattr(source, role)
            if isinstance(source, Weights) and tensor is not None and not isinstance(tensor, nn.Parameter):
                self.register_buffer(role, tensor)
            else:
                setattr(self, role, tensor)
        if isinstance(source, Weights):
            self.compute(source.computed)
        self.weight_cast, self.bias_cast = (self._cast_of(role, recipe) for role in ("weight", "bias"))

    def __getstate__(self) -> dict[str, Any]:
        """Without what is worked out anew."""
        return {key: value for key, value in self.__dict__.items() if key != "_known"}

    def _cast_of(self, role: str, recipe: Recipe) -> Quantizer:
        name, also = f"{self.name}.{role}", self.origins.get(role, "")
        spec = signed_spec(recipe.spec(name, role, also))
        return weight_cast(spec, channel_axis=0, name=name, also=also)

    def initialize(self, x: QTensor, norm: FoldedNorm | None = None) -> None:
        """Choose the binary points from the weights; a bias starts no finer than the products that it is added to."""
        weight, bias = self._float_constants(norm)
        if isinstance(self.weight_cast, Accumulating):
            self.weight_cast.meet(x.interval.hull)
        self.weight_cast.initialize(weight)
        if bias is None:
            return
        self.start_bias(bias, x)

    def start_bias(self, bias: Tensor, x: QTensor) -> None:
        """Choose the binary points of the bias: no finer than the products of ``x`` that it joins."""
        self.bias_cast.initialize(bias, most=finest(x.interval.hull * self.weight_cast.interval()))

    def constants(self, norm: FoldedNorm | None = None) -> tuple[QTensor, QTensor | None]:
        """The weight and the bias as the hardware sees them."""
        weight, bias = self._float_constants(norm)
        if bias is None:
            return self.weight_cast(weight), None
        make_room(self.bias_cast, bias)
        if norm is not None:
            told.take(self.bias_cast, "room")  # statistics may have moved when the layer is called again
        return self.weight_cast.with_another(weight, self.bias_cast, bias)

    def forward(self, x: QTensor, norm: FoldedNorm | None = None) -> QTensor:
        """weight (*) x + bias, exact: in float32 if no partial sum can need more than 24 bits, else in float64. The bias joins the products
        where float32 holds the whole sum, else the Cast that follows."""
        x = x.plain()
        refuse_inexact(x.value, self.name)
        if norm is not None and norm.recall is not None:
            norm = norm.recall(lambda past: self._summed(x, past)[0])
        value, interval, bias = self._summed(x, norm)
        if norm is not None and norm.observe is not None:
            value = norm.observe(value, None if bias is None else bias.value)
        result = QTensor(value, interval)
        if bias is None:
            return result
        known = self._known
        of_both = known.total if known is not None and known.products is interval and known.bias is bias.interval else interval + bias.interval
        return result.affine(None, bias.value, of_both, where=self.name)

    def _summed(self, x: QTensor, norm: FoldedNorm | None) -> tuple[Tensor, Bounds, QTensor | None]:
        """The sums, their interval, and the bias if it has not joined them."""
        mixed, accumulator = x.interval.hull, accumulating(self._modules["weight_cast"])
        if accumulator is not None:
            accumulator.meet(mixed)
        weight, bias = self.constants(norm)
        known = self._bounds(x, weight, bias)
        products = known.products
        if accumulator is not None:
            products = accumulator.held(products)
            if accumulator.narrows:
                value = self._products(x, weight, products, norm)
                return *accumulator.accumulate(value, products), bias
        in_float32 = x.value.dtype == weight.value.dtype == torch.float32
        if bias is not None and norm is None and in_float32 and known.fits:
            return self._in_float32(x, weight, bias, norm), known.total, None
        return self._products(x, weight, products, norm), products, bias

    def _bounds(self, x: QTensor, weight: QTensor, bias: QTensor | None) -> _Known:
        terms, of_bias = weight.value.numel() // weight.value.shape[0], None if bias is None else bias.interval
        known = self._known
        if known is None or known.x is not x.interval or known.weight is not weight.interval or known.bias is not of_bias or known.terms != terms:
            products = _sums(x.interval.hull, weight.interval, terms)
            total = products if of_bias is None else products + of_bias
            known = self._known = _Known(x.interval, weight.interval, of_bias, terms, products, total, total.fits_float32())
        return known

    def _products(self, x: QTensor, weight: QTensor, products: Bounds, norm: FoldedNorm | None) -> Tensor:
        """The sums of products, exact: in float32 or float64."""
        if x.value.dtype == weight.value.dtype == torch.float32 and (products.fits_float32() or self._fits_float32(x, weight, norm)):
            return self._in_float32(x, weight, None, norm)
        check_float64(products, self.name)
        wide, narrow, again = (x.value.double(), weight.value.double()), x.value.detach(), self._again(weight, norm)
        made = None if again is None else lambda: again().double()
        with keeping({wide[0]: unchanged(narrow.double, narrow), wide[1]: made}):
            return self._operator(*wide, None)

    def _fits_float32(self, x: QTensor, weight: QTensor, norm: FoldedNorm | None) -> bool:
        """Whether these very weights keep every partial sum within float32's 24 bits (the word lengths alone allow more)."""
        bound = told.look(self, "rows") if norm is None else told.take(self, "rows")
        return _holds(x.interval.hull, weight.interval, float(_largest(weight.value, weight.interval) if bound is None else bound))

    def questions(self, arguments: Sequence[Any]) -> Iterable[told.Question]:
        """Of the weights before they are cast, so that nothing has to be known yet: a cast that saturates adds less than its least significant bit.
        What float32 holds only just may go the way of float64 for it, with the same result."""
        norm = next((FoldedNorm(*layer.affine(), None) for layer in arguments if isinstance(layer, QFoldedBatchNorm)), None)
        known, cast = self._known, self.weight_cast
        weight, bias = self._float_constants(norm)
        if bias is not None:
            yield from question(self.bias_cast, bias)
        if (
            known is None
            or known.products.fits_float32()
            or not quick.is_repeatable(cast)
            or leaves_out(cast.spec, True)
            or cast.spec.o not in _SATURATES
        ):
            return
        most = max(abs(known.x.hull.lo), abs(known.x.hull.hi))
        if most:
            with torch.no_grad():
                points = near.there(cast.frac_bits, cast.frac_start, cast.spec).double()
                rows = (weight.double().abs() + torch.exp2(-points)).flatten(1).sum(1)
                units = torch.exp2(points.reshape(len(points), -1).amax(1) if points.dim() else points)  # of this forward: ``known`` is of one before
                yield told.Question(self, "rows", (rows * units).max(), _WHOLE_IN_FLOAT32 / (_ROUNDED_SUM * most))

    def _in_float32(self, x: QTensor, weight: QTensor, bias: QTensor | None, norm: FoldedNorm | None) -> Tensor:
        constant = None if bias is None else bias.value
        if weight.value.numel() < LARGE:
            return self._operator(x.value, weight.value, constant)
        with keeping({weight.value: self._again(weight, norm)}):
            return self._operator(x.value, weight.value, constant)

    def _again(self, weight: QTensor, norm: FoldedNorm | None) -> Callable[[], Tensor] | None:
        """What gives the cast weight again, without gradient: the cast, where it follows from the layer's own weight and binary points alone. None
        where nobody would notice that these have changed."""
        kept, by, own = weight.value.detach(), self.weight_cast, self._parameters.get("weight")
        if kept.numel() < LARGE or own is None or norm is not None or not quick.is_repeatable(by):
            return unchanged(lambda: kept, kept)
        return unchanged(lambda: by(self.cast_weight()).value, own, by.frac_bits)

    def multiplied(self, bits: Sequence[Tensor], own: Own) -> Tensor:
        """The layer itself, on word lengths: zeros that pad have none."""
        weight = own(self.weight_cast, self.cast_weight().shape)
        return self._operator(bits[0].to(weight), weight, None)

    def in_float(self, x: QTensor) -> Tensor:
        """The float layer's result on x: what an untrained BatchNorm behind it would take its statistics from."""
        return self._operator(x.tensor().to(self.weight.dtype), self.cast_weight(), self.bias)

    def _float_constants(self, norm: FoldedNorm | None) -> tuple[Tensor, Tensor | None]:
        if norm is None:
            return self.cast_weight(), self.bias
        scale = norm.scale if norm.observe is None else norm.scale.detach()  # then its gradient comes from the products
        weight = self.cast_weight()
        weight = weight * scale.reshape(-1, *([1] * (weight.dim() - 1)))
        return weight, norm.shift if self.bias is None else norm.shift + self.bias * norm.scale

    def cast_weight(self) -> Tensor:
        """The float weight with the outputs on axis 0, which is how it is cast and how ``_operator`` takes it."""
        return self.as_cast(self.weight)

    def as_cast(self, weight: Tensor) -> Tensor:
        """A weight as the float model keeps it, with the outputs on axis 0."""
        return weight if self.form is None else self.form.there(weight)

    def set_cast_weight(self, weight: Tensor) -> None:
        """Overwrite the float weight by one that has the outputs on axis 0. It must be a tensor of the layer, not one computed of others."""
        with torch.no_grad():
            self.weight.copy_(weight if self.form is None else self.form.back(weight, tuple(self.weight.shape)))

    def operators(self, norm: FoldedNorm | None = None) -> Steps:
        weight, bias = self.constants(norm)
        weights = constant(weight.value, f"{self.name}.weight", self.weight_cast.channel_grids(len(weight.value)))
        behind = None if bias is None else constant(bias.value, f"{self.name}.bias", self.bias_cast.channel_grids(len(bias.value)))
        accumulator = accumulating(self.weight_cast)
        if accumulator is None or not accumulator.narrows:
            return self.lowered(weights, behind)
        *before, (_, summing) = self.lowered(weights, None)
        steps: Steps = [*before, (".sum", summing), ("", accumulator.cast_of_sum(weight, self.rank))]
        return steps if behind is None else [*steps[:-1], (".accumulator", steps[-1][1]), ("", Affine(None, behind))]

    @property
    def rank(self) -> int:
        """How many axes a result has, the batch's apart."""
        return self.cast_weight().dim() - 1

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        """Of a layer without statistics: its channels taken as independent, neighbouring pixels as equal or independent, whichever spreads more."""
        weight = self.cast_weight()
        mean, variance = sources[0].expanded(weight.shape[1] * self.groups).moments()
        total = self.taps(weight)
        squares = self.taps(weight.square()) if weight.dim() > 2 else total.square()
        spread = (torch.maximum(total.square(), squares) * self.per_weight(variance)).sum(1)
        centre = (total * self.per_weight(mean)).sum(1)
        return Clipped.normal(centre if self.bias is None else centre + self.bias.detach().double(), spread.sqrt())

    def taps(self, weight: Tensor) -> Tensor:
        """The weight (as the layer casts it) summed over its kernel, in float64: (outputs, inputs / groups). What a constant image meets."""
        return weight.detach().double().flatten(2).sum(2) if weight.dim() > 2 else weight.detach().double()

    def per_weight(self, values: Tensor) -> Tensor:
        """One number per input channel as (outputs, inputs / groups)."""
        outputs = self.cast_weight().shape[0]
        return values.reshape(self.groups, 1, -1).expand(self.groups, outputs // self.groups, -1).reshape(outputs, -1)

    def scales_channels(self, channels: int) -> bool:
        return False

    @abstractmethod
    def _operator(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The torch operator on numbers whose sums it holds exactly; ``weight`` has the outputs on axis 0."""

    @abstractmethod
    def lowered(self, weight: Const, bias: Const | None) -> Steps:
        """The operators of the graph, by the constants as they are cast."""

    @abstractmethod
    def input_rows(self, x: Tensor) -> Tensor:
        """``x`` (batch, ...) as (groups, batch * positions, K): what the weights of one output meet, sample by sample, position by position."""


@lru_cache(maxsize=4096)
def _sums(x: Interval, weight: Bounds, terms: int) -> Bounds:
    """What ``terms`` products can add up to, whatever the weights; partial sums and padding included."""
    return (x.with_zero() * weight).times(terms)


_WHOLE_IN_FLOAT32 = 2.0**24
_ROUNDED_SUM = 1.001
"""A sum of weights in float32 was rounded."""
_SATURATES = (OMode.SAT, OMode.SAT_SYM, OMode.SAT_ZERO)


def _largest(weight: Tensor, interval: Bounds) -> Tensor:
    """The greatest sum of the magnitudes of an output's weights, in units of its grid."""
    with torch.no_grad():
        rows = weight.abs().flatten(1).sum(1)
        if isinstance(interval, Channels):
            grids = [channel.frac_bits for channel in interval.channels]
            return (rows.double() * torch.exp2(torch.tensor(grids, dtype=torch.float64, device=rows.device))).max()
        return rows.max().double() * 2.0**interval.frac_bits


def _holds(x: Interval, weight: Bounds, largest: float) -> bool:
    grids = [channel.frac_bits for channel in weight.channels] if isinstance(weight, Channels) else [weight.frac_bits]
    bound = largest * _ROUNDED_SUM * max(abs(x.lo), abs(x.hi))
    return bound <= _WHOLE_IN_FLOAT32 and x.frac_bits + min(grids) >= -100 and x.frac_bits + max(grids) <= 120
