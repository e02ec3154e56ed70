"""Where the parts of a project come from: qfx's own C++ library and templates, and the vendor's simulation headers."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import re
from functools import lru_cache
from pathlib import Path

from qfx.errors import ProjectError


@lru_cache(maxsize=1)
def hls_root() -> Path:
    """The folder with include/, templates/, tcl/ and boards/: ``qfx/_hls`` of an installed package, ``hls/`` of a source checkout."""
    package = Path(__file__).resolve().parent.parent
    for candidate in (package / "_hls", package.parent / "hls"):
        if (candidate / "include" / "qfx").is_dir():
            return candidate
    raise ProjectError("the C++ library of qfx is missing", where=str(package), remedy="install qfx again, or work from a full checkout")


@lru_cache(maxsize=1)
def vendor_headers() -> Path:
    """The folder with the vendor's ``ap_int.h``, ``ap_fixed.h`` and ``hls_stream.h`` for C simulation (Apache-2.0), which the hls4ml wheel carries.

    hls4ml itself is not imported. Raises ProjectError if it is not installed.
    """
    spec = importlib.util.find_spec("hls4ml")
    for root in (spec.submodule_search_locations or ()) if spec is not None else ():
        folder = Path(root) / "templates" / "vivado" / "ap_types"
        if (folder / "ap_fixed.h").is_file():
            return folder
    raise ProjectError("the vendor's simulation headers are missing", where="hls4ml", remedy="install hls4ml >= 1.3, whose wheel carries them")


@lru_cache(maxsize=1)
def vendor_version() -> str:
    """Which headers these are. They carry no version of their own: the years of their copyright, the release of hls4ml that carries them, and the
    SHA-256 over their names and contents, its first twelve digits. Raises ProjectError if they are missing."""
    texts = read_tree(vendor_headers(), "**/*.h")
    years = re.search(r"Copyright ([0-9]{4}(?:-[0-9]{4})?) Xilinx", texts["ap_fixed.h"])
    digest = hashlib.sha256("".join(f"{path}\n{text}\n" for path, text in texts.items()).encode("utf-8"))
    age, carrier = years[1] if years else "of unknown age", importlib.metadata.version("hls4ml")
    return f"Xilinx ap_types {age} from hls4ml {carrier}, sha256 {digest.hexdigest()[:12]}"


def simulation_headers() -> tuple[str, ...]:
    """The g++ arguments that name the vendor's headers and, behind them, what they lack and ours stand in for."""
    return ("-isystem", str(vendor_headers()), "-isystem", str(hls_root() / "sim"))


def read_tree(root: Path, *patterns: str) -> dict[str, str]:
    """The text of the files under ``root`` that match, by their path relative to it, sorted."""
    files = sorted({path for pattern in patterns for path in root.glob(pattern) if path.is_file()})
    return {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in files}
