"""Whose fault it is when a project cannot be built or run: that of files which changed since qfx wrote them, or qfx's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from qfx.errors import ProjectError
from qfx.hardware.project.project import Project, changed_files

REWRITE = "take the change back, or write the project again: `qfx hls` with --force"
"""What to do about a project that changed."""

_NAMED = 5  # files in a message


class DefectError(ProjectError):
    """What sources that qfx wrote never do."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(what, where=where, remedy="please report this defect")


@contextmanager
def blamed(project: Project) -> Iterator[None]:
    """Blame a defect on the files that changed since the project was written, if any did."""
    try:
        yield
    except DefectError as error:
        changed = changed_files(project)
        if changed:
            raise ProjectError(f"{told(changed)} changed since it was written, and now {error.what}", where=error.where, remedy=REWRITE) from error
        raise


def told(changed: Sequence[str]) -> str:
    """The names of changed files, the first few."""
    return ", ".join(changed[:_NAMED]) + (f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else "")
