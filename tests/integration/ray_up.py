"""`ray up`, a job, `ray down`, over real SSH, in a network and a list of processes of its own.

Run by test_ray_up.py inside `unshare`: there, port 22 is free, and `ray stop` ends only what was
started here. Prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[2]
HEAD, WORKER = "127.0.0.1", "127.0.0.2"


def run(*command, **options):
    words = list(map(str, command))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(words, **pipes, **options)
    try:
        out, err = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
    if process.returncode:
        logs = Path("/tmp/ray/session_latest/logs").glob("monitor.*")
        tail = "\n".join(log.read_text()[-3000:] for log in logs)
        raise SystemExit(f"{words}: {process.returncode}\n{out[-3000:]}\n{err[-3000:]}\n{tail}")
    return out


def start_sshd(home):
    """A server on every address of this network, for the key that is made here."""
    ssh = home / ".ssh"
    ssh.mkdir(mode=0o700)
    for name in ("id", "host"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", ssh / name)
    (ssh / "authorized_keys").write_text((ssh / "id.pub").read_text())
    (ssh / "authorized_keys").chmod(0o600)
    config = ssh / "sshd_config"
    config.write_text(
        f"HostKey {ssh}/host\nPermitRootLogin prohibit-password\nUsePAM no\nStrictModes no\n"
        f"PidFile none\nMaxStartups 50\nAuthorizedKeysFile {ssh}/authorized_keys\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    server = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", config])
    return server, ssh / "id"


def cluster_file(home, key):
    """cluster.yaml as it is shipped, but for the machines: two addresses instead of a cloud."""
    shipped = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    for name in ("docker", "available_node_types", "head_node_type", "initialization_commands"):
        del shipped[name]
    shipped |= {
        "provider": {"type": "local", "head_ip": HEAD, "worker_ips": [WORKER]},
        "auth": {"ssh_user": "root", "ssh_private_key": str(key)},
        "min_workers": 1,
        "max_workers": 1,
        "file_mounts": {
            f"{home}/riboray": ".",
            f"{home}/riboray-token": f"{home}/.ray/auth_token",
        },
        # The nodes have everything but a network to install it from.
        "setup_commands": [c for c in shipped["setup_commands"] if "pip install" not in c],
        "head_setup_commands": [],
    }
    ports = "--dashboard-agent-listen-port=52366 --temp-dir=/tmp/ray/w"
    own = {"head": f"--node-ip-address={HEAD}", "worker": f"--node-ip-address={WORKER} {ports}"}
    for which, options in own.items():
        commands = shipped[f"{which}_start_ray_commands"]
        options += " --object-store-memory=100000000 --object-spilling-directory=/tmp"
        shipped[f"{which}_start_ray_commands"] = [
            c.replace("--object-spilling-directory=/spill", options).replace(
                "-port=8076 ", "-port=0 "
            )
            for c in commands
        ]
    # Ray's newer autoscaler counts the head among the local provider's workers, and starts none.
    start = shipped["head_start_ray_commands"]
    start[1] = start[1].replace("ray start", "RAY_enable_autoscaler_v2=0 ray start")
    worker = shipped["worker_start_ray_commands"]
    worker[1] += " --num-cpus=1"
    # On one machine, the second node's `ray stop` would end the first.
    shipped["worker_start_ray_commands"] = worker[1:]
    path = home / "cluster.yaml"
    path.write_text(yaml.safe_dump(shipped))
    return path


def main():
    home = Path(os.environ["HOME"])
    run("ip", "link", "set", "lo", "up")
    Path("/tmp/ray").mkdir(exist_ok=True)
    run("mount", "-t", "tmpfs", "none", "/tmp/ray")
    bin_ = Path(sys.executable).parent
    exports = f"export PATH={bin_}:$PATH RAY_USAGE_STATS_ENABLED=0\n"
    for name in (".bashrc", ".bash_profile"):
        (home / name).write_text(exports)
    ray, riboray = bin_ / "ray", bin_ / "riboray"
    server, key = start_sshd(home)
    told = {}
    run(ray, "get-auth-token", "--generate")
    (home / ".ray" / "auth_token").chmod(0o600)
    path = cluster_file(home, key)
    (home / "rnas.fa").write_text(">a\nACGUACGUACGUAAGG\n>b\nGGCAUUGCACGGAUA\n")
    try:
        begin = time.monotonic()
        env = os.environ | {"RAY_AUTH_MODE": "token"}
        run(ray, "up", "--yes", "--no-config-cache", path, cwd=ROOT, env=env)
        told["up"] = round(time.monotonic() - begin, 1)
        token = home / ".ray" / "auth_token"
        told["token_mode"] = oct(token.stat().st_mode & 0o777)
        told["code_there"] = (home / "riboray" / "jobs" / "embed.py").is_file()
        told["left_out"] = [n for n in (".git", ".venv") if (home / "riboray" / n).exists()]
        command = [
            "embed",
            home / "rnas.fa",
            "--output",
            home / "out",
            "--num-workers",
            "1",
            "--json",
        ]
        out = run(riboray, "submit", *command, cwd=ROOT)
        told["summary"] = json.loads(out[out.index("{\n") : out.rindex("}") + 1])
        told["exec"] = run(ray, "exec", "--no-config-cache", path, "echo over-ssh", cwd=ROOT)
        strangers = subprocess.run(
            [ray, "job", "list", "--address", "http://127.0.0.1:8265"],
            env=os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64},
            capture_output=True,
            text=True,
        )
        told["strangers"] = strangers.returncode
        run(ray, "down", "--yes", path, cwd=ROOT, env=env)
        # Nobody waits for what has ended here: such processes stay in the list as zombies.
        alive = [p for p in psutil.process_iter() if p.status() != psutil.STATUS_ZOMBIE]
        told["left"] = [p.name() for p in alive if p.name() in ("raylet", "gcs_server")]
    finally:
        server.terminate()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
