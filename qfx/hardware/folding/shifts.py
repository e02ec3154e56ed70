"""Products with constants by shifts and additions alone: what a design has to be for that, and the request that makes it one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from qfx.errors import ProjectError
from qfx.hardware.design import arithmetic
from qfx.hardware.design import design as d
from qfx.hardware.design.schedule import Folding, Request
from qfx.hardware.design.streams import Epilogue

_FEWER = "quantize them to fewer signed digits (`digits` in the recipe), or leave products to the tool"

_MULTIPLIES = ("mul", "prelu", "prelu_by", "lookup_linear")


def by_shifts(base: d.Design, request: Request) -> Request:
    """``request`` with "shift" for every matrix of constants that it does not search a folding for. ``base``: the design, folded in any way.

    Raises ProjectError, naming the node, for constants that are loaded or have too many digits, and for a folding of another arithmetic.
    """
    pinned = dict(request.foldings)
    for node, process in _processes(base):
        chosen = pinned.get(node, Folding())
        if isinstance(process, d.MatVec):
            arithmetic.check(
                "shift",
                process.possible,
                process.input.type,
                pe=1,
                depthwise=process.depthwise,
                where=node,
                loaded=process.loaded,
            )
            if chosen.arithmetic not in ("auto", "shift"):
                raise ProjectError(f"arithmetic {chosen.arithmetic!r} multiplies", where=node, remedy="leave it out, or do not ask for shifts alone")
            if node in pinned or not (request.fit or request.fps is not None):
                pinned[node] = replace(chosen, arithmetic="shift")
        epilogue = getattr(process, "epilogue", None)
        for table in _factors(epilogue) if isinstance(epilogue, Epilogue) else ():
            what = f"its constants {table!r} are multiplied by: they have more than {arithmetic.FACTOR_DIGITS} signed digits, or are loaded"
            raise ProjectError(what, where=node, remedy=_FEWER)
    return replace(request, foldings=tuple(sorted(pinned.items(), key=lambda item: item[0])))


def _processes(base: d.Design) -> Iterator[tuple[str, d.Process]]:
    """Every process with its node; those of a loop with the loop's."""
    for process, node in zip(base.processes, base.nodes, strict=True):
        yield node, process
        if isinstance(process, d.Loop):
            yield from ((node, part) for part in process.step.parts)


def _factors(epilogue: Epilogue) -> Iterator[str]:
    """The tables of constants that its steps multiply by."""
    for step in epilogue.steps:
        if step.function in _MULTIPLIES and step.operands:
            yield step.operands[0].table.name
