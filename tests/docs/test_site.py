"""The documentation's site, built as CI builds it and opened in a browser."""

from __future__ import annotations

import functools
import http.server
import os
import re
import subprocess
import sys
import threading

import pytest

from riboray.verbs import VERBS
from tests.browser import chromium
from tests.conftest import ROOT

__all__ = ["chromium"]

README = (ROOT / "README.md").read_text("utf-8")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the site, strictly: what a link names must be there."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    return folder


@pytest.fixture(scope="module")
def address(site):
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            """Say nothing."""

    handler = functools.partial(Handler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_pages_open_and_ask_nobody_else(site, address, chromium):
    pages = sorted(path.parent.relative_to(site).as_posix() for path in site.rglob("index.html"))
    assert len(pages) > 40
    page = chromium.new_page()
    wrong: list[str] = []
    page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda r: None if r.url.startswith(address) else wrong.append(r.url))
    for name in pages:
        page.goto(f"{address}/{name}/")
        assert page.locator("h1").count() == 1, name
    assert wrong == []
    page.close()


def test_search_formulas_and_commands(address, chromium):
    page = chromium.new_page()
    page.goto(f"{address}/explanation/sal/")
    assert page.locator("math").count() > 10
    assert page.locator(".arithmatex").count() == 0
    assert "\\" not in "".join(page.locator("p").all_text_contents())
    page.get_by_role("textbox", name="Search").fill("affine gaps")
    page.locator(".md-search-result__item").first.wait_for()
    assert page.locator(".md-search-result__item").count() > 1
    page.goto(f"{address}/reference/commands/")
    headings = {text.strip("¶ ") for text in page.locator("h2").all_text_contents()}
    assert headings == {f"riboray {name}" for name in VERBS}
    page.close()


def test_the_readme_leads_somewhere():
    """Files, and headings of files."""
    links = re.findall(r"\]\(([^)\s]+)\)", README)
    assert len(links) > 40
    for link in links:
        if not link.startswith("https://"):
            assert (ROOT / link.partition("#")[0]).exists(), link


def test_the_readme_has_every_verb():
    assert set(re.findall(r"\| `riboray ([a-z -]+)` \|", README)) == set(VERBS)


def test_figures_of_the_readme_are_those_of_the_results():
    """Each number of the table stands in docs/results.md."""
    results = (ROOT / "docs" / "results.md").read_text("utf-8")
    rows = README.split("## How well")[1].split("## ")[0]
    for number in re.findall(r"\d+\.\d{3}|\d+,\d{3}", rows):
        assert number in results, number
