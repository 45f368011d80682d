"""What nearest bases agree in, against definitions written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from riboray.embedding.plane import lay_out
from riboray.evaluation.bases import NEIGHBOURS, BaseSet, agreement, look, window_rows
from riboray.evaluation.figures import draw_bases
from riboray.evaluation.seed_families import Member


def drawn(rng, families=3, each=2, low=8, high=20):
    found = []
    for family in range(families):
        for number in range(each):
            size = int(rng.integers(low, high))
            letters = "".join(rng.choice(list("ACGU"), size))
            classes = "".join(rng.choice(list("01256"), size))
            found.append((f"F{family}", Member(f"{family}.{number}", letters, classes)))
    return found


def slowly(rows, labels, groups, neighbours):
    """Count pairs one by one; of equal cosines, the earlier row goes first."""
    same = looked = 0
    units = [row / max(np.linalg.norm(row), 1e-12) for row in rows]
    least = min(sum(g != group for g in groups) for group in groups)
    for i, unit in enumerate(units):
        others = [j for j in range(len(rows)) if groups[j] != groups[i]]
        others.sort(key=lambda j: -float(np.float32(unit @ units[j])))
        for j in others[: min(neighbours, least)]:
            same += labels[j] == labels[i]
            looked += 1
    return same / looked


@given(st.integers(0, 10**6), st.integers(4, 40), st.integers(1, 12))
def test_agreement_is_counted_pair_by_pair(seed, count, neighbours):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, 6)).astype(np.float32)
    labels, groups = rng.integers(0, 3, count), rng.permutation(np.arange(count) % 3)
    found = agreement(rows, labels, groups, neighbours)
    assert found == pytest.approx(slowly(rows, labels, groups, neighbours), abs=1e-9)


def test_one_family_agrees_with_nobody():
    rows = np.eye(5, dtype=np.float32)
    assert np.isnan(agreement(rows, np.zeros(5, int), np.zeros(5, int)))


def test_chance_is_the_mean_over_all_pairs(rng):
    bases = BaseSet.of(drawn(rng))
    chance, alone, _ = look(bases, [], 0)
    for found, kinds in ((chance, np.zeros(len(bases), int)), (alone, bases.nucleotides)):
        for labels, value, chosen in (
            (bases.nucleotides, found.nucleotide, np.ones(len(bases), bool)),
            (bases.classes, found.context, bases.classes > 0),
        ):
            shares = []
            for i in np.flatnonzero(chosen):
                others = chosen & (bases.family != bases.family[i]) & (kinds == kinds[i])
                if others.any():
                    shares.append(np.mean(labels[others] == labels[i]))
            assert value == pytest.approx(np.mean(shares))
    assert alone.nucleotide == 1.0


def test_windows_end_where_their_sequence_ends():
    members = [("F", Member("a", "ACG", "111")), ("G", Member("b", "UU", "22"))]
    rows = window_rows(BaseSet.of(members), width=3).reshape(5, 3, 4)
    there = [["".join("ACGU"[k] for k in np.flatnonzero(place)) for place in row] for row in rows]
    assert there == [
        ["", "A", "C"],
        ["A", "C", "G"],
        ["C", "G", ""],
        ["", "U", "U"],
        ["U", "U", ""],
    ]
    assert rows[1].max(axis=1).tolist() == pytest.approx([np.sqrt(0.5), 1, np.sqrt(0.5)])


def test_models_that_know_and_that_do_not(rng, tmp_path):
    """Embeddings that are the context agree in it wholly; noise agrees by chance."""
    bases = BaseSet.of(drawn(rng, families=4, each=3, low=30, high=40))
    lengths = [len(sequence) for sequence in bases.sequences]
    cuts = np.cumsum(lengths)[:-1]

    def knowing(sequences):
        assert sequences == bases.sequences
        return np.split(np.eye(8, dtype=np.float32)[bases.classes], cuts)

    def guessing(sequences):
        return [rng.normal(size=(len(s), 8)).astype(np.float32) for s in sequences]

    seen = look(bases, [("knows", knowing), ("guesses", guessing)], seed=0)
    by_name = {one.name: one for one in seen}
    chance = by_name["chance"]
    assert by_name["knows"].context == 1.0
    assert by_name["guesses"].context == pytest.approx(chance.context, abs=0.05)
    assert by_name["guesses"].nucleotide == pytest.approx(chance.nucleotide, abs=0.05)
    assert by_name["knows, centred"].context > 0.9
    assert by_name["knows"].points.shape == (len(bases), 2)
    assert by_name["knows"].points.min() == 0
    assert by_name["knows"].points.max() == 1
    assert set(chance.figures()) == {"name", "nucleotide", "context"}
    draw_bases(tmp_path / "bases.png", bases, seen)
    assert (tmp_path / "bases.png").read_bytes()[:4] == b"\x89PNG"
    assert len(bases) / 4 > NEIGHBOURS


def test_embeddings_that_are_all_one_have_a_layout_too():
    assert not lay_out(np.ones((6, 3), np.float32), 0).any()
