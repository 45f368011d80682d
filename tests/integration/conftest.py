"""Fixtures of the tests that run the command line."""

from __future__ import annotations

import functools
import http.server
import io
import threading
import urllib.request
from pathlib import Path

import pytest


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, with Range, as any object store does."""

    def send_head(self):
        path = Path(self.translate_path(self.path))
        if path.name == "busy.fa":
            self.send_error(503)
            return None
        if path.name == "broken.fa":  # promises more than it sends
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            return io.BytesIO(b">a\nACGU\n")
        if not path.is_file():
            self.send_error(404)
            return None
        size = path.stat().st_size
        first, last = 0, size - 1
        asked = self.headers.get("Range")
        if asked:
            low, _, high = asked.removeprefix("bytes=").partition("-")
            first, last = int(low), min(int(high or last), last)
        self.send_response(206 if asked else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last - first + 1))
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.end_headers()
        return io.BytesIO(path.read_bytes()[first : last + 1])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    """A folder and the address at which it is served."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{found.server_port}"
        found.shutdown()


@pytest.fixture
def object_store(monkeypatch):
    """A real S3 server on loopback: its file system, and what an address of it ends with."""
    moto = pytest.importorskip("moto.server", reason="needs the extra dev (moto)")
    from pyarrow import fs

    found = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    found.start()
    try:
        host, port = found.get_host_and_port()
        # All such servers of a process share what is stored: begin without what another test left.
        reset = urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST")
        urllib.request.urlopen(reset, timeout=10).close()
        store = fs.S3FileSystem(
            access_key="a",
            secret_key="b",
            endpoint_override=f"{host}:{port}",
            scheme="http",
            allow_bucket_creation=True,
        )
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        yield store, f"?endpoint_override={host}%3A{port}&scheme=http&region=us-east-1"
    finally:
        found.stop()


@pytest.fixture
def cluster(monkeypatch):
    """Ray nodes on this machine that can be killed one by one; gone at the end."""
    from ray.cluster_utils import Cluster

    # Nodes inherit this process's settings: a cluster's looks out for notices to its machines.
    monkeypatch.delenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", raising=False)
    # A Ray that ran in this process before has set it to "token", and commands do not inherit it.
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    nodes = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False, "node_ip_address": "127.0.0.1"},
    )
    try:
        yield nodes
    finally:
        nodes.shutdown()
