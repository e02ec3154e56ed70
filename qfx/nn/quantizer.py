"""``Quantizer``: a Cast whose binary point is a learned parameter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from qfx.distributed.ranks import Ranks
from qfx.errors import DataError, ModelFileError, QfxError
from qfx.fixed import number_sets
from qfx.fixed.arith import Bounds, Interval
from qfx.fixed.kernel import CastMode, PlainCast, quantize, quantize_pair
from qfx.fixed.type import FixedType, OMode
from qfx.nn.casts import digit_words, intervals, near, quick, told, type_codes, word_length
from qfx.nn.casts.digits import Numbers, few_digits, leaves_out, numbers_of, project
from qfx.nn.casts.known import Known as _Known
from qfx.nn.casts.known import Tensors, equal
from qfx.nn.casts.lean import keeping
from qfx.nn.casts.word_length import Words
from qfx.nn.clipped import Clipped
from qfx.nn.fixed_layer import FixedLayer, Steps, Traits
from qfx.nn.observer import choose_frac_bits, extent
from qfx.nn.qtensor import QTensor
from qfx.operators import ArrayType, Cast, MinifloatCast
from qfx.recipe import Spec

NEGLIGIBLE_ERROR = 1e-7
"""Of an activation in a long word, -70 dB: what calibration may lose to a range with headroom for data that it was not shown."""

LONG_WORD = 12

_UNIT = Interval(-1, 1, 0)
"""Of numbers that are not cast. It does not bound them; it is small, so that all is computed in the dtype that the model's parameters have."""


class Quantizer(FixedLayer):
    """Casts to ``width`` bits with F = round(``frac_bits``) of them right of the binary point.

    ``frac_bits`` is a real-valued parameter (one entry per tensor, channel or element, as ``spec.granularity`` says), rounded with a
    straight-through estimator, so that any optimizer learns it. Where it is learned, what counts stays within ``spec.reach`` positions of
    ``frac_start``, where calibration put it; a parameter beyond counts as the nearest position within, and keeps its gradient (straight-through).
    The gradients are those of ``qfx.fixed.kernel.quantize``, the binary point's scaled by 1/sqrt(numel of a sample * 2**width) per binary point
    (Esser et al., "Learned Step Size Quantization", 2019), so that one learning rate suits layers of all sizes.

    With ``spec.learn_width`` there is ``int_bits`` beside ``frac_bits``, in its shape, and each binary point has a word length of its own, their sum:
    ``qfx.nn.casts.word_length``. It is a parameter, or, under AP_WRAP, a buffer that follows the numbers: of a constant always, so that none wraps;
    of an activation after each forward in training, until it is fixed (``qfx.fix_ranges``; the buffer ``range_fixed`` tells checkpoints).

    ``signed``: whether the type has a sign; None takes it from the spec, or from the first data's interval. ``channel_axis``: the axis that
    "channel" means. The result is float32 where that holds the type and ``frac_bits`` is float32 (as ``initialize`` makes it; ``module.double()``
    changes it), else float64. The forward value never depends on training or evaluation mode. With ``spec.digits``: ``qfx.nn.casts.digits``.
    """

    name: str
    int_bits: Tensor
    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=True, reads_uncast=True)
    also: str = ""
    """What the quantizer is called as one of several calls of a module: by the name of the first (see ``qfx.recipe.Override``)."""
    kind: str = ""
    """The class of its layer, or the function that is called."""
    off: bool = False
    """Whether numbers pass as they are (``qfx.switch``)."""
    frozen: tuple[str, ...] = ()
    """The parameters that ``qfx.freeze`` stopped."""
    makes_room: bool = True
    """Whether a long constant that outgrows its range moves the binary point (``qfx.nn.casts.room``)."""
    ranks: Ranks | None = None
    """Of an activation: the processes whose data count as one (``qfx.synchronize``)."""
    behind: tuple[Callable[[Quantizer, QTensor], QTensor], ...] = ()
    """What becomes of the results, in order: faults of a memory, gradients of few bits."""
    _known: _Known | None = None
    """What followed from the binary points of a forward before; a model that an earlier version pickled has none."""
    has_plain_casts = True
    """Of this very class, not of those below: its casts are those that ``quick`` makes in the common case."""
    _quick: quick.Quick | None = None
    """What its common case needs."""
    frac_bits: Tensor
    frac_start: Tensor
    cast_type: Tensor
    range_fixed: Tensor

    def __init__(self, spec: Spec, *, signed: bool | None = None, channel_axis: int = 1, name: str = "", also: str = "") -> None:
        super().__init__()
        self.spec = spec
        own = True if getattr(spec, "numbers", None) is not None else spec.signed  # such sets have a sign
        self.signed = own if own is not None else signed
        self.channel_axis = channel_axis
        self.name, self.also = name, also
        self.frac_grad_scale: float = 1.0
        self._known_mode: CastMode | None = None
        self.register_parameter("frac_bits", None)
        if spec.learn_width and spec.o is OMode.WRAP:
            self.register_buffer("int_bits", None)
            self.register_buffer("range_fixed", torch.tensor(0, dtype=torch.int32) if channel_axis else None)
        elif spec.learn_width:
            self.register_parameter("int_bits", None)
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
    def learned_ints(self) -> Tensor | None:
        """``int_bits``, where the word length is learned and there is one."""
        if not self.spec.learn_width:
            return None
        return self._buffers["int_bits"] if self.spec.o is OMode.WRAP else self._parameters["int_bits"]

    @property
    def word_length(self) -> int:
        """The width in use, from 1 to 32; the greatest where they are learned, 0 if all is pruned."""
        return self.spec.width if self.learned_ints is None else self._words().width

    def word_lengths(self) -> Tensor:
        """The word length of each binary point, integral, no gradient."""
        return self.bits().detach()

    def bits(self) -> Tensor:
        """The number of bits at each binary point, in the shape of ``frac_bits``: the true word lengths. Where they are learned, with the gradient of
        int_bits + frac_bits, none below 0; so a cost that counts bits trains them. Raises QfxError before ``initialize``."""
        frac_bits, _ = self._counted()
        integer = self.learned_ints
        return torch.full_like(frac_bits, self.spec.width, requires_grad=False) if integer is None else word_length.relaxed(frac_bits, integer)

    @property
    def kept(self) -> Tensor | None:
        """Of sparse weights: which may be other than 0."""
        return None

    def allowed(self, device: torch.device | None = None) -> Numbers | None:
        """The integers in the type where ``spec.digits`` or ``spec.numbers`` leaves some out; of words of several lengths those of the longest."""
        spec = self.spec
        if not leaves_out(spec, bool(self.signed)):
            return None
        width = max(self.word_length, 1) if spec.learn_width and self.is_initialized else spec.width
        return numbers_of(spec, self.mode, device, width)

    def initialize(self, x: QTensor | Tensor, *, most: int | Tensor | None = None) -> None:
        """Set the binary points from data as ``spec.observer`` says, or from ``spec.frac_bits`` where that is given.

        ``x``: the data to cast (batch first for activations). ``most``: an upper bound for the result, one for all or a vector over the channels.
        Raises DataError for NaN or infinity in x.
        """
        self.initialize_from((x,), most=most)

    def initialize_from(self, parts: Iterable[QTensor | Tensor], *, most: int | Tensor | None = None) -> None:
        """``initialize`` from several batches, gone through one at a time and more than once (no iterator). They differ in length only."""
        batches = Tensors(parts)
        first = next(iter(parts))
        data = next(iter(batches))
        shape = self._shape(data)
        seen = extent(batches, shape, self.ranks)
        if not seen.is_finite:
            raise DataError("NaN or infinity", where=self.name or "Quantizer", remedy="check the weights and the example input")
        if self.signed is None:
            self.signed = self.spec.o is OMode.WRAP_SM or not isinstance(first, QTensor) or first.interval.signed  # AP_WRAP_SM is signed only
        if isinstance(most, Tensor):
            most = most.to(data.device).reshape(shape) if most.numel() == torch.Size(shape).numel() else int(most.max())
        if self.spec.frac_bits is not None:
            start = torch.full(shape, float(self.spec.frac_bits), device=data.device)
        else:
            coarse = self._shape(data, "channel") if self.spec.learn_width else shape  # elements begin on the grid of their channel
            if coarse != shape and isinstance(most, Tensor):
                most = int(most.max())
            few = numbers_of(self.spec, self.mode, data.device) if leaves_out(self.spec, bool(self.signed)) else None
            start = choose_frac_bits(
                batches,
                self.spec.width,
                self.mode,
                coarse,
                observer=self.spec.observer,
                percentile=self.spec.percentile,
                most=most,
                negligible=NEGLIGIBLE_ERROR if self.channel_axis and self.spec.width >= LONG_WORD else 0.0,
                seen=seen if coarse == shape else extent(batches, coarse, self.ranks),
                project=few and (lambda x, points: project(x, points, few)),
                ranks=self.ranks,
            ).float()
            start = start.expand(shape)
        self.place(start, afresh=True)
        if self.spec.learn_width:  # its gradients are weighed against those of a cost
            self.frac_grad_scale = 1.0
            return
        count = data.numel() // data.shape[0] if self.channel_axis and data.dim() else data.numel()  # the length of the batch does not matter
        per_point = max(count // max(start.numel(), 1), 1)
        self.frac_grad_scale = float((per_point * 2.0**self.spec.width) ** -0.5)

    def place(self, frac_bits: Tensor, *, afresh: bool = False) -> None:
        """Put the binary points there: where they start from, and where they stay near while they are learned. Word lengths stay; ``afresh``: those
        that are learned become the spec's."""
        with torch.no_grad():
            if self.spec.learn_width:
                self._place_ints(self.word_lengths() if self.is_initialized and not afresh else self.spec.width, frac_bits)
            if self.frac_bits is None:
                self.frac_bits = nn.Parameter(frac_bits.clone(), requires_grad=self.spec.learn)
            else:
                self.frac_bits.copy_(frac_bits)
            self.frac_start = torch.round(self.frac_bits.detach())
            self.cast_type = torch.tensor(self._type_codes(), dtype=torch.int32, device=self.frac_bits.device)

    def _place_ints(self, lengths: Tensor | int, frac_bits: Tensor) -> None:
        held, new = self.learned_ints, lengths - torch.round(frac_bits)
        if held is not None:
            held.copy_(new)
        elif self.spec.o is OMode.WRAP:
            self.int_bits = new
        else:
            self.int_bits = nn.Parameter(new, requires_grad=self.spec.learn_range)

    def _type_codes(self) -> tuple[int, ...]:
        """What ``cast_type`` holds."""
        spec = self.spec
        few = few_digits(spec, self.mode.signed)
        return type_codes.codes(
            self.mode, 0 if spec.learn_width else spec.width, few, getattr(spec, "digit_form", ""), getattr(spec, "numbers", None)
        )

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
        told = type_codes.changes(theirs, ours)
        return ModelFileError(
            f"the checkpoint was trained as {type_codes.described(theirs)}, the model has {type_codes.described(ours)}",
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
        if self.learned_ints is not None and f"{prefix}width" in state_dict and points in state_dict:  # of earlier days: one word length for all
            width = state_dict.pop(f"{prefix}width").detach().clamp(1, word_length.MAX_WIDTH)
            state_dict[f"{prefix}int_bits"] = torch.round(width) - torch.round(state_dict[points].detach())
        if start not in state_dict and self.frac_start is not None:
            state_dict[start] = torch.round(state_dict[points].detach()) if points in state_dict else self.frac_start
        for name in ("cast_type", "range_fixed"):  # which those of earlier days have not
            if (own := self._buffers.get(name)) is not None:
                state_dict.setdefault(prefix + name, own)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def points(self) -> Tensor:
        """The binary points that count, in the shape of ``frac_bits``: integral, no gradient."""
        return torch.round(self._counted()[0].detach())

    def forward(self, x: QTensor | Tensor) -> QTensor:
        """Cast. A plain Tensor stands for itself. Raises QfxError before ``initialize``."""
        if self.off:
            value = x.tensor() if isinstance(x, QTensor) else x
            return QTensor(value.to(self.frac_bits.dtype), _UNIT)
        if torch.is_grad_enabled() and (found := quick.cast(self, x)) is not None:
            return found
        if self._tracks:
            self._follow(x)
        frac_bits, point = self._counted()
        width, integer, mode = self._width(point), self.learned_ints, self.mode
        if leaves_out(self.spec, mode.signed):
            value = self._projected(x.tensor() if isinstance(x, QTensor) else x, frac_bits, width)
        else:
            given = x if isinstance(x, QTensor) else QTensor(x, _UNIT)
            wide, made = given.operands()
            with keeping(made):
                value = quantize(wide, frac_bits, width, mode, int_bits=integer, frac_grad_scale=self.frac_grad_scale, **given.pending())
        if self.training and (fixed := self._buffers.get("range_fixed")) is not None and not fixed:
            self.widen(x)  # after the forward, as statistics move
        return self._result(value, point, width, mode)

    def _projected(self, x: Tensor, frac_bits: Tensor, width: int) -> Tensor:
        spec, integer, scale = self.spec, self.learned_ints, self.frac_grad_scale
        if integer is None:
            return project(x, frac_bits, numbers_of(spec, self.mode, frac_bits.device), scale)
        return digit_words.project(x, frac_bits, integer, digit_words.numbers_of(spec, self.mode, width, frac_bits.device), scale)

    def with_another(self, x: Tensor, other: Quantizer, y: Tensor) -> tuple[QTensor, QTensor]:
        """``(self(x), other(y))`` for two tensors, such as a weight and a bias, in one step of autograd."""
        if self.off or other.off or any(leaves_out(cast.spec, cast.mode.signed) for cast in (self, other)):
            return self(x), other(y)
        if torch.is_grad_enabled() and (mine := quick.cast(self, x)) is not None:
            return mine, quick.cast(other, y) or other(y)
        for cast, numbers in ((self, x), (other, y)):
            if cast._tracks:
                cast._follow(numbers)
        a, a_point = self._counted()
        b, b_point = other._counted()
        first_cast = PlainCast(x, a, self._width(a_point), self.mode, self.frac_grad_scale, self.learned_ints)
        second_cast = PlainCast(y, b, other._width(b_point), other.mode, other.frac_grad_scale, other.learned_ints)
        first, second = quantize_pair(first_cast, second_cast)
        return self._result(first, a_point, first_cast.width, first_cast.mode), other._result(second, b_point, second_cast.width, second_cast.mode)

    def interval(self) -> Bounds:
        """What the cast can give, for each channel where these have binary points of their own."""
        if self.off:
            return _UNIT
        point = self._counted()[1]
        return self._interval(point, self._width(point), self.mode)

    @property
    def _tracks(self) -> bool:
        """Whether the range is that of the numbers at hand: of a constant whose casts wrap."""
        return self.spec.learn_width and not self.channel_axis and self.spec.o is OMode.WRAP

    def _follow(self, x: QTensor | Tensor) -> None:
        if self.is_initialized:
            self.int_bits = self.needed(x)  # not written into: a backward pass to come must find what its forward saw

    def needed(self, x: QTensor | Tensor) -> Tensor:
        """The integer bits with which nothing of ``x`` overflows, in the shape of ``frac_bits``; no gradient."""
        with torch.no_grad():
            return word_length.tracked(x.tensor() if isinstance(x, QTensor) else x, self._counted()[0], self.mode)

    def widen(self, x: QTensor | Tensor) -> None:
        """Let ranges that follow the numbers hold those of ``x`` too, of all ranks."""
        needed = self.needed(x)
        self.int_bits = torch.maximum(self.int_bits, needed if self.ranks is None else self.ranks.greatest(needed))

    def _width(self, point: float | Tensor | Words) -> int:
        return max(point.width, 1) if isinstance(point, Words) else self.spec.width

    def _words(self) -> Words:
        point = self._counted()[1]
        assert isinstance(point, Words)
        return point

    def _result(self, value: Tensor, point: float | Tensor | Words, width: int, mode: CastMode) -> QTensor:
        interval = self._interval(point, width, mode)
        if value.dtype is torch.float64 and self.frac_bits.dtype is torch.float32 and interval.fits_float32():
            value = value.float()  # a wide intermediate is over; exact, since float32 holds every result
        result = QTensor(value, interval)
        for change in self.behind:
            result = change(self, result)
        return result

    def interval_of(self, mode: CastMode) -> Bounds:
        """What a cast of another mode could give, with the same binary points."""
        point = self._counted()[1]
        return self._interval(point, self._width(point), mode)

    # ---- the binary points that count ----
    #
    # They are read in every cast of every step, once, and what follows from them is kept with the numbers that it follows from. Versions of tensors
    # would not do for that: whoever writes through ``.data`` or a shared memory changes none.

    def _counted(self) -> tuple[Tensor, float | Tensor | Words]:
        """``frac_bits`` for the cast; and its number if it is one, else its numbers, rounded; or what follows from word lengths that are learned.
        What lies further than ``spec.reach`` from its start counts as the nearest position that does not, straight-through. Raises
        QfxError before ``initialize``."""
        frac_bits, start = self._parameters["frac_bits"], self._buffers["frac_start"]  # attributes would take a detour
        if frac_bits is None:
            raise QfxError("has no binary point yet", where=self.name or "Quantizer", remedy="call initialize(data) first, or give spec.frac_bits")
        spec = self.spec
        if spec.learn_width:
            integer = self.learned_ints
            assert integer is not None  # set with frac_bits
            learned = spec.learn, spec.learn_range and spec.o is not OMode.WRAP
            where, seen = self.name or "Quantizer", told.look(self, "words")
            return frac_bits, word_length.words_of(frac_bits, integer, start, self.channel_axis, spec.reach, learned, where, seen)
        return near.counted(frac_bits, start, spec, self._known, told.look(self, "points"))

    def _interval(self, point: float | Tensor | Words, bits: int, mode: CastMode) -> Bounds:
        """The interval of a cast with such binary points (as ``_counted`` gives them, or an integer)."""
        known = self._known
        if type(point) is int and known is not None and known.points == point and known.mode is mode and known.width == bits:
            return known.interval
        if isinstance(point, Words):
            return word_length.interval(point, mode, self.channel_axis == 0)
        if isinstance(point, float):
            point = round(point)  # ties to even, as torch.round
        if known is None or known.width != bits or known.mode is not mode or not equal(known.points, point):
            known = self._known = self._follows(point, bits, mode)
        return known.interval

    def _follows(self, points: int | Tensor, width: int, mode: CastMode) -> _Known:
        if isinstance(points, int):
            return _Known(points, width, mode, intervals.of_points(mode, width, points))
        interval = intervals.of_channels(mode, width, points.movedim(self.channel_axis, 0).reshape(points.shape[self.channel_axis], -1))
        seen = told.look(self, "points")
        start = self._buffers["frac_start"] if seen is None else seen[1]
        if start is None or not (points - start).abs_().max().item() <= self.spec.reach - 1:
            return _Known(points, width, mode, interval)
        return _Known(points, width, mode, interval, start.clone())

    def types(self) -> tuple[FixedType, tuple[int, ...], tuple[int, ...]]:
        """(element type, integer bits of every binary point in row-major order, shape of the binary points); the batch axis is not stripped.
        Where word lengths are learned, in words of the greatest."""
        width, integer = self.word_length, self.learned_ints
        if integer is not None:
            return (*word_length.types(self.frac_bits, integer, self.mode), tuple(self.frac_bits.shape))
        frac_bits = self.points().to(torch.int64).cpu()
        int_bits = tuple(width - int(bits) for bits in frac_bits.flatten().tolist())
        mode = self.mode
        return FixedType(width, max(int_bits), mode.signed, mode.q, mode.o, mode.n), int_bits, tuple(frac_bits.shape)

    def questions(self, arguments: Sequence[Any]) -> Iterable[told.Question]:
        frac_bits, start, integer = self.frac_bits, self.frac_start, self.learned_ints
        if not self.is_initialized or self.off:
            return
        if integer is None:
            yield told.Question(self, "points", torch.stack((frac_bits.detach(), frac_bits.detach() if start is None else start)))
        elif self.spec.o is not OMode.WRAP:
            learned = self.spec.learn, self.spec.learn_range
            yield told.Question(self, "words", word_length.looked(frac_bits, integer, start, self.channel_axis, self.spec.reach, learned))

    def extra_repr(self) -> str:
        if self.frac_bits is None:
            return f"{self.spec.width} bits, not initialized"
        element, int_bits, shape = self.types()
        described = "off, " * self.off + (str(element) if not shape else f"{element}, {len(int_bits)} binary points")
        return f"{described}, {self.word_lengths().mean().item():.2f} bits" if self.spec.learn_width else described

    def _shape(self, data: Tensor, granularity: str = "") -> tuple[int, ...]:
        granularity = granularity if granularity and self.spec.granularity == "element" else self.spec.granularity
        if granularity == "tensor" or data.dim() == 0:
            return ()
        if granularity == "channel":
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
        integer = self.learned_ints
        if integer is not None:
            return word_length.grids(self.frac_bits, integer, count)
        return tuple(int(bits) for bits in self.points().reshape(count, -1).amax(1).tolist())

    def restriction(self) -> Steps:
        """What follows a cast to ``array_type`` where positions have word lengths of their own."""
        integer = self.learned_ints
        return [] if integer is None else word_length.restricted(self.frac_bits, integer, self.mode, tuple(self.frac_bits.shape[1:]))

    def operators(self) -> Steps:
        if self.spec.numbers is not None and (kind := number_sets.read(self.spec.numbers).format) is not None:
            return [("", MinifloatCast(kind, int(self.points())))]
        steps = [("", Cast(self.array_type())), *self.restriction()]
        return [(".words" if not place else suffix, op) for place, (suffix, op) in enumerate(steps[:-1])] + [("", steps[-1][1])]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        return sources[0]

    def scales_channels(self, channels: int) -> bool:
        return False


def finest(products: Bounds) -> int | Tensor:
    """The ``most`` for a constant that is added to ``products``: bits finer than theirs would only widen the sum."""
    if isinstance(products, Interval):
        return products.frac_bits
    return torch.tensor([interval.frac_bits for interval in products.channels])
