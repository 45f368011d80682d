from __future__ import annotations

import os
import signal
import socket

import httpx
import psutil
import pytest
import torch

from riboray.errors import CheckpointError
from riboray.model import RnaBertConfig, RnaBertForPreTraining, save_checkpoint
from riboray.serving.service import Service
from tests.integration.helpers import start, wait_for


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("serving") / "checkpoint"
    return save_checkpoint(RnaBertForPreTraining(RnaBertConfig()), folder)


def test_the_service_without_its_server(checkpoint):
    service = Service(str(checkpoint))
    assert service.health().status == "ok"
    info = service.info().checkpoint
    assert info["parameters"] == 511_596
    assert info["vocabulary"] == "multimolecule"
    assert info["max_sequence_length"] == 440
    assert "path" not in info
    with pytest.raises(CheckpointError):
        Service("/nowhere")


def test_an_application_serves_the_bundled_model_if_none_is_named(checkpoint):
    from riboray.serving.pipeline import build

    for arguments, served in (({}, "rnabert"), ({"checkpoint": str(checkpoint)}, str(checkpoint))):
        assert build(arguments)._bound_deployment.init_args == (served,)
    assert Service("rnabert").info().checkpoint["parameters"] == 511_596


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.ray
@pytest.mark.slow
def test_riboray_serve_answers_and_ends(checkpoint, tmp_path):
    port = free_port()
    log = tmp_path / "log"
    with log.open("w") as stderr:
        process = start(["serve", "--checkpoint", checkpoint, "--port", port], tmp_path, stderr)
    base = f"http://127.0.0.1:{port}"

    def up():
        assert process.poll() is None, log.read_text()
        return f"serving {base}" in log.read_text()

    family = []
    try:
        wait_for(up, message="the service did not come up")
        assert httpx.get(f"{base}/healthz").json() == {"status": "ok"}
        info = httpx.get(f"{base}/v1/info").json()
        assert info["checkpoint"]["parameters"] == 511_596
        paths = httpx.get(f"{base}/openapi.json").json()["paths"]
        assert {"/healthz", "/v1/info"} <= set(paths)
        assert httpx.get(f"{base}/nothing").status_code == 404
        family = psutil.Process(process.pid).children(recursive=True)
        http = [
            c.laddr.ip
            for p in family
            for c in p.net_connections("inet")
            if c.status == psutil.CONN_LISTEN and c.laddr.port == port
        ]
        assert set(http) == {"127.0.0.1"}
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.communicate(timeout=120)
    assert process.returncode == 130, log.read_text()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
