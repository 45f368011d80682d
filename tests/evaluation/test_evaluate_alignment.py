"""`riboray evaluate alignment` from files to figures."""

from __future__ import annotations

import json
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from riboray.cli import main
from riboray.corpus.sha256 import sha256_64
from riboray.corpus.strings import Strings
from riboray.corpus.trained import TrainedSequences
from riboray.errors import ConfigError
from riboray.evaluation import programs
from riboray.evaluation.alignment import ALIGNMENT_EVALUATION_KIND
from riboray.evaluation.config import EvaluateAlignmentConfig, named_paths
from riboray.evaluation.references import read_references
from riboray.manifest import read_manifest
from riboray.model import RnaBertForPreTraining, save_checkpoint
from tests.conftest import random_sequences, tiny_config


def related(rng, text):
    """A gapped pair: a sequence and a mutated copy without a stretch."""
    letters = [x if rng.random() < 0.8 else str(rng.choice(list("ACGU"))) for x in text]
    start = int(rng.integers(5, len(text) - 10))
    letters[start : start + 3] = "---"
    return text, "".join(letters)


def table(path, rng, families, each):
    lines = ["family\tid_a\tid_b\taligned_a\taligned_b"]
    for family in range(families):
        for k in range(each):
            (text,) = random_sequences(rng, 1, 30, 60)
            lines.append("\t".join([f"F{family}", f"a{k}", f"b{k}", *related(rng, text)]))
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture
def work(tmp_path, rng, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(9)
    save_checkpoint(RnaBertForPreTraining(tiny_config(initializer_range=0.2)), tmp_path / "model")
    table(tmp_path / "test.tsv", rng, 6, 5)
    table(tmp_path / "dev.tsv", rng, 3, 10)
    return tmp_path


#: An aligner that writes sequences from the left, and refuses the longest.
LEFT = """
import sys
rows = open(sys.argv[1]).read().split()
if len(rows[1]) >= 53:
    sys.exit("too dear")
print(rows[0], rows[1], rows[2], rows[3].ljust(len(rows[1]), "-"), sep="\\n")
"""


def run(capsys, *arguments):
    code = main(["evaluate", "alignment", "--json", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_everything_side_by_side(work, capsys, monkeypatch):
    (work / "bin").mkdir()
    (work / "bin" / "alike").write_text(f"#!{sys.executable}\n{LEFT}")
    (work / "bin" / "alike").chmod(0o755)
    monkeypatch.setenv("PATH", f"{work / 'bin'}:/usr/bin:/bin")
    monkeypatch.setitem(programs.PROGRAMS, "alike", programs.Program(("alike", "{input}")))
    pairs = read_references(["test.tsv"]).pairs
    hashes = sha256_64(Strings.of([pairs[0].sequences[0], pairs[1].sequences[0]]))
    TrainedSequences.of(hashes, hashes[:1]).write(work / "model")
    options = ["test.tsv", "--checkpoint", "ours=model", "--predictions", "truth=test.tsv"]
    options += ["--aligners", "alike", "--baselines", "identity", "ribosum", "untrained"]
    options += ["--fit-gaps", "dev.tsv", "--rounds", "200", "--output", "out"]
    code, out, err = run(capsys, *options)
    assert code == 0, err
    overview = {row["method"]: row for row in json.loads(out)["methods"]}
    assert set(overview) == {"ours", "truth", "alike", "identity", "ribosum", "untrained"}
    assert overview["truth"]["f1"] == 1
    assert overview["truth"]["cpu_seconds_per_pair"] is None
    dear = sum(len(pair.sequences[0]) >= 53 for pair in pairs)
    assert overview["alike"]["failed"] == dear > 0
    assert 0 < overview["alike"]["f1"] < 1
    assert f"alike fails on {dear} pairs; the first: exit code 1: too dear" in err
    assert 0.5 < overview["identity"]["f1"] <= 1
    assert overview["identity"]["f1_low"] <= overview["identity"]["f1"]
    assert (overview["ours"]["trained_on_masked"], overview["ours"]["trained_on_aligned"]) == (2, 1)
    assert "of 60 sequences measured, it was trained to fill in 2 and on families of 1" in err
    assert "fitted      identity: open" in err

    whole = json.loads((work / "out" / "alignment.json").read_text())
    assert whole["resampled"] == "families"
    assert len(whole["comparisons"]) == 15
    first = whole["methods"][0]
    assert sum(b["pairs"] for b in first["by_identity"]) == 30
    assert [f["pairs"] for f in first["by_family"]] == [5] * 6
    rows = pq.read_table(work / "out" / "pairs.parquet")
    assert len(rows) == 30 * 6
    ours = rows.filter(np.array(rows["method"].to_pylist()) == "ours")
    common, predicted, wanted = (
        ours[n].to_numpy().sum() for n in ("common", "predicted", "reference")
    )
    assert first["metrics"]["f1"] == pytest.approx(2 * common / (predicted + wanted))
    assert (work / "out" / "f1_by_identity.png").read_bytes()[:4] == b"\x89PNG"
    manifest = read_manifest(work / "out", ALIGNMENT_EVALUATION_KIND, verify=True)
    assert manifest.counts == {"pairs_read": 30, "pairs_used": 30, "pairs_left_out": 0}

    again, out, err = run(capsys, *options)
    assert again == 0
    assert "is complete already" in err
    code, _, err = run(capsys, *options, "--seed", "7")
    assert code == 2
    assert "of other inputs or options" in err


def test_alignments_of_one_evaluation_are_predictions_of_another(work, capsys):
    assert run(capsys, "test.tsv", "--checkpoint", "ours=model", "--output", "one")[0] == 0
    options = ["test.tsv", "--predictions", "same=one/alignments/00.tsv", "--baselines", "none"]
    code, out, _ = run(capsys, *options, "--output", "two")
    assert code == 0
    first = json.loads((work / "one" / "manifest.json").read_text())["details"]["methods"][0]
    (second,) = json.loads(out)["methods"]
    assert second["f1"] == first["f1"]
    assert second["cpu_seconds_per_pair"] == pytest.approx(first["cpu_seconds_per_pair"], rel=0.01)


def test_a_method_that_is_done_is_not_run_again(work, capsys, monkeypatch):
    from riboray.evaluation import alignment

    monkeypatch.setattr(alignment, "summarise", lambda *_: 1 / 0)
    options = ["test.tsv", "--checkpoint", "model", "--output", "out"]
    with pytest.raises(ZeroDivisionError):
        run(capsys, *options)
    monkeypatch.undo()
    monkeypatch.chdir(work)
    before = {p: p.stat().st_mtime_ns for p in (work / "out" / "alignments").iterdir()}
    assert len(before) == 3
    assert run(capsys, *options)[0] == 0
    assert before == {p: p.stat().st_mtime_ns for p in (work / "out" / "alignments").iterdir()}


def test_padding_and_penalties_of_one_model(work, capsys):
    options = ["test.tsv", "--baselines", "none", "--output", "out"]
    options += ["--checkpoint", "a=model", "b=model,padding=original", "c=model,open=9,extend=0.5"]
    code, _, err = run(capsys, *options)
    assert code == 0, err
    methods = json.loads((work / "out" / "alignment.json").read_text())["methods"]
    assert [m["about"]["padding"] for m in methods] == ["masked", "original", "masked"]
    assert methods[2]["gaps"] == {"open": 9.0, "extend": 0.5}
    tables = [(work / "out" / "alignments" / f"0{k}.tsv").read_text() for k in range(3)]
    made = [[line.split("\t")[3:5] for line in text.splitlines()] for text in tables]
    assert made[0] != made[1]


def test_a_sequence_of_the_reference_must_not_fit_penalties(work, capsys):
    rows = (work / "test.tsv").read_text().splitlines()
    (work / "leak.tsv").write_text((work / "dev.tsv").read_text() + rows[3] + "\n")
    code, _, err = run(capsys, "test.tsv", "--fit-gaps", "leak.tsv")
    assert code == 2
    assert "1 of 31 development pairs have a sequence of the reference, the first a2 (F0)" in err


def test_pairs_are_drawn_and_intervals_fall_back(work, capsys):
    lines = (work / "test.tsv").read_text().splitlines()
    (work / "few.tsv").write_text("\n".join(lines[:12]) + "\n")
    options = ["few.tsv", "--max-pairs", "8", "--output", "out", "--rounds", "100"]
    code, _, err = run(capsys, *options)
    assert code == 0
    assert "8 of 11 pairs, " in err
    assert main(["evaluate", "alignment", *options, "--output", "for-people"]) == 0
    shown = capsys.readouterr().out
    assert "by drawing pairs 100 times" in shown
    assert "F1 by identity" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to measure on"),
        (["test.tsv", "--baselines", "none"], "nothing to measure: give --checkpoint"),
        (["test.tsv", "--baselines", "best"], "baselines are identity"),
        (["test.tsv", "--checkpoint", "nowhere"], "nowhere: no such checkpoint"),
        (["test.tsv", "--checkpoint", "a=model,padding=none"], "padding is masked or original"),
        (["test.tsv", "--checkpoint", "a=model,open=much"], "open is 'much', not a number"),
        (["test.tsv", "--checkpoint", "a=model", "a=model"], "two are called 'a'"),
        (["test.tsv", "--checkpoint", "identity=model"], "two methods are called 'identity'"),
        (["test.tsv", "--predictions", "nowhere.fa"], "no such file or folder of predictions"),
        (["test.tsv", "--predictions", "dev.tsv"], "aligns 0 of the reference's 30 pairs"),
        (["test.tsv", "--aligners", "magic"], "unknown aligner 'magic'; known are mafft-ginsi"),
        (["test.tsv", "--bins", "50", "20"], "bins must be"),
        (["test.tsv", "--rounds", "3"], "rounds must be at least 100, not 3"),
    ],
)
def test_mistakes(work, capsys, arguments, message):
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err


def test_a_program_that_is_not_there(work, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(work))
    code, _, err = run(capsys, "test.tsv", "--aligners", "locarna")
    assert code == 2
    assert "locarna is not on PATH" in err


def test_names_and_paths():
    found = named_paths(
        ["a=x/y,padding=masked", "runs/z/", "odd,name=1"], "checkpoint", ["padding"]
    )
    assert [(f.name, f.path, f.settings) for f in found] == [
        ("a", "x/y", {"padding": "masked"}),
        ("z", "runs/z/", {}),
        ("odd,name", "1", {}),
    ]
    (run,) = named_paths(["./runs/mine/checkpoint/"], "checkpoint")
    assert (run.name, run.path) == ("mine", "./runs/mine/checkpoint/")
    with pytest.raises(ConfigError, match="expected NAME=PATH"):
        named_paths(["a="], "checkpoint")
    with pytest.raises(ConfigError, match="open is 'x'"):
        EvaluateAlignmentConfig(reference=["r"], checkpoint=["a=p,open=x"])
