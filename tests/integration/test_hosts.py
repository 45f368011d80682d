"""Machines that go, come back, are cut off, run full: the same output as if nothing had been."""

from __future__ import annotations

import json
import signal
import time

import numpy as np
import pytest

from riboray.corpus.sample import SAMPLE_ALIGNMENTS, SAMPLE_CORPUS
from tests.conftest import random_sequences
from tests.hosts import refusal, three_hosts
from tests.integration.helpers import TINY, kill, riboray, wait_for, write_fasta
from tests.integration.test_elastic import steps, workers
from tests.integration.test_elastic import undisturbed as undisturbed_training

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    if why := refusal():
        pytest.skip(why)
    with three_hosts(tmp_path_factory.mktemp("hosts")) as found:
        yield found


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    write_fasta(folder / "rnas.fa", random_sequences(np.random.default_rng(8), 2600, 80, 120))
    write_fasta(folder / "targets.fa", random_sequences(np.random.default_rng(7), 4500, 80, 120))
    write_fasta(folder / "queries.fa", random_sequences(np.random.default_rng(6), 60, 80, 120))
    write_fasta(folder / "few.fa", random_sequences(np.random.default_rng(9), 300, 80, 120))
    rng = np.random.default_rng(1)
    many = random_sequences(rng, 120_000, 60, 120)
    half = len(many) // 2
    for k, part in enumerate((many[:half], many[half:])):
        write_fasta(folder / f"many-{k}.fa", part)
    return folder


COMMANDS = {
    "embed": ["embed", "rnas.fa", "--shard-bytes", "6000"],
    "align": ["align", "few.fa", "--all-pairs", "--min-score", "20"],
    "search": ["search", "queries.fa", "--db", "db", "--prefilter", "none", "--max-hits", "3"],
    "ingest": [
        *("ingest", "many-0.fa", "many-1.fa", "--alignments", SAMPLE_ALIGNMENTS),
        *("--rows-per-shard", "4000"),
    ],
}


@pytest.fixture(scope="module")
def undisturbed(work):
    """What each command makes on this machine alone."""
    made = {}

    def get(name):
        if name not in made:
            output = work / f"{name}-alone"
            code, _, err = riboray(*COMMANDS[name], "--output", output, cwd=work)
            assert code == 0, err
            made[name] = contents(output)
        return made[name]

    return get


INGEST = ["ingest", SAMPLE_CORPUS, "--alignments", SAMPLE_ALIGNMENTS]


def contents(output):
    """What a command has made, but for what tells when and where."""
    own = ("manifest.json", "resolved_config.yaml", "summary.json", "owner.json")
    files = [p for p in sorted(output.rglob("*")) if p.is_file() and p.name not in own]
    return {str(p.relative_to(output)): p.read_bytes() for p in files}


def progress(output):
    """Files that are done, in the output or on the way."""
    patterns = ("*.arrow", "pairs/*.arrow", "work/*.arrow", "work/parts/*", "work/*/*")
    return sum(len(list(output.glob(pattern))) for pattern in patterns)


class Run:
    """A command on the hosts, as far as it is."""

    def __init__(self, hosts, work, name, suffix):
        self.name, self.output = name, work / f"{name}-{suffix}"
        self.log = work / f"{name}-{suffix}.log"
        with self.log.open("w") as log:
            words = [*COMMANDS[name], "--output", self.output]
            self.process = hosts.start(*words, cwd=work, log=log)

    def begun(self, files):
        def there():
            return self.process.poll() is not None or progress(self.output) >= files

        wait_for(there, message="nothing is made")
        assert self.process.poll() is None, self.log.read_text()

    def done(self, seconds=300):
        try:
            code = self.process.wait(seconds)
        finally:
            if self.process.poll() is None:
                kill(self.process)
        return code


@pytest.mark.parametrize("name", ["ingest", "align", "embed"])
def test_a_machine_goes(hosts, work, undisturbed, name):
    """All its processes at once, with what lay in its memory."""
    expected = undisturbed(name)
    hosts.whole()
    run = Run(hosts, work, name, "killed")
    run.begun(6 if name == "ingest" else 3)
    hosts.workers[1].kill()
    assert run.done() == 0, run.log.read_text()
    assert contents(run.output) == expected


def test_a_machine_is_cut_off_for_a_minute(hosts, work, undisturbed):
    """Whether Ray gives it up or not: nothing is lost, and nothing is there twice."""
    expected = undisturbed("embed")
    hosts.whole()
    run = Run(hosts, work, "embed", "cut-off")
    run.begun(3)
    hosts.workers[0].cut_off()
    time.sleep(60)
    hosts.workers[0].join()
    assert run.done() == 0, run.log.read_text()
    assert contents(run.output) == expected


def test_training_goes_on_when_a_machine_is_cut_off(hosts, work):
    """Every step is that of a run in one process, whoever took part in it."""
    code, _, err = riboray(*INGEST, "--output", "corpus", cwd=work)
    assert code == 0, err
    hosts.whole()
    words = ["pretrain", "--corpus", work / "corpus", *TINY, "--run-name", "r", "--track", "[]"]
    words += ["--num-workers", "[1, 2]", "--record-seconds", "0", "--max-steps", "1000000"]
    words += ["--resize-minutes", "0.1", "--checkpoint-minutes", "0.05"]
    folder, log = work / "runs" / "r", work / "pretrain.log"
    # A machine's death is noticed after Ray Train has asked for workers on it once more: by
    # default it waits a minute for them.
    patience = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20"}
    with log.open("w") as out:
        process = hosts.start(*words, cwd=work, log=out, **patience)
    try:
        wait_for(lambda: len(steps(folder)) > 20 and workers(folder) == 2, message="no two workers")
        wait_for(lambda: any(folder.glob("checkpoints/step-*/manifest.json")))
        hosts.workers[1].cut_off()
        time.sleep(60)
        hosts.workers[1].join()
        wait_for(lambda: workers(folder) == 1, message="did not go on with one worker")
        many = len(steps(folder)) + 10
        wait_for(lambda: len(steps(folder)) > many, message="no steps with one worker")
    finally:
        code = kill(process, signal.SIGTERM)
    assert code == 130, log.read_text()
    found = steps(folder)
    assert [r["step"] for r in found] == list(range(1, len(found) + 1))
    alone, _ = undisturbed_training(work / "corpus", folder, len(found))
    assert [r["batches_crc32"] for r in found] == [r["batches_crc32"] for r in alone]


@pytest.fixture(scope="module")
def database(work):
    code, _, err = riboray("embed", "targets.fa", "--output", "db", "--per-base", cwd=work)
    assert code == 0, err


def test_more_than_the_object_stores_hold(hosts, work, database, undisturbed):
    """216 MB of base embeddings through 80 MB a node: they go to the nodes' disks and come back."""
    expected = undisturbed("search")
    hosts.whole()
    run = Run(hosts, work, "search", "spilled")
    spilled = 0
    while run.process.poll() is None:
        spilled = max(spilled, sum(worker.spilled() for worker in hosts.workers))
        time.sleep(1)
    assert run.done() == 0, run.log.read_text()
    assert spilled > 0
    assert contents(run.output) == expected


def test_a_machines_own_disk_is_full(hosts, work, database, undisturbed):
    """Ray cannot put riboray's code there, so no process begins; the others do the work."""
    expected = undisturbed("search")
    hosts.whole()
    hosts.workers[0].fill_disk()
    run = Run(hosts, work, "search", "full")
    assert run.done() == 0, run.log.read_text()
    assert "a process could not begin: RuntimeEnvSetupError" in run.log.read_text()
    assert contents(run.output) == expected
    hosts.workers[0].kill()  # Ray remembers the failure for minutes


def test_the_head_goes(hosts, work, undisturbed):
    """The run ends with it; given again on a new head, it goes on from what is done."""
    expected = undisturbed("embed")
    hosts.whole()
    run = Run(hosts, work, "embed", "headless")
    run.begun(4)
    hosts.head.kill()
    assert run.done(150) != 0
    files = {p.name: p.stat().st_mtime_ns for p in run.output.glob("*.arrow")}
    assert len(files) >= 4
    for worker in hosts.workers:
        worker.kill()
    hosts.start_head()
    hosts.whole()
    again = Run(hosts, work, "embed", "headless")
    assert again.done() == 0, again.log.read_text()
    assert "files are done already" in again.log.read_text()
    assert contents(run.output) == expected
    kept = [n for n, at in files.items() if (run.output / n).stat().st_mtime_ns == at]
    assert len(kept) >= len(files) - 2
    assert json.loads((run.output / "manifest.json").read_text())["counts"]
