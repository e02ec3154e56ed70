"""A sweep as a study of Optuna, in a database that any number of workers share. What is done, what is under way and what is left is in the database
and nowhere else, so a sweep goes on after whatever ended it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from qfx.errors import DataError, QfxError
from qfx.searches.cells import Cell, Space
from qfx.searches.pool import gone_here, name_here, without_passwords

if TYPE_CHECKING:
    import optuna

    from qfx.searches.work import Measured

State = Literal["done", "refused", "running", "waiting"]

_NAMELESS_S = 5.0
"""How long a worker may take from having a cell to having said so: two writes to the database."""

_CELL, _WORKER, _REFUSED, _SUBJECT = "cell", "worker", "refused", "subject"


@dataclass(frozen=True, slots=True)
class Row:
    """A cell and what came of it: (accuracy, cost) where it is done; why not where it was refused."""

    cell: Cell
    state: State
    accuracy: float | None = None
    cost: float | None = None
    why: str = ""


class Sweep:
    """A study by name in ``storage`` (a file of SQLite, or a URL that Optuna takes), over ``space``.

    ``subject``: all that decides a cell's result, as text; a study of another one is refused (DataError). ``trials``: look at so many cells, which
    Optuna's sampler chooses by what it has seen (TPE); None: at all.
    """

    def __init__(self, storage: str, name: str, space: Space, subject: str, trials: int | None, seed: int) -> None:
        optuna = _optuna()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        url = _url(storage)
        sampler = optuna.samplers.TPESampler(seed=seed + os.getpid() if trials else seed)
        try:
            database = optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}} if is_file(storage) else None)
            self._study = optuna.create_study(
                storage=database, study_name=name, directions=["maximize", "minimize"], sampler=sampler, load_if_exists=True
            )
        except Exception as error:  # of whatever database it is
            raise _unusable(storage, error) from None
        self._space, self._trials = space, trials
        known = self._study.user_attrs.get(_SUBJECT)
        if known is None:
            self._study.set_user_attr(_SUBJECT, subject)
        elif known != subject:
            what = f"the study {name!r} is about another model, other data, other cells or other options"
            raise DataError(what, where=without_passwords(storage), remedy="give the options that it was started with, or a --study of another name")

    def begin(self, gone: Callable[[set[str]], set[str]] = gone_here) -> None:
        """Put every cell that nobody has or does in line, also those of workers that are gone: of workers by name ``gone`` gives those."""
        from optuna.trial import TrialState

        for number in self._left(gone):
            self._study.tell(number, state=TrialState.FAIL)
        if self._trials is not None:
            return
        present = {row.cell for row in self.rows()}
        for cell in self._space:
            if cell not in present:
                self._study.enqueue_trial(asdict(cell), user_attrs={_CELL: cell.name})

    def _left(self, gone: Callable[[set[str]], set[str]]) -> list[int]:
        """The trials under way that nobody works on: their worker is gone, or was ended before it said its name, which follows at once."""
        from optuna.trial import TrialState

        nameless: set[int] | None = None
        deadline = time.monotonic() + _NAMELESS_S
        while True:
            trials = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            without = {trial.number for trial in trials if _WORKER not in trial.user_attrs}
            nameless = without if nameless is None else nameless & without  # what begins meanwhile has its own time
            if not nameless or time.monotonic() > deadline:
                ended = gone({str(trial.user_attrs[_WORKER]) for trial in trials if _WORKER in trial.user_attrs})
                return [trial.number for trial in trials if trial.number in nameless or trial.user_attrs.get(_WORKER) in ended]
            time.sleep(0.1)

    def work(self, measure: Callable[[Cell], Measured], tell: Callable[[int, int], None]) -> None:
        """Take cells and measure them until none is left; any number of processes at once. ``tell``: how many are done, of how many. A cell that is
        refused (QfxError) is kept as such."""
        from optuna.trial import TrialState

        finished = (TrialState.COMPLETE, TrialState.FAIL)
        while True:
            rows = self.rows()
            tell(*self.progress(rows))
            if self._trials is not None:
                if len(self._study.get_trials(deepcopy=False, states=finished)) >= self._trials:
                    return
            elif not any(row.state == "waiting" for row in rows):
                return
            trial = self._study.ask()
            if self._trials is None and _CELL not in trial.user_attrs:  # another worker was faster, and this one came from the sampler
                self._study.tell(trial, state=TrialState.FAIL)
                return
            with contextlib.suppress(*_taken()):
                self._measured(trial, rows, measure)

    def _measured(self, trial: optuna.Trial, rows: list[Row], measure: Callable[[Cell], Measured]) -> None:
        """One trial. Raises ``_taken`` where another worker was given the same one at the same moment (SQLite locks no rows) and is done with it: its
        numbers are the same, so the first that tells counts."""
        from optuna.trial import TrialState

        trial.set_user_attr(_WORKER, name_here())
        fields: dict[str, Any] = {field: trial.suggest_categorical(field, list(values)) for field, values in self._space.choices().items()}
        cell = Cell(**fields)
        known = next((row for row in rows if row.cell == cell and row.state == "done"), None)
        if known is not None:
            self._study.tell(trial, [known.accuracy, known.cost])
            return
        try:
            found = measure(cell)
        except QfxError as error:
            trial.set_user_attr(_REFUSED, str(error))
            self._study.tell(trial, state=TrialState.FAIL)
            return
        except BaseException:
            with contextlib.suppress(*_taken()):
                self._study.tell(trial, state=TrialState.FAIL)  # in line again when the sweep goes on
            raise
        trial.set_user_attr("float_accuracy", found.float_accuracy)
        self._study.tell(trial, [found.accuracy, found.cost])

    def progress(self, rows: list[Row]) -> tuple[int, int]:
        """How many cells are done, and of how many."""
        return sum(row.state in ("done", "refused") for row in rows), self._trials or len(tuple(self._space))

    def rows(self) -> list[Row]:
        """What there is of each cell, in the order of the space."""
        from optuna.trial import TrialState

        found: dict[Cell, Row] = {}
        for trial in self._study.get_trials(deepcopy=False):
            cell = _cell_of(trial)
            if cell is None or (cell in found and found[cell].state == "done"):
                continue
            if trial.state is TrialState.COMPLETE:
                found[cell] = Row(cell, "done", trial.values[0], trial.values[1])
            elif _REFUSED in trial.user_attrs:
                found[cell] = Row(cell, "refused", why=str(trial.user_attrs[_REFUSED]))
            elif trial.state in (TrialState.RUNNING, TrialState.WAITING):
                found[cell] = Row(cell, "running" if trial.state is TrialState.RUNNING else "waiting")
        return [found[cell] for cell in self._space if cell in found]


def front(rows: list[Row]) -> list[Row]:
    """Those of which no other is as accurate and as cheap, by cost. Of equals the first."""
    best: list[Row] = []
    done = [row for row in rows if row.accuracy is not None and row.cost is not None]
    for row in sorted(done, key=lambda row: (row.cost or 0.0, -(row.accuracy or 0.0))):
        if not best or (row.accuracy or 0.0) > (best[-1].accuracy or 0.0):
            best.append(row)
    return best


def forget(storage: str, name: str) -> None:
    """Remove a study from its database, if it is there."""
    optuna = _optuna()
    try:
        optuna.delete_study(study_name=name, storage=_url(storage))
    except KeyError:
        return
    except Exception as error:  # of whatever database it is
        raise _unusable(storage, error) from None


def is_file(storage: str) -> bool:
    """Whether the database is a file, which is for one machine."""
    return _url(storage).startswith("sqlite")


def _unusable(storage: str, error: Exception) -> DataError:
    what = without_passwords(f"cannot be used: {error}")
    return DataError(what, where=without_passwords(storage), remedy="give a file of SQLite, or a URL as Optuna takes it")


def _url(storage: str) -> str:
    return storage if "://" in storage else f"sqlite:///{Path(storage).resolve()}"


def _cell_of(trial: optuna.trial.FrozenTrial) -> Cell | None:
    fields: dict[str, Any] = trial.params or trial.system_attrs.get("fixed_params", {})
    return Cell(**fields) if len(fields) == len(Cell.__slots__) else None


def _taken() -> tuple[type[Exception], ...]:
    """What Optuna raises for a trial that somebody has finished already; nothing of its own in early versions."""
    found = getattr(_optuna().exceptions, "UpdateFinishedTrialError", None)
    return () if found is None else (found,)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise DataError("sweeps need Optuna", where="qfx sweep", remedy="pip install 'qfx[sweep]'") from None
    return optuna
