"""`ray start --head` and `ray job submit`: ports of our own, ended by pid and not `ray stop`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
import venv
from pathlib import Path

import pytest

from riboray.corpus import IngestConfig, ingest
from riboray.corpus.sample import SAMPLE_ALIGNMENTS, SAMPLE_CORPUS
from tests.clusters import head
from tests.integration.helpers import ROOT, TINY, riboray

pytestmark = [pytest.mark.ray, pytest.mark.slow]
RAY = str(Path(sys.executable).with_name("ray"))
NAMES = ("ray, torch, numba", "riboray")


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """An interpreter that has all that riboray needs, but not riboray: a cluster's node."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, symlinks=True)
    (packages,) = (folder / "lib").glob("python3*/site-packages")
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        # Installed or in editable mode: riboray's own, and files that name further folders.
        if "riboray" not in entry.name and entry.suffix != ".pth":
            (packages / entry.name).symlink_to(entry)
    python = folder / "bin" / "python"
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = [
        subprocess.run(
            [python, "-c", f"import {names}"], cwd=folder, env=env, capture_output=True, text=True
        )
        for names in NAMES
    ]
    if [d.returncode for d in done] != [0, 1]:
        pytest.skip(f"no interpreter without riboray can be made here: {done}")
    return str(python)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, bare):
    """A head node on loopback that has no riboray."""
    with head(tmp_path_factory.mktemp("head"), "--num-cpus=2", python=bare) as found:
        found.env["TEST_ADDRESS"] = found.address
        yield found.dashboard, found.env, found


def submit(cluster, *entrypoint):
    address, env, _ = cluster
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


def test_riboray_submit(cluster, tmp_path):
    """From the source tree, and from elsewhere; to the end, and not."""
    *_, there = cluster
    (tmp_path / "rnas.fa").write_text(">a\nACGUACGUACGUAAGG\n>b\nGGCAUUGCACGGAUA\n")
    command = ["embed", tmp_path / "rnas.fa", "--num-workers", "1", "--json", "--output"]
    code, out, err = there.submit(*command, tmp_path / "one")
    assert code == 0, out + err
    assert "2 read = 2 embedded" in out
    assert json.loads(out[out.index("{\n") : out.rindex("}") + 1])["sequences_embedded"] == 2
    (tmp_path / "folder").mkdir()
    options = ["--working-dir", tmp_path / "folder", "--name", "other", "--wait", "no"]
    code, out, err = there.submit(*command, tmp_path / "two", options=options)
    assert code == 0, out + err
    assert "ray job logs --follow" in err
    end = time.monotonic() + 120
    while not (tmp_path / "two" / "manifest.json").exists() and time.monotonic() < end:
        time.sleep(0.5)
    (one,), (two,) = (list((tmp_path / name).glob("*.arrow")) for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    code, out, err = there.submit(*command, tmp_path / "two", options=["--name", "other"])
    assert code != 0
    assert "already exists" in err


def test_a_jobs_exit_code_is_the_commands(cluster, tmp_path):
    *_, there = cluster
    code, out, err = there.submit("embed", "/nowhere.fa", "--output", tmp_path / "out")
    assert code == 2
    assert "/nowhere.fa: no such file" in out
    assert err.splitlines()[-1].endswith("failed with exit code 2")


def test_strangers_are_refused(cluster, tmp_path):
    """Whatever can start code: jobs, the nodes' agents, Serve's REST; the console needs a token."""
    address, _, there = cluster
    agent = next(
        word.partition("=")[2]
        for word in there.process.args
        if word.startswith("--dashboard-agent-listen-port")
    )
    doors = [
        ("POST", f"{address}/api/jobs/"),
        ("GET", f"{address}/api/jobs/"),
        ("PUT", f"{address}/api/serve/applications/"),
        ("POST", f"http://127.0.0.1:{agent}/api/job_agent/jobs/"),
    ]
    job = json.dumps({"entrypoint": f"touch {tmp_path / 'stranger-was-here'}"}).encode()
    for method, url in doors:
        for token, wanted in ((None, 401), ("0" * 64, 403)):
            request = urllib.request.Request(url, method=method)
            if method != "GET":
                request.data = job
                request.add_header("Content-Type", "application/json")
            if token is not None:
                request.add_header("Authorization", f"Bearer {token}")
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(request, timeout=30)
            assert refused.value.code == wanted, (method, url)
    for variables, message in (
        ({"RAY_AUTH_TOKEN": "0" * 64}, "wants its token"),
        ({"RAY_AUTH_TOKEN": "", "HOME": str(tmp_path)}, "wants its token"),
    ):
        saved = dict(there.env)
        there.env.update(variables)
        try:
            code, _, err = there.submit("info")
        finally:
            there.env.clear()
            there.env.update(saved)
        assert code == 2
        assert message in err
        assert "Traceback" not in err
    assert not (tmp_path / "stranger-was-here").exists()


def test_the_upload_is_small(root):
    """What .rayignore leaves in must stay far below Ray's limit of 100 MiB, weights included."""
    from ray._private.runtime_env.packaging import _dir_travel

    kept: list[Path] = []
    _dir_travel(root, [], kept.append, include_gitignore=True)
    files = [p for p in kept if p.is_file()]
    weights = [p for p in files if p.is_relative_to(root / "platform/riboray/weights")]
    assert sum(p.stat().st_size for p in weights) < 8 << 20
    # 2.2 MB of source and sample in November 2026: data that slip in would show.
    assert sum(p.stat().st_size for p in set(files) - set(weights)) < 4 << 20
    names = {str(p.relative_to(root)) for p in files}
    sample = "platform/riboray/corpus/sample/sequences.fa.gz"
    assert {"jobs/pretrain.py", "platform/riboray/cli.py", "serve/app.py", sample} <= names
    assert not any(name.startswith((".git/", "tests/", "runs/")) for name in names)
