"""What ``hls`` and ``estimate`` share: the options that say what is built, and the plan that comes of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from qfx.cli.common import FILE
from qfx.cli.completion import boards

if TYPE_CHECKING:
    from qfx.hardware.board import Board
    from qfx.hardware.folding.search import Plan
    from qfx.hardware.sequential.plan import Plan as Sequential
    from qfx.hardware.unrolled.plan import Plan as Unrolled
    from qfx.ir.graph import Graph
    from qfx.progress import Progress

_Command = TypeVar("_Command", bound=Callable[..., Any])

AUTO = "auto"
"""The period that the clock model believes."""
MOST_BATCH = 64
"""Frames of a run."""
_BATCHED = ("ddr", AUTO)
"""The places of weights with which frames can share them in streaming designs."""


def _period(context: click.Context, parameter: click.Parameter, value: str | None) -> float | str | None:
    """A number of nanoseconds, or AUTO."""
    if value is None or value == AUTO:
        return value
    try:
        return float(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a number of nanoseconds nor {AUTO!r}.", context, parameter) from None


clock_option: Callable[[_Command], _Command] = click.option(
    "--clock-ns",
    metavar="NS",
    callback=_period,
    help="The target clock period in nanoseconds, or auto: the shortest that the design is expected to reach  [default: the board's].",
)
_OPTIONS = (
    click.option(
        "--board", "board_name", required=True, shell_complete=boards, help="The target board (`qfx boards` lists them), or the path of a TOML file."
    ),
    clock_option,
    click.option("--fps", type=float, default=None, help="Choose the cheapest folding that makes so many frames per second."),
    click.option("--fit", is_flag=True, help="Choose the fastest folding that fits the board."),
    click.option("--folding", type=FILE, default=None, help="A folding.toml that fixes the folding of layers."),
    click.option("--shift-and-add", is_flag=True, help="Build every product with a constant of shifts and additions, without multipliers."),
    click.option(
        "--weights",
        type=click.Choice(("rom", "stream", "ddr", "auto")),
        default="rom",
        show_default=True,
        help="In ROM; loaded while the hardware runs; in the board's memory, read for every frame; or auto: there what the chip cannot hold.",
    ),
    click.option(
        "--ports",
        type=click.Choice(("separate", "merged")),
        default=None,
        help="Of several inputs or outputs: a stream for each, or one for all inputs and one for all outputs  [default: as --folding, or separate].",
    ),
    click.option(
        "--style",
        type=click.Choice(("streaming", "dataflow", "unrolled", "sequential", "auto")),
        default="streaming",
        show_default=True,
        callback=lambda _, __, style: "streaming" if style == "dataflow" else style,
        help="A process for each layer (dataflow is another word for it), or the whole network one pipelined function (small networks; "
        "docs/unrolled.md), or one engine that runs layer by layer from memory (large networks; docs/sequential.md). auto: streaming or "
        "sequential, whichever fits or is faster.",
    ),
    click.option(
        "--adders",
        type=click.Choice(("qfx", "da4ml")),
        default="qfx",
        show_default=True,
        help="With --style unrolled: what makes the adder graphs, the package da4ml being installed.",
    ),
    click.option(
        "--batch",
        type=click.IntRange(1, MOST_BATCH),
        default=1,
        show_default=True,
        help="The frames that are taken together, so that weights are read once for several: with --style sequential (docs/sequential.md), and of "
        "fully connected layers with --weights ddr or auto (docs/memory.md).",
    ),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the options of a plan say."""

    board_name: str
    clock_ns: float | str | None
    fps: float | None
    fit: bool
    folding: Path | None
    shift_and_add: bool
    weights: str
    ports: str | None
    style: str
    adders: str
    batch: int = 1


def plan_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Those of a plan; the command gets them together, as ``asked``."""
    return _gathering(command, _OPTIONS)


def optional_plan_options(board_help: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The same for a command that can do without a plan: then ``asked.board_name`` is empty."""
    board = click.option("--board", "board_name", default="", shell_complete=boards, help=board_help)
    return lambda command: _gathering(command, (board, *_OPTIONS[1:]))


def _gathering(command: Callable[..., Any], options: Sequence[Callable[..., Any]]) -> Callable[..., Any]:
    @functools.wraps(command)
    def gathered(**given: Any) -> Any:
        asked = Asked(**{field.name: given.pop(field.name) for field in fields(Asked)})
        return command(asked=asked, **given)

    for option in reversed(options):
        gathered = option(gathered)
    return gathered


def decided(asked: Asked, model: Path, progress: Progress) -> tuple[Asked, Graph, Plan | Unrolled | Sequential, str]:
    """As ``plan_of``, with what was asked for and, of the style "auto", what was chosen and why in words.

    A process for each layer is tried with all weights on the chip, then, where that does not do, with those in memory that the chip cannot hold, then
    one engine. At a rate that is asked for the first that makes it is taken; else the fastest of those that fit: the engine comes first, in seconds,
    and processes for each layer are looked for as far as they are faster.
    """
    from qfx.errors import ProjectError, UnsupportedError

    if asked.style != AUTO:
        return asked, *plan_of(asked, model, progress), ""
    wanted = asked.fps
    free = replace(asked, style="streaming", fit=wanted is None and asked.folding is None)
    refused: dict[str, str] = {}
    errors: list[ProjectError | UnsupportedError] = []
    made: list[tuple[Asked, Graph, Any, str]] = []
    on_chip = free if asked.folding is not None else replace(free, batch=1)
    ways = [(on_chip, "streaming, weights on the chip")] if asked.weights == "rom" else []
    ways.append((free if asked.weights != "rom" else replace(free, weights=AUTO), "streaming, weights in memory as far as the chip cannot hold them"))
    if asked.folding is None and not asked.shift_and_add and asked.weights != "stream" and asked.ports != "merged":
        ways.append((replace(asked, style="sequential", fps=None, fit=False, weights="rom"), "sequential, one engine for all layers"))
    rates: list[float] = []  # of those that are too slow
    bounded = wanted is None and asked.folding is None and asked.clock_ns != AUTO  # of other periods the engine's rate says nothing
    above = 0.0
    for way, name in sorted(ways, key=lambda one: bounded and one[0].style != "sequential"):
        if way.weights == AUTO and any((one.style, one.weights) == ("streaming", "rom") for one, *_ in made):
            continue  # of streaming designs nothing is faster than one whose weights are on the chip
        try:
            graph, found = plan_of(way, model, progress, above=above)
        except (ProjectError, UnsupportedError) as error:
            refused[name] = f"{name}: {error.what}"
            errors.append(error)
            continue
        if wanted is not None and found.fps < wanted:
            refused[name] = f"{name}: {found.fps:.1f} frames per second"
            rates.append(found.fps)
            continue
        above = found.fps if bounded and way.style == "sequential" else above
        made.append((way, graph, found, name))
        if wanted is not None:
            break
    if not made:
        if len(errors) == len(ways) and len({error.what for error in errors}) == 1:
            raise errors[0]  # of the board, or of the model: no way round it
        raise ProjectError("; ".join(refused[name] for _, name in ways), where="--style auto", remedy=_way_out(asked, rates))
    way, graph, found, name = max(made, key=lambda one: one[2].fps)
    others = [f"{other}: {one.fps:.1f} frames per second" for _, _, one, other in made if one is not found]
    told = "; ".join([*(refused[other] for _, other in ways if other in refused), *others])
    return way, graph, found, f"style: {name}, {found.fps:.1f} frames per second{f' ({told})' if told else ''}"


def _way_out(asked: Asked, rates: Sequence[float]) -> str:
    """What to do where no style does. ``rates``: of those that are built, but too slow."""
    from qfx.hardware.board import board

    slower = f"ask for at most {max(rates):.4g} frames per second, or " if rates else ""
    memory = "" if board(asked.board_name).memory_gb_s else "give memory_gb_s in the board's file (docs/board.md) if it has memory, or "
    return f"{slower}{memory}use a larger board or shorter words"


def plan_of(asked: Asked, model: Path, progress: Progress, above: float = 0.0) -> tuple[Graph, Plan | Unrolled | Sequential]:
    """The prepared graph of the model and what the options make of it. ``above``: as of a Request.

    Raises ProjectError for options that mean nothing in the style, and for one that ``decided`` must choose.
    """
    from qfx.errors import ProjectError
    from qfx.hardware.board import board, check_clock

    if asked.style == AUTO:
        raise ProjectError("which style it is to be has to be said here", where="--style auto", remedy="use streaming, unrolled or sequential")
    if asked.style != "unrolled" and asked.adders != "qfx":
        raise ProjectError("--adders makes the adder graphs of unrolled designs", where="--adders", remedy="leave it out, or use --style unrolled")
    if asked.batch != 1 and (asked.style == "unrolled" or (asked.style == "streaming" and asked.weights not in _BATCHED and asked.folding is None)):
        what = f"--batch {asked.batch}: frames share what is read from the board's memory, and no weights lie there"
        raise ProjectError(what, where=f"--style {asked.style}", remedy="leave it out, or use --weights ddr or auto, or --style sequential")
    if asked.style != "streaming":
        _refuse_folding(asked)
    found = board(asked.board_name)
    clock_ns = found.clock_ns if asked.clock_ns is None or asked.clock_ns == AUTO else float(asked.clock_ns)
    check_clock(clock_ns, found)
    if asked.style == "streaming":
        make = _folded(asked, model, found, progress, above)
    else:
        make = {"unrolled": _unrolled, "sequential": _sequential}[asked.style](asked, model, found, progress)
    return make.graph, fastest(make, clock_ns) if asked.clock_ns == AUTO else make.plan(clock_ns)


def summary_of(made: Plan | Unrolled | Sequential) -> Any:
    """The module that tells of such a plan: as_text, as_json and data."""
    from qfx.hardware.folding import summary
    from qfx.hardware.sequential import summary as sequential_summary
    from qfx.hardware.sequential.plan import Plan as Sequential
    from qfx.hardware.unrolled import summary as unrolled_summary
    from qfx.hardware.unrolled.plan import Plan as Unrolled

    return unrolled_summary if isinstance(made, Unrolled) else sequential_summary if isinstance(made, Sequential) else summary


@dataclass(frozen=True, slots=True)
class Making:
    """How plans of a graph are made, given the clock period; ``free``: nothing but the period itself depends on it."""

    graph: Graph
    plan: Callable[[float], Any]
    free: bool


def fastest(make: Making, start_ns: float) -> Any:
    """The plan at the period that it is believed to reach. The plan may depend on the period and so on its part, so that this is a search: it goes to
    what is believed of the plan before, and after two steps only upwards, which has an end."""
    made = make.plan(start_ns)
    for step in count():
        wanted = made.clock.believed_ns
        if step >= 2:
            wanted = max(wanted, made.clock_ns)
        if wanted == made.clock_ns:
            return made
        made = replace(made, clock_ns=wanted) if make.free else make.plan(wanted)
    raise AssertionError("not reached")


def _folded(asked: Asked, model: Path, on: Board, progress: Progress, above: float = 0.0) -> Making:
    from qfx.hardware.design.schedule import Request
    from qfx.hardware.folding import file as folding_file
    from qfx.hardware.folding.search import resolve
    from qfx.hardware.project.project import prepare
    from qfx.ir.from_onnx import load_graph

    request = Request(fps=asked.fps, fit=asked.fit) if asked.folding is None else folding_file.read(asked.folding, fps=asked.fps, fit=asked.fit)
    if asked.ports is not None:
        request = replace(request, merged=asked.ports == "merged")
    memory = asked.weights if asked.weights in ("ddr", "auto") else ""
    request = replace(request, shift_and_add=asked.shift_and_add, memory=memory, batch=asked.batch, above=above)
    graph = prepare(load_graph(model), asked.weights)
    return Making(graph, lambda clock_ns: resolve(graph, on, request, clock_ns=clock_ns, progress=progress), request.fps is None)


def refuse_for_peer(asked: Asked) -> None:
    """Raise ProjectError for options that say how qfx's own designs are built."""
    from qfx.errors import ProjectError

    usual = {"weights": "rom", "style": "streaming", "adders": "qfx", "batch": 1}
    given = {f"--{field.replace('_', '-')}": getattr(asked, field) for field in usual if getattr(asked, field) != usual[field]}
    given |= {f"--{field.replace('_', '-')}": True for field in ("fps", "fit", "folding", "shift_and_add", "ports") if getattr(asked, field)}
    if asked.clock_ns == AUTO:
        given["--clock-ns auto"] = AUTO
    if given:
        what = f"{next(iter(given))} says how qfx builds its own designs"
        raise ProjectError(what, where="--backend hls4ml", remedy="leave it out")


def _refuse_folding(asked: Asked) -> None:
    """Raise ProjectError for options that mean nothing of a design without folding."""
    from qfx.errors import ProjectError

    given = {
        "--fps": asked.fps is not None and asked.style == "unrolled",
        "--fit": asked.fit,
        "--folding": asked.folding is not None,
        "--shift-and-add": asked.shift_and_add,
        f"--weights {asked.weights}": asked.weights != "rom" and (asked.style == "unrolled" or asked.weights == "stream"),
        "--ports merged": asked.ports == "merged",
    }
    named = ", ".join(name for name, there in given.items() if there)
    if named:
        why = {
            "unrolled": "an unrolled design has no folding, its weights in its adders, and a stream for each port",
            "sequential": "a sequential design is the fastest engine that fits the board, and has its weights, inputs and outputs in memory",
        }
        raise ProjectError(f"{named}: {why[asked.style]}", where=f"--style {asked.style}", remedy=f"leave out {named}, or use --style streaming")


def _unrolled(asked: Asked, model: Path, on: Board, progress: Progress) -> Making:
    from qfx.hardware.project.project import prepare
    from qfx.hardware.unrolled.plan import plan as unroll
    from qfx.hardware.unrolled.sharing import shared_graph
    from qfx.hardware.unrolled.with_da4ml import da4ml_graph
    from qfx.ir.from_onnx import load_graph

    graph = prepare(load_graph(model))
    solver = {"qfx": shared_graph, "da4ml": da4ml_graph}[asked.adders]
    return Making(graph, lambda clock_ns: unroll(graph, on, clock_ns=clock_ns, solver=solver, progress=progress), False)


def _sequential(asked: Asked, model: Path, on: Board, progress: Progress) -> Making:
    from qfx.hardware.project.project import prepare
    from qfx.hardware.sequential.delay import check_pace
    from qfx.hardware.sequential.plan import plan as engine
    from qfx.ir.from_onnx import load_graph

    graph = prepare(load_graph(model))

    def made(clock_ns: float) -> Sequential:
        found = engine(graph, on, clock_ns=clock_ns, batch=asked.batch, progress=progress)
        if asked.fps is not None:
            check_pace(found, asked.fps, graph.name)
        return found

    return Making(graph, made, asked.fps is None)
