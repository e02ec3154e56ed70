"""``qfx.integers_of``: fake-quantized networks of torch with any scales and zero points as graphs of their stored integers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from qfx.capture.tail import without_tail
from qfx.capture.trace import trace
from qfx.capture.traced import Traced
from qfx.errors import UnsupportedError, together
from qfx.exchange import brevitas
from qfx.exchange.affine import Affine, AffineCast
from qfx.exchange.build import require_all_casts, surround
from qfx.exchange.integers.kinds import KINDS, MOVES, name_of
from qfx.exchange.integers.network import Network
from qfx.exchange.integers.values import Sums, View
from qfx.exchange.torch_ao.door import Model, checked_example, read
from qfx.exchange.torch_ao.source import source_of
from qfx.integers.keys import DIFFERING_KEY, QUANTIZATION_KEY
from qfx.integers.steps import Ints
from qfx.ir.graph import LEFT_OUT_KEY, OUTPUTS_KEY, Graph, graph_name

Constants = Mapping[str, tuple[Tensor, Affine]]
"""Weights and biases by the names of their quantizers: what the source makes of them, and how."""


def integers_of(model: Model, example_input: Tensor, *, nearest: bool = False) -> Graph:
    """A fake-quantized model with any scales and zero points as a graph whose inputs and outputs are its stored integers, the batch left out.

    ``model``: as ``qfx.from_torchao`` takes it (PT2E, ``torch.ao.quantization``, exported programs and their files), or of ``brevitas.nn``'s layers
    with integer quantizers. ``example_input``: a float32 batch. What stands between quantizers is found as the source computes it: functions of one
    number, and sums of two, in its own float32 for every integer that can come; sums of products in exact arithmetic, rounded to the nearest integer.

    With scales that are powers of two float32 is exact. With others the source's float32 sums depend on the order of additions, in their last bits:
    ``nearest`` accepts the integers of exact arithmetic, and the metadata (``quantized.differing``) tells at how many sums of each quantizer, at
    most, the source's can be another one, beside it. Without it such a model is refused.

    A last layer that nothing quantizes gives its integer sums; the metadata (``quantized``) has their scales and offsets.

    Raises UnsupportedError, listing all of them, for what has no integer form; ExactnessError where float32 decides; and as ``qfx.from_torchao``.
    """
    name = type(model).__name__ if isinstance(model, nn.Module) else "model"
    if isinstance(model, nn.Module) and any(type(part).__module__.startswith("brevitas.nn") for part in model.modules()):
        source, inputs, seen = brevitas.observed(model, example_input)
        reader = brevitas.Reader(source, seen, nearest=False, affine=True)
        explicit = reader.read()
        traced = trace(explicit.module, inputs)
        require_all_casts(explicit.module, traced)
        traced = without_tail(traced)
        for path, (before, behind) in explicit.around.items():
            surround(traced, path, before, behind)
        return _graph(traced, _whole(reader.whole), name, nearest)
    example = checked_example(example_input)
    module, constants = read(source_of(model, example), example, AffineCast)
    return _graph(without_tail(trace(module, example)), _whole({key: (one.numbers, one.affine) for key, one in constants.items()}), name, nearest)


def graph_of(traced: Traced, constants: Constants, name: str, *, nearest: bool) -> Graph:
    """The graph of a network with ``AffineCast`` where its source quantizes, as ``integers_of`` describes it."""
    return _graph(traced, _whole(constants), name, nearest)


def _whole(constants: Constants) -> dict[str, tuple[Ints, tuple[float, ...]]]:
    """Integers less zero points, outputs first, and scales."""
    found = {}
    for name, (numbers, affine) in constants.items():
        if name.endswith(".weight") and affine.axis not in (None, 0):
            remedy = "give one scale for the tensor, or one for each output"
            raise UnsupportedError(f"has scales along axis {affine.axis}", where=name, remedy=remedy)
        scale = torch.tensor(affine.scales, dtype=torch.float64).reshape(-1, *(1,) * (numbers.dim() - 1))
        raws = (numbers.double() / scale).round()
        if not torch.equal((raws * scale).float(), numbers.float()):
            raise UnsupportedError(
                "is not what its scale and integers give", where=name, remedy="please report this defect, with the quantizer's class"
            )
        found[name] = raws.numpy().astype(np.int64), affine.scales
    return found


def _graph(traced: Traced, constants: dict[str, tuple[Ints, tuple[float, ...]]], name: str, nearest: bool) -> Graph:
    network, told = Network(traced, constants, nearest=nearest), list[str]()
    nodes = list(traced.module.graph.nodes)
    (last,) = (node for node in nodes if node.op == "output")
    results = last.all_input_nodes
    refused: list[UnsupportedError] = []
    needed = _needed(results)
    for node in nodes:
        if node not in needed or node not in traced.shapes or node in network.values:
            continue
        if any(source in traced.shapes and source not in network.values for source in node.all_input_nodes):
            continue  # behind what was refused
        try:
            _read(network, node, told)
        except UnsupportedError as error:
            refused.append(error)
    if refused:
        raise together(refused, where=name)
    held = tuple(_held(network, node, told) for node in results)
    if len(set(held)) < len(held) or not held:
        raise UnsupportedError("an output is twice an output", where=name, remedy="return each result once")
    metadata = {QUANTIZATION_KEY: "\n".join(told)}
    if network.doubtful:
        lines = (f"{where}: up to {count} of {total} sums" for where, (count, total) in network.doubtful.items())
        metadata[DIFFERING_KEY] = "\n".join(lines)
    if len(held) > 1:
        metadata[OUTPUTS_KEY] = "\n".join(graph_name(node.name) for node in results)
    if traced.left_out:
        metadata[LEFT_OUT_KEY] = "\n".join(traced.left_out)
    return Graph(graph_name(name), tuple(network.nodes), held, metadata)


def _needed(results: list[fx.Node]) -> set[fx.Node]:
    found, waiting = set[fx.Node](), list(results)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += node.all_input_nodes
    return found


def _read(network: Network, node: fx.Node, told: list[str]) -> None:
    if node.op == "placeholder":
        casts, others = _first_casts(network, node)
        if others or len({cast.affine for cast in casts}) != 1:
            what = f"is read by {', '.join(network.where(other) for other in others) or f'{len(casts)} quantizers of several kinds'}"
            raise UnsupportedError(what, where=node.name, remedy="quantize it first of all, and once")
        network.given(node, casts[0])
        told.append(f"input {node.name}: scale {casts[0].affine.scales[0]!r}, zero point {casts[0].affine.zeros[0]}")
        return
    module = _module(network, node)
    if isinstance(module, AffineCast):
        network.cast(node, node.all_input_nodes[0], module)
        return
    handler = KINDS.get(name_of(network, node))
    if handler is None:
        what = f"{name_of(network, node)} has no integer form"
        raise network.refuse(node, what, f"qfx reads {', '.join(sorted(KINDS))}")
    handler(network, node)


def _first_casts(network: Network, node: fx.Node) -> tuple[list[AffineCast], list[fx.Node]]:
    """The quantizers that an input comes to first, moved perhaps, and what reads it else."""
    casts, others = list[AffineCast](), list[fx.Node]()
    for user in network.traced.tensor_users(node):
        module = _module(network, user)
        if isinstance(module, AffineCast):
            casts.append(module)
        elif user.op != "output" and KINDS.get(name_of(network, user)) in MOVES:
            more, rest = _first_casts(network, user)
            casts, others = casts + more, others + rest
        elif user.op != "output" and name_of(network, user).lower() in ("relu", "relu_"):
            more, rest = _first_casts(network, user)
            unsigned = not rest and all(cast.affine.low >= max(cast.affine.zeros) for cast in more)
            casts += more if unsigned else []  # which makes 0 of what is below 0, as the ReLU does
            others += [] if unsigned else [user]
        else:
            others.append(user)
    return casts, others


def _module(network: Network, node: fx.Node) -> Any:
    return network.traced.module.get_submodule(str(node.target)) if node.op == "call_module" else None


def _held(network: Network, node: fx.Node, told: list[str]) -> str:
    """The node that holds an output, told what it stands for."""
    value, name = network.values[node], graph_name(node.name)
    if isinstance(value, View):
        if value.cast is not None:
            told.append(f"output {name}: scale {value.cast.affine.scales[0]!r}, zero point {value.cast.affine.zeros[0]}")
        else:
            told.append(f"output {name}: floats, {value.floats[0]!s} for the least integer to {value.floats[-1]!s} for the greatest")
        return value.node
    if isinstance(value, Sums) and not value.moves and value.clamp == (None, None):
        held = value.in_graph(network.name(f"{network.where(node)}.sum"), np.ones(len(value.factors), dtype=np.int64))
        scales, offsets = (" ".join(f"{float(part):.9g}" for part in parts) for parts in (value.factors, value.offsets))
        told.append(f"output {name}: sums, times {scales}, plus {offsets}")
        return held
    raise UnsupportedError("gives floats that nothing quantizes", where=network.where(node), remedy="quantize the result")
