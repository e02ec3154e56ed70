"""What each ATen operator of an exported program becomes: a table from operators to torch layers."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from qfx.capture.assemble import Assembly, Pads, Value
from qfx.errors import UnsupportedError


@dataclass(frozen=True)
class Call:
    """One operation: where its layer goes, its operator, and its arguments by the names of the operator's schema. ``alone``: whether nothing else
    reads its first tensor; ``stored``: whether a constant is of what checkpoints have."""

    make: Assembly
    name: str
    operator: str
    arguments: dict[str, Any]
    alone: Callable[[], bool]
    stored: Callable[[Tensor], bool] = lambda _: False

    def refuse(self, what: str, remedy: str) -> UnsupportedError:
        return UnsupportedError(f"{self.operator} with {what}", where=self.name, remedy=remedy)

    def get(self, name: str, default: Any = None) -> Any:
        value = self.arguments.get(name)
        return default if value is None else value

    @property
    def x(self) -> Value:
        """The first tensor."""
        value = next(iter(self.arguments.values()))
        if not isinstance(value, Value):
            raise self.refuse("a constant in place of data", "compute constants ahead of the export")
        return value

    def tensor(self, name: str) -> Tensor | None:
        """A constant, in double where the model is."""
        value = self.arguments.get(name)
        if isinstance(value, Value):
            raise self.refuse(f"{name} that depends on data", "let weights be constants")
        return None if not isinstance(value, Tensor) else value if value.dtype == torch.float64 else value.float()

    def weight(self, name: str = "weight") -> Tensor:
        found = self.tensor(name)
        if found is None:
            raise self.refuse(f"no {name}", "export the model in evaluation mode, with its statistics")
        return found

    def sizes(self, name: str, default: Sequence[int] | int, rank: int) -> tuple[int, ...]:
        value = self.get(name)
        value = default if value is None or value == [] else value
        sizes = (value,) if isinstance(value, int) else tuple(int(size) for size in value)
        return sizes * rank if len(sizes) == 1 else sizes


Handler = Callable[[Call], "Value | list[Value]"]


def _conv(call: Call) -> Value:
    weight, rank = call.weight(), call.x.rank
    stride, dilation, groups = call.sizes("stride", 1, rank), call.sizes("dilation", 1, rank), int(call.get("groups", 1))
    padding = call.get("padding")
    if isinstance(padding, str):
        sides = [0 if padding == "valid" else d * (k - 1) for k, d in zip(weight.shape[2:], dilation, strict=True)]
        pads: Pads = [(total // 2, total - total // 2) for total in sides]
    else:
        pads = [(side, side) for side in call.sizes("padding", 0, rank)]
    if call.get("transposed", False) or "transpose" in call.operator:
        extra = call.sizes("output_padding", 0, rank)
        return call.make.conv_transpose(call.name, call.x, weight, call.tensor("bias"), stride, pads, extra, dilation, groups)
    return call.make.conv(call.name, call.x, weight, call.tensor("bias"), stride, pads, dilation, groups)


def _linear(call: Call) -> Value:
    return call.make.linear(call.name, call.x, call.weight(), call.tensor("bias"))


def _addmm(call: Call) -> Value:
    if call.get("beta", 1) != 1 or call.get("alpha", 1) != 1 or not isinstance(call.arguments["mat1"], Value):
        raise call.refuse("factors, or data on the right", "use nn.Linear")
    return call.make.linear(call.name, call.arguments["mat1"], call.weight("mat2").mT, call.tensor("self"))


def _batch_norm(call: Call) -> Value | list[Value]:
    if call.get("training", False):
        raise call.refuse("training on", "export the model in evaluation mode: model.eval()")
    mean, var = call.weight("running_mean"), call.weight("running_var")
    result = call.make.batch_norm(call.name, call.x, call.tensor("weight"), call.tensor("bias"), mean, var, float(call.get("eps", 1e-5)))
    return [result] if call.operator.startswith("_native") else result


def _embedding(call: Call) -> Value:
    weight, padding = call.weight(), int(call.get("padding_idx", -1))
    module = nn.Embedding(weight.shape[0], weight.shape[1], None if padding < 0 else padding, _weight=weight)
    numbers = call.arguments.get("indices")
    if not isinstance(numbers, Value):
        raise call.refuse("constant indices", "take the rows ahead of the export")
    return call.make.layer(call.name, module, numbers)


def _reshape(call: Call) -> Value:
    return call.make.reshape(call.name, call.x, [int(size) for size in call.get("size", call.get("shape"))])


_RECURRENT: dict[str, Any] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn_tanh": nn.RNN, "rnn_relu": nn.RNN}


def _recurrent(call: Call) -> list[Value]:
    params, hx = call.get("params"), call.get("hx")
    if not isinstance(params, list) or not all(isinstance(part, Tensor) for part in params) or "batch_sizes" in call.arguments:
        raise call.refuse("weights that depend on data, or a packed sequence", "let weights be constants, and all sequences as long")
    states = [hx] if not isinstance(hx, list) else hx
    module = _recurrent_module(call, params)
    given: tuple[Any, ...] = ()
    batched = call.x.data.dim() == 3  # ``quantize`` refuses any other, with a state or without
    if batched and any(isinstance(state, Value) or bool(state.any()) or call.stored(state) for state in states):
        held = [state if isinstance(state, Value) else call.make.state(call.name, state) for state in states]
        given = (held[0] if len(held) == 1 else tuple(held),)
    found = call.make.layer(call.name, module, call.x, *given)
    result, ends = (call.make.call(call.name, operator.getitem, found, place) for place in (0, 1))
    return [result, *(ends if isinstance(ends, list) else [ends])]


def _recurrent_module(call: Call, params: list[Tensor]) -> nn.Module:
    more: dict[str, Any] = {"nonlinearity": call.operator.removeprefix("rnn_")} if call.operator.startswith("rnn") else {}
    hidden, size = params[0].shape[0] // {"lstm": 4, "gru": 3}.get(call.operator, 1), params[1].shape[1]
    if call.operator == "lstm" and size != hidden:
        more["proj_size"] = size
    options = {name: call.get(name, False) for name in ("num_layers", "dropout", "bidirectional", "batch_first")}
    more["dtype"] = torch.float64 if params[0].dtype == torch.float64 else torch.float32
    module = _RECURRENT[call.operator](params[0].shape[1], hidden, bias=bool(call.get("has_biases", False)), **options, **more)
    with torch.no_grad():
        for name, values in zip(module._flat_weights_names, params, strict=True):
            getattr(module, name).copy_(values)
    found: nn.Module = module
    return found


def _bag(call: Call) -> list[Value]:
    """The rows of bags of one length, of which ATen is given all numbers in a row and where each bag begins."""
    weight, numbers, offsets, modes = call.weight(), call.arguments.get("indices"), call.arguments.get("offsets"), ("sum", "mean", "max")
    flat = numbers.node if isinstance(numbers, Value) and numbers.data.dim() == 1 else None
    bags = None if flat is None else call.make.unflattened(flat)
    whole = bags is not None and isinstance(offsets, Tensor) and torch.equal(offsets, torch.arange(0, bags.data.numel(), bags.data.shape[1]))
    if bags is None or not whole or call.get("per_sample_weights") is not None:
        raise call.refuse("bags of different lengths, or with weights", "give it (batch, numbers), and no more")
    padding = int(call.get("padding_idx", -1))
    options: dict[str, Any] = {"mode": modes[int(call.get("mode", 0))], "padding_idx": None if padding < 0 else padding, "_weight": weight}
    return [call.make.layer(call.name, nn.EmbeddingBag(weight.shape[0], weight.shape[1], **options), bags)]


def _adaptive_maxima(call: Call) -> list[Value]:
    """ATen's gives the places too."""
    function = getattr(functional, call.operator)
    return [call.make.call(call.name, function, call.x, [int(size) for size in call.get("output_size")])]


RECURRENT = tuple(_RECURRENT)
"""Operators whose first states may be values too."""


def softsign(call: Call) -> Value | None:
    """x / (1 + |x|); None for any other quotient."""
    x, other = call.get("self"), call.get("other")
    if not isinstance(x, Value) or not isinstance(other, Value):
        return None
    more = other.node.args if other.node.target is torch.ops.aten.add.Tensor and not other.node.kwargs else ()
    magnitude = more[0] if len(more) == 2 and more[1] == 1 else None
    if not isinstance(magnitude, fx.Node) or magnitude.target is not torch.ops.aten.abs.default or magnitude.args[0] is not x.node:
        return None
    found: Value = call.make.call(call.name, functional.softsign, x)
    return found


WRITTEN: dict[str, tuple[str, Callable[[Call], Value | None]]] = {"softsign": ("div", softsign)}
"""By the function of torch that the program says was called: the operator that its expression ends with, what gives the whole, None for others."""

LAYERS: dict[str, Handler] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d", "convolution"), _conv),
    "linear": _linear,
    "addmm": _addmm,
    **dict.fromkeys(("batch_norm", "_native_batch_norm_legit_no_training"), _batch_norm),
    "embedding": _embedding,
    **dict.fromkeys(("embedding_bag", "_embedding_bag", "_embedding_bag_forward_only"), _bag),
    **dict.fromkeys(("view", "reshape", "_unsafe_view"), _reshape),
    **dict.fromkeys(_RECURRENT, _recurrent),
    **dict.fromkeys(("adaptive_max_pool2d", "adaptive_max_pool3d"), _adaptive_maxima),
}
"""What becomes a layer of torch, under the path that the exported module had, or needs to know of the batch; by the operator's name without its
overload. Everything else is called as it is, and ``quantize`` says what becomes of it."""


ON_CONSTANTS = frozenset(
    (
        *(
            "add",
            "sub",
            "rsub",
            "mul",
            "div",
            "neg",
            "abs",
            "reciprocal",
            "sqrt",
            "rsqrt",
            "exp",
            "log",
            "pow",
            "square",
            "sigmoid",
            "tanh",
            "softplus",
        ),
        *("clamp", "clamp_min", "maximum", "minimum", "sum", "mean", "var", "amax", "amin", "norm", "linalg_vector_norm", "dot", "vdot", "mv", "mm"),
        *("matmul", "flatten", "select", "slice", "cat", "stack", "_weight_norm", "permute", "t", "transpose", "view", "reshape", "unsqueeze"),
        *("squeeze", "expand", "clone", "detach", "detach_", "alias", "lift_fresh_copy", "contiguous", "zeros", "ones", "full", "arange", "eye"),
        *(
            "tril",
            "triu",
            "where",
            "zeros_like",
            "ones_like",
            "full_like",
            "scalar_tensor",
            "sign",
            "gt",
            "lt",
            "ge",
            "le",
            "eq",
            "ne",
            "logical_not",
        ),
        *("split", "split_with_sizes", "chunk", "unbind"),
        *("expand_as", "view_as", "unflatten", "outer", "remainder", "floor_divide", "masked_fill", "logical_and", "logical_or", "bitwise_and"),
        *("bitwise_or", "bitwise_not", "sin", "cos", "log1p", "expm1", "floor", "softmax", "_softmax", "relu", "std", "new_zeros", "new_ones"),
        *("to", "_to_copy", "cumsum", "repeat", "roll", "flip", "index_select", "linspace", "_assert_tensor_metadata"),
    )
)
"""Operators of torch that are carried out on constants as they are, such as those of weight and spectral normalization: they read and write nothing
but tensors."""


def _size(x: Any, dim: int) -> int:
    return int(x.data.shape[dim])


def _numel(self: Any) -> int:
    return int(self.data.numel())


INTEGERS: dict[str, Callable[..., int]] = {
    "torch.ops.aten.sym_size.int": _size,
    "torch.ops.aten.sym_numel.default": _numel,
    "_operator.add": operator.add,
    "_operator.sub": operator.sub,
    "_operator.mul": operator.mul,
    "_operator.floordiv": operator.floordiv,
}
"""What computes with sizes."""
