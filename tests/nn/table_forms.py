"""Functions by table, and the executors compared on every number that can come."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from nn_models import Calls
from support.bundles import build_bundle
from torch import Tensor, nn

import qfx
from qfx import OMode, QMode, Recipe, Spec
from qfx.hardware.design.schedule import Schedule
from qfx.ir.interpret import quantize_input, run_raw
from qfx.ir.passes.pipeline import optimize
from qfx.ir.values import RawArray
from qfx.testing import assert_bit_exact
from qfx.verify import onnx_runtime, raw_of

Form = Callable[[Tensor], Tensor]

FORMS: dict[str, nn.Module | Form] = {
    "sigmoid": nn.Sigmoid(),
    "tanh": torch.tanh,
    "silu": nn.SiLU(),
    "gelu": nn.GELU(),
    "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
    "elu": nn.ELU(0.7),
    "selu": F.selu,
    "celu": lambda x: F.celu(x, 1.5),
    "softplus": nn.Softplus(2.0),
    "mish": nn.Mish(),
    "exp": torch.exp,
    "log": lambda x: x.log(),
    "reciprocal": torch.reciprocal,
    "sqrt": torch.sqrt,
    "rsqrt": lambda x: x.rsqrt(),
    "log_sigmoid": nn.LogSigmoid(),
    "erf": torch.erf,
    "sin": torch.sin,
    "cos": lambda x: x.cos(),
    "softsign": nn.Softsign(),
    "hardsigmoid": nn.Hardsigmoid(),
    "hardswish": F.hardswish,
    "tanhshrink": nn.Tanhshrink(),
    "hardshrink": nn.Hardshrink(0.4),
    "softshrink": lambda x: F.softshrink(x, 0.3),
    "cube": lambda x: x**3,
    "root": lambda x: torch.pow(x, 0.3),
    "power of two": lambda x: 2**x,
    "sinc": torch.sinc,
}

MODES = [Spec(8, q=q, o=o) for q, o in zip(QMode, [*OMode, OMode.SAT, OMode.SAT], strict=True)]


def numbers(width: int, *, signed: bool = True, frac_bits: int = 5) -> Tensor:
    """All numbers of a type, one sample of two channels after the other."""
    low = -(1 << width - 1) if signed else 0
    return torch.arange(low, low + (1 << width)).reshape(-1, 2) * 2.0**-frac_bits


def quantized(form: nn.Module | Form, x: Tensor, recipe: Recipe) -> nn.Module:
    model = nn.Sequential(form) if isinstance(form, nn.Module) else Calls(lambda _, value: form(value))
    return qfx.quantize(model, x, recipe).eval()


def recipe_for(width: int, *, signed: bool = True, frac_bits: int = 5, output: Spec | None = None) -> Recipe:
    return Recipe(input=Spec(width, signed=signed, frac_bits=frac_bits), output=output or Spec(width))


def compare(made: dict[str, tuple[nn.Module, Tensor]], folder: Path, *, simulated: bool = True, fast: bool = False) -> None:
    """Every executor on every number; ``fast``: the fast emulator too."""
    graphs = {name: qfx.to_graph(q) for name, (q, _) in made.items()}
    expected: dict[str, RawArray] = {}
    for name, (q, x) in made.items():
        graph = graphs[name]
        expected[name] = run_raw(graph, x.numpy(), check_ranges=True)
        with torch.no_grad():
            assert_bit_exact(raw_of(q(x).numpy(), graph, "torch"), expected[name], names=("torch", f"interpreter, {name}"))
        path = folder / f"{graph.name}.onnx"
        qfx.export_onnx(q, path)
        assert qfx.load_graph(path).nodes == graph.nodes
        assert_bit_exact(onnx_runtime(path, graph)(x.numpy()), expected[name], names=("ONNX Runtime", f"interpreter, {name}"))
    for quick in (False, True)[: 1 + fast] if simulated else ():
        place = folder / f"fast_{quick}"
        place.mkdir()
        bundle = build_bundle([(optimize(graph), Schedule()) for graph in graphs.values()], place, fast=quick)
        for number, (name, (_, x)) in enumerate(made.items()):
            found = bundle.run_from_raw(number, quantize_input(graphs[name], x.numpy()))
            assert_bit_exact(found, expected[name], names=("emulator" if quick else "C simulation", f"interpreter, {name}"))
