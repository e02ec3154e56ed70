"""How many numbers a word of each port has: what a request fixes of that, for the ports of a graph."""

from __future__ import annotations

from collections.abc import Sequence

from qfx.errors import ProjectError
from qfx.hardware.design.schedule import OUT, Request, Schedule
from qfx.hardware.folding.plan import nearest
from qfx.ir.graph import Graph


def fixed_ports(graph: Graph, request: Request) -> dict[str, int]:
    """The widths that the request gives ports by name, as ``Schedule.ports`` has them: by node, with OUT before an output's.

    Raises ProjectError for a name that no port of the graph has.
    """
    inputs = {node.name: node.name for node in graph.inputs}
    outputs = dict(zip(graph.output_names, (OUT + node for node in graph.outputs), strict=True))
    found = {}
    for name, parallel in request.ports:
        output = name.startswith(OUT)
        known = outputs if output else inputs
        if name.removeprefix(OUT) not in known:
            what = f"the model has no {'output' if output else 'input'} {name.removeprefix(OUT)!r}"
            raise ProjectError(what, where=f"[ports.{'output' if output else 'input'}]", remedy=nearest(name.removeprefix(OUT), known))
        found[known[name.removeprefix(OUT)]] = parallel
    return found


def fixed_schedule(graph: Graph, request: Request) -> Schedule:
    """The schedule with what the request fixes, and one number at a time elsewhere. Raises as ``fixed_ports``."""
    ports = fixed_ports(graph, request)
    input_, output = request.input_parallel or 1, request.output_parallel or 1
    if len(graph.inputs) + len(graph.outputs) == 2:
        input_, output = ports.get(graph.input.name, input_), ports.get(OUT + graph.output, output)
        ports = {}
    return Schedule.of(
        dict(request.foldings),
        input_parallel=input_,
        output_parallel=output,
        fifos=dict(request.fifos),
        ports=ports,
        merged=request.merged,
        fifo_storage=dict(request.fifo_storage),
        batch=request.batch,
    )


def fixed_widths(graph: Graph, request: Request) -> tuple[Sequence[int | None], Sequence[int | None]]:
    """What the request fixes of each input, and of each output; None: nothing.

    Raises as ``fixed_ports``, and ProjectError where there are several ports and one width is asked for.
    """
    if len(graph.inputs) + len(graph.outputs) > 2 and (request.input_parallel or request.output_parallel):
        remedy = "name the ports ([ports.input], [ports.output]), leave them to the search, or give a schedule"
        raise ProjectError("has several inputs or outputs, and one width is asked for", where=graph.name, remedy=remedy)
    ports = fixed_ports(graph, request)
    inputs = [ports.get(node.name, request.input_parallel) for node in graph.inputs]
    return inputs, [ports.get(OUT + name, request.output_parallel) for name in graph.outputs]
