"""Ray clusters on this machine as a user starts them: by `ray start`, with a token, on loopback.

Ended by pid and not by `ray stop`, which would end every Ray of the machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import yaml

from tests.integration.helpers import ROOT, environment, wait_for

_PORTS = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port")


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


@dataclass
class Head:
    """A head node and how to reach it."""

    address: str  # of Ray itself
    dashboard: str
    env: dict[str, str]
    folder: Path
    process: subprocess.Popen = field(repr=False)

    def submit(self, *command, options=(), cwd=ROOT, timeout=500):
        """`riboray submit`; return exit code, output and messages."""
        words = [sys.executable, "-m", "riboray.cli", "submit", "--address", self.dashboard]
        done = subprocess.run(
            [*words, *map(str, options), *map(str, command)],
            cwd=cwd,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        return done.returncode, done.stdout, done.stderr

    def nodes(self):
        """The nodes that live, as the state API tells."""
        code = "import json, ray\nray.init(%r, log_to_driver=False)\nprint(json.dumps(ray.nodes()))"
        done = subprocess.run(
            [sys.executable, "-c", code % self.address],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return [node for node in json.loads(done.stdout.splitlines()[-1]) if node["Alive"]]


def processes_of(folder):
    """All processes that have a cluster's folder on their command line."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(str(folder) in word for word in process.cmdline()):
                found.append(process)
    return found


def end(processes):
    """Kill processes and what they have started."""
    family = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            family += [process, *process.children(recursive=True)]
    for process in family:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(family, timeout=20)


@contextlib.contextmanager
def head(tmp, *options, python=sys.executable, store=128 << 20, scaling=None, **variables):
    """A head node on loopback, of the kind `ray start --head` makes; further keywords: environment.

    ``tmp`` gets its log; ``scaling`` makes the autoscaler's configuration of the address.
    """
    # Ray puts sockets there, whose paths must stay below 108 bytes: pytest's folders are longer.
    folder = Path(f"/tmp/riboray-test-{os.getpid()}-{secrets.token_hex(3)}")
    ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
    env = environment() | {"RAY_USAGE_STATS_ENABLED": "0"}
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    # A job's `python` is the first on the head's PATH: start it as from an activated environment.
    env["PATH"] = os.pathsep.join([str(Path(python).parent), env["PATH"]])
    env |= variables
    command = [python, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += [f"--temp-dir={folder}", f"--object-store-memory={store}"]
    command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"]
    command += [f"--{name}={port}" for name, port in ports.items()]
    if scaling is not None:
        file = Path(tmp) / "scaling.json"
        file.write_text(json.dumps(scaling(f"127.0.0.1:{ports['port']}")))
        command.append(f"--autoscaling-config={file}")
        # Its nodes would listen, and be looked for, on the machine's outer address.
        env |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
        env |= {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
    log = Path(tmp) / "head.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, *options], env=env, stdout=out, stderr=out, start_new_session=True
        )
    dashboard = f"http://127.0.0.1:{ports['dashboard-port']}"
    ray = str(Path(sys.executable).with_name("ray"))

    def up():
        assert process.poll() is None, log.read_text()
        asked = [ray, "job", "list", "--address", dashboard]
        return subprocess.run(asked, env=env, capture_output=True).returncode == 0

    try:
        wait_for(up, message="the head did not come up")
        yield Head(f"127.0.0.1:{ports['port']}", dashboard, env, folder, process)
    finally:
        end([*processes_of(folder), psutil.Process(process.pid)] if process.poll() is None else [])
        end(processes_of(folder))
        process.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


def scaling_config(address, change=lambda types: None):
    """The node types of cluster.yaml for Ray's made-up cloud, whose nodes are processes here.

    ``address`` is where the head will listen; ``change`` may alter the types.
    """
    shipped = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    types = {}
    for name, kind in shipped["available_node_types"].items():
        is_head = name == shipped["head_node_type"]
        types["ray.head.default" if is_head else name] = {
            "resources": dict(kind["resources"]),
            "node_config": {},
            "min_workers": kind.get("min_workers", 0),
            "max_workers": 0 if is_head else kind["max_workers"],
        }
    change(types)
    nothing = (
        *("cluster_synced_files", "initialization_commands", "setup_commands"),
        *("head_setup_commands", "worker_setup_commands"),
        *("head_start_ray_commands", "worker_start_ray_commands"),
    )
    return {
        "cluster_name": "made-up",
        "max_workers": shipped["max_workers"],
        "upscaling_speed": shipped["upscaling_speed"],
        "idle_timeout_minutes": 0.1,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "gcs_address": address,
        },
        "auth": {},
        "docker": {},
        "file_mounts": {},
        **{name: [] for name in nothing},
        "head_node_type": "ray.head.default",
        "available_node_types": types,
    }
