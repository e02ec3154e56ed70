"""Truth tables are the neurons, multiplexers are the truth tables, a netlist is run as it stands; an error in any of them is seen."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.lookup_neurons import __main__ as command
from benchmarks.lookup_neurons import tables
from benchmarks.lookup_neurons.network import LookupNet, Shape, spread_out, train, uniform
from benchmarks.task_data import Data

SHAPES = [
    uniform((6, 8, 4, 3), 2, 3, first=4),
    uniform((6, 8, 4, 3), 3, 2, degree=2),
    uniform((6, 8, 6, 3), 6, 1, learned=False),
    Shape((6, 5, 3), (4, 5), (2, 1), results=4),
]


def made_up() -> Data:
    torch.manual_seed(0)
    x = torch.randn(160, 6)
    y = x[:, :3].argmax(1)
    return Data(x[:96], y[:96], x[96:], y[96:])


def trained(shape: Shape) -> LookupNet:
    return train(shape, made_up(), 4, 16)


@pytest.mark.parametrize("shape", SHAPES)
def test_tables_are_the_network_and_a_wrong_bit_is_seen(shape: Shape) -> None:
    model, data = trained(shape), made_up()
    layers = tables.tables(model)
    for x in (data.test_x, data.test_x[:1], data.train_x):
        assert np.array_equal(tables.run(layers, tables.inputs_of(model, x)), tables.results_of(model, x))
    x = tables.inputs_of(model, data.test_x)
    wrong = tables.run(command.planted(layers, x), x) != tables.results_of(model, data.test_x)
    assert wrong[0, 0]
    assert not wrong[:, 1:].any()


@pytest.mark.parametrize("shape", SHAPES)
def test_each_neuron_reads_so_many_inputs(shape: Shape) -> None:
    for layer, (reads, bits) in zip(tables.tables(trained(shape)), zip(shape.reads, shape.bits, strict=True), strict=True):
        assert layer.table.shape == (len(layer.places), 1 << (layer.places.shape[1] * bits))
        assert layer.places.shape[1] == reads
        assert all(len(set(row)) == len(row) for row in layer.places.tolist())


def test_neurons_that_nothing_reads_are_left_out() -> None:
    model = trained(SHAPES[0])
    last, before = model.neurons[-1], tables.tables(model)[-2]
    assert last.places is not None
    assert len(before.table) == len(set(last.places.flatten().tolist())) <= 4


def test_chance_reads_each_input_as_often() -> None:
    torch.manual_seed(0)
    counts = torch.bincount(spread_out(8, 6, 3).flatten())
    assert counts.tolist() == [4] * 6


def test_bounds_of_luts_are_those_of_logicnets() -> None:
    assert [tables.bound(n) for n in (3, 6, 7, 8, 9, 12)] == [1, 1, 3, 5, 11, 85]


def test_multiplexers_are_their_table_in_any_order() -> None:
    generator = np.random.default_rng(0)
    table = generator.integers(0, 8, 64)
    for order in ([0, 1, 2, 3, 4, 5], [3, 0, 5, 1, 4, 2]):
        assert np.array_equal(asked(tables.muxes(table, 3, order), 6), table)
    address = np.arange(64)
    threshold = (10 * (address & 3) - 3 * (address >> 2 & 3) + (address >> 4) > 4).astype(np.int64)
    small = tables.small_muxes(threshold, 1, 6)
    assert np.array_equal(asked(small, 6), threshold)
    assert len(small) <= len(tables.muxes(threshold, 1, range(6)))


def test_a_constant_table_has_no_multiplexers() -> None:
    made = tables.muxes(np.full(16, 2), 2, range(4))
    assert len(made) == 0
    assert made.roots.tolist() == [0, 1]


def asked(made: tables.Muxes, n: int) -> tables.Ints:
    address = np.arange(1 << n)
    nodes = [np.zeros(len(address), np.int64), np.ones(len(address), np.int64)]
    for variable, low, high in zip(made.variable, made.low, made.high, strict=True):
        nodes.append(np.where((address >> variable) & 1, nodes[high], nodes[low]))
    return np.sum([nodes[root] << place for place, root in enumerate(made.roots)], axis=0)


def test_a_netlist_is_run_as_it_stands() -> None:
    """y = (a and b) + 2 (a xor b), of two inputs of one bit; the cells in any order."""
    both = {"type": "$lut", "parameters": {"LUT": "1000"}, "connections": {"A": [2, 3], "Y": [4]}}
    inverse = {"type": "$lut", "parameters": {"LUT": "01"}, "connections": {"A": [5], "Y": [6]}}
    equal = {"type": "$lut", "parameters": {"LUT": "1001"}, "connections": {"A": [2, 3], "Y": [5]}}
    module = {"ports": {"x": {"bits": [2, 3]}, "y": {"bits": [4, 6]}}, "cells": {"c": inverse, "a": both, "b": equal}}
    layers = [tables.Layer(np.array([[0, 1]]), 1, 2, np.array([[0, 2, 2, 1]]))]
    x = np.array([[0, 0], [1, 0], [0, 1], [1, 1]])
    assert np.array_equal(tables.run_netlist(module, x, layers), layers[0].run(x))
    assert (tables.run_netlist(command.inverted(module), x, layers) != layers[0].run(x)).all()


def test_verilog_has_a_wire_for_each_multiplexer() -> None:
    layers = tables.tables(trained(SHAPES[3]))
    source = tables.verilog(layers, 6)
    assert source.startswith("module top(input [11:0] x, output [11:0] y);\n")
    assert source.count("?") == sum(len(tables.small_muxes(row, layer.width, layer.address_bits)) for layer in layers for row in layer.table)
    assert source.count("assign y[") == 12


def test_the_cheapest_adder_graph_that_is_as_accurate() -> None:
    graphs = [command.Graph((4, 2), 80.0, 100, 70), command.Graph((4, 2), 90.0, 90, None), command.Graph((4, 2), 70.0, 10, 5)]
    assert command.cheapest(graphs, 80.0) is graphs[0]
    assert command.cheapest(graphs, 85.0) is graphs[1]
    assert command.cheapest(graphs, 95.0) is None
