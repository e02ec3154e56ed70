"""``python -m benchmarks.methods NAME``: one experiment."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

NAMES = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in ("__init__", "__main__", "common"))


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in NAMES:
        sys.exit(f"name one of {', '.join(NAMES)}")
    import_module(f"benchmarks.methods.{name}").main()


if __name__ == "__main__":
    main()
