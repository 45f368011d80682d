from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from riboray.alignment import align_embeddings, aligned_columns
from riboray.alignment.similarity import unit_rows
from riboray.clustering.merging import merge_alignments

letters = st.text("ACGU", min_size=1, max_size=12)


@st.composite
def stars(draw):
    """A sequence, and others with any alignment to it."""
    medoid = draw(letters)
    members = draw(st.lists(letters, max_size=6))
    partners = []
    for text in members:
        most = min(len(text), len(medoid))
        pairs = draw(st.integers(0, most))
        ours = sorted(draw(st.permutations(range(len(text))))[:pairs])
        theirs = sorted(draw(st.permutations(range(len(medoid))))[:pairs])
        each = np.full(len(text), -1, np.int32)
        each[ours] = theirs
        partners.append(each)
    return medoid, members, partners


def check(medoid, members, partners, rows):
    assert len({len(row) for row in rows}) == 1
    assert [row.replace("-", "") for row in rows] == [medoid, *members]
    for each, row in zip(partners, rows[1:], strict=True):
        pair = aligned_columns(row, rows[0])
        assert np.array_equal(pair.partners, each)
    assert not any(set(column) == {"-"} for column in zip(*rows, strict=True))


@given(stars())
def test_every_pairwise_alignment_is_kept(case):
    medoid, members, partners = case
    check(medoid, members, partners, merge_alignments(medoid, members, partners))


def test_by_hand():
    partners = [np.array([0, 1, -1, 2, 3]), np.array([-1, -1, 0, 3, -1]), np.array([0, -1, -1, 1])]
    rows = merge_alignments("ACGU", ["ACAGU", "GGAUC", "AUUC"], partners)
    assert rows == [
        "--A--C-GU-",
        "--A--CAGU-",
        "GGA-----UC",
        "--AUUC----",
    ]


def test_alone():
    assert merge_alignments("ACGU", [], []) == ["ACGU"]


@pytest.mark.parametrize("mode", ["global", "semiglobal", "local"])
def test_real_alignments(rng, mode):
    """Alignments of random embeddings, of related ones, in every mode."""
    bases = {letter: rng.normal(size=8) for letter in "ACGU"}

    def embed(text):
        rows = np.array([bases[letter] for letter in text])
        return unit_rows(rows + rng.normal(size=rows.shape) * 0.1)

    medoid = "GGGAAACUUCGGUUUCCCACGU"
    members = ["GGGAAACUUCGGUUUCCC", "AAGGGAAACUUCAAAGGUUUCCCACGU", "UUUUU", medoid]
    partners = [align_embeddings(embed(m), embed(medoid), mode=mode)[1] for m in members]
    rows = merge_alignments(medoid, members, partners)
    check(medoid, members, partners, rows)
    if mode == "global":
        assert rows[4] == rows[0]
