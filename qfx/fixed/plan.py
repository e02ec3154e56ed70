"""What the executors of Cast (``eager.py``, ``native.py``) have in common: the mode, the plan of one call and its limits."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NoReturn

import torch
from torch import Tensor

from qfx.errors import DataError, ExactnessError
from qfx.fixed.arith import FLOAT32_BITS, FLOAT64_BITS
from qfx.fixed.type import FixedType, OMode, QMode

FLOAT32_FRAC_BITS = (-100, 120)
"""Binary points whose values float32 holds as normal numbers, up to 24 bits wide."""

FLOAT64_FRAC_BITS = (-512, 566)
"""Binary points of every ``FixedType`` up to 53 bits wide: 2**F and 2**-F are then normal float64 numbers."""

Gradients = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]
"""By x, frac_bits, int_bits, scale, shift, addend."""

_Q_CODES = {q: code for code, q in enumerate(QMode)}
_O_CODES = {o: code for code, o in enumerate(OMode)}


@dataclass(frozen=True)
class CastMode:
    """All of a FixedType but its word length and its binary point: what stays fixed while those two are learned.

    ``code`` is a small integer that names the mode (it keys caches; its layout is private to ``qfx.fixed``).
    Raises TypeSyntaxError for what the vendor's headers would not take.
    """

    signed: bool = True
    q: QMode = QMode.TRN
    o: OMode = OMode.WRAP
    n: int = 0
    code: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        FixedType(FLOAT64_BITS, 0, self.signed, self.q, self.o, self.n)
        code = self.n << 8 | _O_CODES[self.o] << 4 | _Q_CODES[self.q] << 1 | int(self.signed)
        object.__setattr__(self, "code", code)

    def __hash__(self) -> int:
        return self.code

    @classmethod
    def of(cls, type_: FixedType) -> CastMode:
        """The mode of a type."""
        return cls(type_.signed, type_.q, type_.o, type_.n)

    def type(self, width: int, frac_bits: int) -> FixedType:
        """The FixedType with this mode, that word length and that binary point."""
        return FixedType(width, width - frac_bits, self.signed, self.q, self.o, self.n)


@dataclass(frozen=True, eq=False)
class Plan:
    """One Cast call without its tensors: the mode, the word length and the activation before the Cast. Made by ``plan_of``, equal if identical."""

    mode: CastMode
    width: int
    negative_slope: float
    upper: float
    min_raw: int
    max_raw: int


@lru_cache(maxsize=4096)
def plan_of(mode: CastMode, width: int, negative_slope: float = 1.0, upper: float | None = None) -> Plan:
    """Check and complete a call's constants. Raises ExactnessError for a width above 53, TypeSyntaxError for an impossible type."""
    if width > FLOAT64_BITS:
        raise ExactnessError(f"a word length of {width} bits does not fit float64", remedy=f"use at most {FLOAT64_BITS} bits in the torch emulator")
    if not math.isfinite(negative_slope) or (upper is not None and math.isnan(upper)):
        raise DataError(f"negative_slope {negative_slope} or upper {upper} is not a number", remedy="give finite numbers")
    type_ = mode.type(width, 0)
    return Plan(mode, width, float(negative_slope), math.inf if upper is None else float(upper), type_.min_raw, type_.max_raw)


def is_here(x: Tensor) -> bool:
    """Whether a look at the numbers costs no wait for a device."""
    return x.is_cpu


def refuse_frac_bits(frac_bits: Tensor, dtype: torch.dtype, int_bits: Tensor | None = None) -> NoReturn:
    """Say which binary point the result's dtype cannot hold, or that integer bits are no numbers."""
    if int_bits is not None and bool(int_bits.detach().isnan().any()):
        raise ExactnessError("nan integer bits", remedy="load an earlier checkpoint; lower the learning rate")
    low, high = FLOAT32_FRAC_BITS if dtype is torch.float32 else FLOAT64_FRAC_BITS
    flat = frac_bits.detach().double().reshape(-1)
    bad = flat[~((flat.round() >= low) & (flat.round() <= high))]
    raise ExactnessError(
        f"{float(bad[0])} fractional bits are outside {low}..{high}, the range of {dtype}",
        remedy="bound the learned binary point" if dtype is torch.float64 else "bound the learned binary point, or cast a float64 tensor",
    )


def result_dtype(x: Tensor, addend: Tensor | None, width: int) -> torch.dtype:
    """float32 if everything is and the word length fits its significand, else float64."""
    if x.dtype is torch.float32 and width <= FLOAT32_BITS and (addend is None or addend.dtype is torch.float32):
        return torch.float32
    return torch.float64


def along_channels(parameter: Tensor, x: Tensor, name: str) -> Tensor:
    """A scalar, or a vector over axis 1 of ``x``, shaped so that it broadcasts against ``x``. Raises DataError for another shape."""
    if parameter.numel() == 1:
        return parameter.reshape(())
    if x.dim() >= 2 and parameter.shape == x.shape[1:2]:
        return parameter.reshape((-1,) + (1,) * (x.dim() - 2))
    raise DataError(f"{name} has shape {tuple(parameter.shape)} against {tuple(x.shape)}", remedy="give a scalar or one number per channel (axis 1)")
