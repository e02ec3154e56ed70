"""Operations that become small graphs: the same raw integers in torch, ONNX Runtime, the interpreter and the C simulation, and the same training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from nn_models import Calls, check_exact
from support.bundles import build_bundle
from torch import Tensor, nn

import qfx
from qfx import Recipe, Spec
from qfx.capture.trace import trace
from qfx.hardware.design.schedule import Schedule
from qfx.ir.interpret import quantize_input, run_from_raw
from qfx.ir.passes.pipeline import optimize
from qfx.nn import placement
from qfx.nn.call import Part
from qfx.nn.layers import QAdd, QReLU, QReshape
from qfx.ptq.floating.equalize import chains, layers_of
from qfx.testing import adversarial_inputs, assert_bit_exact
from qfx.verify import raw_of

FORMS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "square of a convolution": lambda m, x: m.conv(x) ** 2,
    "square of the input": lambda m, x: torch.square(x),
    "magnitude of a convolution": lambda m, x: abs(m.conv(x)),
    "magnitude of the input": lambda m, x: x.abs(),
    "magnitude behind BatchNorm": lambda m, x: torch.abs(m.bn(m.conv(x))),
    "magnitude, then pooling": lambda m, x: F.max_pool2d(m.conv(x).abs(), 2).flatten(1),
    "difference of magnitudes": lambda m, x: m.conv(x).abs() - x.pow(2),
}


def quantized(form: str, recipe: Recipe | None = None) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(4, 3, 6, 6) * 2
    model = Calls(FORMS[form], conv=nn.Conv2d(3, 3, 3, padding=1), bn=nn.BatchNorm2d(3)).eval()
    return qfx.quantize(model, x, recipe), x


@pytest.mark.usefixtures("gxx")
def test_every_executor_gives_the_same(tmp_path: Path) -> None:
    recipes = {"8 bits": None, "by channel": Recipe(activation=Spec(6, granularity="channel"), batch_norm="fold")}
    made = {(form, name): quantized(form, recipe)[0].eval() for form in FORMS for name, recipe in recipes.items()}
    graphs = {key: qfx.to_graph(q) for key, q in made.items()}
    bundle = build_bundle([(optimize(graph), Schedule()) for graph in graphs.values()], tmp_path)
    for number, (key, graph) in enumerate(graphs.items()):
        x = adversarial_inputs(graph, np.random.default_rng(number), 6)
        expected = run_from_raw(graph, quantize_input(graph, x))
        assert_bit_exact(bundle.run_from_raw(number, quantize_input(graph, x)), expected, names=("C simulation", f"interpreter, {key}"))
        with torch.no_grad():
            assert_bit_exact(raw_of(made[key](torch.from_numpy(x)).numpy(), graph, "torch"), expected, names=("torch", f"interpreter, {key}"))
        path = tmp_path / f"{number}.onnx"
        qfx.export_onnx(made[key], path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {session.get_inputs()[0].name: x})
        assert_bit_exact(raw_of(found, graph, "ONNX Runtime"), expected, names=("ONNX Runtime", f"interpreter, {key}"))


def test_the_parts_have_names_and_one_cast_at_the_end() -> None:
    q, _ = quantized("magnitude of a convolution")
    names = [node.name for node in qfx.to_graph(q).nodes]
    assert names == ["input", "conv", "conv.output", "abs_positive", "abs_below", "abs_negative", "abs", "abs.output"]
    assert not dict(qfx.quantizers(q))["abs.output"].signed
    q, _ = quantized("square of a convolution")
    assert [node.name for node in qfx.to_graph(q).nodes] == ["input", "conv", "conv.output", "pow_product", "pow", "pow.output"]
    assert not dict(qfx.quantizers(q))["pow.output"].signed
    assert [name for name, _ in qfx.quantizers(q)] == ["input", "conv.weight", "conv.bias", "conv.output", "pow.output"]


def test_gradients_are_those_of_the_float_operations() -> None:
    wide = Recipe(**{role: Spec(24) for role in ("input", "activation", "output")})
    for form, derivative in (("square of the input", lambda x: 2 * x), ("magnitude of the input", torch.sign)):
        q, x = quantized(form, wide)
        x = (x * 16).round() / 16
        x.requires_grad_(True)
        q.train()(x).sum().backward()
        inside = x.detach() != 0
        torch.testing.assert_close(x.grad[inside], derivative(x.detach())[inside], rtol=1e-3, atol=1e-3)


def test_a_module_that_runs_twice_gets_parts_for_each_call() -> None:
    block = Calls(lambda m, x: m.a(x).abs(), a=nn.Linear(4, 4))
    model = Calls(lambda m, x: m.block(m.block(x)) ** 2, block=block)
    q = qfx.quantize(model, torch.randn(8, 4))
    check_exact(q)
    layers = [name for name, _ in q.named_modules() if name.startswith("block.abs") and "cast" not in name]
    assert layers == [f"block.abs{call}{part}" for call in ("", "_1") for part in ("_positive", "_below", "_negative", "")]


def test_a_small_graph_ends_a_chain_of_equalization() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 1), Calls(lambda m, x: x.abs()), nn.Conv2d(3, 2, 1)).eval()
    traced = trace(model, torch.randn(2, 2, 4, 4))
    assert chains(traced) == []
    (node,) = (node for node in traced.module.graph.nodes if node.op == "call_method")
    assert layers_of(node, traced) is None


def test_roles_and_readers_of_parts() -> None:
    first = Part(QReLU(), (0,))
    second = Part(QAdd(), (first, first))
    last = Part(QReshape((4,)), (second,))
    parts = (first, second, last)
    assert placement.readers(parts) == {0: 1, first: 1, second: 1}
    assert [placement.role_of_part(part, parts, "output") for part in parts] == ["activation", "output", "output"]
