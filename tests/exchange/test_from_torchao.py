"""Models of PyTorch's own tools (PT2E, torch.ao.quantization): the same types, the same raw integers, trained on; and what is refused."""

from __future__ import annotations

import copy
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx.exchange.exact import beside
from qfx.fixed.arith import Interval
from qfx.ir.interpret import quantize_input, run_from_raw
from qfx.nn.layers.linear import QLinear

pytest.importorskip("torchao", reason="torchao is in the extra 'dev'", exc_type=ImportError)
nets = pytest.importorskip("torch_ao_nets")
pytestmark = pytest.mark.filterwarnings("ignore")  # of torch, about its own tools


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X = numbers(8, 1, 8, 8)
WIDE = torch.cat([numbers(8, 1, 8, 8, seed=seed) * 2.0 ** (seed - 3) for seed in range(8)])


def results(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(x[at : at + 8]) for at in range(0, len(x), 8)])


def differing(source: nn.Module, q: nn.Module, x: Tensor = WIDE) -> int:
    """At how many places the fixed-point model, or its graph's raw integers, are not the source's numbers."""
    theirs, graph = results(source, x), qfx.to_graph(q)
    raws = np.rint(np.ldexp(theirs.double().numpy(), graph.infos[graph.output].grids)).astype(np.int64)
    ours = run_from_raw(graph, quantize_input(graph, x.numpy()))
    return int((results(q, x) != theirs).sum()) + int((ours != raws).sum())


@pytest.fixture(scope="module")
def calibrated() -> Any:
    """A network with BatchNorm, calibrated by PT2E, its biases as they come: in float."""
    torch.manual_seed(3)
    return nets.prepared(nets.Net(), X, nets.Everywhere(bits=4))


@pytest.fixture(scope="module")
def both(calibrated: Any) -> tuple[nn.Module, nn.Module]:
    """The source, converted, and the fixed-point model of what was prepared."""
    return nets.converted(calibrated), qfx.from_torchao(calibrated, X)


def test_what_pt2e_prepared_counts_as_what_it_converts(calibrated: Any, both: tuple[nn.Module, nn.Module]) -> None:
    source, q = both
    assert qfx.conversion(q).exact
    assert differing(source, q) == 0
    found = dict(qfx.quantizers(q))
    assert {"input", "conv.weight", "conv.bias", "again.weight", "again.output", "fc.weight", "fc.output"} <= set(found)
    kinds = found["conv.weight"].types()[0], found["fc.output"].types()[0]
    assert [(kind.width, kind.signed, kind.q, kind.o) for kind in kinds] == [
        (4, True, qfx.QMode.RND_CONV, qfx.OMode.SAT_SYM),
        (4, True, qfx.QMode.RND_CONV, qfx.OMode.SAT),
    ]
    own, theirs = dict(q.named_parameters())["fc.weight"], calibrated.fc.weight
    assert torch.equal(own, theirs)  # in float, as it was trained
    assert not torch.equal(theirs, found["fc.weight"](theirs).value)


def test_one_step_of_a_bias_is_noticed(both: tuple[nn.Module, nn.Module]) -> None:
    source, q = both
    wrong = copy.deepcopy(q)
    layer: Any = wrong.get_submodule("fc")
    with torch.no_grad():
        layer.bias[0] += 2.0 ** -float(layer.bias_cast.points().flatten()[0])
    assert differing(source, wrong) > 0


def test_files_and_programs(both: tuple[nn.Module, nn.Module], tmp_path: Path) -> None:
    program = torch.export.export(both[0], (X,))
    torch.export.save(program, tmp_path / "net.pt2")
    for given in (program, tmp_path / "net.pt2"):
        assert differing(both[0], qfx.from_torchao(given, X)) == 0


def test_it_is_trained_on(both: tuple[nn.Module, nn.Module]) -> None:
    q = copy.deepcopy(both[1]).train()
    optimizer = torch.optim.Adam(qfx.parameter_groups(q, lr=1e-2))
    losses = []
    for _ in range(6):
        loss = (q(X) - 0.25).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0]


def test_biases_on_the_grid_of_the_products_go_at_any_word_length() -> None:
    torch.manual_seed(4)
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    source = nets.converted(nets.prepared(nets.rounded(net), X, nets.Everywhere(bits=8)))
    assert differing(source, qfx.from_torchao(source, X)) == 0


def test_quantization_aware_training_by_pt2e(thorough: bool) -> None:
    if not thorough:
        pytest.skip("torchao takes long to look for BatchNorms; runs with --thorough")
    torch.manual_seed(5)
    made = nets.prepared(nets.Net(), X, nets.Everywhere(bits=4, qat=True), qat=True)
    source = nets.converted(made)
    assert differing(source, qfx.from_torchao(source, X)) == 0
    assert differing(source, qfx.from_torchao(made, X)) == 0


def test_eager_quantization_aware_training() -> None:
    torch.manual_seed(0)
    source = nets.trained_eagerly(X, nets.trained())
    q = qfx.from_torchao(source, X)
    assert differing(source, q) == 0
    assert [name for name, _ in qfx.quantizers(q)] == [
        *("input", "conv.weight", "conv.bias", "conv.output", "add.output", "fc.weight", "fc.bias", "fc.output")
    ]


def test_fx_prepared_and_reference_models() -> None:
    from torch.ao.quantization import QConfigMapping, quantize_fx

    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10, bias=False))
    config = QConfigMapping().set_global(nets.trained(bits=8, dtype=torch.quint8))
    source = quantize_fx.prepare_qat_fx(net.train(), config, (X,))
    source(X)
    source.eval()
    assert differing(source, qfx.from_torchao(source, X)) == 0
    reference = quantize_fx.convert_to_reference_fx(copy.deepcopy(source))
    assert differing(reference, qfx.from_torchao(reference, X)) == 0
    refused(quantize_fx.convert_fx(copy.deepcopy(source)), "is torch's quantized .*whose numbers are those of a backend's kernels")


@pytest.mark.parametrize("seed", range(4))
def test_a_bias_beside_the_grid_counts_as_half_a_step(seed: int) -> None:
    """For every sum, whatever the order in which float32 adds."""
    torch.manual_seed(seed)
    layer = QLinear(nn.Linear(16, 1), qfx.Recipe(), "fc")
    with torch.no_grad():
        layer.weight.copy_(torch.randint(-7, 8, (1, 16)) * 2.0**-3)
    found, grids, why = beside(layer, (3,), Interval(-8, 7, 2))
    assert not why
    assert grids == (5,)
    x = torch.randint(-8, 8, (4096, 16)) * 0.25
    exact = (x.double() @ layer.weight.double().T).squeeze() + float(found)
    for _ in range(8):
        parts = torch.cat([x * layer.weight, layer.bias.expand(len(x), 1)], 1)[:, torch.randperm(17)]
        total = parts[:, 0]
        for part in parts.T[1:]:
            total = total + part
        for bits in (4, 2, 0):
            assert torch.equal(torch.round(total.double() * 2**bits), torch.round(exact * 2**bits))


def test_a_bias_that_float32_may_round_onto_the_grid_is_refused() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 4), nn.ReLU())
    with torch.no_grad():
        net[0].bias.fill_(0.25 + 2.0**-22)
    x = numbers(8, 64)
    source = nets.converted(nets.prepared(net, x, nets.Everywhere(bits=4)))
    refused(source, r"number 0 lies \S+ steps beside the grid of the products.*\n.*quantize the bias", x)
    near = qfx.from_torchao(source, x, strict=False)
    assert not qfx.conversion(near).exact
    assert differing(source, near, numbers(64, 64)) == 0


def refused(model: Any, match: str, x: Tensor = X, kind: type[qfx.QfxError] = qfx.UnsupportedError) -> None:
    with pytest.raises(kind, match=match):
        qfx.from_torchao(model, x)


def test_what_is_refused(tmp_path: Path, calibrated: Any) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 4, bias=False), nn.ReLU())
    x = numbers(8, 64)
    floats = nets.converted(nets.prepared(net, x, nets.Everywhere(po2=False)))
    refused(floats, r"(?s)has the scale .* which is no power of two.*integers_of", x)
    shifted = nets.converted(nets.prepared(net, x, nets.Everywhere(scheme=torch.per_tensor_affine)))
    refused(shifted, r"(?s)has the zero point -?\d+ in -128 ... 127.*integers_of", x)
    refused(nets.Net(), "quantizes nothing")
    refused(nets.trained_eagerly(X, nets.trained()).conv, "does not run on the example", numbers(8, 3), qfx.DataError)
    refused(calibrated, "samples|example", X[:0], qfx.DataError)
    refused(calibrated, "is of torch.float64", X.double(), qfx.DataError)
    observed = nets.eager.prepare(nets.Stubs().eval())
    observed.add_module("watch", nets.eager.MinMaxObserver())
    refused(observed, "has observers .*quantize nothing yet")
    fresh = nets.Stubs().train()
    fresh.qconfig = nets.trained()
    refused(nets.eager.prepare_qat(fresh).eval(), "has seen no data")


def test_bad_files(tmp_path: Path, calibrated: Any) -> None:
    refused(tmp_path / "none.pt2", "no such file", kind=qfx.ModelFileError)
    path, damaged = tmp_path / "net.pt2", tmp_path / "damaged.pt2"
    torch.export.save(torch.export.export(nets.converted(calibrated), (X,)), path)
    damaged.write_bytes(path.read_bytes()[:-200])
    refused(damaged, "", kind=qfx.ModelFileError)
    (tmp_path / "text.pt2").write_text("no program")
    refused(tmp_path / "text.pt2", "is no exported program", kind=qfx.ModelFileError)

    def changed(old: str, new: str) -> Path:
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(damaged, "w") as target:
            for name in source.namelist():
                content = source.read(name)
                if name.endswith("models/model.json"):
                    text = json.dumps(json.loads(content))
                    assert old in text
                    content = text.replace(old, new).encode()
                target.writestr(name, content)
        return damaged

    refused(changed('"as_int": -7', '"as_int": 3'), "has integers outside of 3 ... 7, which it says they are in")
    refused(changed("quantize_per_tensor.default", "quantize_per_token.default"), "is none that is read here")
    refused(changed('"as_float": 0.', '"as_float": -0.'), "has the scale -0")


def test_a_torch_without_the_tools_is_told(monkeypatch: pytest.MonkeyPatch, calibrated: Any) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torchao.quantization.pt2e.quantize_pt2e", None)
    refused(calibrated, "(?s)torchao is not installed.*pip install torchao", kind=qfx.QfxError)
