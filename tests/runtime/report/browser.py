"""A real browser that looks at a report, where the machine has one."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import TypedDict

import pytest

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--hide-scrollbars",
)
_MEASURE = """<script>
const boxes = [...document.querySelectorAll("table")].map(table => {
  const box = table.closest(".scroll") || table, card = table.closest("section");
  return {
    heading: card.querySelector("h2").textContent,
    beyond: box.getBoundingClientRect().right - card.getBoundingClientRect().right,
    hidden: box.scrollWidth - box.clientWidth,
    broken: [...table.querySelectorAll("td:not(:first-child):not(.left)")].filter(cell => {
      const range = document.createRange();
      range.selectNodeContents(cell);
      return new Set([...range.getClientRects()].map(line => line.bottom)).size > 2;
    }).length,
  };
});
const page = {width: innerWidth, beyond: document.documentElement.scrollWidth - innerWidth, tables: boxes};
parent.document.body.append("measured " + JSON.stringify(page) + " measured");
</script>"""


class TableLayout(TypedDict):
    """A table of the report, in pixels.

    Attributes:
        heading: of its section.
        beyond: how far it, or the box that it scrolls in, goes beyond its section; negative where it stays inside.
        hidden: how much of it can only be scrolled to.
        broken: cells with figures that take more than two lines.
    """

    heading: str
    beyond: float
    hidden: int
    broken: int


class PageLayout(TypedDict):
    """The whole page; `beyond` is what would make it scroll sideways."""

    width: int
    beyond: int
    tables: list[TableLayout]


def browse(page: Path, folder: Path, width: int, height: int, *actions: str) -> str:
    """What Chromium prints about a page; skips the test where there is none."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine to look at the report with")
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [browser, *FLAGS, profile, f"--window-size={width},{height}", *actions, page.as_uri()]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


def layout(report: Path, folder: Path, width: int) -> PageLayout:
    """Where its tables lie in a window of this width: a frame, since no window is as narrow as a phone's."""
    inner = html.escape(report.read_text().replace("</body>", f"{_MEASURE}</body>"))
    outer = folder / "frame.html"
    outer.write_text(
        f'<!doctype html><body><iframe style="border: 0; width: {width}px" srcdoc="{inner}"></iframe></body>'
    )
    dumped = browse(outer, folder, 1200, 2000, "--dump-dom")
    found = re.search("measured (.*) measured</body>", dumped)
    assert found
    page: PageLayout = json.loads(html.unescape(found[1]))
    assert page["width"] == width
    return page
