"""What each process of tests/distributed/test_synchronize.py runs under torchrun: trains, and writes what it has into the folder that it is given."""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import qfx
from qfx import QfxError, Recipe, Spec

X = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(1))
Y = torch.arange(24) % 4
STEPS, HALF = 4, 2


class Block(nn.Module):
    """A residual block, so that a statistic meets another's channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm(self.conv(x)))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), Block(), nn.Flatten(), nn.Linear(144, 4))


_WRAPPING = Recipe.uniform(8)
RECIPES: dict[str, Recipe] = {
    "keep": Recipe.uniform(4),
    "fold": Recipe.uniform(6, batch_norm="fold"),
    "channels": Recipe(weight=Spec(5, granularity="channel"), activation=Spec(6, observer="percentile"), input=Spec(6, observer="minmax")),
    "wrapping": Recipe(
        weight=Spec(6, granularity="channel", learn_width=True), activation=Spec(8, o=qfx.OMode.WRAP, learn_width=True), input=Spec(6, observer="kl")
    ),
}


def quantized(name: str) -> nn.Module:
    return qfx.quantize(network(), X[:4], RECIPES[name])


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, steps: range, call: Callable[[Tensor], Tensor] | None = None
) -> None:
    model.train()
    for step in steps:
        optimizer.zero_grad()
        F.cross_entropy((call or model)(x + 0.125 * step), y).backward()
        optimizer.step()


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _refused(call: Callable[[], object]) -> str:
    try:
        call()
    except QfxError as error:
        return f"{type(error).__name__}: {error.what}"
    return ""


def _refusals(rank: int, own: Tensor) -> dict[str, str]:
    example = X[:4].abs() if rank else X[:4]
    other = qfx.quantize(network(), example, RECIPES["keep"])
    model = quantized("keep")
    qfx.synchronize(model)
    bad = own.clone()
    if rank:
        bad[0, 0, 0, 0] = torch.nan
    unsynchronized = qfx.quantize(nn.SyncBatchNorm.convert_sync_batchnorm(network()).eval(), X[:4], RECIPES["keep"]).train()
    return {
        "another model": _refused(lambda: qfx.synchronize(other)),
        "bad data of one rank": _refused(lambda: qfx.calibrate(model, bad)),
        "a SyncBatchNorm by itself": _refused(lambda: unsynchronized(own)),
    }


def _sharded(own: Tensor, targets: Tensor) -> dict[str, Any]:
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh

    model = quantized("keep")
    qfx.fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    train(model, optimizer_of(model), own, targets, range(STEPS))
    whole = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    refused = [_refused(lambda: qfx.to_graph(model)), _refused(lambda: qfx.synchronize(model))]
    return {"state": whole if dist.get_rank() == 0 else None, "refused": refused}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    own, targets = X[rank::world], Y[rank::world]
    found: dict[str, Any] = {}
    for name in RECIPES:
        model = quantized(name)
        qfx.synchronize(model)
        parts: Sequence[Tensor] = own.split(3) if rank else own.split(5)  # not as many batches
        qfx.calibrate(model, parts)
        calibrated = state(model)
        together = nn.parallel.DistributedDataParallel(model)
        optimizer = optimizer_of(together)
        train(together, optimizer, own, targets, range(HALF))
        half = copy.deepcopy({"model": state(model), "optimizer": optimizer.state_dict()})
        train(together, optimizer, own, targets, range(HALF, STEPS))
        found[name] = {"calibrated": calibrated, "half": half, "end": state(model)}
    model = quantized("keep")
    model.load_state_dict(found["keep"]["half"]["model"])
    qfx.synchronize(model)
    together = nn.parallel.DistributedDataParallel(model)
    optimizer = optimizer_of(together)
    optimizer.load_state_dict(found["keep"]["half"]["optimizer"])
    train(together, optimizer, own, targets, range(HALF, STEPS))
    found["resumed"] = state(model)
    for name in ("keep", "fold"):  # the forward computed again in the backward pass asks nobody
        model = quantized(name)
        qfx.synchronize(model)
        qfx.calibrate(model, own)
        together = nn.parallel.DistributedDataParallel(model)
        train(together, optimizer_of(together), own, targets, range(STEPS), lambda x, m=together: checkpoint(m, x, use_reentrant=False))
        found[f"checkpointed {name}"] = state(model)
    plain = quantized("keep")
    qfx.synchronize(plain)
    together = nn.parallel.DistributedDataParallel(plain)
    train(together, optimizer_of(together), own, targets, range(STEPS))
    found["not calibrated"] = state(plain)
    found["sharded"] = _sharded(own, targets)
    found["refusals"] = _refusals(rank, own)
    torch.save(found, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
