"""The HGQ2 half of ``benchmarks.fronts``: a perceptron of its layers, trained in its way, and rebuilt as a graph of qfx.

Needs ``pip install HGQ2`` and KERAS_BACKEND=torch (set here, before Keras is imported).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
import numpy.typing as npt
from hgq.config import LayerConfigScope, QuantizerConfigScope
from hgq.layers import QDense
from hgq.utils import trace_minmax
from hgq.utils.sugar import BetaScheduler
from hgq.utils.sugar.beta_scheduler import PieceWiseSchedule

from benchmarks.fronts import Found, Judged, Task, built, front, thinned
from qfx import FixedType, Graph, OMode, QMode
from qfx.ir.graph import Node
from qfx.operators import ArrayType, Cast, Clip, Const, Input, Linear, Relu

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class HgqSettings:
    """How HGQ2 trains: its rate of Adam, what that falls to along a cosine, the part of the epochs after which the factor begins to grow, how many
    fractional bits words begin with (beside two integer bits; its default is 6), to what part of the task's last factor the ramp goes, and which part
    of it it has come to after which part of the epochs (by itself: a straight line on a logarithmic axis)."""

    rate: float = 3e-3
    last: float = 0.1
    warm: float = 0.1
    fractional: int = 6
    end: float = 1.0
    turn: tuple[float, float] | None = None


HGQ_SETTINGS = (
    HgqSettings(rate=5e-3),
    HgqSettings(rate=1e-2, fractional=4),
    HgqSettings(rate=5e-3, fractional=4, end=0.1),
    HgqSettings(rate=5e-3, end=8e-3, turn=(0.35, 6e-4)),
    HgqSettings(rate=5e-3, fractional=4, end=0.08, turn=(0.4, 6e-3)),
    HgqSettings(rate=5e-3, fractional=4, turn=(0.45, 4e-2)),
)
"""Runs along a ramp, and runs that go fast to a part of the costs, and then slowly through it, as qfx's do."""


def perceptron(sizes: Sequence[int], settings: HgqSettings) -> Any:
    """Weights with a word length each, activations likewise: its defaults for fully unrolled designs."""
    with (
        QuantizerConfigScope(default_q_type="kif"),
        QuantizerConfigScope(q_type="kif", place=("weight", "datalane"), f0=settings.fractional),
        LayerConfigScope(enable_ebops=True, beta0=1e-7),
    ):
        inner = [QDense(size, activation="relu") for size in sizes[1:-1]]
        return keras.Sequential([keras.Input((sizes[0],)), *inner, QDense(sizes[-1])])


class _Kept(keras.callbacks.Callback):  # type: ignore[misc]
    """The weights after each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.states: list[list[npt.NDArray[Any]]] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.states.append([weight.copy() for weight in self.model.get_weights()])
        if (epoch + 1) % 10 == 0:
            print(f"HGQ2: epoch {epoch + 1}, {sum(float(layer.ebops) for layer in self.model.layers):.0f} operations", file=sys.stderr)


def hgq_front(task: Task, data: Judged, settings: HgqSettings, seed: int = 0, most: int = 9) -> tuple[list[Found], int]:
    """The front of one run, and in how many of 200 samples of each network the graph differs from it."""
    keras.utils.set_random_seed(seed)
    model = perceptron(task.sizes, settings)
    x, y, test_x, chosen_x, chosen_y = (part.numpy() for part in (data.train_x, data.train_y, data.test_x, data.chosen_x, data.chosen_y))
    steps = task.epochs * (len(x) // task.batch)
    model.compile(
        optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(settings.rate, steps, alpha=settings.last)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    kept, warm = _Kept(), round(settings.warm * task.epochs)
    turn = [(round(settings.turn[0] * task.epochs), settings.turn[1] * task.beta[1], "log")] if settings.turn else []
    first, last = (warm, task.beta[0], "log"), (task.epochs, settings.end * task.beta[1], "constant")
    ramp = PieceWiseSchedule([(0, task.beta[0], "constant"), first, *turn, last])
    count = len(x) // task.batch * task.batch  # whole batches, as the other half
    model.fit(x[:count], y[:count], epochs=task.epochs, batch_size=task.batch, verbose=0, callbacks=[BetaScheduler(ramp), kept])
    found = []
    for epoch, state in enumerate(kept.states):
        settled(model, state, x)
        right = float((np.asarray(model.predict(chosen_x, batch_size=1000, verbose=0)).argmax(1) == chosen_y).mean())
        found.append(Found(epoch + 1, operations(model), 100 * right, 0.0))
    result, differing = [], 0
    for point in thinned(front(found), most):
        settled(model, kept.states[point.epoch - 1], x)
        graph = rebuilt(model)
        result.append(built(point, graph, data))
        differing += differs(model, graph, test_x[:200])
    return result, differing


def settled(model: Any, state: list[npt.NDArray[Any]], x: npt.NDArray[np.float32]) -> None:
    """The model in that state, the ranges of its activations those of ``x``. Positions that may be negative or not are all of one kind: this costs
    none of its bit operations, which leave signs out."""
    model.set_weights(state)
    trace_minmax(model, x)
    for layer in model.layers:
        cast = layer.iq.quantizer
        sign = np.asarray(keras.ops.convert_to_numpy(cast.k)) > 0
        live = np.asarray(keras.ops.convert_to_numpy(cast.b)) > 0
        cast._k.assign((sign | (live & sign.any())).astype(np.uint8))


def operations(model: Any) -> float:
    """The bit operations by HGQ2's formula, the weights' words no longer than the numbers in them (which favours it)."""
    found = 0.0
    for layer in model.layers:
        kernel, _ = numbers(layer)
        f = np.broadcast_to(keras.ops.convert_to_numpy(layer.kq.quantizer.f), kernel.shape)
        raw = np.abs(kernel) * np.exp2(f)
        bits = np.frexp(raw)[1] * (raw > 0)
        inputs = np.broadcast_to(keras.ops.convert_to_numpy(layer.iq.quantizer.b), (1, len(kernel))).reshape(-1)
        biases = keras.ops.convert_to_numpy(layer.bq.quantizer.b)
        found += float((inputs @ bits).sum() + biases.mean() * kernel.shape[1])
    return found


def numbers(layer: Any) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The layer's weights, (inputs, outputs), and biases, cast."""
    return tuple(np.asarray(keras.ops.convert_to_numpy(part), np.float64) for part in (layer.qkernel, layer.qbias))  # type: ignore[return-value]


def rebuilt(model: Any) -> Graph:
    """The network as a graph of qfx that computes the same numbers."""
    nodes: list[Node] = []
    for place, layer in enumerate(model.layers):
        cast = layer.iq.quantizer
        kernel, bias = numbers(layer)
        size = len(kernel)
        k, i, f = (np.broadcast_to(keras.ops.convert_to_numpy(part), (1, size)).reshape(-1).astype(np.int64) for part in cast.kif)
        first, rest = casts(k, i, f)
        source = nodes[-1].name if nodes else ""
        nodes.append(Node(f"x{place}", Cast(first), (source,)) if nodes else Node("x0", Input((size,), first)))
        for step, op in enumerate(rest):
            nodes.append(Node(f"x{place}.{step}", op, (nodes[-1].name,)))
        nodes.append(Node(f"dense{place}", Linear(Const.of(kernel.T.copy()), Const.of(bias)), (nodes[-1].name,)))
        if place < len(model.layers) - 1:
            nodes.append(Node(f"relu{place}", Relu(), (nodes[-1].name,)))
    return Graph("hgq", tuple(nodes), nodes[-1].name)


def casts(k: IntArray, i: IntArray, f: IntArray) -> tuple[ArrayType, list[Cast | Clip]]:
    """A cast that wraps to numbers of ``k`` sign bits, ``i`` integer and ``f`` fractional bits each, 0 where these are no bits: one to words of the
    greatest length, another that wraps those to their own, and bounds of 0."""
    lengths = k + i + f
    live = lengths > 0
    signed = bool(k[live].any())
    if not live.any():
        raise ValueError("nothing passes the layer")
    if signed != bool(k[live].all()):
        raise ValueError("positions with a sign and without")
    width = int(lengths[live].max())
    points = np.where(live, f, f[live].min())
    whole = tuple(int(width - point) for point in points)
    first = ArrayType(FixedType(width, max(whole), signed, QMode.RND, OMode.WRAP), whole, points.shape)
    own = tuple(int(length - point) if alive else width - int(point) for length, point, alive in zip(lengths, points, live, strict=True))
    rest: list[Cast | Clip] = [Cast(ArrayType(FixedType(width, max(own), signed), own, points.shape))] if own != whole else []
    if not live.all():
        grid = tuple(int(point) for point in points)
        low, high = (-(2 ** (width - 1)), 2 ** (width - 1) - 1) if signed else (0, 2**width - 1)
        rest.append(Clip(*(Const(np.where(live, end, 0), grid) for end in (low, high))))
    return first, rest


def differs(model: Any, graph: Graph, x: npt.NDArray[np.float32]) -> int:
    """In how many samples a result of the graph is not that of the model."""
    from qfx import run

    wanted = np.asarray(keras.ops.convert_to_numpy(model(x, training=False)), np.float64)
    return int((np.asarray(run(graph, x), np.float64) != wanted).any(1).sum())
