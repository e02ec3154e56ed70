"""Passes after training on weights whose sums keep within an accumulator of a chosen width."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ptq_nets import digits, trained_small

import qfx
from qfx import Recipe, Spec, ptq
from qfx.nn.layers import Weighted
from qfx.nn.quantizer import Quantizer
from qfx.operators import Conv, Linear

BITS = 12


def quantized(**changes: Any) -> Any:
    x, _ = digits()
    weight = Spec(5, accumulator=BITS, granularity="channel", **changes)
    return qfx.quantize(ptq.fold_batch_norm(trained_small(), x[:64]), x[:64], Recipe(weight=weight, input=Spec(5), activation=Spec(5)))


def cast_alone(layer: Weighted) -> Any:
    """The weights as they would be cast without an accumulator."""
    return Quantizer.forward(layer.weight_cast, layer.cast_weight()).value


def widest(q: Any) -> int:
    graph = qfx.to_graph(q)
    layers = [node for node in graph.nodes if isinstance(node.op, Conv | Linear)]
    return max(replace(node.op, bias=None).accumulator(graph.infos[node.inputs[0]]).width for node in layers)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["gptq", "comq", "adaround"])
def test_layers(method: str) -> None:
    x, _ = digits()
    q = quantized()
    layers = [layer for layer in q.modules() if isinstance(layer, Weighted)]
    assert any(cast_alone(layer).ne(layer.weight_cast(layer.cast_weight()).value).any() for layer in layers), "nothing is bounded"
    more = {"iterations": 200} if method == "adaround" else {}
    results = getattr(ptq, method)(q, x[:128], **more)
    assert all(result.after <= result.before * 1.0001 for result in results)
    assert any(result.after < result.before for result in results)
    assert widest(q) <= BITS


def test_blocks_and_bias_and_calibration() -> None:
    x, _ = digits()
    q = quantized()
    reference = ptq.float_reference(q)
    ptq.calibrate(q, [x[:64], x[64:128]])
    assert widest(q) <= BITS
    ptq.correct_bias(q, x[:128], reference=reference)
    results = ptq.adaround_blocks(q, x[:128], iterations=20, reference=reference)
    assert all(result.after <= result.before for result in results)
    ptq.tune(q, x[:128], reference=reference, epochs=1)
    assert widest(q) <= BITS
