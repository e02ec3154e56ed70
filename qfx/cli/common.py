"""What the commands share: options that mean the same everywhere, exit codes, and the reading of data."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from qfx.errors import QfxError

if TYPE_CHECKING:
    from qfx.data import FloatArray

DIFFERENCE, USAGE, INTERRUPTED, PIPE = 1, 2, 130, 141
"""Exit codes beside 0: a difference was found or a goal not met; the usage or the input is wrong; Ctrl-C; the reader of the output went away."""

FOLDER = FILE = click.Path(path_type=Path)

_Command = TypeVar("_Command", bound=Callable[..., Any])


class Commands(click.Group):
    """A group whose every command ends with 130 on Ctrl-C, wherever it is caught."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        context: click.Context = _ended(super().make_context, *args, **kwargs)
        return context

    def invoke(self, ctx: click.Context) -> Any:
        return _ended(super().invoke, ctx)


def _ended(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return call(*args, **kwargs)
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more when it ends
        sys.exit(PIPE)


def guard(command: Callable[..., Any]) -> Callable[..., Any]:
    """Show a QfxError as one clear message instead of a traceback."""

    @wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except QfxError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(USAGE)

    return guarded


def output_option(help_text: str, *aliases: str, required: bool = True) -> Callable[[_Command], _Command]:
    """``-o``: the file or folder that is written."""
    return click.option("-o", "--output", *aliases, "output", required=required, default=None, type=FILE, help=help_text)


def data_option(help_text: str, *aliases: str, required: bool = True) -> Callable[[_Command], _Command]:
    """``--data``: arrays that are read; ``aliases`` are older names."""
    return click.option("--data", *aliases, "data", required=required, default=None, type=FILE, help=help_text)


def samples_option(help_text: str = "Use only the first so many samples of the data.") -> Callable[[_Command], _Command]:
    """``--samples``."""
    return click.option("--samples", type=click.IntRange(min=1), default=None, help=help_text)


def json_option(what: str = "Print JSON instead of the table.") -> Callable[[_Command], _Command]:
    """``--json``."""
    return click.option("--json", "as_json", is_flag=True, help=what)


def force_option(help_text: str = "Replace existing files.") -> Callable[[_Command], _Command]:
    """``--force``."""
    return click.option("--force", is_flag=True, help=help_text)


def inputs(path: Path, samples: int | None) -> FloatArray:
    """The first ``samples`` inputs in a file (None: all). Raises DataError."""
    from qfx.data import load_inputs

    return load_inputs(path)[:samples]


def feed(path: Path, samples: int | None, names: Sequence[str]) -> Any:
    """The same for a model whose inputs are called ``names``: an array of one, of several a dict. Raises DataError."""
    from qfx.data import load_feed

    loaded = load_feed(path, names)
    return {name: array[:samples] for name, array in loaded.items()} if isinstance(loaded, dict) else loaded[:samples]


def count(x: Any) -> int:
    """How many samples there are."""
    return len(next(iter(x.values()))) if isinstance(x, dict) else len(x)


def print_json(content: Any) -> None:
    """``content`` on standard output, as JSON."""
    click.echo(json.dumps(content, indent=2))
