"""Which directory is whose, and which inputs a run accepts: all that happens before training."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from riboray.cli import main
from riboray.corpus import IngestConfig, ingest
from riboray.corpus.sample import SAMPLE_ALIGNMENTS, SAMPLE_CORPUS
from riboray.errors import ConfigError, CorpusError, OutputError
from riboray.manifest import exclusive
from riboray.model import RnaBertConfig
from riboray.options import parse_config
from riboray.pretraining import driver
from riboray.pretraining.config import PretrainConfig
from riboray.pretraining.data import prepare_data
from riboray.pretraining.display import Display, merge_records
from riboray.pretraining.report import write_records
from riboray.pretraining.rundir import RunDirectory
from riboray.pretraining.streams import iterate_stream

RECIPES = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


@pytest.fixture
def trained(monkeypatch):
    """Stop short of training; what was about to be trained is kept."""
    calls = []

    def train(config, run, data):
        calls.append((config, run, data))
        return {}

    monkeypatch.setattr(driver, "_train", train)
    return calls


def config(tmp_path, **options):
    defaults = {
        "corpus": [SAMPLE_CORPUS],
        "alignments": [SAMPLE_ALIGNMENTS],
        "pairs_per_family": 20,
        "storage": str(tmp_path / "runs"),
        "run_name": "r",
        "max_steps": 5,
    }
    return PretrainConfig(**{**defaults, **options})


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_gets_as_far_as_its_first_batches(tmp_path, trained, recipe):
    given = parse_config("pretrain", PretrainConfig, ["--config", str(recipe)])
    if given.corpus:  # which a recipe of bundled weights names; here, the sample stands for it

        def there(names):  # in the sample
            return names and [name for name in names if name == "RF00005"]

        given = replace(
            given,
            corpus=[],
            validation_families=[],
            focus_families=there(given.focus_families),
            curriculum=[
                replace(phase, focus_families=there(phase.focus_families))
                for phase in given.curriculum
            ],
        )
    driver.pretrain(replace(given, storage=str(tmp_path), run_name="r", pairs_per_family=20))
    ((resolved, _, data),) = trained
    for spec in data.specs.values():
        _, batch = next(iterate_stream(spec, 0))
        assert batch.input_ids.max() < len(resolved.model.tokens)


def test_ambiguity_codes_are_rejected_where_the_vocabulary_has_none(tmp_path, trained):
    driver.pretrain(config(tmp_path, model=RnaBertConfig(vocabulary="original")))
    manifest = json.loads((tmp_path / "runs" / "r" / "corpus" / "manifest.json").read_text())
    counts = manifest["counts"]
    assert counts["sequences_rejected"] > 40
    assert counts["sequences_read"] == counts["sequences_kept"] + counts["sequences_rejected"]


def test_a_corpus_directory_must_fit_the_run(tmp_path, trained):
    folder = str(tmp_path / "corpus")
    shape = {"corpus": [SAMPLE_CORPUS], "alignments": [SAMPLE_ALIGNMENTS], "output": folder}
    ingest(IngestConfig(**shape, max_length=600, pairs_per_family=5))
    given = config(tmp_path, corpus=[folder], alignments=[])
    with pytest.raises(ConfigError, match="may hold 600 nt"):
        driver.pretrain(given)
    shutil.rmtree(folder)
    ingest(IngestConfig(**shape, pairs_per_family=5))
    with pytest.raises(ConfigError, match="ambiguity reject"):
        driver.pretrain(replace(given, model=RnaBertConfig(vocabulary="original")))
    with pytest.raises(ConfigError, match="stands alone"):
        driver.pretrain(replace(given, alignments=[SAMPLE_ALIGNMENTS]))
    assert not (tmp_path / "runs").exists()
    driver.pretrain(given)
    # Another corpus under the same path is noticed when the run is resumed.
    shutil.rmtree(folder)
    ingest(IngestConfig(**shape, pairs_per_family=6))
    with pytest.raises(OutputError, match="inputs have changed"):
        driver.pretrain(given)


def test_changed_files_are_noticed(tmp_path, trained):
    fasta = tmp_path / "x.fa"
    fasta.write_text(">a\nACGUACGUACGU\n>b\nGGGUACGUACGU\n")
    given = config(tmp_path, corpus=[str(fasta)], alignments=[], validation_share=0)
    driver.pretrain(given)
    driver.pretrain(given)
    moved = fasta.rename(tmp_path / "y.fa")
    driver.pretrain(replace(given, corpus=[str(moved)]))  # the same content elsewhere is the same
    moved.write_text(">a\nACGUACGUACGU\n")
    with pytest.raises(OutputError, match="other inputs"):
        driver.pretrain(replace(given, corpus=[str(moved)]))
    assert len(trained) == 3


def test_a_run_killed_while_it_ingests_comes_again(tmp_path, trained, monkeypatch):
    run = tmp_path / "runs" / "r"
    with monkeypatch.context() as patch:
        # SIGKILL runs no handler: stand in for it by leaving everything as it is.
        patch.setattr(driver.shutil, "rmtree", lambda *_, **__: None)
        patch.setattr(driver, "ingest", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            driver.pretrain(config(tmp_path))
    assert (run / "run.json").exists()
    driver.pretrain(config(tmp_path))
    assert len(trained) == 1


@pytest.mark.parametrize("exists", [False, True], ids=["new", "empty directory"])
def test_a_failure_before_training_leaves_nothing(tmp_path, trained, exists):
    if exists:
        (tmp_path / "runs" / "r").mkdir(parents=True)
    bad = tmp_path / "bad.fa"
    bad.write_text(">p\nMKVLAAGIEF\n")
    with pytest.raises(CorpusError):
        driver.pretrain(config(tmp_path, corpus=[str(bad)]))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.fa"]
    driver.pretrain(config(tmp_path))


def test_who_loses_the_lock_deletes_nothing(tmp_path, trained):
    given = config(tmp_path)
    run = RunDirectory(tmp_path / "runs" / "r")
    run.path.mkdir(parents=True)
    with (
        exclusive(run.path, "another process"),
        pytest.raises(OutputError, match="another process"),
    ):
        driver.pretrain(given)
    assert (run.path / ".lock").exists()


def test_other_options_are_refused_and_wider_limits_are_not(tmp_path, trained):
    driver.pretrain(config(tmp_path))
    with pytest.raises(OutputError, match="other options"):
        driver.pretrain(config(tmp_path, learning_rate=0.5))
    driver.pretrain(config(tmp_path, max_steps=50, num_workers=1))
    assert len(trained) == 2
    assert trained[1][0].batches_per_step == 2, "the number of streams stays what it was"


def test_more_workers_than_streams(tmp_path, trained):
    with pytest.raises(ConfigError, match="without work"):
        driver.pretrain(config(tmp_path, batches_per_step=1))


def test_the_metrics_file_follows_a_resumed_run(tmp_path):
    run, heard = RunDirectory(tmp_path), []
    history = [{"kind": "train", "step": s, "progress": 0.0, "tokens_per_s": 1} for s in (1, 5, 9)]
    lost = {"kind": "event", "step": 9, "progress": 0.0, "message": "a worker failed"}
    write_records(run.metrics, [*history, lost])
    display = Display(run, [heard.append])
    back = {"kind": "event", "step": 5, "progress": 0.0, "message": "resumed at step 5"}
    shown = [back, *({**history[0], "step": step} for step in (6, 8))]
    for record in shown:
        display.show(record)
    kept = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert [(r["kind"], r["step"]) for r in kept] == [
        ("train", 1),
        ("train", 5),
        ("event", 9),
        ("event", 5),
        ("train", 6),
        ("train", 8),
    ]
    assert display.records == kept
    assert heard == shown


@pytest.mark.parametrize("torn", ['{"kind": "tr', '{"kind": "train", "step": 7}', "\x00\xff"])
def test_a_line_that_a_killed_driver_left_half_written_is_cut_off(tmp_path, torn):
    run = RunDirectory(tmp_path)
    whole = {"kind": "train", "step": 5, "progress": 0.0, "tokens_per_s": 1}
    run.metrics.write_text(json.dumps(whole) + "\n" + torn)
    Display(run, []).show({**whole, "step": 6})
    steps = [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()]
    assert steps == [5, 6]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_told_with_its_file_and_what_to_do(tmp_path, trained, monkeypatch, capsys):
    run = RunDirectory(tmp_path / "mine")

    def record(config, given, data):
        given.metrics.symlink_to("/dev/full")
        Display(given, []).show({"kind": "train", "step": 1, "progress": 0.0})

    monkeypatch.setattr(driver, "_train", record)
    options = [f"--storage={tmp_path}", "--run-name=mine", "--max-steps=1"]
    assert main(["pretrain", *options]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said == (
        f"riboray pretrain: {run.metrics}: No space left on device; "
        "make room and give the same command again"
    )


def test_events_of_the_driver_stay_in_the_history():
    history = [{"kind": "train", "step": s, "elapsed_s": float(s)} for s in (1, 2, 3)]
    own = {"kind": "event", "step": 2, "elapsed_s": 2.0, "message": "resumed"}
    lost = {"kind": "event", "step": 9, "elapsed_s": 2.5, "message": "a worker failed"}
    late = {"kind": "train", "step": 9, "elapsed_s": 2.4}
    merged = merge_records([*history[:2], own, history[2]], [history[0], late, lost, own])
    assert merged == [history[0], history[1], own, lost, history[2]]


def test_held_out_families_stay_held_out_across_a_resume(tmp_path, trained):
    driver.pretrain(config(tmp_path))
    driver.pretrain(config(tmp_path))
    first, second = (data.held_out_families for _, _, data in trained)
    assert first == second
    data = prepare_data(tmp_path / "runs" / "r" / "corpus", trained[0][0], 2)
    assert data.held_out_families == first
