"""The page about a run: what it reads, what it copes with, what it says."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from dataclasses import asdict
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml

from riboray.cli import main
from riboray.pretraining.config import PretrainConfig
from riboray.pretraining.run_report import ReportConfig, report

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "--></style></title></script><svg/onload=alert(1)>",
    "' autofocus onfocus='alert(1)",
    "\x1b[31mred\x1b[0m\nnew line\u202eevil\0",
    "\U0001f9ec 日本" + "語" * 90,
    "&lt;b&gt; &amp; {x} %s",
]


def train(step, **values):
    """A record of training with all fields."""
    fields = {
        "learning_rate": 1e-3,
        "phase": 0,
        "objectives": "mlm",
        "workers": 2,
        "tokens_per_s": 9000.0,
        "pairs_per_s": 0.0,
        "padding_efficiency": 0.97,
        "mfu": 0.012,
        "data_wait": 0.01,
        "alignment_wait": 0.0,
        "mlm_loss": 1.4,
        "mlm_accuracy": 0.4,
        "gradient_norm": 2.5,
        "mlm_epochs": step / 1000,
    }
    return record("train", step, **{**fields, **values})


def record(kind, step, **values):
    return {"kind": kind, "step": step, "progress": step / 1000, "elapsed_s": 2.0 * step} | values


def weekend(count=3000, seed=0):
    """Records of a long elastic run: three phases, events, noise, a diverged record."""
    rng = np.random.default_rng(seed)
    records, workers = [], 4
    shapes = [("mlm", 0.35), ("mlm+sal", 0.8), ("mlm+sal+ss", 1.01)]
    happened = {
        300: "worker 3 lost; going on with 3 of 4 workers",
        420: "a worker joined: 4 workers",
        1200: "resumed from step 12,000",
        1800: "checkpoint step-00018000 is damaged; went back to the one before",
        2100: "2 workers lost; going on with 2",
        2500: "6 workers",
    }
    for k in range(count):
        step, share = 10 * (k + 1), (k + 1) / count
        place = {"progress": share, "elapsed_s": round(80.0 * (k + 1) * (1 + 0.2 * share), 1)}
        workers = {300: 3, 420: 4, 2100: 2, 2500: 6}.get(k * 3000 // count, workers)
        if (k * 3000) % count < 3000 and (text := happened.get(k * 3000 // count)):
            records.append(record("event", step, **place, message=text))
        phase = next(i for i, (_, end) in enumerate(shapes) if share <= end)
        values = {
            "phase": phase,
            "objectives": shapes[phase][0],
            "workers": workers,
            "learning_rate": 1e-3 * 0.5 * (1 + math.cos(math.pi * share)),
            "tokens_per_s": workers * rng.normal(9000, 700),
            "mlm_loss": 1.25 + 2 * math.exp(-12 * share) + rng.normal(0, 0.04),
            "mlm_accuracy": 0.46 - 0.36 * math.exp(-12 * share) + rng.normal(0, 0.012),
            "gradient_norm": rng.lognormal(0.6, 0.5),
            "mfu": rng.normal(0.021, 0.002),
            "padding_efficiency": rng.normal(0.97, 0.003),
            "data_wait": rng.beta(2, 60),
            "alignment_wait": rng.beta(2, 20) if phase else 0.0,
            "pairs_per_s": workers * rng.normal(30, 4) if phase else 0.0,
        }
        if phase:
            values["sal_loss"] = 12 + 25 * math.exp(-9 * (share - 0.35)) + rng.normal(0, 4)
        if phase == 2:
            values |= {"ss_loss": 1.1 + rng.normal(0, 0.05), "ss_accuracy": rng.normal(0.6, 0.02)}
        records.append(train(step, **{**values, **place}))
        if (k + 1) % (count // 12) == 0:
            f1 = 0.72 - 0.35 * math.exp(-10 * share) - 0.03 * max(share - 0.9, 0) / 0.1
            measured = {
                "mlm_loss": 1.24 + 2 * math.exp(-12 * share),
                "mlm_accuracy": 0.46 - 0.36 * math.exp(-12 * share),
                "mlm_targets": 5431.0,
                "sal_loss": 13 + 20 * math.exp(-9 * share),
                "sal_f1": f1,
                "sal_sensitivity": f1 + 0.01,
                "sal_ppv": f1 - 0.01,
                "sal_pairs": 400.0,
                "best": share <= 0.92,
            }
            records.append(record("validation", step, **{**place, **measured}))
    return records


def make_run(folder, records, *, options=None, summary=None, tail=""):
    """A run directory without a model."""
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"fingerprint": "f" * 16}))
    chosen = asdict(PretrainConfig(run_name="r", seed=7)) if options is None else options
    (folder / "resolved_config.yaml").write_text(yaml.safe_dump(chosen, sort_keys=False))
    lines = "".join(json.dumps(r) + "\n" for r in records)
    (folder / "metrics.jsonl").write_text(lines + tail)
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def measured(step, **values):
    return record("validation", step, **values)


SHORT = [
    measured(0, mlm_loss=3.21987, mlm_accuracy=0.0801, sal_f1=0.36685, sal_pairs=120.0),
    train(100, mlm_loss=2.34567),
    measured(500, mlm_loss=1.61234, mlm_accuracy=0.35127, sal_f1=0.71784, sal_pairs=120.0),
    train(900, mlm_loss=1.45678, tokens_per_s=12345.0, mlm_accuracy=0.41731),
    measured(1000, mlm_loss=1.31451, mlm_accuracy=0.41311, sal_f1=0.71159, sal_pairs=120.0),
]
SUMMARY = {
    "steps": 1000,
    "data": {"mlm_training_sequences": 2083, "sal_training_pairs": 1400},
    "held_out_families": ["RF00003", "RF00006"],
}


def page_of(folder, **options):
    result = report(ReportConfig(run=[str(folder)], **{"no_model": True, **options}))
    return result, Path(result["output"]).read_text("utf-8")


class Reader(HTMLParser):
    """Collects what a browser would act on."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.ids, self.text, self.scripts = set(), [], [], [], []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self._inside = tag
        self.tags.add(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        (self.scripts if self._inside == "script" else self.text).append(data)


def cells(page, heading):
    """Rows, as texts, of the first table that a heading is in or comes before."""
    place = page.index(heading)
    start = (
        page.rindex("<table>", 0, place) if "caption" in heading else page.index("<table>", place)
    )
    rows = re.findall(
        r"<tr[^>]*>(.*?)</tr>", page[start : page.index("</table>", start)], re.DOTALL
    )
    return [
        [unescape(c) for c in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL)]
        for row in rows
    ]


def text_of(page):
    """What a reader sees, in one line."""
    body = re.sub(r"<(style|script|title).*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


def test_numbers_are_those_of_the_records(tmp_path):
    result, page = page_of(make_run(tmp_path / "r", SHORT, summary=SUMMARY))
    assert (result["state"], result["step"], result["measurements"]) == ("finished", 1000, 3)
    head, *rows = cells(page, "Measurements on held-out data")
    assert head == ["step", "time", "MLM loss", "MLM accuracy", "F1", "pairs"]
    wanted = [r for r in SHORT if r["kind"] == "validation"]
    for row, r in zip(rows, wanted, strict=True):
        assert row[0].split("\N{NO-BREAK SPACE}")[0] == f"{r['step']:,}"
        shown = [float(cell) for cell in row[2:]]
        names = ("mlm_loss", "mlm_accuracy", "sal_f1", "sal_pairs")
        assert shown == pytest.approx([r[name] for name in names], abs=5.1e-5)
    best = "500\N{NO-BREAK SPACE}★\N{NO-BREAK SPACE}best"
    assert [row[0] for row in rows if "★" in row[0]] == [best]
    head, *before_after = cells(page, '<dl class="facts">')
    assert head == ["", "before", "best, step 500", "after"]
    assert ["alignment F1, held-out families", "0.3669", "0.7178", "0.7116"] in before_after
    text = text_of(page)
    for figure in ("2,083 sequences", "1,400 pairs", "RF00003, RF00006", "1.46", "12.3k", "41.7 %"):
        assert figure in text
    hover = [json.loads(unescape(h)) for h in re.findall(r'data-hover="([^"]*)"', page)]
    first = hover[0]["lines"]
    assert first[0]["value"] == [2.346, 1.457]
    assert first[1]["value"] == [3.22, 1.612, 1.315]
    assert first[1]["step"] == [0, 500, 1000]


def test_every_option_is_in_the_page_and_changes_are_marked(tmp_path):
    options = asdict(PretrainConfig(run_name="r", seed=7, max_steps=1000))
    _, page = page_of(make_run(tmp_path / "r", SHORT, options=options))
    rows = re.findall(r"<tr( class=marked)?><td>([^<]*)</td><td>([^<]*)</td>", page)
    shown = {name: (value, bool(marked)) for marked, name, value in rows}
    assert {"masking.fraction", "model.hidden_size", "gaps.open"} <= set(shown)
    assert shown["learning_rate"] == ("0.001", False)
    changed = {name for name, (_, marked) in shown.items() if marked}
    assert changed == {"run_name", "seed", "max_steps"}
    assert "differ from the defaults" in page


@pytest.mark.parametrize("kept", [(), ("elapsed_s", "mlm_loss"), ("learning_rate", "sal_f1")])
def test_absent_fields(tmp_path, kept):
    """Records of another version, down to nothing but kind, step and time."""
    needed = {"kind", "step", "elapsed_s", *kept}
    records = [{k: v for k, v in r.items() if k in needed} for r in SHORT]
    result, page = page_of(make_run(tmp_path / "r", records, options={}))
    assert result["measurements"] == 3
    assert not re.search(r"\b(nan|None|inf)\b", text_of(page).replace("(none)", ""))
    assert page.count('<figure class="chart">') == len(set(kept) - {"elapsed_s"})
    assert ("mlm_loss" in kept) == ("Masked nucleotides: loss" in page)


def test_only_the_first_measurement_is_there(tmp_path):
    _, page = page_of(make_run(tmp_path / "r", SHORT[:1]))
    assert "No record of training yet." in page
    assert cells(page, "Measurements on held-out data")[1][0].startswith("0")


def test_data_cannot_break_out_of_the_page(tmp_path):
    options = asdict(PretrainConfig(corpus=HOSTILE)) | {HOSTILE[0]: HOSTILE[1], "seed": HOSTILE[2]}
    events = [record("event", 500, message=text) for text in (*HOSTILE, {"a": HOSTILE[0]})]
    records = [
        *SHORT,
        *events,
        *(train(1000 + i, objectives=text, phase=text) for i, text in enumerate(HOSTILE)),
        train(2000, mlm_loss=HOSTILE[0], workers=HOSTILE[1]),
    ]
    summary = {"steps": HOSTILE[0], "held_out_families": HOSTILE, "data": {HOSTILE[0]: 3}}
    folder = tmp_path / "<img src=x onerror=alert(1)>"
    _, page = page_of(make_run(folder, records, options=options, summary=summary))
    found = Reader(page)
    ours = "html head meta title style body script header h1 h2 h3 p main section footer div span b"
    more = "figure figcaption table caption thead tbody tr th td dl dt dd details summary ol li pre"
    drawing = "svg g path rect text circle clippath title"
    assert found.tags <= set(f"{ours} {more} {drawing}".split())
    assert not [a for a in found.attributes if a[1].startswith("on") or a[1] in ("href", "src")]
    assert not [a for a in found.attributes if a[1] == "autofocus"]
    shown = "".join(found.text)
    for text in ("<script>alert(1)</script>", "onerror=alert(1)", "--></style>", "&lt;b&gt;"):
        assert text in shown
    assert not re.search(r"[\0\x1b\u202e]", page)


def test_the_page_needs_nothing_from_elsewhere(tmp_path):
    _, page = page_of(make_run(tmp_path / "r", weekend(600)))
    found = Reader(page)
    policy = next(v for _, name, v in found.attributes if (v or "").startswith("default-src"))
    (script,) = found.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'; style-src 'unsafe-inline'; " in policy
    assert policy.endswith(f"script-src 'sha256-{digest}'")
    assert set(re.findall(r"https?://[^\"'\s<]+", page)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"url\((?!#frame\))|@import|fetch\(|XMLHttp|innerHTML|eval\(", page)
    assert len(found.ids) == len(set(found.ids))
    assert "frame" in found.ids
    assert not [a for a in found.attributes if a[1] in ("src", "href", "action")]


def test_a_run_without_alignments_shows_none(tmp_path):
    _, page = page_of(make_run(tmp_path / "r", [train(100), train(200, data_wait=0.0)]))
    assert "Pairs aligned" not in page
    assert "for alignments" not in page
    assert "for data" in page
    assert "pairs per second" not in page


def test_a_long_run_makes_a_small_page(tmp_path):
    result, page = page_of(make_run(tmp_path / "r", weekend(12_000)))
    assert result["bytes"] < 1_000_000
    assert result["events"] == 6
    assert page.count('class="mark ') == 6 * 6  # six charts of throughput
    assert page.count('class="mark red"') == 3 * 6
    phases = cells(page, "<caption>Phases")
    assert [row[0] for row in phases[1:]] == ["1  MLM", "2  MLM + SAL", "3  MLM + SAL + SS"]
    assert "2 to 6; 6 at the last record" in text_of(page)


def test_the_verb_prints_a_summary(tmp_path, capsys):
    folder = make_run(tmp_path / "r", SHORT)
    page = tmp_path / "new folder" / "page.html"
    assert main(["report", str(folder), "--output", str(page), "--no-model", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["output"] == str(page)
    assert printed["bytes"] == page.stat().st_size
    assert printed["last_measurement"]["sal_f1"] == 0.71159
    assert [p.name for p in page.parent.iterdir()] == ["page.html"]  # nothing temporary is left
    assert not (folder / "report.html").exists()
