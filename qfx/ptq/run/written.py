"""The files that a run writes, and the proof before they are written."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from qfx.errors import QfxError
from qfx.export.onnx_file import save
from qfx.export.to_graph import to_graph
from qfx.files import writing_all
from qfx.ptq.measure import outputs
from qfx.ptq.run.settings import Outcome
from qfx.verify import verify

PROVEN_SAMPLES = 32
"""On so many calibration samples ONNX Runtime and the integer interpreter must give PyTorch's numbers before a file is written."""


def write_files(outcome: Outcome, output: Path, data: Tensor, report: Path, text: str, *, force: bool) -> None:
    """Write the ONNX file and the report, both whole or neither, once ONNX Runtime and the interpreter have given PyTorch's numbers for a part of
    ``data``."""
    graph = to_graph(outcome.qmodel, output.stem)
    with writing_all((report, output), force=force) as (page_file, staged):
        save(graph, staged, force=True)
        prove(outcome.qmodel, staged, data[:PROVEN_SAMPLES])
        page_file.write_text(text, encoding="utf-8")


def prove(qmodel: nn.Module, path: Path, x: Tensor) -> None:
    """Raise QfxError unless ONNX Runtime and the integer interpreter on the file at ``path`` give what ``qmodel`` gives, raw by raw."""
    from qfx.ir.from_onnx import load_graph
    from qfx.verify import raw_of

    graph = load_graph(path)
    expected = outputs(qmodel, x, len(x)).numpy()
    comparisons = verify(path, x.numpy(), {"PyTorch": lambda _: raw_of(expected, graph, "PyTorch")})
    for comparison in comparisons:
        if comparison.first is not None:
            raise QfxError(f"{comparison.executor} differs at {comparison.first}", where=str(path), remedy="please report this defect")
