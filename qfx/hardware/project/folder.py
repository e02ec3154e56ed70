"""Folders that qfx writes: whole or not at all, and never over what is not its own."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from qfx.errors import ProjectError


def followed(out_dir: str | os.PathLike[str]) -> Path:
    """The folder, or what it links to: the link stays. Raises ProjectError for links that go round."""
    path = Path(out_dir)
    try:
        return path.resolve() if path.is_symlink() else path
    except (OSError, RuntimeError) as error:
        raise ProjectError("its links go round in a circle", where=str(path), remedy="name another folder") from error


def replace(target: Path, files: Mapping[str, bytes], ours: Callable[[str], bool] | None) -> None:
    """Write into a sibling, then rename: a failure or an interrupt leaves everything as it was.

    ``ours``: which files of the folder that is replaced qfx wrote, by their path in it; all others are kept. None: there is none, or it is empty.
    Raises ProjectError for a place that cannot be written.
    """
    made = [folder for folder in (target.parent, *target.parent.parents) if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise ProjectError(f"cannot write: {error}", where=str(target), remedy="name a folder that you may write to") from error
    try:
        fresh = staging / "fresh"
        for path, data in files.items():
            place = fresh / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        if ours is not None:
            _keep_foreign(target, fresh, ours)
        elif target.exists():
            target.rmdir()  # empty, or this fails
        try:
            if ours is not None:
                os.rename(target, staging / "old")
            os.rename(fresh, target)
        except BaseException:
            if (staging / "old").exists() and not target.exists():
                os.rename(staging / "old", target)
            raise
    except OSError as error:
        raise ProjectError(f"cannot write: {error}", where=str(target), remedy="name a folder that you may write to") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        for folder in made:
            with suppress(OSError):  # it holds the project
                folder.rmdir()


def _keep_foreign(target: Path, fresh: Path, ours: Callable[[str], bool]) -> None:
    """Copy what qfx did not write from the old folder into the new one."""
    for path in sorted(target.rglob("*")):
        relative = path.relative_to(target)
        if path.is_dir() and not path.is_symlink():
            continue
        if ours(relative.as_posix()):
            continue
        place = fresh / relative
        if place.exists():
            raise ProjectError(f"{relative.as_posix()} is not a file that qfx wrote, and is in the way", where=str(target), remedy="move it away")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, place, follow_symlinks=False)
