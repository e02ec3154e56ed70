"""Faults in a model that is trained, judged or exported: weights are what their memory reads."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qfx.errors import QfxError, UnsupportedError
from qfx.faults.definition import Faults
from qfx.faults.graph import Word
from qfx.fixed.kernel import CastMode
from qfx.fixed.type import OMode
from qfx.nn.accumulator import Accumulating
from qfx.nn.model import quantizers
from qfx.nn.qtensor import QTensor
from qfx.nn.quantizer import Quantizer


def inject(qmodel: nn.Module, faults: Faults | None, pattern: str = "*.weight") -> int:
    """Let the constants whose quantizers match ``pattern`` be read with ``faults`` from now on, or, with None, as they are; in place.

    The forward computes with what is read, exactly; the gradient goes through as if there were no fault (straight-through). ``qfx.export_onnx`` and
    ``qfx.to_graph`` see what is read. Calls replace each other: for training against faults at unknown places, ``inject(qmodel, faults.at(step))``
    before each step. Returns how many bits are stuck or flip. A word is that of the recipe: ``Spec.width`` bits.

    Raises QfxError for a pattern that matches nothing, or activations, and for known faults of what is not there (the model stays as it is);
    UnsupportedError for words of learned lengths, and for weights that an
    accumulator bounds, which faults would leave.
    """
    chosen = [(name, cast) for name, cast in quantizers(qmodel) if fnmatch.fnmatchcase(name, pattern)]
    if not chosen:
        raise QfxError(f"the pattern {pattern!r} matches nothing", where="faults", remedy="use a quantizer's name, such as '*.weight'")
    for name, cast in chosen:
        if cast.channel_axis:
            remedy = "use patterns of constants: '*.weight', '*.bias'"
            raise QfxError("is the cast of values that come and go, and has no memory of its own", where=name, remedy=remedy)
        if faults is not None and cast.spec.learn_width:
            remedy = "give this constant a recipe without learn_width"
            raise UnsupportedError("has learned word lengths: its words have no bits that stay", where=name, remedy=remedy)
        if faults is not None and isinstance(cast, Accumulating) and not cast.narrows:
            remedy = 'use accumulator_mode "wrap" or "saturate", or no accumulator'
            raise UnsupportedError("is kept within an accumulator, which faulty weights would leave", where=name, remedy=remedy)
    missing = set() if faults is None else set(faults.known) - {name for name, _ in chosen}
    if missing:
        remedy = f"name one of these: {', '.join(name for name, _ in chosen[:6])}"
        there = min(missing) in dict(quantizers(qmodel))
        told = f"the pattern {pattern!r} does not match it" if there else "nothing is called so"
        raise QfxError(f"known faults of {min(missing)!r}, and {told}", where="faults", remedy=remedy)
    reads = [None if faults is None else Read(faults, name) for name, _ in chosen]
    drawn = [read.drawn_for(cast, _count(qmodel, name)).faults for read, (name, cast) in zip(reads, chosen, strict=True) if read is not None]
    for read, (_, cast) in zip(reads, chosen, strict=True):
        others = tuple(each for each in cast.behind if not isinstance(each, Read))
        cast.behind = others if read is None else (read, *others)
    return sum(drawn)


def words(qmodel: nn.Module) -> dict[str, Word]:
    """The memory words of all weights and biases by their names, for ``qfx.faults.graph.faulty``: so that a graph has the faults of its model."""
    found = {}
    for name, cast in quantizers(qmodel):
        if not cast.channel_axis and not cast.spec.learn_width:
            points = cast.points().flatten().to(torch.int64).tolist()
            found[name] = Word(cast.spec.width, bool(cast.signed), tuple(points))
    return found


def _count(qmodel: nn.Module, name: str) -> int:
    path, _, role = name.rpartition(".")
    holder: Any = qmodel.get_submodule(path) if path else qmodel
    tensor = getattr(holder, role, None)
    return tensor.numel() if isinstance(tensor, Tensor) else 0


@dataclass(frozen=True, eq=False)
class Read:
    """Behind the cast ``name``: its numbers as memory with faults gives them."""

    faults: Faults
    name: str

    def drawn_for(self, cast: Quantizer, count: int) -> Any:
        return self.faults.drawn(self.name, count, cast.spec.width)

    def __call__(self, cast: Quantizer, result: QTensor) -> QTensor:
        mode = cast.mode
        whole = CastMode(mode.signed, mode.q, OMode.SAT)  # a symmetric range has a word that faults reach
        grid = torch.exp2(cast.points().double())
        with torch.no_grad():
            raw = torch.round(result.value.double() * grid).to(torch.int64).cpu().numpy()
            read = self.drawn_for(cast, raw.size).read(raw.reshape(-1), mode.signed).reshape(raw.shape)
            value = torch.from_numpy(np.ascontiguousarray(read)).to(grid.device).double() / grid
        return QTensor(_Instead.apply(result.value, value.to(result.value.dtype)), cast.interval_of(whole))  # type: ignore[no-untyped-call]


class _Instead(torch.autograd.Function):
    """Another value with the gradient of the first."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, other: Tensor) -> Tensor:
        return other

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None
