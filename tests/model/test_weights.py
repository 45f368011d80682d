"""The weights that come with riboray are the ones whose figures are told.

``python -m tests.model.test_weights`` writes what they give now to ``golden.json``, after new ones
were trained; the documentation's figures then have to be measured anew, too.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from riboray.alignment import align_embeddings, aligned_columns, count_aligned
from riboray.alignment.similarity import unit_rows
from riboray.corpus.sample import SAMPLE_ALIGNMENTS
from riboray.corpus.stockholm import read_stockholm
from riboray.corpus.trained import TrainedSequences
from riboray.embedding.embedder import Embedder
from riboray.model import load_checkpoint
from riboray.model.bundled import DEFAULT_MODEL, bundled_models

GOLDEN = Path(__file__).with_name("golden.json")

#: A tRNA, a microRNA hairpin, a piece of 5S rRNA.
SEQUENCES = [
    "GCGGAUUUAGCUCAGUUGGGAGAGCGCCAGACUGAAGAUCUGGAGGUCCUGUGUUCGAUCCACAGAAUUCGCACCA",
    "UGUCGGGUAGCUUAUCAGACUGAUGUUGACUGUUGAAUCUCAUGGCAACACCAGUCGAUGGGCUGUCUGACA",
    "GUCUACGGCCAUACCACCCUGAACGCGCCCGAUCUCGUCUGAUCUCGGAAGCUAAGCAGGGUCGGGCCUGG",
]

#: Pairs of each family of the bundled sample whose alignments are measured.
_PAIRS = 12


def measure(name):
    """What a model gives: its embeddings, rounded, and its F1 on the bundled sample."""
    loaded = load_checkpoint(name)
    embedder = Embedder(loaded.model)
    pooled = [bases.mean(0) for bases in embedder.per_base(SEQUENCES)]
    sums = np.zeros(3)
    for family in read_stockholm(SAMPLE_ALIGNMENTS):
        rows = [row.upper().replace("T", "U") for row in family.rows][: 2 * _PAIRS]
        for one, other in zip(rows[::2], rows[1::2], strict=False):
            pair = aligned_columns(one, other)
            texts = pair.sequence_a, pair.sequence_b
            if max(map(len, texts)) > 440:
                continue
            a, b = map(unit_rows, embedder.per_base(texts))
            sums += count_aligned(align_embeddings(a, b)[1], pair.partners)
    return {
        "sha256": loaded.sha256,
        "f1": round(float(2 * sums[0] / (sums[1] + sums[2])), 4),
        "embeddings": [[round(float(v), 4) for v in row] for row in pooled],
    }


def test_every_model_has_its_golden_figures():
    assert sorted(json.loads(GOLDEN.read_text("utf-8"))) == bundled_models()


@pytest.mark.parametrize("name", bundled_models())
def test_weights_give_what_they_gave(name):
    golden, found = json.loads(GOLDEN.read_text("utf-8"))[name], measure(name)
    assert found["sha256"] == golden["sha256"]
    # Numbers are kept to 5e-5; another processor's sums differ by some 1e-6.
    np.testing.assert_allclose(found["embeddings"], golden["embeddings"], atol=2e-4)
    # A tie that falls the other way moves single pairs of some thousand.
    assert found["f1"] == pytest.approx(golden["f1"], abs=0.002)


def test_models_say_what_they_were_trained_on():
    for name in bundled_models():
        trained = TrainedSequences.read(load_checkpoint(name).path)
        assert trained is not None
        assert trained.masked_total > 50_000
        assert trained.aligned_total > 10_000
    trained = TrainedSequences.read(load_checkpoint(DEFAULT_MODEL).path)
    assert trained is not None
    assert trained.overlap(["ACGU" * 30]).masked == 0


if __name__ == "__main__":
    figures = {name: measure(name) for name in bundled_models()}
    GOLDEN.write_text(json.dumps(figures, indent=None, separators=(",", ":")) + "\n", "utf-8")
