"""The charts of a run's page: averages, round numbers, and drawings of whatever was recorded."""

from __future__ import annotations

import json
import math
import re
from html import unescape
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from riboray.pretraining.page_chart import BOTTOM, LEFT, RIGHT, TOP, Chart, Line, Mark, XAxis
from riboray.pretraining.page_curves import curves_section, throughput_section
from riboray.pretraining.page_head import Facts, headline, options_section, validation_section
from riboray.pretraining.page_scale import short, smooth, span_text, ticks, time_ticks
from riboray.pretraining.page_svg import draw_chart
from riboray.pretraining.run_report_state import Phase, read_run
from tests.pretraining.test_run_report import Reader, make_run, train

VALUES = st.none() | st.floats(-1e6, 1e6)


@given(st.lists(VALUES, max_size=40), st.integers(0, 12))
def test_smooth_is_the_mean_of_the_neighbours(values, reach):
    wanted = []
    for i, value in enumerate(values):
        near = min(reach, i)
        known = [v for v in values[i - near : i + near + 1] if v is not None]
        wanted.append(None if value is None else math.fsum(known) / len(known))
    found = smooth(values, reach)
    assert [v is None for v in found] == [v is None for v in wanted]
    # Differences of sums of up to 40 values of 1e6, each rounded by less than 4e7 * 1.2e-16.
    pairs = zip(found, wanted, strict=True)
    assert all(abs(a - b) < 1e-6 for a, b in pairs if a is not None and b is not None)


@given(st.floats(-1e9, 1e9), st.floats(1e-9, 1e9), st.integers(2, 8), st.booleans())
def test_ticks_are_round_evenly_spaced_and_inside(low, span, number, whole):
    high = low + span
    if span < 1e-6 * abs(low):  # closer than six digits apart: no axis comes to this
        return
    found = ticks(low, high, number, whole=whole)
    assert len(found) <= number + 2
    if not whole:
        assert len(found) >= number // 3
    slack = 1e-6 * (abs(low) + abs(high)) + 2e-9 * whole
    assert all(low - slack <= tick <= high + slack for tick in found)
    gaps = {round((b - a) / (found[1] - found[0]), 6) for a, b in pairwise(found)}
    assert gaps <= {1.0}
    if whole:
        assert all(tick == round(tick) for tick in found)


@given(st.floats(1e-3, 1e9))
def test_time_ticks(end):
    found = time_ticks(end)
    assert found[0] == 0
    assert 1 <= len(found) <= 7
    assert found[-1] <= end * (1 + 1e-9)
    if end > 5:
        assert all(tick == round(tick) for tick in found)


@given(st.floats(-1e29, 1e29, allow_nan=False))
def test_short_keeps_three_digits(value):
    text = short(value)
    number = text.replace(",", "")
    size = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}.get(number[-1], 1.0)
    back = float(number.rstrip("kMGT")) * size
    # Three digits: half a unit of the third is 0.5 % at worst.
    assert back == pytest.approx(value, rel=5.001e-3, abs=1e-320)
    assert len(text) <= 10


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (1.234, "1.23 s"),
        (59.6, "60 s"),
        (119.6, "2.0 min"),
        (3540, "59 min"),
        (7199, "2 h"),
        (7260, "2 h 01 min"),
        (172_700, "47 h 58 min"),
        (172_799, "2 d"),
        (180_000, "2 d 2 h"),
    ],
)
def test_lengths_of_time(seconds, text):
    assert span_text(seconds) == text


def chart(values, look="noisy", **options):
    steps = [float(k + 1) for k in range(len(values))]
    axis = XAxis("step", [(step, 2 * step) for step in steps])
    line = Line("a < b", "blue", steps, [2 * s for s in steps], values, look)
    return Chart(heading="x & y", unit="<unit>", lines=[line], axis=axis, **options)


def drawing(text):
    return ElementTree.fromstring(re.search(r"<svg viewBox=\"0 0 480.*</svg>", text, re.DOTALL)[0])


def paths(svg, css_class):
    return [e.get("d") for e in svg.iter("path") if e.get("class") == css_class]


@settings(deadline=None)
@given(
    st.lists(VALUES, min_size=1, max_size=30).filter(lambda v: any(x is not None for x in v)),
    st.sampled_from(["noisy", "dots", "stairs", "plain"]),
)
def test_a_line_is_where_its_values_are(values, look):
    text = draw_chart(chart(values, look))
    svg = drawing(text)
    hover = json.loads(unescape(re.search(r'data-hover="([^"]*)"', text)[1]))
    low, high = hover["frame"][4:]
    known = [v for v in values if v is not None]
    assert low <= min(known) <= max(known) <= high or look == "noisy"
    (path,) = paths(svg, "line")
    shown = smooth(values, 2) if look == "noisy" else values
    places = [
        (
            LEFT + (k + 1) / len(values) * (RIGHT - LEFT),
            BOTTOM - (v - low) / (high - low) * (BOTTOM - TOP),
        )
        for k, v in enumerate(shown)
        if v is not None
    ]
    if look == "stairs":
        starts = sum(a is None and b is not None for a, b in pairwise([None, *values]))
        assert path.count("M") == starts
        return
    found = [tuple(map(float, p.split())) for p in re.findall(r"[ML]([-\d.]+ [-\d.]+)", path)]
    assert len(found) == len(places)
    for (x, y), (wanted_x, wanted_y) in zip(found, places, strict=True):
        assert abs(x - wanted_x) < 0.06
        assert abs(y - wanted_y) < 0.06 or look == "noisy"
    if look == "dots":
        assert len(list(svg.iter("circle"))) == len(known)


def test_more_records_than_points_become_averages_and_spans():
    values = [float(k % 7) for k in range(3989)]
    text = draw_chart(chart(values))
    hover = json.loads(unescape(re.search(r'data-hover="([^"]*)"', text)[1]))["lines"][0]
    assert len(hover["x"]) == 400
    groups: dict[int, list[int]] = {}
    for k in range(3989):
        groups.setdefault(min(int((k + 1) / 3989 * 400), 399), []).append(k)
    for number, members in groups.items():
        mean = sum(values[k] for k in members) / len(members)
        assert hover["value"][number] == pytest.approx(mean, rel=1e-3)
    (noise,) = paths(drawing(text), "noise")
    assert noise.count("V") == 400  # from the least to the greatest of each


def test_a_line_breaks_where_nothing_was_recorded():
    (path,) = paths(drawing(draw_chart(chart([1.0, 2.0, None, 3.0, 4.0], "plain"))), "line")
    assert re.sub(r"[^ML]", "", path) == "MLML"


def test_stairs_hold_from_the_record_before():
    (path,) = paths(drawing(draw_chart(chart([2.0, 2.0, 3.0, 3.0], "stairs"))), "line")
    start, *steps = re.split(r"(?=V)", path)
    assert start.startswith("M")
    x = [float(step.split("H")[1]) for step in steps]
    heights = [float(step[1:].split("H")[0]) for step in steps]
    width = RIGHT - LEFT
    assert x == pytest.approx([LEFT + width * 2 / 4, LEFT + width * 3 / 4, RIGHT], abs=0.06)
    assert heights[0] == float(start.split()[1]) > heights[1] == heights[2]


def test_phases_marks_and_limit():
    phases = [Phase("MLM", (0, 5), (0, 10)), Phase("MLM + <SAL>", (5, 10), (10, 20))]
    marks = [Mark(2, 4, "worker <3> lost", "red"), Mark(7, 14, "resumed", "grey")]
    plot = chart([1.0, 2.0] * 5, phases=phases, marks=marks, limit=("clip", 1.5))
    svg = drawing(draw_chart(plot))
    bands = [(float(r.get("x")), float(r.get("width"))) for r in svg.iter("rect")]
    middle = (LEFT + RIGHT) / 2
    assert bands == [(LEFT, middle - LEFT), (middle, RIGHT - middle)]
    titles = [t.text for t in svg.iter("title")]
    assert titles == [
        "phase 1: MLM",
        "phase 2: MLM + <SAL>",
        "step 2: worker <3> lost",
        "step 7: resumed",
    ]
    assert len(paths(svg, "limit")) == 1
    assert len(paths(drawing(draw_chart(chart([1.0, 2.0], limit=("clip", 99.0)))), "limit")) == 0
    one = drawing(draw_chart(chart([1.0], phases=phases[:1])))
    assert not list(one.iter("rect"))


def test_ticks_give_step_and_time():
    axis = XAxis("step", [(0.0, 0.0), (100.0, 60.0), (100.0, 90.0), (200.0, 600.0)])
    assert [(text, other) for _, text, other in axis.labels()] == [
        ("0", "0 s"),
        ("50", "30 s"),
        ("100", "60 s"),
        ("150", "5.8 min"),
        ("200", "10 min"),
    ]
    axis = XAxis("time", axis.clock)
    assert [label[1:] for label in axis.labels()][:2] == [("0 s", "0"), ("2.0 min", "106")]
    for place in (axis.position(0, 0), axis.position(200, 600)):
        assert place in (LEFT, RIGHT)
    assert XAxis("step", [(0.0, 0.0)]).labels()[0][1:] == ("0", "0 s")


ODD = st.one_of(
    st.none(), st.booleans(), st.floats(), st.text(max_size=8), st.integers(), st.just([None])
)
MORE = ("sal_loss", "sal_f1", "sal_pairs", "ss_loss", "message", "best")
FIELDS = sorted({*train(1), *MORE} - {"kind", "step"})


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["train", "validation", "event"]),
            st.integers(0, 500),
            st.floats(0, 1e9),
            st.dictionaries(st.sampled_from(FIELDS), ODD, max_size=8),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_whatever_a_record_holds_there_is_a_page(tmp_path_factory, drawn):
    records = [
        {**values, "kind": kind, "step": step, "elapsed_s": seconds}
        for kind, step, seconds, values in drawn
    ]
    run = read_run(make_run(tmp_path_factory.mktemp("x") / "r", records))
    page = headline(run, Facts()) + options_section(run) + curves_section(run)
    page += throughput_section(run) + validation_section(run)
    for svg in re.findall(r"<svg viewBox=\"0 0 480.*?</svg></figure>", page, re.DOTALL):
        drawing(svg)
    assert not re.search(r'(?:d|x|y|cx|cy|width)="[^"]*(?:nan|inf)', page)
    assert "script" not in Reader(page).tags
