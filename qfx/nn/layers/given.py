"""Fake-quantizations of other tools, which say themselves what their types are: ``qfx.exchange`` puts them where the source has them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from qfx import operators as ops
from qfx.errors import UnsupportedError
from qfx.exchange.affine import AffineCast
from qfx.exchange.grid import Grid
from qfx.exchange.thresholds import Thresholds
from qfx.fixed.arith import Channels, Interval
from qfx.fixed.type import OMode, QMode
from qfx.integers.steps import Line
from qfx.nn.call import Call, Family, Layers, Part
from qfx.nn.clipped import Clipped
from qfx.nn.fixed_layer import FixedLayer, Steps, Traits, constant
from qfx.nn.layers.arithmetic import QAdd
from qfx.nn.qtensor import QTensor
from qfx.nn.quantizer import Quantizer

_ROUNDED: dict[QMode, Callable[[Tensor], Tensor]] = {
    QMode.RND_CONV: torch.round,
    QMode.TRN: torch.floor,
    QMode.TRN_ZERO: torch.trunc,
    QMode.RND_INF: lambda x: torch.sign(x) * torch.floor(torch.abs(x) + 0.5),
    QMode.RND_ZERO: lambda x: torch.sign(x) * torch.ceil(torch.abs(x) - 0.5),
}
"""As other tools compute them, in float."""


class FakeQuant(nn.Module):
    """What another tool makes of numbers, in float: rounded to a grid and limited, or their sign. ``label``: what recipes call the quantizer that it
    becomes; ``place``: its path. ``reads``: the fractional bits that its input may have at most, which the source rounds to first; ``holds_all``:
    that the source has no limits there, so that none may count; ``marks``: what a forward is to see in place of its result. It stands in networks
    that ``qfx.exchange`` makes."""

    grid: Grid
    label: str
    place: str

    one_piece = True
    """For capture, which does not look inside."""

    def __init__(self, grid: Grid, label: str) -> None:
        super().__init__()
        self.grid, self.label, self.place = grid, label, f"{label}_cast"
        self.reads: int | None = None
        self.holds_all = False
        self.marks: Callable[[Tensor], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        result = self._rounded(x)
        return result if self.marks is None else self.marks(result)

    def _rounded(self, x: Tensor) -> Tensor:
        grid = self.grid
        points = points_of(grid, x).to(x.dtype)
        step = torch.tensor(grid.scales, dtype=x.dtype, device=x.device).reshape(points.shape) if grid.scales else torch.exp2(-points)
        if grid.bipolar:
            return torch.where(x >= 0, step, -step)
        low = 0 if not grid.signed else 1 - 2 ** (grid.width - 1) if grid.o is OMode.SAT_SYM else -(2 ** (grid.width - 1))
        high = 2 ** (grid.width - grid.signed) - 1
        return _ROUNDED[grid.q](x / step).clamp(low, high) * step

    def extra_repr(self) -> str:
        return str(self.grid)


class SignOf(nn.Module):
    """A parametrization: plus or minus the step of a bipolar grid, by the sign of each number of a weight; the gradient goes straight through."""

    step: Tensor

    def __init__(self, grid: Grid, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("step", torch.exp2(-points_of(grid, weight.detach())))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (torch.where(weight >= 0, self.step, -self.step) - weight).detach()


def points_of(grid: Grid, x: Tensor) -> Tensor:
    """The binary points of a grid, of the tensor () or in a shape that goes with it. Raises UnsupportedError where there are not as many as it has
    channels."""
    if grid.axis is None:
        return torch.tensor(float(grid.frac_bits[0]), device=x.device)
    if grid.axis >= x.dim() or x.shape[grid.axis] != len(grid.frac_bits):
        what = f"{len(grid.frac_bits)} scales along axis {grid.axis} of a tensor of shape {tuple(x.shape)}"
        raise UnsupportedError(what, remedy="give one scale for each channel")
    shape = [1] * x.dim()
    shape[grid.axis] = -1
    return torch.tensor(grid.frac_bits, dtype=torch.float32, device=x.device).reshape(shape)


class GivenQuantizer(Quantizer):
    """A Cast of a type that is given: of a model of another tool. Its binary points are learned from there on."""

    frac_grad_scale: float

    makes_room = False

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=True, reads_uncast=True, called_again="shared", casts=True)

    def __init__(self, grid: Grid, name: str, *, channel_axis: int = 1, also: str = "") -> None:
        super().__init__(grid.spec, channel_axis=channel_axis, name=name, also=also)
        self.grid = grid

    def initialize(self, x: QTensor | Tensor, *, most: int | Tensor | None = None) -> None:
        """Put the binary points where the grid has them; ``x`` says in which shape."""
        data = x.tensor() if isinstance(x, QTensor) else x
        if self.grid.axis not in (None, self.channel_axis):
            what = f"has scales along axis {self.grid.axis}"
            raise UnsupportedError(what, where=self.name, remedy="let scales differ between channels alone: axis 1, of weights the outputs' axis")
        self.place(points_of(self.grid, data), afresh=True)
        count = data.numel() // data.shape[0] if self.channel_axis and data.dim() else data.numel()
        self.frac_grad_scale = float((max(count // len(self.grid.frac_bits), 1) * 2.0**self.grid.width) ** -0.5)

    def initialize_from(self, parts: Iterable[QTensor | Tensor], *, most: int | Tensor | None = None) -> None:
        """From data, as any Quantizer; but a sign stays where it is."""
        if self.grid.bipolar:
            self.initialize(next(iter(parts)))
        else:
            super().initialize_from(parts, most=most)


class QOffset(FixedLayer):
    """x plus or minus a power of two that nobody trains; exact."""

    sign: int
    exponent: int

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=True, reads_uncast=True)

    def __init__(self, sign: int, exponent: int) -> None:
        super().__init__()
        self.sign, self.exponent = sign, exponent

    def forward(self, x: QTensor) -> QTensor:
        offset = torch.full((), self.sign * 2.0**self.exponent, dtype=x.value.dtype, device=x.value.device)
        return x.affine(None, offset, x.interval + Interval(self.sign, self.sign, -self.exponent), where=self.name)

    def operators(self) -> Steps:
        return [("", ops.Affine(None, ops.Const.of(self.sign * 2.0**self.exponent)))]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        (x,), offset = sources, self.sign * 2.0**self.exponent
        return Clipped(x.mean + offset, x.std, x.low + offset, x.high + offset)

    def scales_channels(self, channels: int) -> bool:
        return False


class QLines(FixedLayer):
    """A line for each channel, of raw numbers, that nobody trains; exact. The gradient is the line's slope."""

    scale: Tensor
    shift: Tensor
    slopes: Channels
    offsets: Channels

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=False, reads_uncast=True)

    def __init__(self, lines: Sequence[Line], grids: Sequence[int]) -> None:
        """``grids``: the fractional bits of what each channel reads."""
        super().__init__()
        slopes = tuple(Interval(own.multiplier, own.multiplier, own.shift - grid) for own, grid in zip(lines, grids, strict=True))
        offsets = tuple(Interval(own.offset, own.offset, own.shift) for own in lines)
        self.slopes, self.offsets = Channels(slopes), Channels(offsets)
        for name, numbers in (("scale", slopes), ("shift", offsets)):
            exact = [math.ldexp(own.lo, -own.frac_bits) for own in numbers]
            self.register_buffer(name, torch.tensor(exact, dtype=torch.float64), persistent=False)

    def forward(self, x: QTensor) -> QTensor:
        return x.affine(self.scale, self.shift, x.interval * self.slopes + self.offsets, where=self.name)

    def operators(self) -> Steps:
        scale, shift = constant(self.scale, f"{self.name}.scale"), constant(self.shift, f"{self.name}.shift")
        return [("", ops.Affine(scale, shift))]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        mean, variance = sources[0].moments()
        return Clipped.normal(mean * self.scale + self.shift, (variance * self.scale.square()).sqrt())

    def scales_channels(self, channels: int) -> bool:
        return False


def _thresholds(call: Call) -> Layers:
    """The sum of its casts, each of a line."""
    assert isinstance(call.module, Thresholds)
    parts: list[Part] = []
    total: Part | None = None
    for place, (grid, lines) in enumerate(call.module.casts):
        suffix = f"_{place}" if place else ""
        label = f"{call.module.label}{suffix}"
        lined = Part(QLines(lines, call.module.grids), (0,), f"_line{suffix}")
        cast = Part(GivenQuantizer(grid, label), (lined,), f"_cast{suffix}")
        parts += [lined, cast]
        if total is not None:
            cast = Part(QAdd(), (total, cast), f"_sum{suffix}")
            parts.append(cast)
        total = cast
    along, grids = call.module.along, (0,) * len(call.module.grids)
    if along is not None and (along.multiplier, along.offset, along.shift) != (1, 0, 0):
        assert total is not None
        parts.append(Part(QLines([along] * len(grids), grids), (total,), ""))
    return parts


def _fake_quant(call: Call) -> Layers:
    """One Cast; of a sign three steps, which are exact: x - s is rounded to the two multiples -2s and 0 of 2s, and s added. So numbers from -s to s
    have a gradient, as with other tools."""
    assert isinstance(call.module, FakeQuant)
    grid, label = call.module.grid, call.module.label
    if not grid.bipolar:
        return [GivenQuantizer(grid, label)]
    if grid.axis is not None:
        raise call.refuse("the sign with a scale for each channel", "use one scale for the tensor")
    down = Part(QOffset(-1, -grid.frac_bits[0]), (0,), "_down")
    sign = Part(GivenQuantizer(sign_bit(grid, QMode.RND), label), (down,))
    return [down, sign, Part(QOffset(1, -grid.frac_bits[0]), (sign,), "_up")]


def sign_bit(grid: Grid, q: QMode) -> Grid:
    """The two numbers 0 and minus twice the scale: a word of one bit."""
    return Grid(1, True, (grid.frac_bits[0] - 1,), q=q, o=OMode.SAT, bipolar=True)


def _affine_cast(call: Call) -> Layers:
    """Capture keeps it in one piece; a Cast it is not."""
    raise call.refuse("a scale or zero point that no fixed-point type has", "take its integers: qfx.integers_of")


FAMILY = Family(
    layers=(GivenQuantizer, QLines, QOffset), modules={FakeQuant: _fake_quant, AffineCast: _affine_cast, Thresholds: _thresholds}, elementwise=True
)
