"""What clients notice when replicas come, go and die: `serve deploy` on a Ray cluster.

    python -m benchmarks.serving_cluster [--seconds 60]

A Ray head is started on loopback, with a token, and stopped again. Clients ask without a break for
eight sequences at a time; every answer is held against what the model itself gives. (1) The
checkpoint is changed by `serve deploy`, with one replica and with two. (2) One of two replicas is
killed. (3) Clients come and go while there may be one to three replicas.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import httpx
import numpy as np
import psutil
import yaml

from benchmarks.serving import free_ports, make_sequences
from riboray.embedding.embedder import Embedder, Wanted
from riboray.model.checkpoint import load_checkpoint

BIN = Path(sys.executable).parent
MODELS = ("rnabert", "rnabert-zero-shot")

#: Sequences of a request, and different requests.
_EACH, _REQUESTS = 8, 32


@dataclass
class Cluster:
    """A Ray head of our own that services are deployed on."""

    head: subprocess.Popen[bytes]
    dashboard: int
    port: int
    environment: dict[str, str]
    folder: Path

    @property
    def url(self) -> str:
        """Where the service answers."""
        return f"http://127.0.0.1:{self.port}"

    def deploy(self, checkpoint: str, deployment: dict[str, object]) -> None:
        """Deploy ``serve/config.yaml``, changed as asked for."""
        config = yaml.safe_load(Path("serve/config.yaml").read_text("utf-8"))
        config["http_options"]["port"] = self.port
        (application,) = config["applications"]
        application["args"]["checkpoint"] = checkpoint
        (known,) = application["deployments"]
        known.pop("autoscaling_config")
        known.update(deployment)
        path = self.folder / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        address = f"http://127.0.0.1:{self.dashboard}"
        subprocess.run(
            [BIN / "serve", "deploy", str(path), "--address", address],
            env=self.environment,
            check=True,
            capture_output=True,
        )

    def replicas(self) -> list[psutil.Process]:
        """Return the processes that answer."""
        family = psutil.Process(self.head.pid).children(recursive=True)
        return [p for p in family if "ServeReplica:riboray" in " ".join(_command(p))]

    def wait(self, model: str) -> None:
        """Wait until a model answers."""
        while True:
            try:
                if httpx.get(f"{self.url}/v1/info").json()["model"] == model:
                    return
            except (httpx.HTTPError, ValueError, KeyError):
                pass
            time.sleep(0.2)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Start a head on loopback; end it with all its processes."""
    folder = Path(tempfile.mkdtemp(prefix="serving-"))
    gcs, dashboard, agent, client, port = free_ports(5)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment |= {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    environment["PYTHONPATH"] = str(Path("platform").resolve())
    options = ["--head", "--block", "--num-cpus=6", "--node-ip-address=127.0.0.1"]
    options += [f"--port={gcs}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1"]
    options += [f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}"]
    options += [f"--temp-dir={folder}/r", "--object-store-memory=200000000"]
    with (folder / "log").open("wb") as log:
        head = subprocess.Popen(
            [BIN / "ray", "start", *options], env=environment, stdout=log, stderr=log
        )
    try:
        yield Cluster(head, dashboard, port, environment, folder)
    finally:
        family = psutil.Process(head.pid).children(recursive=True)
        head.terminate()
        head.wait(60)
        for process in psutil.wait_procs(family, timeout=10)[1]:
            process.kill()
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Clients:
    """Clients that ask without a break, and what they were told.

    Attributes
    ----------
    answers : list of tuple
        When it came, status (0: no answer), seconds, model, and whether it was right.
    """

    url: str
    texts: list[list[str]]
    wanted: dict[str, np.ndarray]
    answers: list[tuple[float, int, float, str, bool]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)

    def start(self, count: int) -> None:
        """Let so many begin."""
        for number in range(count):
            thread = threading.Thread(target=self._ask, args=(number,), daemon=True)
            thread.start()
            self.threads.append(thread)

    def stop(self) -> None:
        """Let them end."""
        self.ended.set()
        for thread in self.threads:
            thread.join()
        self.ended.clear()
        self.threads.clear()

    def _ask(self, number: int) -> None:
        with httpx.Client(base_url=self.url, timeout=100) as client:
            while not self.ended.is_set():
                number += 1
                turn = number % len(self.texts)
                start = time.monotonic()
                status, model, right = 0, "", True
                try:
                    answer = client.post("/v1/embed", json={"sequences": self.texts[turn]})
                    status = answer.status_code
                    if status == 200:
                        found = answer.json()
                        model = found["model"]
                        rows = np.array([item["embedding"] for item in found["results"]])
                        right = bool(np.allclose(rows, self.wanted[model][turn], atol=1e-4))
                except httpx.HTTPError:
                    pass
                now = time.monotonic()
                self.answers.append((now, status, now - start, model, right))

    def told(self, since: float) -> str:
        """Say what came since then."""
        chosen = [a for a in self.answers if a[0] >= since]
        statuses = dict(Counter(a[1] for a in chosen))
        seconds = np.array([a[2] for a in chosen])
        p50, p99 = np.quantile(seconds, [0.5, 0.99]) * 1e3
        wrong = sum(not a[4] for a in chosen)
        models = dict(Counter(a[3] for a in chosen if a[3]))
        return (
            f"{len(chosen)} answers, statuses {statuses}, {wrong} wrong, models {models}; "
            f"p50 {p50:.0f} ms, p99 {p99:.0f} ms, longest {seconds.max():.1f} s"
        )


def wanted_of(texts: list[list[str]]) -> dict[str, np.ndarray]:
    """Embed by the models themselves."""
    found = {}
    for name in MODELS:
        embedder = Embedder(load_checkpoint(name).model)
        layer = embedder.config.num_hidden_layers
        rows = [embedder.embed(some, Wanted((layer,))).pooled[layer] for some in texts]
        found[name] = np.stack(rows)
    return found


def rollout(there: Cluster, clients: Clients, replicas: int, seconds: float) -> None:
    """Change the checkpoint under load."""
    old, new = MODELS
    there.deploy(old, {"num_replicas": replicas})
    there.wait(old)
    clients.start(8)
    time.sleep(seconds / 4)
    start = time.monotonic()
    there.deploy(new, {"num_replicas": replicas})
    time.sleep(seconds)
    clients.stop()
    first = min((a[0] for a in clients.answers if a[0] > start and a[3] == new), default=np.nan)
    last = max((a[0] for a in clients.answers if a[0] > start and a[3] == old), default=start)
    print(f"another checkpoint, {replicas} replicas: {clients.told(start)}")
    print(
        f"  first answer of the new one {first - start:.1f} s after the command's start, "
        f"last of the old one {last - start:.1f} s",
        flush=True,
    )


def kill_one(there: Cluster, clients: Clients, seconds: float) -> None:
    """Kill one of two replicas under load; say when there are two again."""
    there.deploy(MODELS[0], {"num_replicas": 2})
    there.wait(MODELS[0])
    while len(there.replicas()) < 2:
        time.sleep(0.2)
    clients.start(8)
    time.sleep(seconds / 4)
    victim = there.replicas()[0]
    start = time.monotonic()
    victim.kill()
    again = np.nan
    while time.monotonic() - start < seconds:
        if np.isnan(again) and len([p for p in there.replicas() if p != victim]) == 2:
            again = time.monotonic() - start
        time.sleep(0.2)
    clients.stop()
    bad = [a[0] - start for a in clients.answers if a[0] >= start and a[1] != 200]
    print(f"one of two replicas killed: {clients.told(start)}")
    until = max(bad, default=0.0)
    print(f"  last answer that was not 200 came {until:.1f} s after, ", end="")
    print(f"a new process in place of the killed one {again:.1f} s after", flush=True)


def scale(there: Cluster, clients: Clients, seconds: float) -> None:
    """Let clients come and go where there may be one to three replicas."""
    scaling = {"min_replicas": 1, "max_replicas": 3, "target_ongoing_requests": 16}
    delays = {"upscale_delay_s": 5, "downscale_delay_s": 10}
    there.deploy(MODELS[0], {"autoscaling_config": {**scaling, **delays}})
    there.wait(MODELS[0])
    while len(there.replicas()) != 1:
        time.sleep(0.2)
    start, seen = time.monotonic(), []
    clients.start(48)
    while time.monotonic() - start < seconds:
        seen.append((time.monotonic() - start, len(there.replicas())))
        time.sleep(0.5)
    clients.stop()
    print(f"one to three replicas, 48 clients for {seconds:.0f} s: {clients.told(start)}")
    while time.monotonic() - start < 4 * seconds and len(there.replicas()) > 1:
        seen.append((time.monotonic() - start, len(there.replicas())))
        time.sleep(0.5)
    seen.append((time.monotonic() - start, len(there.replicas())))
    steps = [seen[0], *(b for a, b in pairwise(seen) if a[1] != b[1])]
    print("  replicas: " + ", ".join(f"{n} at {t:.0f} s" for t, n in steps), flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    given = parser.parse_args()
    sequences = make_sequences(_EACH * _REQUESTS)
    texts = [sequences[k : k + _EACH] for k in range(0, len(sequences), _EACH)]
    wanted = wanted_of(texts)
    with cluster() as there:

        def clients() -> Clients:
            return Clients(there.url, texts, wanted)

        time.sleep(10)
        for replicas in (1, 2):
            rollout(there, clients(), replicas, given.seconds)
        kill_one(there, clients(), given.seconds)
        scale(there, clients(), given.seconds)


if __name__ == "__main__":
    main()
