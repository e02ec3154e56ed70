"""``make types``: which names of the installed package pyright cannot type by what is written.

pyright looks only at installed packages: the sources lie in an environment of their own, beside what this one has.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
FOREIGN = {f"qfx.trainers.{name}.QfxCallback" for name in ("huggingface", "lightning", "pytorch_lightning")}
"""Their bases are the frameworks' own, which are imported where they are installed."""


def untyped(package: Path) -> tuple[float, set[str]]:
    """The completeness that pyright tells, and the exported names whose types are not written, or not wholly."""
    with tempfile.TemporaryDirectory() as place:
        venv.create(place)
        own = Path(sysconfig.get_path("purelib", vars={"base": place, "platbase": place}))
        (own / "others.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
        shutil.copytree(package, own / package.name, ignore=shutil.ignore_patterns("__pycache__"))
        environment = {**os.environ, "VIRTUAL_ENV": place, "PATH": f"{place}/bin{os.pathsep}{os.environ['PATH']}"}
        command = [str(Path(sys.executable).with_name("basedpyright")), "--verifytypes", package.name, "--ignoreexternal", "--outputjson"]
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)["typeCompleteness"]
    if not found["symbols"]:
        raise SystemExit(done.stdout)
    return found["completenessScore"], {one["name"] for one in found["symbols"] if one["isExported"] and not one["isTypeKnown"]}


def main() -> int:
    score, names = untyped(ROOT / "qfx")
    print(f"{100 * score:.2f} % of the exported names have their types written")
    for name in sorted(names):
        print(f"{name}{' (its base is of another package)' if name in FOREIGN else ''}")
    return 0 if names <= FOREIGN else 1


if __name__ == "__main__":
    sys.exit(main())
