"""Profiles of families: new members that could be members, aligned as the real ones are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from riboray.corpus.structure import base_pairs
from riboray.pretraining.profiles import GAP, make_profile, partners_of

HAIRPIN = "((((....))))"
CANONICAL = {(0, 3), (3, 0), (1, 2), (2, 1), (2, 3), (3, 2)}


def letters(row):
    return "".join("ACGU-"[code] for code in row)


def hairpins(rng, count):
    """Members of one stem, no two alike: the only thing in common is that bases pair."""
    rows = []
    for _ in range(count):
        stem = rng.integers(0, 4, 4)
        loop = rng.integers(0, 4, 4)
        rows.append(letters([*stem, *loop, *(3 - stem[::-1])]))
    return rows


def test_base_pairs_stay_base_pairs(rng):
    rows = hairpins(rng, 30)
    profile = make_profile(rows, [HAIRPIN] * 30, 440)
    assert sorted(zip(profile.left.tolist(), profile.right.tolist(), strict=True)) == [
        (k, 11 - k) for k in range(4)
    ]
    drawn = profile.draw(2000, rng)
    assert drawn.shape == (2000, 12)
    pairs = drawn[:, profile.left], drawn[:, profile.right]
    paired = np.mean([(a, b) in CANONICAL for a, b in zip(*map(np.ravel, pairs), strict=True)])
    # The prior of four members beside thirty has one false pair in 25, and half is not drawn anew.
    assert 0.98 < paired < 1
    new = {letters(row) for row in drawn} - set(rows)
    assert len(new) > 1000
    assert all(set(row) <= set("ACGU") for row in new)


def test_frequencies_are_those_of_the_columns(rng):
    """What is drawn anew follows the weighted counts and the prior, column by column."""
    rows = [letters([*rng.integers(0, 2, 10), *[2] * 10]) for _ in range(50)]
    profile = make_profile(rows, [None] * 50, 440)
    singles = np.diff(profile.singles, axis=1, prepend=0)
    np.testing.assert_allclose(singles.sum(1), 1)
    drawn = profile.draw(40_000, rng)
    share = np.stack([(drawn == code).mean(0) for code in range(4)], axis=1)
    real = np.stack([profile.weights @ (profile.rows == code) for code in range(4)], axis=1)
    # A fifth is real; of the others half of the columns, on average, are drawn anew.
    np.testing.assert_allclose(share, 0.6 * real + 0.4 * singles, atol=0.02)


@given(
    columns=st.integers(1, 12),
    members=st.integers(2, 6),
    seed=st.integers(0, 2**32 - 1),
    resample=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_rows_are_rows_of_the_alignment(columns, members, seed, resample):
    """Gaps are those of one member up to some column, and of one from there on."""
    rng = np.random.default_rng(seed)
    rows = ["".join(rng.choice(list("ACGU-"), columns)) for _ in range(members)]
    profile = make_profile(rows, [None] * members, 440)
    if profile is None:
        assert sum(bool(row.strip("-")) for row in rows) < 2
        return
    gaps = profile.rows == GAP
    drawn = profile.draw(20, rng, resample)
    assert drawn.dtype == np.int8
    assert ((drawn >= 0) & (drawn <= GAP)).all()
    for row in drawn == GAP:
        assert any(
            (row[:cut] == one[:cut]).all() and (row[cut:] == other[cut:]).all()
            for cut in range(columns + 1)
            for one in gaps
            for other in gaps
        )
    if resample == 0:
        assert {letters(row) for row in drawn} <= {letters(row) for row in profile.rows}
    again = profile.draw(20, np.random.default_rng(seed), resample)
    same = profile.draw(20, np.random.default_rng(seed), resample)
    np.testing.assert_array_equal(again, same)


def test_a_pair_whose_halves_come_from_two_members_is_mended(rng):
    """Two members with stems of GC and of AU: crossed as they are, half of the pairs were none."""
    rows = ["GGGGAAAACCCC", "AAAAGGGGUUUU"] * 20
    profile = make_profile(rows, [HAIRPIN] * 40, 440)
    drawn = profile.draw(4000, rng, resample=1e-9)  # nothing is drawn anew but for this
    assert len({letters(row) for row in drawn}) > 2  # crossed rows are there
    pairs = drawn[:, profile.left].ravel(), drawn[:, profile.right].ravel()
    paired = np.mean([pair in CANONICAL for pair in zip(*pairs, strict=True)])
    assert paired > 0.98


def test_rare_members_weigh_more():
    rows = ["ACGUACGU"] * 9 + ["UGCAUGCA"]
    profile = make_profile(rows, [None] * 10, 440)
    # By Henikoff and Henikoff, two kinds of rows in all columns have half of the weight each.
    np.testing.assert_allclose(profile.weights, [0.5 / 9] * 9 + [0.5])


def test_rows_that_cannot_be_taken():
    assert make_profile(["ACGU", "ACNU"], [None, None], 440) is None
    assert make_profile(["ACGU", "A--U", "AC-U"], [None] * 3, 3).rows.shape == (2, 4)
    assert make_profile(["ACGU", "----"], [None] * 2, 440) is None


def test_structures_with_gaps_and_pseudoknots(rng):
    """Columns are found through each member's own structure; the union is the consensus."""
    rows = ["G-GAAAC-C", "GGGAAACCC", "GG-AAACC-"]
    dots = ["((...))", "(((...)))", "((...))"]
    profile = make_profile(rows, dots, 440)
    found = sorted(zip(profile.left.tolist(), profile.right.tolist(), strict=True))
    # Every member's pairs, in its own columns: G of column 3 pairs where the first member has it.
    expected = set()
    for row, dot in zip(rows, dots, strict=True):
        partner, column = base_pairs(dot), [c for c, x in enumerate(row) if x != "-"]
        expected |= {(column[i], column[j]) for i, j in enumerate(partner) if j > i}
    assert found == sorted(expected)


@pytest.mark.parametrize(
    ("a", "b", "wanted"),
    [
        ("ACG", "ACG", [0, 1, 2]),
        ("AC-G", "A-UG", [0, -1, 2]),
        ("--AC", "GG--", [-1, -1]),
        ("A--C", "AGGC", [0, 3]),
    ],
)
def test_partners(a, b, wanted):
    codes = [np.array(["ACGU-".index(x) for x in row], np.int8) for row in (a, b)]
    assert partners_of(*codes).tolist() == wanted
