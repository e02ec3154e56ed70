"""The errors of qfx. Each one says what is wrong, where, and what to do about it."""

from __future__ import annotations


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
    """A module, operator or attribute that qfx cannot express exactly."""


class ModelFileError(QfxError):
    """A model file that is missing, corrupt, or not one that qfx wrote."""


class ProjectError(QfxError):
    """An HLS project (or its output folder, board or simulation) that cannot be used."""


class NativeKernelWarning(UserWarning):
    """Casts run on torch operators, many times slower, because the native kernel cannot be built; or it is built anew in every process.

    Given once in a process. Where that is known and accepted: ``warnings.filterwarnings("ignore", category=qfx.NativeKernelWarning)``.
    """
