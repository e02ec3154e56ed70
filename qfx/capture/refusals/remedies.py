"""What to do about an operation that has no fixed-point form, by its name."""

from __future__ import annotations

from qfx.capture.refusals.remedy_texts import TEXTS

OTHERS = "replace it by a supported layer (docs/layers.md lists them), or keep it outside of the model that goes to the FPGA"


def key(name: str) -> str:
    """An operator's name as the texts have it: ``max_unpool2d``, ``MaxUnpool2d`` and ``_max_unpool2d_`` are one."""
    return name.lower().replace("_", "")


def named(name: str) -> bool:
    """Whether there is a text for the operator: it has no fixed-point form, whatever its arguments are."""
    return key(name) in TEXTS


def plain_remedy(name: str, others: str = OTHERS) -> str:
    """The text for a name; ``others`` for one that is not known."""
    return TEXTS.get(key(name), others)
