"""The verb `predict`: the numbers of `riboray.load(…).predict`, every record accounted for."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import riboray
from riboray.cli import main
from riboray.corpus.structure import base_pairs
from tests.conftest import random_sequences
from tests.integration.helpers import riboray as command
from tests.serving.helpers import TASKS, save_tasks

TEXTS = [
    *random_sequences(np.random.default_rng(1), 60, 5, 80),
    *random_sequences(np.random.default_rng(2), 2, 500, 600),
]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    return save_tasks(tmp_path_factory.mktemp("models"))


@pytest.fixture
def here(tmp_path, monkeypatch):
    lines = [f">s{k} RNA\n{text}\n" for k, text in enumerate(TEXTS)]
    (tmp_path / "rnas.fa").write_text("".join([*lines[:30], ">bad\nACJ\n", *lines[30:]]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def predict(checkpoint, *options, output="out"):
    words = ["predict", "rnas.fa", "--checkpoint", checkpoint, "--output", output]
    return main([*words, "--on-invalid", "reject", "--shard-bytes", "700", "--json", *options])


def table(folder):
    return pa.concat_tables(
        pa.ipc.open_file(str(path)).read_all() for path in sorted(folder.glob("*.arrow"))
    )


@pytest.mark.parametrize("task", TASKS)
def test_numbers(here, tasks, task, capsys):
    head = TASKS[task]
    assert predict(tasks[task]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["sequences_read"] == 63
    assert (told["sequences_predicted"], told["sequences_rejected"]) == (62, 1)
    assert len(list((here / "out").glob("*.arrow"))) > 3
    found = table(here / "out")
    assert found["id"].to_pylist() == [f"s{k}" for k in range(62)]
    assert found["sequence"].to_pylist() == TEXTS
    metadata = {k.decode(): v.decode() for k, v in found.schema.metadata.items()}
    assert metadata["riboray.labels"].split("\t") == list(head.labels)
    wanted = riboray.load(tasks[task]).predict(TEXTS)
    rows = found.to_pylist()
    for row, numbers in zip(rows, wanted, strict=True):
        if "values" in row:
            values = np.array(row["values"], np.float32).reshape(numbers.shape)
            assert np.allclose(values, numbers, atol=1e-5)
        if "label" in row:
            best = int(numbers.argmax()) if head.problem == "multiclass" else int(numbers[0] >= 0.5)
            assert row["label"] == head.labels[best]
        if "labels" in row:
            assert row["labels"] == [n for n, p in zip("abc", numbers, strict=True) if p >= 0.5]
        if "classes" in row and head.problem == "multiclass":
            assert row["classes"] == numbers.argmax(1).tolist()
        if "pairs" in row:
            likely = np.argwhere(np.triu(numbers[..., 0] >= 0.5, 1)).tolist()
            assert [[p["i"], p["j"]] for p in row["pairs"]] == likely
            assert len(row["structure"]) == len(row["sequence"])
    rejects = pq.read_table(here / "out" / "rejects.parquet").to_pylist()
    assert [(r["id"], r["outcome"]) for r in rejects] == [("bad", "rejected")]


def test_structures(here, tasks):
    kinds = ("dbn", "ct", "bpseq")
    options = ["--structures", "[dbn, ct, bpseq]", "--threshold", "0.2", "--format", "parquet"]
    assert predict(tasks["structure"], *options) == 0
    files = sorted((here / "out").glob("*.parquet"))[:-1]  # the last one lists what was left out
    rows = pa.concat_tables(pq.read_table(path) for path in files).to_pylist()
    text = {
        kind: "".join(p.read_text() for p in sorted((here / "out").glob(f"*.{kind}")))
        for kind in kinds
    }
    entries = text["dbn"].split(">")[1:]
    records = [line.split() for line in text["ct"].splitlines()]
    pairs = text["bpseq"].split("# ")[1:]
    assert any("(" in row["structure"] for row in rows)
    at = 0
    for row, entry, listed in zip(rows, entries, pairs, strict=True):
        assert entry.split("\n")[:3] == [row["id"], row["sequence"], row["structure"]]
        partner = base_pairs(row["structure"])
        size = len(partner)
        assert records[at] == [str(size), row["id"]]
        for k, fields in enumerate(records[at + 1 : at + 1 + size]):
            numbers = [str(n) for n in (k, (k + 2) % (size + 1), partner[k] + 1, k + 1)]
            assert fields == [str(k + 1), row["sequence"][k], *numbers]
        at += size + 1
        assert listed.split("\n")[1 : size + 1] == [
            f"{k + 1} {row['sequence'][k]} {partner[k] + 1}" for k in range(size)
        ]
    manifest = json.loads((here / "out" / "manifest.json").read_text())
    assert {entry["name"].rpartition(".")[2] for entry in manifest["files"]} == {*kinds, "parquet"}


def test_without_values(here, tasks):
    assert predict(tasks["element"], "--values", "false") == 0
    assert "values" not in table(here / "out").column_names
    assert yaml.safe_load((here / "out" / "resolved_config.yaml").read_text())["values"] is False


def test_again(here, tasks, capsys):
    assert predict(tasks["kind"]) == 0
    capsys.readouterr()
    assert predict(tasks["kind"]) == 0
    assert "is complete already" in capsys.readouterr().err
    assert predict(tasks["tags"]) == 2
    assert "other inputs or options" in capsys.readouterr().err


def test_too_long_for_all_pairs(here, tasks, capsys):
    (here / "rnas.fa").write_text(">a\nACGUACGU\n>b\n" + "ACGU" * 501 + "\n")
    assert predict(tasks["structure"]) == 0
    assert json.loads(capsys.readouterr().out)["sequences_failed"] == 1
    (row,) = pq.read_table(here / "out" / "rejects.parquet").to_pylist()
    assert row["id"] == "b"
    assert "longer than 2,000 nucleotides" in row["reason"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--checkpoint", "rnabert"], "has no prediction head"),
        ([], "no model: give --checkpoint"),
        (["--checkpoint", "KIND", "--structures", "[ct]"], "not which pair"),
        (["--checkpoint", "KIND", "--structures", "[svg]"], "structures"),
        (["--checkpoint", "KIND", "--threshold", "2"], "threshold must lie between"),
    ],
)
def test_mistakes(here, tasks, capsys, options, message):
    options = [tasks["kind"] if word == "KIND" else word for word in options]
    assert main(["predict", "rnas.fa", "--output", "out", *options]) == 2
    assert message in capsys.readouterr().err
    assert not (here / "out").exists()


@pytest.mark.ray
@pytest.mark.slow
def test_on_ray_it_is_the_same_bytes(here, tasks):
    assert predict(tasks["structure"], "--structures", "[dbn]") == 0
    words = ["predict", "rnas.fa", "--checkpoint", tasks["structure"], "--output", "other"]
    words += ["--on-invalid", "reject", "--shard-bytes", "700", "--structures", "[dbn]"]
    code, _, err = command(*words, "--num-workers", "2", cwd=here)
    assert code == 0, err
    files = [p.name for p in sorted((here / "out").iterdir()) if p.suffix in (".arrow", ".dbn")]
    assert len(files) > 6
    for name in files:
        assert (here / "other" / name).read_bytes() == (here / "out" / name).read_bytes(), name
