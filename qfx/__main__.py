"""``python -m qfx``: the command, where a shell does not find it."""

from qfx.cli import main

if __name__ == "__main__":
    main(prog_name="qfx")
