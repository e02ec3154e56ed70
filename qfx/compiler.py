"""Which C++ compiler qfx calls: ``$CXX``, which may have arguments (``ccache g++``), else the first of some names that is installed."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence

from qfx.errors import QfxError


class CompilerError(QfxError):
    """What ``$CXX`` says is no compiler that could be called."""


def command(wanted: str, otherwise: Sequence[str]) -> tuple[str, ...] | None:
    """The command for ``wanted``, the text of ``$CXX``; if that is empty the first of ``otherwise`` that is on PATH, or None if none is.

    Raises CompilerError for a ``wanted`` that is no command or not installed: no other compiler is taken in its place.
    """
    if not wanted.strip():
        found = next(filter(None, map(shutil.which, otherwise)), None)
        return None if found is None else (found,)
    remedy = "set CXX to a C++ compiler, or unset it to use g++"
    try:
        words = [wanted] if shutil.which(wanted) else shlex.split(wanted)
    except ValueError as error:
        raise CompilerError(f"CXX is {wanted!r}, which is no command: {error}", remedy=remedy) from error
    found = shutil.which(words[0]) if words else None
    if found is None:
        raise CompilerError(f"CXX is {wanted!r}, which is not installed", remedy=remedy)
    return (found, *words[1:])
