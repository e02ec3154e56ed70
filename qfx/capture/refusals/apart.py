"""The refusal of what is taken apart in other forms."""

from __future__ import annotations

from qfx.errors import UnsupportedError


class NotTakenApartError(UnsupportedError):
    """An operation in a form that qfx does not take apart."""
