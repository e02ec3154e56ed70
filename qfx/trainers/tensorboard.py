"""TensorBoard: formats, costs and distributions of a quantized model through a ``SummaryWriter``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from qfx.hardware.board import Board
from qfx.trainers import logs
from qfx.trainers.peers import peer


class TensorBoard:
    """A logger of a ``Course`` (``course.sinks.append(TensorBoard("runs"))``), over a folder or a ``SummaryWriter``, or whatever has its
    ``add_scalar`` and ``add_histogram``.

    Raises QfxError for a folder where tensorboard is not installed.
    """

    writer: Any

    def __init__(self, writer: Any) -> None:
        self.writer = summary_writer(writer) if isinstance(writer, str | os.PathLike) else writer

    def __repr__(self) -> str:
        folder = getattr(self.writer, "log_dir", None)
        return f"TensorBoard({type(self.writer).__name__ if folder is None else repr(str(folder))})"

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for tag, value in values.items():
            self.writer.add_scalar(tag, value, step)

    def histograms(self, values: Mapping[str, Tensor], step: int) -> None:
        for tag, value in values.items():
            self.writer.add_histogram(tag, value, step)


def summary_writer(folder: str | os.PathLike[str]) -> Any:
    """A ``torch.utils.tensorboard.SummaryWriter`` that writes there. Raises QfxError where tensorboard is not installed."""
    peer("tensorboard", "tensorboard")
    return peer("torch.utils.tensorboard", "tensorboard").SummaryWriter(str(folder))


def log(
    writer: Any,
    qmodel: nn.Module,
    step: int,
    *,
    board: str | Board | None = None,
    fps: float | None = None,
    losses_on: Any = None,
    drawn: bool = True,
) -> None:
    """Write all of it once, for a plain loop: scalars as ``Course`` logs them, and unless ``drawn`` is False histograms. ``writer``: as of
    ``TensorBoard``, a folder apart."""
    values = {**logs.costs(qmodel, board, fps=fps), **logs.formats(qmodel), **({} if losses_on is None else logs.losses(qmodel, losses_on))}
    logs.write([TensorBoard(writer)], step, values, logs.distributions(qmodel) if drawn else {})
