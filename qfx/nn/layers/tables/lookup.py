"""``QLookup``: a function of one number as a table, and ``QInnerLookup``, the same inside an operation of several steps."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from qfx import operators as ops
from qfx.errors import QfxError
from qfx.fixed.arith import FLOAT64_BITS, Bounds, Interval
from qfx.fixed.type import FixedType
from qfx.nn.clipped import Clipped
from qfx.nn.fixed_layer import FixedLayer, Steps, Traits
from qfx.nn.layers.tables.entries import Entries, Function, Lines, evaluate, lines
from qfx.nn.qtensor import QTensor
from qfx.nn.quantizer import Quantizer
from qfx.operators.lookup import MAX_ENTRIES

_QUANTILES = 256
"""Of a distribution: where a function is evaluated to see what becomes of it."""

_STEPS, _NEAR = 25, 0.02
"""In which a limited distribution is fitted to moments, and how far from them, in deviations, it may end."""


@dataclass(frozen=True, eq=False)
class _Known:
    """A table, and what it follows from: the numbers that come and, where lines stand in for entries, the type of the output. ``values`` and
    ``slopes``: what each raw gives and how that changes, on the device that asked; ``result`` bounds the values."""

    reach: Interval
    out: FixedType | None
    entries: Entries
    lines: Lines | None
    values: Tensor
    slopes: Tensor
    result: Interval

    def __deepcopy__(self, memo: dict[int, Any]) -> _Known:
        return self  # nothing in it is ever changed

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return _nothing, ()  # it follows from the types, which are in the model


def _nothing() -> None:
    """What a file holds of a table."""


class Tabled(FixedLayer, abstract=True):
    """A function of one number as a table that the raw of the number addresses.

    Entries follow from the types as they are. ``function`` is evaluated in float64 once for every raw of the input's interval, and every forward
    reads what that gave, so that a forward never differs from an export. Where up to ``MAX_ENTRIES`` numbers can come, the entry is the value of
    the function, which the Cast behind it rounds, once: the exported table holds the results of that Cast. Up to 2**20 numbers, lines stand in
    for the entries, as few as come within ``max_error`` of the function at every raw. Default: half a least significant bit of the output; if the
    largest table misses that, it is as near as it comes. ``table_error``, the recipe's, asks for another share of that bit where there is no
    ``max_error``. ``error`` is the bound that holds. ExactnessError for more numbers, and for an error that is asked for and out of reach.

    Where the function has no finite value (1/0, log of 0), the table has that of the nearest number with one. Channels with binary points of
    their own are read on the finest grid of all.

    Gradient: that of the function at the cast input (0 where it has none that is finite), also where lines stand in for it; what reaches the
    binary points of input and output is theirs, as for every Cast.
    """

    function: Function
    label: str
    max_error: float | None

    table_error: float | None = None
    in_float: bool = False
    """Whether it is its function, since what it reads need not be on a grid (``qfx.switch``)."""

    def __init__(self, function: Function, label: str, max_error: float | None = None) -> None:
        super().__init__()
        self.function, self.label, self.max_error = function, label, max_error
        self.is_open = False
        self._known: _Known | None = None

    @property
    def output(self) -> nn.Module | None:
        """The Cast of the result: a Quantizer, or what stands for it in a float reference. None before there is one."""
        return self._modules.get("output_cast")

    @property
    def error(self) -> float:
        """The greatest distance between table and function before the Cast, over all numbers that could come in the last forward; 0.0 for a table of
        entries."""
        known = self._of_last_forward()
        return 0.0 if known.lines is None else known.lines.error

    def values(self, x: QTensor) -> QTensor:
        """What the table gives before it is cast: float64. Entries are on no grid; their interval says so by taking all of float64's bits."""
        if self.in_float or (self.output is not None and not isinstance(self.output, Quantizer)):  # a float reference: its numbers are on no grid
            return QTensor(self.function(x.tensor()), x.interval)
        known = self._table(x.interval, x.value.device)
        reach = known.reach
        return QTensor(_Read.apply(x.tensor(), known.values, known.slopes, reach.frac_bits, reach.lo), known.result)  # type: ignore[no-untyped-call]

    def _table(self, bounds: Bounds, device: torch.device) -> _Known:
        reach = bounds.hull
        output = self.output
        long = reach.hi - reach.lo >= MAX_ENTRIES and not self.is_open
        out = output.types()[0] if long and isinstance(output, Quantizer) and output.is_initialized else None
        known = self._known
        if known is None or (known.reach, known.out) != (reach, out) or known.values.device != device:
            known = self._known = self._made(reach, out, device)
        return known

    def _made(self, reach: Interval, out: FixedType | None, device: torch.device) -> _Known:
        known = self._known
        label = self.name or self.label
        entries = known.entries if known is not None and known.reach == reach else evaluate(self.function, reach, label)
        found = None if out is None else lines(entries.values, out, self._wanted(out), label)
        if found is None:
            values, result = entries.values, _all_bits(entries.values)
        else:
            values = np.ldexp(found.results.astype(np.float64), -found.fine)
            result = Interval(int(found.results.min()), int(found.results.max()), found.fine)
        with torch.inference_mode(False):  # a later step may train with them
            held, slopes = (torch.from_numpy(np.ascontiguousarray(part)).to(device) for part in (values, entries.slopes))
        return _Known(reach, out, entries, found, held, slopes, result)

    def _wanted(self, out: FixedType) -> float | None:
        """The error that is asked for."""
        if self.max_error is not None or self.table_error is None:
            return self.max_error
        return math.ldexp(self.table_error, -out.frac_bits)

    @property
    def error_bits(self) -> float:
        """``error`` in least significant bits of the output."""
        known = self._of_last_forward()
        return 0.0 if known.lines is None or known.out is None else math.ldexp(known.lines.error, known.out.frac_bits)

    def _of_last_forward(self) -> _Known:
        """The table for the numbers of the last forward and the output as it is."""
        if self._known is None:
            raise QfxError("has no table yet", where=self.name or self.label, remedy="run the model once")
        return self._table(self._known.reach, self._known.values.device)

    def settle(self) -> None:
        """Make the table for the types as they are. Raises what ``forward`` would raise for them."""
        self._of_last_forward()

    def operators(self) -> Steps:
        """Those of the types that the last forward met."""
        known, output = self._of_last_forward(), self.output
        reach, found = known.reach, known.lines
        if found is not None:
            values, slopes = ops.Const(found.values, found.frac_bits), ops.Const(found.slopes, found.fine)
            return [("", ops.LookupLinear(values, slopes, reach.lo, reach.frac_bits, found.shift))]
        if not isinstance(output, Quantizer):
            raise QfxError("has no Cast", where=self.name or self.label, remedy="this is a defect in qfx; please report it")
        with torch.no_grad():
            cast = output(QTensor(known.values, known.result)).value.double().cpu().numpy()
        frac_bits = output.types()[0].frac_bits
        return [("", ops.Lookup(ops.Const(np.ldexp(cast, frac_bits).astype(np.int64), frac_bits), reach.lo, reach.frac_bits))]

    def extra_repr(self) -> str:
        if self._known is None or not isinstance(self.output, Quantizer):
            return self.label
        known = self._of_last_forward()
        found = known.lines
        if found is None:
            return f"{self.label}, {known.values.numel()} entries"
        return f"{self.label}, {found.values.size} lines, error up to {found.error:.3g} ({self.error_bits:.3g} LSB)"

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        """By quadrature over each channel's quantiles: limits and moments of what the function makes of them."""
        x = sources[0].samples(_QUANTILES)
        y = self.function(x).detach().double()
        held = torch.isfinite(y)
        count = held.sum(0).clamp(min=1)
        y = torch.where(held, y, 0.0)
        mean = y.sum(0) / count
        variance = (torch.where(held, y - mean, 0.0)).square().sum(0) / count
        low, high = (torch.where(held, y, sign * math.inf) for sign in (1, -1))
        return _limited(mean, variance, low.amin(0), high.amax(0))

    def scales_channels(self, channels: int) -> bool:
        return False


class QLookup(Tabled):
    """A function of one number as a table: see ``Tabled``. A Cast stands right behind it, with one binary point for all channels."""

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=False, reads_uncast=False, ends_chain=True, one_point=True)

    def forward(self, x: QTensor) -> QTensor:
        return self.values(x)


class QInnerLookup(Tabled):
    """A function of one number as a table with a Cast of its own: see ``Tabled``. For the inside of an operation of several steps."""

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=True, reads_uncast=False)

    def __init__(self, function: Function, label: str, cast: Quantizer, max_error: float | None = None) -> None:
        super().__init__(function, label, max_error)
        self.output_cast = cast

    def initialize(self, x: QTensor) -> None:
        self.output_cast.initialize(self.values(x))

    def restart(self, values: Iterable[QTensor], arguments: Callable[[], tuple[QTensor, ...]]) -> None:
        self.output_cast.initialize_from(_Each(self, values))

    def forward(self, x: QTensor) -> QTensor:
        return self.output_cast(self.values(x))  # type: ignore[no-any-return]

    def operators(self) -> Steps:
        return [*super().operators(), *((f".output{suffix}", op) for suffix, op in self.output_cast.operators())]


@dataclass(frozen=True, eq=False)
class _Each:
    """What a table gives for each of several values, as often as wanted."""

    layer: Tabled
    sources: Iterable[QTensor]

    def __iter__(self) -> Any:
        return (self.layer.values(x) for x in self.sources)


@contextlib.contextmanager
def opened(module: nn.Module) -> Iterator[None]:
    """In this context the tables of ``module`` give the values of their functions, whatever the types of their outputs are: so that these can be
    chosen anew."""
    layers = [layer for layer in module.modules() if isinstance(layer, Tabled)]
    try:
        for layer in layers:
            layer.is_open = True
        yield
    finally:
        for layer in layers:
            layer.is_open = False


def bound_asked(layer: Tabled, table_error: float | None) -> str:
    """How near the lines of a table must come to its function, in words; ``table_error``: the recipe's."""
    if layer.max_error is not None:
        return f"{layer.max_error:g}"
    return "0.5 LSB of the output where there can be" if table_error is None else f"{table_error:g} LSB of the output"


def error_bound(layer: Tabled) -> float:
    """How far the table of ``layer`` is from its function at most, before the Cast, over every number that could come in the last forward: 0.0 for a
    table of entries, exact for one of lines. Raises QfxError before the first forward."""
    return layer.error


class _Read(torch.autograd.Function):
    """values[raw - low]; the gradient is slopes[raw - low]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, slopes: Tensor, frac_bits: int, low: int) -> Tensor:
        ctx.save_for_backward(x, slopes)
        ctx.frac_bits, ctx.low = frac_bits, low
        return values[_places(x, frac_bits, low)]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, slopes = ctx.saved_tensors
        return (grad * slopes[_places(x, ctx.frac_bits, ctx.low)]).to(x.dtype), None, None, None, None


def _places(x: Tensor, frac_bits: int, low: int) -> Tensor:
    return (torch.ldexp(x.double(), torch.tensor(frac_bits, device=x.device)) - low).long()


def _all_bits(values: Any) -> Interval:
    """A bound on float64 values that leaves none of float64's bits, so that a Cast follows before anything else."""
    greatest = float(np.abs(values).max())
    exponent = math.frexp(greatest)[1]
    top = 1 << FLOAT64_BITS
    return Interval(-top if (values < 0).any() else 0, top if (values > 0).any() else 0, FLOAT64_BITS - exponent) if greatest else Interval(0, top, 1)


def _limited(mean: Tensor, variance: Tensor, low: Tensor, high: Tensor) -> Clipped:
    """Normal numbers that have these moments once they are limited; without limits where no step comes near."""
    flat, wanted = variance <= 0, variance.sqrt()
    found = Clipped(mean, wanted, torch.where(flat, mean, low), torch.where(flat, mean, high))
    for _ in range(_STEPS):
        is_mean, is_variance = found.moments()
        std = found.std * (variance / is_variance.clamp(min=1e-300)).sqrt().clamp(0.5, 2.0)
        found = Clipped(found.mean + (mean - is_mean), torch.where(flat, found.std, std), found.low, found.high)
    is_mean, is_variance = found.moments()
    far = ((is_mean - mean).abs() > _NEAR * wanted) | ((is_variance.sqrt() - wanted).abs() > _NEAR * wanted)
    normal = Clipped.normal(mean, wanted)
    return Clipped(*(torch.where(far, getattr(normal, name), getattr(found, name)) for name in ("mean", "std", "low", "high")))
