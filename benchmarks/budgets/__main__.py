"""``python -m benchmarks.budgets``: five networks with learned word lengths are brought within a budget of two boards, no parameter touched.

Each may take so much of the LUTs and of the DSP blocks that its 8-bit design takes at the same frames a second. It is trained in a plain loop, by the
defaults of ``qfx.Budget``, then brought to its budget by ``meet``, and trained on with its word lengths frozen; the design is then looked at as
``qfx hls`` does. Beside it a twin with 8 bits everywhere is trained for as many steps. Accuracy is that of test data.
Data from ``../shared/data`` (or ``$QFX_DATA``).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import qfx
from benchmarks.budgets.networks import NETWORKS, Network
from benchmarks.task_data import Data
from benchmarks.timing import machine
from qfx import QfxError, Recipe, Spec
from qfx.hardware.board import board as board_of
from qfx.hardware.design.schedule import Schedule
from qfx.hardware.folding.plan import fitting_plan
from qfx.hardware.project.project import prepare

BOARDS = ("ultra96v2", "zcu102")
WITHIN = 0.97
"""Of the budget are used where it counts as met within 3 %."""

HEADINGS = (
    "network", "board", "allowed", "before", "trained", "met", "end", "within 3 %",
    "float", "8 bits (%)", "trained (%)", "met (%)", "end (%)", "weights (bits)", "training (s)", "meeting (s)",
)  # fmt: skip


def _trained(network: Network, data: Data) -> nn.Module:
    """In float."""
    torch.manual_seed(0)
    model = network.make()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for step in range(network.floats):
        _step(model.train(), optimizer, data, step, network.batch)
    return model.eval()


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, data: Data, step: int, batch: int, budget: qfx.Budget | None = None) -> None:
    chosen = torch.randint(len(data.train_x), (batch,), generator=torch.Generator().manual_seed(step))
    optimizer.zero_grad()
    loss = F.cross_entropy(model(data.train_x[chosen]), data.train_y[chosen])
    if budget is not None:
        loss = loss + budget.loss(model)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _optimizer(qmodel: nn.Module, network: Network) -> torch.optim.Optimizer:
    return torch.optim.Adam(qfx.parameter_groups(qmodel, lr=network.lr, binary_point_lr=2e-2))


def _settled(qmodel: nn.Module, network: Network, data: Data, steps: int) -> nn.Module:
    """Trained on with binary points and word lengths as they are, ever more slowly."""
    qfx.freeze(qmodel, statistics=False)
    optimizer = _optimizer(qmodel, network)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        _step(qmodel.train(), optimizer, data, network.steps + step, network.batch)
        schedule.step()
    return qmodel.eval()


def _accuracy(model: nn.Module, data: Data) -> str:
    """Top-1 of the test data, in percent."""
    with torch.no_grad():
        right: list[Tensor] = [model.eval()(x).argmax(1) == y for x, y in zip(data.test_x.split(500), data.test_y.split(500), strict=True)]
    return f"{100 * float(torch.cat(right).float().mean()):.1f}"


def _recipe(granularity: str, learned: bool) -> Recipe:
    def spec(width: int, **fields: str) -> Spec:
        return Spec(width, learn_width=learned, **fields)  # type: ignore[arg-type]

    return Recipe(weight=spec(8, granularity=granularity), activation=spec(8), internal=spec(16))


def _twin(network: Network, model: nn.Module, data: Data, granularity: str, steps: int) -> str:
    """What 8 bits everywhere come to in as many steps."""
    twin = qfx.quantize(model, data.train_x[:64], _recipe(granularity, learned=False))
    optimizer = _optimizer(twin, network)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        _step(twin.train(), optimizer, data, step, network.batch)
        schedule.step()
    return _accuracy(_settled(twin, network, data, steps // 2), data)


def brought(network: Network, model: nn.Module, data: Data, board: str, granularity: str, steps: int, share: float) -> list[str]:
    """The middle of a row of the table, from "allowed" on. ``share``: how much is allowed of what the 8-bit design takes."""
    qmodel = qfx.quantize(model, data.train_x[:64], _recipe(granularity, learned=True))
    taken = qfx.cost(qmodel, board, fps=network.fps).resources
    lut, dsp = (max(int(share * taken[name].item()), 1) for name in ("lut", "dsp"))
    budget = qfx.Budget(board=board, fps=network.fps, lut=lut, dsp=dsp)
    before = budget.measure(qmodel)
    optimizer = _optimizer(qmodel, network)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    start = time.perf_counter()
    for step in range(steps):
        _step(qmodel.train(), optimizer, data, step, network.batch, budget)
        schedule.step()
    judged, trained, middle = [_accuracy(qmodel, data)], budget.measure(qmodel), time.perf_counter()
    met, end = budget.meet(qmodel), time.perf_counter()
    judged.append(_accuracy(qmodel, data))
    _settled(qmodel, network, data, steps // 2)
    last = budget.meet(qmodel)  # other weights are other numbers of zeros, and adders of other widths
    judged.append(_accuracy(qmodel, data))
    _refuse_unfit(qmodel, budget, board)
    found = qfx.cost(qmodel)
    return [
        f"{lut} LUT, {dsp} DSP",
        *(f"{100 * status.share:.1f} %" for status in (before, trained, met, last)),
        "yes" if WITHIN <= last.share <= 1.0 else "no",
        *judged,
        f"{found.weight_bits.item() / found.weights:.2f}",
        f"{middle - start:.0f}",
        f"{end - middle:.0f}",
    ]


def _refuse_unfit(qmodel: nn.Module, budget: qfx.Budget, board: str) -> None:
    """Raises ProjectError where ``qfx hls`` would not take the design."""
    schedule = budget.plan(qmodel).schedule  # type: ignore[union-attr]
    assert isinstance(schedule, Schedule)
    on = board_of(board)
    fitting_plan(prepare(qfx.to_graph(qmodel.eval())), on, schedule, clock_ns=on.clock_ns)


def main(arguments: Sequence[str] | None = None) -> None:
    """The table, line by line as it comes, and as a whole."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.budgets", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--networks", default=",".join(network.name for network in NETWORKS), help="separated by commas (default: all)")
    parser.add_argument("--boards", default=",".join(BOARDS), help=f"separated by commas (default: {','.join(BOARDS)})")
    parser.add_argument("--steps", type=int, help="of training with learned word lengths, and half as many behind them (default: the network's)")
    parser.add_argument("--share", type=float, help="of what the 8-bit design takes is allowed (default: the network's, 0.8 or 0.9)")
    parser.add_argument("--granularity", default="channel", help="of the weights' word lengths (default: channel)")
    options = parser.parse_args(arguments)
    console = Console(width=220)
    console.print(machine(), highlight=False)
    table = Table(title="Budgets of boards", title_justify="left")
    for heading in HEADINGS:
        table.add_column(heading)
    for network in NETWORKS:
        if network.name not in options.networks.split(","):
            continue
        steps, share = options.steps or network.steps, options.share or network.share
        data = network.data()
        model = _trained(network, data)
        judged = [_accuracy(model, data), _twin(network, model, data, options.granularity, steps)]
        for board in options.boards.split(","):
            try:
                row = brought(network, model, data, board, options.granularity, steps, share)
            except QfxError as error:  # no word length would meet it, or a layer came to nothing
                row = [error.what]
            row = [network.name, board, *row[:6], *judged, *row[6:]]
            console.print("  ".join(row), highlight=False)
            table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    main()
