"""What `riboray submit` would send, without a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

import riboray
from riboray.cli import main
from riboray.errors import ConfigError
from riboray.launch.config import SubmitConfig
from riboray.launch.submission import plan_job
from riboray.options import parse_config


def plan(*words, scratch=Path("/nowhere")):
    return plan_job(parse_config("submit", SubmitConfig, list(words)), scratch)


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)


def test_from_the_source_tree(root):
    made = plan("embed", "/shared/a b.fa", "--output", "/shared/out", "--num-workers", "3")
    assert made.address == "http://127.0.0.1:8265"
    command = "python jobs/embed.py '/shared/a b.fa' --output /shared/out --num-workers 3"
    assert made.entrypoint == command
    assert made.runtime_env == {"working_dir": str(root)}


def test_from_another_folder(tmp_path):
    """The package goes along as a module: nodes may have none, or another version."""
    made = plan("--working-dir", str(tmp_path), "--check=no", "evaluate", "mlm", "/shared/a.fa")
    assert made.entrypoint == "python -m riboray.cli evaluate mlm /shared/a.fa"
    assert made.runtime_env["working_dir"] == str(tmp_path)
    (package,) = made.runtime_env["py_modules"]
    assert package.endswith("riboray")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """As if riboray were not a source tree; in a folder that has options in files."""
    package = tmp_path / "site-packages" / "riboray" / "__init__.py"
    package.parent.mkdir(parents=True)
    package.touch()
    monkeypatch.setattr(riboray, "__file__", str(package))
    here = tmp_path / "here"
    (here / "configs").mkdir(parents=True)
    (here / "configs" / "my.yaml").write_text("pooling: max\n")
    monkeypatch.chdir(here)
    return here


@pytest.mark.parametrize(
    "option", [("--config", "configs/my.yaml"), ("--config=./configs/my.yaml",)]
)
def test_files_of_options_go_along(installed, tmp_path, option):
    (tmp_path / "scratch").mkdir()
    words = ["embed", "/shared/a.fa", *option, "--output", "/shared/out"]
    made = plan(*words, scratch=tmp_path / "scratch")
    folder = Path(made.runtime_env["working_dir"])
    assert (folder / "configs" / "my.yaml").read_text() == "pooling: max\n"
    assert made.runtime_env["py_modules"] == [str(tmp_path / "site-packages" / "riboray")]
    assert made.configs == "configs/my.yaml"
    # Where a folder goes along, they must be in it.
    assert plan("--working-dir", ".", *words).runtime_env["working_dir"] == str(installed)
    with pytest.raises(ConfigError, match=r"my.yaml is not in .*site-packages"):
        plan("--working-dir", str(tmp_path / "site-packages"), *words)


def test_files_of_options_elsewhere(installed, monkeypatch):
    """Absolute paths are the cluster's; what lies above cannot keep its path."""
    file = installed / "configs" / "my.yaml"
    made = plan("embed", "/shared/a.fa", "--config", str(file), "--output", "/shared/out")
    assert "working_dir" not in made.runtime_env
    (installed / "deep").mkdir()
    monkeypatch.chdir(installed / "deep")
    with pytest.raises(ConfigError, match="lies above this folder"):
        plan("embed", "/shared/a.fa", "--config", "../configs/my.yaml", "--output", "/shared/out")


def test_every_verb_has_its_job(root):
    from riboray.verbs import VERBS

    for verb in {name.split()[0] for name in VERBS} - {"submit", "check-cluster", "completion"}:
        assert (root / "jobs" / f"{verb}.py").is_file()


def test_what_goes_along(tmp_path):
    (tmp_path / "requirements.txt").write_text("# some\nnumba>=0.63\n\nsafetensors\n")
    made = plan(
        *("--exclude", "data", "*.bam"),
        *("--pip", str(tmp_path / "requirements.txt"), "--pip", "usearch"),
        *("info",),
    )
    assert made.runtime_env["excludes"] == ["data", "*.bam"]
    assert made.runtime_env["pip"] == ["numba>=0.63", "safetensors", "usearch"]


def test_the_options_that_follow_are_the_verbs_own():
    config = parse_config(
        "submit",
        SubmitConfig,
        ["--wait", "no", "--dry-run", "--driver-cpus=2", "pretrain", "--wait", "--dry-run"],
    )
    assert config.command == ["pretrain", "--wait", "--dry-run"]
    assert (config.wait, config.dry_run, config.driver_cpus) == (False, True, 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to run"),
        (["--name", "x"], "nothing to run"),
        (["sing"], "sing: not something to submit"),
        (["submit", "embed"], "not something to submit"),
        (["evaluate", "weather"], "evaluate weather: not something to submit"),
        (["embed", "a.fa", "--output", "out"], "--output out is relative"),
        (["pretrain"], "--storage runs is relative"),
        (["finetune", "t.csv"], "--storage runs is relative"),
        (["embed", "a.fa", "--dtyp", "x", "--output", "/o"], "embed: unrecognized arguments"),
        (
            ["embed", "a.fa", "--dtype", "x"],
            "embed: dtype: expected 'float32' or 'float16', not 'x'",
        ),
        (["--address", "127.0.0.1:8265", "info"], "give the dashboard's"),
        (["--working-dir", "/no/such", "info"], "/no/such is no folder"),
        (["--pip", "/no/such.txt", "info"], "/no/such.txt: No such file"),
        (["--driver-cpus", "-1", "info"], "driver_cpus must not be negative"),
    ],
)
def test_mistakes(words, message):
    with pytest.raises(ConfigError, match=message):
        plan(*words)


def test_dry_run_says_what_and_how_much(tmp_path, capsys, monkeypatch):
    (tmp_path / "kept.txt").write_text("x" * 1000)
    (tmp_path / "left.txt").write_text("x" * 1000)
    (tmp_path / ".rayignore").write_text("left.txt\n")
    arguments = ["--working-dir", str(tmp_path), "--dry-run", "info"]
    assert main(["submit", *arguments]) == 0
    err = capsys.readouterr().err
    assert "python -m riboray.cli info" in err
    assert str(tmp_path) in err
    monkeypatch.setattr("riboray.launch.submission._LARGEST", 500)
    assert main(["submit", *arguments]) == 2
    assert "name what is not needed in .rayignore" in capsys.readouterr().err


def test_a_token_in_clear_text_is_told(capsys):
    plan("--address", "http://10.0.0.1:8265", "info")
    assert "unencrypted" in capsys.readouterr().err
    plan("--address", "https://riboray.example", "info")
    assert "unencrypted" not in capsys.readouterr().err


def test_nobody_there(capsys):
    assert main(["submit", "--address", "http://127.0.0.1:9", "info"]) == 2
    assert "no cluster at http://127.0.0.1:9" in capsys.readouterr().err
