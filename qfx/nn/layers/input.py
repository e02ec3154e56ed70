"""The model's float input and its cast."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from qfx import operators as ops
from qfx.errors import DataError
from qfx.fixed.type import OMode
from qfx.nn.casts import told
from qfx.nn.clipped import Clipped
from qfx.nn.fixed_layer import FixedLayer, Steps, Traits
from qfx.nn.qtensor import QTensor
from qfx.nn.quantizer import Quantizer
from qfx.nn.recording import refuse_recording
from qfx.recipe import Recipe, Spec


class QInput(FixedLayer):
    """The model's float input and its cast: the first operation of every model.

    Where the spec leaves the sign open, the first data decide, once and for all: a type without one if no number is negative and not all are zero,
    so that images from 0 to 255 lose no bit to it. (AP_WRAP_SM has no such types.)

    Numbers that address the rows of a table (``rows`` of them) are whole: their type is the shortest without a sign that holds them all, whatever
    the recipe says, and no binary point is learned.

    Raises DataError for NaN, infinity, a shape other than (batch, *shape), negative numbers to start from where the first had none, or numbers that
    have no row.
    """

    shape: tuple[int, ...]
    recipe: Recipe
    label: str
    cast: Quantizer

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=True, reads_uncast=False)

    rows: int | None = None  # of a model that an earlier version pickled
    left_out: tuple[str, ...] = ()
    """What the model has no layers for because its recipe leaves it out, and where it stood."""

    def __init__(self, shape: tuple[int, ...], recipe: Recipe, label: str = "input", rows: int | None = None) -> None:
        """``label``: what recipes call its quantizer; of a model with several inputs each has its own."""
        super().__init__()
        self.shape, self.recipe, self.label, self.rows = shape, recipe, label, rows
        spec = recipe.spec(label, "input", "input")
        if rows is not None:
            spec = Spec(max((rows - 1).bit_length(), 1), o=OMode.SAT, signed=False, frac_bits=0, learn=False)
        self.cast = Quantizer(spec, name=label, also="input")

    def initialize(self, x: Tensor) -> None:
        self.initialize_from((x,))

    def initialize_from(self, parts: Iterable[Tensor]) -> None:
        checked = _Checked(self, parts)
        if self.cast.spec.signed is None:
            self._settle_sign(checked)
        self.cast.initialize_from(checked)

    def _settle_sign(self, parts: Iterable[Tensor]) -> None:
        seen = [x.detach().aminmax() for x in parts if x.numel()]
        negative, zero = any(bool(low < 0) for low, _ in seen), all(bool((low == 0) & (high == 0)) for low, high in seen)
        if self.cast.ranks is not None:
            told = self.cast.ranks.objects((negative, zero))
            negative, zero = any(one for one, _ in told), all(one for _, one in told)
        if self.cast.signed is None:
            self.cast.signed = negative or zero or self.cast.spec.o is OMode.WRAP_SM
        elif negative and not self.cast.signed:
            raise DataError(
                "negative numbers, but the data that the model was quantized with had none, so that its type has no sign",
                where=self.label,
                remedy="quantize the float model again with such data as the example, or with signed = true in the recipe's [input]",
            )

    def forward(self, x: Tensor) -> QTensor:
        refuse_recording()  # here too: torch.export runs the graph node by node, not the model's forward
        return self.cast(self.checked(x))  # type: ignore[no-any-return]

    def checked(self, x: Tensor) -> Tensor:
        """A batch as floats. Raises DataError for one that the model was not made for."""
        if not isinstance(x, Tensor) or tuple(x.shape[1:]) != self.shape or x.dim() != len(self.shape) + 1:
            got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise DataError(
                f"got {got}, expected (batch, {', '.join(map(str, self.shape))})", where=self.label, remedy="give what the model was made for"
            )
        if x.is_complex():
            raise DataError("complex numbers", where=self.label, remedy="give real ones")
        if not x.is_floating_point():
            x = x.double() if x.dtype in (torch.int32, torch.int64) else x.float()
        seen = told.take(self, "numbers")
        if seen is not None and seen.item() <= self._most:
            return x
        if not math.isfinite(x.detach().sum().item()) and not bool(torch.isfinite(x.detach()).all()):  # the sum is cheap, and may overflow
            raise DataError("NaN or infinity", where=self.label, remedy="clean the data")
        if self.rows is not None and x.numel():
            low, high = x.detach().aminmax()
            if bool(low < 0) or bool(high >= self.rows) or not torch.equal(x.detach(), x.detach().round()):
                what = f"numbers of {low.item():g} to {high.item():g} for a table of {self.rows} rows"
                raise DataError(what, where=self.label, remedy=f"give whole numbers of 0 to {self.rows - 1}")
        return x

    @property
    def _most(self) -> float:
        return sys.float_info.max if self.rows is None else 1.0

    def questions(self, arguments: Sequence[Any]) -> Iterable[told.Question]:
        """Whether the numbers are finite (their sum is, then), or how far they are from rows of the table, beyond 1."""
        x = arguments[0] if arguments else None
        if not isinstance(x, Tensor) or x.is_complex() or not x.numel():
            return
        x = x.detach().double() if self.rows is not None or not x.is_floating_point() else x.detach()
        if self.rows is None:
            yield told.Question(self, "numbers", x.sum().abs(), self._most)
        else:
            beyond = torch.stack(((-x).max(), (x - (self.rows - 1)).max(), (x - x.round()).abs().max() * 2))
            yield told.Question(self, "numbers", beyond.max().clamp(min=0) + 1, self._most)

    def operators(self) -> Steps:
        return [("", ops.Input(self.shape, self.cast.array_type())), *self.cast.restriction()]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        return sources[0].expanded(self.shape[0])

    def scales_channels(self, channels: int) -> bool:
        return False


@dataclass(frozen=True, eq=False)
class _Checked:
    """Batches that an input layer takes."""

    layer: QInput
    parts: Iterable[Tensor]

    def __iter__(self) -> Iterator[Tensor]:
        return map(self.layer.checked, self.parts)
