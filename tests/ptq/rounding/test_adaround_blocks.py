"""AdaRound block by block."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from ptq_nets import assert_exports_exactly, assert_on_grid, digits, distance, quantized_small, recipe, trained_small
from torch import Tensor, nn

import qfx
from qfx.errors import UnsupportedError
from qfx.nn.model import graph_module
from qfx.nn.quantizer import Quantizer
from qfx.ptq.float_reference import float_reference
from qfx.ptq.rounding.adaround_blocks import BATCH, SoftRounding, adaround_blocks
from qfx.ptq.rounding.blocks import find_blocks

FAST: dict[str, Any] = {"iterations": 80, "rate": 0.05}


def calibration() -> Tensor:
    return digits()[0][:256]


def test_blocks_are_residual_blocks_and_layers() -> None:
    q = quantized_small()
    blocks = find_blocks(q)
    assert [[call.path for call in block.calls] for block in blocks] == [["stem"], ["conv1", "conv2"], ["depthwise"], ["head"]]
    assert [block.name for block in blocks] == ["stem", "conv1..conv2", "depthwise", "head"]
    assert blocks[0].source.target == "input"
    for before, after in pairwise(blocks):
        assert after.source is before.nodes[-1]
        assert isinstance(q.get_submodule(str(after.source.target)), Quantizer)
    covered = [node for block in blocks for node in block.nodes]
    assert covered == [node for node in q.graph.nodes if node.op != "output"][2:-1]  # the last takes the result out of its type


def test_blocks_bring_the_model_nearer_and_export_exactly() -> None:
    q = quantized_small(3, 8).train()
    start = distance(q.eval())
    q.train()
    calls: list[tuple[str, int, int]] = []
    results = adaround_blocks(q, calibration(), **FAST, progress=lambda *call: calls.append(call))
    assert q.training
    assert distance(q.eval()) < 0.3 * start
    assert [result.name for result in results] == ["stem", "conv1..conv2", "depthwise", "head"]
    assert all(result.after < result.before if result.kept else result.after == result.before for result in results)
    assert sum(result.kept for result in results) >= 3
    assert sum(result.moved for result in results) > 0
    assert calls[0] == ("adaround_blocks", 0, 320)
    assert calls[-1] == ("adaround_blocks", 320, 320)
    assert not any(isinstance(part, SoftRounding) for part in q.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in q.parameters())
    assert_on_grid_where_kept(q, results)
    assert_exports_exactly(q)


def assert_on_grid_where_kept(q: nn.Module, results: tuple[Any, ...]) -> None:
    if all(result.kept for result in results):
        assert_on_grid(q)


def test_weights_go_up_or_down_and_runs_repeat() -> None:
    def run() -> Any:
        q = quantized_small(3, 8)
        adaround_blocks(q, calibration(), **FAST, seed=3)
        return q

    start, first, again = quantized_small(3, 8), run(), run()
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in first.state_dict().items())
    layer, old = first.get_submodule("conv2"), start.get_submodule("conv2")
    unit = torch.exp2(-layer.weight_cast.frac_bits.round()).detach()
    low = torch.floor(old.weight / unit).detach()
    raw = (layer.weight / unit).detach()
    assert bool(((raw == low.clamp(-4, 3)) | (raw == (low + 1).clamp(-4, 3))).all())


def test_binary_points_of_activations_move_when_they_may() -> None:
    q = quantized_small(4, 3)
    names = [name for name, _ in q.named_parameters() if name.endswith("output_cast.frac_bits")]
    before = {key: value.clone() for key, value in q.state_dict().items()}
    adaround_blocks(q, calibration(), iterations=30, rate=0.05, binary_point_rate=0.02)
    moved = [name for name in names if not torch.equal(q.state_dict()[name], before[name])]
    assert moved
    assert all(torch.equal(value, q.state_dict()[key]) for key, value in before.items() if key.endswith("weight_cast.frac_bits"))
    assert_exports_exactly(q)


def test_block_that_came_no_nearer_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """With roundings that are chosen badly on purpose."""
    monkeypatch.setattr(SoftRounding, "hard", lambda self: self.around.low * self.unit - 2 * self.unit)
    q = quantized_small(4, 8)
    before = {key: value.clone() for key, value in q.state_dict().items()}
    results = adaround_blocks(q, calibration()[:32], iterations=2)
    assert not any(result.kept or result.moved for result in results)
    assert all(torch.equal(value, before[key]) for key, value in q.state_dict().items())


def test_interrupt_leaves_no_relaxed_weights() -> None:
    q = quantized_small(3, 8)
    before = {key: value.clone() for key, value in q.state_dict().items()}

    def stop(stage: str, done: int, total: int) -> None:
        if done == 100:  # in the second block
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        adaround_blocks(q, calibration(), **FAST, progress=stop)
    changed = {key.partition(".")[0] for key, value in q.state_dict().items() if not torch.equal(value, before[key])}
    assert changed <= {"stem"}
    assert list(q.state_dict()) == list(before)
    assert not any(isinstance(part, SoftRounding) for part in q.modules())
    assert_exports_exactly(q)


def test_dead_block_is_left_alone() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(-1.0)
    x = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    q = qfx.quantize(model, x, recipe(3, 8)).eval()
    results = adaround_blocks(q, x, iterations=5)
    assert (results[0].before, results[0].moved) == (0.0, 0)
    assert_exports_exactly(q, x)


def test_targets_come_from_the_reference() -> None:
    q = quantized_small(3, 8)
    reference = float_reference(q)
    for parameter in reference.parameters():
        parameter.zero_()  # a reference that knows nothing pulls every result to 0
    results = adaround_blocks(q, calibration()[:64], iterations=2, reference=reference)
    assert results[0].before > 0.05


def test_batch_norm_folded_on_the_fly_is_refused() -> None:
    x, _ = digits()
    q = graph_module(qfx.quantize(trained_small(), x[:16], qfx.Recipe(batch_norm="fold")))
    with pytest.raises(UnsupportedError, match="folded on the fly"):
        adaround_blocks(q, x[:16])
    assert BATCH == 32
