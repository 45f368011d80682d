"""`riboray ingest` as its user runs it, and as bad luck runs it."""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from riboray.corpus import IngestConfig, ingest, steps
from riboray.corpus.sample import SAMPLE_ALIGNMENTS, SAMPLE_CORPUS
from riboray.errors import InputError
from tests.disks import small_disk
from tests.integration.helpers import kill, riboray, start, wait_for

pytestmark = pytest.mark.ray


def digests(folder):
    """Hash of every file that is not about the run itself."""
    return {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.glob("*"))
        if p.suffix == ".parquet"
    }


def write_fasta(path, count, seed):
    """Random RNAs, some of them twice, some unusable, ids with taxids."""
    rng = np.random.default_rng(seed)
    letters = np.frombuffer(b"ACGU", np.uint8)
    block = letters[rng.integers(0, 4, (count, 90))]
    block[rng.integers(0, count, count // 20)] = block[0]
    lines = [
        b">URS%010X_%d some RNA\n%s\n" % (k, 9606 if k % 3 else 10090, row.tobytes())
        for k, row in enumerate(block)
    ]
    lines[::997] = [b">bad\nACGU-ACGU\n"] * len(lines[::997])
    path.write_bytes(b"".join(lines))
    return path


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    plain = write_fasta(folder / "a.fa", 700_000, 1)
    packed = folder / "b.fa.gz"
    more = write_fasta(folder / "b.fa", 500_000, 2)
    packed.write_bytes(gzip.compress(more.read_bytes(), 1))
    more.unlink()
    mapping = folder / "id_mapping.tsv.gz"
    with gzip.open(mapping, "wt", 1) as handle:
        for k in range(0, 700_000, 2):
            handle.write(f"URS{k:010X}\tENA\tx{k}\t{9606 if k % 3 else 10090}\ttRNA\tg\n")
    return plain, packed, mapping


def command(inputs, output, workers=2):
    plain, packed, mapping = inputs
    return [
        *("ingest", plain, packed, "--id-mapping", mapping, "--taxid", "9606"),
        *("--validation-share", "0.01", "--output", output, "--num-workers", workers),
    ]


@pytest.fixture(scope="module")
def undisturbed(inputs, tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed") / "corpus"
    code, out, err = riboray(*command(inputs, output, 1), cwd=output.parent)
    assert code == 0, err
    return output, json.loads(out)


@pytest.mark.slow
def test_the_number_of_workers_leaves_no_trace(inputs, undisturbed, tmp_path):
    output, counts = undisturbed
    code, out, err = riboray(*command(inputs, tmp_path / "c", 3), cwd=tmp_path)
    assert code == 0, err
    assert digests(tmp_path / "c") == digests(output)
    found = json.loads(out)
    assert found.pop("corpus") != counts["corpus"]
    assert found.items() <= counts.items()
    assert "1,200,000 read = " in err
    read, *outcomes = (
        counts[f"sequences_{o}"] for o in ("read", "kept", "duplicates", "rejected", "filtered")
    )
    assert read == sum(outcomes) == 1_200_000
    assert sorted(p.name for p in (tmp_path / "c").glob("*") if p.suffix != ".parquet") == [
        "manifest.json",
        "owner.json",
        "resolved_config.yaml",
    ]


@pytest.mark.slow
def test_killed_at_random_moments_the_same_command_finishes(inputs, undisturbed, tmp_path):
    """The driver with SIGKILL, with Ctrl-C, and its workers under it."""
    output, _ = undisturbed
    chance = random.Random(11)
    for attempt in range(5):
        process = start(command(inputs, tmp_path / "c"), tmp_path)
        wait_for(
            lambda process=process: (
                process.poll() is not None or list((tmp_path / "c" / "work").glob("part-*"))
            ),
            message="nothing was made",
        )
        time.sleep(chance.uniform(0, 4))
        if process.poll() is not None:
            break
        if attempt % 2:
            kill(process, signal.SIGINT)
            err = process.communicate()[1]
            assert process.returncode == 130
            assert "the same command goes on" in err
        else:
            kill(process)
            process.communicate()
        assert not (tmp_path / "c" / "manifest.json").exists() or attempt
    code, _, err = riboray(*command(inputs, tmp_path / "c"), cwd=tmp_path)
    assert code == 0, err
    assert digests(tmp_path / "c") == digests(output)
    assert not (tmp_path / "c" / "work").exists()
    assert [p.name for p in (tmp_path / "c").glob(".*")] == []


@pytest.mark.slow
def test_killed_workers_are_replaced(inputs, undisturbed, tmp_path):
    output, _ = undisturbed
    process = start(command(inputs, tmp_path / "c"), tmp_path)
    chance, killed = random.Random(5), 0
    err = None
    try:
        while process.poll() is None:
            time.sleep(chance.uniform(0.3, 1.5))
            workers = []
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess, IndexError):
                        if child.cmdline()[0].startswith("ray::_call"):
                            workers.append(child)
            if workers and killed < 4:
                with contextlib.suppress(psutil.NoSuchProcess):
                    chance.choice(workers).kill()
                    killed += 1
            if killed >= 4:
                _, err = process.communicate(timeout=240)
    finally:
        if process.poll() is None:
            kill(process)
    if err is None:
        _, err = process.communicate()
    assert killed, "no worker was killed"
    assert process.returncode == 0, err
    assert digests(tmp_path / "c") == digests(output)


def test_two_at_once_and_other_inputs(inputs, undisturbed, tmp_path):
    process = start(command(inputs, tmp_path / "c", 1), tmp_path)
    try:
        wait_for(lambda: (tmp_path / "c" / ".lock").exists())
        code, _, err = riboray(*command(inputs, tmp_path / "c", 1), cwd=tmp_path)
        assert code == 2
        assert "another process is making a corpus in it" in err
    finally:
        kill(process, signal.SIGTERM)
        process.communicate()
    code, _, err = riboray(*command(inputs, tmp_path / "c", 1), "--min-length", "20", cwd=tmp_path)
    assert code == 2
    assert "other inputs or options" in err
    output, _ = undisturbed
    code, _, err = riboray(*command(inputs, output, 1), cwd=tmp_path)
    assert (code, "is complete already" in err) == (0, True)


def test_a_full_disk_loses_nothing(tmp_path):
    """On a disk of 24 MB: an error, no rubbish, and the same command finishes with more room."""
    with small_disk(tmp_path / "disk", "24m") as disk:
        path = write_fasta(tmp_path / "in.fa", 120_000, 3)
        output = disk.path / "c"
        common = ["ingest", path, "--num-workers", "1", "--output", output]
        code, _, err = riboray(*common, cwd=tmp_path)
        assert code == 2, "told beforehand"
        assert "are needed, but only" in err
        # As if other programs had taken the room meanwhile.
        patch = (
            "import riboray.corpus.ingestion as i; i._ROOM = 0.1; from riboray.cli import main; "
        )
        script = patch + "import sys; sys.exit(main(sys.argv[1:]))"
        arguments = [*map(str, common)]
        run = functools.partial(subprocess.run, capture_output=True, text=True, cwd=tmp_path)
        done = run([sys.executable, "-c", script, *arguments])
        assert done.returncode == 1
        assert "No space left" in done.stderr
        assert "Traceback" not in done.stderr
        assert not (output / "manifest.json").exists()
        disk.resize("200m")
        code, out, err = riboray(*common, cwd=tmp_path)
        assert code == 0, err
        assert json.loads(out)["sequences_read"] == 120_000


def test_inputs_over_http(server, tmp_path, monkeypatch):
    folder, url = server
    path = write_fasta(folder / "a.fa", 3000, 4)
    (folder / "a.fa.gz").write_bytes(gzip.compress(path.read_bytes()))
    ingest(IngestConfig(corpus=[str(path)], output=str(tmp_path / "local")))
    table = pq.read_table(tmp_path / "local" / "sequences-00000.parquet")
    pq.write_table(table, folder / "a.parquet", row_group_size=500)
    (folder / "x.sto").write_bytes(gzip.decompress(Path(SAMPLE_ALIGNMENTS).read_bytes()))
    wanted = digests(tmp_path / "local")["sequences-00000.parquet"]
    monkeypatch.setattr(steps, "PART_BYTES", 100_000)
    for name in ("a.fa", "a.fa.gz", "a.parquet"):
        output = tmp_path / name.replace(".", "-")
        ingest(IngestConfig(corpus=[f"{url}/{name}"], output=str(output)))
        assert digests(output)["sequences-00000.parquet"] == wanted
    found = ingest(IngestConfig(alignments=[f"{url}/x.sto"], output=str(tmp_path / "families")))
    assert found.counts["families_read"] == 9
    with pytest.raises(InputError, match=r"nothing.fa: no such file"):
        ingest(IngestConfig(corpus=[f"{url}/nothing.fa"], output=str(tmp_path / "n")))
    for name, message in (("busy", "HTTP status 503"), ("broken", "the connection broke")):
        with pytest.raises(InputError, match=message) as failed:
            ingest(IngestConfig(corpus=[f"{url}/{name}.fa"], output=str(tmp_path / "n")))
        assert failed.value.exit_code == 1, "it may be there the next time"
    with pytest.raises(InputError, match="no way to read it"):
        ingest(IngestConfig(corpus=["gopher://x/y.fa"], output=str(tmp_path / "n")))


def test_inputs_from_an_object_store(tmp_path, object_store):
    """A file, a folder, a pattern."""
    store, query = object_store
    store.create_dir("rnas")
    raw = write_fasta(tmp_path / "a.fa", 3000, 4).read_bytes()
    for name in ("rnas/deep/a.fa", "rnas/deep/b.fa.gz", "rnas/notes.txt"):
        with store.open_output_stream(name, compression=None) as sink:
            sink.write(gzip.compress(raw) if name.endswith("gz") else raw)
    for number, (place, files) in enumerate(
        [("deep/a.fa", 1), ("deep", 2), ("**/*.fa*", 2), ("deep/*.gz", 1)]
    ):
        output = str(tmp_path / f"c{number}")
        manifest = ingest(IngestConfig(corpus=[f"s3://rnas/{place}{query}"], output=output))
        assert len(manifest.details["inputs"]) == files
        assert manifest.counts["sequences_read"] == 3000 * files
    missing = IngestConfig(corpus=[f"s3://rnas/nothing.fa{query}"], output=str(tmp_path / "n"))
    with pytest.raises(InputError, match="no such file"):
        ingest(missing)


def test_ingest_and_describe_the_sample(tmp_path):
    code, out, err = riboray(
        "ingest", SAMPLE_CORPUS, "--alignments", SAMPLE_ALIGNMENTS, cwd=tmp_path
    )
    assert code == 0, err
    assert "2,264 read = 2,257 kept + 0 duplicates + 7 rejected + 0 filtered" in err
    assert json.loads(out)["reasons"]["rejected"] == {"longer than max_length": 7}
    code, out, err = riboray("corpus-stats", "corpus", "--figure", "page.html", cwd=tmp_path)
    assert code == 0, err
    assert json.loads(out)["sequences"]
    assert (tmp_path / "page.html").stat().st_size > 10_000
    code, _, err = riboray("fetch", "nowhere", cwd=tmp_path)
    assert code == 2
    assert "nowhere" in err
