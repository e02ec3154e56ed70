"""Writes the pages of the site and its mkdocs.yml into a folder, and has MkDocs build it; every warning is an error."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from website.pages import write


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m website", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/site"), help="the folder of the site; its pages as Markdown lie beside it")
    parser.add_argument("--pages-only", action="store_true", help="write the Markdown alone")
    arguments = parser.parse_args()
    staged = arguments.out.resolve().with_name(f"{arguments.out.name}-pages")
    write(staged)
    if arguments.pages_only:
        return
    places = ["-f", str(staged / "mkdocs.yml"), "-d", str(arguments.out.resolve())]
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--clean", *places]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)  # --quiet would hide warnings from --strict
    if done.returncode:
        sys.stderr.write(done.stdout + done.stderr)
        sys.exit(done.returncode)
    print(f"wrote {arguments.out}/index.html (the search works where it is served: {Path(sys.executable).name} -m http.server -d {arguments.out})")


if __name__ == "__main__":
    main()
