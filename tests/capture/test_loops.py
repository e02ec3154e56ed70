"""Loops of Python over a recurrent cell: which of them are one layer, and that it is what the model computes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from loop_models import FORMS, HIDDEN, KINDS, NONE, TWO, Network, along, data, goes_on, over
from torch import Tensor, fx, nn

import qfx
from qfx import UnsupportedError
from qfx.capture.trace import trace
from qfx.nn.layers.sequences.recurrent import recurrent

X = data(8)


def loops(graph: fx.Graph) -> int:
    return sum(node.target is recurrent for node in graph.nodes)


def products(graph: fx.Graph) -> int:
    return sum(node.target is F.linear for node in graph.nodes)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_loop_is_one_layer(kind: str, form: str) -> None:
    m = Network(kind, FORMS[form])
    traced = trace(m, X)  # refuses a graph that computes something else
    assert (loops(traced.module.graph), products(traced.module.graph)) == (1, 0)
    expected, found = m(X), traced.module(X)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("form", TWO)
@pytest.mark.parametrize("kind", KINDS)
def test_two_loops(kind: str, form: str) -> None:
    m = Network(kind, TWO[form])
    traced = trace(m, X)
    assert (loops(traced.module.graph), products(traced.module.graph)) == (2, 0)
    assert torch.allclose(traced.module(X), m(X), atol=1e-5)


@pytest.mark.parametrize("form", NONE)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_loop_stays_as_it_is(kind: str, form: str) -> None:
    m = Network(kind, NONE[form])
    traced = trace(m, X)
    assert loops(traced.module.graph) == 0 < products(traced.module.graph)
    assert torch.allclose(traced.module(X), m(X), atol=1e-5)


def names(graph: fx.Graph) -> list[str]:
    return [str(getattr(node.target, "__name__", node.target)) for node in graph.nodes if node.op.startswith("call") and node.op != "call_module"]


@pytest.mark.parametrize("form", ["stacked", "stacked in front", "joined", "joined by an index", "unbound", "steps first", "heads", "two layers"])
def test_no_step_is_left_of_a_whole_sequence(form: str) -> None:
    graph = trace(Network("gru", {**FORMS, **TWO}[form]), X).module.graph
    assert not {"getitem", "stack", "cat", "select"} & set(names(graph))


@pytest.mark.parametrize("form", ["beside the same", "rows of pictures"])
def test_what_every_step_reads_is_made_once(form: str) -> None:
    found = names(trace(Network("gru", FORMS[form]), X).module.graph)
    assert "stack" not in found
    assert (found.count("cat"), found.count("flatten")) == ((1, 0) if form == "beside the same" else (0, 1))


def test_layers_of_single_steps_are_layers_of_the_sequence() -> None:
    modules = [str(node.target) for node in trace(Network("gru", FORMS["heads"]), X).module.graph.nodes if node.op == "call_module"]
    assert modules == ["enter", "fc"]


def tokens(m: Network, x: Tensor) -> Tensor:
    found: Tensor = m.fc(over(m, [m.table(x[:, t]) for t in range(x.shape[1])])[-1])
    return found


def test_rows_of_a_table_at_every_step() -> None:
    m, x = Network("gru", tokens), torch.randint(0, 10, (8, 5), generator=torch.Generator().manual_seed(0))
    m.table = nn.Embedding(10, 4)
    assert loops(trace(m.eval(), x).module.graph) == 1


def test_a_head_that_is_read_in_the_last_step_only_is_called_once() -> None:
    m = Network("gru", lambda m, x: [m.fc(h) for h in along(m, x)][-1])
    assert sum(node.op == "call_module" for node in trace(m, X).module.graph.nodes) == 1


def test_steps_that_other_layers_read_before_the_loop_ends() -> None:
    """What reads a step stands behind the loop then."""

    def forward(m: Network, x: Tensor) -> Tensor:
        state, total = None, torch.zeros(1, 3)
        for t in range(x.shape[1]):
            state = m.cell(x[:, t], state)
            total = total + m.fc(state)
        return total

    graph = trace(Network("relu", forward), X).module.graph
    graph.lint()
    assert loops(graph) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_that_goes_on_with_what_it_gives(kind: str) -> None:
    graph = trace(Network(kind, goes_on), X).module.graph
    assert (loops(graph), products(graph)) == (1, 2)  # the one step of two that is read


def test_a_first_state_that_is_another_for_each_sample_is_refused() -> None:
    m = Network("gru", lambda m, x: m.cell(x[:, 0], torch.arange(1.0, 1.0 + x.shape[0]).unsqueeze(1).expand(-1, HIDDEN)))
    with pytest.raises(UnsupportedError, match="another for each sample"):
        qfx.quantize(m, X)
