"""Pages as a browser reads them: what they would load, whether every tag is closed and every link leads somewhere, and what screen readers miss."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image

SHAPES = ("rect", "line", "polyline", "circle", "path")
_VOID = ("meta", "br", "link", "input", *SHAPES)


class Page(HTMLParser):
    """``outside``: what a browser would load or follow beyond the page; ``text``; ``open``: tags that were not closed; ``mute``: what has no name for
    those who do not see it; ``lost``: links within the page that lead nowhere; ``twice``: anchors that are not the only ones of their name."""

    def __init__(self, text: str = "") -> None:
        super().__init__()
        self.outside: list[str] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.mute: list[str] = []
        self.headings: list[str] = []
        self._names: Counter[str] = Counter()
        self._links: set[str] = set()
        self._labelled: set[str] = set()
        self._inputs: set[str] = set()
        if text:
            self.feed(text)

    @property
    def lost(self) -> set[str]:
        return self._links - set(self._names)

    @property
    def twice(self) -> set[str]:
        return {name for name, count in self._names.items() if count > 1}

    @property
    def without_label(self) -> set[str]:
        return self._inputs - self._labelled

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        for name, value in given.items():
            if name in ("href", "xlink:href") and value.startswith("#"):
                self._links.add(value[1:])
            elif name in ("src", "href", "xlink:href", "action", "data"):
                self.outside.append(f"{tag} {name}={value}")
        if "id" in given:
            self._names[given["id"]] += 1
        if "aria-labelledby" in given:
            self._links.add(given["aria-labelledby"])
        if given.get("role") in ("img", "region", "group") and not given.get("aria-label"):
            self.mute.append(f"{tag} {given}")
        if tag == "label":
            self._labelled.add(given.get("for", ""))
        if tag == "input":
            self._inputs.add(given.get("id", ""))
        if tag in ("h1", "h2", "h3", "h4"):
            self.headings.append(tag)
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def check(text: str) -> Page:
    """The page, which is whole and self-contained and has a name for everything."""
    page = Page(text)
    assert (page.open, page.outside, page.mute) == ([], [], [])
    assert (page.lost, page.twice, page.without_label) == (set(), set(), set())
    assert "://" not in text
    assert page.headings[0] == "h1"
    assert all(after <= before or int(after[1]) == int(before[1]) + 1 for before, after in zip(page.headings, page.headings[1:], strict=False))
    return page


def chromium() -> str:
    """The browser. A machine without it skips the test; continuous integration must not."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("Chromium is missing, and continuous integration may not skip what pages do in a browser")
        pytest.skip("needs Chromium (apt-get install chromium)")
    return found


def in_browser(page: Path, script: str, *, size: tuple[int, int] = (1280, 900), dark: bool = False, shot: Path | None = None) -> str:
    """Open the page without a network, run ``script`` in it behind its own, and return what it leaves as the text of the page's title. ``dark``: on a
    screen that asks for it. ``shot``: where a picture of the window is written, as PNG."""
    text = page.read_text(encoding="utf-8")
    staged = page.with_name(f"{page.stem}_scripted.html")
    caught = f"try {{ {script} }} catch (error) {{ document.title = 'error: ' + error; }}"
    staged.write_text(text.replace("</body>", f"<script>{caught}</script></body>"), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--proxy-server=127.0.0.1:9", f"--window-size={size[0]},{size[1]}", "--hide-scrollbars"]
    flags += [f"--blink-settings=preferredColorScheme={0 if dark else 1}", *([] if shot is None else [f"--screenshot={shot}"])]
    done = subprocess.run(
        [chromium(), *flags, "--virtual-time-budget=2000", "--dump-dom", staged.as_uri()], capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout.split("<title>")[1].split("</title>")[0]


class Look(NamedTuple):
    """A screenshot: its pixels, how many of the page stand out at the side, the brightness that most have (0 is black), the share of others."""

    size: tuple[int, int]
    beyond: int
    paper: int
    ink: float

    def is_good(self, *, width: int, dark: bool) -> bool:
        """Of that width, nothing beyond it, on dark or light paper, neither empty nor full."""
        return self.size[0] == width and self.beyond <= 0 and (self.paper < 64 if dark else self.paper > 192) and 0.02 < self.ink < 0.9


def look(page: Path, *, width: int, dark: bool) -> Look:
    """The page as it stands in a window of that width."""
    shot = page.with_name(f"{page.stem}_{width}_{'dark' if dark else 'light'}.png")
    script = "document.title = [innerWidth, document.documentElement.scrollWidth].join(' ')"
    window, content = map(int, in_browser(page, script, size=(width, 900), dark=dark, shot=shot).split())
    picture = Image.open(shot).convert("L")
    numbers = picture.histogram()
    return Look(picture.size, content - window, numbers.index(max(numbers)), 1 - max(numbers) / sum(numbers))
