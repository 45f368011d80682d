"""Lockstep, blockwise and long-pair alignment against the kernel that `test_pairwise` checks.

They follow one recurrence in the same order, so from the same match scores they give the same bits;
what differs is the matrix product that makes the scores, by about 1e-6 a cell.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from riboray.alignment import GapPenalties, align_batch, lockstep
from riboray.alignment.blocks import BlockAligner, quantisation_error, target_blocks
from riboray.alignment.kernels import LOWEST
from riboray.alignment.longpairs import BLOCK, align_embeddings
from riboray.alignment.similarity import RowMaker, SequenceSet, fit_projection, unit_rows
from riboray.errors import ConfigError
from tests.alignment import reference as ref

LANES = lockstep.LANES
MODES = ["global", "semiglobal", "local"]


def lanes_by_match(match, lengths, gaps, mode, kind=np.float32, lowest=LOWEST):
    """Align with the lockstep kernel; match has shape (m, n, LANES)."""
    m, n, _ = match.shape
    trace = np.zeros((m, n, LANES), np.uint8)
    scores, ends = np.empty(LANES, kind), np.empty((2, LANES), np.int32)
    lockstep.align_lanes_by_match(
        match,
        lengths,
        kind(gaps[0]),
        kind(gaps[1]),
        lowest,
        mode != "global",
        0 if mode == "local" else None,
        trace,
        scores,
        ends,
    )
    partners = np.empty((LANES, n), np.int32)
    lockstep.walk_lanes(trace, lengths, ends, partners)
    return scores, partners


@st.composite
def lanes(draw):
    m, n = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    seed, ties = draw(st.integers(0, 2**32 - 1)), draw(st.booleans())
    rng = np.random.default_rng(seed)
    match = rng.uniform(-1, 1, (m, n, LANES)).astype(np.float32)
    lengths = rng.integers(0, m + 1, LANES).astype(np.int32)
    lengths[draw(st.integers(0, LANES - 1))] = m
    return (np.round(match * 4) / 4 if ties else match), lengths


@given(lanes(), st.sampled_from([(1.0, 0.125), (0.0, 0.0), (0.5, 0.25)]), st.sampled_from(MODES))
@settings(deadline=None)
def test_lanes_give_the_same_bits_as_one_pair(batch, gaps, mode):
    match, lengths = batch
    scores, partners = lanes_by_match(match, lengths, gaps, mode)
    used = lengths > 0
    n = match.shape[1]
    single = align_batch(
        match.transpose(2, 1, 0)[used],
        np.full(used.sum(), n),
        lengths[used],
        GapPenalties(*gaps),
        mode=mode,
    )
    np.testing.assert_array_equal(scores[used], single.scores)
    np.testing.assert_array_equal(partners[used], single.partners)
    assert (partners[~used] == -1).all()


@given(lanes(), st.sampled_from(MODES))
@settings(deadline=None)
def test_whole_numbers_give_the_same_in_int16(batch, mode):
    match, lengths = batch
    whole = np.round(match * 50).astype(np.int16)
    scores, partners = lanes_by_match(whole, lengths, (60, 6), mode, np.int16, np.int16(-16000))
    wanted, wanted_partners = lanes_by_match(whole.astype("f"), lengths, (60, 6), mode)
    np.testing.assert_array_equal(scores, wanted)
    np.testing.assert_array_equal(partners, wanted_partners)


@st.composite
def sets(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes = rng.integers(1, 40, draw(st.integers(2, 70)))
    return SequenceSet.of([rng.normal(size=(size, 16)) for size in sizes])


def singly(source, query, target, mode):
    """Score of one pair in float64, all in one table."""
    match = source[query].astype(float) @ source[target].astype(float).T
    return match, ref.gotoh(match, mode=mode)


@given(sets(), st.sampled_from(MODES))
@settings(deadline=None, max_examples=20)
def test_blocks_score_and_align_like_the_reference(source, mode):
    aligner, members = BlockAligner(mode=mode), np.argsort(-source.lengths)
    for block in target_blocks(source, members):
        scores = aligner.scores(source[0], block)
        again, partners = aligner.alignments(source[0], block)
        np.testing.assert_array_equal(scores, again)
        for k in range(0, len(block.members), 9):
            target = int(block.members[k])
            match, best = singly(source, 0, target, mode)
            assert scores[k] == pytest.approx(best, abs=1e-4)
            rescored = ref.score(match, partners[k], len(source[target]), mode=mode)
            assert rescored == pytest.approx(best, abs=1e-4)


@given(sets(), st.sampled_from(MODES))
@settings(deadline=None, max_examples=20)
def test_int16_keeps_within_its_bound(source, mode):
    (block, *_) = target_blocks(source, np.arange(len(source)))
    exact = BlockAligner(mode=mode).scores(source[0], block)
    rough = BlockAligner(mode=mode, arithmetic="int16").scores(source[0], block)
    shorter = np.minimum(len(source[0]), source.lengths[block.members])
    assert (np.abs(rough - exact) <= quantisation_error(shorter)).all()


def test_int16_at_the_models_limit_neither_overflows_nor_strays(rng):
    source = SequenceSet.of([rng.normal(size=(440, 8)) for _ in range(3)])
    same = SequenceSet(np.concatenate([source.embeddings] * 2), np.arange(7) * 440)
    (block,) = target_blocks(same, np.arange(6))
    rough = BlockAligner(arithmetic="int16").scores(same[0], block)
    assert rough[0] == rough[3] == 440.0
    exact = BlockAligner().scores(same[0], block)
    assert np.abs(rough - exact).max() < 0.5, "far below the bound of 3.7 for unrelated pairs"


def test_lengths_beyond_int16_are_scored_in_float32(rng):
    one = unit_rows(rng.normal(size=(600, 4)))
    source = SequenceSet(np.concatenate([one, one]), np.array([0, 600, 1200]))
    (block,) = target_blocks(source, np.array([1]))
    assert BlockAligner(arithmetic="int16").scores(one, block)[0] == pytest.approx(600, abs=1e-2)


def test_int16_refuses_penalties_it_cannot_hold():
    with pytest.raises(ConfigError, match="multiple of 1/60"):
        BlockAligner(GapPenalties(1.0, 0.07), arithmetic="int16")
    with pytest.raises(ConfigError, match="unknown arithmetic"):
        BlockAligner(arithmetic="int8")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "sizes", [(1, 1), (1, 300), (300, 1), (BLOCK, 5), (BLOCK + 1, 200), (700, 650)]
)
@pytest.mark.parametrize("small", [0, 1 << 20])
def test_long_pairs_give_what_one_table_gives(rng, monkeypatch, mode, sizes, small):
    monkeypatch.setattr("riboray.alignment.longpairs._SMALL", small)
    query, target = (unit_rows(rng.normal(size=(size, 12))) for size in sizes)
    # Relatives, so that paths cross many blocks.
    shared = min(sizes) // 2
    target[:shared] = query[len(query) - shared :] if mode == "local" else query[:shared]
    score, partners = align_embeddings(query, target, mode=mode)
    rows = BLOCK if small == 0 and len(query) > BLOCK else len(query)
    match = np.concatenate([query[i : i + rows] @ target.T for i in range(0, len(query), rows)])
    whole = align_batch(match[None], [sizes[0]], [sizes[1]], mode=mode)
    assert score == whole.scores[0]
    np.testing.assert_array_equal(partners, whole.partners[0])
    assert align_embeddings(query, target, mode=mode, traceback=False) == (score, None)


def test_pairs_too_large_for_lanes_are_aligned_alone(rng, monkeypatch):
    source = SequenceSet.of([rng.normal(size=(size, 16)) for size in (50, 40, 30)])
    (block,) = target_blocks(source, np.arange(3))
    aligner = BlockAligner()
    scores, partners = aligner.alignments(source[0], block)
    monkeypatch.setattr("riboray.alignment.blocks._WORKSPACE", 1000)
    (alone,) = target_blocks(source, np.arange(3))
    assert alone.targets is None
    for variant in (block, alone):
        found = aligner.alignments(source[0], variant)
        np.testing.assert_allclose(found[0], scores, atol=1e-5)
        np.testing.assert_array_equal(found[1], partners)
    np.testing.assert_allclose(aligner.scores(source[0], alone), scores, atol=1e-5)


@pytest.mark.slow
def test_ten_thousand_nucleotides_fit_in_little_memory(rng):
    import tracemalloc

    one = unit_rows(rng.normal(size=(10_000, 8)))
    other = np.concatenate([one[:4000], one[6000:]])
    align_embeddings(one[:200], other[:200])
    tracemalloc.start()
    score, partners = align_embeddings(one, other)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6, "one table would take 500 MB"
    assert score == pytest.approx(8000 - 1.0 - 200.0, abs=1.0)
    assert (partners[:3990] == np.arange(3990)).all()
    assert (partners[6010:] == np.arange(4010, 8000)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_embeddings_that_are_not_finite_are_refused(bad):
    rows = np.ones((4, 3))
    rows[2, 1] = bad
    with pytest.raises(ValueError, match="base 3 is NaN or infinite"):
        unit_rows(rows)
    with pytest.raises(ValueError, match="embedding of the target"):
        align_embeddings(np.ones((2, 3), np.float32), rows.astype(np.float32))


def test_length_zero_is_refused():
    with pytest.raises(ValueError, match="sequence 1 has length 0"):
        SequenceSet(np.ones((5, 3), np.float32), np.array([0, 2, 2, 5]))
    with pytest.raises(ValueError, match="query has length 0"):
        align_embeddings(np.ones((0, 3), np.float32), np.ones((2, 3), np.float32))


def test_projection_to_all_dimensions_is_exact_and_fewer_are_measured(rng):
    rows = unit_rows(rng.normal(size=(400, 4)) @ rng.normal(size=(4, 10)) + 0.01)
    whole = fit_projection(rows, 10)
    assert whole.max_error < 1e-5
    errors = [fit_projection(rows, k).rms_error for k in (1, 2, 3, 4)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.02 < errors[0]
    with pytest.raises(ConfigError, match="between 1 and 10"):
        fit_projection(rows, 11)


def test_rows_of_base_embeddings_centred_and_projected(rng):
    """Against the definition, sequence by sequence; float16 as embeddings are stored."""
    bases = [rng.normal(size=(n, 10)).astype(np.float16) + 3 for n in (1, 5, 30)]
    for centred in (False, True):
        for projection in (None, fit_projection(unit_rows(np.concatenate(bases)), 4)):
            found = RowMaker(centred, projection).rows(bases)
            expected = []
            for one in bases:
                values = one.astype(np.float64)
                values = values - values.mean(axis=0) if centred else values
                norms = np.linalg.norm(values, axis=1, keepdims=True)
                rows = values / np.maximum(norms, 1e-12)
                expected.append(rows if projection is None else rows @ projection.basis)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, np.concatenate(expected), atol=1e-5)
    assert (RowMaker(centred=True).rows(bases[:1]) == 0).all(), "one base has nothing of its own"
    with pytest.raises(ValueError, match="NaN or infinite"):
        RowMaker(centred=True).rows([np.full((2, 3), np.nan, np.float32)])


def inner_loops(kind, trace):
    """Vector instructions on packed data in the assembly of the lockstep row."""
    import numba
    from numba import types

    row = numba.njit(lockstep._advance.py_func, nogil=True)  # cached code cannot be inspected
    scalar = numba.from_dtype(np.dtype(kind))
    two, one = types.Array(scalar, 2, "C"), types.Array(scalar, 1, "C")
    tracing = types.Array(types.uint8, 3, "C") if trace else types.none
    signature = (two, types.int64, two, two, one, one, one, scalar, scalar, scalar, scalar)
    row.compile((*signature, tracing, types.none, types.Array(types.int32, 1, "C")))
    (assembly,) = row.inspect_asm().values()
    return re.findall(r"^\s+(v?\w+)\s.*%[yz]mm", assembly, re.MULTILINE)


@pytest.mark.parametrize("trace", [False, True])
@pytest.mark.parametrize(
    ("kind", "mnemonic"), [(np.float32, "vsubps|vaddps"), (np.int16, "vpsubw|vpaddw")]
)
def test_the_inner_loop_is_vector_code(kind, mnemonic, trace):
    """That it is also run, and fast, is for benchmarks/alignment_speed.py to say."""
    import llvmlite.binding as llvm

    if not llvm.get_host_cpu_features().get("avx2"):
        pytest.skip("needs a CPU with AVX2")
    found = [name for name in inner_loops(kind, trace) if re.fullmatch(mnemonic, name)]
    assert len(found) >= 3, "two penalties subtracted and a match score added"


#: Frozen results of the first version; seed 7, 12 dimensions, lengths 30 and 25.
GOLDEN = {"global": 0.943911, "semiglobal": 3.197911, "local": 3.388214}


@pytest.mark.parametrize("mode", MODES)
def test_golden_results(mode):
    rng = np.random.default_rng(7)
    query, target = unit_rows(rng.normal(size=(30, 12))), unit_rows(rng.normal(size=(25, 12)))
    assert align_embeddings(query, target, mode=mode)[0] == pytest.approx(GOLDEN[mode], abs=1e-4)
