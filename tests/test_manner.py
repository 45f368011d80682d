"""How commands talk: to people, to programs, or hardly at all; dry runs; help; completion."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from riboray import console
from riboray.cli import main
from riboray.console import Manner, Progress, listing, speaking
from riboray.corpus.sample import SAMPLE_ALIGNMENTS, SAMPLE_CORPUS
from riboray.manifest import entered
from riboray.options import options_of
from riboray.verbs import VERBS

RNAS = ">a\nGGUCUCUCUGGUUAGACCAGAUCUGAGCCU\n>b\nUGUCUCUGGUUAGACCAGAUCUGACCCU\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rnas.fa").write_text(RNAS)
    return tmp_path


def left(folder):
    """Everything below a folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_one_command_in_three_manners(here, capsys):
    words = ["embed", "rnas.fa", "--output"]
    assert main([*words, "people"]) == 0
    out, err = capsys.readouterr()
    assert "sequences embedded   2\n" in out
    assert "2 read = 2 embedded + 0 rejected" in err
    assert main([*words, "programs", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["sequences_embedded"] == 2
    assert "2 read = 2 embedded" in err
    assert main([*words, "nobody", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert main([*words, "log", "--json", "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert (json.loads(out)["sequences_embedded"], err) == (2, "")
    assert main(["embed", "--json", "rnas.fa", "--output", "log"]) == 0, "a switch takes no value"


def test_what_was_asked_for_comes_quietly_too(here, capsys):
    assert main(["info", "--quiet"]) == 0
    assert "riboray" in capsys.readouterr().out
    assert main(["align", "rnas.fa", "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("CLUSTAL-like view")
    assert err == ""
    assert main(["align", "rnas.fa", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["query_aligned"].replace("-", "") == RNAS.split()[1]


def test_errors_and_warnings_come_quietly_too(here, capsys):
    (here / "bad.fa").write_text(">x\nAC!U\n")
    assert main(["embed", "bad.fa", "--quiet", "--json", "--output", "out"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    with speaking(Manner(quiet=True)):
        console.say("not this")
        console.warn("but this")
    assert capsys.readouterr().err == "  warning     but this\n"
    console.say("and this again")
    assert "again" in capsys.readouterr().err


def test_a_listing_for_people():
    values = {"pairs_read": 12345, "share": 0.25, "nothing": None, "names": ["a", "b"]}
    values |= {"inside": {"yes": True}, "files": [{"bytes": 1}, {"bytes": 2}]}
    assert listing(values).splitlines() == [
        "pairs read  12,345",
        "share       0.25",
        "nothing     -",
        "names       a, b",
        "inside",
        "  yes  yes",
        "files 1",
        "  bytes  1",
        "files 2",
        "  bytes  2",
    ]


def test_numbers_that_json_lacks_become_null(monkeypatch, capsys):
    from riboray import info

    monkeypatch.setattr(info, "info", lambda config: {"a": float("nan"), "b": [float("inf"), 1.5]})
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, 1.5]}


@pytest.mark.parametrize(
    "words",
    [
        ["ingest", SAMPLE_CORPUS, "--alignments", SAMPLE_ALIGNMENTS, "--output", "out"],
        ["pretrain", "--run-name", "out"],
        ["embed", "rnas.fa", "--output", "out"],
        ["predict", "rnas.fa", "--mutations", "--heat-map", "x.png", "--output", "out"],
        ["align", "rnas.fa"],
        ["align", "rnas.fa", "--all-pairs", "--output", "out"],
        ["cluster", "rnas.fa", "--output", "out"],
        ["cluster", "rnas.fa", "--output", "out", "--exhaustive", "1"],
        ["fetch", "sample", "--output", "out"],
        ["finetune", "labelled.csv", "--run-name", "out"],
    ],
    ids=lambda words: "-".join(word.strip("-") for word in words if "/" not in word),
)
def test_a_dry_run_leaves_nothing(here, words, capsys):
    rows = [f"s{k},{RNAS.split()[1][: 10 + k]},{'ab'[k % 2]}\n" for k in range(20)]
    (here / "labelled.csv").write_text("id,sequence,label\n" + "".join(rows))
    before = left(here)
    assert main([*words, "--dry-run", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["dry_run"] is True
    assert left(here) == before
    assert err or words[0] == "align"
    assert main([*words, "--dry-run", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_a_dry_run_finds_mistakes(here, capsys):
    (here / "bad.fa").write_text(f"{RNAS}>x\nAC!U\n")
    for words in (["embed", "bad.fa"], ["cluster", "bad.fa", "--checkpoint", "rnabert"]):
        assert main([*words, "--dry-run"]) == 2
        assert "bad.fa" in capsys.readouterr().err.splitlines()[-1]
    (here / "out").mkdir()
    (here / "out" / "mine.txt").write_text("something else")
    assert main(["embed", "rnas.fa", "--output", "out", "--dry-run"]) == 2
    assert "holds something else" in capsys.readouterr().err


def test_long_verbs_have_a_dry_run():
    without = {name for name, verb in VERBS.items()
               if "--dry-run" not in {o.flag for o in options_of(verb.load_config())}}  # fmt: skip
    quick = {"corpus-stats", "report", "verify", "map", "convert", "serve"}
    quick |= {"check-cluster", "completion", "info"}
    assert without == quick | {name for name in VERBS if name.startswith("evaluate")}


def test_an_output_has_one_owner_at_a_time(here, capsys):
    """Two equal commands must not work in one directory."""
    from riboray.alignment.store import ALIGNMENTS_KIND

    words = ["align", "rnas.fa", "--all-pairs", "--num-workers", "1", "--output", "out"]
    from riboray.alignment.config import AlignConfig
    from riboray.model.checkpoint import load_checkpoint
    from riboray.options import parse_config

    config = parse_config("align", AlignConfig, words[1:])
    identity = config.identity(config.input, load_checkpoint(config.checkpoint).sha256)
    with entered(here / "out", ALIGNMENTS_KIND, identity, "aligning"):
        assert main(words) == 2
    assert "another process is aligning into it" in capsys.readouterr().err


def test_bars_and_colours_are_for_terminals(here):
    """On a terminal there are colours, and none where NO_COLOR is set."""
    for variables, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        own, other = pty.openpty()
        command = [sys.executable, "-m", "riboray.cli", "align", "rnas.fa", "--statistics", "false"]
        env = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | variables
        process = subprocess.Popen(command, stdout=other, stderr=subprocess.DEVNULL, env=env)
        os.close(other)
        seen = b""
        while True:
            try:
                part = os.read(own, 4096)
            except OSError:  # what a terminal says when nobody is there any more
                break
            if not part:
                break
            seen += part
        os.close(own)
        assert process.wait() == 0
        assert b"CLUSTAL-like view" in seen
        assert (b"\x1b[" in seen) == coloured
    stream = io.StringIO()
    bar = Progress("work", stream=stream)
    bar.update(0.5, "figures")
    bar.close()
    assert stream.getvalue() == ""


def test_help_and_import_are_quick():
    """Neither torch nor Ray is imported for them. Seconds of a CPU: others may be at work here."""
    script = (
        "import sys, riboray; assert not {'torch', 'ray', 'numba', 'pyarrow'} & set(sys.modules)"
    )
    for command, seconds in (
        (["-c", script], 0.3),
        (["-m", "riboray.cli", "--help"], 0.5),
        (["-m", "riboray.cli", "embed", "--help"], 1.5),
    ):
        took = []
        for _ in range(3):
            before = os.times()
            subprocess.run([sys.executable, *command], check=True, capture_output=True)
            after = os.times()
            took.append(
                after.children_user - before.children_user
                + after.children_system - before.children_system
            )  # fmt: skip
        assert min(took) < seconds, (command, took)


def test_help_of_what_is_used_most_imports_no_torch():
    script = (
        "import sys; from riboray.verbs import VERBS\n"
        "for name in sys.argv[1:]: VERBS[name].load_config()\n"
        "assert not {'torch', 'ray'} & set(sys.modules)"
    )
    names = [n for n in VERBS if not n.startswith("evaluate ") and n not in ("verify", "convert")]
    subprocess.run([sys.executable, "-c", script, *names], check=True)


BASH = r"""
source {script}
cd {folder}
complete_words() {{
    COMP_WORDS=("$@"); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 )); COMPREPLY=()
    $(complete -p riboray | sed 's/.*-F \([^ ]*\).*/\1/')
    echo "${{COMPREPLY[@]}}"
}}
complete_words riboray em
complete_words riboray embed --form
complete_words riboray embed --format ""
complete_words riboray evaluate mlm --gr
complete_words riboray embed rna
complete_words riboray submit em
"""


def test_completion_in_a_real_shell(here, capsys):
    assert main(["completion", "bash"]) == 0
    Path("riboray.bash").write_text(capsys.readouterr().out)
    text = BASH.format(script=here / "riboray.bash", folder=here)
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "embed",
        "--format",
        "arrow parquet npy",
        "--group-by",
        "rnas.fa",
        "embed",
    ]


@pytest.mark.parametrize("shell", ["zsh", "fish", "tcsh"])
def test_completion_for_other_shells(shell, capsys):
    assert main(["completion", shell, "--json"]) == 0
    script = json.loads(capsys.readouterr().out)["script"]
    for word in ("corpus-stats", "evaluate", "--ray-address".strip("-"), "parquet"):
        assert word in script
