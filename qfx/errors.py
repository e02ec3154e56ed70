"""The errors of qfx. Each one says what is wrong, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence


class QfxError(Exception):
    """Base of every error that qfx raises on purpose.

    ``what`` is the complaint, ``where`` names the offender (a layer, a file, a field; may be empty) and ``remedy`` says what the
    user can do. ``str(error)`` joins the three on lines of their own.
    """

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        self.what = what
        self.where = where
        self.remedy = remedy
        head = f"{where}: {what}" if where else what
        super().__init__(f"{head}\n  remedy: {remedy}" if remedy else head)


class TypeSyntaxError(QfxError):
    """A fixed-point type that cannot be read or cannot exist."""


class ExactnessError(QfxError):
    """An operation whose result would lose bits outside a Cast."""


class DataError(QfxError):
    """NaN, infinity, a wrong shape or a wrong dtype in weights or data."""


class RecipeError(QfxError):
    """A recipe with an unknown field, a bad value or a pattern that matches nothing."""


class UnsupportedError(QfxError):
    """A module, operator or attribute that qfx cannot express exactly.

    ``blockers``: all that were found, in the order of the model, each an error with its own ``what``, ``where`` and ``remedy``; an error that stands
    for one is its own only blocker.
    """

    def __init__(self, what: str, *, where: str = "", remedy: str = "", blockers: Sequence[UnsupportedError] = ()) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self._blockers = tuple(blockers)

    @property
    def blockers(self) -> tuple[UnsupportedError, ...]:
        return self._blockers or (self,)


def together(blockers: Sequence[UnsupportedError], *, where: str, more: str = "") -> UnsupportedError:
    """One error that lists all of ``blockers`` (at least one) in their order; of a single one, that one.

    Those of one kind, whose ``what`` and ``remedy`` are the same, share a line with the names of all their places. ``where``: the model. ``more``: a
    way round all of them.
    """
    found = [part for blocker in blockers for part in blocker.blockers]
    if len(found) == 1 and not more:
        return found[0]
    kinds: dict[tuple[str, str], list[str]] = {}
    for blocker in found:
        kinds.setdefault((blocker.what, blocker.remedy), []).append(blocker.where)
    if len(found) == 1:
        return UnsupportedError(found[0].what, where=found[0].where, remedy=f"{found[0].remedy}; {more}", blockers=found)
    lines = [f"{len(found)} obstacles on the way to fixed point"]
    for (what, remedy), places in kinds.items():
        lines.append(f"  {', '.join(places)}: {what}")
        lines.extend([f"    remedy: {remedy}"] if remedy else [])
    return UnsupportedError("\n".join(lines), where=where, remedy=more or "mend all of them; docs/layers.md lists what qfx takes", blockers=found)


class ModelFileError(QfxError):
    """A model file that is missing, corrupt, or not one that qfx wrote."""


class ProjectError(QfxError):
    """An HLS project (or its output folder, board or simulation) that cannot be used."""


class NativeKernelWarning(UserWarning):
    """Casts run on torch operators, many times slower, because the native kernel cannot be built; or it is built anew in every process.

    Given once in a process. Where that is known and accepted: ``warnings.filterwarnings("ignore", category=qfx.NativeKernelWarning)``.
    """
