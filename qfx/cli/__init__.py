"""The ``qfx`` command: parses, calls, prints; one file a command.

Every command exits with 0 for success, 1 for a difference found or a goal not met, 2 for a usage or input error, and 130 if it is interrupted.
Results go to standard output, everything else to stderr.
"""

from __future__ import annotations

from typing import Any

import click

from qfx import __version__
from qfx.cli.check import check
from qfx.cli.common import Commands
from qfx.cli.compare import compare
from qfx.cli.completion import completion
from qfx.cli.convert import convert
from qfx.cli.csim import csim
from qfx.cli.doctor import doctor
from qfx.cli.hls import estimate, hls
from qfx.cli.importing import import_
from qfx.cli.models import boards, inspect, new, weights
from qfx.cli.ptq import ptq
from qfx.cli.report import report
from qfx.cli.rtl import rtl
from qfx.cli.schema import schema
from qfx.cli.verify import verify
from qfx.cli.watch import watch
from qfx.searches.cli import sweep


def _version(ctx: click.Context, _parameter: click.Parameter, asked: bool) -> None:
    if not asked or ctx.resilient_parsing:
        return
    from qfx.errors import ProjectError
    from qfx.hardware.assets import vendor_version

    try:
        headers = vendor_version()
    except ProjectError as error:
        headers = error.what
    click.echo(f"qfx, version {__version__}\nvendor headers: {headers}")
    ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the versions of qfx and of the headers.")
def main(**_: Any) -> None:
    """Take a quantized network to an AMD/Xilinx FPGA, bit-exact."""


for _command in (
    new,
    check,
    ptq,
    sweep,
    import_,
    inspect,
    hls,
    rtl,
    estimate,
    compare,
    csim,
    verify,
    report,
    weights,
    convert,
    boards,
    schema,
    doctor,
    completion,
    watch,
):
    main.add_command(_command)

__all__ = ["main"]
