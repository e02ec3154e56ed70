"""Writing files for users: one way for every command, so that nothing is lost, half written or written elsewhere than it was asked for."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qfx.errors import DataError, QfxError

SCHEMA_KEY = "$schema"
"""The key by which a file may name its JSON schema for editors."""

FORCE = "choose another name, or pass --force"


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a file goes: ``place`` is behind all symbolic links; ``special`` if it is a pipe or a device, which is written into."""

    asked: Path
    place: Path
    special: bool


def schema_name(kind: str) -> str:
    """What the file with the JSON schema of ``kind`` ("recipe", "board", "folding") is called."""
    return f"{kind}.schema.json"


def schema_line(kind: str) -> str:
    """The first line of a TOML file whose schema lies beside it: a directive of Taplo, which editors follow."""
    return f"#:schema ./{schema_name(kind)}"


def drop_schema(data: dict[str, Any]) -> None:
    """Take out of a file's data what names its schema, if that is a text (as anything else it is an unknown key)."""
    if isinstance(data.get(SCHEMA_KEY), str):
        del data[SCHEMA_KEY]


def check_target(path: str | os.PathLike[str], *, force: bool = False, error: type[QfxError] = DataError, remedy: str = FORCE) -> Path:
    """Where ``writing`` would put the file: ``path``, or what it links to. Raises ``error`` if it would refuse; creates nothing."""
    return _target(Path(path), force, error, remedy).place


@contextmanager
def writing(path: str | os.PathLike[str], *, force: bool = False, error: type[QfxError] = DataError, remedy: str = FORCE) -> Iterator[Path]:
    """A path to write to, which becomes ``path`` at the end of the block, whole or (after any exception, an interrupt too) not at all.

    Missing parent folders are created. A symbolic link is followed: what it points to is replaced, the link stays. A pipe or a device, such as
    /dev/stdout or /dev/null, is written into. An existing file is replaced only by ``force``, and keeps its permissions; a folder never is. Raises
    ``error``.
    """
    with writing_all((path,), force=force, error=error, remedy=remedy) as (staged,):
        yield staged


@contextmanager
def writing_all(
    paths: Sequence[str | os.PathLike[str]], *, force: bool = False, error: type[QfxError] = DataError, remedy: str = FORCE
) -> Iterator[tuple[Path, ...]]:
    """As ``writing``, for several files: all of them appear, or none."""
    targets = [_target(Path(path), force, error, remedy) for path in paths]
    with ExitStack() as stack:
        staged = []
        for target in targets:
            try:
                staged.append(stack.enter_context(_staging(target)) / target.place.name)
            except OSError as failure:
                raise _failed(target, failure, error) from failure
        where = targets[0] if targets else None
        try:
            yield tuple(staged)
            _place(targets, staged, force, error, remedy)
        except OSError as failure:
            named = next((target for target, file in zip(targets, staged, strict=True) if str(file) == failure.filename), where)
            if named is None:
                raise
            raise _failed(named, failure, error) from failure


@contextmanager
def _staging(target: _Target) -> Iterator[Path]:
    """A folder beside the target; with it go the parents that were made for it, if nothing is in them."""
    parent = Path(tempfile.gettempdir()) if target.special else target.place.parent
    made = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent, prefix=f".{target.place.name}.") as folder:
            yield Path(folder)
    finally:
        for empty in made:
            with suppress(OSError):
                empty.rmdir()


def _place(targets: Sequence[_Target], staged: Sequence[Path], force: bool, error: type[QfxError], remedy: str) -> None:
    """Move the staged files to their places; what was there before comes back if one of them fails."""
    undo: list[tuple[Path, Path | None]] = []
    try:
        for target, file in zip(targets, staged, strict=True):
            if target.special:
                with file.open("rb") as source, target.asked.open("wb") as sink:
                    shutil.copyfileobj(source, sink)
                continue
            kept = file.with_name(f"{file.name}.kept")
            if force and target.place.exists():
                os.chmod(file, stat.S_IMODE(target.place.stat().st_mode))
                with suppress(OSError):  # a file system without hard links
                    os.link(target.place, kept)
                os.replace(file, target.place)
            else:
                _move_to_free(file, target, error, remedy)
            undo.append((target.place, kept if kept.exists() else None))
    except BaseException:
        for place, before in undo:
            with suppress(OSError):
                if before is None:
                    place.unlink()
                else:
                    os.replace(before, place)
        raise


def _move_to_free(file: Path, target: _Target, error: type[QfxError], remedy: str) -> None:
    """Move without replacing what another program may have written meanwhile."""
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(file, 0o666 & ~umask)
    try:
        os.link(file, target.place)
    except FileExistsError:
        raise _exists(target.asked, error, remedy) from None
    except OSError:  # no hard links here
        os.replace(file, target.place)
    else:
        file.unlink()


def _target(path: Path, force: bool, error: type[QfxError], remedy: str) -> _Target:
    try:
        place = path.resolve()
        mode = place.stat().st_mode if place.exists() else None
        special = path.exists() and (stat.S_ISCHR(path.stat().st_mode) or stat.S_ISFIFO(path.stat().st_mode))
    except (OSError, RuntimeError) as failure:  # RuntimeError: links that go round in a circle
        raise error(
            f"cannot be written: {getattr(failure, 'strerror', None) or failure}", where=str(path), remedy="choose another place"
        ) from failure
    if path.name in ("", ".", "..") or (mode is not None and stat.S_ISDIR(mode)):
        raise error("cannot be written: it is a folder", where=str(path), remedy="name a file")
    if path.is_symlink() and mode is None and os.path.islink(place):
        raise error("cannot be written: its links go round in a circle", where=str(path), remedy="choose another place")
    for parent in place.parents:
        if parent.exists():
            if not parent.is_dir():
                raise error(f"cannot be written: {parent} is not a folder", where=str(path), remedy="choose another place")
            if not special and not os.access(parent, os.W_OK | os.X_OK):
                raise error("cannot be written: Permission denied", where=str(path), remedy="choose another place")
            break
    if special:
        return _Target(path, place, True)
    if mode is not None and not stat.S_ISREG(mode):
        raise error("cannot be written: it is neither a file nor a pipe", where=str(path), remedy="choose another place")
    if mode is not None and not force:
        raise _exists(path, error, remedy)
    return _Target(path, place, False)


def _exists(path: Path, error: type[QfxError], remedy: str) -> QfxError:
    return error("the file exists", where=str(path), remedy=remedy)


def _failed(target: _Target, failure: OSError, error: type[QfxError]) -> QfxError:
    return error(f"cannot be written: {failure.strerror or failure}", where=str(target.asked), remedy="make room, or choose another place")


__all__ = ["FORCE", "SCHEMA_KEY", "check_target", "drop_schema", "schema_line", "schema_name", "writing", "writing_all"]
