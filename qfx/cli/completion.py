"""``qfx completion``."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem, ShellComplete, get_completion_class

from qfx.cli.common import guard, json_option, print_json

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@json_option("Print the script as JSON.")
@guard
def completion(shell: str, as_json: bool) -> None:
    """Print what makes a shell complete the commands, options, boards and files of qfx.

    \b
    bash  qfx completion bash > ~/.local/share/bash-completion/completions/qfx
    zsh   qfx completion zsh > ~/.zfunc/_qfx      (a folder of your fpath)
    fish  qfx completion fish > ~/.config/fish/completions/qfx.fish
    """
    made = get_completion_class(shell)
    assert made is not None  # SHELLS
    root = click.get_current_context().find_root()
    script = ShellComplete.source(made(root.command, {}, "qfx", "_QFX_COMPLETE"))
    if as_json:
        print_json({"shell": shell, "script": script})
    else:
        click.echo(script)


def boards(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Names of boards, and files: a board may be a path."""
    from qfx.hardware.board import boards as known

    named = [CompletionItem(one.name, help=one.title) for one in known() if one.name.startswith(begun)]
    return named or [CompletionItem(begun, type="file")]
