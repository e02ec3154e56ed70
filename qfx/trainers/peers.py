"""Packages that are asked for by name: imported when they are needed, and refused with the command that installs them where they are not there."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from qfx.errors import QfxError


def peer(module: str, install: str) -> Any:
    """The module. Raises QfxError where its package is missing, or cannot be imported; ``install``: what pip calls it."""
    try:
        return import_module(module)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name is not None and f"{module}.".startswith(f"{error.name}.")
        what = f"{install} is not installed" if missing else f"{install} cannot be imported: {error}"
        raise QfxError(what, where=module, remedy=f"pip install {install}") from error
