"""How checkpoints tell the type of a cast: five small integers, seven where only numbers of few digits are in it."""

from __future__ import annotations

from typing import Any
from zlib import crc32

from qfx.fixed.digits import most_digits
from qfx.fixed.kernel import CastMode
from qfx.fixed.type import OMode, QMode
from qfx.recipe import LONGEST_WORD

MODES: dict[QMode | OMode, int] = {
    QMode.RND: 0, QMode.RND_ZERO: 1, QMode.RND_MIN_INF: 2, QMode.RND_INF: 3, QMode.RND_CONV: 4, QMode.TRN: 5, QMode.TRN_ZERO: 6,
    OMode.SAT: 10, OMode.SAT_ZERO: 11, OMode.SAT_SYM: 12, OMode.WRAP: 13, OMode.WRAP_SM: 14,
}  # fmt: skip
"""How modes are written in checkpoints: never renumber."""

DIGIT_FORMS = ("signed", "ones")
"""How they are numbered in checkpoints: never reorder."""

_SET = -1
"""In the place of the number of digits: what follows is the checksum of a set's name."""

FIELDS = ("width", "signed", "q", "o", "n", "digits", "digit_form")


def codes(mode: CastMode, width: int, digits: int | None = None, form: str = "signed", numbers: str | None = None) -> tuple[int, ...]:
    """Word length (0: learned, and kept by ``int_bits``), sign, q, o, n, numbered by ``MODES``; of few digits also how many, which are counted; of a
    set of ``numbers`` -1 and what tells its name from others."""
    found = (width, int(mode.signed), MODES[mode.q], MODES[mode.o], mode.n)
    if numbers is not None:
        return (*found, _SET, crc32(numbers.encode()) & 0x7FFFFFFF)
    return found if digits is None else (*found, digits, DIGIT_FORMS.index(form))


def changes(theirs: tuple[int, ...], ours: tuple[int, ...]) -> str:
    """The fields of a Spec, as those of a mapping, that make ours theirs."""
    if _SET in (theirs[5:6] + ours[5:6]):
        return "'numbers': what that model's recipe has, or nothing if it has none"
    found = {name: value for name, value, own in zip(FIELDS, decoded(theirs), decoded(ours), strict=True) if value != own}
    if "width" in found and 0 in (theirs[0], ours[0]):
        found["learn_width"] = theirs[0] == 0
        if found["learn_width"]:
            del found["width"]
    if "digits" in found and found["digits"] is None:  # none is left out
        form = decoded(ours)[-1]
        found["digits"] = most_digits(theirs[0] or LONGEST_WORD, bool(theirs[1]), form)
        found.pop("digit_form", None)
    return ", ".join(f"{name!r}: {value!r}" for name, value in found.items())


def decoded(codes: tuple[int, ...]) -> tuple[Any, ...]:
    """The FIELDS in the words of a Spec; numbers that no version of qfx wrote stay numbers."""
    width, signed, q, o, n = (*codes, -1, -1, -1, -1, -1)[:5]
    digits, form = codes[5:7] if len(codes) == 7 else (None, 0)
    names = {code: mode.value for mode, code in MODES.items()}
    return width, bool(signed), names.get(q, q), names.get(o, o), n, digits, DIGIT_FORMS[form] if form in (0, 1) else form


def described(codes: tuple[int, ...]) -> str:
    width, signed, q, o, n, digits, form = decoded(codes)
    bits = f"{width} bits" if width else "a learned number of bits"
    some = ["numbers of a set"] if digits == _SET else [f"digits={digits}, {form}"] if digits else []
    modes = ", ".join([str(q), str(o), *([f"n={n}"] if n else []), *some])
    return f"{bits} {'signed' if signed else 'unsigned'} ({modes})"
