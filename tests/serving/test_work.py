"""Jobs against the functions that commands use."""

import numpy as np
import pytest
import torch

from riboray.alignment import GapPenalties, gap_costs
from riboray.alphabet import encode
from riboray.embedding.embedder import Embedder, Wanted
from riboray.model import RnaBertForPreTraining
from riboray.model.bundled import DEFAULT_MODEL
from riboray.model.checkpoint import load_checkpoint
from riboray.serving.work import AlignJob, EmbedJob, FillJob, Worker
from tests.conftest import tiny_config

RNAS = ["GGGAAACCC", "GGCUAACGCC", "A", "ACGUN" * 100]


@pytest.fixture(scope="module")
def worker():
    torch.manual_seed(3)
    return Worker(Embedder(RnaBertForPreTraining(tiny_config())))


@pytest.fixture(scope="module")
def last(worker):
    return worker.embedder.config.num_hidden_layers


def test_jobs_of_all_kinds_in_one_batch(worker, last):
    """Each is what it is alone, to float32 rounding, whatever shares the batch."""
    jobs = [
        EmbedJob(RNAS[0], last),
        AlignJob(RNAS[0], RNAS[1]),
        EmbedJob(RNAS[3], last, None),
        FillJob(RNAS[1], (0, 4)),
        EmbedJob(RNAS[1], last, "max"),
        EmbedJob(RNAS[2], 0),
        AlignJob(RNAS[0], RNAS[3], mode="local", similarity=True),
        FillJob(RNAS[0], (8,)),
        EmbedJob(RNAS[1], last),
    ]
    for job, found in zip(jobs, worker.run(jobs), strict=True):
        (alone,) = worker.run([job])
        if isinstance(job, AlignJob):
            assert found.score == pytest.approx(alone.score, abs=1e-5)
            assert found.cigar == alone.cigar
            continue
        assert found.shape == alone.shape
        assert np.allclose(found, alone, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "max", "first", None])
def test_embeddings_are_the_embedders(worker, last, pooling):
    found = worker.run([EmbedJob(text, last, pooling) for text in RNAS])
    wanted = worker.embedder.embed(RNAS, Wanted((last,), pooling, per_base=pooling is None))
    known = wanted.per_base[last] if pooling is None else wanted.pooled[last]
    for one, other, text in zip(found, known, RNAS, strict=True):
        assert one.shape == ((len(text), 24) if pooling is None else (24,))
        assert np.allclose(one, other, atol=1e-6)


def test_hidden_nucleotides_are_asked_for_one_sequence_at_a_time(worker):
    text, places = RNAS[1], (2, 7)
    (found,) = worker.run([FillJob(text, places)])
    config, model = worker.embedder.config, worker.embedder.model
    ids, lengths = encode([text], config.tokens, add_bos=config.add_bos, add_eos=config.add_eos)
    ids = torch.from_numpy(ids.astype(np.int64))
    ids[0, [p + config.add_bos for p in places]] = config.tokens.mask_id
    with torch.no_grad():
        hidden = model(ids, torch.from_numpy(lengths))[0, [p + config.add_bos for p in places]]
        wanted = torch.softmax(model.lm_head(hidden), -1).numpy()
    assert found.shape == (2, len(config.tokens))
    assert np.allclose(found, wanted, atol=1e-5)
    assert np.allclose(found.sum(1), 1, atol=1e-5)
    # What stands at a hidden place does not matter.
    (other,) = worker.run([FillJob(text[:2] + "N" + text[3:], places)])
    assert np.allclose(found, other)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("mode", ["global", "semiglobal", "local"])
def test_alignments_have_the_score_of_their_path(worker, last, mode, centred):
    """Scored anew from base embeddings; cosines of float32."""
    gaps = GapPenalties(0.5, 0.05)
    job = AlignJob(RNAS[0], RNAS[1], mode, gaps, centred, similarity=True)
    (found,) = worker.run([job])
    sides = [r.astype(np.float64) for r in worker.run([EmbedJob(t, last, None) for t in RNAS[:2]])]
    if centred:
        sides = [side - side.mean(0) for side in sides]
    a, b = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides)
    assert np.allclose(found.similarity, a @ b.T, atol=1e-5)
    pairs = [(i, j) for i, j in enumerate(found.partners) if j >= 0]
    total = sum(float(a[i] @ b[j]) for i, j in pairs)
    sizes = [np.array([len(text)]) for text in RNAS[:2]]
    total -= float(gap_costs(found.partners[None], *sizes, gaps, mode)[0])
    assert found.score == pytest.approx(total, abs=1e-4)
    assert [row.replace("-", "") for row in found.view.rows] == RNAS[:2]
    assert sum(int(n) for n, kind in parse(found.cigar) if kind == "M") == len(pairs)


def parse(cigar):
    number = ""
    for character in cigar:
        if character.isdigit():
            number += character
        else:
            yield number, character
            number = ""


def test_the_models_that_come_with_riboray_know_a_hairpins_letters():
    """Of a stem's G, hidden in a tRNA, a pairing one is likelier than by composition."""
    worker = Worker(Embedder(load_checkpoint(DEFAULT_MODEL).model))
    trna = "GCGGAUUUAGCUCAGUUGGGAGAGCGCCAGACUGAAGAUCUGGAGGUCCUGUGUUCGAUCCACAGAAUUCGCACCA"
    (found,) = worker.run([FillJob(trna, (17,))])
    letters = [worker.embedder.config.tokens.id_of(letter) for letter in "ACGU"]
    assert found[0, letters].sum() > 0.99
    assert letters[int(found[0, letters].argmax())] == worker.embedder.config.tokens.id_of("G")
