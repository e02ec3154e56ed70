"""Embeddings: rows of a trained table, by their number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from qfx import operators as ops
from qfx.capture.traced import Traced, base_layer
from qfx.errors import DataError, UnsupportedError
from qfx.fixed.arith import Interval
from qfx.nn.call import Call, Family, Layers, Part
from qfx.nn.clipped import Clipped
from qfx.nn.fixed_layer import FixedLayer, Steps, Traits, constant
from qfx.nn.layers.batch_norm import signed_spec
from qfx.nn.layers.products.computing import Computing
from qfx.nn.layers.products.weights import Weights, shape_of, weights_of
from qfx.nn.layers.reductions.reduce import QReduceMax, QReduceMean, QReduceSum
from qfx.nn.layers.reshape import QReshape
from qfx.nn.qtensor import QTensor
from qfx.nn.quantizer import Quantizer
from qfx.recipe import Recipe


class QEmbedding(Computing):
    """A row of the cast ``weight`` for each whole number, along a new last axis; exact. One binary point for the whole table.

    Gradients: each row gets the sum of those of the places that took it, through its cast; row ``padding_idx`` gets none. There is none to the
    numbers. Raises DataError for a number that has no row, as torch does; the graph, and with it the hardware, then takes the nearest row.
    """

    name: str
    padding_idx: int | None
    weight_cast: Quantizer

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=True, reads_uncast=False, called_again="shared")

    weight: Tensor

    def __init__(self, source: nn.Embedding | nn.EmbeddingBag | Weights, recipe: Recipe, name: str, padding_idx: int | None = None) -> None:
        super().__init__()
        self.name, self.padding_idx = name, padding_idx
        self.origins: Mapping[str, str] = {"weight": source.origins.get("weight", "")} if isinstance(source, Weights) else {}
        if isinstance(source.weight, nn.Parameter):
            self.register_parameter("weight", source.weight)
        else:
            self.register_buffer("weight", source.weight)
        if isinstance(source, Weights):
            self.compute(source.computed)
        own, also = f"{name}.weight", self.origins.get("weight", "")
        spec = replace(signed_spec(recipe.spec(own, "weight", also)), granularity="tensor")  # the rows mix in every channel of the result
        if spec.accumulator is not None:
            raise UnsupportedError("an accumulator for rows that nothing adds up", where=own, remedy="leave `accumulator` out for this weight")
        if spec.sparsity is not None:
            raise UnsupportedError("sparsity for rows that nothing adds up", where=own, remedy="leave `sparsity` out for this weight")
        self.weight_cast = Quantizer(spec, channel_axis=0, name=own, also=also)

    def initialize(self, x: QTensor) -> None:
        self.weight_cast.initialize(self.weight)

    def forward(self, x: QTensor) -> QTensor:
        rows: QTensor = self.weight_cast(self.weight)
        return QTensor(F.embedding(_numbers(x, len(rows.value), self.name), rows.value, self.padding_idx), rows.interval)

    def operators(self) -> Steps:
        rows: QTensor = self.weight_cast(self.weight)
        return [("", ops.Embedding(constant(rows.value, f"{self.name}.weight")))]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        """Every row as often as the others."""
        weight = self.weight.detach().double().reshape(1, -1)
        return Clipped.normal(weight.mean(1), weight.std(1, unbiased=False))

    def scales_channels(self, channels: int) -> bool:
        return False


class QOneHot(FixedLayer):
    """A one in place x of ``count`` zeros, along a new last axis, for each whole number x; exact. No gradient. DataError as in ``QEmbedding``."""

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=True, reads_uncast=False)

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: QTensor) -> QTensor:
        return QTensor(F.one_hot(_numbers(x, self.count, self.name), self.count).to(x.tensor().dtype), Interval(0, 1, 0))

    def operators(self) -> Steps:
        return [("", ops.Embedding(ops.Const(np.eye(self.count, dtype=np.int64), 0)))]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        """Every number as often as the others."""
        share = torch.full((1,), 1.0 / self.count, dtype=torch.float64)
        return Clipped.normal(share, (share * (1 - share)).sqrt()).limited(0.0, 1.0)

    def scales_channels(self, channels: int) -> bool:
        return False


def _numbers(x: QTensor, rows: int, where: str) -> Tensor:
    """Whole numbers as torch takes them. Refuses those without a row, and a grid on which other numbers lie."""
    if x.interval.hull.frac_bits > 0:
        what = f"takes rows by numbers of {x.interval.hull.frac_bits} fractional bits"
        raise UnsupportedError(
            what, where=where, remedy="give it an input of the model, or the places of argmax and topk, without arithmetic on them"
        )
    numbers = x.tensor().detach().long()
    if numbers.numel():
        low, high = (int(end) for end in numbers.aminmax())
        if low < 0 or high >= rows:
            what = f"the number {low if low < 0 else high} for a table of {rows} rows"
            raise DataError(what, where=where, remedy=f"give numbers of 0 to {rows - 1}")
    return numbers


def rows_addressed(node: fx.Node, traced: Traced, moves: Callable[[fx.Node, Traced], bool]) -> int | None:
    """The rows of the largest table that the numbers of a node address, themselves or moved to other places (which operations ``moves`` tells); None
    if no table reads them."""
    found = [rows for user in traced.tensor_users(node) if (rows := _rows_of(user, node, traced, moves)) is not None]
    return max(found, default=None)


def _rows_of(user: fx.Node, source: fx.Node, traced: Traced, moves: Callable[[fx.Node, Traced], bool]) -> int | None:
    if user.op == "call_module":
        module = traced.module.get_submodule(str(user.target))
        if base_layer(module) in (nn.Embedding, nn.EmbeddingBag):
            return int(module.num_embeddings)  # type: ignore[arg-type]
    elif user.target in (F.embedding, F.embedding_bag):
        given: dict[str, Any] = dict(zip(("input", "weight"), user.args, strict=False)) | user.kwargs
        weight = traced.fixed.get(given["weight"])
        return None if given["input"] is not source or weight is None else len(weight)
    elif user.target is F.one_hot:
        return _classes(user)
    return rows_addressed(user, traced, moves) if user.op != "output" and moves(user, traced) else None


def _layer(call: Call) -> QEmbedding:
    if call.get("max_norm") is not None:
        raise call.refuse(f"{call.name} with max_norm, which rescales rows as they are read", "rescale the table once, and leave max_norm off")
    if call.module is not None:
        assert isinstance(call.module, nn.Embedding | nn.EmbeddingBag)  # the classes that the rules are entered under
        return QEmbedding(call.module, call.recipe, call.path, call.module.padding_idx)
    if "input" not in call.arguments or call.arguments["input"] not in call.traced.shapes:
        raise call.refuse(f"{call.name} of numbers that are not computed from the input", "take the rows ahead, as a buffer")
    padding, rows = call.get("padding_idx"), shape_of(call, call.arguments.get("weight"))[0]
    return QEmbedding(weights_of(call, call.arguments.get("weight")), call.recipe, call.path, None if padding is None else padding % rows)


def _classes(node: fx.Node) -> int | None:
    """The classes of a ``one_hot``, where it says how many."""
    given = node.args[1] if len(node.args) > 1 else node.kwargs.get("num_classes", -1)
    return given if isinstance(given, int) and given > 0 else None


def _one_hot(call: Call) -> Layers:
    count = _classes(call.node)
    if count is None:
        raise call.refuse("one_hot without num_classes, which follows the data", "say how many: F.one_hot(x, num_classes)")
    return [QOneHot(count)]


def _embedding(call: Call) -> Layers:
    return [_layer(call)]


def _bag(call: Call) -> Layers:
    """The rows of a bag, and what becomes of them."""
    more = (*call.node.args[1:], *call.node.kwargs.values()) if call.module is not None else ()
    if (
        any(argument is not None for argument in more)
        or call.get("offsets") is not None
        or call.get("per_sample_weights") is not None
        or len(call.in_shape) != 1
    ):
        raise call.refuse(f"{call.name} of bags of different lengths, or with weights", "give it (batch, numbers), and no more")
    if call.get("padding_idx") is not None:
        raise call.refuse(f"{call.name} with padding_idx, which leaves numbers out", "keep a row of zeros, and sum (mode='sum')")
    rows, mode = Part(_layer(call), (0,)), call.get("mode", "mean")
    (width,), count = call.out_shape, call.in_shape[0]
    shape = (count, width)
    join: FixedLayer
    if mode == "mean":
        join = QReduceMean((0,), shape, call.recipe, call.path, call.first)
    else:
        join = (QReduceMax if mode == "max" else QReduceSum)((0,), shape)
    joined = Part(join, (rows,), "_joined")
    return [rows, joined, Part(QReshape((width,)), (joined,), "_flat")]


_BAG = "input weight offsets max_norm norm_type scale_grad_by_freq mode sparse per_sample_weights include_last_offset padding_idx"

FAMILY = Family(
    layers=(QEmbedding, QOneHot, QReduceSum, QReduceMean, QReduceMax, QReshape),
    modules={nn.Embedding: _embedding, nn.EmbeddingBag: _bag},
    functions={
        F.embedding: ("input weight padding_idx max_norm", _embedding),
        F.embedding_bag: (_BAG, _bag),
        F.one_hot: ("input num_classes", _one_hot),
    },
    takes_constants=True,
)
