"""Homes: classes that answer all that qfx asks of one thing (an operator, a kind of process, a fixed-point layer), or cannot be made."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

_Key = TypeVar("_Key")
_Entry = TypeVar("_Entry")


def unanswered(cls: type, root: type) -> list[str]:
    """What ``root`` and the bases between ask of ``cls`` and it does not define, in the order in which it is asked: abstract methods and
    properties, and class attributes that are declared (``x: ClassVar[...]``) without a value.

    >>> from abc import abstractmethod
    >>> from typing import ClassVar
    >>> class Animal:
    ...     legs: ClassVar[int]
    ...     @abstractmethod
    ...     def sound(self): ...
    >>> class Cat(Animal):
    ...     legs = 4
    >>> unanswered(Cat, Animal)
    ['sound']
    """
    bases = [base for base in reversed(cls.__mro__) if issubclass(base, root)]
    annotations = [pair for base in bases for pair in vars(base).get("__annotations__", {}).items()]
    declared = dict.fromkeys(name for name, kind in annotations if str(kind).startswith(("ClassVar", "typing.ClassVar")))
    asked = dict.fromkeys(name for base in bases for name in vars(base) if getattr(getattr(base, name), "__isabstractmethod__", False))
    missing = [name for name in declared if not hasattr(cls, name)]
    return [*missing, *(name for name in asked if getattr(getattr(cls, name), "__isabstractmethod__", False))]


def joined(entries: Iterable[tuple[_Key, _Entry]]) -> dict[_Key, _Entry]:
    """The table of what several homes bring. Raises ValueError for a key that two of them claim."""
    table: dict[_Key, _Entry] = {}
    for key, entry in entries:
        if key in table:
            raise ValueError(f"two homes claim {key!r}")
        table[key] = entry
    return table
