"""Functions by table: the error of lines, what is refused, and what comes where a function has no value."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nn_models import check_exact
from table_forms import numbers, quantized, recipe_for
from torch import nn

import qfx
from qfx import FixedType, Recipe, Spec
from qfx.errors import DataError, ExactnessError
from qfx.fixed.arith import Interval
from qfx.nn.layers.tables import Tabled, error_bound
from qfx.nn.layers.tables.entries import evaluate, lines
from qfx.operators import Lookup, LookupLinear


def test_the_error_of_lines_is_exact_and_as_wanted() -> None:
    x = numbers(16, frac_bits=12)
    for form, most in ((torch.sigmoid, None), (torch.tanh, 1e-3), (torch.exp, 0.01)):
        q = quantized(form, x, recipe_for(16, frac_bits=12))
        (layer,) = [layer for layer in q.modules() if isinstance(layer, Tabled)]
        layer.max_error = most
        layer._known = None
        with torch.no_grad():
            q(x)
        (node,) = [node for node in qfx.to_graph(q).nodes if isinstance(node.op, LookupLinear)]
        op, to = node.op, layer.output.types()[0]  # type: ignore[union-attr]
        limits = math.ldexp(to.min_raw, -to.frac_bits), math.ldexp(to.max_raw, -to.frac_bits)
        y = np.ldexp(op.at(np.arange(1 << 16)).astype(float), -op.slopes.grid)
        f = form(x.double().reshape(-1)).numpy()
        distance = np.abs(np.clip(y, *limits) - np.clip(f, *limits)).max()
        assert distance <= error_bound(layer) <= distance * (1 + 1e-9)
        limit = most or math.ldexp(0.5, -to.frac_bits)
        assert error_bound(layer) <= limit
        # The fewest: no line comes nearer to three points at even distances than a quarter of their second difference.
        half = 1 << op.shift
        first, middle, last = (f[at : at + (1 << 16) - 2 * half + 1 : 2 * half] for at in (0, half, 2 * half - 1))
        assert (np.abs(first - 2 * middle + last)[(last < limits[1]) & (first > limits[0])] / 4).max() > 0.7 * limit


def test_what_a_number_gives_does_not_depend_on_which_others_can_come() -> None:
    for form in (torch.sin, torch.sigmoid, F.gelu, torch.exp):
        whole = evaluate(form, Interval(-5000, 4000, 9), "f")
        for low, high in ((-5000, -4999), (-1025, 7), (-3, 1021), (999, 4000)):
            part = evaluate(form, Interval(low, high, 9), "f")
            here = slice(low + 5000, high + 5001)
            assert part.values.tolist() == whole.values[here].tolist()
            assert part.slopes.tolist() == whole.slopes[here].tolist()


def test_a_bound_out_of_reach_is_refused_and_named() -> None:
    values = np.sin(np.arange(1 << 16) * 3.0)
    with pytest.raises(ExactnessError, match="4096 lines leave"):
        lines(values, FixedType(16, 2), 1e-3, "wild")
    assert lines(values, FixedType(16, 2), None, "wild").values.size == 4096


def test_an_input_of_too_many_numbers_is_refused_by_name() -> None:
    with pytest.raises(ExactnessError, match="at most 20 bits") as caught:
        quantized(nn.Sigmoid(), torch.randn(8, 2), recipe_for(24, frac_bits=20))
    assert caught.value.where == "0"
    x = torch.randn(16, 2, 3) * torch.tensor([1.0, 2.0**-20])[:, None]
    with pytest.raises(ExactnessError, match="at most 20 bits"):
        quantized(nn.Sigmoid(), x, Recipe(input=Spec(8, granularity="channel")))


def test_channels_with_binary_points_of_their_own_are_read_on_one_grid() -> None:
    x = torch.randn(64, 3, 2) * torch.tensor([1.0, 0.25, 4.0])[:, None]
    q = quantized(nn.SiLU(), x, Recipe(input=Spec(6, granularity="channel"), output=Spec(8, granularity="channel")))
    graph = check_exact(q)
    (node,) = [node for node in graph.nodes if isinstance(node.op, Lookup)]
    assert graph.infos["input"].interval.hull.frac_bits == node.op.frac_bits


# --- values that are not finite -------------------------------------------------------------------------------------------------------


def test_where_a_function_has_no_value_the_nearest_number_with_one_counts() -> None:
    x = numbers(6, frac_bits=2)
    recipe = Recipe(input=Spec(6, frac_bits=2, signed=True), output=Spec(16, frac_bits=8, signed=True))
    with torch.no_grad():
        for form, at, as_at in ((torch.reciprocal, 0.0, 0.25), (torch.log, -3.0, 0.25), (torch.sqrt, -1.0, 0.0), (torch.rsqrt, 0.0, 0.25)):
            q = quantized(form, x[1:], recipe)
            given, same = (q(torch.full((1, 2), value)) for value in (at, as_at))
            assert torch.equal(given, same)
            check_exact(q)
    with pytest.raises(DataError, match="no finite value"):
        evaluate(torch.log, Interval(-8, -1, 0), "log")


# --- functions of the user ------------------------------------------------------------------------------------------------------------


def test_what_is_no_function_of_one_number_is_refused() -> None:
    for wrong in (lambda x: torch.softmax(x, -1), lambda x: x - x.mean(), lambda x: x[..., :1], torch.sum, lambda x: "no", lambda x, y: x):
        with pytest.raises(DataError):
            qfx.lookup(wrong)
    with pytest.raises(DataError, match="max_error"):
        qfx.lookup(torch.exp, max_error=0.0)
    layer = qfx.lookup(lambda x: x * torch.sigmoid(1.7 * x), name="quick_gelu")
    assert repr(layer) == "Lookup(quick_gelu)"
    assert torch.equal(layer(torch.ones(2)), torch.ones(2) * torch.sigmoid(torch.tensor(1.7)))
