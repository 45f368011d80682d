"""The parts of a run's page that its model computes: held-out alignments and the map."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from riboray.alignment import GapPenalties
from riboray.corpus.records import hash64, is_validation
from riboray.corpus.sample import SAMPLE_HELD_OUT
from riboray.embedding.embedder import Embedder
from riboray.pretraining import run_report_map
from riboray.pretraining.config import PretrainConfig
from riboray.pretraining.data import prepare_data
from riboray.pretraining.page_alignments import alignments_section
from riboray.pretraining.run_report_alignments import (
    Aligned,
    Counts,
    HeldOutPair,
    align_pairs,
    by_family,
    choose_examples,
    held_out_pairs,
)
from riboray.pretraining.run_report_map import Sample, draw_sample, map_embeddings
from riboray.pretraining.trainer import Trainer
from riboray.pretraining.validation import evaluate
from tests.conftest import tiny_config
from tests.corpus.test_stats import make_corpus

TINY = tiny_config(num_hidden_layers=1)


def options_for(corpus, **changes):
    return PretrainConfig(
        corpus=[str(corpus)],
        model=TINY,
        validation_families=list(SAMPLE_HELD_OUT),
        validation_pairs=30,
        gaps=GapPenalties(0.7, 0.2),
        precision="float32",
        **changes,
    )


@pytest.fixture(scope="module")
def trainer(sample_corpus):
    """A model of random weights, large enough that bases differ."""
    torch.manual_seed(5)
    trainer = Trainer(options_for(sample_corpus), torch.device("cpu"))
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(12)
    return trainer


@pytest.fixture(scope="module")
def data(sample_corpus, trainer):
    return prepare_data(sample_corpus, trainer.config, 2)


@pytest.fixture(scope="module")
def aligned(sample_corpus, trainer):
    pairs = held_out_pairs(sample_corpus, SAMPLE_HELD_OUT, 30)
    return align_pairs(pairs, Embedder(trainer.model), trainer.config.gaps)


def test_pairs_are_those_that_training_measures(sample_corpus, data):
    pairs = held_out_pairs(sample_corpus, SAMPLE_HELD_OUT, 30)
    found = Counter(tuple(pair.reference.tolist()) for pair in pairs)
    wanted = Counter(
        tuple(row[:length].tolist())
        for batch in data.validation.sal
        for row, length in zip(batch.reference, batch.lengths, strict=False)
    )
    assert found == wanted
    assert sum(found.values()) == 30
    assert {pair.family for pair in pairs} == set(SAMPLE_HELD_OUT)
    for pair in pairs:
        assert [len(s) for s in pair.structures] == [len(s) for s in pair.sequences]


def test_figures_are_those_that_training_measures(trainer, data, aligned):
    wanted = evaluate(trainer, data.validation)
    total = Counts.sum([item.counts for item in aligned])
    # Batches of other shapes round otherwise by 1e-6, which may turn a tie, no more.
    assert total.f1 == pytest.approx(wanted["sal_f1"], abs=2e-3)
    assert total.sensitivity == pytest.approx(wanted["sal_sensitivity"], abs=2e-3)
    assert total.ppv == pytest.approx(wanted["sal_ppv"], abs=2e-3)
    assert 0.02 < total.f1 < 0.98


def test_a_corpus_that_sets_pairs_apart(tmp_path):
    row = {"family": "f", "id_a": "a", "id_b": "b", "aligned_a": "AC-", "aligned_b": "A-G"}
    files = {"pairs-00000": [row], "validation_pairs-00000": [row | {"family": "g"}] * 3}
    found = held_out_pairs(make_corpus(tmp_path / "c", files, {}), ("f",), 2)
    assert [(pair.family, pair.sequences, pair.reference.tolist()) for pair in found] == [
        ("g", ("AC", "AG"), [0, -1])
    ] * 2
    assert held_out_pairs(make_corpus(tmp_path / "d", {"pairs-00000": [row]}, {}), (), 5) == []
    assert held_out_pairs(tmp_path, ("f",), 5) == []


def test_by_family(aligned):
    rows = by_family(aligned)
    assert sum(row["pairs"] for row in rows) == len(aligned)
    for row in rows:
        mine = [item for item in aligned if item.pair.family == row["family"]]
        common, predicted, wanted = (sum(i.counts[k] for i in mine) for k in range(3))
        assert row["counts"].f1 == 2 * common / (predicted + wanted)
    assert rows == sorted(rows, key=lambda row: row["counts"].f1)


def invented(families, commons):
    reference = np.arange(10, dtype=np.int32)
    return [
        Aligned(
            HeldOutPair(
                family=family,
                ids=(f"a{k}", f"b{k}"),
                sequences=("A" * 10, "C" * 10),
                structures=(None, None),
                reference=reference,
                identity=0.5,
            ),
            reference,
            Counts(common, 10, 10),
        )
        for k, (family, common) in enumerate(zip(families, commons, strict=True))
    ]


@given(
    st.lists(st.tuples(st.sampled_from("uvwxyz"), st.integers(0, 10)), max_size=40),
    st.integers(0, 9),
)
def test_examples_go_from_best_to_worst(drawn, number):
    items = invented([f for f, _ in drawn], [c for _, c in drawn])
    chosen = choose_examples(items, number)
    assert len(chosen) == min(number, len(items))
    scores = [item.counts.f1 for _, item in chosen]
    assert scores == sorted(scores, reverse=True)
    assert len({item.pair.ids for _, item in chosen}) == len(chosen)
    names = [name for name, _ in chosen]
    if chosen:
        assert (names[0], scores[0]) == ("best", max(i.counts.f1 for i in items))
    if len(chosen) > 1:
        assert (names[-1], scores[-1]) == ("worst", min(i.counts.f1 for i in items))
    if len(chosen) > 2:
        ranked = sorted((i.counts.f1 for i in items), reverse=True)
        median = (len(ranked) - 1) // 2
        reach = len(ranked) // (2 * number)
        low, high = max(median - reach, 0), min(median + reach, len(ranked) - 1)
        assert ranked[low] >= scores[names.index("median")] >= ranked[high]


def test_examples_are_of_different_families_where_they_can_be():
    items = invented("aaaaaaaabcd", [5] * 11)
    assert {item.pair.family for _, item in choose_examples(items, 4)} == set("abcd")


def read_back(text, item, partners, other):
    """Compare a drawn alignment with the one that it draws, and its marks with the other one."""
    chunks = re.findall(r'<pre class="chunk">(.*?)</pre>', text, re.DOTALL)
    lines = [chunk.split("\n") for chunk in chunks]
    assert {len(chunk) for chunk in lines} == {6}
    rows = ["".join(re.sub("<[^>]*>", "", c[k]) for c in lines) for k in range(6)]
    assert [row.replace("-", "") for row in (rows[2], rows[4])] == list(item.pair.sequences)
    assert [row.replace("-", "") for row in (rows[1], rows[5])] == list(item.pair.structures)
    a, b, found = -1, -1, {}
    for x, mark, y in zip(rows[2], rows[3], rows[4], strict=True):
        a, b = a + (x != "-"), b + (y != "-")
        if "-" in (x, y):
            assert mark == " "
        else:
            found[a] = (b, mark)
    assert {k: p for k, (p, _) in found.items()} == {
        k: p for k, p in enumerate(partners.tolist()) if p >= 0
    }
    assert all((mark == "|") == (other[k] == p) for k, (p, mark) in found.items())
    for row in (2, 4):
        joined = "".join(chunk[row] for chunk in lines)
        right = "".join(re.findall(r'<span class="ok">(.*?)</span>', joined))
        assert len(right) == item.counts.common


def test_colours_are_right(aligned):
    page = alignments_section(aligned, 5, "By me.")
    articles = re.findall(r"<article.*?</article>", page, re.DOTALL)
    assert len(articles) == 5
    for article, (_, item) in zip(articles, choose_examples(aligned, 5), strict=True):
        drawn = re.findall(r'<div class="alignment">(.*?)</div>', article, re.DOTALL)
        read_back(drawn[0], item, item.pair.reference, item.predicted)
        read_back(drawn[1], item, item.predicted, item.pair.reference)


def hashes_of(sample, role):
    pairs = zip(sample.sequences, sample.roles, strict=True)
    return sorted(hash64(sequence) for sequence, is_a in pairs if is_a == role)


def test_the_sample_of_the_map(sample_corpus, trainer, data):
    chosen = {"held_out_families": SAMPLE_HELD_OUT, "validation_share": 0.02}
    sample = draw_sample(sample_corpus, 100, seed=0, **chosen)
    roles = Counter(sample.roles)
    assert len(set(sample.ids)) == 100
    assert roles["training"] == 50
    everything = draw_sample(sample_corpus, 10_000, seed=0, **chosen)
    assert everything.total == len(everything.ids) == 2257
    roles = Counter(everything.roles)
    assert roles["training"] == data.counts["mlm_training_sequences"]
    assert roles["held-out family"] >= data.counts["mlm_excluded_sequences"]
    assert is_validation(np.array(hashes_of(everything, "held out"), np.uint64), 0.02).all()
    # Those of the least hashes.
    assert hashes_of(sample, "training") == hashes_of(everything, "training")[:50]
    assert draw_sample(sample_corpus, 100, seed=0, **chosen) == sample
    assert set(draw_sample(sample_corpus, 100, seed=1, **chosen).ids) != set(sample.ids)
    assert (sample.kind, draw_sample(sample_corpus, 0, seed=0, **chosen).ids) == ("family", [])


def test_the_sample_of_a_large_corpus(tmp_path, monkeypatch):
    monkeypatch.setattr(run_report_map, "_GROUPS", 4)
    rows = [{"id": f"s{k}", "sequence": "ACGU", "sha256_64": k} for k in range(90)]
    files = {"sequences-00000": rows[:40], "sequences-00001": rows[40:]}
    files["validation_sequences-00000"] = rows[:2]
    corpus = make_corpus(tmp_path / "c", files, group=5)
    sample = draw_sample(corpus, 50, held_out_families=(), validation_share=0.5, seed=0)
    assert sample.total == 92
    # Of 18 groups of five, four at equal distances; the corpus's own validation besides.
    assert sorted(sample.ids[2:], key=lambda name: int(name[1:])) == [
        f"s{5 * group + k}" for group in (0, 5, 11, 17) for k in range(5)
    ]
    assert sample.roles == ["held out"] * 2 + ["training"] * 20
    assert (sample.kind, set(sample.types)) == ("", {None})
    rows[7]["rna_type"] = "tRNA"
    corpus = make_corpus(tmp_path / "d", {"sequences-00000": rows[:10]}, group=5)
    sample = draw_sample(corpus, 50, held_out_families=(), validation_share=0, seed=0)
    assert (sample.kind, Counter(sample.types)) == ("RNA type", {None: 9, "tRNA": 1})


def test_the_map_is_the_same_each_time_and_inside_its_frame(sample_corpus, trainer):
    chosen = {"held_out_families": SAMPLE_HELD_OUT, "validation_share": 0.02}
    sample = draw_sample(sample_corpus, 60, seed=0, **chosen)
    embedder = Embedder(trainer.model)
    first, again = (map_embeddings(sample, embedder, 3) for _ in range(2))
    assert (first.points == again.points).all()
    assert first.points.min() == 0
    assert first.points.max() == 1
    assert first.points.std(axis=0).min() > 0.05
    means = [rows.mean(axis=0) for rows in embedder.per_base(sample.sequences)]
    known = [k for k, name in enumerate(sample.types) if name is not None]
    same = []
    for k in known:
        cosine = {
            j: means[k] @ means[j] / np.linalg.norm(means[k]) / np.linalg.norm(means[j])
            for j in known
            if j != k
        }
        same.append(sample.types[max(cosine, key=cosine.get)] == sample.types[k])
    assert first.neighbour == pytest.approx(np.mean(same), abs=1.5 / len(known))
    names = [sample.types[k] for k in known]
    alike = [a == b for i, a in enumerate(names) for j, b in enumerate(names) if i != j]
    assert first.chance == pytest.approx(np.mean(alike))


def test_embeddings_that_are_all_the_same(trainer):
    sample = Sample(
        ids=list("abcdef"),
        sequences=["ACGUACGU"] * 6,
        types=[None] * 6,
        roles=["training"] * 6,
        kind="",
        total=6,
    )
    drawn = map_embeddings(sample, Embedder(trainer.model), 0)
    assert np.isfinite(drawn.points).all()
    assert (drawn.neighbour, drawn.chance) == (None, None)
