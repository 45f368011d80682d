"""A run directory as a report reads it: states, damage, what a resume undid, other versions."""

from __future__ import annotations

import json
import math
import os
import re
import time
from dataclasses import asdict

import pytest

from riboray.cli import main
from riboray.errors import ConfigError, InputError
from riboray.manifest import exclusive
from riboray.pretraining.config import PretrainConfig
from riboray.pretraining.page_head import best_of
from riboray.pretraining.run_report import ReportConfig
from riboray.pretraining.run_report_state import candidate_checkpoints, phases_of, read_run
from tests.pretraining.test_run_report import (
    SHORT,
    SUMMARY,
    make_run,
    page_of,
    record,
    text_of,
    train,
)


def test_states_and_what_to_do_next(tmp_path):
    folder = make_run(tmp_path / "a run", SHORT[:3])
    result, page = page_of(folder)
    assert result["state"] == "stopped"
    command = f"riboray pretrain --config '{folder}/resolved_config.yaml' --storage {tmp_path}"
    assert f"Go on with it: {command} --run-name 'a run'" in text_of(page)
    with exclusive(folder, "busy"):
        result, page = page_of(folder)
    assert result["state"] == "going on"
    assert "going on, 50%" in text_of(page)
    assert "17 min of training; about 17 min to go" in text_of(page)
    # A finished run that went on with wider limits has a summary, but is not finished.
    (folder / "summary.json").write_text(json.dumps(SUMMARY))
    assert page_of(folder)[0]["state"] == "stopped"
    folder = make_run(tmp_path / "done", SHORT, summary=SUMMARY)
    assert f"riboray serve --checkpoint {folder}/checkpoint" in text_of(page_of(folder)[1])


def test_relative_inputs_are_pointed_out(tmp_path):
    options = asdict(PretrainConfig(corpus=["data/x.fa"]))
    page = page_of(make_run(tmp_path / "r", SHORT, options=options))[1]
    assert "where it was started: its inputs are relative paths" in text_of(page)


def test_a_process_that_says_nothing_is_pointed_out(tmp_path):
    folder = make_run(tmp_path / "r", SHORT[:3])
    old = time.time() - 7200
    os.utime(folder / "metrics.jsonl", (old, old))
    with exclusive(folder, "busy"):
        assert "nothing was recorded for 2 h: is it stuck?" in text_of(page_of(folder)[1])
    assert "is it stuck" not in page_of(folder)[1]


def test_a_torn_last_line_is_left_out_and_said(tmp_path):
    folder = make_run(tmp_path / "r", SHORT, tail='{"kind": "train", "step": 10')
    result, page = page_of(folder)
    assert len(result["notes"]) == 1
    assert "last line of metrics.jsonl is incomplete" in text_of(page)
    assert result["step"] == 1000
    # Whole but for its newline, it counts.
    folder = make_run(tmp_path / "s", SHORT[:-1], tail=json.dumps(SHORT[-1]))
    assert page_of(folder)[0]["notes"] == []
    assert page_of(folder)[0]["measurements"] == 3


@pytest.mark.parametrize(
    "line",
    [
        '{"kind": "train", "st',
        "[]",
        "7",
        '{"kind": "train", "step": 1}',
        '{"kind": "train", "step": true, "elapsed_s": 1}',
        '{"kind": "train", "step": -1, "elapsed_s": 1}',
        '{"kind": "train", "step": 1, "elapsed_s": NaN}',
        '{"kind": 3, "step": 1, "elapsed_s": 1}',
        "[" * 100_000,
        "\udcff",
    ],
)
def test_a_damaged_line_is_named(tmp_path, line):
    folder = make_run(tmp_path / "r", SHORT)
    metrics = folder / "metrics.jsonl"
    lines = metrics.read_bytes().splitlines(keepends=True)
    lines.insert(2, line.encode("utf-8", "surrogateescape") + b"\n")
    metrics.write_bytes(b"".join(lines))
    with pytest.raises(InputError, match=r"metrics.jsonl, record line 3: is damaged"):
        page_of(folder)
    assert not (folder / "report.html").exists()


def test_what_a_resume_undid_is_left_out(tmp_path):
    event = record("event", 300, message="resumed from step 200")
    records = [train(100), train(200), train(300, mlm_loss=9.0), event, train(250), train(350)]
    run = read_run(make_run(tmp_path / "r", records))
    assert [r["step"] for r in run.training] == [100, 200, 250, 350]
    assert run.events == [event]
    assert len(run.notes) == 1
    assert "1 record of steps" in run.notes[0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300, 10**400])
def test_values_that_cannot_be_drawn(tmp_path, value):
    result, page = page_of(make_run(tmp_path / "r", [*SHORT, train(1000, mlm_loss=value)]))
    assert "1 record holds a value that is NaN" in result["notes"][0]
    assert "diverged" in page
    assert not re.search(r'd="[^"]*(nan|inf|e\+)', page)


def test_phases(tmp_path):
    records = [train(10), train(20), train(30, phase=1, objectives="mlm+sal"), train(50, phase=1)]
    del records[3]["phase"], records[3]["objectives"]
    run = read_run(make_run(tmp_path / "r", records))
    labels = [(p.label, p.steps, p.seconds) for p in phases_of(run)]
    # A record without objectives has those whose losses it holds.
    assert labels == [
        ("MLM", (0, 20), (0, 40)),
        ("MLM + SAL", (20, 30), (40, 60)),
        ("MLM", (30, 50), (60, 100)),
    ]


def test_the_best_measurement():
    rows = [{"sal_f1": 0.2, "mlm_accuracy": 0.9}, {"sal_f1": 0.4}, {"sal_f1": 0.3}]
    assert best_of(rows) == (1, "by alignment F1")
    assert best_of([{"mlm_accuracy": 0.9}, {"mlm_accuracy": 0.1}])[0] == 0
    assert best_of([rows[0] | {"best": True}, rows[1], rows[2] | {"best": True}])[0] == 2
    assert best_of([{"best": False}, {}]) is None
    assert best_of([]) is None


def test_checkpoints_newest_first(tmp_path):
    folder = make_run(tmp_path / "r", SHORT, summary={"steps": 400})
    for name in ("checkpoints/step-00000090", "checkpoints/step-00000400", "checkpoints/step-x"):
        (folder / name).mkdir(parents=True)
    (folder / "checkpoints" / "step-00009999").write_text("a file")
    (folder / "checkpoint").mkdir()
    found = [(step, path.name) for step, path in candidate_checkpoints(read_run(folder))]
    assert found == [(400, "checkpoint"), (400, "step-00000400"), (90, "step-00000090")]


def test_mistakes_are_said_in_one_line(tmp_path, capsys):
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "no such directory" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["report", str(tmp_path / "empty")]) == 2
    assert "not a run directory" in capsys.readouterr().err
    folder = make_run(tmp_path / "r", [])
    for _ in range(2):
        assert main(["report", str(folder)]) == 2
        assert "no metrics yet" in capsys.readouterr().err
        (folder / "metrics.jsonl").unlink(missing_ok=True)
    folder = make_run(tmp_path / "s", SHORT)
    assert main(["report", str(folder), "--output", str(tmp_path)]) == 2
    assert "is a directory" in capsys.readouterr().err
    (folder / "resolved_config.yaml").write_text("a: [")
    assert main(["report", str(folder)]) == 2
    assert "resolved_config.yaml: is damaged" in capsys.readouterr().err
    for options in ({"run": []}, {"run": ["a", "b"]}, {"run": ["a"], "alignments": -1}):
        with pytest.raises(ConfigError):
            ReportConfig(**options)


def test_options_of_another_version(tmp_path):
    options = asdict(PretrainConfig()) | {"curvature": 3}
    result, page = page_of(make_run(tmp_path / "r", SHORT, options=options), no_model=False)
    assert any("not those of this version" in note for note in result["notes"])
    assert "<td>curvature</td><td>3</td><td>(no such option now)</td>" in page
    assert "the run&#x27;s options cannot be read by this version" in page


def test_a_corpus_that_was_moved_away(tmp_path):
    options = asdict(PretrainConfig(corpus=[str(tmp_path / "gone")]))
    folder = make_run(tmp_path / "r", SHORT, options=options, summary=SUMMARY)
    result, page = page_of(folder, no_model=False)
    assert text_of(page).count("the run's corpus is not there (any more)") == 2
    assert len(result["notes"]) == 1
    assert (result["pairs_aligned"], result["sequences_mapped"]) == (0, 0)
    assert "RF00003, RF00006" in page  # what the summary knows is there
