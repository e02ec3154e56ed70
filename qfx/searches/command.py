"""``qfx sweep``: cells measured by any number of workers, a table, and a plot of the front."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

import qfx
from qfx.capture.source import use_current_folder
from qfx.cli.telling import telling
from qfx.errors import ProjectError
from qfx.files import writing
from qfx.searches.cells import NONE, Cell, Space
from qfx.searches.pool import Dask, Here, Pool
from qfx.searches.study import Row, Sweep, forget, front, is_file
from qfx.searches.work import Loaded, Measured, Subject
from qfx.training.budget.plot import plot_fronts
from qfx.watch.log import FILE, Log


@dataclass(frozen=True, slots=True)
class Request:
    """What the command is asked for."""

    subject: Subject
    space: Space
    output: Path
    storage: str
    study: str
    trials: int | None
    workers: int | None
    dask: str
    joins: bool
    as_json: bool
    force: bool


def execute(request: Request, again: list[str]) -> int:
    """Work, and tell of it. ``again``: the arguments of a worker that helps. Returns the exit code. Raises QfxError for bad input."""
    use_current_folder()
    request.output.mkdir(parents=True, exist_ok=True)
    storage = request.storage or str(request.output / "sweep.db")
    with closing(_pool(request, again, is_file(storage))) as pool:
        if request.force and not request.joins:
            forget(storage, request.study)
            (request.output / FILE).unlink(missing_ok=True)  # what it tells is forgotten, too
        log = Log(request.output)  # for `qfx watch`: every worker adds its lines
        sweep = Sweep(storage, request.study, request.space, _fingerprint(request), request.trials, request.subject.seed)
        with telling("reading the model and the data", after_s=0.0) as bars:
            loaded = Loaded.of(request.subject)

            def measure(cell: Cell) -> Measured:
                began = time.monotonic()
                found = loaded.measure(cell, request.output)
                log.tried(cell.name, time.monotonic() - began, found.cost, found.accuracy, (request.subject.cost.replace("-", " "), "accuracy"))
                return found

            def tell(done: int, total: int) -> None:
                bars("cells", done, total)
                log("cells", done, total)

            _share(sweep, pool, measure, tell, joins=request.joins)
    return 0 if request.joins else _tell(sweep.rows(), request)


def _pool(request: Request, again: list[str], file: bool) -> Pool:
    helper = [*again, "--joins"]
    return Dask(request.dask, helper, request.workers, file) if request.dask else Here(helper, (request.workers or 1) - 1)


def _share(sweep: Sweep, pool: Pool, measure: Callable[[Cell], Measured], tell: Callable[[int, int], None], *, joins: bool) -> None:
    """All cells, by the pool's helpers, and by this process where the pool works here. Unless it only ``joins``, a cell that a helper lost is in line
    again, as long as helpers get on. Raises ProjectError if one fails."""
    later = "the same command goes on with what is left"
    if not joins:
        sweep.begin(pool.gone)
    while True:
        before = sweep.progress(sweep.rows())
        pool.start()
        if pool.works:
            sweep.work(measure, tell)
        failed = pool.wait(lambda: tell(*sweep.progress(sweep.rows())))
        if failed:
            raise ProjectError(f"{len(failed)} of the workers that were started failed: {failed[0]}", where="qfx sweep", remedy=later)
        if joins:
            return
        sweep.begin(pool.gone)
        rows = sweep.rows()
        tell(*sweep.progress(rows))
        left = sum(row.state == "waiting" for row in rows)
        if not left:
            return
        if sweep.progress(rows) == before:
            raise ProjectError(f"{left} cells are left, and no worker takes any", where="qfx sweep", remedy=later)


def _tell(rows: list[Row], request: Request) -> int:
    best = front(rows)
    listed = [_as_data(row, row in best) for row in rows]
    with writing(request.output / "sweep.json", force=True) as staged:
        staged.write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")
    if best:
        points = {"front": [(row.cost or 0.0, row.accuracy or 0.0) for row in best]}
        plot_fronts(points, request.output / "front.png", cost=request.subject.cost.replace("-", " "), score="accuracy", force=True)
    if request.as_json:
        click.echo(json.dumps(listed, indent=2))
    else:
        Console(width=None if sys.stdout.isatty() else 120).print(_table(rows, best, request))
    click.echo(f"wrote {request.output}: a model of every cell, sweep.json" + ", front.png" * bool(best), err=request.as_json)
    return 0 if best else 1


def _table(rows: list[Row], best: list[Row], request: Request) -> Table:
    table = Table()
    headings = ("recipe", "weights", "activations", "budget", "accuracy (%)", request.subject.cost.replace("-", " "), "front")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("recipe", "budget", "front") else "right")
    for row in rows:
        cell = row.cell
        bits = [str(bits) if bits else "as in it" for bits in (cell.weight_bits, cell.activation_bits)]
        found = ("", "") if row.accuracy is None or row.cost is None else (f"{100 * row.accuracy:.2f}", f"{row.cost:,.0f}")
        last = "*" if row in best else "" if row.state == "done" else row.why.splitlines()[0] if row.why else row.state
        table.add_row(Path(cell.recipe).name or "default", *bits, "" if cell.budget == NONE else cell.budget, *found, last)
    return table


def _as_data(row: Row, best: bool) -> dict[str, Any]:
    file = f"{row.cell.name}.onnx" if row.state == "done" else None
    return {**asdict(row.cell), "state": row.state, "accuracy": row.accuracy, "cost": row.cost, "front": best, "file": file, "why": row.why or None}


def _fingerprint(request: Request) -> str:
    """All that decides the result: the files by their content."""
    subject, cells = request.subject, [asdict(cell) for cell in request.space]
    digest = hashlib.sha256(json.dumps([asdict(subject), cells, qfx.__version__], sort_keys=True).encode())
    for path in (subject.model, subject.checkpoint, subject.calibration, subject.evaluation, *request.space.recipes):
        if path and Path(path).is_file():
            digest.update(Path(path).read_bytes())
    return digest.hexdigest()
