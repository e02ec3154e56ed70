"""A .tflite file becomes a graph whose integers are the file's own."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from qfx.errors import ModelFileError, UnsupportedError, together
from qfx.integers.tflite import arithmetic, moving, pooling, products, tables
from qfx.integers.tflite.ends import Ends
from qfx.integers.tflite.file import Op, read_file
from qfx.integers.tflite.network import Network
from qfx.integers.tflite.rounding import Rounding
from qfx.ir.graph import Graph

_KINDS: Mapping[str, Callable[[Network, Op], None]] = MappingProxyType({
    "CONV_2D": products.conv_2d,
    "DEPTHWISE_CONV_2D": products.depthwise_conv_2d,
    "FULLY_CONNECTED": products.fully_connected,
    "TRANSPOSE_CONV": products.transpose_conv,
    "ADD": arithmetic.add,
    "SUB": arithmetic.sub,
    "MUL": arithmetic.mul,
    "MAXIMUM": arithmetic.maximum,
    "MINIMUM": arithmetic.minimum,
    "QUANTIZE": arithmetic.quantize,
    "RELU": arithmetic.relu,
    "RELU6": arithmetic.relu6,
    "RELU_N1_TO_1": arithmetic.relu_n1_to_1,
    "LEAKY_RELU": tables.leaky_relu,
    "PRELU": tables.prelu,
    "LOGISTIC": tables.logistic,
    "TANH": tables.tanh,
    "HARD_SWISH": tables.hard_swish,
    "AVERAGE_POOL_2D": pooling.average_pool_2d,
    "MAX_POOL_2D": pooling.max_pool_2d,
    "MEAN": pooling.mean,
    "RESHAPE": moving.reshape,
    "SQUEEZE": moving.reshape,
    "EXPAND_DIMS": moving.reshape,
    "CONCATENATION": moving.concatenation,
    "TRANSPOSE": moving.transpose,
    "SLICE": moving.slice_,
    "STRIDED_SLICE": moving.strided_slice,
    "SPLIT": moving.split,
    "PAD": moving.pad,
    "PADV2": moving.pad,
    "RESIZE_BILINEAR": moving.resize_bilinear,
    "RESIZE_NEAREST_NEIGHBOR": moving.resize_nearest_neighbor,
})  # fmt: skip


_INPUTS: Mapping[str, tuple[int, int]] = MappingProxyType({
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"), (2, 3)),
    **dict.fromkeys(("ADD", "SUB", "MUL", "MAXIMUM", "MINIMUM", "PRELU", "MEAN", "EXPAND_DIMS", "TRANSPOSE", "SPLIT", "PAD"), (2, 2)),
    **dict.fromkeys(("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), (2, 2)),
    "TRANSPOSE_CONV": (3, 4), "RESHAPE": (1, 2), "SLICE": (3, 3), "PADV2": (3, 3), "STRIDED_SLICE": (4, 4), "CONCATENATION": (1, 1 << 31),
})  # fmt: skip
"""How many inputs operators have, least and most, where it is not one."""


def read_tflite(path: str | os.PathLike[str], *, rounding: Rounding | None = None) -> Graph:
    """The graph of a model of int8, or int16 with weights of int8. Its inputs and outputs are the stored integers, channels first, without the batch.

    ``rounding``: of all kernels; None: what LiteRT's reference kernels do, NEAREST for FULLY_CONNECTED and DOUBLE for the rest. What a float model
    has around its integers is left out and told in the metadata: QUANTIZE at an input, and SOFTMAX or DEQUANTIZE at an output.

    Raises ModelFileError for a file that is damaged; UnsupportedError, listing all of them, for operators, types and options that qfx does not
    read; ExactnessError where a sum can leave int32 or a rounding has no fixed-point form.
    """
    file = read_file(Path(path))
    ends, network = Ends(file), Network(file, rounding)
    blockers = [_unknown(network, op) for op in ends.inside() if op.kind not in _KINDS]
    if blockers:
        raise together(blockers, where=str(path))
    ends.give(network)
    for op in ends.inside():
        least, most = _INPUTS.get(op.kind, (1, 1))
        if not least <= len(op.inputs) <= most or not op.outputs or (len(op.outputs) > 1 and op.kind != "SPLIT"):
            what = f"does not fit its tensors: {len(op.inputs)} inputs and {len(op.outputs)} outputs"
            raise ModelFileError(what, where=network.where(op), remedy="the file contradicts itself; convert the model again")
        try:
            _KINDS[op.kind](network, op)
        except (IndexError, ValueError, KeyError, ZeroDivisionError, OverflowError) as error:  # of operators with other tensors than their kind has
            what = f"does not fit its tensors: {error}"
            raise ModelFileError(what, where=network.where(op), remedy="the file contradicts itself; convert the model again") from error
    return ends.graph(network)


_WHY: Mapping[str, tuple[str, str]] = MappingProxyType({
    "SOFTMAX": (
        "SOFTMAX in the middle has no counterpart: LiteRT adds floats, each addition rounded, which no integers reproduce for every input",
        "end the model at a SOFTMAX, which is left out there, or in front of it; or take the float model with its softmax by table: qfx.quantize",
    ),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": (
        "UNIDIRECTIONAL_SEQUENCE_LSTM has no counterpart: the rounding of its cell is not built",
        "take the float model with its nn.LSTM: qfx.quantize; or cut the model in front of it",
    ),
    "SVDF": ("SVDF has no counterpart: it keeps its state from one run to the next", "cut the model in front of it, or replace it by convolutions"),
})  # fmt: skip
"""Of operators that are asked for: why they are not read, and what to do."""


def _unknown(network: Network, op: Op) -> UnsupportedError:
    why, remedy = _WHY.get(op.kind, (f"{op.kind} has no counterpart", f"qfx reads {', '.join(sorted(_KINDS))}"))
    return UnsupportedError(why, where=network.where(op), remedy=remedy)
