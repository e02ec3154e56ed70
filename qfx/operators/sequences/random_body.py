"""Random bodies of a Scan, for random graphs: small cells of a state or two."""

from __future__ import annotations

from qfx.errors import ModelFileError
from qfx.ir.drawing import Drawing, random_cast, random_type
from qfx.ir.graph import Graph, Node
from qfx.ir.values import ArrayType, Info
from qfx.operators.binary import Add, Max, Min, Mul, Sub
from qfx.operators.cast import Cast, Input
from qfx.operators.concat import Concat
from qfx.operators.linear import Linear
from qfx.operators.relu import Relu

MAX_WIDTH = 45
"""No value and no accumulator of a random graph is wider (``qfx.testing``)."""


def random_body(drawing: Drawing) -> tuple[str, tuple[Node, ...], str, tuple[str, ...]]:
    """The arguments of ``Scan.of`` for the steps of the drawing's value: its values and the state meet in a sum, a product or a greatest, through
    matrices where a step is a vector; a second state, where there is one, is what the first was."""
    rng, info = drawing.rng, drawing.info
    if len(info.shape) < 2 or info.per_channel:
        raise ModelFileError("has no steps", where=drawing.source, remedy="draw another operator")
    step = info.shape[1:]
    vector = len(step) == 1 and rng.random() < 0.7
    state = (int(rng.integers(1, 4, endpoint=True)),) if vector else step
    held = random_cast(rng, state) if rng.random() < 0.5 else ArrayType.of(random_type(rng))
    own = ArrayType.of(info.interval.hull.at(info.type.frac_bits).type())
    nodes = [Node("x", Input(step, own)), Node("h", Input(state, held))]
    two = bool(rng.random() < 0.4)
    if two:
        nodes.append(Node("c", Input(state, held)))
    left, right = "x", "h"
    if vector:
        nodes.append(Node("wx", Linear(drawing.const((*state, *step)), drawing.maybe(drawing.const(state))), ("x",)))
        nodes.append(Node("wh", Linear(drawing.const((*state, *state)), None), ("h",)))
        left, right = "wx", "wh"
    kinds = (Add, Sub, Mul, Max, Min)
    nodes.append(Node("met", kinds[int(rng.integers(len(kinds)))](), (left, right)))
    last = "met"
    if two:
        nodes.append(Node("with_c", Add(), ("met", "c")))
        last = "with_c"
    if rng.random() < 0.3:
        nodes.append(Node("kept", Relu(), (last,)))
        last = "kept"
    nodes.append(Node("next", Cast(held), (last,)))
    result = "next"
    if rng.random() < 0.4:
        joined = state[1:] == step[1:] and rng.random() < 0.5
        nodes.append(Node("both", Concat(), ("x", "next")) if joined else Node("both", Relu(), ("next",)))
        known = _infos(nodes)
        nodes.append(Node("y", Cast(random_cast(rng, known["both"].shape, known["next"])), ("both",)))
        result = "y"
    for node in nodes[1:]:
        known = _infos(nodes)
        acc = node.op.accumulator(known[node.inputs[0]]) if node.inputs else None
        if max(known[node.name].type.width, known[node.name].interval.width, acc.width if acc else 0) > MAX_WIDTH:
            raise ModelFileError("is too wide", where=node.name, remedy="draw another operator")
    return "cell", tuple(nodes), result, ("next", "h") if two else ("next",)


def _infos(nodes: list[Node]) -> dict[str, Info]:
    return dict(Graph("cell", tuple(nodes), nodes[-1].name).infos)
