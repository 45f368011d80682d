from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from riboray.errors import CorpusError, OutputError
from riboray.manifest import (
    FileEntry,
    Manifest,
    atomic_directory,
    atomic_path,
    fingerprint,
    read_manifest,
    write_manifest,
)


def make(folder):
    folder.mkdir()
    (folder / "a.txt").write_text("hello")
    entry = FileEntry.of(folder / "a.txt", rows=1)
    write_manifest(folder, Manifest(kind="corpus", fingerprint="f", files=(entry,)))


def test_round_trip(tmp_path):
    make(tmp_path / "d")
    manifest = read_manifest(tmp_path / "d", "corpus", verify=True)
    assert manifest is not None
    assert manifest.files[0].sha256.startswith("2cf24dba")  # sha256 of "hello"
    assert manifest.files[0].bytes == 5


def test_no_manifest_means_not_complete(tmp_path):
    assert read_manifest(tmp_path, "corpus") is None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "a.txt").unlink(), "missing"),
        (lambda d: (d / "a.txt").write_text("hello!"), "another size"),
        (lambda d: (d / "a.txt").write_text("HELLO"), "other content"),
        (lambda d: (d / "manifest.json").write_text("{"), "not a riboray manifest"),
        (lambda d: (d / "manifest.json").write_text('{"files": [], "x": 1}'), "not a riboray"),
    ],
)
def test_damage_is_found(tmp_path, damage, message):
    make(tmp_path / "d")
    damage(tmp_path / "d")
    with pytest.raises(CorpusError, match=message):
        read_manifest(tmp_path / "d", "corpus", verify=True)


def test_other_kinds_and_newer_schemas(tmp_path):
    make(tmp_path / "d")
    with pytest.raises(CorpusError, match="holds corpus, not checkpoint"):
        read_manifest(tmp_path / "d", "checkpoint")
    path = tmp_path / "d" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))
    with pytest.raises(CorpusError, match="newer"):
        read_manifest(tmp_path / "d", "corpus")


def test_atomic_path_leaves_the_old_file_when_writing_fails(tmp_path):
    target = tmp_path / "file"
    target.write_text("old")

    def fail():
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_atomic_directory_appears_whole_or_not_at_all(tmp_path):
    def fail():
        with atomic_directory(tmp_path / "d") as temporary:
            (temporary / "x").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []
    with atomic_directory(tmp_path / "d") as temporary:
        (temporary / "x").write_text("whole")
    assert (tmp_path / "d" / "x").read_text() == "whole"
    with pytest.raises(OutputError, match="exists already"), atomic_directory(tmp_path / "d"):
        pass


def test_a_killed_writer_leaves_nothing_that_looks_complete(tmp_path):
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from riboray.manifest import atomic_directory\n"
        "with atomic_directory(Path(sys.argv[1])) as t:\n"
        "    (t / 'x').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "d")], env=os.environ)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "d").exists()


def test_fingerprint_depends_on_values_not_on_order():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
