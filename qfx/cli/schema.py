"""``qfx schema``."""

from __future__ import annotations

from pathlib import Path

import click

from qfx.cli.common import force_option, guard, json_option, output_option, print_json


@click.command()
@click.argument("kind", type=click.Choice(("recipe", "board", "folding")))
@output_option("The file to write; TOML files name recipe.schema.json, board.schema.json, folding.schema.json beside them.", required=False)
@json_option("Print what was written as JSON; without -o a schema is JSON anyway.")
@force_option("Replace an existing file.")
@guard
def schema(kind: str, output: Path | None, as_json: bool, force: bool) -> None:
    """Print the JSON schema of a recipe, a board or a folding, with which editors complete and check such files.

    \b
    A TOML file names it in its first line, as files that qfx writes do:
      #:schema ./recipe.schema.json
    """
    from qfx.files import writing
    from qfx.schemas.schemas import text

    if output is None:
        click.echo(text(kind), nl=False)
        return
    with writing(output, force=force) as staged:
        staged.write_text(text(kind), encoding="utf-8")
    if as_json:
        print_json({"output": str(output), "kind": kind})
    else:
        click.echo(f"wrote {output}")
