"""What a checkpoint says of its training sequences."""

from __future__ import annotations

import numpy as np
import pytest

from riboray.corpus import trained
from riboray.corpus.sha256 import sha256_64
from riboray.corpus.strings import Strings
from riboray.corpus.trained import Overlap, TrainedSequences
from riboray.errors import CheckpointError
from riboray.model.metadata import TRAINED_NAME
from tests.conftest import random_sequences


def hashes(texts):
    return sha256_64(Strings.of(texts))


def test_there_and_back(tmp_path, rng):
    texts = sorted(set(random_sequences(rng, 60, 10, 30)))
    kept = TrainedSequences.of(hashes(texts[:40] + texts[:5]), hashes(texts[30:50]))
    kept.write(tmp_path)
    found = TrainedSequences.read(tmp_path)
    assert (found.masked_total, found.aligned_total) == (40, 20)
    np.testing.assert_array_equal(found.masked, kept.masked)
    assert found.overlap(texts) == Overlap(len(texts), 40, 20, True)
    assert found.overlap(texts[50:]) == Overlap(len(texts) - 50, 0, 0, True)
    assert TrainedSequences.read(tmp_path / "elsewhere") is None


def test_nothing_was_trained_on(tmp_path):
    none = np.empty(0, np.uint64)
    TrainedSequences.of(none, none).write(tmp_path)
    assert TrainedSequences.read(tmp_path).overlap(["ACGU"]) == Overlap(1, 0, 0, True)


def test_of_very_many_a_sample_is_kept(rng, monkeypatch):
    monkeypatch.setattr(trained, "_MOST", 500)
    texts = sorted(set(random_sequences(rng, 4000, 20, 40)))
    some = texts[:2000]
    kept = TrainedSequences.of(hashes(some), hashes(some[:100]))
    assert (len(kept.masked), kept.masked_total) == (500, 2000)
    found = kept.overlap(texts)
    assert not found.exact
    # A quarter of 2,000 of the 4,000 is looked up: a standard deviation of about 45.
    assert abs(found.masked - 2000) < 250
    assert found.aligned == 100
    assert kept.overlap(texts[2000:]).masked == 0


@pytest.mark.parametrize("content", [b"", b"\0" * 40, b"not safetensors at all"])
def test_a_damaged_file(tmp_path, content):
    (tmp_path / TRAINED_NAME).write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read"):
        TrainedSequences.read(tmp_path)
