"""Chosen pairs of many sequences: each once, and linked as one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from riboray.alignment import align_embeddings
from riboray.alignment.candidates import fit_prefilter
from riboray.alignment.config import AlignmentOptions
from riboray.alignment.preparation import fit_comparison, load_fit, save_fit
from riboray.alignment.rowfiles import RowFiles
from riboray.clustering.chosen import Chosen, compare_block, own_pairs, write_candidates
from riboray.clustering.config import ClusterConfig
from riboray.embedding.config import EmbedConfig
from riboray.embedding.driver import embed
from riboray.embedding.embedder import Embedder
from riboray.embedding.store import EmbeddingSet
from riboray.errors import CorpusError
from riboray.model import RnaBertForPreTraining, load_checkpoint, save_checkpoint
from tests.conftest import random_sequences, tiny_config
from tests.integration.test_search import mutate

BLOCK, CANDIDATES = 13, 6


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Six families of six among others, embedded into three files; all candidates."""
    folder = tmp_path_factory.mktemp("chosen")
    rng = np.random.default_rng(8)
    texts = [mutate(rng, seed) for seed in random_sequences(rng, 6, 50, 80) for _ in range(6)]
    texts += random_sequences(rng, 12, 3, 90)
    texts = [texts[k] for k in rng.permutation(len(texts))]
    (folder / "rnas.fa").write_text("".join(f">s{k}\n{t}\n" for k, t in enumerate(texts)))
    torch.manual_seed(3)
    model = folder / "model"
    save_checkpoint(RnaBertForPreTraining(tiny_config(num_hidden_layers=1)), model)
    embed(
        EmbedConfig(
            input=[str(folder / "rnas.fa")],
            checkpoint=str(model),
            output=str(folder / "embeddings"),
            per_base=True,
            shard_bytes=1200,
        )
    )
    database = EmbeddingSet.open(folder / "embeddings")
    assert len(database.files) > 2
    config = ClusterConfig(input=["-"], candidates=CANDIDATES, max_evalue=0.1)
    options = AlignmentOptions(
        checkpoint=str(model), centred=True, dimensions=16, max_evalue=0.1, gaps=config.gaps
    )
    embedder = Embedder(load_checkpoint(model).model)
    save_fit(folder / "fitted.npz", *fit_comparison(options, embedder, texts, len(texts)))
    maker, rule = load_fit(folder / "fitted.npz")
    rows = RowFiles(folder / "rows", database, 16, maker, str(model))
    chooser = fit_prefilter(database, "both", 4, folder)
    work = Chosen(config, database, chooser, rows, rule, folder, BLOCK)
    rows.begin(np.array([len(text) for text in texts]))
    for number in range(len(database.files)):
        rows.make(number)
    for number in range(work.blocks):
        write_candidates(work, number)
    return work, texts, maker


def test_fit_is_kept_to_the_bit(made, tmp_path):
    work, _, maker = made
    save_fit(tmp_path / "again.npz", maker, work.rule)
    again, rule = load_fit(tmp_path / "again.npz")
    assert rule == work.rule
    assert rule.null is not None
    assert np.array_equal(again.projection.basis, maker.projection.basis)
    (tmp_path / "bad.npz").write_bytes(b"nothing")
    with pytest.raises(CorpusError, match="remove it"):
        load_fit(tmp_path / "bad.npz")


def test_rows_are_those_of_the_model(made, tmp_path):
    work, texts, maker = made
    embedder = Embedder(load_checkpoint(work.rows.checkpoint).model)
    wanted = np.array([40, 3, 17, 3, 0, len(texts) - 1])
    side = work.rows.side(wanted)
    assert bytes(side.nucleotides).decode() == "".join(texts[k] for k in wanted)
    for place, row in enumerate(wanted.tolist()):
        (bases,) = embedder.per_base([texts[row]])
        # Kept as float16 twice on the way: 2**-11 of values up to 1.
        np.testing.assert_allclose(side.sequences[place], maker.rows([bases]), atol=4e-3)
    without = replace(work.rows.database, per_base=False)
    anew = RowFiles(tmp_path / "anew", without, 16, maker, work.rows.checkpoint)
    anew.begin(work.rows.lengths)
    for number in range(len(without.files)):
        anew.make(number)
    np.testing.assert_allclose(
        anew.side(wanted).sequences.embeddings, side.sequences.embeddings, atol=4e-3
    )
    cut = anew.path(1).read_bytes()[:-2]
    anew.path(1).write_bytes(cut)
    with pytest.raises(CorpusError, match="remove it"):
        anew.side(np.arange(len(texts)))


def listed(work):
    """Candidates by row."""
    tables = [np.load(work.candidates(number)) for number in range(work.blocks)]
    return [set(row.tolist()) - {-1} for row in np.concatenate(tables)]


def test_candidates_are_relatives_and_never_oneself(made):
    work, texts, _ = made
    lists = listed(work)
    assert len(lists) == len(texts)
    for row, chosen in enumerate(lists):
        assert CANDIDATES <= len(chosen) <= 2 * CANDIDATES
        assert row not in chosen
    table = np.load(work.candidates(0))
    assert (np.diff(table, axis=1) <= 0).all(), "descending, -1 last"


@given(seed=st.integers(0, 10**6), count=st.integers(1, 40), block=st.integers(1, 17))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_each_pair_of_candidates_is_aligned_once(made, tmp_path, seed, count, block):
    rng = np.random.default_rng(seed)
    work = replace(made[0], database=range(count), folder=tmp_path, block=block)
    wanted = set()
    tables = np.full((count, 5), -1, np.int32)
    for row in range(count):
        others = [k for k in rng.permutation(count)[:5].tolist() if k != row]
        tables[row, : len(others)] = sorted(others, reverse=True)
        wanted |= {(min(row, k), max(row, k)) for k in others}
    for number in range(work.blocks):
        start, stop = work.bounds(number)
        np.save(work.candidates(number), tables[start:stop])
    found = []
    for number in range(work.blocks):
        query, target = own_pairs(work, number)
        assert (np.diff(query) >= 0).all()
        start, stop = work.bounds(number)
        assert ((query >= start) & (query < stop)).all()
        found += list(zip(np.minimum(query, target), np.maximum(query, target), strict=True))
    assert len(found) == len(set(found)), "none twice"
    assert set(found) == wanted


@pytest.mark.parametrize("weight", ["normalised_score", "z_score", "identity"])
def test_edges_are_those_of_pairs_one_by_one(made, tmp_path, monkeypatch, weight):
    monkeypatch.setattr("riboray.clustering.chosen._NUCLEOTIDES", 700)  # several runs a block
    work, _, _ = made
    work = replace(work, config=replace(work.config, weight=weight))
    wanted, null, lengths = {}, work.rule.null, work.rows.lengths
    pairs = {(min(r, k), max(r, k)) for r, chosen in enumerate(listed(work)) for k in chosen}
    side = work.rows.side(np.arange(len(work.database)))
    for i, j in sorted(pairs):
        a, b = side.sequences[i], side.sequences[j]
        score, partners = align_embeddings(a, b, work.rule.gaps, work.rule.mode)
        sizes = np.array([lengths[i]]), np.array([lengths[j]])
        affinity = np.array([a.mean(axis=0) @ b.mean(axis=0)])
        z = null.z_scores(np.array([score]), *sizes, affinity)
        if null.evalues(z, len(work.database))[0] > 0.1:
            continue
        starts = side.sequences.starts
        ours, theirs = (side.nucleotides[starts[k] : starts[k + 1]] for k in (i, j))
        aligned = partners >= 0
        same = (ours[aligned] == theirs[partners[aligned]]).mean()
        wanted[i, j] = {"identity": same, "z_score": z[0]}.get(weight, score / min(lengths[[i, j]]))
    found, total = {}, 0
    for number in range(work.blocks):
        report = compare_block(work, number)
        with np.load(work.edges(number)) as edges:
            assert report.edges == len(edges["first"])
            assert report.pairs == edges["pairs"]
            total += report.pairs
            for first, second, value in zip(
                edges["first"].tolist(), edges["second"].tolist(), edges["weight"].tolist(),
                strict=True,
            ):  # fmt: skip
                found[min(first, second), max(first, second)] = value
    assert total == len(pairs)
    assert set(found) == set(wanted)
    assert len(wanted) >= 60
    for pair, value in wanted.items():
        # Lanes and single pairs agree to the bit; a pair turned round may take other ties.
        assert found[pair] == pytest.approx(
            value, rel=1e-4, abs=0.05 if weight == "identity" else 0
        )
