"""``qfx new``: a folder to start from, with a model, data, a recipe, a board and a Makefile that goes from training to a proven project."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from qfx.errors import DataError
from qfx.files import FORCE, schema_name, writing_all
from qfx.hardware.assets import hls_root
from qfx.hardware.board import board as find_board
from qfx.schemas import schemas

TEMPLATES = ("Makefile", "README.md", "data.py", "network.py", "train.py", "recipe.toml")


def new(folder: str | os.PathLike[str], board: str = "ultra96v2", *, force: bool = False) -> tuple[Path, ...]:
    """Write the starter into ``folder`` for a board that qfx knows, and return the files, in order. All of them are written, or none.

    Raises ProjectError for an unknown board, DataError if the folder holds anything (unless ``force``, which replaces files of these names alone).
    """
    target = Path(folder)
    found = find_board(board)
    if target.exists() and not target.is_dir():
        raise DataError("exists, and is not a folder", where=str(target), remedy="choose another name")
    if target.is_dir() and any(target.iterdir()) and not force:
        raise DataError("the folder is not empty", where=str(target), remedy=FORCE)
    texts = {name: (files("qfx.starter") / f"{name}.template").read_text(encoding="utf-8") for name in TEMPLATES}
    texts["Makefile"] = texts["Makefile"].replace("@BOARD@", found.name)
    texts["README.md"] = texts["README.md"].replace("@BOARD@", found.name).replace("@TITLE@", found.title)
    known = hls_root() / "boards" / f"{found.name}.toml"
    text = (known if known.is_file() else Path(board)).read_text(encoding="utf-8")
    texts[f"{found.name}.toml"] = f"#:schema ./{schema_name('board')}\n" + text.partition("\n")[2] if text.startswith("#:schema") else text
    texts |= {schema_name(kind): schemas.text(kind) for kind in ("recipe", "board")}
    places = [target / name for name in texts]
    with writing_all(places, force=force) as staged:
        for place, text in zip(staged, texts.values(), strict=True):
            place.write_text(text, encoding="utf-8")
    return tuple(places)
