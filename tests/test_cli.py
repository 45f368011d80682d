from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from riboray import __version__
from riboray.alignment import GapPenalties
from riboray.cli import main
from riboray.errors import ConfigError
from riboray.options import command_line, options_of, parse_config
from riboray.pretraining.config import PretrainConfig
from riboray.pretraining.curriculum import Phase
from riboray.pretraining.masking import MaskingRule
from riboray.verbs import VERBS

FROZEN = Path(__file__).with_name("frozen_options.json")


def options_now():
    return {
        name: sorted(o.flag for o in options_of(verb.load_config())) for name, verb in VERBS.items()
    }


def test_command_line_options_are_frozen():
    """Options are a promise. To change them on purpose: `python -m tests.test_cli`."""
    assert options_now() == json.loads(FROZEN.read_text())


def test_help_shows_every_field_with_its_docstring(capsys):
    with pytest.raises(SystemExit) as done:
        parse_config("pretrain", PretrainConfig, ["--help"])
    assert done.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--max-minutes MAX_MINUTES" in text
    assert "Stop after this many minutes of training" in text
    assert "--masking.mask-share" in text
    flags = [w.strip(",[]") for w in text.split() if w.lstrip("[").startswith("--")]
    assert [f for f in flags if "_" in f and not f.endswith("+")] == []


def test_flags_yaml_and_their_order(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("max_steps: 7\ncorpus: [a.fa]\nmodel:\n  hidden_size: 24\n")
    config = parse_config("pretrain", PretrainConfig, ["--config", str(file), "--max-steps", "9"])
    assert (config.max_steps, config.corpus, config.model.hidden_size) == (9, ["a.fa"], 24)


@pytest.mark.parametrize(
    ("arguments", "corpus"),
    [
        (["--corpus", "a", "b", "--seed", "1"], ["a", "b"]),
        (["--corpus", "a", "--corpus", "b"], ["a", "b"]),
        (["--corpus=a"], ["a"]),
        (["--corpus", '["a", "b"]'], ["a", "b"]),
        ([], []),
    ],
)
def test_lists(arguments, corpus):
    assert parse_config("pretrain", PretrainConfig, arguments).corpus == corpus


@pytest.mark.parametrize(
    ("arguments", "files", "all_pairs"),
    [
        (["a.fa", "b.fa", "--checkpoint", "c"], ["a.fa", "b.fa"], False),
        (["--checkpoint", "c", "a.fa"], ["a.fa"], False),
        (["--all-pairs", "a.fa", "--checkpoint=c"], ["a.fa"], True),
        (["a.fa", "--all-pairs", "--checkpoint", "c"], ["a.fa"], True),
        (["--input", "a.fa", "--all-pairs", "true", "--checkpoint", "c"], ["a.fa"], True),
        (["a.fa", "--checkpoint", "c", "--all-pairs=false"], ["a.fa"], False),
    ],
)
def test_files_without_a_flag_and_switches(arguments, files, all_pairs):
    from riboray.alignment.config import AlignConfig

    config = parse_config("align", AlignConfig, arguments)
    assert (config.input, config.all_pairs, config.checkpoint) == (files, all_pairs, "c")


def test_a_resolved_config_is_a_config(tmp_path):
    from dataclasses import asdict

    config = PretrainConfig(max_steps=3, corpus=["x"], validation_families=["RF1"])
    file = tmp_path / "resolved.yaml"
    file.write_text(yaml.safe_dump(asdict(config)))
    assert parse_config("pretrain", PretrainConfig, ["--config", str(file)]) == config


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        ("evaluate alignment", {"reference": ["a b.tsv", "c's.sto"], "checkpoint": ["m=x,open=2"]}),
        ("evaluate alignment", {"reference": ["-"], "bins": [0, 50, 100], "max_pairs": 7}),
        ("evaluate alignment", {"reference": ["x"], "gaps": GapPenalties(2.5, 0.25)}),
        ("evaluate alignment", {"reference": ["[x]"], "fit_gaps": ["-dev"], "timeout": 1.5}),
        ("align", {"input": ["x.fa"], "checkpoint": "c", "all_pairs": True, "output": "o"}),
        (
            "cluster",
            {
                "input": ["x.fa"],
                "checkpoint": "c",
                "centred": False,
                "max_evalue": None,
                "neighbors": 9,
            },
        ),
        ("pretrain", {"curriculum": [Phase(objectives="mlm", share=0.5), Phase()]}),
        ("pretrain", {"num_workers": [1, 8], "masking": MaskingRule(fraction=0.25), "seed": 3}),
    ],
)
def test_a_configuration_as_a_command(verb, options):
    config_class = VERBS[verb].load_config()
    config = config_class(**options)
    words = shlex.split(command_line(verb, config))
    assert words[: 1 + len(verb.split())] == ["riboray", *verb.split()]
    assert parse_config(verb, config_class, words[1 + len(verb.split()) :]) == config


@pytest.mark.parametrize("recipe", sorted(Path(__file__).parents[1].glob("configs/*.yaml")))
def test_recipes_are_valid(recipe):
    assert parse_config("pretrain", PretrainConfig, ["--config", str(recipe)])


def test_there_are_recipes():
    assert len(list(Path(__file__).parents[1].glob("configs/*.yaml"))) >= 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bogus", "1"], "--bogus"),
        (["--corpus", "--seed", "1"], "--corpus needs a value"),
        (["--max-minutes", "soon"], "max-minutes: expected float or nothing, not 'soon'"),
        (["--num-workers", "0"], "num_workers must be a number or [least, most], not 0"),
        (["--tokens-per-batch", "100"], "it must be at least 440"),
        (["--max-length", "500"], "max_length must lie between 1 and 440"),
        (["--learning-rate", ".nan"], "learning_rate must be positive"),
        (["--run-name", "../x"], "cannot name a directory"),
        (["--mlm-weight", "0", "--sal-weight", "0"], "nothing to learn"),
        (["--masking.fraction", "1.5"], "masking.fraction"),
        (["--gaps.open", "-1"], "gap penalties"),
        (["--model.hidden-size", "121"], "not a multiple"),
        (["--precision", "fp8"], "precision"),
        (["--config", "/nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_a_mistake_is_one_line(arguments, message):
    with pytest.raises(ConfigError) as caught:
        parse_config("pretrain", PretrainConfig, arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_key_in_yaml(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("max_stepz: 7\n")
    with pytest.raises(ConfigError, match="max_stepz"):
        parse_config("pretrain", PretrainConfig, ["--config", str(file)])


def test_main_without_a_verb_and_with_a_wrong_one(capsys):
    assert main([]) == 2
    assert main(["--help"]) == 0
    assert "pretrain" in capsys.readouterr().out
    assert main(["pretrian"]) == 2
    assert "unknown verb" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["emebd"], "did you mean embed?"),
        (["Align"], "did you mean align?"),
        (["xyzzy"], "see riboray --help"),
        (["embed", "a.fa", "--outptu", "x"], "did you mean --output?"),
        (["embed", "a.fa", "--zzz", "x"], "see riboray embed --help"),
    ],
)
def test_misspelt(words, hint, capsys):
    assert main(words) == 2
    assert hint in capsys.readouterr().err


def test_options_as_a_file_and_back(tmp_path, capsys):
    """As in docs/how-to.md."""
    with pytest.raises(SystemExit) as done:
        main(["embed", "--pooling", "max", "--print-config"])
    assert done.value.code == 0
    text = capsys.readouterr().out
    assert yaml.safe_load(text)["pooling"] == "max"
    (tmp_path / "embed.yaml").write_text(text)
    arguments = ["--config", str(tmp_path / "embed.yaml"), "a.fa"]
    config = parse_config("embed", VERBS["embed"].load_config(), arguments)
    assert (config.pooling, config.input) == ("max", ["a.fa"])
    for nothing in ("", "- 1\n", "text\n"):
        (tmp_path / "embed.yaml").write_text(nothing)
        with pytest.raises(ConfigError, match=r"embed\.yaml: holds no options"):
            parse_config("embed", VERBS["embed"].load_config(), arguments)


def test_an_input_is_not_written_over():
    with pytest.raises(ConfigError, match=r"a\.fa is an input, which would be overwritten"):
        parse_config("align", VERBS["align"].load_config(), ["a.fa", "--output", "a.fa"])


def test_version_and_info(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"riboray {__version__}\n"
    assert main(["info", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["packages"]["ray"]
    assert report["cpus"] >= 1


def test_job_and_verb_are_the_same(root):
    job = subprocess.run(
        [sys.executable, root / "jobs" / "info.py", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(job.stdout)["riboray"] == __version__


def test_convert(tmp_path, capsys):
    from tests.model.test_checkpoint import published_file

    published_file(tmp_path / "bert.pth")
    arguments = ["--checkpoint", str(tmp_path / "bert.pth"), "--output", str(tmp_path / "out")]
    assert main(["convert", "--json", *arguments]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["vocabulary"], report["padding"]) == ("multimolecule", "original")
    assert main(["convert", *arguments]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["info", "--checkpoint", str(tmp_path / "out")]) == 0


if __name__ == "__main__":
    FROZEN.write_text(json.dumps(options_now(), indent=2) + "\n")
