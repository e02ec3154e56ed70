"""A graph for each step of a sequence, with states that go from one step to the next: recurrent cells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from qfx.errors import ExactnessError, ModelFileError
from qfx.export.bounds import Value
from qfx.fixed.arith import Bounds, Channels
from qfx.fixed.type import FixedType
from qfx.hardware.design.sequence import build_loop
from qfx.ir import rules
from qfx.ir.drawing import Drawing
from qfx.ir.graph import Graph, Node
from qfx.ir.interpret import output_raw, traced_raws
from qfx.ir.operator import Operator
from qfx.ir.rules import Infos, Raws
from qfx.ir.values import Const, Info, RawArray
from qfx.operators.sequences.random_body import random_body

if TYPE_CHECKING:
    from qfx.export.writer import Writer
    from qfx.hardware.design.build import Builder
    from qfx.ir.onnx_node import OnnxNode


@dataclass(frozen=True, slots=True)
class Scan(Operator):
    """``body`` at each step along axis 0 of a sequence (T, *rest), first to last; the results are joined along axis 0.

    The inputs of the body are the step's values, of shape rest, and then one for each state; its outputs are the step's result and then the next
    values of the states, each node listed once, where it appears first. ``carried`` says for each state which of the outputs is its next value: often
    it is the result. States start as zeros, and are carried as the types of their inputs say; so the last thing done to one is mostly a Cast.
    """

    body: Graph = field(hash=False)
    carried: tuple[int, ...]

    reads: ClassVar[int | None] = 1
    loadable: ClassVar[bool] = False
    forms: ClassVar[tuple[str, ...]] = ("Scan",)
    functions: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "Swap": """Swap <perm> (x) => (y) {
    y = Transpose <perm: ints = @perm> (x)
}""",
            "Zeros": """Zeros <shape, dtype> (x) => (y) {
    samples = Shape <start = 0, end = 1> (x)
    rest = Constant <value_ints: ints = @shape> ()
    whole = Concat <axis = 0> (samples, rest)
    zeros = ConstantOfShape (whole)
    y = Cast <to: int = @dtype> (zeros)
}""",
        }
    )
    pointwise: ClassVar[bool] = False
    any_order: ClassVar[bool] = True
    fuses: ClassVar[bool] = False
    renames: ClassVar[bool] = False

    @classmethod
    def of(cls, name: str, nodes: tuple[Node, ...], result: str, states: tuple[str, ...]) -> Self:
        """With a body of these nodes, the name of that of the result and of those of the states' next values, in the order of their inputs."""
        outputs = tuple(dict.fromkeys((result, *states)))
        return cls(Graph(name, nodes, outputs), tuple(map(outputs.index, states)))

    @property
    def result(self) -> str:
        """The body's node that gives a step's result."""
        return self.body.outputs[0]

    @property
    def states(self) -> tuple[tuple[str, str], ...]:
        """For each state the input of the body that it is, and the node that gives its next value."""
        inputs = (node.name for node in self.body.inputs[1:])
        return tuple((name, self.body.outputs[position]) for name, position in zip(inputs, self.carried, strict=True))

    def infer(self, name: str, inputs: Infos) -> Info:
        (x,) = rules.arity(name, inputs, 1)
        self._check_form(name)
        step = self.body.inputs[0]
        within = self.body.infos[step.name]
        if x.shape[1:] != within.shape:
            what = f"reads steps of {x.shape[1:]}, the input {step.name!r} of its body has {within.shape}"
            raise ModelFileError(what, where=name, remedy="give a sequence (steps, *shape of a step)")
        if not _holds(within, rules.one_grid(name, x)):
            what = f"reads {x.type}, which the input {step.name!r} of its body, {within.type}, does not hold"
            raise ExactnessError(what, where=name, remedy="cast the sequence to the type of the body's input")
        for state, following in self.states:
            own, new = self.body.infos[state], self.body.infos[following]
            if own.shape != new.shape:
                what = f"the state {state!r} is {own.shape} and becomes {following!r}, {new.shape}"
                raise ModelFileError(what, where=name, remedy="give both one shape")
            if not _holds(own, rules.one_grid(name, new)):
                what = f"the state {state!r} is {own.type} and becomes {following!r}, {new.type}, which it does not hold"
                raise ExactnessError(what, where=name, remedy="end its next value with a cast to the type of the state")
        y = rules.one_grid(name, self.body.infos[self.result])
        shape = (x.shape[0], *y.shape)
        rules.check_shape(name, shape)
        return Info(shape, y.type, y.interval.hull.at(y.type.frac_bits))

    def _check_form(self, name: str) -> None:
        body, inputs = self.body, self.body.inputs
        if len(inputs) != 1 + len(self.carried) or not self.carried:
            what = f"its body has {len(inputs)} inputs, and it carries {len(self.carried)} states"
            raise ModelFileError(what, where=name, remedy="give the body one input for a step's values, and then one for each of one or more states")
        if body.nodes[: len(inputs)] != inputs:
            raise ModelFileError("the inputs of its body stand among other nodes", where=name, remedy="put them first")
        seen = tuple(dict.fromkeys((0, *self.carried)))
        if seen != tuple(range(len(body.outputs))):
            what = f"its body has {len(body.outputs)} outputs, of which it carries {self.carried}"
            raise ModelFileError(what, where=name, remedy="list the result and then the next values of the states, each once; or use Scan.of")
        if body.metadata:
            raise ModelFileError("its body has metadata", where=name, remedy="put them into that of the model")

    def evaluate(self, inputs: Raws, infos: Infos, out: Info) -> RawArray:
        result = np.empty((len(inputs[0]), *out.shape), dtype=np.int64)
        for turn, found in enumerate(self.traced(inputs[0], infos[0], self.body.outputs)):
            result[:, turn] = output_raw(self.body, found[self.result], self.result)
        return result

    def traced(self, raw: RawArray, info: Info, wanted: tuple[str, ...]) -> Iterator[dict[str, RawArray]]:
        """Step by step the raws of those nodes of the body, the outputs among them, for the raws of a sequence."""
        step, *states = (node.name for node in self.body.inputs)
        known = self.body.infos
        x = rules.align(raw, info, known[step])
        held = {name: np.zeros((len(x), *known[name].shape), dtype=np.int64) for name in states}
        for turn in range(info.shape[0]):
            found = traced_raws(self.body, {step: x[:, turn], **held}, wanted)
            yield found
            held = {name: rules.align(found[following], known[following], known[name]) for name, following in self.states}

    def does_nothing(self, x: Info) -> bool:
        return False

    def words(self) -> Iterable[str]:
        states = ", ".join(f"{name} := {following}" for name, following in self.states)
        return [f"{self.body.name}({self.body.inputs[0].name}) -> {self.result}", f"[{states}]"]

    def constants(self) -> Mapping[str, Const]:
        return {f"{node.name}.{role}": const for node in self.body.nodes for role, const in node.op.constants().items()}

    def accumulator(self, x: Info) -> FixedType | None:
        return None

    def macs(self, out: Info) -> int:
        return out.shape[0] * sum(node.op.macs(self.body.infos[node.name]) for node in self.body.nodes)

    def columns(self, out: Info) -> int:
        return sum(info.size + node.op.columns(info) for node in self.body.nodes for info in (self.body.infos[node.name],))

    def inner(self) -> Graph | None:
        return self.body

    def write(self, writer: Writer, node: Node) -> Value:
        return writer.scan(node, self.body, self.carried)

    def operands(self, inputs: Sequence[str]) -> Sequence[str]:
        return inputs[-1:]  # the states come first

    @classmethod
    def read(cls, proto: OnnxNode) -> Operator:
        return cls(*proto.body("body"))

    def build(self, builder: Builder, node: Node, chain: tuple[Node, ...]) -> None:
        """A loop around one hardware for all steps."""
        build_loop(builder, node, self.body, self.states)

    def travelling(self, out: Info) -> int:
        return out.shape[1]

    def parallel(self, graph: Graph, node: Node) -> tuple[int, int]:
        """The widest of what is done in a step."""
        found = [part.op.parallel(self.body, part) for part in self.body.nodes]
        return max(outputs for outputs, _ in found), max(inputs for _, inputs in found)

    @classmethod
    def draw(cls, drawing: Drawing) -> tuple[Self, tuple[str, ...]]:
        return cls.of(*random_body(drawing)), (drawing.source,)


def _holds(within: Info, value: Info) -> bool:
    """Whether every number of ``value``, on one grid, is one of ``within``, whose channels may have grids of their own."""
    bounds: Bounds = value.interval
    given = bounds.spread(within.shape[0]) if isinstance(bounds, Channels) and value.shape == within.shape else (bounds.hull,) * within.shape[0]
    return all(
        inner.frac_bits <= outer.frac_bits and (fine := inner.at(outer.frac_bits)).lo >= outer.lo and fine.hi <= outer.hi
        for inner, outer in zip(given, within.interval.spread(within.shape[0]), strict=True)
    )
