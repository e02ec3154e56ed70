"""``qfx watch``."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import click

from qfx.cli.common import FOLDER, force_option, guard, json_option, output_option, print_json

_EVERY_S = 1.0


@click.command()
@click.argument("folder", type=FOLDER)
@click.option("--browser", is_flag=True, help="Serve a page on this machine that follows the folder, in place of the terminal.")
@click.option("--port", type=click.IntRange(0, 65535), default=8137, show_default=True, help="With --browser: where; 0 takes any that is free.")
@click.option("--once", is_flag=True, help="Print what there is, and end.")
@output_option("Write the page once, as it is now.", required=False)
@json_option("Print what there is as JSON, and end.")
@force_option("Replace an existing page.")
@guard
def watch(folder: Path, browser: bool, port: int, once: bool, output: Path | None, as_json: bool, force: bool) -> None:
    """Show a training or a run of `qfx ptq` while it goes on: losses, costs, binary points, word lengths, what saturates, passes, the front.

    Reads the logs in FOLDER and below it, which `qfx ptq --log FOLDER` and qfx.watch.log.Log write, the front of a qfx.Archive, metrics.csv of
    Lightning and trainer_state.json of transformers. Ctrl-C ends it; the work goes on.
    """
    from rich.console import Console
    from rich.live import Live

    from qfx.watch.runs import read
    from qfx.watch.terminal import shown

    runs = read(folder)
    if output is not None:
        _write(folder, output, force)
    elif as_json:
        print_json([asdict(run) for run in runs])
    elif browser:
        _serve(folder, port)
    elif once:
        Console().print(shown(runs, str(folder)))
    else:
        with Live(shown(runs, str(folder)), console=Console(), auto_refresh=False) as live:
            while True:
                time.sleep(_EVERY_S)
                live.update(shown(read(folder), str(folder)), refresh=True)


def _write(folder: Path, output: Path, force: bool) -> None:
    from qfx.files import writing
    from qfx.watch.page import watch_page
    from qfx.watch.runs import read

    text = watch_page(read(folder), str(folder), live=False)
    with writing(output, force=force) as staged:
        staged.write_text(text, encoding="utf-8")
    click.echo(f"wrote {output}")


def _serve(folder: Path, port: int) -> None:
    from qfx.watch.serve import HOST, server

    with server(folder, port) as serving:
        click.echo(f"http://{HOST}:{serving.server_address[1]}/ follows {folder}; Ctrl-C ends")
        serving.serve_forever()
