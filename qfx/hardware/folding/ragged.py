"""Foldings that do not divide: rows of numbers in words that they do not fill, the last word of each row being padded.

A row of K numbers in words of P takes ceil(K / P) of them. Of all P that take as many words the least is *useful*: the others only add lanes. The way
from dense words to padded ones and back goes over words that divide each other, so that no unit has to move numbers by any distance.
"""

from __future__ import annotations

from math import gcd

from qfx.errors import ProjectError


def words(row: int, parallel: int) -> int:
    """Of ``parallel`` numbers, for a row of ``row``."""
    return -(-row // parallel)


def padded(row: int, parallel: int) -> int:
    """The numbers of a row with those that fill its last word."""
    return words(row, parallel) * parallel


def useful(row: int) -> list[int]:
    """The numbers a word, ascending, of which no fewer make as few words of a row. All divisors are among them.

    >>> useful(10), useful(17)
    ([1, 2, 3, 4, 5, 10], [1, 2, 3, 4, 5, 6, 9, 17])
    """
    found, count = [row], 1
    while found[-1] > 1:
        count = words(row, found[-1] - 1)
        found.append(words(row, count))
    return found[::-1]


def check(field: str, value: int, row: int, what: str, where: str) -> None:
    """Raises ProjectError, naming the node ``where`` and the nearest that are, unless ``value`` is useful for ``row`` numbers."""
    if value <= row and words(row, words(row, value)) == value:
        return
    if value > row:
        raise ProjectError(f"{field}={value} is more than its {row} {what}", where=where, remedy=f"use at most {row}")
    count = words(row, value)
    least, next_ = words(row, count), words(row, count - 1)
    waste = f"{field}={value} takes {count} words for its {row} {what}, and so does {field}={least}"
    raise ProjectError(waste, where=where, remedy=f"use {least} or {next_}")


def filling(row: int, source: int, target: int) -> tuple[int, ...]:
    """The numbers a word on the way from dense words of ``source``, which divides ``row``, to padded ones of ``target``, which does not: the last
    step is the one that pads.

    >>> filling(144, 9, 27), filling(144, 144, 21), filling(144, 9, 21)
    ((27,), (21,), (3, 21))
    """
    if source == row or target % source == 0:
        return (target,)
    return (gcd(source, target), target)


def filling_turns(row: int, source: int, target: int) -> int:
    """The turns of a row in the slowest of those steps."""
    if source == row:
        return words(row, target)
    return padded(row, target) // gcd(source, target)


def source_channels(per_group: int, taps: int, row: int, simd: int, turns: int, most: int) -> int:
    """How many of the ``per_group`` channels of a group come in a word, of ``taps`` taps each, to be put into words of ``simd`` of the ``row`` inputs
    of an output, which it does not divide: the fewest with which the way there takes no more than ``turns`` turns a row, else with which it takes the
    fewest. ``most``: the most numbers of a word.

    >>> [source_channels(16, 9, 144, 21, turns, 512) for turns in (56, 49, 40, 7)], source_channels(16, 9, 144, 21, 7, 128)
    ([1, 1, 16, 16], 1)
    """
    possible = [n for n in range(1, per_group + 1) if per_group % n == 0 and n * taps <= most]
    taken = {n: filling_turns(row, n * taps, simd) for n in possible or [1]}
    return min(taken, key=lambda n: (max(taken[n], turns), n))


def given(row: int, parallel: int, turns: int, most: int) -> int:
    """The numbers a word into which padded words of ``parallel`` numbers go, of which there comes one every ``turns`` turns: as few as keep up, a
    whole row where none do. ``most``: the most numbers of a word.

    >>> given(10, 4, 3, 512), given(10, 4, 1, 512), given(17, 5, 5, 512), given(17, 5, 2, 512), given(17, 5, 2, 16)
    (2, 10, 1, 17, 1)
    """
    common = gcd(row, parallel)
    return row if parallel // common > turns and row <= most else common


def giving_turns(row: int, parallel: int, dense: int) -> int:
    """The turns of a row on that way."""
    return words(row, parallel) * (1 if dense == row else parallel // dense)
