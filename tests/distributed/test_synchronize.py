"""Two processes, started by torchrun, train what one process trains on their batches together."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_worker import RECIPES, STEPS, X, Y, network, optimizer_of, quantized, state, train
from torch import Tensor, nn

import qfx
from qfx import QfxError, Recipe

HERE = Path(__file__).resolve().parent
Found = list[dict[str, Any]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What both processes wrote."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(HERE / "rank_worker.py"), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return [torch.load(folder / f"rank{rank}.pt") for rank in (0, 1)]


def different(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    assert list(a) == list(b)
    return [name for name in a if not torch.equal(a[name], b[name])]


def exported(model: nn.Module, entries: dict[str, Tensor], folder: Path) -> bytes:
    model.load_state_dict(entries)
    folder.mkdir()
    qfx.export_onnx(model.eval(), folder / "model.onnx")
    return (folder / "model.onnx").read_bytes()


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Tensor]]:
    """What one process has, with the batches of both."""
    ends = {}
    order = torch.cat([torch.arange(0, len(X), 2), torch.arange(1, len(X), 2)])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name in RECIPES:
        model = quantized(name)
        qfx.calibrate(model, X)
        ends[f"{name} calibrated"] = state(model)
        train(model, optimizer_of(model), X[order], Y[order], range(STEPS))
        ends[name] = state(model)
    torch.set_num_threads(threads)
    return ends


LEARNED = ("frac_bits", "int_bits", "frac_start", "cast_type", "range_fixed")
"""What calibration sets."""


@pytest.mark.parametrize("name", RECIPES)
def test_calibration_sees_all_data(name: str, found: Found, alone: dict[str, dict[str, Tensor]]) -> None:
    first, second = (part[name]["calibrated"] for part in found)
    assert not different(first, second)
    assert not [entry for entry in different(first, alone[f"{name} calibrated"]) if entry.endswith(LEARNED)]


@pytest.mark.parametrize("name", RECIPES)
def test_two_processes_are_one(name: str, found: Found, alone: dict[str, dict[str, Tensor]], tmp_path: Path) -> None:
    first, second = (part[name]["end"] for part in found)
    assert not different(first, second)  # to the last bit of every float
    model = quantized(name)
    files = [exported(copy.deepcopy(model), entries, tmp_path / part) for part, entries in (("two", first), ("one", alone[name]))]
    assert files[0] == files[1]


def test_the_comparison_sees_one_bit(alone: dict[str, dict[str, Tensor]], tmp_path: Path) -> None:
    model, planted = quantized("keep"), copy.deepcopy(alone["keep"])
    cast = model.get_submodule("5").weight_cast
    assert isinstance(cast, qfx.nn.quantizer.Quantizer)
    model.load_state_dict(planted)
    planted["5.weight"][0, 0] = cast(planted["5.weight"]).value[0, 0] + 2.0 ** -float(cast.points())
    files = [exported(copy.deepcopy(model), entries, tmp_path / part) for part, entries in (("a", alone["keep"]), ("b", planted))]
    assert files[0] != files[1]


def test_resuming_is_exact(found: Found) -> None:
    for part in found:
        assert not different(part["resumed"], part["keep"]["end"])


@pytest.mark.parametrize("name", ["keep", "fold"])
def test_activation_checkpointing(name: str, found: Found) -> None:
    for part in found:
        assert not different(part[f"checkpointed {name}"], part[name]["end"])


def test_shards_train_as_whole_parameters(found: Found) -> None:
    assert not different(found[0]["sharded"]["state"], found[0]["not calibrated"])
    for part in found:
        by_export, by_synchronize = part["sharded"]["refused"]
        assert by_export.startswith("UnsupportedError")
        assert "is sharded" in by_export
        assert by_synchronize.startswith("UnsupportedError")


def test_all_processes_hear_of_what_one_did_wrong(found: Found) -> None:
    for part in found:
        told = part["refusals"]
        assert "rank 1 has another model than rank 0" in told["another model"]
        assert "NaN" in told["bad data of one rank"]
        assert "nothing keeps together" in told["a SyncBatchNorm by itself"]
    assert "on rank 1" in found[0]["refusals"]["bad data of one rank"]


def test_one_process_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    model = quantized("keep")
    before = state(model)
    qfx.synchronize(model)
    assert not different(before, state(model))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(QfxError, match="no process group"):
        qfx.synchronize(model)
    with pytest.raises(QfxError, match="no process group"):
        qfx.fully_shard(model)
    with pytest.raises(QfxError, match="not a quantized model"):
        qfx.synchronize(network())


def test_a_sync_batch_norm_alone_is_a_batch_norm() -> None:
    model = qfx.quantize(nn.SyncBatchNorm.convert_sync_batchnorm(network()).eval(), X[:4], Recipe.uniform(4)).train()
    other = qfx.quantize(network(), X[:4], Recipe.uniform(4)).train()
    assert torch.equal(model(X), other(X))
    assert not different(state(model), state(other))
