"""What belongs together is on one side, every record is somewhere, and sizes are about right."""

from __future__ import annotations

from collections import Counter

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from riboray.errors import ConfigError, InputError
from riboray.finetuning.config import FinetuneConfig
from riboray.finetuning.records import Labelled, Place
from riboray.finetuning.similarity import cluster_sequences, read_clusters
from riboray.finetuning.splitting import find_groups, make_folds
from tests.conftest import random_sequences


def naive_clusters(sequences, identity):
    """Every pair by sets of words, and links followed by hand."""
    words = [{s[i : i + 9] for i in range(len(s) - 8)} for s in sequences]
    parent = list(range(len(sequences)))

    def root(k):
        while parent[k] != k:
            k = parent[k]
        return k

    for a in range(len(sequences)):
        for b in range(a):
            least = max(min(len(words[a]), len(words[b])) * identity**9, 1)
            if len(words[a] & words[b]) >= least or sequences[a] == sequences[b]:
                parent[root(a)] = root(b)
    return [root(k) for k in range(len(sequences))]


def mutated(rng, sequence, share):
    return "".join(rng.choice(list("ACGU")) if rng.random() < share else c for c in sequence)


def clusters_by(block, sequences, identity):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("riboray.finetuning.similarity._BLOCK", block)
        return cluster_sequences(sequences, identity)


@given(
    seed=st.integers(0, 2**31),
    identity=st.sampled_from([0.7, 0.8, 0.9, 1.0]),
    block=st.sampled_from([1, 3, 100]),
)
def test_clusters_are_those_of_all_pairs(seed, identity, block):
    rng = np.random.default_rng(seed)
    parents = random_sequences(rng, 4, 5, 80)
    sequences = [mutated(rng, rng.choice(parents), rng.random() * 0.4) for _ in range(14)]
    sequences += sequences[:2]
    found = clusters_by(block, sequences, identity).tolist()
    naive = naive_clusters(sequences, identity)
    together = lambda labels: {  # noqa: E731
        (a, b) for a in range(16) for b in range(a) if labels[a] == labels[b]
    }
    assert together(found) == together(naive)


def test_tables_of_clusters_are_read(tmp_path):
    path = tmp_path / "clusters.tsv"
    path.write_text("representative\tmember\na\ta\na\tb\nc\tc\n")
    assert read_clusters(str(path)) == {"a": "a", "b": "a", "c": "c"}
    path.write_text("a\tb\nc\tb\n")
    with pytest.raises(InputError, match="line 2: 'b' is in two clusters"):
        read_clusters(str(path))


def labelled(count, groups=None, parts=None, sequences=None):
    return [
        Labelled(
            f"r{k}",
            sequences[k] if sequences else f"{'ACGU' * 3}{k}",
            "x",
            groups[k] if groups else None,
            parts[k] if parts else None,
            Place("t.csv", k + 1),
        )
        for k in range(count)
    ]


def folds_of(records, classes=None, **options):
    config = FinetuneConfig(train=["t.csv"], **options)
    groups = find_groups(records, config)
    return groups, make_folds(records, groups, classes, config)


@given(
    seed=st.integers(0, 1000),
    kinds=st.lists(st.integers(0, 30), min_size=120, max_size=200),
    folds=st.sampled_from([0, 3, 5]),
)
def test_groups_are_never_on_two_sides(seed, kinds, folds):
    if len(set(kinds)) < 16:
        return
    records = labelled(len(kinds), groups=[f"f{k}" for k in kinds])
    groups, found = folds_of(records, split="family", seed=seed, folds=folds)
    for fold in found:
        parts = [set(np.array(groups)[rows]) for rows in (fold.train, fold.validation, fold.test)]
        assert not parts[0] & parts[1]
        assert not parts[0] & parts[2]
        assert not parts[1] & parts[2]
        rows = np.concatenate([fold.train, fold.validation, fold.test])
        assert sorted(rows.tolist()) == list(range(len(kinds)))
    tested = Counter(row for fold in found for row in fold.test.tolist())
    if folds:
        assert len(found) == folds
        assert set(tested.values()) == {1}
        assert len(tested) == len(kinds)


def test_identical_sequences_stay_together_and_shares_are_met():
    sequences = [f"ACGU{'A' * (k % 250)}" for k in range(500)]
    records = labelled(500, sequences=sequences)
    _, (fold,) = folds_of(records)
    assert 45 <= len(fold.test) <= 55
    assert 45 <= len(fold.validation) <= 55
    sides = [{sequences[k] for k in rows} for rows in (fold.train, fold.validation, fold.test)]
    assert not sides[0] & sides[1]
    assert not (sides[0] | sides[1]) & sides[2]


def test_classes_are_spread_over_parts():
    classes = [int(k % 10 == 0) for k in range(400)]
    _, found = folds_of(labelled(400), classes, folds=4)
    shares = [np.mean([classes[k] for k in fold.test]) for fold in found]
    assert np.allclose(shares, 0.1, atol=0.03)


def test_the_same_seed_splits_the_same():
    _, (a,) = folds_of(labelled(100), seed=3)
    _, (b,) = folds_of(labelled(100), seed=3)
    _, (c,) = folds_of(labelled(100), seed=4)
    assert np.array_equal(a.test, b.test)
    assert not np.array_equal(a.test, c.test)


def test_a_column_says_what_records_are_for():
    parts = ["train", "Train", "dev", "test"] * 5
    _, (fold,) = folds_of(labelled(20, parts=parts), split="column")
    assert (len(fold.train), len(fold.validation), len(fold.test)) == (10, 5, 5)
    with pytest.raises(InputError, match="record 2: its part is 'new'"):
        folds_of(labelled(2, parts=["train", "new"]), split="column")
    with pytest.raises(InputError, match="record 1: has no part"):
        folds_of(labelled(2), split="column")


def test_each_group_in_turn():
    groups = ["a"] * 10 + ["b"] * 10 + ["c"] * 10
    _, found = folds_of(labelled(30, groups), split="family", leave_one_out=True)
    assert [(f.name, f.test.tolist()) for f in found] == [
        ("a", list(range(10))),
        ("b", list(range(10, 20))),
        ("c", list(range(20, 30))),
    ]
    parts = ["1", "2", "3"] * 10
    _, found = folds_of(labelled(30, parts=parts), split="column", folds=3)
    assert [f.name for f in found] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"folds": 1}, "2 or more"),
        ({"folds": 2, "leave_one_out": True, "split": "family"}, "one at a time"),
        ({"leave_one_out": True}, "needs groups"),
        ({"clusters_from": "c.tsv"}, "--split cluster"),
        ({"split": "family", "folds": 4}, "3 groups of records cannot make 4 parts"),
    ],
)
def test_splits_that_cannot_be_made(options, told):
    with pytest.raises(ConfigError, match=told):
        folds_of(labelled(9, ["a", "b", "c"] * 3), **options)


def test_files_that_are_given_keep_their_groups_out_of_training(tmp_path):
    """Clusters and families of what is tested on are left out of training and listed; of a random
    split, sequences that are in both are counted."""
    from riboray.finetuning.datasets import describe_counts, prepare

    rng = np.random.default_rng(2)
    texts = random_sequences(rng, 30, 60, 80)
    for name, rows in (("train", texts), ("test", texts[:5])):
        body = "".join(f"{name}{k},{s},{'xy'[k % 2]}\n" for k, s in enumerate(rows))
        (tmp_path / f"{name}.csv").write_text("id,sequence,label\n" + body)
    files = {"train": [str(tmp_path / "train.csv")], "test": [str(tmp_path / "test.csv")]}
    apart = prepare(FinetuneConfig(**files, split="cluster"), None, ambiguity=True)
    assert apart.shared == 0
    assert {r.id for r in apart.rejects} == {f"train{k}" for k in range(5)}
    counts = describe_counts(apart)
    assert (counts["records"], counts["used"], counts["test"]) == (35, 30, 5)
    assert counts["used"] + sum(counts["left_out"].values()) == counts["records"]
    mixed = prepare(FinetuneConfig(**files), None, ambiguity=True)
    assert 0 < mixed.shared <= 8
    assert not mixed.rejects
