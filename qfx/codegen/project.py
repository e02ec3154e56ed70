"""The old name of ``qfx.hardware.project.project``."""

from qfx.hardware.project.project import (
    MANIFEST,
    WEIGHTS,
    WEIGHTS_FILE,
    Project,
    changed_files,
    check_target,
    prepare,
    read_project,
    write_project,
)

__all__ = ["MANIFEST", "WEIGHTS", "WEIGHTS_FILE", "Project", "changed_files", "check_target", "prepare", "read_project", "write_project"]
