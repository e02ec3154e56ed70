"""How long operators take in a part: what the clock model (``clock.py``) and the pipelines of unrolled designs reckon with.

The delays of UltraScale+ parts are those of speed grade -2 at 0.85 V, those of 7-series parts of -1 (Artix fabric), as the vendor's HLS tools are
remembered to assume them for an operator and the net to it; nobody has measured them here. Other speed grades are slower or faster in the ratio of
the frequencies that the data sheets state for a DSP block: without pipeline registers (DS925: 410 MHz in -2, 338 in -1, 323 and 304 at 0.72 V), which
is the longest path of logic alone that they have, and with all registers in 7-series parts (DS187: 464 MHz in -1, 550 in -2, 628 in -3). The tests
compare the order of the delays with Yosys' timing of Artix-7 cells.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import log2
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Delays:
    """In ns: an adder is ``adder`` + ``bit`` times its width; ``logic`` is a level of LUTs, such as a choice between two words; ``memory`` the time
    from the clock to the word that a memory gives; ``register`` that from the clock to a flip-flop's output and the setup of the next one."""

    adder: float
    bit: float
    logic: float
    memory: float
    register: float

    def scaled(self, factor: float) -> Delays:
        """All of them times ``factor``."""
        return Delays(*(factor * value for value in (self.adder, self.bit, self.logic, self.memory, self.register)))


@dataclass(frozen=True, slots=True)
class Grade:
    """A speed grade: its delays are ``slower`` times those of the family's table; ``volts``: of the logic's supply."""

    slower: float
    volts: float


ULTRASCALE_2 = Delays(adder=0.70, bit=0.010, logic=0.30, memory=1.20, register=0.12)
"""Of 32 bits: an adder of 1.02 ns. Memory and register are estimates."""
SERIES7_1 = Delays(adder=1.70, bit=0.027, logic=0.70, memory=2.50, register=0.40)
"""Of 32 bits: an adder of 2.56 ns. A flip-flop takes 0.30 ns from the clock to its output (Project X-Ray's numbers, which Yosys has); its setup and
the memory are estimates."""

_ULTRASCALE: Mapping[str, Grade] = MappingProxyType(
    {
        "3": Grade(410 / 483, 0.90),
        "2": Grade(1.0, 0.85),
        "2L": Grade(1.0, 0.85),
        "1": Grade(410 / 338, 0.85),
        "1L": Grade(410 / 338, 0.85),
        "2LV": Grade(410 / 323, 0.72),
        "1LV": Grade(410 / 304, 0.72),
    }
)
_SERIES7: Mapping[str, Grade] = MappingProxyType({"3": Grade(464 / 628, 1.0), "2": Grade(464 / 550, 1.0), "1": Grade(1.0, 1.0)})


def grade(part: str) -> Grade:
    """The speed grade of a part number; where it names none that is known, the slowest of its family.

    >>> grade("xczu9eg-ffvb1156-2-e").slower, round(grade("xczu3eg-sbva484-1-i").slower, 2), grade("xck26-sfvc784-2LV-c").volts
    (1.0, 1.21, 0.72)
    """
    known = _SERIES7 if part.startswith("xc7") else _ULTRASCALE
    found = re.search(r"-([123])(LV|L)?(?:-?[a-z])?$", part, re.IGNORECASE)
    name = (found[1] + (found[2] or "").upper()) if found else ""
    return known.get(name) or max(known.values(), key=lambda one: one.slower)


def delays(part: str) -> Delays:
    """Those of a part number."""
    base = SERIES7_1 if part.startswith("xc7") else ULTRASCALE_2
    return base.scaled(grade(part).slower)


@dataclass(frozen=True, slots=True)
class Operator:
    """So many times of each part of ``Delays``: what lies on a path through it."""

    adders: float = 0.0
    bits: float = 0.0
    levels: float = 0.0
    memories: float = 0.0

    def delay_ns(self, on: Delays) -> float:
        return self.adders * on.adder + self.bits * on.bit + self.levels * on.logic + self.memories * on.memory


def adder(bits: int) -> Operator:
    """A sum or difference, of ``bits`` bits: one carry chain."""
    return Operator(adders=1, bits=bits)


def comparison(bits: int) -> Operator:
    """Which of two numbers of ``bits`` bits is greater, or whether they are equal: a carry chain, as the tools' libraries have both."""
    return Operator(adders=1, bits=bits)


def choice(ways: int = 2) -> Operator:
    """One of ``ways`` words: four to a LUT."""
    return Operator(levels=max(_levels(ways, 4), 1))


def gates(fan_in: int = 2) -> Operator:
    """A condition of ``fan_in`` bits: six to a LUT."""
    return Operator(levels=max(_levels(fan_in, 6), 1))


def memory() -> Operator:
    """A word of a memory, from the clock on."""
    return Operator(memories=1)


def fan_out(loads: int) -> Operator:
    """A net to ``loads`` flip-flops, eight of which share a pin (UG574). An estimate: the tools copy the driver, and sixteen times as many pins take
    a net more, as long as a level of LUTs."""
    pins = max(loads / 8, 1)
    return Operator(levels=1 + log2(pins) / 4)


def _levels(count: int, each: int) -> int:
    levels = 0
    while count > 1:
        count = -(-count // each)
        levels += 1
    return levels


@dataclass(frozen=True, slots=True)
class Recurrence:
    """What a turn needs of the ``turns``-th turn before it: a path from registers back to themselves, which no pipelining breaks. ``what``: its
    name."""

    what: str
    operators: tuple[Operator, ...]
    turns: int = 1

    def delay_ns(self, on: Delays) -> float:
        """What a turn has to make of it."""
        return sum(operator.delay_ns(on) for operator in self.operators) / self.turns


def recurrence(what: str, *operators: Operator, turns: int = 1) -> Recurrence:
    return Recurrence(what, operators, turns)


def loops(*counts: int) -> Recurrence:
    """The counters of loops in each other, outermost first, which the tools flatten into one: whether the inner ones end decides about the outer
    ones, level by level; then a counter goes on or begins again."""
    real = [count for count in counts if count > 1] or [2]
    bits = max((count - 1).bit_length() for count in real)
    return Recurrence("the counters of its loops", (comparison(bits), *([gates()] * (len(real) - 1)), choice(), adder(bits)))


def wrapping(count: int) -> Recurrence:
    """A counter of its own that begins again at ``count``."""
    bits = max((count - 1).bit_length(), 1)
    return Recurrence("a counter that begins again", (comparison(bits), choice()))


def accumulated(bits: int) -> Recurrence:
    """An accumulator that is added to, or begins anew."""
    return Recurrence("the accumulator", (adder(bits), choice()))


def named(found: Recurrence, what: str) -> Recurrence:
    """The same under another name."""
    return replace(found, what=what)
