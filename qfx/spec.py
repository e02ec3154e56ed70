"""``Spec``: how one kind of tensor becomes fixed point, as data; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum
from html import escape
from typing import Any, Literal, TypeVar, get_args

from qfx.errors import QfxError, RecipeError
from qfx.fixed import number_sets
from qfx.fixed.digits import MOST_NUMBERS, DigitForm, count_bound, most_digits
from qfx.fixed.type import FixedType, OMode, QMode

Granularity = Literal["tensor", "channel", "element"]
ObserverName = Literal["mse", "minmax", "percentile", "kl"]
AccumulatorMode = Literal["bound", "wrap", "saturate"]
DIGIT_ROLES = ("weight", "scale", "reciprocal", "constant")
"""Those that multiply: of them a Spec may say ``digits``."""

LONGEST_WORD = 32
"""The most bits of a Spec's word, and of one whose length is learned."""

RANGES: Mapping[str, tuple[int, int]] = {
    "width": (1, LONGEST_WORD),
    "n": (0, LONGEST_WORD),
    "frac_bits": (-100, 100),
    "reach": (0, 100),
    "accumulator": (8, 48),
    "digits": (1, LONGEST_WORD),
    "percentile": (0, 100),
    "table_error": (0, 10**9),
}
"""From where to where the numbers of a recipe go; of the last two more than the first. Which of them go together, a Spec checks."""

MOST_OF_GROUP = 64
"""The greatest m of ``sparsity``."""

_ModeT = TypeVar("_ModeT", bound=Enum)


def is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def changes_of(value: Any, always: tuple[str, ...] = ()) -> str:
    """A dataclass as it could be written: with the fields ``always`` and those that are not as they are by default, modes by their names.

    >>> Spec(4, granularity="channel")
    Spec(width=4, granularity='channel')
    """
    chosen = ((field, getattr(value, field.name)) for field in fields(value))
    told = (
        f"{field.name}={(one.value if isinstance(one, Enum) else one)!r}" for field, one in chosen if field.name in always or one != field.default
    )
    return f"{type(value).__name__}({', '.join(told)})"


def require(condition: bool, name: str, value: object, remedy: str, where: str = "") -> None:
    if not condition:
        raise RecipeError(f"{name} is {value!r}", where=where, remedy=remedy)


def within(name: str, value: float) -> bool:
    """Whether a number lies where those of that name may; NaN does not."""
    least, most = RANGES[name]
    return least <= value <= most


def _mode(modes: type[_ModeT], value: object, name: str) -> _ModeT:
    try:
        return modes(value)
    except ValueError:
        raise RecipeError(f"{name} is {value!r}", remedy=f"use one of {', '.join(str(mode.value) for mode in modes)}") from None


def n_of_m(sparsity: str) -> tuple[int, int]:
    """(n, m) of "n:m": of each m weights at most n are not 0. Raises RecipeError for anything else.

    >>> n_of_m("2:4")
    (2, 4)
    """
    n, _, m = sparsity.partition(":") if isinstance(sparsity, str) else ("", "", "")
    if not (n.isdecimal() and m.isdecimal() and 1 <= int(n) <= int(m) <= MOST_OF_GROUP):
        remedy = f'use "n:m" with 1 <= n <= m <= {MOST_OF_GROUP}, such as "2:4"; "1:1" leaves every weight'
        raise RecipeError(f"sparsity is {sparsity!r}", remedy=remedy)
    return int(n), int(m)


@dataclass(frozen=True, slots=True)
class Spec:
    """How one kind of tensor becomes fixed point.

    ``width``: word length in bits, 1 to 32. ``q``, ``o``, ``n``: the modes of the cast (vendor names are taken as strings too).
    ``granularity``: one binary point per tensor, per channel (output channel of a weight) or per element. ``signed``: None lets qfx choose
    from what the operator can give (unsigned after a ReLU) and, for the input, from the example (unsigned if no number in it is negative).
    ``frac_bits``: a fixed position for every binary point, or None to start from data. ``learn``: whether the binary points are trained, each within
    ``reach`` positions of where it starts (what training pushes further counts as the nearest position within); ``learn_width``: whether the word
    length of each binary point is too, from 0 (pruned) to 32, starting at ``width``: ``learn`` then says whether the resolution is trained, and
    ``learn_range`` whether the range is. Under AP_WRAP ranges are not trained, but follow the numbers (``qfx.fix_ranges``).
    ``observer``: how data places a binary point: "mse" (least squared error), "minmax" (nothing overflows), "percentile" (``percentile``
    percent of the numbers do not overflow) or "kl" (least divergence of the histogram; see ``qfx.nn.observer``).
    ``accumulator``: of weights alone, how many bits (signed, 8 to 48) their sums of products are added up in; None: as many as they need.
    ``accumulator_mode``: "bound" keeps the weights where no partial sum leaves them, "wrap" lets sums wrap there, "saturate" lets the finished sum
    saturate (``qfx.nn.accumulator``).
    ``digits``: of constants (roles DIGIT_ROLES), only numbers of at most so many nonzero digits are in the type, so that products are as many
    shifted numbers, added; None: all numbers are. ``digit_form``: which digits are counted, the "signed" ones (CSD) or the "ones" of the magnitude
    (K-hot). A float becomes the nearest such number, of two the greater (``q`` is AP_RND), those beyond them the last one (``o`` saturates). Where
    the word length is learned, it is the nearest in the word of each binary point.
    ``numbers``: of weights the integers that are in the type, where these are no digits' but a minifloat's, a power's or given one by one
    (``qfx.fixed.number_sets`` has the words); of activations a minifloat's. A minifloat's word length, sign and rounding follow from it.
    ``sparsity``: of weights alone, "n:m", as "2:4": of each m weights along the inputs at most n are not 0 (``qfx.nn.casts.sparse``).
    """

    width: int = 8
    q: QMode = QMode.RND
    o: OMode = OMode.SAT
    n: int = 0
    granularity: Granularity = "tensor"
    signed: bool | None = None
    frac_bits: int | None = None
    learn: bool = True
    learn_width: bool = False
    observer: ObserverName = "mse"
    percentile: float = 99.99
    reach: int = 6
    learn_range: bool = True
    accumulator: int | None = None
    accumulator_mode: AccumulatorMode = "bound"
    digits: int | None = None
    digit_form: DigitForm = "signed"
    numbers: str | None = None
    sparsity: str | None = None

    def __repr__(self) -> str:
        return changes_of(self, always=("width",))

    def _repr_html_(self) -> str:
        return f"<code>{escape(repr(self))}</code>"

    def __post_init__(self) -> None:
        object.__setattr__(self, "q", _mode(QMode, self.q, "q"))
        object.__setattr__(self, "o", _mode(OMode, self.o, "o"))
        for name in ("width", "n", "reach"):
            require(is_int(getattr(self, name)), name, getattr(self, name), "give an integer")
        given = not (isinstance(self.numbers, str) and number_sets.read(self.numbers).is_format)  # else the format says the width
        require(not given or within("width", self.width), "width", self.width, "use a word length from 1 to 32")
        require(within("reach", self.reach), "reach", self.reach, "use 0 (learned binary points stay where they start) to 100")
        require(self.granularity in get_args(Granularity), "granularity", self.granularity, f"use one of {', '.join(get_args(Granularity))}")
        require(
            self.frac_bits is None or (is_int(self.frac_bits) and within("frac_bits", self.frac_bits)),
            "frac_bits",
            self.frac_bits,
            "use -100 to 100",
        )
        require(self.signed is None or isinstance(self.signed, bool), "signed", self.signed, "use true or false, or leave it out")
        for name in ("learn", "learn_width", "learn_range"):
            require(isinstance(getattr(self, name), bool), name, getattr(self, name), "use true or false")
        require(self.observer in get_args(ObserverName), "observer", self.observer, f"use one of {', '.join(get_args(ObserverName))}")
        is_number = is_int(self.percentile) or isinstance(self.percentile, float)
        require(
            is_number and self.percentile != 0 and within("percentile", self.percentile),
            "percentile",
            self.percentile,
            "use a number above 0, at most 100",
        )
        object.__setattr__(self, "percentile", float(self.percentile))
        if self.learn_width and (self.n or self.o not in (OMode.SAT, OMode.SAT_SYM, OMode.WRAP)):
            raise RecipeError(
                f"a learned word length (learn_width) has no gradient under {self.o.value}{f' with n = {self.n}' if self.n else ''}",
                remedy="use AP_SAT, AP_SAT_SYM or AP_WRAP with n = 0, or set learn_width to false",
            )
        if self.numbers is not None:
            self._check_numbers(self.numbers)
        if self.sparsity is not None:
            n_of_m(self.sparsity)
        self._check_accumulator()
        require(self.digit_form in get_args(DigitForm), "digit_form", self.digit_form, f"use one of {', '.join(get_args(DigitForm))}")
        if self.digits is not None:
            self._check_digits(self.digits)
        try:
            self.type(signed=self.signed is not False)
        except QfxError as error:
            raise RecipeError(error.what, remedy=error.remedy) from None

    def _check_accumulator(self) -> None:
        bits, mode = self.accumulator, self.accumulator_mode
        require(bits is None or (is_int(bits) and within("accumulator", bits)), "accumulator", bits, "use 8 to 48 bits, or leave it out")
        if mode not in get_args(AccumulatorMode):
            known = f"use one of {', '.join(get_args(AccumulatorMode))}"
            by_step = isinstance(mode, str) and "sat" in mode.lower()
            order = '; saturation at every addition depends on their order, which every folding and executor has its own of: "saturate" is that of '
            require(False, "accumulator_mode", mode, known + by_step * f"{order}the finished sum")
        if bits is None or mode != "bound":
            return
        for name, goes in (
            ("granularity", self.granularity != "element"),
            ("learn_width", not self.learn_width),
            ("digits", self.digits is None),
            ("numbers", self.numbers is None),
            ("o", self.o not in (OMode.WRAP, OMode.WRAP_SM)),
        ):
            if not goes:
                value = getattr(self, name)
                raise RecipeError(
                    f"{name} is {value.value if isinstance(value, Enum) else value!r}, with which weights cannot be kept within an accumulator",
                    remedy="use granularity tensor or channel, a fixed word length and a mode that saturates; or accumulator_mode wrap or saturate",
                )

    def _check_numbers(self, numbers: str) -> None:
        """Raises RecipeError for words that mean no set, or one that goes with no such Spec; gives a format the word that holds it."""
        require(isinstance(numbers, str), "numbers", numbers, 'use a text, such as "E2M1", "power(3, 0.85)" or "levels(-4, 0, 4)"')
        held = number_sets.read(numbers)
        if held.is_format:
            for name, value in (("width", held.width), ("q", QMode.RND_CONV), ("o", OMode.SAT_SYM if self.o is OMode.SAT else self.o)):
                object.__setattr__(self, name, value)
        if self.width < held.width:
            told = f"numbers are {numbers!r}, which take {held.width} bits, and width is {self.width}"
            raise RecipeError(told, remedy=f"use a width of {held.width} to {LONGEST_WORD}")
        for name, goes, remedy in (
            ("digits", self.digits is None, "give one of the two"),
            ("learn_width", not self.learn_width, "the set tells the word length: set learn_width to false"),
            ("signed", self.signed is not False, "leave it out: such numbers have a sign"),
            ("o", self.o in (OMode.SAT, OMode.SAT_SYM), "use AP_SAT or AP_SAT_SYM"),
            ("q", held.is_format or self.q is QMode.RND, "use AP_RND; a format rounds to even by itself"),
        ):
            if not goes:
                value = getattr(self, name)
                raise RecipeError(f"{name} is {getattr(value, 'value', value)!r} beside numbers {numbers!r}", remedy=remedy)

    def _check_digits(self, digits: int) -> None:
        require(is_int(digits) and digits >= 1, "digits", digits, "use at least 1, or leave it out")
        signed = self.signed is not False
        width = LONGEST_WORD if self.learn_width else self.width
        most = most_digits(width, signed, self.digit_form)
        what = "signed digits" if self.digit_form == "signed" else "ones"
        if digits > most:
            raise RecipeError(
                f"digits is {digits}, but no {width}-bit number has more than {most} {what}", remedy=f"use at most {most}, or leave it out"
            )
        if count_bound(width, signed, digits, self.digit_form) > MOST_NUMBERS and digits < most:
            learned = ", and a learned word may come to be as long" * self.learn_width
            raise RecipeError(
                f"there are more than {MOST_NUMBERS} {width}-bit numbers of {digits} {what}{learned}",
                remedy="use fewer digits" + ", or a shorter word" * (not self.learn_width),
            )
        modes = "AP_RND and AP_SAT, or AP_SAT_SYM"
        require(self.q is QMode.RND, "q", self.q.value, f"few digits go with {modes}")
        require(self.o in (OMode.SAT, OMode.SAT_SYM), "o", self.o.value, f"few digits go with {modes}")

    def type(self, *, signed: bool, frac_bits: int = 0) -> FixedType:
        """The FixedType with this spec's word length and modes."""
        return FixedType(self.width, self.width - frac_bits, signed, self.q, self.o, self.n)
