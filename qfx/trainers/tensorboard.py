"""TensorBoard: formats, costs and distributions of a quantized model through a ``SummaryWriter``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from qfx.hardware.board import Board
from qfx.trainers import logs
from qfx.trainers.peers import peer
from qfx.watch.runs import read


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


def of_logs(folder: str | os.PathLike[str], target: str | os.PathLike[str]) -> list[str]:
    """Write what ``qfx watch`` shows of the logs in ``folder``, of trainings, of ``qfx ptq`` and of sweeps, as TensorBoard's runs into ``target``;
    their names. The steps of passes and of what was tried are their places in the log, from 1 on; a text beside the numbers has their names.

    Raises DataError if ``folder`` is none, QfxError where tensorboard is not installed.
    """
    runs = read(Path(folder))
    for run in runs:
        writer = summary_writer(Path(target) / run.name)
        for tag, points in run.series.items():
            for step, value in points:
                writer.add_scalar(tag, value, step)
        passes = [(one.name, {"sqnr_db": one.sqnr_db, "accuracy": one.accuracy, "seconds": one.seconds}) for one in run.passes]
        tried = [(one.name, {run.cost: one.cost, run.score: one.score, "seconds": one.seconds}) for one in run.tried]
        for kind, rows in (("pass", passes), ("tried", tried)):
            for place, (name, values) in enumerate(rows, 1):
                writer.add_text(f"qfx/{kind}", name, place)
                for what, number in values.items():
                    if number is not None:
                        writer.add_scalar(f"qfx/{kind}/{what.replace(' ', '_')}", number, place)
        writer.close()
    return [run.name for run in runs]
