"""Recurrent cells as bodies of a Scan, and small models around them."""

from __future__ import annotations

import numpy as np

from qfx import operators as ops
from qfx.fixed.type import FixedType, OMode, QMode
from qfx.ir.graph import Graph, Node
from qfx.operators import ArrayType, Const

WORD = FixedType(8, 3, True, QMode.RND, OMode.SAT)
"""Of sequences, and of what tables are addressed by."""
UNIT = FixedType(8, 1, True, QMode.RND, OMode.SAT)
"""Of states and of the results of tanh."""
GATE = FixedType(8, 0, False, QMode.RND, OMode.SAT)
"""Of the results of the logistic function."""


def cast(type_: FixedType) -> ops.Cast:
    return ops.Cast(ArrayType.of(type_))


def table(function: str, to: FixedType) -> ops.Lookup:
    """For every number of WORD."""
    x = np.arange(WORD.min_raw, WORD.max_raw + 1) * WORD.lsb
    y = np.tanh(x.astype(float)) if function == "tanh" else 1 / (1 + np.exp(-x.astype(float)))
    raw = np.clip(np.rint(y / float(to.lsb)), to.min_raw, to.max_raw).astype(np.int64)
    return ops.Lookup(Const(raw, to.frac_bits), WORD.min_raw, WORD.frac_bits)


class Cell:
    """Nodes of a body, added one after the other."""

    def __init__(self, features: int, hidden: int, states: tuple[str, ...], seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.hidden = hidden
        self.nodes = [Node("x", ops.Input((features,), ArrayType.of(WORD)))]
        self.nodes += [Node(name, ops.Input((hidden,), ArrayType.of(UNIT if name == "h" else WORD))) for name in states]

    def add(self, name: str, op: ops.Operator, *inputs: str) -> str:
        self.nodes.append(Node(name, op, inputs))
        return name

    def linear(self, name: str, outputs: int, inputs: int, source: str, *, bias: bool = True) -> str:
        weight = Const(self.rng.integers(-7, 8, (outputs, inputs)), 3)
        return self.add(name, ops.Linear(weight, Const(self.rng.integers(-30, 31, outputs), 5) if bias else None), source)

    def through(self, name: str, function: str, source: str) -> str:
        """A cast to WORD, and the function by table."""
        self.add(f"{name}_in", cast(WORD), source)
        return self.add(name, table(function, UNIT if function == "tanh" else GATE), f"{name}_in")


def gru(features: int = 3, hidden: int = 4) -> ops.Scan:
    """h' = (h - n) * z + n, which is the result too."""
    cell = Cell(features, hidden, ("h",))
    gates = {}
    for gate in ("r", "z"):
        x = cell.linear(f"{gate}_x", hidden, features, "x")
        h = cell.linear(f"{gate}_h", hidden, hidden, "h", bias=False)
        gates[gate] = cell.through(gate, "logistic", cell.add(f"{gate}_sum", ops.Add(), x, h))
    h = cell.add("n_h_cast", cast(WORD), cell.linear("n_h", hidden, hidden, "h"))
    x = cell.linear("n_x", hidden, features, "x")
    n = cell.through("n", "tanh", cell.add("n_sum", ops.Add(), x, cell.add("reset", ops.Mul(), gates["r"], h)))
    kept = cell.add("kept", ops.Mul(), cell.add("apart", ops.Sub(), "h", n), gates["z"])
    cell.add("next", cast(UNIT), cell.add("mixed", ops.Add(), kept, n))
    return ops.Scan.of("gru", tuple(cell.nodes), "next", ("next",))


def lstm(features: int = 3, hidden: int = 2) -> ops.Scan:
    """One matrix for all gates, on x and h joined; two states; the result is h."""
    cell = Cell(features, hidden, ("h", "c"), seed=1)
    cell.add("h_fine", cast(WORD), "h")
    all_gates = cell.linear("gates", 4 * hidden, features + hidden, cell.add("xh", ops.Concat(), "x", "h_fine"))
    cell.add("gates_in", cast(WORD), all_gates)
    parts = []
    for position, (name, function) in enumerate((("i", "logistic"), ("f", "logistic"), ("g", "tanh"), ("o", "logistic"))):
        part = cell.add(f"{name}_in", ops.Slice((position * hidden,), ((position + 1) * hidden,), (1,)), "gates_in")
        parts.append(cell.add(name, table(function, UNIT if function == "tanh" else GATE), part))
    i, f, g, o = parts
    total = cell.add("c_sum", ops.Add(), cell.add("held", ops.Mul(), f, "c"), cell.add("new", ops.Mul(), i, g))
    cell.add("c_next", cast(WORD), total)
    cell.add("c_tanh", table("tanh", UNIT), "c_next")
    cell.add("h_next", cast(UNIT), cell.add("out", ops.Mul(), o, "c_tanh"))
    return ops.Scan.of("lstm", tuple(cell.nodes), "h_next", ("h_next", "c_next"))


def recurrent(scan: ops.Scan, steps: int, *, last: bool = False) -> Graph:
    """A model of the sequence alone; ``last``: and a matrix on the last step's result."""
    features = scan.body.infos[scan.body.inputs[0].name].shape[0]
    nodes = [Node("x", ops.Input((steps, features), ArrayType.of(WORD))), Node("rnn", scan, ("x",))]
    if last:
        hidden = scan.body.infos[scan.result].shape[0]
        nodes.append(Node("last", ops.Slice((steps - 1, 0), (steps, hidden), (1, 1)), ("rnn",)))
        nodes.append(Node("flat", ops.Reshape((hidden,)), ("last",)))
        nodes.append(Node("fc", ops.Linear(Const(np.random.default_rng(5).integers(-7, 8, (2, hidden)), 3), None), ("flat",)))
        nodes.append(Node("y", cast(WORD), ("fc",)))
    return Graph("recurrent", tuple(nodes), nodes[-1].name)


def rows(steps: int) -> Graph:
    """Pictures of two channels, one after the other: a convolution of each and the state, a state for each element, and a result that is no state."""
    own = ArrayType(WORD, tuple(1 + (i % 3) for i in range(24)), (2, 3, 4))
    weight = Const(np.random.default_rng(3).integers(-7, 8, (2, 2, 3, 3)), 4)
    nodes = (
        Node("x", ops.Input((2, 3, 4), ArrayType.of(WORD))),
        Node("h", ops.Input((2, 3, 4), own)),
        Node("conv", ops.Conv(weight, None, (1, 1), ((1, 1), (1, 1)), (1, 1), 1), ("x",)),
        Node("sum", ops.Add(), ("conv", "h")),
        Node("next", ops.Cast(own), ("sum",)),
        Node("apart", ops.Sub(), ("x", "next")),
        Node("y", ops.MaxPool((2, 2), (1, 1), ((0, 0), (0, 0)), (1, 1)), ("apart",)),
    )
    scan = ops.Scan.of("rows", nodes, "y", ("next",))
    return Graph("rows", (Node("x", ops.Input((steps, 2, 3, 4), ArrayType.of(WORD))), Node("rnn", scan, ("x",))), "rnn")
