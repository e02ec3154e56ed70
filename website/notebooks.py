"""Notebooks as Markdown: text, code, and what the code showed when it was stored."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def page(path: Path, moved: Mapping[str, str], images: Path) -> str:
    """The cells of a notebook. Links to the notebooks that ``moved`` names go to their pages, other local links become text; pictures are written
    into the folder ``images``, next to the pages."""
    parts, heading, pictures = [], path.stem, 0
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(_linked(source, moved))
            heading = (re.findall(r"^#+ (.*)$", source, re.MULTILINE) or [heading])[-1]
            continue
        language = "sh" if source.startswith("%%bash") else "python"
        parts.append(f"```{language}\n{_without_magic(source)}\n```")
        for output in cell.get("outputs", []):
            picture = output.get("data", {}).get("image/png")
            if picture is None:
                parts += _text(output)
                continue
            pictures += 1
            name = f"{path.stem}_{pictures}.png"
            (images / name).write_bytes(base64.b64decode("".join(picture)))
            parts.append(f'<img src="images/{name}" alt="{escape(f"{heading}: drawn by the cell above", quote=True)}" loading="lazy">')
    return "\n\n".join(parts) + "\n"


def _linked(source: str, moved: Mapping[str, str]) -> str:
    def to(match: re.Match[str]) -> str:
        told, target = match.groups()
        return f"[{told}]({moved[target]})" if target in moved else told

    return re.sub(r"\[([^\]]*)\]\((?![a-z]+:)([^)]*)\)", to, source)


def _without_magic(source: str) -> str:
    """Without the line that tells Jupyter what the cell is."""
    return source.split("\n", 1)[1] if source.startswith("%%bash") else source


def _text(output: Mapping[str, Any]) -> list[str]:
    data = output.get("data", {})
    html = "".join(data.get("text/html", []))
    if html:
        return [f'<div class="output">{html}</div>']
    text = _ANSI.sub("", "".join(output.get("text", data.get("text/plain", [])))).rstrip()
    return [f"```text {{ .output }}\n{text}\n```"] if text.strip() else []
