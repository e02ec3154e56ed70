"""The recurrent cells as bodies of a loop: which layers, which casts, in which order. This is the one place that says how they compute.

W x + b, the product of the sequence, is computed for all steps at once before the loop, and enters it exact, without a cast; U h + v is the layer
``hidden``. Gates are in torch's order. ``[name]`` is a Cast of that name below the operation's path (``lstm.l0.gates``), or a table, whose result
that Cast gives; in brackets behind it the role whose Spec it takes. All between two of them is exact.

======  ================================================================================================================================
LSTM    a = [gates](W x + b + U h + v) (activation), cut into a_i, a_f, a_g, a_o; i, f, o = [sigmoid](a) (internal), one Cast for the three;
        g = [tanh](a_g) (internal); c' = [cell](f * c + i * g) (internal); h' = [state](o * [tanh_cell](c')) (activation; internal).
        With a projection P (``proj_size``): h' = [state](P [unprojected](o * [tanh_cell](c'))) (internal before the product).
GRU     u = U h + v; r, z = [sigmoid]([gates](W x + b + u)) (internal; activation) of their parts; q = [new](u_n) (internal);
        n = [tanh]([candidate](W_n x + b_n + r * q)) (internal; activation); h' = [state](n + z * (h - n)) (activation).
RNN     tanh: h' = [state]([gates](W x + b + U h + v)) (activation; activation); relu: h' = [state](max(W x + b + U h + v, 0)) (activation).
======  ================================================================================================================================

A first state that is no zeros comes as further numbers of the first step, which the others have zeros in place of: h is [state](h + first) then
wherever a step reads it, and so is c by [cell]: what is carried on is of that type already.

Every Cast has one binary point for all units: units that lie side by side are read by one table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from qfx.nn.call import Call
from qfx.nn.fixed_layer import FixedLayer
from qfx.nn.layers.arithmetic import QAdd, QMul, QSub
from qfx.nn.layers.concat import QConcat
from qfx.nn.layers.products.weights import Weights
from qfx.nn.layers.relu import QReLU
from qfx.nn.layers.sequences.loop import STEP, QScan, QStepLinear, State, Step
from qfx.nn.layers.slice import QSlice
from qfx.nn.layers.tables import table
from qfx.nn.quantizer import Quantizer

HIDDEN, CELL = "h", "c"
"""The states, as the loop's body calls them."""

OUTPUT = "output_cast"
"""What a table calls its Cast."""


@dataclass
class _Body:
    """A loop's body while it is written: a line for each step. ``started``: the states whose first values come with the first step, in order."""

    call: Call
    started: tuple[str, ...] = ()
    layers: dict[str, FixedLayer] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)

    def do(self, name: str, layer: FixedLayer | str, *sources: str) -> str:
        """A step of its own layer, or of one that is there."""
        if isinstance(layer, FixedLayer):
            self.layers[name] = layer
            layer.name = layer.name or f"{self.call.path}.{name}"
        self.steps.append(Step(name, name if isinstance(layer, FixedLayer) else layer, sources))
        return name

    def cast(self, name: str, role: str, source: str) -> str:
        return self.do(name, name if name in self.layers else self.quantizer(name, role), source)

    def table(self, name: str, function: Any, source: str, role: str = "internal") -> str:
        return self.do(name, table(function, self.call, name, role), source)

    def linear(self, name: str, weights: Weights, source: str) -> str:
        return self.do(name, QStepLinear(weights, self.call.recipe, f"{self.call.path}.{name}"), source)

    def part(self, name: str, source: str, index: int, size: int, count: int = 1) -> str:
        """``count`` of the parts of ``size`` that a value consists of, from the one at ``index`` on."""
        return self.do(name, QSlice((index * size,), ((index + count) * size,), (1,)), source)

    def begin(self, width: int, casts: Mapping[str, tuple[int, str, Callable[[], Quantizer] | None]]) -> tuple[str, ...]:
        """What the rest of the body reads: the ``width`` numbers of a step, and the states. ``casts``: for each state its size, the name of its Cast,
        and what makes that, where no layer of the body has it."""
        if not self.started:
            return (STEP, *casts)
        found, at = [self.do("step_input", QSlice((0,), (width,), (1,)), STEP)], width
        for name, (size, cast, make) in casts.items():
            if name not in self.started:
                found.append(name)
                continue
            first = self.do(f"first_{name}", QSlice((at,), (at + size,), (1,)), STEP)
            at += size
            total = self.do(f"{name}_and_first", QAdd(), name, first)
            if make is not None and cast not in self.layers:
                self.layers[cast] = make()
            found.append(self.do(f"begun_{name}", cast, total))
        return tuple(found)

    def quantizer(self, name: str, role: str) -> Quantizer:
        label, also = f"{self.call.path}.{name}", f"{self.call.first or self.call.path}.{name}"
        spec = replace(self.call.recipe.spec(label, role, also), granularity="tensor")
        return Quantizer(spec, name=label, also=also)

    def loop(self, states: tuple[State, ...], result: str) -> QScan:
        sizes = {state.name: state.size for state in states}
        return QScan(self.layers, self.steps, states, result, sum(sizes[name] for name in self.started))


def lstm(call: Call, hidden: Weights, projection: Weights | None, started: tuple[str, ...] = (), *, with_cell: bool) -> QScan:
    """``with_cell``: h and c, one after the other, are given for every step; else h."""
    body, size = _Body(call, started), hidden.weight.shape[0] // 4
    made = {"state": "activation", "cell": "internal"}
    casts = {HIDDEN: (hidden.weight.shape[1], "state"), CELL: (size, "cell")}
    step, h, c = body.begin(4 * size, {name: (many, cast, partial(body.quantizer, cast, made[cast])) for name, (many, cast) in casts.items()})
    total = body.do("total", QAdd(), step, body.linear("hidden", hidden, h))
    gates = body.cast("gates", "activation", total)
    i, f, g, o = (body.part(f"gate_{name}", gates, index, size) for index, name in enumerate("ifgo"))
    i = body.table("sigmoid", torch.sigmoid, i)
    f, o = (body.do(f"sigmoid_{name}", "sigmoid", gate) for name, gate in (("f", f), ("o", o)))
    g = body.table("tanh", torch.tanh, g)
    kept = body.do("kept", QMul(), f, c)
    cell = body.cast("cell", "internal", body.do("cell_sum", QAdd(), kept, body.do("written", QMul(), i, g)))
    shown = body.do("shown", QMul(), o, body.table("tanh_cell", torch.tanh, cell))
    if projection is not None:
        shown = body.linear("projected", projection, body.cast("unprojected", "internal", shown))
    state = body.cast("state", "activation", shown)
    result = body.do("both", QConcat(), state, cell) if with_cell else state
    return body.loop((State(HIDDEN, hidden.weight.shape[1], state), State(CELL, size, cell)), result)


def gru(call: Call, hidden: Weights, started: tuple[str, ...] = ()) -> QScan:
    body, size = _Body(call, started), hidden.weight.shape[1]
    step, h = body.begin(3 * size, {HIDDEN: (size, "state", partial(body.quantizer, "state", "activation"))})
    u = body.linear("hidden", hidden, h)
    x_gates, x_new = body.part("step_gates", step, 0, size, 2), body.part("step_new", step, 2, size)
    gates = body.cast("gates", "activation", body.do("total", QAdd(), x_gates, body.part("hidden_gates", u, 0, size, 2)))
    r = body.table("sigmoid", torch.sigmoid, body.part("gate_r", gates, 0, size))
    z = body.do("sigmoid_z", "sigmoid", body.part("gate_z", gates, 1, size))
    new = body.cast("new", "internal", body.part("hidden_new", u, 2, size))
    candidate = body.cast("candidate", "activation", body.do("new_total", QAdd(), x_new, body.do("reset", QMul(), r, new)))
    n = body.table("tanh", torch.tanh, candidate)
    moved = body.do("moved", QMul(), z, body.do("apart", QSub(), h, n))
    state = body.cast("state", "activation", body.do("next", QAdd(), n, moved))
    return body.loop((State(HIDDEN, size, state),), state)


def rnn(call: Call, hidden: Weights, started: tuple[str, ...] = (), *, relu: bool) -> QScan:
    body, size = _Body(call, started), hidden.weight.shape[1]
    cast = ("state", partial(body.quantizer, "state", "activation")) if relu else (f"state.{OUTPUT}", None)
    step, h = body.begin(size, {HIDDEN: (size, *cast)})
    total = body.do("total", QAdd(), step, body.linear("hidden", hidden, h))
    if relu:
        state = body.cast("state", "activation", body.do("positive", QReLU(), total))
    else:
        state = body.table("state", torch.tanh, body.cast("gates", "activation", total), "activation")
    return body.loop((State(HIDDEN, size, state),), state)
