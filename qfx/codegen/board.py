"""Boards: the part, and its resources, as data in ``hls/boards/*.toml``."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields

from qfx.codegen.assets import hls_root
from qfx.errors import ProjectError


@dataclass(frozen=True, slots=True)
class Board:
    """An FPGA board. ``part`` is the vendor's part number; the counts are those of the part.

    ``bram36`` counts 36 kbit block RAMs, ``uram`` 288 kbit UltraRAMs.
    """

    name: str
    title: str
    part: str
    lut: int
    ff: int
    dsp: int
    bram36: int
    uram: int


def boards() -> tuple[Board, ...]:
    """Every board that qfx knows, by name."""
    return tuple(_read(path.stem) for path in sorted((hls_root() / "boards").glob("*.toml")))


def board(name: str) -> Board:
    """The board of that name. Raises ProjectError listing the known ones."""
    for known in boards():
        if known.name == name:
            return known
    names = ", ".join(known.name for known in boards())
    raise ProjectError(f"no board is called {name!r}", remedy=f"use one of {names}")


def _read(name: str) -> Board:
    path = hls_root() / "boards" / f"{name}.toml"
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ProjectError(f"not TOML: {error}", where=str(path), remedy="repair the file") from error
    types = {field.name: field.type for field in fields(Board) if field.name != "name"}
    if data.keys() != types.keys() or any(type(value).__name__ != types[key] for key, value in data.items()):
        raise ProjectError("its fields are not those of a board", where=str(path), remedy=f"give {', '.join(f'{k} ({t})' for k, t in types.items())}")
    return Board(name=name, **data)
