"""The page in a browser: a phone's width, and print."""

import html
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from linft.report.figures import FIGURES
from linft.report.page import render
from linft.workflows.compare.result import ComparisonResult

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-pdf-header-footer",
)  # fmt: skip

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs the browser `chromium` on the path")

# A window is never narrower than 500 px, so the page is shown in a frame that is.
FRAME = """<!DOCTYPE html><title>not measured</title><iframe srcdoc="{page}" style="width: {width}px"></iframe>
<script>onload = () => {{
  const inside = document.querySelector("iframe").contentDocument;
  const shown = [...inside.querySelectorAll("figure svg")].filter(each => each.getClientRects().length);
  const widest = Math.max(...shown.map(each => each.getBoundingClientRect().right));
  document.title = [inside.documentElement.scrollWidth, Math.round(widest), shown.length].join(" ");
}}</script>"""


def browse(directory: Path, *arguments: str) -> str:
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={directory / 'profile'}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.parametrize("width", [360, 1100])
def test_nothing_is_wider_than_the_page(result: ComparisonResult, tmp_path: Path, width: int):
    long = "a_network_with_a_name_that_never_ends_and_has_no_place_to_break_it"
    page = render(replace(result, model=replace(result.model, name=long, source={long: long})))
    (tmp_path / "frame.html").write_text(FRAME.format(page=html.escape(page), width=width))
    shown = browse(tmp_path, "--window-size=1200,900", "--dump-dom", (tmp_path / "frame.html").as_uri())
    title = shown.partition("<title>")[2].partition("</title>")[0]
    across, widest, figures = map(int, title.split())
    assert across <= width and widest <= width
    assert figures == len(FIGURES), "one layout of each figure is shown"


def test_it_prints(written: Path, tmp_path: Path):
    browse(tmp_path, f"--print-to-pdf={tmp_path / 'report.pdf'}", (written / "report.html").as_uri())
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
