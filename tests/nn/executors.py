"""A quantized model in every executor: the same raw integers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from support.bundles import build_bundle
from torch import Tensor, nn

import qfx
from qfx.hardware.design.schedule import Schedule
from qfx.ir.graph import Graph
from qfx.ir.interpret import quantize_input, run_from_raw
from qfx.testing import assert_bit_exact


def raws(graph: Graph, values: Tensor) -> Any:
    """The raw integers of a result's values."""
    return np.rint(np.ldexp(values.detach().double().numpy(), graph.infos[graph.output].grids)).astype(np.int64)


def same_in_torch_and_the_file(q: nn.Module, x: Tensor, folder: Path) -> Any:
    """PyTorch, the graph, and ONNX Runtime on the file that is read back agree; the raws that they give."""
    graph = qfx.to_graph(q)
    expected = run_from_raw(graph, quantize_input(graph, x.numpy()))
    with torch.no_grad():
        assert_bit_exact(raws(graph, q(x)), expected, names=("PyTorch", "interpreter"))
    qfx.export_onnx(q, folder / "net.onnx")
    assert qfx.load_graph(folder / "net.onnx").infos == graph.infos
    session = onnxruntime.InferenceSession(folder / "net.onnx")
    found = session.run(None, {session.get_inputs()[0].name: x.numpy().astype(np.float32)})[0]
    assert_bit_exact(raws(graph, torch.from_numpy(found)), expected, names=("ONNX Runtime", "interpreter"))
    return expected


def same_in_cpp(models: Sequence[tuple[nn.Module, Tensor]], folder: Path, *, fast: bool) -> None:
    """C simulation of all of them, or the fast emulator, and the interpreter agree."""
    graphs = [qfx.to_graph(q) for q, _ in models]
    bundle = build_bundle([(graph, Schedule()) for graph in graphs], folder, fast=fast)
    for place, (graph, (_, x)) in enumerate(zip(graphs, models, strict=True)):
        raw = quantize_input(graph, x.numpy())
        assert_bit_exact(bundle.run_from_raw(place, raw), run_from_raw(graph, raw), names=(f"design {place} in C++", "interpreter"))
