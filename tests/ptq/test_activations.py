"""Activations in bounded memory: the values are those of the models, wherever they were kept meanwhile."""

from __future__ import annotations

import contextlib
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from ptq_nets import digits, quantized_small, trained_small
from torch import Tensor, fx, nn

import qfx
from qfx import Recipe
from qfx.errors import DataError, QfxError, UnsupportedError
from qfx.nn.model import graph_module
from qfx.ptq.activations import ActivationCache, batches, evaluating, layer_calls, stream
from qfx.ptq.float_reference import float_reference


def seen(module: fx.GraphModule, path: str, x: Tensor) -> Tensor:
    """What the layer at ``path`` reads when the whole model runs."""
    found: list[Tensor] = []
    handle = module.get_submodule(path).register_forward_pre_hook(lambda _, args: found.append(args[0].tensor()))
    with torch.no_grad():
        module(x)
    handle.remove()
    return found[0]


@pytest.mark.parametrize("memory_bytes", [0, 100_000, 1 << 29])
def test_inputs_are_those_of_whole_runs(memory_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    q = quantized_small()
    models = (q, float_reference(q))
    data = batches(digits()[0][:50], 20)
    spilled = 0
    with ActivationCache(models, data, memory_bytes=memory_bytes) as cache:
        for call in layer_calls(q):
            cache.advance_to(call.node)
            assert cache.position == list(q.graph.nodes).index(call.node)
            for index, batch in enumerate(data):
                for value, model in zip(cache.inputs(call.node, index), models, strict=True):
                    assert torch.equal(value.tensor(), seen(model, call.path, batch))
            spilled += sum(file.stat().st_size for file in tmp_path.glob("qfx_ptq_*/*.pt"))
            assert cache._bytes <= memory_bytes
        assert (spilled > 0) == (memory_bytes < 1 << 29)
    assert not list(tmp_path.glob("qfx_ptq_*"))


def test_temporary_folder_goes_after_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    q = quantized_small()

    def broken() -> Iterator[Tensor]:
        yield digits()[0][:4]
        assert list(tmp_path.glob("qfx_ptq_*"))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), ActivationCache((q,), broken(), memory_bytes=0):
        pass
    assert not list(tmp_path.glob("qfx_ptq_*"))


def test_batches_are_taken_one_at_a_time() -> None:
    """Of a stream, no batch is held as it came once it has been through the input's cast."""
    batches_alive: list[weakref.ref[Tensor]] = []

    def parts() -> Iterator[Tensor]:
        for start in range(0, 12, 4):
            assert sum(known() is not None for known in batches_alive) <= 1
            batch = digits()[0][start : start + 4].clone()
            batches_alive.append(weakref.ref(batch))
            yield batch

    with ActivationCache((quantized_small(),), stream(parts())) as cache:
        assert cache.batches == 3


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ([], "no calibration data"),
        (torch.zeros(0, 1, 8, 8), "no calibration data"),
        ([torch.zeros(0, 1, 8, 8)], "no calibration data"),
        (torch.tensor(3.0), "no calibration data"),
        (7, "got a int"),
        ([(torch.zeros(2, 1, 8, 8), torch.zeros(2))], "batch 0 is a tuple"),
        ([torch.zeros(4)], "1 axes"),
        ([torch.zeros(1, 2), torch.full((1, 2), float("nan"))], "batch 1 holds NaN"),
    ],
)
def test_bad_data(data: object, match: str) -> None:
    with pytest.raises(DataError, match=match):
        batches(data)  # type: ignore[arg-type]


def test_tensor_is_cut_and_batches_are_kept() -> None:
    assert [len(part) for part in batches(torch.zeros(10, 3), 4)] == [4, 4, 2]
    assert [len(part) for part in batches([torch.zeros(7, 3), torch.zeros(0, 3), torch.zeros(1, 3)], 4)] == [7, 1]


def test_layer_calls_in_order_and_by_path() -> None:
    q = quantized_small()
    assert [call.path for call in layer_calls(q)] == ["stem", "conv1", "conv2", "depthwise", "head"]
    assert [call.path for call in layer_calls(q, ["head", "conv1"])] == ["conv1", "head"]
    with pytest.raises(QfxError, match=r"conv3.*\n.*did you mean conv2"):
        layer_calls(q, ["conv3"])


def test_layers_that_cannot_be_rounded_are_named() -> None:
    x, _ = digits()
    folded = graph_module(qfx.quantize(trained_small(), x[:16], Recipe(batch_norm="fold")))
    with pytest.raises(UnsupportedError, match=r"stem: its BatchNorm is folded on the fly\n.*fold_batch_norm"):
        layer_calls(folded)
    assert [call.path for call in layer_calls(folded, ["head"])] == ["head"]

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.layer(self.layer(x)))  # type: ignore[no-any-return]

    twice = graph_module(qfx.quantize(Twice(), torch.randn(8, 4)))
    with pytest.raises(UnsupportedError, match="layer: is called more than once"):
        layer_calls(twice)
    assert [call.path for call in layer_calls(twice, ["last"])] == ["last"]


def test_modes_come_back_module_by_module() -> None:
    q = quantized_small().train()
    q.get_submodule("conv1").eval()
    with contextlib.suppress(ZeroDivisionError), evaluating(q):
        assert not any(module.training for module in q.modules())
        raise ZeroDivisionError
    assert q.training
    assert not q.get_submodule("conv1").training
    assert q.get_submodule("conv2").training
