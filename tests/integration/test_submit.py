"""`ray start --head` and `ray job submit`: ports of our own, ended by pid and not `ray stop`."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from riboray.corpus import IngestConfig, ingest
from riboray.corpus.sample import SAMPLE_ALIGNMENTS, SAMPLE_CORPUS
from tests.integration.helpers import ROOT, TINY, environment, riboray, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow]
RAY = str(Path(sys.executable).with_name("ray"))


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A head node on loopback, of the kind `ray start --head` makes."""
    # Ray puts sockets there, whose paths must stay below 108 bytes: pytest's folders are longer.
    folder = Path(f"/tmp/riboray-test-{os.getpid()}")
    names = ["port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port"]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    env = environment() | {"RAY_USAGE_STATS_ENABLED": "0"}
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    # A job's `python` is the first on the head's PATH: start it as from an activated environment.
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
    command = [RAY, "start", "--head", "--block", "--num-cpus=2", f"--temp-dir={folder}"]
    command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"]
    command += ["--object-store-memory=134217728"]
    command += [f"--{name}={port}" for name, port in ports.items()]
    log = tmp_path_factory.mktemp("head") / "log"
    with log.open("w") as out:
        head = subprocess.Popen(command, env=env, stdout=out, stderr=out, start_new_session=True)
    address = f"http://127.0.0.1:{ports['dashboard-port']}"
    env["TEST_ADDRESS"] = f"127.0.0.1:{ports['port']}"
    try:

        def up():
            assert head.poll() is None, log.read_text()
            done = subprocess.run(
                [RAY, "job", "list", "--address", address], env=env, capture_output=True
            )
            return done.returncode == 0

        wait_for(up, message="the head did not come up")
        yield address, env
    finally:
        family = psutil.Process(head.pid).children(recursive=True)
        for process in (psutil.Process(head.pid), *family):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        head.wait()
        psutil.wait_procs(family, timeout=20)
        shutil.rmtree(folder, ignore_errors=True)


def submit(cluster, *entrypoint):
    address, env = cluster
    command = [RAY, "job", "submit", "--address", address, "--working-dir", ".", "--", *entrypoint]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=400)


def test_the_job_trains_on_the_cluster(cluster, tmp_path):
    done = submit(
        cluster,
        *("python", "jobs/pretrain.py", *TINY, "--storage", str(tmp_path), "--run-name", "job"),
        *("--max-steps", "6"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "alignment F1, held-out families" in done.stdout
    summary = json.loads((tmp_path / "job" / "summary.json").read_text())
    assert summary["steps"] == 6
    assert (tmp_path / "job" / "checkpoint" / "model.safetensors").exists()


def test_ingesting_as_a_job_gives_the_same_bytes(cluster, tmp_path):
    options = {"corpus": [SAMPLE_CORPUS], "alignments": [SAMPLE_ALIGNMENTS]}
    ingest(IngestConfig(output=str(tmp_path / "here"), **options))
    done = submit(
        cluster,
        *("python", "jobs/ingest.py", SAMPLE_CORPUS, "--alignments", SAMPLE_ALIGNMENTS),
        *("--output", str(tmp_path / "job")),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2,264 read = 2,257 kept" in done.stdout
    files = sorted(p.name for p in (tmp_path / "here").glob("*.parquet"))
    assert sorted(p.name for p in (tmp_path / "job").glob("*.parquet")) == files
    for name in files:
        assert (tmp_path / "job" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()


def test_a_job_that_fails_says_so(cluster):
    done = submit(cluster, "python", "jobs/pretrain.py", "--corpus", "/nowhere.fa")
    assert done.returncode == 1
    assert "/nowhere.fa: no such file" in done.stdout


def test_the_token_is_asked_for(cluster, tmp_path):
    (tmp_path / "some.fa").write_text(">a\nACGUACGUACGU\n")
    options = ["--output", tmp_path / "out", "--ray-address", cluster[1]["TEST_ADDRESS"]]
    code, _, err = riboray("ingest", "some.fa", *options, cwd=tmp_path)
    assert code == 2
    assert "wants a token: set RAY_AUTH_MODE=token" in err.splitlines()[-1]
    assert "Traceback" not in err


def test_the_upload_is_small(root):
    """What .rayignore leaves in must stay far below Ray's limit of 100 MiB, weights included."""
    from ray._private.runtime_env.packaging import _dir_travel

    kept: list[Path] = []
    _dir_travel(root, [], kept.append, include_gitignore=True)
    files = [p for p in kept if p.is_file()]
    weights = [p for p in files if p.is_relative_to(root / "platform/riboray/weights")]
    assert sum(p.stat().st_size for p in weights) < 8 << 20
    assert sum(p.stat().st_size for p in set(files) - set(weights)) < 2 << 20
    names = {str(p.relative_to(root)) for p in files}
    sample = "platform/riboray/corpus/sample/sequences.fa.gz"
    assert {"jobs/pretrain.py", "platform/riboray/cli.py", "serve/app.py", sample} <= names
    assert not any(name.startswith((".git/", "tests/", "runs/")) for name in names)
