"""What faults make of a stored word. The definition, in Python integers and in numpy; no torch.

A constant of W bits lies in memory as W bits, two's complement where it is signed. What is read is, in this order:

1. variability: the integer times 1 + d, d drawn for each word from a normal distribution, rounded to the nearest (of two the greater), saturated to
   the word. A device that holds the number analogously, and is read into the word.
2. bits that are stuck read as 0 or as 1, whatever is stored.
3. bits that flip read as their opposite.

Everything is drawn from ``seed`` and the constant's name alone, word by word, from the least bit on: two executors that know both see the same
faults. A larger rate, with the same seed, has all the faults of a smaller one.

Source of the fault models: Biswas, Singhal et al., "Regularization-based Framework for Quantization-, Fault- and Variability-Aware Training", 2025,
arXiv 2503.01297 (abstract and introduction were at hand, not its formulas).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from zlib import crc32

import numpy as np
import numpy.typing as npt

from qfx.errors import DataError, QfxError

IntArray = npt.NDArray[np.int64]
_NONE: Mapping[str, tuple[Stuck, ...]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Stuck:
    """Bit ``bit`` (0 is the least) of the word at place ``index`` (row-major, outputs first) always reads as ``value``."""

    index: int
    bit: int
    value: int


@dataclass(frozen=True)
class Faults:
    """The faults of a model's constants. ``stuck_at_0``, ``stuck_at_1``, ``flips``: the probability of each for every bit. ``variability``: the
    standard deviation of d. ``known``: stuck bits at known places, by the constant's name (``conv1.weight``), beside those that are drawn.

    Raises QfxError for rates that are no probabilities.
    """

    stuck_at_0: float = 0.0
    stuck_at_1: float = 0.0
    flips: float = 0.0
    variability: float = 0.0
    seed: int = 0
    known: Mapping[str, tuple[Stuck, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("stuck_at_0", "stuck_at_1", "flips", "variability"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value <= 1:
                raise QfxError(f"{name} is {value!r}", where="Faults", remedy="use a number from 0 to 1")
        if self.stuck_at_0 + self.stuck_at_1 > 1:
            raise QfxError("more bits are stuck than there are", where="Faults", remedy="let stuck_at_0 and stuck_at_1 add up to 1 at most")

    def at(self, step: int) -> Faults:
        """The same rates, drawn anew: those of training step ``step``."""
        return replace(self, seed=int(np.random.SeedSequence((self.seed, step)).generate_state(1)[0]))

    def drawn(self, name: str, count: int, width: int) -> Drawn:
        """What befalls the ``count`` words of ``width`` bits of the constant ``name``. Raises DataError for a known fault of a word or a bit that
        is not there."""
        generator = np.random.default_rng(np.random.SeedSequence((self.seed, crc32(name.encode()))))
        zeros, ones, flips = (np.zeros(count, dtype=np.int64) for _ in range(3))
        stuck, turned = generator.random((count, width)), generator.random((count, width))
        deviation = generator.standard_normal(count) * self.variability
        for bit in range(width):
            zeros |= (stuck[:, bit] < self.stuck_at_0).astype(np.int64) << bit
            ones |= (stuck[:, bit] >= 1 - self.stuck_at_1).astype(np.int64) << bit
            flips |= (turned[:, bit] < self.flips).astype(np.int64) << bit
        for fault in self.known.get(name, ()):
            if not 0 <= fault.index < count or not 0 <= fault.bit < width or fault.value not in (0, 1):
                told = f"bit {fault.bit} of word {fault.index} is stuck at {fault.value}, and there are {count} words of {width} bits"
                raise DataError(told, where=name, remedy="give faults of words and bits that the constant has, stuck at 0 or 1")
            one = 1 << fault.bit
            zeros[fault.index] = zeros[fault.index] & ~one | one * (not fault.value)
            ones[fault.index] = ones[fault.index] & ~one | one * fault.value
        return Drawn(zeros, ones, flips, deviation, width)


@dataclass(frozen=True, eq=False)
class Drawn:
    """For each word: masks of bits that read 0, that read 1 and that flip, and d."""

    zeros: IntArray
    ones: IntArray
    flips: IntArray
    deviation: npt.NDArray[np.float64]
    width: int

    def read(self, raw: IntArray, signed: bool) -> IntArray:
        """What is read where ``raw`` (flat) is stored; vectorized ``read_word``."""
        low, high = bounds(self.width, signed)
        varied = np.clip(np.floor(raw * (1 + self.deviation) + 0.5), low, high).astype(np.int64)
        bits = (varied & ~self.zeros | self.ones) ^ self.flips
        bits &= (1 << self.width) - 1
        return np.where(signed & (bits >> self.width - 1).astype(bool), bits - (1 << self.width), bits)

    @property
    def faults(self) -> int:
        """How many bits are stuck or flip."""
        return sum(int(mask).bit_count() for masks in (self.zeros, self.ones, self.flips) for mask in masks)


def bounds(width: int, signed: bool) -> tuple[int, int]:
    """The least and the greatest integer of a word."""
    return (-(1 << width - 1), (1 << width - 1) - 1) if signed else (0, (1 << width) - 1)


def read_word(raw: int, width: int, signed: bool, *, zeros: int = 0, ones: int = 0, flips: int = 0) -> int:
    """What is read where ``raw`` is stored and some bits are stuck at 0 or 1, or flip. The definition.

    >>> read_word(5, 4, True, ones=8), read_word(-1, 4, True, zeros=1), read_word(3, 4, False, flips=15)
    (-3, -2, 12)
    """
    text = [(raw >> bit) & 1 for bit in range(width)]
    for bit in range(width):
        if zeros >> bit & 1:
            text[bit] = 0
        if ones >> bit & 1:
            text[bit] = 1
        if flips >> bit & 1:
            text[bit] = 1 - text[bit]
    read = sum(value << bit for bit, value in enumerate(text))
    return read - (1 << width) if signed and text[-1] else read
