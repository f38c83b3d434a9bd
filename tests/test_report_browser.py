"""The run's page in a real browser: it is laid out, writes nothing to the console, and fits a telephone."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from run_folders import finished_run

from shridhar_ft.report.run_page import write_run_page
from shridhar_ft.report.tongue import LANGUAGES, Language

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"),
]
SEEN = """
<!doctype html><meta charset="utf-8"><body><iframe src="page.html" width="{width}" height="4000"></iframe>
<pre id="seen"></pre>
<script>
  document.querySelector("iframe").addEventListener("load", event => {{
    const page = event.target.contentDocument, plots = [...page.querySelectorAll("svg")];
    const shown = plots.filter(plot => !plot.closest("details:not([open])"));
    document.querySelector("#seen").textContent = JSON.stringify({{
      over: page.documentElement.scrollWidth - page.documentElement.clientWidth, plots: plots.length,
      drawn: shown.filter(plot => plot.getBoundingClientRect().width > 100).length === shown.length,
      named: plots.every(plot => plot.querySelector(":scope > title").textContent
        && plot.querySelector(":scope > desc").textContent)
    }});
  }});
</script>
"""


def browse(page: Path, folder: Path) -> tuple[str, list[str]]:
    """A page's DOM once it is loaded, and what was written to the console."""
    assert CHROMIUM is not None
    flags = ("no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking")
    flags += ("disable-component-update", "disable-sync", "enable-logging=stderr", "allow-file-access-from-files")
    command = [CHROMIUM, "--headless", *(f"--{flag}" for flag in flags), f"--user-data-dir={folder / 'profile'}"]
    done = subprocess.run(
        [*command, "--virtual-time-budget=3000", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_a_page_renders_without_a_word_in_the_console(tmp_path: Path) -> None:
    write_run_page(finished_run(tmp_path), "en", tmp_path / "page.html")
    dom, console = browse(tmp_path / "page.html", tmp_path)
    assert "The run is done." in dom and dom.count("<svg") == 20
    assert console == []
    broken = tmp_path / "broken.html"
    broken.write_text("<script>nothing.there()</script>", encoding="utf-8")
    assert browse(broken, tmp_path)[1], "an error would be seen"


@pytest.mark.parametrize("language", LANGUAGES)
def test_on_a_telephone_nothing_runs_over_the_edge_and_every_plot_is_drawn_and_named(
    language: Language, tmp_path: Path
) -> None:
    write_run_page(finished_run(tmp_path), language, tmp_path / "page.html")
    frame = tmp_path / "frame.html"
    frame.write_text(SEEN.format(width=390), encoding="utf-8")
    dom, console = browse(frame, tmp_path)
    seen = re.search(r'<pre id="seen">(.*?)</pre>', dom)
    assert seen and seen.group(1) == '{"over":0,"plots":20,"drawn":true,"named":true}', (
        seen and seen.group(1),
        console,
    )
