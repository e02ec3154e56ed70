"""``Quantizer``: a Cast whose binary point is a learned parameter."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from qfx.errors import DataError, ModelFileError, QfxError
from qfx.fixed.arith import Bounds, Interval, channelwise, hull
from qfx.fixed.digits import DigitForm, most_digits
from qfx.fixed.kernel import CastMode, PlainCast, quantize, quantize_pair
from qfx.fixed.type import FixedType, OMode, QMode
from qfx.nn.clipped import Clipped
from qfx.nn.digits import Numbers, numbers, project
from qfx.nn.fixed_layer import FixedLayer, Steps, Traits
from qfx.nn.observer import choose_frac_bits, extent
from qfx.nn.qtensor import QTensor
from qfx.operators import ArrayType, Cast
from qfx.recipe import Spec

NEGLIGIBLE_ERROR = 1e-7
"""Of an activation in a long word, -70 dB: what calibration may lose to a range with headroom for data that it was not shown."""

LONG_WORD = 12

MAX_WIDTH = 32
"""Of a learned word length, as of every ``Spec.width``."""

_MODES: dict[QMode | OMode, int] = {
    QMode.RND: 0, QMode.RND_ZERO: 1, QMode.RND_MIN_INF: 2, QMode.RND_INF: 3, QMode.RND_CONV: 4, QMode.TRN: 5, QMode.TRN_ZERO: 6,
    OMode.SAT: 10, OMode.SAT_ZERO: 11, OMode.SAT_SYM: 12, OMode.WRAP: 13, OMode.WRAP_SM: 14,
}  # fmt: skip
"""How modes are written in checkpoints: never renumber."""

_DIGIT_FORMS: tuple[DigitForm, ...] = ("signed", "ones")
"""How they are numbered in checkpoints: never reorder."""

_TYPE_FIELDS = ("width", "signed", "q", "o", "n", "digits", "digit_form")


class Quantizer(FixedLayer):
    """Casts to ``width`` bits with F = round(``frac_bits``) of them right of the binary point.

    ``frac_bits`` is a real-valued parameter (one entry per tensor, channel or element, as ``spec.granularity`` says), rounded with a
    straight-through estimator, so that any optimizer learns it; with ``spec.learn_width`` so is ``width``. Where it is learned, what counts stays
    within ``spec.reach`` positions of ``frac_start``, where calibration put it; a parameter beyond counts as the nearest position within, and keeps
    its gradient (straight-through). The gradients are those of
    ``qfx.fixed.kernel.quantize``, the binary point's scaled by 1/sqrt(numel of a sample * 2**width) per binary point (Esser et al.,
    "Learned Step Size Quantization", 2019), so that one learning rate suits layers of all sizes.

    ``signed``: whether the type has a sign; None takes it from the spec, or from the first data's interval. ``channel_axis``: the axis that
    "channel" means. Of a spec with ``digits`` only numbers of few digits are in the type, with the gradients of ``qfx.nn.digits``. The result is
    float32 where that holds the type and ``frac_bits`` is float32 (as ``initialize`` makes it; ``module.double()`` changes it), else float64. The
    forward value never depends on training or evaluation mode.
    """

    traits = Traits(moves_only=False, keeps_grid=True, reads_uncast=True)

    also: str = ""
    """What the quantizer is called as one of several calls of a module: by the name of the first (see ``qfx.recipe.Override``)."""
    _known: _Known | None = None
    """What followed from the binary points of a forward before; a model that an earlier version pickled has none."""
    frac_bits: Tensor
    frac_start: Tensor
    cast_type: Tensor

    def __init__(self, spec: Spec, *, signed: bool | None = None, channel_axis: int = 1, name: str = "", also: str = "") -> None:
        super().__init__()
        self.spec = spec
        self.signed = spec.signed if spec.signed is not None else signed
        self.channel_axis = channel_axis
        self.name, self.also = name, also
        self.frac_grad_scale = 1.0
        self._known_mode: CastMode | None = None
        if spec.learn_width:
            self._parameters["width"] = nn.Parameter(torch.tensor(float(spec.width)))
        self.register_parameter("frac_bits", None)
        self.register_buffer("frac_start", None)
        self.register_buffer("cast_type", None)

    @property
    def is_initialized(self) -> bool:
        return self.frac_bits is not None

    @property
    def mode(self) -> CastMode:
        known = self._known_mode
        if known is None or known.signed is not bool(self.signed):
            spec = self.spec
            known = self._known_mode = CastMode(bool(self.signed), spec.q, spec.o, spec.n)
        return known

    @property
    def width(self) -> Tensor | int:
        """The word length: ``spec.width``, or the parameter that is learned. An optimizer may have pushed that out of 1..32; whoever uses or reads it
        finds it back at the nearest bound, so that it does not drift away from where gradients reach it."""
        width = self._parameters.get("width")
        if width is None:
            return self.spec.width
        if not 1.0 <= width.item() <= MAX_WIDTH:
            if math.isnan(width.item()):
                raise DataError(
                    "its learned word length is NaN", where=self.name or "Quantizer", remedy="load an earlier checkpoint; lower the learning rate"
                )
            with torch.no_grad():
                width.clamp_(1.0, MAX_WIDTH)
        return width

    @property
    def word_length(self) -> int:
        """The width in use, an integer from 1 to 32."""
        width = self.width
        return width if isinstance(width, int) else _round(width)

    @property
    def has_few_digits(self) -> bool:
        """Whether there are numbers of the word that the spec's ``digits`` leave out."""
        digits = getattr(self.spec, "digits", None)  # a model that an earlier version pickled has none
        return digits is not None and digits < most_digits(self.spec.width, bool(self.signed), self.spec.digit_form)

    def allowed(self, device: torch.device) -> Numbers:
        """The integers in the type of few digits."""
        assert self.spec.digits is not None
        return numbers(self.spec.width, self.mode, self.spec.digits, self.spec.digit_form, device)

    def initialize(self, x: QTensor | Tensor, *, most: int | Tensor | None = None) -> None:
        """Set the binary points from data as ``spec.observer`` says, or from ``spec.frac_bits`` where that is given.

        ``x``: the data to cast (batch first for activations). ``most``: an upper bound for the result, one for all or a vector over the channels.
        Raises DataError for NaN or infinity in x.
        """
        self.initialize_from((x,), most=most)

    def initialize_from(self, parts: Iterable[QTensor | Tensor], *, most: int | Tensor | None = None) -> None:
        """``initialize`` from several batches, gone through one at a time and more than once (no iterator). They differ in length only."""
        batches = _Tensors(parts)
        first = next(iter(parts))
        data = next(iter(batches))
        shape = self._shape(data)
        seen = extent(batches, shape)
        if not seen.is_finite:
            raise DataError("NaN or infinity", where=self.name or "Quantizer", remedy="check the weights and the example input")
        if self.signed is None:
            self.signed = self.spec.o is OMode.WRAP_SM or not isinstance(first, QTensor) or first.interval.signed  # AP_WRAP_SM is signed only
        if isinstance(most, Tensor):
            most = most.to(data.device).reshape(shape) if most.numel() == torch.Size(shape).numel() else int(most.max())
        if self.spec.frac_bits is not None:
            start = torch.full(shape, float(self.spec.frac_bits), device=data.device)
        else:
            start = choose_frac_bits(
                batches,
                self.word_length,
                self.mode,
                shape,
                observer=self.spec.observer,
                percentile=self.spec.percentile,
                most=most,
                negligible=NEGLIGIBLE_ERROR if self.channel_axis and self.word_length >= LONG_WORD else 0.0,
                seen=seen,
                project=None if not self.has_few_digits else lambda x, points: project(x, points, self.allowed(x.device)),
            ).float()
        self.place(start)
        count = data.numel() // data.shape[0] if self.channel_axis and data.dim() else data.numel()  # the length of the batch does not matter
        per_point = max(count // max(start.numel(), 1), 1)
        self.frac_grad_scale = float((per_point * 2.0**self.word_length) ** -0.5)

    def place(self, frac_bits: Tensor) -> None:
        """Put the binary points there: where they start from, and where they stay near while they are learned."""
        with torch.no_grad():
            if self.frac_bits is None:
                self.frac_bits = nn.Parameter(frac_bits.clone(), requires_grad=self.spec.learn)
            else:
                self.frac_bits.copy_(frac_bits)
            self.frac_start = torch.round(self.frac_bits.detach())
            self.cast_type = torch.tensor(self._type_codes(), dtype=torch.int32, device=self.frac_bits.device)

    def _type_codes(self) -> tuple[int, ...]:
        """What ``cast_type`` holds: word length (0: learned, and kept by ``width``), sign, q, o, n, numbered by ``_MODES``; and, of few digits alone,
        how many, and which are counted."""
        mode, spec = self.mode, self.spec
        width = 0 if isinstance(self.width, Tensor) else self.width
        codes = width, int(mode.signed), _MODES[mode.q], _MODES[mode.o], mode.n
        return (*codes, spec.digits or 0, _DIGIT_FORMS.index(spec.digit_form)) if self.has_few_digits else codes

    def misfit(self, state_dict: Mapping[str, Any], prefix: str) -> ModelFileError | None:
        """Why the checkpoint's entries below ``prefix`` would mean other numbers here: they are of another type than this quantizer's. Binary points
        are free, and so is a learned word length. A checkpoint that does not tell its types fits."""
        ours, kept = self._type_codes(), state_dict.get(f"{prefix}cast_type")
        if isinstance(kept, Tensor) and not kept.is_meta:
            theirs = tuple(int(code) for code in kept.flatten().tolist())
        elif kept is None and f"{prefix}width" in state_dict:
            theirs = (0, *ours[1:])
        else:
            return None
        if theirs == ours:
            return None
        changes = {name: value for name, value, own in zip(_TYPE_FIELDS, _decoded(theirs), _decoded(ours), strict=True) if value != own}
        if "width" in changes and 0 in (theirs[0], ours[0]):
            changes["learn_width"] = theirs[0] == 0
            if changes["learn_width"]:
                del changes["width"]
        if changes.get("digits", 0) is None:  # none is left out
            changes["digits"] = most_digits(theirs[0] or self.spec.width, bool(theirs[1]), self.spec.digit_form)
            changes.pop("digit_form", None)
        told = ", ".join(f"{name!r}: {value!r}" for name, value in changes.items())
        return ModelFileError(
            f"the checkpoint was trained as {_described(theirs)}, the model has {_described(ours)}",
            where=self.name or prefix.rstrip(".") or "Quantizer",
            remedy=f"quantize with the recipe of the checkpoint's model; for this quantizer Override({self.name!r}, {{{told}}}) does it",
        )

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        if self._buffers.get("cast_type") is not None:  # whatever averaging of buffers made of it, and of a width that left its bounds
            self.cast_type.copy_(torch.tensor(self._type_codes(), dtype=torch.int32))
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """A checkpoint without ``frac_start`` is a float one, for which everything stays, or one of earlier days: its binary points are the start."""
        misfit = self.misfit(state_dict, prefix) if self.is_initialized else None
        if misfit is not None:
            raise misfit
        start, points = f"{prefix}frac_start", f"{prefix}frac_bits"
        if start not in state_dict and self.frac_start is not None:
            state_dict[start] = torch.round(state_dict[points].detach()) if points in state_dict else self.frac_start
        if self._buffers.get("cast_type") is not None:
            state_dict.setdefault(f"{prefix}cast_type", self.cast_type)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def points(self) -> Tensor:
        """The binary points that count, in the shape of ``frac_bits``: integral, no gradient."""
        return torch.round(self._counted()[0].detach())

    def forward(self, x: QTensor | Tensor) -> QTensor:
        """Cast. A plain Tensor stands for itself. Raises QfxError before ``initialize``."""
        frac_bits, point = self._counted()
        width, mode = self.width, self.mode
        if self.has_few_digits:
            x = x.tensor() if isinstance(x, QTensor) else x
            value = project(x, frac_bits, self.allowed(x.device), self.frac_grad_scale)
        elif isinstance(x, QTensor):
            value = quantize(
                x.value,
                frac_bits,
                width,
                mode,
                scale=x.scale,
                shift=x.shift,
                addend=x.addend,
                negative_slope=x.negative_slope,
                upper=x.upper,
                frac_grad_scale=self.frac_grad_scale,
            )
        else:
            value = quantize(x, frac_bits, width, mode, frac_grad_scale=self.frac_grad_scale)
        return self._result(value, point, width, mode)

    def with_another(self, x: Tensor, other: Quantizer, y: Tensor) -> tuple[QTensor, QTensor]:
        """``(self(x), other(y))`` for two tensors, such as a weight and a bias, in one step of autograd."""
        if self.has_few_digits or other.has_few_digits:
            return self(x), other(y)
        a, a_point = self._counted()
        b, b_point = other._counted()
        mine = PlainCast(x, a, self.width, self.mode, self.frac_grad_scale)
        theirs = PlainCast(y, b, other.width, other.mode, other.frac_grad_scale)
        first, second = quantize_pair(mine, theirs)
        return self._result(first, a_point, mine.width, mine.mode), other._result(second, b_point, theirs.width, theirs.mode)

    def interval(self) -> Bounds:
        """What the cast can give, for each channel where these have binary points of their own."""
        return self._interval(self._counted()[1], self.width, self.mode)

    def _result(self, value: Tensor, point: float | Tensor, width: int | Tensor, mode: CastMode) -> QTensor:
        interval = self._interval(point, width, mode)
        if value.dtype is torch.float64 and self.frac_bits.dtype is torch.float32 and interval.fits_float32():
            value = value.float()  # a wide intermediate is over; exact, since float32 holds every result
        return QTensor(value, interval)

    # ---- the binary points that count ----
    #
    # They are read in every cast of every step, once, and what follows from them is kept with the numbers that it follows from. Versions of tensors
    # would not do for that: whoever writes through ``.data`` or a shared memory changes none.

    def _counted(self) -> tuple[Tensor, float | Tensor]:
        """``frac_bits`` for the cast; and its number if it is one, else its numbers, rounded. What lies further than ``spec.reach`` from its start
        counts as the nearest position that does not, straight-through. Raises QfxError before ``initialize``."""
        frac_bits, start = self._parameters["frac_bits"], self._buffers["frac_start"]  # attributes would take a detour
        if frac_bits is None:
            raise QfxError("has no binary point yet", where=self.name or "Quantizer", remedy="call initialize(data) first, or give spec.frac_bits")
        spec = self.spec
        if frac_bits.dim():
            points, known = frac_bits.detach(), self._known
            rounded = torch.round(points)
            if start is None or not spec.learn:
                return frac_bits, rounded
            if known is not None and known.near is not None and _equal(known.points, rounded) and _equal(known.near, start):
                return frac_bits, known.points
            if (points - start).abs_().max().item() <= spec.reach:
                return frac_bits, rounded
        else:
            point = frac_bits.item()
            if start is None or not spec.learn or abs(point - start.item()) <= spec.reach:
                return frac_bits, point
            points = frac_bits.detach()
        within = torch.clamp(points, start - spec.reach, start + spec.reach)
        bounded = frac_bits + (within - points)
        return bounded, torch.round(bounded.detach()) if bounded.dim() else bounded.item()

    def _interval(self, point: float | Tensor, width: int | Tensor, mode: CastMode) -> Bounds:
        """The interval of a cast with such binary points (as ``_counted`` gives them)."""
        bits = width if isinstance(width, int) else _round(width)
        known = self._known
        if isinstance(point, float):
            point = round(point)  # ties to even, as torch.round
        if known is None or known.width != bits or known.mode is not mode or not _equal(known.points, point):
            known = self._known = self._follows(point, bits, mode)
        return known.interval

    def _follows(self, points: int | Tensor, width: int, mode: CastMode) -> _Known:
        if isinstance(points, int):
            return _Known(points, width, mode, _interval(mode, width, points))
        interval = _interval_of_channels(mode, width, points.movedim(self.channel_axis, 0).reshape(points.shape[self.channel_axis], -1))
        start = self._buffers["frac_start"]
        if start is None or not (points - start).abs_().max().item() <= self.spec.reach - 1:
            return _Known(points, width, mode, interval)
        return _Known(points, width, mode, interval, start.clone())

    def types(self) -> tuple[FixedType, tuple[int, ...], tuple[int, ...]]:
        """(element type, integer bits of every binary point in row-major order, shape of the binary points); the batch axis is not stripped."""
        width = self.word_length
        frac_bits = self.points().to(torch.int64).cpu()
        int_bits = tuple(width - int(bits) for bits in frac_bits.flatten().tolist())
        mode = self.mode
        return FixedType(width, max(int_bits), mode.signed, mode.q, mode.o, mode.n), int_bits, tuple(frac_bits.shape)

    def extra_repr(self) -> str:
        if self.frac_bits is None:
            return f"{self.spec.width} bits, not initialized"
        element, int_bits, shape = self.types()
        return str(element) if not shape else f"{element}, {len(int_bits)} binary points"

    def _shape(self, data: Tensor) -> tuple[int, ...]:
        if self.spec.granularity == "tensor" or data.dim() == 0:
            return ()
        if self.spec.granularity == "channel":
            return tuple(size if axis == self.channel_axis else 1 for axis, size in enumerate(data.shape))
        return tuple(data.shape) if self.channel_axis == 0 else (1, *data.shape[1:])

    def restart(self, values: Iterable[QTensor], arguments: Callable[[], tuple[QTensor, ...]]) -> None:
        self.initialize_from(values)

    def array_type(self) -> ArrayType:
        """The cast of an activation; the batch axis is left out of its shape."""
        element, int_bits, shape = self.types()
        return ArrayType(element, int_bits, shape[1:])

    def channel_grids(self, count: int) -> tuple[int, ...] | None:
        """The finest binary point of each of ``count`` indices of axis 0 of a constant; None where there is one for all."""
        if not self.frac_bits.dim():
            return None
        return tuple(int(bits) for bits in self.points().reshape(count, -1).amax(1).tolist())

    def operators(self) -> Steps:
        return [("", Cast(self.array_type()))]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        return sources[0]

    def scales_channels(self, channels: int) -> bool:
        return False


class _Known(NamedTuple):
    """An interval, and what it follows from: binary points (rounded), word length and mode.

    ``near``: the start, if the points lie so far within its reach that whatever is rounded to them does, too.
    """

    points: int | Tensor
    width: int
    mode: CastMode
    interval: Bounds
    near: Tensor | None = None


def _equal(known: int | Tensor, points: int | Tensor) -> bool:
    if known is points:
        return True
    if not isinstance(known, Tensor) or not isinstance(points, Tensor):
        return not isinstance(known, Tensor) and not isinstance(points, Tensor) and known == points
    return known.device == points.device and known.dtype == points.dtype and torch.equal(known, points)


@dataclass(frozen=True, eq=False)
class _Tensors:
    """The numbers of each part."""

    parts: Iterable[QTensor | Tensor]

    def __iter__(self) -> Iterator[Tensor]:
        for part in self.parts:
            yield part.tensor() if isinstance(part, QTensor) else part


def _decoded(codes: tuple[int, ...]) -> tuple[Any, ...]:
    """(width, signed, q, o, n, digits, digit_form) in the words of a Spec; numbers that no version of qfx wrote stay numbers."""
    width, signed, q, o, n = (*codes, -1, -1, -1, -1, -1)[:5]
    digits, form = (*codes[5:7], None, 0)[:2] if len(codes) == 7 else (None, 0)
    names = {code: mode.value for mode, code in _MODES.items()}
    return width, bool(signed), names.get(q, q), names.get(o, o), n, digits, _DIGIT_FORMS[form] if form in (0, 1) else form


def _described(codes: tuple[int, ...]) -> str:
    width, signed, q, o, n, digits, form = _decoded(codes)
    bits = f"{width} bits" if width else "a learned number of bits"
    modes = ", ".join([str(q), str(o), *([f"n={n}"] if n else []), *([f"digits={digits}, {form}"] if digits else [])])
    return f"{bits} {'signed' if signed else 'unsigned'} ({modes})"


def _round(parameter: Tensor) -> int:
    return round(float(parameter.detach()))  # ties to even, as torch.round


def _interval_of_channels(mode: CastMode, width: int, points: Tensor) -> Bounds:
    """Those of the channels, from the integral binary points of each, which lie along axis 1."""
    if points.shape[1] == 1:
        return _interval(mode, width, tuple(points.flatten().tolist()))
    least, most = torch.aminmax(points, dim=1)
    return _interval(mode, width, tuple(least.tolist()), tuple(most.tolist()))


@lru_cache(maxsize=1024)
def _interval(mode: CastMode, width: int, least: int | tuple[float, ...], most: tuple[float, ...] | None = None) -> Bounds:
    """The interval of one binary point, or those of the channels, each the hull over its least and its greatest binary point."""
    if isinstance(least, int):
        return Interval.of(mode.type(width, least))
    if most is None:
        return channelwise(Interval.of(mode.type(width, int(bits))) for bits in least)
    pairs = zip(least, most, strict=True)
    return channelwise(hull(Interval.of(mode.type(width, int(bits))) for bits in pair) for pair in pairs)


def finest(products: Bounds) -> int | Tensor:
    """The ``most`` for a constant that is added to ``products``: bits finer than theirs would only widen the sum."""
    if isinstance(products, Interval):
        return products.frac_bits
    return torch.tensor([interval.frac_bits for interval in products.channels])
