"""Networks by torch's own operators: the interpreter's numbers, recorded too."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hardware_models import DIRECTED
from torch import Tensor, nn
from torch.export import Dim

import qfx
from qfx.errors import ExactnessError, UnsupportedError
from qfx.export.programs import module
from qfx.export.programs.operations import OPERATIONS
from qfx.ir.graph import Graph
from qfx.ir.interpret import run_raws
from qfx.operators import OPERATORS
from qfx.testing import adversarial_feeds, assert_bit_exact, random_graph
from qfx.verify import raw_of


def compare(graph: Graph, plain: nn.Module, seed: int) -> None:
    feeds = adversarial_feeds(graph, np.random.default_rng(seed), 5)
    found = plain(*(torch.from_numpy(feeds[node.name]) for node in graph.inputs))
    results = found if isinstance(found, tuple) else (found,)
    for name, result, right in zip(graph.outputs, results, run_raws(graph, feeds), strict=True):
        assert_bit_exact(raw_of(result.numpy(), graph, "torch's operators", name), right, names=("torch's operators", "interpreter"))


@pytest.mark.parametrize("which", range(len(DIRECTED)))
def test_every_operator(which: int) -> None:
    graph = DIRECTED[which]()
    if "bent_far" in graph.infos:
        with pytest.raises(ExactnessError, match="holds 53"):  # as ONNX files refuse it
            qfx.to_module(graph)
    else:
        compare(graph, qfx.to_module(graph), which)


def test_random_graphs(thorough: bool) -> None:
    seed = int(np.random.default_rng().integers(1 << 32))
    print(f"seed {seed}")  # shown by pytest if the test fails
    compared = 0
    for which in range(2000 if thorough else 60):
        graph = random_graph(np.random.default_rng(seed + which), several=which % 3 == 0)
        try:
            plain = qfx.to_module(graph)
        except ExactnessError:
            continue
        compare(graph, plain, seed + which)
        compared += 1
    assert compared > 50


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.last = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(self.encoder(x).mean(1))
        return found


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells, self.last = nn.GRU(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(self.cells(x)[0][:, -1])
        return found


def convolutional() -> nn.Module:
    first = (nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.Hardswish(), nn.MaxPool2d(2))
    return nn.Sequential(*first, nn.Upsample(scale_factor=2), nn.ConvTranspose2d(4, 3, 2, stride=2), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(192, 4))


@pytest.mark.parametrize(("make", "shape"), [(convolutional, (2, 16, 16)), (Attention, (5, 8)), (Recurrent, (6, 4))])
def test_what_torch_records_of_it(make: type[nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(24, *shape)
    qmodel = qfx.quantize(make().eval(), x).eval()
    plain = qfx.to_module(qmodel)
    with torch.no_grad():
        expected = qmodel(x)
        found = plain(x)
        program = torch.export.export(plain, (x,), dynamic_shapes=({0: Dim("batch", min=1, max=100)},))
        recorded = program.module()(x[:7])
    assert found.dtype is expected.dtype
    for result, right in ((found, expected), (recorded, expected[:7])):
        assert torch.equal(result, right)
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not any("qfx" in name for name in called), called


def test_a_saved_program_needs_no_qfx(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 6)
    qmodel = qfx.quantize(nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)), x).eval()
    torch.export.save(torch.export.export(qfx.to_module(qmodel), (x,)), tmp_path / "net.pt2")
    with torch.no_grad():
        torch.save((x, qmodel(x)), tmp_path / "data.pt")
    program = (
        "import sys, torch\nsys.modules['qfx'] = None\nx, y = torch.load('data.pt')\nassert torch.equal(torch.export.load('net.pt2').module()(x), y)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], cwd=tmp_path, check=True)


def test_one_lsb_is_seen() -> None:
    torch.manual_seed(0)
    graph = qfx.to_graph(qfx.quantize(nn.Linear(6, 4), torch.randn(64, 6)))
    plain = qfx.to_module(graph)
    compare(graph, plain, 0)
    weight = next(buffer for buffer in plain.buffers() if buffer.shape == (4, 6))
    weight[1, 2] += 2.0 ** -(-weight.abs()[weight != 0].log2().floor().min() + 8)
    with pytest.raises(Exception, match="torch's operators"):
        compare(graph, plain, 0)


def test_every_operator_of_a_function_has_a_form() -> None:
    bodies = [line for kind in OPERATORS for text in kind.functions.values() for line in text.splitlines()]
    called = {found.group(1) for line in bodies if (found := re.search(r"= ([A-Z]\w*) ?[(<]", line))}
    assert len(called) > 20
    assert called <= set(OPERATIONS)


def test_neighbours_of_long_words() -> None:
    """ONNX Runtime has no Resize of float64: the file repeats."""
    long = qfx.Spec(32)
    qmodel = qfx.quantize(nn.Upsample(scale_factor=2), torch.randn(16, 2, 3, 3), qfx.Recipe(input=long, output=long)).eval()
    graph = qfx.to_graph(qmodel)
    compare(graph, qfx.to_module(graph), 0)


def test_an_operator_without_a_form_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OPERATIONS", {name: function for name, function in module.OPERATIONS.items() if name != "Gemm"})
    qmodel = qfx.quantize(nn.Sequential(nn.Linear(6, 4)), torch.randn(64, 6))
    with pytest.raises(UnsupportedError, match=r"Gemm has no form in torch's operators[\s\S]*export_onnx"):
        qfx.to_module(qmodel)


def test_the_model_itself_says_what_to_record() -> None:
    qmodel = qfx.quantize(nn.Linear(6, 4), torch.randn(64, 6))
    with pytest.raises(UnsupportedError, match="to_module"):
        torch.export.export(qmodel, (torch.randn(2, 6),), strict=False)
