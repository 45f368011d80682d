"""`riboray cluster` as its user runs it."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from riboray.alignment import align_embeddings, aligned_columns
from riboray.alignment.similarity import unit_rows
from riboray.cli import main
from riboray.clustering import comparison
from riboray.corpus.sequences import read_sequences
from riboray.embedding.embedder import Embedder
from riboray.manifest import read_manifest
from riboray.model import RnaBertForPreTraining, load_checkpoint, save_checkpoint
from tests.conftest import random_sequences, tiny_config
from tests.disks import small_disk
from tests.integration.helpers import kill, riboray, start, wait_for
from tests.integration.test_search import mutate

pytestmark = pytest.mark.ray

FAMILIES, MEMBERS, ALONE = 5, 7, 5
#: The model is small and untrained: it finds a member with a loop more at this level.
LEVEL = ["--max-evalue", "0.01"]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Five families of seven and five single sequences, in one order by chance; a model."""
    folder = tmp_path_factory.mktemp("cluster")
    rng = np.random.default_rng(31)
    seeds = random_sequences(rng, FAMILIES, 70, 110)
    named = [(f"f{k}.{m}", mutate(rng, seeds[k])) for k in range(FAMILIES) for m in range(MEMBERS)]
    # A loop more: the alignments must open gaps.
    named = [(i, s[:30] + "GGAACC" + s[30:] if i.endswith(".3") else s) for i, s in named]
    named += [(f"x{k}.0", s) for k, s in enumerate(random_sequences(rng, ALONE, 60, 120))]
    records = [f">{named[k][0]} RNA\n{named[k][1]}\n" for k in rng.permutation(len(named))]
    (folder / "rnas.fa").write_text("".join(records))
    for seed in (3, 4):
        torch.manual_seed(seed)
        save_checkpoint(
            RnaBertForPreTraining(tiny_config(num_hidden_layers=1)), folder / f"model{seed}"
        )
    return folder


def clusters_of(directory):
    found: dict[str, list[str]] = {}
    for line in (directory / "clusters.tsv").read_text().splitlines():
        representative, member = line.split("\t")
        found.setdefault(representative, []).append(member)
    return found


def fasta(path):
    lines = path.read_text().splitlines()
    return dict(zip([line[1:] for line in lines[::2]], lines[1::2], strict=True))


def check_families(directory):
    """Families as they were made; everything in exactly one cluster; files that agree."""
    clusters = clusters_of(directory)
    members = [m for c in clusters.values() for m in c]
    assert len(members) == len(set(members)) == FAMILIES * MEMBERS + ALONE
    assert sorted(map(len, clusters.values()), reverse=True) == [MEMBERS] * FAMILIES + [1] * ALONE
    for representative, cluster in clusters.items():
        assert cluster[0] == representative
        assert len({name.split(".")[0] for name in cluster}) == 1
    assert list(fasta(directory / "representatives.fasta")) == list(clusters)
    table = pq.read_table(directory / "clusters.parquet")
    assert table["representative"].to_pylist() == list(clusters)
    assert table["size"].to_pylist() == [len(c) for c in clusters.values()]
    return clusters, table


@pytest.fixture(scope="module")
def made(work):
    code, out, err = riboray(
        *("cluster", "rnas.fa", "--checkpoint", "model3", "--output", "made", "--alignments"),
        *LEVEL,
        cwd=work,
    )
    assert code == 0, err
    return json.loads(out), err


def test_families_are_found(work, made):
    summary, err = made
    clusters, table = check_families(work / "made")
    assert summary["sequences_read"] == summary["sequences_clustered"] == 40
    assert (summary["clusters"], summary["single_sequences"]) == (10, 5)
    assert summary["pairs_compared"] == 40 * 39 // 2
    assert "40 read = 35 in 5 clusters + 5 alone + 0 rejected; the largest has 7" in err
    # Medoids: by the graph, nobody else is nearer to all.
    assert min(table["density"].to_pylist()[:FAMILIES]) > 0.8
    assert min(table["silhouette"].to_pylist()[:FAMILIES]) > 0.8
    manifest = read_manifest(work / "made", "clusters", verify=True)
    names = {entry.name for entry in manifest.files}
    assert {"clusters.tsv", "representatives.fasta", "clusters.parquet", "clusters.png"} <= names
    there = {p.relative_to(work / "made").as_posix() for p in (work / "made").rglob("*.*")}
    assert there - names == {
        "manifest.json", "owner.json", "summary.json", "resolved_config.yaml",
    }  # fmt: skip
    assert (work / "made" / "clusters.png").read_bytes().startswith(b"\x89PNG")
    assert len(clusters) == 10


def test_alignments_hold_the_members(work, made):
    clusters = list(clusters_of(work / "made").values())
    named = read_sequences([str(work / "rnas.fa")])
    inputs = dict(zip(named.ids, named.sequences, strict=True))
    embedder = Embedder(load_checkpoint(work / "model3").model)
    files = sorted((work / "made" / "alignments").iterdir())
    assert [f.name for f in files] == [f"{k:08d}.fasta" for k in range(1, FAMILIES + 1)]
    for path, members in zip(files, clusters, strict=False):
        rows = fasta(path)
        assert list(rows) == members
        assert len({len(row) for row in rows.values()}) == 1
        assert {i: row.replace("-", "") for i, row in rows.items()} == {
            i: inputs[i] for i in members
        }
        medoid, *others = (unit_rows(b) for b in embedder.per_base([inputs[i] for i in members]))
        for name, bases in zip(members[1:], others, strict=True):
            partners = align_embeddings(bases, medoid)[1]
            pair = aligned_columns(rows[name], rows[members[0]])
            assert np.array_equal(pair.partners, partners)


def run_main(work, *arguments):
    """Without the figure, whose UMAP compiles for longer than all else takes."""
    os.chdir(work)
    figure = [] if "--figure" in arguments else ["--figure", "false"]
    return main(["cluster", *map(str, arguments), *figure])


def test_done_is_done_and_others_are_refused(work, made, capsys):
    arguments = ["rnas.fa", "--checkpoint", "model3", "--output", "made", "--alignments"]
    arguments += ["--figure", "true", *LEVEL]
    assert run_main(work, *arguments) == 0
    assert "complete already" in capsys.readouterr().err
    assert run_main(work, *arguments, "--method", "components") == 2
    assert "other inputs or options" in capsys.readouterr().err
    assert run_main(work, "rnas.fa", "--checkpoint", "model4", "--output", "made") == 2


@pytest.fixture(scope="module")
def pairs(work):
    code, _, err = riboray(
        *("align", "rnas.fa", "--all-pairs", "--checkpoint", "model3", "--output", "pairs"),
        *("--centred", "--gaps.open", "2", "--gaps.extend", "0.2"),
        cwd=work,
    )
    assert code == 0, err
    return work / "pairs"


@pytest.mark.parametrize("method", ["leiden", "components", "greedy", "spectral"])
def test_pairs_compared_before_without_a_model(work, made, pairs, method, capsys):
    options = ["--clusters", FAMILIES + ALONE] if method == "spectral" else []
    output = work / f"from-{method}"
    arguments = [
        "rnas.fa",
        "--json",
        "--hits",
        pairs,
        "--output",
        output,
        "--method",
        method,
        *options,
    ]
    arguments += LEVEL
    assert run_main(work, *arguments) == 0
    if method != "spectral":
        check_families(output)
    assert len(clusters_of(output)) == 10
    assert json.loads(capsys.readouterr().out)["compared"] == "hits"
    if method == "leiden":
        for name in ("clusters.tsv", "clusters.parquet", "representatives.fasta"):
            same = (output / name).read_bytes() == (work / "made" / name).read_bytes()
            assert same or name == "clusters.parquet"  # scores may differ in the last digit


def test_a_table_of_pairs_and_identities(work, pairs):
    options = ["--max-evalue", "null", "--weight", "identity", "--min-normalised-score", "0.59"]
    output = work / "from-table"
    assert (
        run_main(work, "rnas.fa", "--hits", pairs / "pairs.tsv", "--output", output, *options) == 0
    )
    check_families(output)


@pytest.fixture(scope="module")
def embeddings(work):
    code, _, err = riboray(
        *("embed", "rnas.fa", "--checkpoint", "model3", "--output", "embeddings"), cwd=work
    )
    assert code == 0, err
    return work / "embeddings"


def test_embeddings_by_all_pairs(work, made, embeddings):
    code, _, err = riboray(
        *("cluster", "embeddings", "--output", "from-embeddings", "--figure", "false"),
        *("--dimensions", 12, *LEVEL),
        cwd=work,
    )
    assert code == 0, err
    check_families(work / "from-embeddings")
    made_of_fasta = (work / "made" / "clusters.tsv").read_bytes()
    assert (work / "from-embeddings" / "clusters.tsv").read_bytes() == made_of_fasta


def test_many_sequences_by_the_prefilter(work, monkeypatch, capsys):
    """In several blocks; the base embeddings kept, and made again."""
    monkeypatch.setattr(comparison, "_BLOCK", 15)
    options = ["--exhaustive", 10, "--candidates", 20, "--prefilter", "both", "--num-workers", 2]
    options += ["--dimensions", 16, *LEVEL]
    output = work / "searched"
    assert (
        run_main(work, "rnas.fa", "--checkpoint", "model3", "--json", "--output", output, *options)
        == 0
    )
    captured = capsys.readouterr()
    assert "to 16 of 24 dimensions" in captured.err
    summary = json.loads(captured.out)
    assert summary["compared"] == "prefilter"
    assert 40 * 20 / 2 <= summary["pairs_compared"] <= 40 * 39 / 2, "each pair once"
    check_families(output)
    assert not (output / "work").exists()
    again = work / "searched-again"
    options += ["--per-base", "false", "--output", again]
    assert run_main(work, "rnas.fa", "--checkpoint", "model3", *options) == 0
    assert (again / "clusters.tsv").read_bytes() == (output / "clusters.tsv").read_bytes()


def test_a_killed_run_goes_on(work, made):
    output = work / "killed"
    arguments = ["cluster", "rnas.fa", "--checkpoint", "model3", "--output", output]
    arguments += ["--alignments", "--figure", "false", *LEVEL]
    process = start(arguments, work)
    wait_for((output / "work" / "pairs" / "resolved_config.yaml").is_file)
    assert kill(process) == -9
    code, _, err = riboray(*arguments, cwd=work)
    assert code == 0, err
    for name in ("clusters.tsv", "clusters.parquet", "alignments/00000001.fasta"):
        assert (output / name).read_bytes() == (work / "made" / name).read_bytes()


@pytest.fixture(scope="module")
def chosen(work):
    """Clusters by chosen pairs, in ``chosen``; the command without its output."""
    options = ["--exhaustive", "10", "--candidates", "20", "--dimensions", "16", *LEVEL]
    arguments = ["cluster", "rnas.fa", "--checkpoint", "model3", "--figure", "false", *options]
    arguments += ["--num-workers", "1", "--output"]
    code, _, err = riboray(*arguments, "chosen", cwd=work)
    assert code == 0, err
    check_families(work / "chosen")
    return arguments


def test_a_killed_run_of_chosen_pairs_goes_on(work, chosen):
    output = work / "chosen-killed"
    process = start([*chosen, output], work)
    rows = output / "work" / "rows" / "00000.rows"
    wait_for(rows.is_file)
    assert kill(process) == -9
    before = rows.stat().st_mtime_ns
    process = start([*chosen, output], work)
    wait_for((output / "work" / "candidates-00000.npy").is_file)
    assert rows.stat().st_mtime_ns == before, "not made again"
    assert process.wait(200) == 0
    check_same(output, work / "chosen")


def check_same(output, reference):
    for name in ("clusters.tsv", "clusters.parquet"):
        assert (output / name).read_bytes() == (reference / name).read_bytes()


def test_a_full_disk_loses_nothing(work, chosen):
    """The rows to align do not fit: said once, and the same command goes on where it was."""
    with small_disk(work / "disk", "20m") as disk:
        output = disk.path / "out"
        process = start([*chosen, output], work)
        wait_for((output / "work" / "embeddings" / "manifest.json").is_file)
        filler = disk.fill(50_000)
        _, err = process.communicate(timeout=300)
        assert process.returncode == 1, err
        assert "No space left on device; make room and give the same command again" in err
        assert "Traceback" not in err
        filler.unlink()
        code, _, err = riboray(*chosen, output, cwd=work)
        assert code == 0, err
        check_same(output, work / "chosen")


def test_one_sequence_and_none_alike(work, tmp_path, capsys):
    (tmp_path / "one.fa").write_text(">only\nACGUACGUGGCCAAUU\n")
    model = work / "model3"
    assert run_main(tmp_path, "one.fa", "--checkpoint", model, "--alignments") == 0
    assert clusters_of(tmp_path / "clusters") == {"only": ["only"]}
    rng = np.random.default_rng(5)
    texts = random_sequences(rng, 4, 50, 60)
    (tmp_path / "four.fa").write_text("".join(f">s{k}\n{s}\n" for k, s in enumerate(texts)))
    options = ["--max-evalue", "1e-30", "--output", "four"]
    assert run_main(tmp_path, "four.fa", "--checkpoint", model, *options) == 0
    assert "no two sequences are linked: every one is a cluster" in capsys.readouterr().err
    assert clusters_of(tmp_path / "four") == {f"s{k}": [f"s{k}"] for k in range(4)}


def test_records_left_out_are_listed(work, pairs, tmp_path, capsys):
    text = (work / "rnas.fa").read_text() + ">bad\nAC!U\n"
    (tmp_path / "mixed.fa").write_text(text)
    options = ["--json", "--hits", pairs, "--on-invalid", "reject", *LEVEL]
    assert run_main(tmp_path, "mixed.fa", *options) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["sequences_read"], summary["sequences_rejected"]) == (41, 1)
    rejects = pq.read_table(tmp_path / "clusters" / "rejects.parquet")
    assert rejects["id"].to_pylist() == ["bad"]
    check_families(tmp_path / "clusters")


BAD = [
    (">a\nACGU\n>a\nGGCC\n", [], "record 2: another record is called 'a' too"),
    (">a\nACGU\n>b\nACGZ\n", [], "record 2: character 'Z' at position 4 is no nucleotide"),
    ("", [], "bad.fa: is empty"),
    (None, [], "bad.fa"),
    (">a\nACGU\n>b\nACGU\n", ["--method", "spectral", "--clusters", "3"], "2 sequences cannot"),
    (">a\nACGU\n", ["--checkpoint", "nowhere"], "nowhere"),
    (">a\nACGU\n", ["--hits", "nowhere"], "no such directory or file"),
    (">a\nACGU\n", ["--hits", "PAIRS"], "which is none of the 1 sequences of bad.fa"),
]


@pytest.mark.parametrize(("text", "options", "message"), BAD, ids=[b[2][:30] for b in BAD])
def test_bad_input_is_one_clear_error(text, options, message, work, pairs, tmp_path, capsys):
    if text is not None:
        (tmp_path / "bad.fa").write_text(text)
    options = [str(pairs) if option == "PAIRS" else option for option in options]
    code = run_main(tmp_path, "bad.fa", "--checkpoint", work / "model3", *options)
    err = capsys.readouterr().err
    assert code == 2, err
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "clusters").exists()


def test_directories_that_are_something_else(work, pairs, embeddings, tmp_path, capsys):
    assert run_main(tmp_path, pairs) == 2
    assert "give it as --hits" in capsys.readouterr().err
    assert run_main(tmp_path, work / "model3") == 2
    assert "no complete embeddings here" in capsys.readouterr().err
    assert run_main(tmp_path, embeddings, "--checkpoint", work / "model4") == 2
    assert "is not the model that made" in capsys.readouterr().err
    assert run_main(tmp_path, embeddings, work / "rnas.fa") == 2
    assert "or one directory of embeddings" in capsys.readouterr().err
    moved = tmp_path / "moved"
    shutil.copytree(embeddings, moved)
    resolved = moved / "resolved_config.yaml"
    resolved.write_text(resolved.read_text().replace("model3", "gone"))
    assert run_main(tmp_path, moved) == 2
    assert "no longer at" in capsys.readouterr().err
