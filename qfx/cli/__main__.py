"""``python -m qfx.cli``."""

from qfx.cli import main

if __name__ == "__main__":
    main(prog_name="qfx")
