"""`serve deploy` on a cluster: Serve decides where it listens, and riboray whom it answers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import yaml

from tests.clusters import free_ports, head
from tests.conftest import ROOT
from tests.integration.helpers import wait_for
from tests.serving.helpers import save_tasks

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with head(tmp_path_factory.mktemp("head"), "--num-cpus=2") as found:
        yield found


def deploy(cluster, folder, port, **arguments):
    """Deploy the configuration that riboray comes with, but on all interfaces."""
    values = yaml.safe_load((ROOT / "serve" / "config.yaml").read_text())
    values["http_options"] |= {"host": "0.0.0.0", "port": port}
    (application,) = values["applications"]
    application["args"] |= arguments
    application["deployments"][0]["autoscaling_config"]["max_replicas"] = 1
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    serve = str(Path(sys.executable).with_name("serve"))
    command = [serve, "deploy", "--address", cluster.dashboard, str(folder / "config.yaml")]
    done = subprocess.run(command, env=cluster.env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def status(cluster):
    """What Serve says of the application."""
    headers = {"authorization": f"Bearer {cluster.env['RAY_AUTH_TOKEN']}"}
    answer = httpx.get(f"{cluster.dashboard}/api/serve/applications/", headers=headers, timeout=30)
    answer.raise_for_status()
    found = answer.json()["applications"].get("riboray", {"status": None})
    messages = [found.get("message", "")]
    messages += [d.get("message", "") for d in found.get("deployments", {}).values()]
    return found["status"], "\n".join(messages)


def test_everybody_is_answered_only_if_that_is_wanted(cluster, tmp_path):
    tasks = save_tasks(tmp_path)
    (port,) = free_ports(1)
    deploy(cluster, tmp_path, port)
    wait_for(lambda: status(cluster)[0] == "DEPLOY_FAILED", message="it was deployed")
    assert "everybody who reaches 0.0.0.0 could use the service" in status(cluster)[1]
    named = ",".join(f"{name}={tasks[name]}" for name in ("kind", "structure"))
    deploy(cluster, tmp_path, port, without_keys="true", tasks=named)
    wait_for(lambda: status(cluster)[0] == "RUNNING", message="it was not deployed")
    base = f"http://127.0.0.1:{port}"
    info = httpx.get(f"{base}/v1/info", timeout=30).json()
    assert [t["task"] for t in info["tasks"]] == ["kind", "structure"]
    body = {"sequences": ["GGGAAAACCC"]}
    answer = httpx.post(f"{base}/v1/predict/kind", json=body, timeout=60).json()
    assert answer["results"][0]["label"] in ("a", "b", "c")
