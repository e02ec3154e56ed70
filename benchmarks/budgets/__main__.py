"""``python -m benchmarks.budgets``: five networks with learned word lengths are brought within a budget of two boards, no parameter touched.

Each may take so much of the LUTs and of the DSP blocks that its 8-bit design takes at the same frames a second. It is trained in a plain loop, by the
defaults of ``qfx.Budget``, and then brought to its budget by ``meet``; the design that ``qfx hls`` makes of it is looked at on the true board.
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
from benchmarks.timing import machine
from qfx import Recipe, RecipeError, Spec

BOARDS = ("ultra96v2", "zcu102")
WITHIN = 0.97
"""Of the budget are used where it counts as met within 3 %."""

HEADINGS = ("network", "board", "allowed", "before", "trained", "met", "within 3 %", "float", "8 bits", "met (%)", "training (s)", "meeting (s)")


def _trained(network: Network, x: Tensor, y: Tensor) -> nn.Module:
    """In float."""
    torch.manual_seed(0)
    model = network.make()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for step in range(network.floats):
        _step(model.train(), optimizer, x, y, step, network.batch)
    return model.eval()


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, step: int, batch: int, budget: qfx.Budget | None = None) -> None:
    chosen = torch.randint(len(x), (batch,), generator=torch.Generator().manual_seed(step))
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x[chosen]), y[chosen])
    if budget is not None:
        loss = loss + budget.loss(model)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _accuracy(model: nn.Module, x: Tensor, y: Tensor) -> str:
    """Top-1 in percent, on what it was trained with: to see that it is alive."""
    with torch.no_grad():
        return f"{100 * float((model.eval()(x[:1000]).argmax(1) == y[:1000]).float().mean()):.1f}"


def brought(network: Network, model: nn.Module, x: Tensor, y: Tensor, board: str, granularity: str, steps: int, share: float) -> list[str]:
    """A row of the table. ``share``: how much is allowed of what the 8-bit design takes."""
    spec = Spec(8, learn_width=True)
    recipe = Recipe(weight=Spec(8, granularity=granularity, learn_width=True), activation=spec)  # type: ignore[arg-type]
    qmodel = qfx.quantize(model, x[:64], recipe)
    judged = [_accuracy(model, x, y), _accuracy(qmodel, x, y)]
    taken = qfx.cost(qmodel, board, fps=network.fps).resources
    lut, dsp = (max(int(share * taken[name].item()), 1) for name in ("lut", "dsp"))
    budget = qfx.Budget(board=board, fps=network.fps, lut=lut, dsp=dsp)
    before = budget.measure(qmodel)
    optimizer = torch.optim.Adam(qfx.parameter_groups(qmodel, lr=5e-4, binary_point_lr=2e-2))
    start = time.perf_counter()
    for step in range(steps):
        _step(qmodel.train(), optimizer, x, y, step, network.batch, budget)
    trained, middle = budget.measure(qmodel), time.perf_counter()
    met, end = budget.meet(qmodel), time.perf_counter()
    qfx.cost(qmodel, board, fps=network.fps)  # raises where it does not fit
    within = "yes" if WITHIN <= met.share <= 1.0 else "no"
    shares = [f"{100 * status.share:.1f} %" for status in (before, trained, met)]
    return [
        network.name,
        board,
        f"{lut} LUT, {dsp} DSP",
        *shares,
        within,
        *judged,
        _accuracy(qmodel, x, y),
        f"{middle - start:.0f}",
        f"{end - middle:.0f}",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """The table, line by line as it comes, and as a whole."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.budgets", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--networks", default=",".join(network.name for network in NETWORKS), help="separated by commas (default: all)")
    parser.add_argument("--boards", default=",".join(BOARDS), help=f"separated by commas (default: {','.join(BOARDS)})")
    parser.add_argument("--steps", type=int, default=300, help="of training with learned word lengths (default: 300)")
    parser.add_argument("--share", type=float, default=0.8, help="of what the 8-bit design takes is allowed (default: 0.8)")
    parser.add_argument("--granularity", default="channel", help="of the weights' word lengths (default: channel)")
    options = parser.parse_args(arguments)
    console = Console(width=180)
    console.print(machine(), highlight=False)
    table = Table(title=f"{100 * options.share:.0f} % of the 8-bit design, {options.steps} steps", title_justify="left")
    for heading in HEADINGS:
        table.add_column(heading)
    for network in NETWORKS:
        if network.name not in options.networks.split(","):
            continue
        x, y = network.data()
        model = _trained(network, x, y)
        for board in options.boards.split(","):
            try:
                row = brought(network, model, x, y, board, options.granularity, options.steps, options.share)
            except RecipeError as error:  # no word length would meet it
                row = [network.name, board, error.what]
            console.print("  ".join(row), highlight=False)
            table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    main()
