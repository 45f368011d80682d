"""The tutorials, run as they stand."""

from __future__ import annotations

import pytest

from tests.conftest import ROOT
from tests.docs.tutorials import blocks_of, check, run_page

DOCS = ROOT / "docs"
TUTORIALS = sorted(p for p in (DOCS / "tutorials").glob("*.md") if p.stem != "index")
PAGES = [*TUTORIALS, DOCS / "quickstart.md"]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial(page, tmp_path):
    run_page(page, tmp_path)


def test_there_are_five():
    assert len(TUTORIALS) == 5
    assert all(len(blocks_of(page)) > 5 for page in PAGES)


def test_what_is_not_printed_is_found_out():
    check("a 12 b\nc …\n", "x\na 7,000.5 b\ny\nc 1:20 and more\n", "page")
    for wanted in ("c\na 1\n", "a 1\na 2\n", "a\n"):
        with pytest.raises(AssertionError, match="not printed"):
            check(wanted, "a 1\nc\n", "page")
