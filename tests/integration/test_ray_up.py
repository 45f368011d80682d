"""`ray up cluster.yaml`, `riboray submit`, `ray down`: over SSH on loopback."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.helpers import environment, succeed

pytestmark = [pytest.mark.ray, pytest.mark.slow]

#: Processes, network and mounts of their own; the latter so that root has another home.
UNSHARE = ["unshare", "--fork", "--pid", "--mount-proc", "--net", "--mount", "--kill-child"]


def isolated():
    """Why the test cannot run here, or None."""
    for program in ("/usr/sbin/sshd", "rsync", "ip", "unshare"):
        if shutil.which(program) is None:
            return f"needs {program} (Debian: openssh-server, rsync, iproute2, util-linux)"
    if subprocess.run([*UNSHARE, "true"], capture_output=True).returncode:
        return "needs the right to have processes and a network of one's own (root)"
    return None


def test_up_job_down(tmp_path):
    if why := isolated():
        pytest.skip(why)
    # sshd gives root the home that /etc/passwd says.
    home, passwd = tmp_path / "home", tmp_path / "passwd"
    home.mkdir()
    lines = Path("/etc/passwd").read_text().splitlines()
    lines[0] = f"root:x:0:0:root:{home}:/bin/bash"
    passwd.write_text("\n".join(lines) + "\n")
    inside = f"{sys.executable} -m tests.integration.ray_up"
    script = f"mount --bind {passwd} /etc/passwd && exec {inside}"
    env = environment() | {"HOME": str(home)}
    told = json.loads(succeed([*UNSHARE, "bash", "-c", script], env).splitlines()[-1])
    assert told["code_there"]
    assert told["left_out"] == []
    assert told["token_mode"] == "0o600"
    assert told["summary"]["sequences_embedded"] == 2
    assert "over-ssh" in told["exec"]
    assert told["strangers"] != 0
    assert told["left"] == []
