"""Without a checkpoint: the model that comes with riboray, under its name."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from riboray.cli import main
from riboray.embedding.store import open_embeddings
from tests.conftest import random_sequences

pytestmark = pytest.mark.ray


@pytest.fixture
def rnas(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = random_sequences(np.random.default_rng(2), 12, 50, 90)
    named = [f">s{k}\n{s}\n" for k, s in enumerate([*texts, texts[3]])]
    (tmp_path / "rnas.fa").write_text("".join(named))
    (tmp_path / "two.fa").write_text(named[3] + named[5])
    return tmp_path


def test_verbs_without_a_checkpoint(rnas, capsys):
    assert main(["embed", "rnas.fa", "--per-base", "--output", "e", "--num-workers", "1"]) == 0
    assert yaml.safe_load((rnas / "e" / "resolved_config.yaml").read_text())["checkpoint"] == (
        "rnabert"
    )
    embeddings = open_embeddings("e")
    assert len(embeddings) == 13
    rows = embeddings.to_numpy()
    np.testing.assert_allclose(rows[3], rows[12], atol=1e-5)
    assert main(["verify", "e"]) == 0
    capsys.readouterr()
    assert main(["align", "two.fa", "--format", "fasta"]) == 0
    assert capsys.readouterr().out.startswith(">s3\n")
    assert main(["align", "two.fa", "--checkpoint", "rnabert", "--format", "fasta"]) == 0
    assert capsys.readouterr().out.startswith(">s3\n")
    options = ["--num-workers", "1", "--candidates", "5"]
    assert main(["search", "two.fa", "--db", "e", "--output", "hits", *options]) == 0
    hits = (rnas / "hits" / "pairs.tsv").read_text().splitlines()
    assert any(line.startswith("s3\ts12\t") for line in hits)
    capsys.readouterr()
    cluster = ["cluster", "e", "--figure", "false", "--num-workers", "1", "--json", "--output"]
    assert main([*cluster, "c"]) == 0
    assert json.loads(capsys.readouterr().out)["clusters"] == 12
