"""What a file has around its integers: floats that become integers at its inputs, and integers that become floats or shares at its outputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from qfx import operators as ops
from qfx.errors import UnsupportedError
from qfx.fixed.type import FixedType, OMode, QMode
from qfx.integers.tflite.file import File, Op
from qfx.integers.tflite.network import WIDTHS, Network, channels_first
from qfx.ir.graph import LEFT_OUT_KEY, OUTPUTS_KEY, Graph, graph_name
from qfx.ir.values import ArrayType

QUANTIZATION_KEY = "tflite"
"""The entry of the metadata that says, a line for each input and output, what its integers stand for."""

_GIVEN = FixedType(8, 8, True, QMode.RND, OMode.SAT)
"""The type of an input: whole numbers pass unchanged."""


class Ends:
    """Which tensors of a file are inputs and outputs of the graph, and which operators are left out around them."""

    inputs: list[int]
    outputs: list[int]

    def __init__(self, file: File) -> None:
        self._file = file
        self._made = {output: op for op in file.ops for output in op.outputs}
        self._left: list[Op] = []
        self.inputs = [self._first(index) for index in file.inputs]
        self.outputs = [self._last(index) for index in file.outputs]

    def inside(self) -> Iterator[Op]:
        """The operators that are not left out."""
        left = set(map(id, self._left))
        return (op for op in self._file.ops if id(op) not in left)

    def give(self, network: Network) -> None:
        """The inputs of the graph. UnsupportedError where one is neither int8 nor int16."""
        for index in self.inputs:
            width = network.width(index)
            input_ = ops.Input(channels_first(network.shape(index)), ArrayType.of(replace(_GIVEN, width=width, int_bits=width)))
            network.hold(index, network.emit(network.name(index), input_))

    def graph(self, network: Network) -> Graph:
        """The whole graph; outputs bear the file's names."""
        held = tuple(network.held(index) for index in self.outputs)
        for index, node in zip(self.outputs, held, strict=True):
            if isinstance(network.op(node), ops.Input) or held.count(node) > 1:
                what = "is an input too, or twice an output"
                raise UnsupportedError(what, where=network.tensor(index).name, remedy="let an operator make each output")
        names = [graph_name(self._file.tensors[index].name) for index in self._file.outputs]
        metadata = {QUANTIZATION_KEY: "\n".join(self._told(network))}
        if len(names) > 1:
            metadata[OUTPUTS_KEY] = "\n".join(names)
        if self._left:
            metadata[LEFT_OUT_KEY] = "\n".join(f"{network.where(op)}" for op in self._left)
        return Graph(graph_name(self._file.name), tuple(network.nodes), held, metadata)

    def _told(self, network: Network) -> Iterator[str]:
        for side, indices in (("input", self.inputs), ("output", self.outputs)):
            for index in indices:
                tensor = network.tensor(index)
                yield f"{side} {tensor.name}: scale {tensor.scales[0]!s}, zero point {tensor.zeros[0]}"

    def _first(self, index: int) -> int:
        """An input, or the tensor of integers that it becomes first of all."""
        readers = [op for op in self._file.ops if index in op.inputs]
        if self._file.tensors[index].dtype in WIDTHS or len(readers) != 1 or readers[0].kind != "QUANTIZE" or not self._same(readers[0]):
            return index
        self._left.append(readers[0])
        return readers[0].outputs[0]

    def _last(self, index: int) -> int:
        """An output, or the last tensor of integers that it is computed from."""
        op = self._made.get(index)
        if op is None or index in self.inputs or op.kind not in ("SOFTMAX", "DEQUANTIZE", "QUANTIZE") or len(op.inputs) != 1:
            return index
        if op.kind == "QUANTIZE" and (self._file.tensors[index].dtype in WIDTHS or not self._same(op)):
            return index
        left = set(map(id, self._left))
        if any(index in other.inputs and id(other) not in left for other in self._file.ops):
            return index
        self._left.append(op)
        return self._last(op.inputs[0])

    def _same(self, op: Op) -> bool:
        """Whether a QUANTIZE takes floats, or gives the same numbers with another zero point."""
        source, result = (self._file.tensors[index] for index in (op.inputs[0], op.outputs[0]))
        return source.dtype == "FLOAT32" or source.scales.tolist() == result.scales.tolist()
