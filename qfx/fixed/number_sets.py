"""Sets of integers that a word may hold, by name: what ``Spec.numbers`` says.

"E2M1", "E4M3", "E5M2", any "ExMy": the finite numbers of a minifloat (``minifloat.py``) in units of its smallest. Its word, rounding and symmetry
follow from it.

"power(b, a)": the codes k = -K..K, K = 2**(b - 1) - 1, of a power-exponent quantizer: sign(k) * round(P * (|k| / K)**(1 / a)), P the greatest of the
word. With a = 1 they are uniform; the smaller a, the more of them lie near 0. Source: Yvinec et al., "NUPES: Non-Uniform Post-Training Quantization
via Power Exponent Search", 2023, arXiv 2308.05600, whose operator is x -> sign(x) * |x|**a in front of a uniform quantizer.

"levels(-7, -2, 0, 2, 7)": these integers, ascending.

In hardware each is a constant of the word like any other: what a set leaves out is a matter of which constants there are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from qfx.errors import RecipeError
from qfx.fixed.minifloat import Minifloat

LONGEST = 32
"""The most bits of a word."""

LONGEST_OF_FORMAT = 36
"""The most bits of the word of a format: E5M2 takes 33. With activations of 8 bits products have 41 then, and float64 sums 4,096 of the greatest."""

MOST_CODE_BITS = 12
"""Of a power."""

_FORM = re.compile(r"(power|levels)\((.*)\)")


@dataclass(frozen=True, slots=True)
class NumberSet:
    """``kind`` "format", "power" or "levels"; ``width``: the bits of the least word that holds it. ``powers``: (b, a) of a power."""

    kind: str
    width: int
    format: Minifloat | None = None
    powers: tuple[int, float] = (0, 1.0)
    levels: tuple[int, ...] = ()

    @property
    def is_format(self) -> bool:
        """Whether the word follows from the set."""
        return self.format is not None

    def integers(self, width: int) -> npt.NDArray[np.int64]:
        """Those of a word of ``width`` bits, signed, ascending."""
        if self.format is not None:
            half = self.format.raws
        elif self.kind == "power":
            half = power_codes(*self.powers, width)
        else:
            return np.array(self.levels, dtype=np.int64)
        return np.unique(np.concatenate([-half, half]))


def power_codes(bits: int, exponent: float, width: int) -> npt.NDArray[np.int64]:
    """The codes of ``power(bits, exponent)`` that are not negative, in a word of ``width`` bits; some may be equal.

    >>> power_codes(4, 1.0, 8).tolist(), power_codes(4, 0.5, 8).tolist()
    ([0, 18, 36, 54, 73, 91, 109, 127], [0, 3, 10, 23, 41, 65, 93, 127])
    """
    steps = (1 << bits - 1) - 1
    size = np.power(np.arange(steps + 1) / steps, 1 / exponent) * ((1 << width - 1) - 1)
    return np.floor(size + 0.5).astype(np.int64)


@lru_cache(maxsize=256)
def read(text: str) -> NumberSet:
    """The set of that name. Raises RecipeError for anything else.

    >>> read("levels(-4, 0, 3)").width, read("E2M1").width
    (3, 5)
    """
    form = _FORM.fullmatch(text.replace(" ", "")) if isinstance(text, str) else None
    if form is None:
        if not isinstance(text, str) or not text.startswith("E"):
            remedy = 'use a minifloat such as "E2M1", "power(4, 0.6)" or "levels(-4, -1, 0, 1, 4)"'
            raise RecipeError(f"numbers are {text!r}", remedy=remedy)
        kind = Minifloat.parse(text)
        width = kind.fixed_type.width
        if width > LONGEST_OF_FORMAT:
            told = f"the numbers of {text} take {width} bits in fixed point, and their words have at most {LONGEST_OF_FORMAT}"
            raise RecipeError(told, remedy="use fewer bits of exponent: E5M2 takes 33, E4M3 19")
        return NumberSet("format", width, kind)
    words = form[2].split(",")
    try:
        if form[1] == "power":
            bits, exponent = int(words[0]), float(words[1])
            if len(words) != 2 or not 2 <= bits <= MOST_CODE_BITS or not 0.05 <= exponent <= 2:
                raise ValueError
            return NumberSet("power", bits, powers=(bits, exponent))
        levels = tuple(map(int, words))
    except (ValueError, IndexError):
        remedy = f'use "power(b, a)" with 2 to {MOST_CODE_BITS} bits and an exponent of 0.05 to 2, or "levels(...)" of integers'
        raise RecipeError(f"numbers are {text!r}", remedy=remedy) from None
    width = max(max(level, -level - 1).bit_length() + 1 for level in levels)
    if len(levels) < 2 or list(levels) != sorted(set(levels)) or 0 not in levels or width > LONGEST:
        remedy = f"list at least two integers, ascending, each once, 0 among them, of at most {LONGEST} bits"
        raise RecipeError(f"numbers are {text!r}", remedy=remedy)
    return NumberSet("levels", width, levels=levels)
