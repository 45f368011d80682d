"""Files that older code wrote are read by today's code, and today's code writes the same formats.

`archive/N` was made by `tests.formats.make` when the formats were as they are in it. A format that
changes gets a new number in its files and a new archive here; old ones stay.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import torch

from riboray.cli import main
from riboray.clustering.edges import open_hits
from riboray.corpus.ingestion import CORPUS_KIND
from riboray.embedding.store import open_embeddings
from riboray.errors import CheckpointError, CorpusError, RiborayError
from riboray.manifest import read_manifest, sha256_file
from riboray.model.checkpoint import load_checkpoint
from riboray.model.prediction import RnaBertForPrediction
from riboray.options import parse_config
from riboray.pretraining.checkpoints import CheckpointStore
from riboray.pretraining.config import PretrainConfig
from riboray.pretraining.state import restore_state
from riboray.pretraining.streams import find_windows
from riboray.pretraining.trainer import Trainer
from tests.formats.make import make, read, tables

ARCHIVES = sorted((Path(__file__).parent / "archive").iterdir(), key=lambda path: int(path.name))
#: Numbers of another machine's arithmetic differ by so much at most, with numbers of the size of 1.
TOLERANCE = 1e-4


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name)
def archive(request, tmp_path):
    """A copy: what reads it may leave something beside it."""
    copy = tmp_path / "archive"
    shutil.copytree(request.param, copy)
    return copy


@pytest.fixture
def expected(archive):
    return json.loads((archive / "expected.json").read_text())


def test_everything_is_read(archive, expected):
    found = read(archive)
    for name in ("probe", "first_embedding"):
        np.testing.assert_allclose(found.pop(name), expected.pop(name), atol=TOLERANCE)
    assert found == expected


def test_checkpoints(archive, expected, tmp_path):
    """A model, and the state of its training."""
    loaded = load_checkpoint(archive / "checkpoint")
    assert loaded.sha256 == expected["sha256"]
    predictor = load_checkpoint(archive / "predictor").model
    assert isinstance(predictor, RnaBertForPrediction)
    assert predictor.head_config.labels == ("tRNA", "other")

    options = ["--config", str(archive / "checkpoint" / "resolved_config.yaml")]
    config = parse_config("pretrain", PretrainConfig, options)
    trainer = Trainer(config, torch.device("cpu"))
    shutil.copytree(archive / "checkpoint", tmp_path / "checkpoints" / "step-000000003")
    warnings: list[str] = []
    store = CheckpointStore(tmp_path / "checkpoints", 2)
    state, history = restore_state(trainer, store, warnings.append)
    assert (state.step, warnings) == (3, [])
    assert [record["step"] for record in history if record["kind"] == "validation"] == [0, 2, 3]

    path = tmp_path / "checkpoints" / "step-000000003" / "training_state" / "state.json"
    path.write_text(json.dumps({"schema_version": 99, "something": "new"}))
    noted = path.parents[1] / "manifest.json"
    values = json.loads(noted.read_text())
    (entry,) = (file for file in values["files"] if file["name"].endswith("state.json"))
    entry |= {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    noted.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="version 99; update riboray"):
        restore_state(trainer, store, warnings.append)


def test_a_corpus(archive, monkeypatch, capsys):
    manifest = read_manifest(archive / "corpus", CORPUS_KIND, verify=True)
    assert manifest is not None
    assert manifest.counts["sequences_read"] == manifest.counts["sequences_kept"] + 1
    monkeypatch.chdir(archive)
    assert main(["corpus-stats", "corpus", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["problems"] == []
    options = ["--corpus", "corpus", "--max-steps", "1", "--run-name", "new", "--dry-run", "--json"]
    assert main(["pretrain", *options]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["data"]["sal_training_families"] + told["data"]["sal_validation_families"] == 2


def test_embeddings(archive, expected, monkeypatch, capsys):
    monkeypatch.chdir(archive)
    model = ["--checkpoint", "checkpoint", "--json"]
    for name in ("embeddings", "embeddings-parquet", "embeddings-npy"):
        assert main(["verify", name, *model]) == 0, name
        assert json.loads(capsys.readouterr().out)["compared"] == len(expected["ids"])
    stored = open_embeddings("embeddings")
    assert stored.to_numpy().shape == (len(stored.ids), 12)
    for name in ("parquet", "npy"):
        other = open_embeddings(f"embeddings-{name}").to_numpy()
        np.testing.assert_array_equal(other, stored.to_numpy())


def test_pairs_hits_and_clusters(archive, monkeypatch, capsys):
    monkeypatch.chdir(archive)
    for name in ("pairs", "hits"):
        rows = sum(len(table) for _, table in open_hits(name).batches(["score"]))
        assert rows == pyarrow.dataset.dataset(f"{name}/pairs", format="ipc").count_rows() > 0
    options = ["--on-invalid", "reject", "--hits", "pairs", "--max-evalue", "0.5", "--json"]
    assert main(["cluster", "rnas.fa", *options, "--figure", "false", "--output", "again"]) == 0
    summary = json.loads(capsys.readouterr().out)
    members = [line.split("\t") for line in Path("clusters/clusters.tsv").read_text().splitlines()]
    assert len(members) == summary["sequences_clustered"]
    assert len({pair[0] for pair in members}) == len(pq.read_table("clusters/clusters.parquet"))


def test_a_run(archive, monkeypatch, capsys):
    monkeypatch.chdir(archive)
    arguments = ["report", "run", "--no-model", "--json", "--output", "page.html"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["bytes"] > 1000


@pytest.mark.parametrize("name", ["corpus", "embeddings", "pairs", "clusters", "predictions"])
def test_a_format_of_the_future_is_refused(archive, name, monkeypatch):
    """In words, and not half read."""
    monkeypatch.chdir(archive)
    path = Path(name) / "manifest.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "schema_version": 99}))
    with pytest.raises(RiborayError, match="99"):
        read_manifest(path.parent, values["kind"])


@pytest.mark.parametrize("name", ["corpus/sequences", "embeddings", "embeddings.parquet", "pairs"])
def test_a_schema_of_the_future_is_refused(archive, name, monkeypatch):
    """File by file, too: a manifest may be as it was."""
    monkeypatch.chdir(archive)
    path = tables(archive)[name]
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        metadata = {**table.schema.metadata, b"riboray.schema_version": b"99"}
        pq.write_table(table.replace_schema_metadata(metadata), path)
    else:
        table = pa.ipc.open_file(str(path)).read_all()
        metadata = {**table.schema.metadata, b"riboray.schema_version": b"99"}
        with pa.ipc.new_file(str(path), table.schema.with_metadata(metadata)) as writer:
            writer.write_table(table.replace_schema_metadata(metadata))
    noted = path.parent / "manifest.json"
    if not noted.is_file():
        noted = path.parents[1] / "manifest.json"
    values = json.loads(noted.read_text())
    (entry,) = (file for file in values["files"] if file["name"].endswith(path.name))
    entry |= {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    noted.write_text(json.dumps(values))
    readers = {
        "corpus/sequences": lambda: find_windows([path]),
        "pairs": lambda: list(open_hits("pairs").batches([])),
    }
    reader = readers.get(name, lambda: open_embeddings(path.parent))
    with pytest.raises(CorpusError, match="schema version 99 is newer than this riboray"):
        reader()


@pytest.mark.slow
@pytest.mark.ray
def test_what_is_written_today_is_the_newest_archive(tmp_path):
    """Whoever changes a format raises its number and archives it."""
    here = Path.cwd()
    try:
        make(tmp_path / "now")
    finally:
        os.chdir(here)
    now = json.loads((tmp_path / "now" / "expected.json").read_text())["schemas"]
    then = json.loads((ARCHIVES[-1] / "expected.json").read_text())["schemas"]
    assert now == then
    for name in ("checkpoint/config.json", "checkpoint/training_state/state.json"):
        new, old = (json.loads((folder / name).read_text()) for folder in
                    (tmp_path / "now", ARCHIVES[-1]))  # fmt: skip
        assert new.keys() == old.keys(), name
    for name in tables(ARCHIVES[-1]):
        manifest = f"{name.split('/')[0]}/manifest.json"
        if (ARCHIVES[-1] / manifest).is_file():
            new, old = (json.loads((folder / manifest).read_text()) for folder in
                        (tmp_path / "now", ARCHIVES[-1]))  # fmt: skip
            assert (new["schema_version"], new.keys()) == (old["schema_version"], old.keys())
