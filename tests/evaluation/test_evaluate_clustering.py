"""The whole evaluation: files, figures that fit the data, and what cannot be evaluated."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from riboray.errors import CheckpointError, ConfigError, FastaError, OutputError
from riboray.evaluation.clustering import (
    KIND,
    EvaluateClusteringConfig,
    evaluate_clustering,
)
from riboray.evaluation.measures import DEFAULT_MEASURES, MEASURES
from riboray.manifest import read_manifest
from riboray.model import RnaBertForPreTraining, save_checkpoint
from riboray.options import parse_config
from tests.conftest import random_sequences, tiny_config


def mutated(rng, sequence, share=0.1):
    letters = list(sequence)
    for place in rng.choice(len(letters), int(share * len(letters)), replace=False):
        letters[place] = str(rng.choice(list("ACGU")))
    return "".join(letters)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five families of four, a sequence alone, and two checkpoints."""
    place, rng = tmp_path_factory.mktemp("evaluation"), np.random.default_rng(8)
    lines = [
        f">f{k}.{n} family{k}\n{mutated(rng, parent)}\n"
        for k, parent in enumerate(random_sequences(rng, 5, 40, 60))
        for n in range(4)
    ]
    (place / "x.fa").write_text("".join([*lines, ">lonely alone\nACGUACGUACGGCU\n"]))
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = RnaBertForPreTraining(tiny_config(initializer_range=0.3)).eval()
        save_checkpoint(model, place / f"run{seed}" / "checkpoint")
    return place


def evaluate(folder, output, **options):
    given = {"input": [str(folder / "x.fa")], "output": str(output), "resamples": 50, **options}
    return evaluate_clustering(EvaluateClusteringConfig(**given))


@pytest.fixture(scope="module")
def done(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("out") / "evaluation"
    checkpoints = [f"first={folder / 'run1/checkpoint'}", str(folder / "run2/checkpoint")]
    return evaluate(folder, output, checkpoint=checkpoints), output


def test_every_measure_with_every_model(done):
    report, _ = done
    found = [(row["measure"], row["model"]) for row in report["results"]]
    plain = [(name, None) for name in DEFAULT_MEASURES if not MEASURES[name].needs_model]
    seen = [name for name in DEFAULT_MEASURES if MEASURES[name].needs_model]
    assert found == [*plain, *((name, m) for m in ("first", "run2") for name in seen)]
    assert (report["sequences"], report["labels"], report["clusters"]) == (21, 6, 6)
    assert (report["alone"], report["queries"]) == (1, 20)


def test_figures_fit_the_data(done):
    report, _ = done
    rows = {(row["measure"], row["model"]): row for row in report["results"]}
    identity = rows["identity", None]
    assert identity["one_nearest_neighbour"] == 1.0
    assert identity["mean_average_precision"] > 0.99
    assert identity["ari"] > 0.9
    for row in rows.values():
        low, high = row["one_nearest_neighbour_interval"]
        assert low <= row["one_nearest_neighbour"] <= high
        assert row["v_measure"] == pytest.approx(row["nmi"])
        assert set(row["classes"]) == {f"family{k}" for k in range(5)}, "none for the one alone"
        mean = np.mean([of["one_nearest_neighbour"] for of in row["classes"].values()])
        assert mean == pytest.approx(row["one_nearest_neighbour"])


def test_files(done):
    report, output = done
    manifest = read_manifest(output, KIND, verify=True)
    names = ["clustering.json", "clustering.png", "clustering.tsv", "resolved_config.yaml"]
    assert [entry.name for entry in manifest.files] == names
    assert manifest.counts == {"sequences": 21, "labels": 6, "alone": 1, "queries": 20}
    stored = json.loads((output / "clustering.json").read_text())
    assert stored["results"] == json.loads(json.dumps(report["results"]))
    header, *lines = (output / "clustering.tsv").read_text().splitlines()
    assert len(lines) == len(report["results"])
    cells = dict(zip(header.split("\t"), lines[0].split("\t"), strict=True))
    assert float(cells["mean_average_precision"]) == pytest.approx(
        report["results"][0]["mean_average_precision"], abs=1e-6
    )
    assert (output / "clustering.png").read_bytes()[:4] == b"\x89PNG"
    assert yaml.safe_load((output / "resolved_config.yaml").read_text())["resamples"] == 50


def test_what_is_done_is_not_done_again(done, folder, capsys, monkeypatch):
    report, output = done
    again = ["first=" + str(folder / "run1/checkpoint"), str(folder / "run2/checkpoint")]
    monkeypatch.setattr("riboray.evaluation.clustering._measure", None)
    same = evaluate(folder, output, checkpoint=again)
    assert same["results"] == json.loads(json.dumps(report["results"]))
    assert "is complete already" in capsys.readouterr().err
    with pytest.raises(OutputError, match="of other inputs or options"):
        evaluate(folder, output, checkpoint=again, seed=1)


def test_without_a_model(folder, tmp_path, capsys):
    report = evaluate(folder, tmp_path / "out", cluster_with="spectral", clusters=5)
    assert [row["measure"] for row in report["results"]] == ["kmer3", "kmer6", "identity"]
    said = capsys.readouterr().err
    assert "left out    pooled, " in said
    assert "1 alone with theirs" in said
    assert "1-NN" in said


def test_what_is_left_out_is_listed(tmp_path):
    texts = ["ACGUACGUAA", "ACGUACGUAC", "GGCCUUAAGG", "GGCCUUAAGC"]
    records = [(f"s{k}", "ab"[k // 2], text) for k, text in enumerate(texts)]
    records += [("s0", "a", "ACGUACGUUU"), ("twin", "b", texts[3])]
    lines = "".join(f">{name} {label}\n{text}\n" for name, label, text in records)
    (tmp_path / "rnas.fa").write_text(lines)
    report = evaluate_clustering(
        EvaluateClusteringConfig(
            input=[str(tmp_path / "rnas.fa")],
            measures=["kmer3"],
            duplicate_ids="reject",
            resamples=5,
            output=str(tmp_path / "out"),
        )
    )
    assert report["sequences"] + sum(report["left_out"].values()) == len(records)
    rejects = pq.read_table(tmp_path / "out" / "rejects.parquet").to_pylist()
    assert [(row["record"], row["id"]) for row in rejects] == [(5, "s0"), (6, "twin")]
    manifest = read_manifest(tmp_path / "out", KIND, verify=True)
    assert "rejects.parquet" in {entry.name for entry in manifest.files}


def test_a_draw(folder, tmp_path):
    report = evaluate(folder, tmp_path / "out", measures=["kmer3"], max_sequences=13)
    assert (report["sequences"], report["left_out"]) == (11, {"not drawn": 10})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input": []}, "give FASTA or Stockholm"),
        ({"measures": ["kmer3", "nothing"]}, "unknown measure 'nothing'; known are kmer3"),
        ({"measures": []}, "no measure: choose from"),
        ({"max_sequences": 1}, "max_sequences must be at least 2, not 1"),
        ({"resamples": 0}, "resamples"),
        ({"clusters": 1}, "clusters must be at least 2, not 1"),
    ],
)
def test_options_that_cannot_work(options, message):
    with pytest.raises(ConfigError, match=message):
        EvaluateClusteringConfig(**{"input": ["x.fa"], **options})


@pytest.mark.parametrize(
    ("text", "options", "error", "message"),
    [
        (">a x\nACGU\n>b\nACG\n", {}, FastaError, "record 2: 'b' has no label"),
        (">a x\nACGU\n>b x\nACG\n", {}, ConfigError, "one label, 'x'"),
        (">a x\nACGU\n>b y\nACG\n", {}, ConfigError, "no two sequences share a label"),
        (
            ">a x\nACGU\n>b x\nACG\n>c y\nAC\n",
            {"clusters": 4},
            ConfigError,
            "3 sequences cannot form 4 clusters",
        ),
        (
            ">a x\nACGU\n>b x\nACG\n>c y\nAC\n",
            {"measures": ["pooled"]},
            ConfigError,
            "pooled: need --checkpoint",
        ),
        (">a x\nACGU\n", {"checkpoint": ["/nowhere"]}, CheckpointError, "/nowhere"),
    ],
)
def test_what_cannot_be_evaluated(tmp_path, text, options, error, message):
    (tmp_path / "y.fa").write_text(text)
    given = {"input": [str(tmp_path / "y.fa")], "output": str(tmp_path / "out"), **options}
    with pytest.raises(error, match=message):
        evaluate_clustering(EvaluateClusteringConfig(**given))
    assert not (tmp_path / "out").exists(), "nothing is left of what cannot begin"


def test_flags():
    arguments = ["x.fa", "y.fa", "--checkpoint", "a=b", "--measures", "kmer3", "identity"]
    config = parse_config("evaluate", EvaluateClusteringConfig, arguments)
    assert config.input == ["x.fa", "y.fa"]
    assert config.chosen == ["kmer3", "identity"]
    every = EvaluateClusteringConfig(input=["x"], measures=["all"])
    assert every.chosen == list(MEASURES)
