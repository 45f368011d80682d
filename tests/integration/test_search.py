"""`riboray embed` and `riboray search` as their user runs them."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pytest
import torch

from riboray.alignment.index import SearchIndex, open_database
from riboray.cli import main
from riboray.embedding.embedder import Embedder
from riboray.manifest import read_manifest
from riboray.model import RnaBertForPreTraining, save_checkpoint
from tests.conftest import random_sequences, tiny_config
from tests.integration.helpers import kill, riboray, start, wait_for
from tests.integration.test_align import write_fasta

pytestmark = pytest.mark.ray


def mutate(rng, sequence, share=0.1):
    letters = list(sequence)
    for k in rng.choice(len(letters), int(share * len(letters)), replace=False):
        letters[k] = rng.choice(list("ACGU"))
    return "".join(letters)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Queries, a database with a relative of each, and two models."""
    folder = tmp_path_factory.mktemp("search")
    rng = np.random.default_rng(12)
    targets = random_sequences(rng, 400, 40, 110)
    queries = [mutate(rng, targets[k]) for k in (3, 77, 250, 399)]
    write_fasta(folder / "targets.fa", targets, "t")
    write_fasta(folder / "queries.fa", queries, "q")
    for seed in (3, 4):
        torch.manual_seed(seed)
        save_checkpoint(
            RnaBertForPreTraining(tiny_config(num_hidden_layers=1)), folder / f"model{seed}"
        )
    return folder


def embed(work, output, *options):
    return riboray(
        *("embed", "targets.fa", "--checkpoint", "model3", "--output", output),
        *("--shard-bytes", "11000", *options),
        cwd=work,
    )


@pytest.fixture(scope="module")
def database(work):
    code, out, err = embed(work, "db", "--per-base")
    assert code == 0, err
    assert json.loads(out)["sequences_embedded"] == 400
    return work / "db"


def search(work, output, *options):
    code, out, err = riboray(
        *("search", "queries.fa", "--db", "db", "--checkpoint", "model3"),
        *("--output", output, *options),
        cwd=work,
    )
    assert code == 0, err
    lines = (work / output / "pairs.tsv").read_text().splitlines()
    return json.loads(out), [line.split("\t") for line in lines[1:]], err


def test_embeddings_are_complete_in_order_and_not_made_twice(work, database):
    table = pyarrow.dataset.dataset(sorted(database.glob("*.arrow")), format="ipc").to_table(
        columns=["id", "length"]
    )
    assert table["id"].to_pylist() == [f"t{k}" for k in range(400)]
    assert len(list(database.glob("*.arrow"))) == 4
    manifest = read_manifest(database, "embeddings", verify=True)
    assert manifest.counts["sequences_read"] == 400
    before = {path: path.stat().st_mtime_ns for path in database.glob("*.arrow")}
    code, _, err = embed(work, "db", "--per-base")
    assert code == 0
    assert "complete already" in err
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())
    code, _, err = embed(work, "db")
    assert code == 2
    assert "other inputs or options" in err


@pytest.fixture(scope="module")
def hits(work, database):
    """Search with both prefilters."""
    return search(work, "hits", "--candidates", "30")


def test_relatives_are_found_first(hits, database):
    summary, rows, err = hits
    assert "queries" in err
    best = {}
    for row in rows:
        best.setdefault(row[0], row)
    assert {query: row[1] for query, row in best.items()} == {
        "q0": "t3",
        "q1": "t77",
        "q2": "t250",
        "q3": "t399",
    }
    for row in best.values():
        assert float(row[2]) > 0.85
        assert float(row[10]) < 1e-3
    evalues = [float(row[10]) for row in rows if row[0] == "q0"]
    assert evalues == sorted(evalues)
    assert max(evalues) <= 10
    assert 30 * 4 <= summary["pairs_compared"] <= 60 * 4
    assert (database / "index").is_dir()


def test_the_service_finds_what_the_command_finds(work, database):
    """Without chance scores, which the service fits to the database alone, to the last digit."""
    _, rows, _ = search(work, "plain", "--statistics", "false", "--max-hits", "20")
    records = (work / "queries.fa").read_text().split(">")[1:]
    texts = {record.split()[0]: record.split("\n", 1)[1] for record in records}
    found, loaded = open_database(str(database), str(work / "model3"))
    embedder = Embedder(loaded.model)
    index = SearchIndex(found, embedder, str(work / "model3"), work, statistics=False)
    queries = {name: text.replace("\n", "") for name, text in texts.items()}
    bases = embedder.per_base(list(queries.values()))
    chosen = index.candidates(list(queries.values()), bases, 500)
    ours = []
    for (name, text), own, candidates in zip(queries.items(), bases, chosen, strict=True):
        table = index.search(text, own, candidates, max_hits=20, max_evalue=None)
        ours += [(name, row["target"], row["cigar"], row["score"]) for row in table.to_pylist()]
    stored = pa.ipc.open_file(work / "plain" / "pairs" / "hits.arrow").read_all()
    theirs = [(r["query"], r["target"], r["cigar"], r["score"]) for r in stored.to_pylist()]
    assert len(rows) == len(ours) == 80
    assert ours == theirs


def test_exhaustive_search_agrees_on_what_both_saw(work, hits):
    some = hits[1]
    summary, every, _ = search(
        work, "every", "--prefilter", "none", "--max-evalue", "1000", "--max-hits", "1000"
    )
    assert summary["pairs_compared"] == 4 * 400
    scores = {tuple(row[:2]): row for row in every}
    assert len(scores) == len(every)
    assert len(some) > 8
    for row in some:
        assert float(row[11]) == pytest.approx(float(scores[tuple(row[:2])][11]), abs=1e-3)
        assert row[2:10] == scores[tuple(row[:2])][2:10]


def test_a_database_without_base_embeddings_gives_the_same_hits(work, hits):
    code, _, err = embed(work, "pooled")
    assert code == 0, err
    wanted = hits[1]
    code, _, err = riboray(
        *("search", "queries.fa", "--db", "pooled", "--checkpoint", "model3"),
        *("--output", "hits_pooled", "--candidates", "30"),
        cwd=work,
    )
    assert code == 0, err
    lines = (work / "hits_pooled" / "pairs.tsv").read_text().splitlines()[1:]
    found = {tuple(line.split("\t")[:2]): float(line.split("\t")[11]) for line in lines}
    assert found.keys() == {tuple(row[:2]) for row in wanted}
    for row in wanted:  # float16 on disk against float32 here
        assert found[tuple(row[:2])] == pytest.approx(float(row[11]), abs=0.05)


def run_main(work, *arguments):
    os.chdir(work)
    return main([str(a) for a in arguments])


def test_another_models_embeddings_are_refused(work, database, capsys):
    common = ["search", "queries.fa", "--db", "db", "--output", "never"]
    assert run_main(work, *common, "--checkpoint", "model4") == 2
    assert "scores between two models mean nothing" in capsys.readouterr().err
    assert not (work / "never").exists()


def test_mixed_embeddings_are_refused(work, database, capsys, tmp_path):
    code, _, err = riboray(
        *("embed", "targets.fa", "--checkpoint", "model4", "--output", tmp_path / "other"),
        *("--shard-bytes", "11000", "--per-base"),
        cwd=work,
    )
    assert code == 0, err
    mixed = work / "mixed"
    shutil.copytree(database, mixed)
    (last,) = (tmp_path / "other").glob("000002-*.arrow")
    shutil.copy(last, mixed / last.name)
    manifest = json.loads((mixed / "manifest.json").read_text())
    for entry in manifest["files"]:
        entry["bytes"] = (mixed / entry["name"]).stat().st_size
    (mixed / "manifest.json").write_text(json.dumps(manifest))
    common = ["search", "queries.fa", "--db", "mixed", "--checkpoint", "model3"]
    assert run_main(work, *common) == 2
    assert "different models" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("db", "message"), [("nowhere", "no complete embeddings"), ("model3", "no complete embeddings")]
)
def test_not_a_database(work, db, message, capsys):
    assert run_main(work, "search", "queries.fa", "--db", db, "--checkpoint", "model3") == 2
    assert message in capsys.readouterr().err


def test_a_killed_search_goes_on(work, database):
    output = work / "killed"
    common = [
        *("search", "targets.fa", "--db", "db", "--checkpoint", "model3", "--output", output),
        *("--prefilter", "none", "--num-workers", "1"),
    ]
    process = start(common, work)
    wait_for((output / "resolved_config.yaml").is_file)
    assert kill(process) == -9
    code, out, err = riboray(*common, cwd=work)
    assert code == 0, err
    assert json.loads(out)["pairs_compared"] == 400 * 400


def test_bad_input_leaves_no_claim(work, capsys, tmp_path):
    common = ["embed", tmp_path / "x.fa", "--checkpoint", "model3", "--output", tmp_path / "e"]
    (tmp_path / "x.fa").write_text(">a\nACGU\n>a\nACGG\n")
    assert run_main(work, *common) == 2
    assert "record 2: another record is called 'a' too" in capsys.readouterr().err
    assert not (tmp_path / "e").exists()


def test_a_database_of_one(work, tmp_path):
    (tmp_path / "one.fa").write_text(">only\nACGUACGUGGCCAAUU\n")
    model = work / "model3"
    code, _, err = riboray(
        *("embed", "one.fa", "--checkpoint", model, "--output", "db"), cwd=tmp_path
    )
    assert code == 0, err
    code, out, err = riboray(
        *("search", "one.fa", "--db", "db", "--checkpoint", model, "--statistics", "false"),
        cwd=tmp_path,
    )
    assert code == 0, err
    assert json.loads(out)["pairs_reported"] == 1


def test_an_index_keeps_to_its_whitening(work, database, hits, tmp_path):
    """Another seed samples other shuffles; the index and its whitening stay what they are."""
    before = {p: p.read_bytes() for p in (database / "index").rglob("*") if p.is_file()}
    assert any(p.suffix == ".npz" for p in before)
    _, rows, _ = search(work, "seed1", "--candidates", "30", "--seed", "1")
    assert {p: p.read_bytes() for p in before} == before
    first = {row[0]: row[1] for row in reversed(rows)}
    assert first == {row[0]: row[1] for row in reversed(hits[1])}
