from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pyarrow.dataset as ds
import pytest

from riboray.alphabet import decode, normalise
from riboray.corpus import read_stockholm
from riboray.corpus.records import hash64
from riboray.corpus.sample import SAMPLE_ALIGNMENTS
from riboray.errors import ConfigError, CorpusError
from riboray.model import RnaBertConfig
from riboray.pretraining.config import PretrainConfig
from riboray.pretraining.data import prepare_data
from riboray.pretraining.masking import IGNORE
from riboray.pretraining.streams import Cursor, iterate_stream, read_visit, visit_window

FAMILIES = ["RF00003", "RF00006"]


@pytest.fixture(scope="module")
def corpus(sample_corpus):
    return sample_corpus


@pytest.fixture(scope="module")
def data(corpus):
    return prepare_data(corpus, PretrainConfig(validation_families=FAMILIES, seed=3), 2)


def same(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in vars(a))


def originals(batch):
    ids = np.where(batch.labels != IGNORE, batch.labels, batch.input_ids)
    return decode(ids, batch.lengths)


def epoch_of(spec, streams, epoch):
    """All batches of one epoch, whatever number of streams shares it."""
    spec = replace(spec, streams=streams)
    visits = range(epoch * len(spec.windows), (epoch + 1) * len(spec.windows))
    return [batch for visit in visits for batch in read_visit(spec, visit)]


def test_an_epoch_is_every_training_sequence_once_and_nothing_held_out(corpus, data):
    table = ds.dataset(sorted(corpus.glob("sequences-*.parquet"))).to_table().to_pylist()
    held_out = {
        normalise(row.replace("-", ""))
        for family in read_stockholm(SAMPLE_ALIGNMENTS)
        for row in family.rows
        if family.accession in FAMILIES
    }
    wanted = {
        r["sequence"]
        for r in table
        if r["sha256_64"] % 1_000_000 >= 20_000 and r["sequence"] not in held_out
    }
    assert 0 < len(wanted) < len(table)
    for epoch in (0, 1):
        seen = [s for batch in epoch_of(data.specs["mlm"], 2, epoch) for s in originals(batch)]
        assert len(seen) == len(set(seen))
        assert set(seen) == wanted


def test_validation_and_training_do_not_overlap(data):
    training = {s for b in epoch_of(data.specs["mlm"], 1, 0) for s in originals(b)}
    validation = {s for b in data.validation.mlm for s in originals(b)}
    assert validation
    assert not training & validation
    measured = {s for b in data.validation.sal for s in decode(b.input_ids, b.lengths)}
    assert measured
    assert not training & measured


def test_sal_training_sees_no_held_out_family(corpus, data):
    pairs = ds.dataset(sorted(corpus.glob("pairs-*.parquet"))).to_table().to_pylist()
    allowed = {p["aligned_a"].replace("-", "") for p in pairs if p["family"] not in FAMILIES}
    batches = epoch_of(data.specs["sal"], 1, 0)
    count = sum(len(b.reference) for b in batches)
    assert count == sum(p["family"] not in FAMILIES for p in pairs) == 7 * 40
    for batch in batches:
        assert set(decode(batch.input_ids, batch.lengths)[: len(batch.reference)]) <= allowed


def test_batches_do_not_depend_on_the_number_of_streams(data):
    one, three = (epoch_of(data.specs["mlm"], k, 1) for k in (1, 3))
    assert len(one) == len(three)
    assert all(same(a, b) for a, b in zip(one, three, strict=True))


def test_streams_share_an_epoch_without_overlap(data):
    spec = replace(data.specs["mlm"], streams=3)
    taken = []
    for stream in range(3):
        visits = [v for v in range(len(spec.windows)) if v % 3 == stream]
        taken += [s for v in visits for b in read_visit(spec, v) for s in originals(b)]
    assert len(taken) == len(set(taken))
    assert len(taken) == data.counts["mlm_training_sequences"]


def test_a_stream_never_ends_even_with_more_streams_than_windows(data):
    spec = replace(data.specs["mlm"], windows=data.specs["mlm"].windows[:1], streams=4)
    for stream in range(4):
        taken = list(itertools.islice(iterate_stream(spec, stream), 40))
        assert len(taken) == 40


@pytest.mark.parametrize("objective", ["mlm", "sal"])
def test_any_cursor_resumes_exactly(data, objective):
    spec = data.specs[objective]
    whole = list(itertools.islice(iterate_stream(spec, 1), 60))
    for number in (0, 1, 7, 30, 58):
        cursor = whole[number][0]
        resumed = itertools.islice(iterate_stream(spec, 1, cursor), 59 - number)
        for (expected, a), (found, b) in zip(whole[number + 1 :], resumed, strict=True):
            assert expected == found
            assert same(a, b)


def test_epochs_differ_in_order_and_masks(data):
    spec = data.specs["mlm"]
    first, second = (
        [visit_window(spec, e * len(spec.windows) + i)[1] for i in range(len(spec.windows))]
        for e in (0, 1)
    )
    assert first != second
    assert set(first) == set(second) == set(spec.windows)
    masks = [
        {
            sequence: labels.tobytes()
            for batch in epoch_of(spec, 1, epoch)
            for sequence, labels in zip(originals(batch), batch.labels, strict=True)
        }
        for epoch in (0, 1)
    ]
    assert sum(masks[0][s] != masks[1][s] for s in masks[0]) > 0.9 * len(masks[0])


def test_budgets_hold(data):
    for objective, budget in (("mlm", 1024), ("sal", 1024)):
        for batch in epoch_of(data.specs[objective], 1, 0):
            assert batch.input_ids.size <= budget
            assert batch.lengths.max() == batch.input_ids.shape[1]


def test_references_lie_within_their_sequences(data):
    for batch in epoch_of(data.specs["sal"], 1, 0):
        count = len(batch.reference)
        for row, n, m in zip(
            batch.reference, batch.lengths[:count], batch.lengths[count:], strict=True
        ):
            assert (row[n:] == -1).all()
            aligned = row[row >= 0]
            assert (np.diff(aligned) > 0).all()
            assert aligned.size == 0 or aligned[-1] < m


def test_cls_and_eos_are_added_but_never_masked(corpus):
    config = PretrainConfig(
        validation_families=FAMILIES,
        model=RnaBertConfig(add_bos=True, add_eos=True),
        max_length=438,
    )
    batch = next(iterate_stream(prepare_data(corpus, config, 1).specs["mlm"], 0))[1]
    assert (batch.input_ids[:, 0] == 1).all()
    assert (batch.labels[:, 0] == IGNORE).all()


def test_families_are_held_out_by_hash_if_none_is_named(corpus):
    data = prepare_data(corpus, PretrainConfig(validation_family_share=0.3), 1)
    assert len(data.held_out_families) == 3
    rfam = ["RF00005", "RF00006", "RF01185", "RF01855", "RF00003", "RF00004", "RF00012"]
    by_hash = sorted([*rfam, "RNaseP_bact", "SRP_euk"], key=lambda f: hash64(f"0:{f}"))
    assert set(data.held_out_families) == set(by_hash[:3])


def test_no_member_of_a_held_out_family_is_trained_on(corpus):
    """Members in no drawn pair, too: 40 pairs cannot cover the 966 tRNAs."""
    data = prepare_data(corpus, PretrainConfig(validation_families=["tRNA"]), 1)
    assert data.held_out_families == ("RF00005",), "a name stands for its accession"
    trna = next(f for f in read_stockholm(SAMPLE_ALIGNMENTS) if f.accession == "RF00005")
    members = {normalise(row.replace("-", "")) for row in trna.rows}
    seen = {s for b in epoch_of(data.specs["mlm"], 1, 0) for s in originals(b)}
    assert len(members) > 900
    assert not members & seen


def test_a_corpus_without_its_members_is_refused(corpus, tmp_path):
    for file in (*corpus.glob("pairs-*"), *corpus.glob("sequences-*")):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(CorpusError, match="ingest it anew"):
        prepare_data(tmp_path, PretrainConfig(), 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_families": ["RF99999"]}, "RF99999"),
        ({"validation_share": 0.999999}, "leaves no sequence"),
    ],
)
def test_impossible_splits(corpus, options, message):
    with pytest.raises(ConfigError, match=message):
        prepare_data(corpus, PretrainConfig(**options), 1)


def test_cursor_order():
    assert Cursor(1, 0) > Cursor(0, 99)
