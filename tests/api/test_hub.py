"""Models of the Hugging Face Hub, from a server on loopback that speaks its layout."""

from __future__ import annotations

import hashlib
import http.server
import json
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
import yaml

import riboray
from riboray.errors import CheckpointError
from riboray.model import RnaBertConfig, RnaBertForPreTraining, load_checkpoint, save_checkpoint
from riboray.model.bundled import same_path
from riboray.model.hub import is_hub_id
from riboray.pretraining.start import keep_start
from tests.integration.helpers import environment

pytest.importorskip("huggingface_hub", reason="needs the extra `hub`: pip install 'riboray[hub]'")

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Handler(http.server.BaseHTTPRequestHandler):
    """The hub's API for one model, `lab/rna`, whose branch `main` and tag `v1` are one commit."""

    folder: Path
    asked: list[str]

    def _answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        path = urlsplit(self.path).path
        type(self).asked.append(path)
        parts = path.strip("/").split("/")
        if parts[:4] == ["api", "models", "lab", "rna"]:
            if parts[4:5] == ["revision"] and parts[5] not in ("main", "v1", COMMIT):
                return self._answer(404, b"{}", X_Error_Code="RevisionNotFound")
            files = [{"rfilename": p.name} for p in sorted(self.folder.iterdir())]
            told = {"id": "lab/rna", "sha": COMMIT, "siblings": files, "private": False}
            if "tree" in parts:
                told = [
                    {"type": "file", "path": p.name, "size": p.stat().st_size, "oid": "0" * 40}
                    for p in sorted(self.folder.iterdir())
                ]
            body = json.dumps(told).encode()
            return self._answer(200, body, Content_Type="application/json")
        if parts[:3] == ["lab", "rna", "resolve"] and (self.folder / parts[4]).is_file():
            body = (self.folder / parts[4]).read_bytes()
            tag = hashlib.sha256(body).hexdigest()
            return self._answer(200, body, ETag=f'"{tag}"', X_Repo_Commit=COMMIT)
        return self._answer(404, b"{}", X_Error_Code="RepoNotFound")

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


class Hub:
    """The hub, the model in it, and an empty cache."""

    def __init__(self, handler, model, address, folder):
        self.handler, self.model, self.folder = handler, model, folder
        self.env = environment() | {"HF_ENDPOINT": address, "HF_HUB_CACHE": str(folder / "cache")}
        self.env |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}

    def run(self, *words):
        """Run Python as who uses this hub; the library reads where it is when it is imported."""
        command = [sys.executable, *map(str, words)]
        return subprocess.run(
            command, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=120
        )


@pytest.fixture
def hub(tmp_path):
    torch.manual_seed(9)
    config = RnaBertConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=4)
    model = RnaBertForPreTraining(config).eval()
    folder = save_checkpoint(model, tmp_path / "rna")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    handler = type("Handles", (Handler,), {"folder": folder, "asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Hub(handler, model, f"http://127.0.0.1:{server.server_port}", tmp_path)
        server.shutdown()


LOAD = """
import json, sys, riboray
rna = riboray.load(sys.argv[1])
print(json.dumps([rna.name, rna.embed("ACGUAC").tolist()]))
"""


def test_a_model_by_its_id(hub):
    found = []
    for name in ("lab/rna", f"lab/rna@{COMMIT}", "lab/rna@v1"):
        before = len(hub.handler.asked)
        done = hub.run("-c", LOAD, name)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
        fetched = [path for path in hub.handler.asked[before:] if "resolve" in path]
        assert bool(fetched) == (name == "lab/rna"), "it is here already"
    assert not any("pytorch_model" in path for path in hub.handler.asked), "no pickle is fetched"
    # What is told to other processes means the same there, and to a later version of the model.
    assert {name for name, _ in found} == {f"lab/rna@{COMMIT}"}
    wanted = riboray.load(hub.folder / "rna").embed("ACGUAC")
    for _, row in found:
        assert np.array_equal(np.array(row, np.float32), wanted)


def test_commands_take_ids(hub):
    (hub.folder / "a.fa").write_text(">a\nACGUACGUAA\n")
    words = ["embed", "a.fa", "--checkpoint", "lab/rna", "--output", "out"]
    for command in (words, ["verify", "out"]):
        done = hub.run("-m", "riboray.cli", *command)
        assert done.returncode == 0, done.stderr
    resolved = yaml.safe_load((hub.folder / "out" / "resolved_config.yaml").read_text())
    assert resolved["checkpoint"] == f"lab/rna@{COMMIT}"


@pytest.mark.parametrize("name", ["lab/other", "lab/rna@v2"])
def test_no_such_model(hub, name):
    words = ["embed", "a.fa", "--checkpoint", name, "--output", "out"]
    done = hub.run("-m", "riboray.cli", *words)
    assert done.returncode == 2
    assert "cannot be had from the Hugging Face Hub" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_what_is_an_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert is_hub_id("multimolecule/rnabert")
    assert is_hub_id("multimolecule/rnabert@main")
    for path in ("runs/mine", "rnabert", "./a/b", "/a/b", "a/b/c", "a/b.pth/", "", "a/", "../b"):
        assert not is_hub_id(path), path
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_checkpoint("runs/mine")
    assert same_path(tmp_path / "runs") == str(tmp_path / "runs")


def test_a_path_in_a_cache_stays_a_path(tmp_path):
    """It was asked for as such: elsewhere, or off the net, its id may mean nothing."""
    config = RnaBertConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=4)
    folder = tmp_path / "models--lab--rna" / "snapshots" / COMMIT
    folder.parent.mkdir(parents=True)
    save_checkpoint(RnaBertForPreTraining(config), folder)
    assert load_checkpoint(str(folder)).name == str(folder)


def test_a_run_goes_on_with_the_copy_of_what_it_began_with(tmp_path):
    config = RnaBertConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=4)
    save_checkpoint(RnaBertForPreTraining(config), tmp_path / "rna")
    copy, sha256 = keep_start(str(tmp_path / "rna"), tmp_path / "start")
    assert keep_start("lab/no-such-model", tmp_path / "start") == (copy, sha256)


def test_without_the_library(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"pip install 'riboray\[hub\]'"):
        load_checkpoint("lab/rna")
