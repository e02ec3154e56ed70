"""n:m sparsity: which weights are kept, that they stay so in training and after passes, and what it refuses."""

from __future__ import annotations

import copy
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from executors import same_in_cpp, same_in_torch_and_the_file
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import qfx
from qfx import Override, Recipe, Spec
from qfx.errors import ModelFileError, RecipeError, UnsupportedError
from qfx.hardware.board import board
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Schedule
from qfx.hardware.processes import MatVec
from qfx.hardware.unrolled.plan import plan
from qfx.ir.passes.pipeline import optimize
from qfx.nn.casts.sparse import Sparse, choose, fits
from qfx.ptq import adaround, adaround_blocks, comq, float_reference, gptq

DENSE = Override("0.weight", {"sparsity": "1:1"})


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, groups=2), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 4, 5),
    )  # fmt: skip


def quantized(sparsity: str = "2:4", **spec: Any) -> tuple[Any, Tensor]:
    torch.manual_seed(0)
    x = torch.rand(32, 3, 5, 5)
    recipe = Recipe(weight=Spec(6, sparsity=sparsity, **spec), overrides=(DENSE,))
    return qfx.quantize(network(), x, recipe).eval(), x


def raw_weights(q: nn.Module) -> dict[str, np.ndarray[Any, Any]]:
    graph = qfx.to_graph(q)
    return {node.name: const.raw for node in graph.nodes for name, const in node.op.constants().items() if name == "weight"}


def masked(raw: np.ndarray[Any, Any], n: int, m: int) -> bool:
    return bool((np.count_nonzero(raw.reshape(len(raw), raw.shape[1] // m, m, -1), axis=2) <= n).all())


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**31))
def test_kept_weights_have_the_greatest_norm_of_all_choices(n: int, m: int, seed: int) -> None:
    """The paper's definition, by brute force: of all ways to keep n of m, that which loses the least magnitude."""
    n = min(n, m)
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randint(-5, 6, (2, 2 * m, 3), generator=generator).float()
    kept = choose(weight, n, m)
    assert fits(kept, n, m)
    for output, group, tap in np.ndindex(2, 2, 3):
        part = weight[output, group * m : (group + 1) * m, tap].abs()
        best = max(sum(float(part[i]) for i in some) for some in combinations(range(m), n))
        assert float((part * kept[output, group * m : (group + 1) * m, tap]).sum()) == best


def test_trained_weights_stay_sparse_and_the_rest_learns() -> None:
    q, x = quantized()
    assert isinstance(q.get_submodule("2").weight_cast, Sparse)
    assert not isinstance(q.get_submodule("0").weight_cast, Sparse)
    before = {name: parameter.detach().clone() for name, parameter in q.named_parameters()}
    mask = q.get_submodule("6").weight_cast.kept.clone()
    optimizer = torch.optim.SGD(q.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(q.train()(x), torch.arange(32) % 5).backward()
        optimizer.step()
    weight, cast = q.get_submodule("6").weight, q.get_submodule("6").weight_cast
    assert torch.equal(cast.kept, mask)
    assert torch.equal(weight[~mask], before["6.weight"][~mask])
    assert not torch.equal(weight[mask], before["6.weight"][mask])
    for name, raw in raw_weights(q.eval()).items():
        assert name.startswith("0") or masked(raw, 2, 4)


@pytest.mark.parametrize("method", ["gptq", "comq", "adaround", "blocks"])
def test_passes_keep_the_mask_and_make_up_for_it(method: str) -> None:
    q, x = quantized()
    reference = float_reference(q)
    with torch.no_grad():
        before = (q(x) - reference(x)).square().mean()
    if method == "gptq":
        gptq(q, x, reference=reference)
    elif method == "comq":
        comq(q, x, reference=reference)
    elif method == "adaround":
        adaround(q, x, reference=reference, iterations=50)
    else:
        adaround_blocks(q, x, reference=reference, iterations=20)
    assert all(masked(raw, 2, 4) for name, raw in raw_weights(q).items() if not name.startswith("0"))
    if method in ("gptq", "comq"):  # what is left makes up for what went
        with torch.no_grad():
            assert (q(x) - reference(x)).square().mean() < 0.7 * before


def test_every_executor_gives_the_same(tmp_path: Path) -> None:
    q, x = quantized("1:4", granularity="channel")
    same_in_torch_and_the_file(q, x[:8], tmp_path)
    same_in_cpp([(q, x[:4])], tmp_path / "cpp", fast=True)


def test_an_accumulator_bounds_what_is_kept() -> None:
    q, _ = quantized(accumulator=14)
    assert all(masked(raw, 2, 4) for name, raw in raw_weights(q).items() if not name.startswith("0"))
    q.get_submodule("6").weight.data *= 100
    assert masked(raw_weights(q)["6"], 2, 4)


def test_unrolled_hardware_has_no_adders_for_zeros() -> None:
    torch.manual_seed(0)
    x = torch.rand(64, 16)
    net = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 5))
    plans = []
    for sparsity in ("4:4", "2:4", "1:4"):
        graph = qfx.to_graph(qfx.quantize(copy.deepcopy(net), x, Recipe(weight=Spec(6, sparsity=sparsity))))
        plans.append(plan(optimize(graph), board("zcu102"), clock_ns=5.0))
    dense, half, quarter = (found.adders for found in plans)
    assert half < 0.65 * dense
    assert quarter < 0.35 * dense


def test_streaming_hardware_finds_the_groups_that_training_made() -> None:
    q, _ = quantized()
    design = lower(optimize(qfx.to_graph(q)), Schedule())
    units = {node: unit for unit, node in zip(design.processes, design.nodes, strict=True) if isinstance(unit, MatVec)}
    assert units["0"].sparsities == ()
    assert [str(kept) for kept in units["2"].sparsities] == ["2:4"]


def test_checkpoints_know_the_mask() -> None:
    q, _ = quantized()
    other, _ = quantized()
    other.get_submodule("6").weight_cast.mask = other.get_submodule("6").weight_cast.mask.roll(1, 0)
    q.load_state_dict(other.state_dict())
    assert torch.equal(q.get_submodule("6").weight_cast.kept, other.get_submodule("6").weight_cast.kept)
    dense, _ = quantized("4:4")
    with pytest.raises(ModelFileError, match="was trained dense"):
        q.load_state_dict(dense.state_dict())
    more, _ = quantized("3:4")
    with pytest.raises(ModelFileError, match="keeps more weights"):
        q.load_state_dict(more.state_dict())
    q.load_state_dict(network().state_dict())  # float weights: the mask stays


def test_refusals() -> None:
    x = torch.rand(8, 3, 5, 5)
    with pytest.raises(UnsupportedError, match=r"0\.weight: sparsity 2:4 takes groups of 4 inputs, and each output has 3"):
        qfx.quantize(network(), x, Recipe(weight=Spec(6, sparsity="2:4")))
    for wrong in ("4:2", "0:4", "2/4", "2:4:8", "a:b", "1:65", 24):
        with pytest.raises(RecipeError, match="sparsity is"):
            Spec(sparsity=wrong)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="this is no weight"):
        Recipe(activation=Spec(sparsity="2:4"))
    recipe = Recipe(weight=Spec(6, sparsity="2:4"), overrides=(DENSE,))
    assert Recipe.from_toml(recipe.to_toml()) == recipe
