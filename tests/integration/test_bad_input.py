"""Bad input: one clear line, exit code 2, and nothing half-written. As a user meets it."""

from __future__ import annotations

import gzip

import pytest

from tests.integration.helpers import TINY, riboray

FASTA = b">a\nACGUACGUACGU\n>b\nGGGGACGUACGU\n"
FAMILY = """# STOCKHOLM 1.0
#=GF AC   {name}
{name}a  ACGUACGUACGU
{name}b  ACGUACGU--GU
//
"""
SINGLE = "# STOCKHOLM 1.0\n#=GF AC   ONE\na  ACGUACGUACGU\n//\n"
TWO_FAMILIES = (FAMILY.format(name="F1") + FAMILY.format(name="F2")).encode()

FILES = {
    "good.fa": FASTA,
    "good.sto": TWO_FAMILIES,
    "empty.fa": b"",
    "notes.txt": b"Dear diary,\n",
    "reads.fq": b"@r\nACGU\n+\nIIII\n",
    "cut.fa.gz": gzip.compress(FASTA * 5000)[:-50],
    "nul.fa": b">a\nACGU\0ACGU\n",
    "protein.fa": b">p\nMKVLAAGIEF\n",
    "long.fa": b">l\n" + b"ACGU" * 200 + b"\n",
    "empty.sto": b"",
    "cut.sto": FAMILY.format(name="F1").replace("//\n", "").encode(),
    "single.sto": SINGLE.encode(),
    "bad.yaml": b"max_stepz: 3\n",
    "torn.yaml": b"model: {hidden_size: [\n",
    "image.png": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
}

CASES = {
    "missing corpus": (["--corpus", "nowhere.fa"], "nowhere.fa: no such file"),
    "missing alignments": (["--alignments", "nowhere.sto"], "nowhere.sto: no such file"),
    "empty": (["--corpus", "empty.fa"], "empty.fa: is empty"),
    "text": (["--corpus", "notes.txt"], "notes.txt: not FASTA"),
    "binary": (["--corpus", "image.png"], "image.png: not FASTA"),
    "fastq": (["--corpus", "reads.fq"], "reads.fq, record 1: a line starts with '@'"),
    "stockholm as fasta": (["--corpus", "good.sto"], "is Stockholm, not FASTA"),
    "fasta as stockholm": (["--alignments", "good.fa"], "not Stockholm: starts with '>a'"),
    "truncated gzip": (["--corpus", "cut.fa.gz"], "it is truncated; fetch it again"),
    "nul": (["--corpus", "nul.fa"], "nul.fa, record 1: NUL byte"),
    "no usable sequence": (["--corpus", "protein.fa"], "no usable sequence among 1"),
    "over 440 nt": (["--corpus", "long.fa"], "800 nt, longer than 440"),
    "empty stockholm": (["--alignments", "empty.sto"], "empty.sto: is empty"),
    "truncated stockholm": (["--alignments", "cut.sto"], "ends without '//'"),
    "one member": (["--alignments", "single.sto"], "no family with two usable sequences among 1"),
    "unknown key": (["--config", "bad.yaml"], "max_stepz"),
    "torn yaml": (["--config", "torn.yaml"], "torn.yaml"),
    "missing yaml": (["--config", "nowhere.yaml"], "nowhere.yaml"),
    "unknown flag": (["--max-stepz", "3"], "--max-stepz"),
    "unknown family": (
        ["--alignments", "good.sto", "--validation-families", "RF7"],
        "without a usable pair in the alignments: RF7",
    ),
    "sal alone, no alignments": (
        ["--corpus", "good.fa", "--mlm-weight", "0", "--validation-share", "0"],
        "needs --alignments",
    ),
    "folder that is no corpus": (["--corpus", "folder"], "no corpus manifest"),
    "run name is a path": (["--run-name", "a/b"], "cannot name a directory"),
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    (folder / "folder").mkdir()
    return folder


@pytest.mark.parametrize(("arguments", "message"), CASES.values(), ids=CASES.keys())
def test_one_clear_line_and_exit_code_2(workplace, arguments, message):
    before = sorted(p.relative_to(workplace) for p in workplace.rglob("*"))
    name = [] if "--run-name" in arguments else ["--run-name", "x"]
    code, out, err = riboray("pretrain", *TINY, *name, *arguments, cwd=workplace)
    assert code == 2, err
    last = err.strip().splitlines()[-1]
    assert last.startswith("riboray pretrain: ")
    assert message in last
    assert "Traceback" not in err
    assert out == ""
    left = sorted(p.relative_to(workplace) for p in workplace.rglob("*"))
    assert left == before, "something was left behind"


def test_a_directory_of_something_else(workplace, tmp_path):
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "thesis.txt").write_text("years of work")
    code, _, err = riboray("pretrain", "--run-name", "mine", cwd=tmp_path)
    assert code == 2
    assert "holds other files" in err.splitlines()[-1]
    assert [p.name for p in (tmp_path / "runs" / "mine").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ingest", "--corpus", "cut.fa.gz"], "truncated"),
        (["ingest"], "nothing to ingest"),
        (["convert", "--checkpoint", "notes.txt", "--output", "o"], "cannot|can be read safely"),
        (["convert", "--checkpoint", "nowhere", "--output", "o"], "no such checkpoint"),
        (["serve", "--checkpoint", "folder"], "not a checkpoint directory"),
        (["info", "--checkpoint", "notes.txt"], "can be read safely"),
    ],
)
def test_the_other_verbs(workplace, arguments, message):
    import re

    code, _, err = riboray(*arguments, cwd=workplace)
    assert code == 2, err
    assert re.search(message, err.splitlines()[-1])
    assert "Traceback" not in err
    assert not (workplace / "o").exists()
    assert not (workplace / "corpus").exists()
