"""What there is to log of a quantized model: formats, costs and losses as numbers by tag, and distributions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from qfx.errors import UnsupportedError
from qfx.export.to_graph import refuse_off, to_graph
from qfx.hardware.board import Board
from qfx.hardware.cost.resources import FIELDS
from qfx.ir.interpret import run
from qfx.nn.cost.cost import cost
from qfx.nn.layers import Weighted
from qfx.nn.model import graph_module, quantizers
from qfx.pages.answers import Answers, counted, fitting
from qfx.pages.measured import seen


class Sink(Protocol):
    """Where numbers go: a logger."""

    def scalars(self, values: Mapping[str, float], step: int) -> None: ...

    def histograms(self, values: Mapping[str, Tensor], step: int) -> None: ...


def costs(qmodel: nn.Module, board: str | Board | None = None, *, fps: float | None = None) -> dict[str, float]:
    """``qfx.cost`` by tag: ``qfx/cost/bit_operations``, ``weight_bits``, ``mean_weight_bits``, and on a board its resources, ``cycles`` and ``fps``.

    Empty while quantizers are off: numbers that are not cast have no cost."""
    if is_off(qmodel):
        return {}
    with torch.no_grad():
        found = cost(qmodel, board, fps=fps)
    values = {"bit_operations": float(found.bit_operations), "weight_bits": float(found.weight_bits)}
    values["mean_weight_bits"] = values["weight_bits"] / max(found.weights, 1)
    if found.plan is not None:
        values |= {field: float(found.resources[field]) for field in FIELDS}
        values |= {"cycles": float(found.cycles or 0), "fps": float(found.fps or 0)}
    return {f"qfx/cost/{name}": value for name, value in values.items()}


def formats(qmodel: nn.Module) -> dict[str, float]:
    """``qfx/word_length/NAME`` and ``qfx/binary_point/NAME`` (bits right of the point) of every quantizer; the mean where it has several."""
    values: dict[str, float] = {}
    for name, quantizer in quantizers(qmodel):
        values[f"qfx/word_length/{name}"] = float(quantizer.word_lengths().double().mean())
        values[f"qfx/binary_point/{name}"] = float(quantizer.points().double().mean())
    return values


def losses(qmodel: nn.Module, x: Any) -> dict[str, float]:
    """``qfx/saturated/NODE`` and ``qfx/rounded/NODE``: which share of the numbers that come to a cast overflow its type, and which have bits that it
    does not keep; ``qfx/least/NODE`` and ``qfx/most/NODE``: the least and the greatest of them. On the inputs ``x`` (batch first; several as
    ``qfx.run`` takes them), counted by the interpreter, as ``qfx report`` does.

    Empty while quantizers are off."""
    if is_off(qmodel):
        return {}
    feed = array_of(x)
    values: dict[str, float] = {}
    for name, found in seen(to_graph(qmodel), feed).items():
        loss = found.loss
        values |= {f"qfx/least/{name}": found.least, f"qfx/most/{name}": found.most}
        values[f"qfx/saturated/{name}"] = (loss.above + loss.below) / max(loss.values, 1)
        values[f"qfx/rounded/{name}"] = loss.rounded / max(loss.values, 1)
    return values


def scores(qmodel: nn.Module, x: Any) -> Any:
    """What the model gives for the inputs ``x``, as the interpreter computes it."""
    return run(to_graph(qmodel), array_of(x))


def answers(scores: Any, labels: Any) -> Answers:
    """Which class was taken for which: scores (N, classes, *positions) and class numbers (N, *positions), as tensors or arrays. Raises DataError for
    labels that do not fit."""
    found = scores.detach().double().cpu().numpy() if isinstance(scores, Tensor) else np.asarray(scores)
    return counted(found, fitting(np.asarray(array_of(labels)), found.shape))


def distributions(qmodel: nn.Module) -> dict[str, Tensor]:
    """Of quantizers with several binary points their ``qfx/binary_points/NAME`` and ``qfx/word_lengths/NAME``; of every layer with weights their
    values as they are cast, ``qfx/weights/NAME``. Flat tensors on the CPU."""
    values: dict[str, Tensor] = {}
    for name, quantizer in quantizers(qmodel):
        if quantizer.frac_bits.numel() > 1:
            values[f"qfx/binary_points/{name}"] = quantizer.points().flatten().cpu()
            values[f"qfx/word_lengths/{name}"] = quantizer.word_lengths().flatten().cpu()
    with torch.no_grad():
        for path, layer in graph_module(qmodel).named_modules():
            if isinstance(layer, Weighted):
                values[f"qfx/weights/{path}"] = layer.constants()[0].value.detach().flatten().cpu()
    return values


def write(sinks: Iterable[Sink], step: int, values: Mapping[str, float], drawn: Mapping[str, Tensor]) -> None:
    """All of it to every sink."""
    for sink in sinks:
        if values:
            sink.scalars(values, step)
        if drawn:
            sink.histograms(drawn, step)


def is_off(qmodel: nn.Module) -> bool:
    """Whether any quantizers are switched off (``qfx.switch``)."""
    try:
        refuse_off(qmodel)
    except UnsupportedError:
        return True
    return False


def array_of(x: Any) -> Any:
    """Tensors as arrays of numpy, also in mappings and sequences."""
    if isinstance(x, Tensor):
        return x.detach().cpu().numpy()
    if isinstance(x, Mapping):
        return {name: array_of(part) for name, part in x.items()}
    return tuple(array_of(part) for part in x) if isinstance(x, tuple | list) else x
