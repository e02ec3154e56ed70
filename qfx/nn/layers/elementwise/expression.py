"""``Expression``: sums, differences and products of values and constants, put together as parts, with the shapes that broadcasting gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from qfx.nn.call import Call, Part
from qfx.nn.fixed_layer import FixedLayer
from qfx.nn.layers.elementwise.constant import QAddConstant, QMulConstant, QScaleBy
from qfx.nn.layers.elementwise.expand import QExpand
from qfx.nn.layers.elementwise.held import Held, held, power_of_two

Make = Callable[[str, str], FixedLayer]
"""A layer, given its path, and its path in the first call of its module ("" if this is it)."""


@dataclass(frozen=True, eq=False)
class Term:
    """A value: an input of the call by its position, or what a layer gives that reads others. ``shape`` leaves the batch out."""

    shape: tuple[int, ...]
    position: int = -1
    make: Make | None = None
    reads: tuple[Term, ...] = ()
    suffix: str = ""


Operand = Term | Held


@dataclass
class Expression:
    """What one call computes. Operands are values and constants; ``parts`` tells the layers of a result."""

    call: Call
    _values: list[fx.Node] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._values = [node for node in self.call.inputs if node in self.call.traced.shapes]

    def of(self, argument: Any) -> Operand:
        """An argument of the call: a node or a number."""
        constant = held(self.call, argument)
        if constant is not None:
            return constant
        return Term(self.call.traced.shapes[argument], self._values.index(argument))

    def __getitem__(self, name: str) -> Operand:
        return self.of(self.call.arguments[name])

    def layer(self, make: Callable[[], FixedLayer], *reads: Term, shape: tuple[int, ...] | None = None, suffix: str) -> Term:
        """The result of a layer that needs no path."""
        return Term(reads[0].shape if shape is None else shape, make=lambda path, first: make(), reads=reads, suffix=suffix)

    def expanded(self, x: Term, shape: tuple[int, ...]) -> Term:
        return x if x.shape == shape else self.layer(lambda: QExpand(x.shape, shape), x, shape=shape, suffix="_expanded")

    def pair(self, a: Term, b: Term, make: Callable[[], FixedLayer], suffix: str) -> Term:
        """A layer of two values, each expanded to the shape that both have together."""
        shape = self._together(a.shape, b.shape)
        return self.layer(make, self.expanded(a, shape), self.expanded(b, shape), shape=shape, suffix=suffix)

    def _together(self, a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
        if len(a) != len(b):
            what, longest = f"operands of shapes {a} and {b}", max(len(a), len(b))
            raise self.call.refuse(what, f"give both {longest} axes behind the batch: x.unsqueeze(...) says along which the shorter one is repeated")
        return tuple(max(pair) for pair in zip(a, b, strict=True))

    def beside(self, a: Operand, b: Operand) -> tuple[Term, Held]:
        """The value of the two and the constant, which broadcasts to it."""
        x, constant = (a, b) if isinstance(a, Term) else (b, a)
        if not isinstance(x, Term) or not isinstance(constant, Held):
            raise TypeError("one value and one constant")
        constant = constant.within(self.call, len(x.shape))
        return self.expanded(x, self._together(x.shape, constant.shape)), constant

    def product(self, a: Operand, b: Operand, make: Callable[[], FixedLayer]) -> Operand:
        """``make``: the product of two values."""
        if isinstance(a, Term) and isinstance(b, Term):
            return self.pair(a, b, make, "_product")
        if isinstance(a, Held) and isinstance(b, Held):
            return a.times(b)
        x, constant = self.beside(a, b)
        number = constant.number
        if number == 1.0:
            return x
        power = None if number is None else power_of_two(number)
        if power is not None:
            return self.layer(lambda: QScaleBy(*power), x, suffix="_scaled")
        return Term(x.shape, make=lambda path, first: QMulConstant(constant, self.call.recipe, path, first), reads=(x,), suffix="_scaled")

    def sum(self, a: Operand, b: Operand, make: Callable[[], FixedLayer], *, minus: bool = False) -> Operand:
        """a + b, or a - b; ``make``: that of two values."""
        if isinstance(a, Term) and isinstance(b, Term):
            return self.pair(a, b, make, "_sum")
        if isinstance(a, Held) and isinstance(b, Held):
            return a.plus(b.times(Held(-1.0)) if minus else b)
        x, constant = self.beside(a, b)
        signs = {"value_sign": -1 if minus and isinstance(a, Held) else 1, "constant_sign": -1 if minus and isinstance(b, Held) else 1}
        if constant.number == 0.0:
            return x if signs["value_sign"] > 0 else self.layer(lambda: QScaleBy(-1, 0), x, suffix="_negated")
        return Term(x.shape, make=lambda path, first: QAddConstant(constant, self.call.recipe, path, first, **signs), reads=(x,), suffix="_moved")

    def parts(self, result: Operand) -> list[Part]:
        """The layers of a result, in order. An input itself is none. Refuses a result that is constant."""
        if isinstance(result, Held):
            raise self.call.refuse(f"{self.call.name} of constants", "compute it in the constructor, and keep it in a buffer")
        made: dict[int, Part] = {}
        self._make(result, result, made, {})
        return list(made.values())

    def _make(self, term: Term, last: Term, made: dict[int, Part], names: dict[str, int]) -> int | Part:
        if term.make is None:
            return term.position
        if id(term) not in made:
            sources = tuple(self._make(read, last, made, names) for read in term.reads)
            suffix = "" if term is last else self._name(term.suffix, names)
            first = f"{self.call.first}{suffix}" if self.call.first else ""
            made[id(term)] = Part(term.make(f"{self.call.path}{suffix}", first), sources, suffix)
        return made[id(term)]

    @staticmethod
    def _name(suffix: str, names: dict[str, int]) -> str:
        names[suffix] = names.get(suffix, 0) + 1
        return suffix if names[suffix] == 1 else f"{suffix}_{names[suffix]}"
