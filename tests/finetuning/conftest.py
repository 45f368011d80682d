"""A tiny checkpoint and labelled RNAs that fine-tuning learns from in seconds."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch

from riboray.model import save_checkpoint
from riboray.model.heads import RnaBertForPreTraining
from tests.conftest import random_sequences, tiny_config


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory):
    """Random weights, windows of 40 nucleotides."""
    torch.manual_seed(1)
    model = RnaBertForPreTraining(tiny_config(max_position_embeddings=40))
    return str(save_checkpoint(model, tmp_path_factory.mktemp("tiny") / "model"))


def write_csv(path, header, rows):
    with path.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(header)
        writer.writerows(rows)
    return str(path)


@pytest.fixture
def hairpins(tmp_path):
    """60 hairpins of random stems: id, sequence, structure, GC content, family."""
    rng = np.random.default_rng(7)
    pairs = {"A": "U", "C": "G", "G": "C", "U": "A"}
    rows = []
    for number, stem in enumerate(random_sequences(rng, 60, 4, 9)):
        loop = "GAAA" if number % 2 else "UUCG"
        sequence = stem + loop + "".join(pairs[base] for base in reversed(stem))
        structure = "(" * len(stem) + "...." + ")" * len(stem)
        content = sum(base in "GC" for base in sequence) / len(sequence)
        kind = "tetraloop" if number % 2 else "uucg"
        rows.append([f"h{number}", sequence, structure, content, kind, f"f{number % 3}"])
    header = ["id", "sequence", "structure", "gc", "kind", "family"]
    return write_csv(tmp_path / "hairpins.csv", header, rows)
