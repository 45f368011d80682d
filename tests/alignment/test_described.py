"""Figures and CIGAR of an alignment against a plain reading of its gapped strings."""

from __future__ import annotations

import re
from itertools import groupby

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from riboray.alignment import gapped_strings
from riboray.alignment.described import describe_alignments


@st.composite
def alignments(draw):
    n, m = draw(st.integers(1, 30)), draw(st.integers(1, 30))
    letters = st.text("ACGU", min_size=1)
    a = (draw(letters) * n)[:n]
    b = (draw(letters) * m)[:m]
    k = draw(st.integers(0, min(n, m)))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    partners = np.full(n, -1, np.int32)
    partners[np.sort(rng.choice(n, k, replace=False))] = np.sort(rng.choice(m, k, replace=False))
    return a, b, partners


def plain(a, b, partners, whole):
    """Read figures off the gapped strings, column by column."""
    row_a, row_b = gapped_strings(a, b, partners)
    columns = list(zip(row_a, row_b, strict=True))
    both = [i for i, (x, y) in enumerate(columns) if x != "-" and y != "-"]
    if not whole:
        if not both:
            return (0,) * 8, ""
        before, columns = columns[: both[0]], columns[both[0] : both[-1] + 1]
    else:
        before = []
    kinds = ["D" if x == "-" else "I" if y == "-" else "M" for x, y in columns]
    # Insertions before deletions between two matches: the order gaps are reported in.
    ordered = "".join(
        run if "M" in run else "".join(sorted(run, reverse=True))
        for run in ("".join(g) for _, g in groupby(kinds, key=lambda k: k == "M"))
    )
    cigar = "".join(f"{len(list(g))}{k}" for k, g in groupby(ordered))
    start_a = 1 + sum(x != "-" for x, _ in before)
    start_b = 1 + sum(y != "-" for _, y in before)
    in_a, in_b = (sum(c[i] != "-" for c in columns) for i in (0, 1))
    same = sum(x == y for x, y in columns if "-" not in (x, y))
    pairs = kinds.count("M")
    return (
        len(columns),
        same,
        pairs - same,
        len(re.findall("I+|D+", ordered)),
        start_a,
        start_a + in_a - 1,
        start_b,
        start_b + in_b - 1,
    ), cigar


@settings(deadline=None)
@given(st.lists(alignments(), min_size=1, max_size=4), st.booleans())
def test_figures_and_cigar(batch, whole):
    query = batch[0][0]
    targets = [b for _, b, _ in batch]
    starts = np.cumsum([0, *map(len, targets)])
    rows = []
    for _, b, _ in batch:
        rng = np.random.default_rng(len(b))
        k = rng.integers(0, min(len(query), len(b)) + 1)
        row = np.full(len(query), -1, np.int32)
        at = np.sort(rng.choice(len(query), k, replace=False))
        row[at] = np.sort(rng.choice(len(b), k, replace=False))
        rows.append(row)
    codes = np.frombuffer("".join(targets).encode(), np.uint8)
    found = describe_alignments(
        np.array(rows),
        np.frombuffer(query.encode(), np.uint8),
        codes,
        starts[:-1],
        starts[1:],
        whole=whole,
    )
    for k, (target, row) in enumerate(zip(targets, rows, strict=True)):
        wanted, cigar = plain(query, target, row, whole)
        assert tuple(int(v[k]) for v in found.values.values()) == wanted
        assert found.cigar[k].as_py() == cigar


@settings(deadline=None)
@given(alignments())
def test_cigar_adds_up_to_both_lengths(pair):
    a, b, partners = pair
    found = describe_alignments(
        partners[None],
        np.frombuffer(a.encode(), np.uint8),
        np.frombuffer(b.encode(), np.uint8),
        np.array([0]),
        np.array([len(b)]),
        whole=True,
    )
    operations = re.findall(r"(\d+)([MID])", found.cigar[0].as_py())
    assert sum(int(k) for k, o in operations if o in "MI") == len(a)
    assert sum(int(k) for k, o in operations if o in "MD") == len(b)
    assert sum(int(k) for k, o in operations if o == "M") == (partners >= 0).sum()
