"""The networks of ``large_networks.py`` the whole way: torch, ONNX, interpreter, ONNX Runtime and the fast emulator give the same raws.

Narrow and cropped every day; as published with ``--slow`` (some with ``--thorough``), with bounds on what the way may take.
"""

from __future__ import annotations

import resource
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from large_networks import LARGE, make_large

import qfx
from qfx import Recipe
from qfx.errors import ProjectError
from qfx.hardware.project import csim, emulator
from qfx.hardware.project.execute import execute
from qfx.hardware.project.project import prepare, write_project
from qfx.hardware.sequential.evaluate import evaluate, seen
from qfx.hardware.sequential.merging import joined
from qfx.hardware.sequential.steps import layers
from qfx.ir.interpret import quantize_inputs, run_raws
from qfx.testing import assert_bit_exact

PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "mobilenetv1": 4_231_976,
    "mobilenetv2": 3_504_872,
    "vgg16": 138_357_544,
    "yolov3_tiny": 8_852_366,
}
"""As published: torchvision's tables; of YOLOv3-tiny the weights of darknet's file, its statistics left out."""

WHOLE = [(name, 8) for name in LARGE]


def compare(name: str, bits: int, folder: Path, x: torch.Tensor, model: torch.nn.Module) -> None:
    """Quantized, exported, and two images the same in torch, interpreter, ONNX Runtime and emulator."""
    quantized = qfx.quantize(model, x, Recipe.uniform(bits)).eval()
    path = folder / f"{name}.onnx"
    qfx.export_onnx(quantized, path)
    graph = qfx.load_graph(path)
    data = x[:2].numpy()
    expected = run_raws(graph, data)
    with torch.no_grad():
        emulated = quantized(x[:2])
    session = onnxruntime.InferenceSession(str(path))
    there = session.run(None, {session.get_inputs()[0].name: data})
    for ours, torch_s, onnx_s, raw in zip(_listed(qfx.run(graph, data)), _listed(emulated), there, expected, strict=True):
        assert len(np.unique(raw)) > 4
        np.testing.assert_array_equal(torch_s.numpy(), ours)
        np.testing.assert_array_equal(onnx_s, ours)
    for raw, right in zip(emulator.run_raws(graph, data), expected, strict=True):
        assert_bit_exact(raw, right, names=(f"emulator of {name}", "interpreter"))


def _listed(found: object) -> tuple:
    return tuple(found) if isinstance(found, tuple | list) else (found,)


def test_one_step_of_a_weight_is_seen() -> None:
    """Planted in the quantized model behind the graph: the comparison is by raw numbers."""
    model, x = make_large("resnet18", side=32, narrow=16, count=8)
    quantized = qfx.quantize(model, x, Recipe.uniform(8)).eval()
    expected = run_raws(qfx.to_graph(quantized), x.numpy())
    with torch.no_grad():
        name, weight = next((n, p) for n, p in quantized.named_parameters() if n.endswith("fc.weight"))
        lsb = 2.0 ** -round(float(quantized.get_parameter(f"{name}_cast.frac_bits").max()))
        weight.view(-1)[int(weight.abs().argmin())] += lsb
    with pytest.raises(AssertionError, match="numbers differ"):
        assert_bit_exact(run_raws(qfx.to_graph(quantized), x.numpy())[0], expected[0])


@pytest.mark.usefixtures("gxx")
@pytest.mark.parametrize(("name", "bits"), [*WHOLE, ("vgg16", 16)])
def test_a_narrow_and_cropped_one_agrees(name: str, bits: int, tmp_path: Path) -> None:
    model, x = make_large(name, side=32, narrow=16, count=4)
    compare(name, bits, tmp_path, x, model)
    graph = prepare(qfx.load_graph(tmp_path / f"{name}.onnx"))
    made = joined(layers(graph))
    held = evaluate(made, list(quantize_inputs(graph, x[:2].numpy()).values()))
    for value, right in zip(made.outputs, run_raws(graph, x[:2].numpy()), strict=True):
        assert_bit_exact(seen(held, value).reshape(right.shape), right, names=("steps of a layer engine", "interpreter"))


LONG = (("resnet50", 8), ("mobilenetv2", 8), ("vgg16", 8), ("vgg16", 16))
"""Half a minute and more each, beside others of their kind: whole with --thorough."""


@pytest.mark.usefixtures("gxx")
@pytest.mark.parametrize(("name", "bits"), [*WHOLE, ("vgg16", 16)])
def test_whole_ones_agree(name: str, bits: int, tmp_path: Path, thorough: bool) -> None:
    if (name, bits) in LONG and not thorough:
        pytest.skip("runs with --thorough")
    model, x = make_large(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]
    compare(name, bits, tmp_path, x, model)
    (tmp_path / f"{name}.onnx").unlink()


@pytest.mark.usefixtures("gxx")
@pytest.mark.parametrize(("name", "bits"), [*WHOLE, ("vgg16", 16)])
def test_cropped_ones_agree_with_the_vendors_headers(name: str, bits: int, tmp_path: Path, thorough: bool) -> None:
    """The layer engine in C++ with the vendor's types, two images each; a bit of a weight is not let through."""
    if not thorough:
        pytest.skip("runs with --thorough")
    model, x = make_large(name, side=32, narrow=16, count=4)
    graph = qfx.to_graph(qfx.quantize(model, x, Recipe.uniform(bits)))
    project = write_project(graph, tmp_path / "engine", board="ultra96v2", style="sequential")
    data = x[:2].numpy()
    for raw, right in zip(_listed(csim.run_raw(project.path, data)), run_raws(graph, data), strict=True):
        assert len(np.unique(right)) > 4
        assert_bit_exact(raw, right, names=(f"C simulation of {name}", "interpreter"))
    weights = project.path / "tb" / "memory" / "weights0.bin"
    held = bytearray(weights.read_bytes())
    held[len(held) // 2] ^= 1
    weights.write_bytes(held)
    with pytest.raises(ProjectError, match=r"of another model, or is damaged|changed"):
        csim.run_raw(project.path, data)


@pytest.mark.usefixtures("gxx")
def test_the_emulator_of_resnet_18_makes_an_image_a_second(tmp_path: Path) -> None:
    """In processor time; it takes some hundredths. Compiling it takes less than two minutes."""
    model, x = make_large("resnet18", count=4)
    graph = qfx.to_graph(qfx.quantize(model, x, Recipe.uniform(8)))
    before = _children()
    executable = emulator.build(graph, tmp_path)
    assert _children() - before < 120
    raw = next(iter(quantize_inputs(graph, x.numpy()).values()))
    before, started = _children(), time.perf_counter()
    execute((str(executable),), raw, graph.infos[graph.output].shape)
    print(f"{len(x)} images in {time.perf_counter() - started:.2f} s")
    assert _children() - before < len(x)


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
