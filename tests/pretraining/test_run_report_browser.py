"""The whole page of a run with a model, as a browser shows it."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, replace

import pytest
import torch

from riboray.corpus.sample import SAMPLE_HELD_OUT
from riboray.manifest import read_manifest
from riboray.model.checkpoint import save_checkpoint
from riboray.model.heads import RnaBertForPreTraining
from tests.corpus.test_stats import make_corpus
from tests.pretraining.test_run_report import HOSTILE, Reader, make_run, page_of, text_of, weekend
from tests.pretraining.test_run_report_model import options_for


def make_whole_run(folder, corpus, records, **changes):
    """A stopped run with a checkpoint of random weights."""
    options = replace(options_for(corpus), **changes)
    make_run(folder, records, options=json.loads(json.dumps(asdict(options))))
    torch.manual_seed(1)
    (folder / "checkpoints").mkdir()
    model = RnaBertForPreTraining(options.model)
    save_checkpoint(model, folder / "checkpoints" / "step-00000010")
    marker = {"fingerprint": "f", "corpus": read_manifest(corpus, "corpus").fingerprint}
    (folder / "run.json").write_text(json.dumps(marker))
    return folder


@pytest.fixture
def whole(tmp_path, sample_corpus):
    return make_whole_run(tmp_path / "r", sample_corpus, weekend(300))


def test_a_whole_page(whole):
    result, page = page_of(whole, no_model=False, max_points=80, alignments=3)
    assert (result["pairs_aligned"], result["sequences_mapped"]) == (30, 80)
    assert result["checkpoint"].endswith("step-00000010")
    assert result["notes"] == []
    shown = text_of(page)
    assert ", ".join(sorted(SAMPLE_HELD_OUT)) in shown  # known before there is a summary
    assert "2,083 sequences" in shown
    for words in ("best", "median", "worst", "does not show how similar", "80 of the corpus's"):
        assert words in shown
    points = re.search(r'<figure class="map">.*?</svg>', page, re.DOTALL)[0]
    assert len(re.findall("<circle|<path", points)) == points.count("<title>") == 80
    page_of(whole, no_model=False, max_points=80, alignments=3, output=str(whole / "again.html"))
    again = (whole / "again.html").read_text("utf-8")
    date = re.compile(r"on \d{4}-\d\d-\d\d \d\d:\d\d UTC")
    assert date.sub("", again) == date.sub("", page)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(whole, capsys):
    newest = whole / "checkpoints" / "step-00000020"
    shutil.copytree(whole / "checkpoints" / "step-00000010", newest)
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    result, page = page_of(whole, no_model=False, max_points=0, alignments=1)
    assert result["checkpoint"].endswith("step-00000010")
    assert "A checkpoint could not be read" in text_of(page)
    assert "(step 10)" in text_of(page)
    shutil.rmtree(whole / "checkpoints")
    result, page = page_of(whole, no_model=False)
    assert text_of(page).count("no checkpoint that can be read yet") == 2
    assert result["checkpoint"] is None


def test_another_corpus_in_its_place(whole):
    (whole / "run.json").write_text(json.dumps({"corpus": "another"}))
    result, page = page_of(whole, no_model=False)
    assert text_of(page).count("holds another corpus than the one the run was trained on") == 2
    assert result["sequences_mapped"] == 0


@pytest.fixture
def hostile(tmp_path):
    """A run on a corpus whose every text is an attack."""
    sequences = ["ACGUACGU" + "ACGU"[k % 4] * (k + 1) for k in range(len(HOSTILE))]
    rows = [
        {
            "id": text,
            "sequence": s,
            "length": len(s),
            "rna_type": text,
            "sha256_64": k * 10**6 + 500_000,
        }
        for k, (text, s) in enumerate(zip(HOSTILE, sequences, strict=True))
    ]
    pairs = [
        {"family": text, "id_a": text, "id_b": text, "aligned_a": s + "-", "aligned_b": "-" + s}
        for text, s in zip(HOSTILE, sequences, strict=True)
    ]
    members = [
        {"family": t, "name": t, "id": t, "sha256_64": 99, "dot_bracket": "<" * len(s)}
        for t, s in zip(HOSTILE, sequences, strict=True)
    ]
    files = {"sequences-00000": rows, "pairs-00000": pairs, "members-00000": members}
    corpus = make_corpus(tmp_path / "c", files, {})
    held_out = HOSTILE[:-1]
    return make_whole_run(tmp_path / "r", corpus, weekend(30), validation_families=held_out)


def test_ids_cannot_break_out_of_the_page(hostile):
    result, page = page_of(hostile, no_model=False)
    assert (result["pairs_aligned"], result["sequences_mapped"]) == (6, 7)
    found = Reader(page)
    assert not found.tags & {"img", "svg/onload", "form", "iframe", "a", "input", "link", "object"}
    assert len(found.scripts) == 1
    assert not [a for a in found.attributes if a[1].startswith("on") or a[1] in ("href", "src")]
    assert not re.search(r"[\0\x1b\u202e]", page)
    assert page.count("&lt;&lt;&lt;") > 10  # structures are escaped, too
    text = "".join(found.text)
    assert text.count("<script>alert(1)</script>") > 5


#: What a reader of the page sees: how wide it is, what sticks out, and what the pointer is told.
LOOK = """() => {
  const found = {width: innerWidth, scroll: document.documentElement.scrollWidth};
  found.wide = [...document.querySelectorAll("main > *, header, section > *")]
    .filter((e) => e.getBoundingClientRect().right > 400.5).map((e) => e.outerHTML.slice(0, 80));
  const point = (element, x, y) => {
    element.dispatchEvent(new PointerEvent("pointermove", {clientX: x, clientY: y, bubbles: true}));
    const tip = document.querySelector(".tip");
    return tip && !tip.hidden ? [...tip.children].map((e) => e.textContent) : null;
  };
  const chart = document.querySelector("svg[data-hover]"), box = chart.getBoundingClientRect();
  found.chart = point(chart, box.right - 1, box.top + 50);
  const dot = document.querySelector(".map circle");
  found.map = dot && point(dot, 10, 10);
  return found;
}"""


@pytest.fixture
def browser(chromium, tmp_path):
    """Open a page 400 pixels wide; return what was measured in it and what the console said."""

    def look(page):
        (tmp_path / "x.html").write_text(page, "utf-8")
        opened = chromium.new_page(viewport={"width": 400, "height": 900})
        console = []
        opened.on("console", lambda message: console.append(message.text))
        opened.on("pageerror", lambda error: console.append(str(error)))
        opened.goto((tmp_path / "x.html").as_uri())
        found = opened.evaluate(LOOK)
        opened.close()
        return found, console

    return look


@pytest.mark.slow
@pytest.mark.parametrize("corpus", ["whole", "hostile"])
def test_in_a_browser(request, browser, corpus):
    run = request.getfixturevalue(corpus)
    _, page = page_of(run, no_model=False, max_points=60)
    found, console = browser(page)
    assert console == []
    assert found["scroll"] <= found["width"] == 400
    assert found["wide"] == []
    last = [r for r in map(json.loads, (run / "metrics.jsonl").open()) if r["kind"] == "train"][-1]
    head, training, *_ = found["chart"]
    assert head.startswith(f"step {last['step']:,}, ")
    assert float(training.split()[1]) == pytest.approx(last["mlm_loss"], rel=1e-3)
    assert " · " in found["map"][1]


@pytest.mark.slow
def test_the_browser_would_say_what_is_wrong(whole, browser):
    """A wide element is found; a foreign script is not run, and the console says so."""
    _, page = page_of(whole)
    wrong = "<main><p style='width:900px'>wide</p><script>fetch('x')</script>"
    page = page.replace("<main>", wrong)
    found, console = browser(page)
    assert found["scroll"] > 400
    assert found["wide"]
    assert len(console) == 1
    assert "Content Security Policy" in console[0]
