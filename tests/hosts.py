"""Several machines on one: a network namespace each, joined by a bridge, with a small disk each.

A host can be cut off (its link goes down), killed (all its processes, at once) and have its disk
filled. The file system is otherwise shared, as on a cluster with a common disk. Needs root.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tests.integration.helpers import ROOT, environment, wait_for

_NET = "10.77.0"


def refusal():
    """Why there can be no hosts here, or None."""
    if shutil.which("ip") is None:
        return "needs iproute2"
    name = f"rbtry{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
        return "needs the right to make network namespaces (root)"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return None


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Host:
    """A machine.

    Parameters
    ----------
    number : int
        The last part of its address.
    tag : str
        Of the test, in the names of namespaces.
    folder : Path
        Where its own disk is mounted; short, since sockets lie there.
    """

    def __init__(self, number, tag, folder, env):
        self.name, self.switch = f"{tag}h{number}", f"{tag}s"
        self.address = f"{_NET}.{number}"
        self.disk, self.env, self.process = folder / f"{number}", env, None
        self.link = f"v{number}"
        ip("netns", "add", self.name)
        ip(
            *("link", "add", self.link, "netns", self.switch, "type", "veth"),
            *("peer", "name", "eth0", "netns", self.name),
        )
        ip("-n", self.switch, "link", "set", self.link, "master", "br0", "up")
        ip("-n", self.name, "addr", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            ip("-n", self.name, "link", "set", device, "up")

    def inside(self, *words):
        """A command in the network, and with the disk, of a host that runs."""
        where = ("nsenter", "--target", str(self.process.pid), "--net", "--mount")
        return [*where, *map(str, words)]

    def start(self, *options, log, size="400m"):
        """Start Ray there; its session's folder is a disk of its own."""
        self.disk.mkdir(exist_ok=True)
        ray = f"{sys.executable} -m ray.scripts.scripts start --block"
        ray += f" --temp-dir={self.disk} --node-ip-address={self.address} {' '.join(options)}"
        script = f"mount -t tmpfs -o size={size} none {self.disk} && exec {ray}"
        with log.open("a") as out:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.name, "unshare", "--mount", "bash", "-c", script],
                cwd=ROOT,
                env=self.env,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def pids(self):
        done = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True)
        return [int(word) for word in done.stdout.split()]

    def kill(self):
        """Kill all processes, as a machine that goes takes them."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.process is not None:
            self.process.wait(20)
        wait_for(lambda: not self.pids(), 20)

    def cut_off(self):
        ip("-n", self.switch, "link", "set", self.link, "down")

    def join(self):
        ip("-n", self.switch, "link", "set", self.link, "up")

    def fill_disk(self):
        """Leave nothing free on the host's own disk."""
        fill = f"head -c 100G /dev/zero > {self.disk}/filler"
        subprocess.run(self.inside("bash", "-c", fill), capture_output=True)

    def spilled(self):
        """Files of objects that did not fit the object store."""
        find = self.inside("find", self.disk, "-path", "*ray_spilled_objects*", "-type", "f")
        return len(subprocess.run(find, capture_output=True, text=True).stdout.splitlines())

    def clear_disk(self):
        subprocess.run(self.inside("rm", "-f", f"{self.disk}/filler"), check=True)


class Hosts:
    """A head without CPUs and two workers of one CPU each, on three hosts."""

    def __init__(self, folder, log, store):
        self.log, self._store = log, store
        self.tag = f"rb{os.getpid() % 10000}{secrets.token_hex(1)}"
        env = environment() | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token"}
        self.env = env | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
        ip("netns", "add", f"{self.tag}s")
        ip("-n", f"{self.tag}s", "link", "add", "br0", "type", "bridge")
        ip("-n", f"{self.tag}s", "link", "set", "br0", "up")
        self.hosts = [Host(n, self.tag, folder, self.env) for n in (1, 2, 3)]
        self.head, *self.workers = self.hosts
        self.address = f"{self.head.address}:6379"

    def begin(self):
        self.start_head()
        for worker in self.workers:
            self.start_worker(worker)

    def start_head(self):
        self.head.start(
            *("--head", "--port=6379", "--num-cpus=0", "--include-dashboard=false"),
            f"--object-store-memory={self._store}",
            log=self.log,
        )
        wait_for(lambda: self.alive() >= 1, 90, "the head did not come up")

    def start_worker(self, host):
        options = (f"--address={self.address}", "--num-cpus=1")
        host.start(*options, f"--object-store-memory={self._store}", log=self.log)

    def alive(self):
        """How many nodes Ray takes to be there."""
        code = (
            f"import ray; ray.init({self.address!r}, log_to_driver=False, logging_level='ERROR');"
            "print(sum(node['Alive'] for node in ray.nodes()))"
        )
        done = subprocess.run(
            self.head.inside(sys.executable, "-c", code),
            env=self.env,
            capture_output=True,
            text=True,
            timeout=90,
        )
        return int(done.stdout.split()[-1]) if done.returncode == 0 else 0

    def whole(self):
        """Start what was killed, and wait until all are there."""
        for worker in self.workers:
            if worker.process.poll() is not None:
                worker.kill()
                self.start_worker(worker)
        wait_for(lambda: self.alive() == 3, 120, "the nodes did not come up")

    def start(self, *words, cwd, log, **variables):
        """Start `riboray VERB …` on the head's host; further keywords: environment."""
        there = ("bash", "-c", 'cd "$0" && exec "$@"', cwd)  # mounts take the folder along
        command = self.head.inside(*there, sys.executable, "-m", "riboray.cli", *words)
        return subprocess.Popen(
            [*command, "--ray-address", self.address],
            env=self.env | variables,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def end(self):
        for host in reversed(self.hosts):
            host.kill()
        for name in [*(host.name for host in self.hosts), f"{self.tag}s"]:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


@contextlib.contextmanager
def three_hosts(tmp, store=80 << 20):
    """Hosts with Ray on them, and `tmp` for their log."""
    folder = Path(f"/tmp/rbh{os.getpid()}")
    folder.mkdir()
    hosts = None
    try:
        hosts = Hosts(folder, Path(tmp) / "hosts.log", store)
        hosts.begin()
        yield hosts
    finally:
        if hosts is not None:
            hosts.end()
        shutil.rmtree(folder, ignore_errors=True)
