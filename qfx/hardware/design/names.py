"""C++ identifiers: from whatever a model calls its layers to names that are safe, unique and the same in every run."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from qfx.errors import ProjectError
from qfx.hardware.emit.reserved import CPP11_KEYWORDS, meaning

KEYWORDS = CPP11_KEYWORDS | {"main", "std", "hls", "qfx"}
"""C++11's keywords, and the global names that nothing else must take."""

_MAX_LENGTH = 48  # Vivado shortens longer RTL names and Windows' paths end at 260 characters


def identifier(text: str) -> str:
    """A C++ identifier in lower case that resembles ``text``; never a keyword, never with a leading, trailing or double underscore.

    >>> identifier("features.0/conv-1"), identifier("class"), identifier("2d"), identifier("層")
    ('features_0_conv_1', 'n_class', 'n2d', 'n')
    """
    words = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[: _MAX_LENGTH - 2].strip("_")
    name = words if words[:1].isalpha() else f"n{words}"
    return f"n_{name}" if name in KEYWORDS else name


def top_name(text: str) -> str:
    """The name of the top function of a model called ``text``: the identifier, with ``n_`` before a word that means something else.

    >>> top_name("digits"), top_name("layers"), top_name("in"), top_name("class")
    ('digits', 'n_layers', 'n_in', 'n_class')
    """
    name = identifier(text)
    return f"n_{name}" if meaning(name) else name


def checked_top(name: str) -> str:
    """``name`` itself, if it can name the top function. Raises ProjectError otherwise."""
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*", name) is None or len(name) > _MAX_LENGTH:
        raise ProjectError(f"{name!r} cannot name the top function", remedy=f"use letters, digits and single underscores, at most {_MAX_LENGTH}")
    taken = meaning(name)
    if taken:
        raise ProjectError(f"{name!r} cannot name the top function: it is {taken}", remedy=f"choose another name, such as {top_name(name)!r}")
    return name


@dataclass
class Names:
    """Hands out each name once; a second layer of one name gets a number. A suffix (what the thing is) keeps names clear of macros and keywords."""

    taken: set[str] = field(default_factory=set)

    def new(self, text: str, suffix: str) -> str:
        stem = identifier(text)
        name, count = f"{stem}_{suffix}", 1
        while name in self.taken:
            count += 1
            name = f"{stem}_{count}_{suffix}"
        self.taken.add(name)
        return name
