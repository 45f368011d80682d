"""`riboray align` as its user runs it, and as bad luck runs it."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import random
import signal
import time

import numpy as np
import psutil
import pyarrow.dataset
import pytest
import torch

from riboray.alignment import align_embeddings
from riboray.alignment.similarity import unit_rows
from riboray.embedding.embedder import Embedder
from riboray.manifest import read_manifest
from riboray.model import RnaBertForPreTraining, load_checkpoint, save_checkpoint
from tests.conftest import random_sequences, tiny_config
from tests.disks import small_disk
from tests.integration.helpers import kill, riboray, start, wait_for, write_fasta

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("model") / "checkpoint"
    save_checkpoint(RnaBertForPreTraining(tiny_config(num_hidden_layers=1)), folder)
    return folder


@pytest.fixture(scope="module")
def fasta(tmp_path_factory):
    sequences = random_sequences(np.random.default_rng(8), 130, 20, 90)
    sequences[7] = random_sequences(np.random.default_rng(9), 1, 700, 700)[0]  # in windows
    return write_fasta(tmp_path_factory.mktemp("input") / "rnas.fa", sequences)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Enough for several seconds on two workers."""
    sequences = random_sequences(np.random.default_rng(4), 1700, 60, 140)
    return write_fasta(tmp_path_factory.mktemp("large") / "rnas.fa", sequences)


@pytest.fixture(scope="module")
def undisturbed(large, checkpoint, tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    code, out, err = riboray(*arguments(large, checkpoint, output), cwd=output.parent)
    assert code == 0, err
    return output, json.loads(out)


def arguments(fasta, checkpoint, output):
    return [
        *("align", fasta, "--all-pairs", "--checkpoint", checkpoint, "--output", output),
        *("--max-evalue", "1000", "--num-workers", "2"),
    ]


def pairs_of(output):
    return sorted((output / "pairs.tsv").read_text().splitlines())


def check_counts(output, sequences):
    """Every pair compared exactly once, by the tiles' own count."""
    total = sequences * (sequences - 1) // 2
    scored = 0
    for path in (output / "pairs").glob("*.arrow"):
        metadata = pyarrow.dataset.dataset(path, format="ipc").schema.metadata
        scored += json.loads(metadata[b"riboray.tile"])["scored"]
    assert scored == total
    rows = [line.split("\t")[:2] for line in pairs_of(output) if not line.startswith("query\t")]
    assert len({frozenset(row) for row in rows}) == len(rows), "no pair twice"


def test_two_sequences(checkpoint, tmp_path):
    (tmp_path / "a.fa").write_text(">a\nGGGAAACCC\n(((...)))\n")
    (tmp_path / "b.fa").write_bytes(b">b x\r\ngggaatccc\r\n")
    common = ["align", "a.fa", "b.fa", "--checkpoint", checkpoint]
    code, out, err = riboray(*common, cwd=tmp_path, as_json=False)
    assert code == 0, err
    assert "(((...)))" in out
    assert "GGGAAUCCC  9" in out
    assert "z-score" in out
    assert "\x1b" not in out, "colours are for terminals"
    options = ["--mode", "local", "--format", "stockholm", "--statistics=false"]
    code, out, _ = riboray(*common, *options, cwd=tmp_path, as_json=False)
    assert code == 0
    assert out.startswith("# STOCKHOLM 1.0")
    code, out, _ = riboray(*common, "--format", "arrow", "--output", "x.arrow", cwd=tmp_path)
    assert code == 0
    told = json.loads(out)
    assert (told["query"], told["cigar"]) == ("a", "9M")
    assert (told["query_aligned"], told["target_aligned"]) == ("GGGAAACCC", "GGGAAUCCC")
    (row,) = pyarrow.dataset.dataset(tmp_path / "x.arrow", format="ipc").to_table().to_pylist()
    assert (row["query"], row["target"], row["cigar"]) == ("a", "b", "9M")


@pytest.fixture(scope="module")
def everything(fasta, checkpoint, tmp_path_factory):
    """All pairs without a filter."""
    output = tmp_path_factory.mktemp("all") / "out"
    code, out, err = riboray(
        "align",
        fasta,
        "--all-pairs",
        "--checkpoint",
        checkpoint,
        "--output",
        output,
        cwd=output.parent,
    )
    assert code == 0, err
    return output, json.loads(out), err


def test_all_pairs_are_what_aligning_two_gives(everything, fasta, checkpoint):
    output, summary, err = everything
    assert summary["pairs_compared"] == summary["pairs_reported"] == 130 * 129 // 2
    check_counts(output, 130)
    assert "cells in" in err
    assert "pairs to report" in err
    table = pyarrow.dataset.dataset(output / "pairs", format="ipc").to_table().to_pylist()
    lines = fasta.read_text().splitlines()
    sequences = {lines[k][1:].split()[0]: lines[k + 1] for k in range(0, len(lines), 2)}
    embedder = Embedder(load_checkpoint(checkpoint).model)
    long = [row for row in table if "s7" in (row["query"], row["target"])]
    for row in [*table[::701], *long[::40]]:
        query, target = (
            unit_rows(embedder.per_base([sequences[row[side]]])[0]) for side in ("query", "target")
        )
        score, _ = align_embeddings(query, target)
        assert row["score"] == pytest.approx(score, abs=2e-3)
        shorter = min(len(query), len(target))
        assert row["normalised_score"] == pytest.approx(score / shorter, abs=1e-4)
    tsv = pairs_of(output)
    assert len(tsv) == len(table) + 1
    header = "query target fident alnlen mismatch gapopen qstart qend tstart tend evalue score"
    assert header.replace(" ", "\t") in tsv
    assert read_manifest(output, "alignments", verify=True)


def test_what_is_done_is_not_done_again_and_not_overwritten(everything, fasta, checkpoint):
    output, summary, _ = everything
    common = ["align", fasta, "--all-pairs", "--checkpoint", checkpoint, "--output", output]
    code, out, err = riboray(*common, cwd=output.parent)
    assert code == 0
    assert "complete already" in err
    assert json.loads(out)["pairs_reported"] == summary["pairs_reported"]
    code, _, err = riboray(*common, "--gaps.open", "2", cwd=output.parent)
    assert code == 2
    assert "other inputs or options" in err


def test_best_partners_of_each_sequence(everything, fasta, checkpoint, tmp_path):
    code, out, err = riboray(
        *("align", fasta, "--all-pairs", "--checkpoint", checkpoint, "--output", "top"),
        *("--top-k", "3"),
        cwd=tmp_path,
    )
    assert code == 0, err
    full = pyarrow.dataset.dataset(everything[0] / "pairs", format="ipc").to_table().to_pylist()
    best = {}
    for row in full:
        for one in (row["query"], row["target"]):
            best.setdefault(one, []).append((row["score"], row["query"], row["target"]))
    wanted = {pair[1:] for pairs in best.values() for pair in sorted(pairs, reverse=True)[:3]}
    lines = pairs_of(tmp_path / "top")
    found = {tuple(line.split("\t")[:2]) for line in lines if not line.startswith("query\t")}
    assert found == wanted
    assert json.loads(out)["pairs_compared"] == 130 * 129 // 2
    code, out, err = riboray(
        *("align", "--all-pairs", fasta, "--checkpoint", checkpoint, "--output", "scores"),
        *("--top-k", "3", "--scores-only"),
        cwd=tmp_path,
    )
    assert code == 0, err
    lines = pairs_of(tmp_path / "scores")
    assert "query\ttarget\tevalue\tscore" in lines
    found = {tuple(line.split("\t")[:2]) for line in lines if not line.startswith("query\t")}
    assert found == wanted


def test_dry_run_prints_and_writes_nothing(fasta, checkpoint, tmp_path):
    code, out, err = riboray(
        *(
            "align",
            fasta,
            "--all-pairs",
            "--checkpoint",
            checkpoint,
            "--dry-run",
            "--dimensions",
            "8",
        ),
        cwd=tmp_path,
    )
    assert code == 0, err
    assert json.loads(out)["pairs"] == 130 * 129 // 2
    assert "a cosine is off by" in err
    assert list(tmp_path.iterdir()) == []


def aligning(process):
    """Processes of the actors that have begun to work."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it may be gone by now
            if "ray::_Worker" in " ".join(child.cmdline()):
                found.append(child)
    return found


@pytest.mark.slow
def test_killed_actors_change_nothing(undisturbed, large, checkpoint, tmp_path):
    reference, _ = undisturbed
    process = start(arguments(large, checkpoint, tmp_path / "out"), tmp_path)
    generator, killed = random.Random(1), 0
    tiles = tmp_path / "out" / "pairs"
    try:
        while process.poll() is None:
            time.sleep(generator.uniform(0.3, 1.0))
            if killed < 4 and tiles.is_dir() and any(tiles.iterdir()):
                workers = aligning(process)
                if workers:
                    generator.choice(workers).kill()
                    killed += 1
        assert process.wait() == 0, process.stderr.read()
    finally:
        process.kill()
    assert killed >= 2
    assert pairs_of(tmp_path / "out") == pairs_of(reference)
    check_counts(tmp_path / "out", 1700)


@pytest.mark.slow
def test_a_run_stopped_and_killed_goes_on(undisturbed, large, checkpoint, tmp_path):
    reference, _ = undisturbed
    tiles = tmp_path / "out" / "pairs"
    for how, code, enough in ((signal.SIGINT, 130, 3), (signal.SIGKILL, -9, 20)):
        process = start(arguments(large, checkpoint, tmp_path / "out"), tmp_path)
        wait_for(lambda n=enough: tiles.is_dir() and len(list(tiles.glob("tile-*.arrow"))) >= n)
        assert kill(process, how) == code
        if how == signal.SIGINT:
            assert "the same command goes on" in process.stderr.read()
    done = {path.name: path.stat().st_mtime_ns for path in tiles.glob("tile-*.arrow")}
    exit_code, _, err = riboray(*arguments(large, checkpoint, tmp_path / "out"), cwd=tmp_path)
    assert exit_code == 0, err
    assert "tiles are done already" in err
    kept = [name for name, at in done.items() if (tiles / name).stat().st_mtime_ns == at]
    assert len(kept) >= 20
    assert pairs_of(tmp_path / "out") == pairs_of(reference)
    check_counts(tmp_path / "out", 1700)


def test_a_full_disk_is_said_and_loses_nothing(fasta, checkpoint, tmp_path):
    with small_disk(tmp_path / "disk", "300k") as disk:
        output = disk.path / "out"
        common = ["align", fasta, "--all-pairs", "--checkpoint", checkpoint, "--output", output]
        code, _, err = riboray(*common, cwd=tmp_path)
        assert code == 2
        assert "are free" in err
        assert not output.exists(), "other options may be tried in the same place"
        # Told too little beforehand: the disk fills up on the way.
        disk.resize("30m")
        process = start([*common, "--num-workers", "1"], tmp_path)
        wait_for((output / "resolved_config.yaml").is_file)  # room was checked before
        filler = disk.fill(100_000)
        _, err = process.communicate(timeout=300)
        assert process.returncode == 1
        assert "No space left" in err
        assert "what is done is kept" in err
        filler.unlink()
        code, out, err = riboray(*common, "--num-workers", "1", cwd=tmp_path)
        assert code == 0, err
        assert json.loads(out)["pairs_reported"] == 130 * 129 // 2


BAD = [
    (">a\nACGU\n>a\nGGCC\n", [], "record 2: another record is called 'a' too"),
    (">a\nACGU\n>b\nACGZ\n", [], "record 2: character 'Z' at position 4 is no nucleotide"),
    (">a\nACGU\n>b\n>c\nACGU\n", [], "record 2: empty sequence"),
    ("", [], "is empty"),
    (">a\nACGU\n", [], "one sequence in bad.fa"),
    (">a\nACGU\n>b\nACGU\n", ["--gaps.open", "0.07", "--arithmetic", "int16"], "multiple of 1/60"),
    (">a\nACGU\n>b\nACGU\n", ["--dimensions", "99"], "between 1 and 24"),
    (">a\nACGU\n>b\nACGU\n", ["--mode", "glocal"], "mode"),
    (">a\nACGU\n>b\nACGU\n", ["--gaps.extend", "0.0004", "--arithmetic", "int16"], "multiple"),
    (">a\nACGU\n>b\nACGU\n", ["--format", "fasta"], "format is for two sequences"),
    (">a\nACGU\n>b\nACGU\n((.)\n>c\nAC\n((\n>d\nA\n((\n", [], "record 4: a structure of 2"),
    (">a\nACGU\n>b\nACGU\n", ["--top-k", "2", "--arithmetic", "int16"], "use arithmetic float32"),
]


@pytest.mark.parametrize(("text", "options", "message"), BAD, ids=[b[2][:30] for b in BAD])
def test_bad_input_is_one_clear_error(text, options, message, checkpoint, tmp_path, capsys):
    from riboray.cli import main

    (tmp_path / "bad.fa").write_text(text)
    os.chdir(tmp_path)
    code = main(["align", "bad.fa", "--all-pairs", "--checkpoint", str(checkpoint), *options])
    err = capsys.readouterr().err
    assert code == 2, err
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "alignments").exists()


def test_a_model_that_overflows_is_an_error(tmp_path, capsys):
    from riboray.cli import main

    model = RnaBertForPreTraining(tiny_config(num_hidden_layers=1))
    with torch.no_grad():
        model.model.embeddings.word_embeddings.weight.mul_(1e38)  # finite, but not for long
    save_checkpoint(model, tmp_path / "huge")
    (tmp_path / "two.fa").write_text(">a\nACGU\n>b\nACGU\n")
    code = main(["align", str(tmp_path / "two.fa"), "--checkpoint", str(tmp_path / "huge")])
    assert code == 1
    assert "its embedding is not finite" in capsys.readouterr().err


def test_invalid_records_can_be_left_out_and_are_listed(checkpoint, tmp_path):
    text = ">a\nACGUACGUAC\n>b\nAC!U\n>a\nGGCCGGCC\n>c\nGGGGCCCC\n>\nACGU\n"
    with gzip.open(tmp_path / "mixed.fa.gz", "wt") as sink:
        sink.write(text)
    code, out, err = riboray(
        *("align", "mixed.fa.gz", "--all-pairs", "--checkpoint", checkpoint),
        *("--on-invalid", "reject", "--duplicate-ids", "suffix"),
        cwd=tmp_path,
    )
    assert code == 0, err
    summary = json.loads(out)
    assert (summary["sequences_read"], summary["sequences_rejected"]) == (5, 2)
    assert summary["pairs_reported"] == 3
    rejects = pyarrow.dataset.dataset(tmp_path / "alignments" / "rejects.parquet").to_table()
    assert rejects["record"].to_pylist() == [2, 5]
    names = {name for line in pairs_of(tmp_path / "alignments") for name in line.split("\t")[:2]}
    assert {"a", "a.2", "c"} <= names
