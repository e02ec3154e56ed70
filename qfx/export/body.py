"""Writing the body of a Scan: a graph inside the file's graph, by the same writer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import NodeProto, helper

from qfx.errors import UnsupportedError
from qfx.export import opset
from qfx.export.bounds import Value, symmetric
from qfx.ir.graph import Graph, Node
from qfx.ir.within import MARK, inside, renamed

if TYPE_CHECKING:
    from qfx.export.writer import Writer


def write_scan(writer: Writer, node: Node, body: Graph, carried: tuple[int, ...]) -> Value:
    """The node as ONNX's Scan over the first axis, which the batch gives up for it: ONNX Runtime 1.31 ends on a Scan along another axis when there is
    no sample. States start as zeros. The body begins with its Inputs as a model does; their casts change nothing.
    """
    clash = next((name for name in writer.graph.infos if name.startswith(inside(node.name, ""))), None)
    if clash is not None:
        raise UnsupportedError(f"is called as the nodes inside {node.name!r} are", where=clash, remedy=f"give it a name without {MARK}")
    inner = writer.within(renamed(body, node.name))
    for part in inner.graph.nodes:
        inner.write(part)
    source, out = writer.graph.infos[node.inputs[0]], writer.graph.infos[node.name]
    step, *states = inner.graph.inputs
    given = [writer.values[node.inputs[0]].dtype, *(inner.values[state.name].dtype for state in states)]
    result, first, last = inner.graph.outputs[0], [], []
    for state, position, dtype in zip(states, carried, given[1:], strict=True):
        following, shape = inner.graph.outputs[position], list(inner.graph.infos[state.name].shape)
        given_on = f"{state.name}#next"
        proto = helper.make_node("Identity" if inner.values[following].dtype == dtype else "Cast", [following], [given_on], name=given_on)
        if proto.op_type == "Cast":
            proto.attribute.append(helper.make_attribute("to", dtype))
        inner.nodes.append(proto)
        last.append(helper.make_tensor_value_info(given_on, dtype, ["N", *shape]))
        first.append(_call(writer, "Zeros", [node.inputs[0]], f"{state.name}#first", shape=shape, dtype=dtype))
    inputs = [
        helper.make_tensor_value_info(f"{part.name}#float", dtype, ["N", *inner.graph.infos[part.name].shape])
        for part, dtype in zip((*states, step), (*given[1:], given[0]), strict=True)
    ]
    subgraph = helper.make_graph(
        inner.nodes,
        inner.graph.name,
        inputs,
        [*last, inner.value_info(result)],
        inner.initializers,
        value_info=[inner.value_info(part.name) for part in inner.graph.nodes if part.name != result],
    )
    steps = _call(writer, "Swap", [node.inputs[0]], f"{node.name}#steps", perm=_swapped(len(source.shape)))
    turns = f"{node.name}#turns"
    outputs = [*(f"{node.name}#{state.name}" for state in body.inputs[1:]), turns]
    scan = helper.make_node("Scan", [*first, steps], outputs, name=node.name, doc_string=f"{out.type}", body=subgraph, num_scan_inputs=1)
    writer.nodes.append(scan)
    _call(writer, "Swap", [turns], node.name, perm=_swapped(len(out.shape)))
    return Value(inner.values[result].dtype, symmetric(out.interval))


def _swapped(rank: int) -> list[int]:
    """Batch and steps change places."""
    return [1, 0, *range(2, rank + 1)]


def _call(writer: Writer, function: str, inputs: list[str], output: str, **attributes: int | list[int]) -> str:
    proto: NodeProto = helper.make_node(function, inputs, [output], name=output if "#" in output else f"{output}#joined", domain=opset.DOMAIN)
    for key in sorted(attributes):
        proto.attribute.append(helper.make_attribute(key, attributes[key]))
    writer.functions.add(function)
    writer.nodes.append(proto)
    return output
