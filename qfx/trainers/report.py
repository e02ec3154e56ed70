"""The page of a training, in the look of ``qfx report``: how it went, and what came of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import nn

from qfx.errors import ModelFileError
from qfx.export.to_graph import to_graph
from qfx.files import writing
from qfx.pages.measured import measure
from qfx.pages.model import model_page
from qfx.trainers.logs import array_of
from qfx.watch.page import history
from qfx.watch.runs import last_answers, read


def write_report(
    qmodel: nn.Module, path: str | os.PathLike[str], log: Path, x: Any = None, *, model: str | os.PathLike[str] | None = None, force: bool = False
) -> None:
    """Write the page of the model, which is in the file ``model`` if it was exported: the curves of the runs in the folder ``log``, right answers and
    confusions if they are there, the graph with its types, and, on the inputs ``x`` (batch first; several as ``qfx.run`` takes them), ranges,
    distributions and errors. Raises DataError for data that does not fit, UnsupportedError while quantizers are switched off, ModelFileError for a
    file that is there without ``force``."""
    target = Path(path)
    name = Path(path if model is None else model).stem
    graph = to_graph(qmodel, name)
    measured = None if x is None else measure(graph, array_of(x))
    runs = read(log)
    answers = last_answers(runs, None if model is None else Path(model))
    text = model_page(graph, f"{name}.onnx", measured=measured, history=history(runs), answers=answers)
    with writing(target, force=force, error=ModelFileError) as staged:
        staged.write_text(text, encoding="utf-8")
