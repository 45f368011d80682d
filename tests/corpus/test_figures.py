from __future__ import annotations

import re
import warnings
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from riboray.page import printable
from tests.corpus.test_stats import describe, make_corpus

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "--></style></title><svg/onload=alert(1)>",
    "$\\frac{$ 100 % &amp; {x} \\",
    "\x1b[31mred\x1b[0m\nnew line\u202eevil\0",
    "\U0001f9ec 日本" + "語" * 90,
    "",
    "javascript:alert(1)",
]


class Reader(HTMLParser):
    """Collects what a browser would act on."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.ids, self.text = set(), [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A corpus whose every text is an attack; the name of its directory, too."""
    rows = [
        {"sequence": "ACGUN", "family": text, "rna_type": text, "description": text, "id": text}
        for text in HOSTILE
    ]
    members = [{"family": t, "name": f"{t}!", "ss_classes": "0123"} for t in HOSTILE]
    pairs = [{"family": text, "identity": 0.5} for text in HOSTILE]
    files = {"sequences-00000": rows, "members-00000": members, "pairs-00000": pairs}
    details = {
        "reasons": {"rejected": {HOSTILE[0]: 3}},
        "split": {HOSTILE[1]: HOSTILE[0], "validation_families": HOSTILE},
    }
    folder = tmp_path_factory.mktemp("x") / "<img src=x onerror=alert(1)>"
    counts = {"sequences_read": 11, "sequences_kept": 8, "sequences_rejected": 3}
    return make_corpus(folder, files, counts, details)


def page_of(folder, tmp_path):
    describe(folder, figure=str(tmp_path / "page.html"))
    return (tmp_path / "page.html").read_text("utf-8")


def test_data_cannot_break_out_of_the_page(hostile, tmp_path):
    page = page_of(hostile, tmp_path)
    found = Reader(page)
    ours = "html head meta title style body header h1 h2 p main section footer figure div table"
    table = "caption thead tbody tr th td"
    drawing = "svg g path defs use clippath rect text tspan"
    assert found.tags <= set(f"{ours} {table} {drawing}".split())
    assert not [a for a in found.attributes if a[1].startswith("on")]
    links = [v for _, name, v in found.attributes if name in ("href", "src", "xlink:href")]
    assert all(link.startswith("#") for link in links)
    assert "alert(1)" in "".join(found.text)  # it is there, as text
    assert not re.search(r"[\0\x1b\u202e]", page)


def test_the_page_needs_nothing_from_elsewhere(sample_corpus, tmp_path):
    page = page_of(sample_corpus, tmp_path)
    found = Reader(page)
    policy = next(v for _, name, v in found.attributes if (v or "").startswith("default-src"))
    assert "default-src 'none'" in policy
    assert "script" not in policy
    assert ("html", "lang", "en") in found.attributes
    assert "<title>Corpus corpus</title>" in page
    outside = set(re.findall(r"https?://[^\"'\s<]+", page))
    assert outside <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert not re.search(r"url\((?!#)|@import", page)
    assert len(found.ids) == len(set(found.ids))
    for reference in re.findall(r'(?:href="|url\()#([^")]+)', page):
        assert reference in found.ids
    drawings = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(drawings) >= 5
    for drawing in drawings:
        ElementTree.fromstring(drawing)
    assert "<!--" not in page
    assert "#0072b2" not in "".join(drawings)  # colours are the page's, for dark mode


@pytest.mark.parametrize(
    ("suffix", "magic"),
    [(".png", b"\x89PNG\r\n\x1a\n"), (".svg", b"<?xml"), (".html", b"<!DOCTYPE html>")],
)
@pytest.mark.parametrize("corpus", ["sample_corpus", "hostile"])
def test_every_kind_of_file(request, corpus, tmp_path, suffix, magic):
    folder = request.getfixturevalue(corpus)
    path = tmp_path / "new folder" / f"figure{suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stats = describe(folder, figure=str(path))
    assert stats["figure"] == str(path)
    assert path.read_bytes().startswith(magic)
    if suffix == ".svg":
        ElementTree.parse(path)
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # nothing temporary is left
    first = path.read_bytes()
    describe(folder, figure=str(path))
    assert path.read_bytes() == first  # the same corpus, the same file


def test_panels_without_data_are_left_out(tmp_path):
    bare = make_corpus(tmp_path / "bare", {"sequences-00000": [{"sequence": "ACGU"}]})
    headings = re.findall(r'aria-label="([^"]*)"', page_of(bare, tmp_path))
    assert [heading.split(":")[0] for heading in headings] == [
        "Figures",
        "Lengths",
        "Composition",
        "What became of the records read",
        "Tables",
    ]


@pytest.mark.parametrize("suffix", [".png", ".html"])
def test_a_corpus_of_nothing(tmp_path, suffix):
    folder = make_corpus(tmp_path / "empty", {"sequences-00000": []}, {})
    path = tmp_path / f"x{suffix}"
    describe(folder, figure=str(path))
    assert path.stat().st_size > 1000
    folder = make_corpus(tmp_path / "blank", {"sequences-00000": [{"sequence": ""}]})
    assert describe(folder, figure=str(path))["lengths"]["max"] == 0


def test_a_skewed_corpus(tmp_path):
    lengths = [9] * 900 + list(range(100, 500, 7)) + [4000]
    rows = [{"sequence": "A" * n} for n in lengths]
    files = {"sequences-00000": rows, "validation_sequences-00000": rows[-3:]}
    folder = make_corpus(tmp_path / "skewed", files, group=500)
    stats = describe(folder, figure=str(tmp_path / "x.png"))
    assert sum(stats["lengths"]["histogram"]["train"]) == len(lengths)


def test_the_terminal_gets_no_control_characters(hostile, capsys):
    describe(hostile)
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "RNA types: 8" in text


def test_printable():
    odd = "\N{REPLACEMENT CHARACTER}"
    assert printable("a\nb\x1bc\u202e") == f"a{odd}b{odd}c{odd}"
    assert printable("x" * 99, 10) == "x" * 9 + "…"
    assert printable("語" * 9, 10) == "語" * 4 + "…"
    assert printable("語" * 5, 10) == "語" * 5
    assert printable(9606) == "9606"
