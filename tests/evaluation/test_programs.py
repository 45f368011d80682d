"""Other aligners: stand-ins that misbehave, and real ones where they are installed."""

from __future__ import annotations

import os
import sys
import time

import pytest

from riboray.alignment.columns import aligned_columns
from riboray.errors import ConfigError
from riboray.evaluation.programs import PROGRAMS, Program, align_by_program, installed, version_of
from riboray.evaluation.references import ReferencePair

PAIRS = [
    ReferencePair("f", "weird id/1", "-b", aligned_columns(*rows), 50.0)
    for rows in (("ACGUACGUAACC", "ACG-ACGUAACC"), ("GGGACUUUACCC", "GGGACUUCACCC"))
]


def program(tmp_path, body, **options):
    """A program that does as told; the folder of the pair is its working directory."""
    path = tmp_path / "aligner"
    path.write_text(f"#!{sys.executable}\nimport sys, time\n{body}\n")
    path.chmod(0o755)
    return Program((str(path), "{input}"), **options)


ECHO = "print(open(sys.argv[1]).read().lower().replace('u', 't'))"


def test_what_it_writes_is_read(tmp_path):
    same = [PAIRS[1]]
    found, failures = align_by_program(program(tmp_path, ECHO), same, 1, 20)
    assert failures == [None]
    assert found.partners[0].tolist() == list(range(12))
    assert 0 < found.seconds[0] < 20


def test_clustal_and_a_structure_line(tmp_path):
    body = "print('CLUSTAL W (1.8)\\n\\na  ACGUACGUAACC\\nb  ACG-ACGUAACC\\n   *** ********\\n')"
    found, failures = align_by_program(program(tmp_path, body, form="clustal"), PAIRS[:1], 1, 20)
    assert failures == [None]
    assert found.partners[0].tolist() == [0, 1, 2, -1, 3, 4, 5, 6, 7, 8, 9, 10]
    body = "print('>SS_cons\\n(((......)))\\n>a\\nGGGACUUUACCC\\n>b\\nGGGACUUCACCC')"
    found, failures = align_by_program(program(tmp_path, body), PAIRS[1:], 1, 20)
    assert failures == [None]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("sys.exit('no such model')", "exit code 1: no such model"),
        ("print('hello')", "no alignment written"),
        ("print('>a\\nACGU\\n>b\\nACGU')", "other sequences than it was given"),
        ("print('>a\\nACGUACGUAACC\\n>c\\nACGU-CGUAACC')", "no row b"),
    ],
)
def test_a_failure_is_told_and_counts_as_no_alignment(tmp_path, body, message):
    body = f"{ECHO} if 'GGGACUUU' in open(sys.argv[1]).read() else {body}"
    found, failures = align_by_program(program(tmp_path, body), PAIRS, 2, 20)
    assert message in failures[0]
    assert failures[1] is None
    assert (found.partners[0] == -1).all()


def test_one_that_never_ends_is_ended(tmp_path):
    body = (
        "import os, pathlib\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))\n"
        f"time.sleep(60) if 'UACGUAA' in open(sys.argv[1]).read() else {ECHO}"
    )
    start = time.monotonic()
    _, failures = align_by_program(program(tmp_path, body), PAIRS[:2][::-1], 1, 2.0)
    assert failures == [None, "still running after 2 s"]
    assert time.monotonic() - start < 30
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_one_that_aligns_nothing_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="aligns no pair; the first: exit code 3"):
        align_by_program(program(tmp_path, "sys.exit(3)"), PAIRS, 1, 20)


def test_no_folder_is_left(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "tmp").mkdir()
    align_by_program(program(tmp_path, ECHO), PAIRS[1:], 1, 20)
    assert not list((tmp_path / "tmp").iterdir())


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_real_programs(name):
    if name not in installed():
        pytest.skip(f"{PROGRAMS[name].executable} is not installed")
    found, failures = align_by_program(PROGRAMS[name], PAIRS, 2, 60)
    assert failures == [None, None]
    assert found.partners[1].tolist() == list(range(12))
    assert (found.seconds > 0).all()
    assert isinstance(version_of(PROGRAMS[name]), str)
