"""``QScan``: a small graph of fixed-point layers, carried out for each step of a sequence, with states that go from one step to the next."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from qfx import operators as ops
from qfx.errors import QfxError
from qfx.fixed.arith import Bounds, Interval
from qfx.fixed.type import FixedType
from qfx.ir.graph import Node, graph_name
from qfx.ir.values import ArrayType, Info
from qfx.nn.accumulator import accumulating, check_width
from qfx.nn.clipped import Clipped
from qfx.nn.fixed_layer import FixedLayer, Own, Steps, Traits, moved
from qfx.nn.layers.batch_norm import FoldedNorm
from qfx.nn.layers.linear import QLinear
from qfx.nn.layers.tables.lookup import QInnerLookup
from qfx.nn.qtensor import QTensor, dtype_of
from qfx.nn.quantizer import Quantizer

STEP = "step"
"""What the steps of a loop call the slice of the sequence that they work on."""

_TURNED = ops.Transpose((1, 0))

_SETTLED, _SAMPLES = 16, 256
"""After so many steps a state's distribution is taken as the one that stays; the samples of it that are looked at."""

_UNIT = Interval(-1, 1, 0)
"""The interval of numbers in a run without casts: it bounds nothing, and leaves all in the dtype of the model."""


@dataclass(frozen=True)
class Step:
    """One layer of a loop's body: what its result is called, the name of the layer (several steps may share one), and what it reads: ``STEP``, states
    and earlier steps."""

    name: str
    layer: str
    sources: tuple[str, ...]


@dataclass(frozen=True)
class State:
    """What goes from one step to the next, zeros at first: its size, and the step that gives the next, whose layer ends with a Cast."""

    name: str
    size: int
    next: str


class QStepLinear(QLinear):
    """The linear layer of a state: within ``held`` its constants are cast once, for all steps. Its sums may have an accumulator of a chosen width, as
    those of any weights: a row's, of its own products; what comes of the step's input is added behind it."""

    _now: tuple[QTensor, QTensor | None] | None = None

    def constants(self, norm: FoldedNorm | None = None) -> tuple[QTensor, QTensor | None]:
        return super().constants(norm) if self._now is None else self._now

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        try:
            self._now = super().constants()
            yield
        finally:
            self._now = None


class QScan(FixedLayer):
    """The steps of a loop, carried out for each column of a value of shape (batch, features, T); gives (batch, T, size).

    Features come first, as channels do everywhere, so that the layer that makes them stands right before; their sums may come uncast. Every state
    starts at zero, and each next one is cast to the type of the one before it. ``result``: the step whose results are given.

    All arithmetic is that of the layers, step by step, in the same order at every time, in training as in evaluation. The gradient is theirs too:
    through time, straight-through at every Cast; that of a binary point is the sum over all steps.

    Binary points start from a run of the loop in float over all steps of the data, so that no cast sees what another one, further on in time, has
    done to a state. (A run in fixed point would have to guess them first, and once numbers are lost at a limit of a guess it never sees them again.)
    """

    steps: tuple[Step, ...]
    states: tuple[State, ...]
    result: str

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=True, reads_uncast=True, casts=True, leaves_out=True)

    started: int = 0

    def __init__(self, layers: Mapping[str, FixedLayer], steps: Sequence[Step], states: Sequence[State], result: str, started: int = 0) -> None:
        """``started``: how many of the last features are first values of states, which all steps but the first have zeros in place of."""
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.steps, self.states, self.result = tuple(steps), tuple(states), result
        self.started = started
        self._reach: Interval | None = None
        self._features = 0

    # What it computes

    def forward(self, x: QTensor) -> QTensor:
        x, results, bounds = x.plain(), [], None
        self._reach = x.interval.hull
        for env in self._run(x):
            results.append(env[self.result].tensor())
            bounds = env[self.result].interval
        assert bounds is not None  # no axis is empty
        return QTensor(torch.stack(results, 1), bounds.hull)

    def _run(self, x: QTensor) -> Iterator[dict[str, QTensor]]:
        """What each step of the body gives, time by time."""
        reach, self._features = x.interval.hull, x.shape[1]
        layers: list[tuple[str, nn.Module, tuple[str, ...]]] = [(step.name, self._layer(step), step.sources) for step in self.steps]
        now = {state.name: self._zeros(state, x) for state in self.states}
        with contextlib.ExitStack() as stack:
            for step in self.steps:
                layer = self._layer(step)
                if isinstance(layer, QStepLinear):
                    if (accumulator := accumulating(layer.weight_cast)) is not None:
                        accumulator.meet(self._cast_before(step).interval().hull)
                    stack.enter_context(layer.held())
            for column in x.value.permute(2, 0, 1).contiguous().unbind(0):
                env = {STEP: QTensor(column, reach), **now}
                for name, part, sources in layers:
                    env[name] = part(*(env[source] for source in sources))
                now = {state.name: env[state.next] for state in self.states}
                yield env

    def _layer(self, step: Step) -> nn.Module:
        return self.get_submodule(step.layer)

    def _cast_of(self, state: State) -> Any:
        """The Cast of a state: a Quantizer, or what stands for it in a float reference."""
        layer = next(self._layer(step) for step in self.steps if step.name == state.next)
        return layer.output_cast if isinstance(layer, QInnerLookup) else layer

    def _cast_before(self, step: Step) -> Any:
        """The Cast of what a product inside of the loop reads: a state, or a step that ends with one."""
        (source,) = step.sources
        for state in self.states:
            if state.name == source:
                return self._cast_of(state)
        layer = next(self._layer(before) for before in self.steps if before.name == source)
        return layer.output_cast if isinstance(layer, QInnerLookup) else layer

    def _zeros(self, state: State, like: QTensor) -> QTensor:
        bounds: Bounds = self._cast_of(state).interval()
        value = torch.zeros(like.shape[0], state.size, dtype=dtype_of(bounds, like.value.dtype), device=like.value.device)
        return QTensor(value, bounds)

    # Where its binary points start

    def initialize(self, x: QTensor) -> None:
        self.restart((x,), lambda: (x,))

    def restart(self, values: Iterable[QTensor], arguments: Callable[[], tuple[QTensor, ...]]) -> None:
        x = next(iter(values)).plain()
        env = {STEP: QTensor(x.value[:, :, 0], x.interval.hull)}
        for state in self.states:
            env[state.name] = QTensor(x.value.new_zeros(x.shape[0], state.size), _UNIT)
        placed = set[str]()
        for step in self.steps:  # by the first time, so that each cast sees the sign of what it reads
            layer, read = self._layer(step), [env[source] for source in step.sources]
            if isinstance(layer, QStepLinear):
                layer.weight_cast.initialize(layer.cast_weight().detach())
                env[step.name] = QTensor(x.value.new_zeros(x.shape[0], layer.out_features), _UNIT)
                continue
            if isinstance(layer, Quantizer | QInnerLookup) and step.layer not in placed:
                placed.add(step.layer)
                table = isinstance(layer, QInnerLookup)
                found = layer.values(*read) if isinstance(layer, QInnerLookup) else read[0]
                cast: Quantizer = layer.output_cast if isinstance(layer, QInnerLookup) else layer
                cast.initialize_from(_Seen(self, f"{step.layer}.output_cast" if table else step.layer, values, found.interval))
            env[step.name] = layer(*read)
        now = {state.name: self._zeros(state, x) for state in self.states}
        for step in self.steps:
            layer, (source, *_) = self._layer(step), step.sources
            if isinstance(layer, QStepLinear):
                layer.initialize(now.get(source, env[source]))

    # What others ask

    def multiplied(self, bits: Sequence[Tensor], own: Own) -> Tensor:
        """Those of the first step, at each of them."""
        columns = bits[0].unbind(2)
        env = {STEP: columns[0]}
        for state in self.states:
            cast = self._cast_of(state)
            env[state.name] = own(cast, torch.Size((1, state.size)))
        found = []
        for step in self.steps:
            layer: Any = self._layer(step)
            read = [env[source] for source in step.sources]
            products = layer.multiplied(read, own)
            if products is not None:
                found.append(products.sum())
            cast = layer.output_cast if isinstance(layer, QInnerLookup) else layer
            if layer.traits.moves_only:
                env[step.name] = moved(layer, read)
                continue
            shape = read[0].shape if products is None else products.shape
            env[step.name] = own(cast, shape) if isinstance(cast, Quantizer) else read[0].detach().new_zeros(shape)
        return torch.stack(found) * len(columns)

    def operators(self) -> Steps:
        """Those of the types that the last forward met."""
        if self._reach is None:
            raise QfxError("has met no sequence yet", where=self.name, remedy="run the model once")
        return self._steps_on((self._features,), self._reach.type())

    def operators_on(self, x: Info) -> Steps:
        """Those for a sequence of which this much is known: constants may have left less of it than word lengths allow, on another grid."""
        turned = _TURNED.infer(self.name, (x,))
        return self._steps_on(turned.shape[1:], turned.type)

    def _steps_on(self, shape: tuple[int, ...], type_: FixedType) -> Steps:
        inputs = [Node(STEP, ops.Input(shape, ArrayType.of(type_)))]
        inputs += [Node(state.name, ops.Input((state.size,), self._cast_of(state).array_type())) for state in self.states]
        nodes, last = list(inputs), {node.name: node.name for node in inputs}
        infos = {node.name: node.op.infer(node.name, ()) for node in nodes}
        for step in self.steps:
            layer: Any = self._layer(step)
            sources = tuple(last[source] for source in step.sources)
            for suffix, operator in layer.operators():
                name = step.name + suffix
                nodes.append(Node(name, operator, sources))
                infos[name] = operator.infer(name, tuple(infos[source] for source in sources))
                if isinstance(layer, QStepLinear) and isinstance(operator, ops.Linear):
                    check_width(layer.weight_cast, operator, infos[sources[0]])
                sources = (name,)
            (last[step.name],) = sources
        scan = ops.Scan.of(graph_name(self.name), tuple(nodes), last[self.result], tuple(last[state.next] for state in self.states))
        return [(".steps", _TURNED), ("", scan)]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        """Of the state that stays, as a run in float on independent numbers of that distribution shows it: what a state is computed of depends on the
        state before, so that distributions of the layers alone would not tell. One for all times, which are the channels of the result."""
        like = next(self.parameters())
        x = sources[0].expanded(self._features).samples(_SAMPLES)
        order = torch.rand(*x.shape, _SETTLED, generator=torch.Generator().manual_seed(0)).argsort(0).to(x.device)
        drawn = x.unsqueeze(-1).expand(order.shape).gather(0, order).to(like)
        if self.started:
            drawn[:, -self.started :, 1:] = 0
        states = drawn
        with _without_casts(self), torch.no_grad():
            for env in self._run(QTensor(drawn, _UNIT)):
                states = env[self.result].tensor()
        return Clipped.normal(states.mean().reshape(1), states.std().reshape(1))

    def scales_channels(self, channels: int) -> bool:
        return False


class _Open(nn.Module):
    """Stands where a cast stood in a run without casts, lets everything pass, and keeps what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] | None = None

    def interval(self) -> Interval:
        return _UNIT

    def forward(self, x: QTensor | Tensor) -> QTensor:
        value = x.tensor() if isinstance(x, QTensor) else x
        if self.seen is not None:
            self.seen.append(value)
        return QTensor(value, _UNIT)

    def with_another(self, x: Tensor, other: _Open, y: Tensor) -> tuple[QTensor, QTensor]:
        return self(x), other(y)


@dataclass(frozen=True, eq=False)
class _Seen:
    """What the cast at ``path`` reads of each value of a sequence in a run without casts: all steps together, as often as wanted. ``interval`` bounds
    it in a run with casts, and says whether it has a sign."""

    loop: QScan
    path: str
    sources: Iterable[QTensor]
    interval: Bounds

    def __iter__(self) -> Iterator[QTensor]:
        for x in self.sources:
            with _without_casts(self.loop) as opened, torch.no_grad():
                seen = opened[self.path].seen = []
                for _ in self.loop._run(QTensor(x.tensor(), _UNIT)):
                    pass
            yield QTensor(torch.stack(seen, -1), self.interval)


@contextlib.contextmanager
def _without_casts(loop: QScan) -> Iterator[dict[str, _Open]]:
    casts = {path: part for path, part in loop.named_modules() if isinstance(part, Quantizer)}
    opened = {path: _Open() for path in casts}
    try:
        for path, stand_in in opened.items():
            _put(loop, path, stand_in)
        yield opened
    finally:
        for path, cast in casts.items():
            _put(loop, path, cast)


def _put(root: nn.Module, path: str, part: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    root.get_submodule(parent)._modules[name] = part
