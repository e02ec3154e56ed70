"""The Markdown of the site: docs/ and the pages beside it with links that hold there, and those that are made from the definitions."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from website import api, catalogue, concepts, house, keys, modes, notebooks, reference

ROOT = Path(__file__).resolve().parent.parent
NAV: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    (
        "Start",
        (
            ("What qfx is", "index.md"),
            ("Quick start", "start.md"),
            ("Names and commands", "names.md"),
            ("Commands in common", "commands.md"),
        ),
    ),
    (
        "How to",
        (
            ("How to ...", "how_to.md"),
            ("Read the report", "report.md"),
            ("Watch long work", "watch.md"),
            ("Compare many recipes", "sweep.md"),
            ("Run the C++, find a difference", "simulation.md"),
            ("Go from a project to a board", "board.md"),
            ("Keep weights in the board's memory", "memory.md"),
            ("Take a model elsewhere", "leaving.md"),
        ),
    ),
    (
        "Use",
        (
            ("Recipes", "recipe.md"),
            ("Training", "training.md"),
            ("Trainers", "trainers.md"),
            ("Several processes", "distributed.md"),
            ("Post-training quantization", "ptq.md"),
            ("HLS projects", "hls.md"),
            ("Estimates", "estimates.md"),
            ("Unrolled designs", "unrolled.md"),
            ("Sequential designs", "sequential.md"),
            ("RTL", "rtl.md"),
            ("Files", "files.md"),
            ("MAX78000", "max78000.md"),
        ),
    ),
    (
        "Tutorials",
        (
            ("Wrap and train", "tutorial_1_train.md"),
            ("After training", "tutorial_2_ptq.md"),
            ("To an Ultra96-V2", "tutorial_3_hardware.md"),
            ("Fewer bits", "tutorial_4_fewer_bits.md"),
            ("Find a mismatch", "tutorial_5_mismatch.md"),
            ("Coming from Brevitas, hls4ml", "tutorial_6_coming_from.md"),
        ),
    ),
    (
        "Concepts",
        (
            ("Three ideas", "concepts.md"),
            ("Types", "types.md"),
            ("Modes, drawn", "modes.md"),
            ("Functions by table", "tables.md"),
            ("Methods of the literature", "methods.md"),
            ("The schedule", "schedule.md"),
        ),
    ),
    (
        "Coming from",
        (
            ("Brevitas", "brevitas.md"),
            ("torchao", "torchao.md"),
            ("TFLite", "tflite.md"),
            ("int8 ONNX", "onnx_int8.md"),
            ("hls4ml", "from_hls4ml.md"),
            ("FINN", "from_finn.md"),
            ("HGQ2", "from_hgq2.md"),
            ("AIMET", "from_aimet.md"),
            ("Vitis AI", "from_vitis_ai.md"),
        ),
    ),
    (
        "Reference",
        (
            ("Python", "api.md"),
            ("Commands", "cli.md"),
            ("Layers", "layers.md"),
            ("Core ATen", "aten.md"),
            ("Operators", "operators.md"),
            ("Recipes, key by key", "recipe_reference.md"),
            ("Boards", "boards.md"),
            ("Foldings, key by key", "folding_reference.md"),
            ("Errors", "errors.md"),
        ),
    ),
    (
        "Project",
        (
            ("Architecture", "architecture.md"),
            ("The house, drawn", "house.md"),
            ("Decisions", "decisions.md"),
            ("Measured", "benchmarks.md"),
            ("Beside other tools", "peers.md"),
            ("Limits", "limits.md"),
            ("Contributing", "contributing.md"),
            ("Releasing", "release.md"),
            ("Changelog", "changelog.md"),
            ("Licence", "licence.md"),
        ),
    ),
)
BESIDE: Mapping[str, str] = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
    "LICENSE": "licence.md",
}
"""Pages that do not lie in docs/, and what they are called on the site."""

_LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")
_CONFIG = """site_name: qfx
site_description: PyTorch to AMD/Xilinx FPGAs in fixed point, bit-exact
docs_dir: pages
use_directory_urls: false
theme:
  name: material
  font: false
  features: [navigation.tabs, navigation.top, navigation.indexes, toc.follow, content.code.copy, search.highlight]
  palette:
    - {media: "(prefers-color-scheme: light)", scheme: default, primary: blue grey, toggle: {icon: material/weather-night, name: Dark}}
    - {media: "(prefers-color-scheme: dark)", scheme: slate, primary: blue grey, toggle: {icon: material/weather-sunny, name: Light}}
extra: {generator: false}
extra_css: [wide.css]
plugins: [search]
markdown_extensions:
  - tables
  - attr_list
  - md_in_html
  - pymdownx.highlight
  - pymdownx.superfences
  - toc:
      permalink: true
      toc_depth: 3
      slugify: !!python/object/apply:pymdownx.slugs.slugify {kwds: {case: lower}}
validation: {links: {anchors: warn, absolute_links: warn, unrecognized_links: warn, not_found: warn}, nav: {omitted_files: warn, not_found: warn}}
nav:
"""
_CSS = """.md-grid { max-width: 76rem; }
.md-typeset table:not([class]) { font-size: .68rem; }
.md-typeset table:not([class]) th { min-width: 4rem; }
.md-typeset table:not([class]) code { word-break: normal; }
.md-typeset .output { border-left: .2rem solid #c96a12; margin-left: .6rem; }
.md-typeset div.output:not(.highlight) { padding-left: .6rem; }
.md-typeset img[src*="images/"] { background: #fff; }
"""


def write(folder: Path) -> None:
    """The pages and mkdocs.yml into ``folder``, which is made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    pages = folder / "pages"
    (pages / "images").mkdir(parents=True)
    for path in sorted((ROOT / "docs" / "images").iterdir()):
        shutil.copy(path, pages / "images" / path.name)
    for path in sorted((ROOT / "docs").glob("*.md")):
        _put(pages / path.name, _linked(path.read_text(encoding="utf-8"), path))
    for source, name in BESIDE.items():
        path = ROOT / source
        text = path.read_text(encoding="utf-8")
        _put(pages / name, f"# Licence\n\n```text\n{text}```\n" if source == "LICENSE" else _linked(text, path))
    made = {
        "api.md": api.page(),
        "cli.md": reference.commands(),
        "operators.md": reference.operators(),
        "recipe_reference.md": keys.recipes(),
        "boards.md": reference.board_table(),
        "folding_reference.md": keys.foldings(),
        "errors.md": catalogue.page(),
        "modes.md": modes.page(),
        "concepts.md": concepts.page(),
        "house.md": house.page(),
        "decisions.md": _decisions(),
    }
    tutorials = sorted((ROOT / "notebooks").glob("*.ipynb"))
    moved = {path.name: f"tutorial_{path.stem}.md" for path in tutorials}
    for path in tutorials:
        made[moved[path.name]] = notebooks.page(path, moved, pages / "images")
    for name, text in made.items():
        _put(pages / name, text)
    _put(pages / "wide.css", _CSS)
    _put(folder / "mkdocs.yml", _CONFIG + _nav())


def _decisions() -> str:
    """The records of docs/decisions as one page."""
    first, *records = sorted((ROOT / "docs" / "decisions").glob("*.md"), key=lambda path: (path.name != "README.md", path.name))
    texts = [re.sub(r"^\d+\. \[[^\n]*\n", "", first.read_text(encoding="utf-8"), flags=re.MULTILINE)]
    texts += [_linked(re.sub(r"^#", "##", path.read_text(encoding="utf-8"), flags=re.MULTILINE), path) for path in records]
    return "\n".join(texts)


def _nav() -> str:
    """NAV as MkDocs reads it. A page that has no place there is one that nobody finds: MkDocs warns of it, and a test fails."""
    lines = []
    for title, entries in NAV:
        lines.append(f"  - {title}:")
        lines += [f"      - {json.dumps(told)}: {name}" for told, name in entries]
    return "\n".join(lines) + "\n"


def _put(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _linked(text: str, source: Path) -> str:
    """Links between pages as they are on the site; those to sources become their path, which the site does not have."""

    def moved(match: re.Match[str]) -> str:
        target, _, anchor = match.group(1).partition("#")
        if re.match(r"[a-z]+:", target) or not target:
            return match.group(1)
        place = (source.parent / target).resolve()
        path = place.relative_to(ROOT).as_posix()
        name = BESIDE.get(path) or (place.relative_to(ROOT / "docs").as_posix() if path.startswith("docs/") else "")
        if path == "notebooks":
            name = "tutorial_1_train.md"
        if path.startswith("notebooks/"):
            name = f"tutorial_{place.stem}.md"
        if path.startswith("docs/decisions/"):
            name = "decisions.md"
        return (f"{name}#{anchor}" if anchor else name) if name else f"SOURCE:{path}"

    return re.sub(r"\[([^\]]*)\]\(SOURCE:([^)]+)\)", r"\1 (`\2`)", _LINK.sub(moved, text))
