"""Recurrent networks in C++: both builds of the simulation give the raws of torch and the interpreter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nn_models import Calls
from support.bundles import build_bundle
from torch import nn

import qfx
from qfx.hardware.design.schedule import Schedule
from qfx.ir.interpret import quantize_input, run_from_raw
from qfx.ir.passes.pipeline import optimize
from qfx.testing import adversarial_inputs, assert_bit_exact
from qfx.verify import raw_of

X = torch.randn(24, 5, 4, generator=torch.Generator().manual_seed(0))


def last(m: Any, x: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = m.fc(m.rnn(x)[0][:, -1])
    return found


class Kept(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(1, 1, 6))


def begun(m: Any, x: torch.Tensor) -> torch.Tensor:
    """From states that an encoder gives, or that are kept."""
    state = m.encoder(x[:, :2])[1] if hasattr(m, "encoder") else m.kept.first.expand(-1, len(x), -1)
    found: torch.Tensor = m.fc(m.rnn(x, state)[0][:, -1])
    return found


def models() -> dict[str, tuple[nn.Module, qfx.Recipe]]:
    torch.manual_seed(0)
    first = {"batch_first": True}
    whole, short = qfx.Recipe(), qfx.Recipe.uniform(5, internal=qfx.Spec(9))
    return {
        "lstm": (Calls(last, rnn=nn.LSTM(4, 6, **first), fc=nn.Linear(6, 3)), whole),
        "gru": (Calls(last, rnn=nn.GRU(4, 6, **first), fc=nn.Linear(6, 3)), short),
        "tanh": (Calls(last, rnn=nn.RNN(4, 6, bias=False, **first), fc=nn.Linear(6, 3)), whole),
        "relu": (Calls(lambda m, x: m.rnn(x)[0], rnn=nn.RNN(4, 6, nonlinearity="relu", **first)), short),
        "two layers both ways": (Calls(last, rnn=nn.LSTM(4, 3, 2, bidirectional=True, **first), fc=nn.Linear(6, 3)), short),
        "the last cell": (Calls(lambda m, x: m.rnn(x)[1][1][-1], rnn=nn.LSTM(4, 6, **first)), whole),
        "from an encoder's states": (
            Calls(begun, encoder=nn.LSTM(4, 6, **first), rnn=nn.LSTM(4, 6, **first), fc=nn.Linear(6, 3)),
            short,
        ),
        "from a kept state": (Calls(begun, rnn=nn.GRU(4, 6, **first), fc=nn.Linear(6, 3), kept=Kept()), whole),
        "from a kept state, tanh": (Calls(begun, rnn=nn.RNN(4, 6, **first), fc=nn.Linear(6, 3), kept=Kept()), short),
        "behind a convolution": (
            Calls(
                lambda m, x: last(m, m.conv(x.transpose(1, 2)).transpose(1, 2)),
                conv=nn.Conv1d(4, 5, 3),
                rnn=nn.GRU(5, 6, **first),
                fc=nn.Linear(6, 2),
            ),
            whole,
        ),
    }


@pytest.mark.usefixtures("gxx")
def test_the_simulations_compute_the_raws(fast: bool, tmp_path: Path) -> None:
    found = [qfx.quantize(model.eval(), X, recipe).eval() for model, recipe in models().values()]
    graphs = [qfx.to_graph(q) for q in found]
    bundle = build_bundle([(optimize(graph), Schedule()) for graph in graphs], tmp_path, fast=fast)
    for place, (q, graph) in enumerate(zip(found, graphs, strict=True)):
        x = adversarial_inputs(graph, np.random.default_rng(place), 5)
        raw = bundle.run_from_raw(place, quantize_input(graph, x))
        assert_bit_exact(raw, run_from_raw(graph, quantize_input(graph, x)), names=("C simulation", "interpreter"))
        with torch.no_grad():
            assert_bit_exact(raw, raw_of(q(torch.from_numpy(x)).numpy(), graph, "torch"), names=("C simulation", "torch"))
