"""The templates of the C++ library: layout only, every decision is made before."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import jinja2

from qfx.hardware.assets import hls_root


def render(name: str, values: Mapping[str, object]) -> str:
    """The template ``name`` with the values filled in; a value that the template needs and does not get is an error."""
    return _environment().get_template(name).render(values)


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    root = hls_root()
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([root / "templates", root / "tcl"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # C++ and Tcl, not HTML; every value is a number, a type or a checked identifier
    )
