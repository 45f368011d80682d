from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess

import httpx
import numpy as np
import openai
import psutil
import pytest
import torch
import yaml

from riboray.embedding.embedder import Embedder, Wanted
from riboray.errors import CheckpointError, ConfigError, InputError
from riboray.model import RnaBertConfig, RnaBertForPreTraining, load_checkpoint, save_checkpoint
from riboray.serving.config import ServeConfig
from riboray.serving.driver import serve
from riboray.serving.keys import KEYS_VARIABLE, KeyRing, new_key
from riboray.serving.service import Service
from tests.conftest import random_sequences
from tests.integration.helpers import riboray, start, wait_for
from tests.integration.test_align import write_fasta


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


def test_an_application_needs_a_key_if_it_is_given_one(checkpoint, tmp_path):
    from riboray.serving.pipeline import build, deployment_of

    for arguments in ({}, {"checkpoint": str(checkpoint)}):
        assert build(arguments)._bound_deployment.name == "riboray"
    for replicas in (2, [2], [1, 3]):
        assert deployment_of(ServeConfig(num_replicas=replicas), KeyRing({}))
    with pytest.raises(ConfigError, match="key: arguments are checkpoint, db, keys, tasks"):
        build({"key": "keys.txt"})
    (tmp_path / "keys").write_text("secret")
    with pytest.raises(InputError, match="no `name:sha256`"):
        build({"keys": str(tmp_path / "keys")})


def test_the_configuration_for_serve_deploy(root):
    """Ray Serve takes it, it is loopback's, and what it names can be built."""
    from ray.serve.schema import ServeDeploySchema

    from riboray.serving.pipeline import build

    values = yaml.safe_load((root / "serve" / "config.yaml").read_text())
    schema = ServeDeploySchema.model_validate(values)
    assert schema.http_options.host == "127.0.0.1"
    (application,) = schema.applications
    assert application.import_path == "riboray.serving.pipeline:build"
    built = build(application.args)
    (deployment,) = application.deployments
    assert deployment.name == built._bound_deployment.name


def test_the_manifest_for_kubernetes(root, monkeypatch, tmp_path):
    """What Serve reads of it can be built; it has keys, tokens, limits, and one version of Ray."""
    import ray
    from ray.serve.schema import ServeDeploySchema

    from riboray.serving.pipeline import build

    text = (root / "kuberay" / "rayservice.yaml").read_text()
    manifest = yaml.safe_load(text)
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayService")
    schema = ServeDeploySchema.model_validate(yaml.safe_load(manifest["spec"]["serveConfigV2"]))
    (application,) = schema.applications
    keys = tmp_path / "keys.txt"
    keys.write_text(new_key("a")[1])
    built = build({**application.args, "keys": str(keys)})
    assert application.deployments[0].name == built._bound_deployment.name
    cluster = manifest["spec"]["rayClusterConfig"]
    assert cluster["rayVersion"] == ray.__version__
    assert cluster["authOptions"] == {"mode": "token"}
    dockerfile = (root / "Dockerfile").read_text()
    assert f"ARG RAY={ray.__version__}-" in dockerfile
    assert "FROM rayproject/ray:${RAY}\n" in dockerfile
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        spec = group["template"]["spec"]
        (container,) = spec["containers"]
        assert f"docker build -t {container['image']} ." in text
        assert container["resources"]["requests"] == container["resources"]["limits"]
        (mount,) = container["volumeMounts"]
        assert application.args["keys"].startswith(f"{mount['mountPath']}/")
        assert spec["volumes"][0]["name"] == mount["name"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org"])
def test_no_key_no_network(host, tmp_path, monkeypatch):
    monkeypatch.delenv(KEYS_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match="everybody who reaches"):
        ServeConfig(host=host).read_keys()
    assert not ServeConfig(host=host, without_keys=True).read_keys()
    monkeypatch.setenv(KEYS_VARIABLE, new_key("a")[1])
    assert ServeConfig(host=host).read_keys()


def test_a_mode_that_listens_everywhere_needs_a_key(monkeypatch):
    monkeypatch.delenv(KEYS_VARIABLE, raising=False)
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "1")
    with pytest.raises(ConfigError, match="with RAY_SERVE_ENABLE_HA_PROXY, replicas listen on all"):
        ServeConfig().read_keys()
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "0")
    assert not ServeConfig().read_keys()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1"])
def test_this_machine_needs_no_key(host, monkeypatch):
    monkeypatch.delenv(KEYS_VARIABLE, raising=False)
    assert not ServeConfig(host=host).read_keys()


@pytest.mark.parametrize(
    "options",
    [{"port": 0}, {"num_replicas": 0}, {"num_replicas": [2, 1]}, {"device": "tpu"},
     {"capacity": 0}, {"request_seconds": 0.0}],
)  # fmt: skip
def test_settings_that_cannot_work(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        ServeConfig(**options)


def make_certificate(folder):
    """Certify 127.0.0.1 by itself; return the certificate and its key."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=riboray", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        [*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True
    )
    return certificate, key


def test_certificates_that_cannot_be_used(tmp_path):
    certificate, key = map(str, make_certificate(tmp_path))
    config = ServeConfig(tls_certificate=certificate, tls_key=key)
    assert config.http_options()["ssl_keyfile"] == key
    assert config.url == "https://127.0.0.1:8000"
    with pytest.raises(ConfigError, match="need each other"):
        ServeConfig(tls_certificate=certificate)
    (tmp_path / "other").mkdir()
    _, other = make_certificate(tmp_path / "other")
    locked = tmp_path / "locked.pem"
    command = ["openssl", "rsa", "-aes128", "-passout", "pass:x", "-in", key, "-out", str(locked)]
    subprocess.run(command, check=True, capture_output=True)
    for wrong in (other, certificate, locked, "/nowhere"):
        with pytest.raises(InputError, match="cannot be used with"):
            serve(ServeConfig(tls_certificate=certificate, tls_key=str(wrong)))


def test_a_key_is_made(capsys):
    serve(ServeConfig(new_key="me"))
    entry, told = (text.split()[-1] for text in capsys.readouterr())  # the key is in no file
    key = told
    assert KeyRing.read(None, {KEYS_VARIABLE: entry}).check(f"Bearer {key}") == "me"


def wait_until_up(process, log, base):
    def up():
        assert process.poll() is None, log.read_text()
        return f"serving {base}" in log.read_text()

    wait_for(up, message="the service did not come up")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.ray
@pytest.mark.slow
def test_riboray_serve_answers_and_ends(checkpoint, tmp_path):
    port = free_port()
    log, (key, entry) = tmp_path / "log", new_key("me")
    (tmp_path / "keys").write_text(entry)
    options = ["--checkpoint", checkpoint, "--port", port, "--keys", "keys"]
    with log.open("w") as stderr:
        process = start(["serve", *options], tmp_path, stderr)
    base = f"http://127.0.0.1:{port}"

    family = []
    try:
        wait_until_up(process, log, base)
        assert httpx.get(f"{base}/healthz").json() == {"status": "ok"}
        assert httpx.get(f"{base}/v1/info").status_code == 401
        client = httpx.Client(base_url=base, headers={"authorization": f"Bearer {key}"})
        info = client.get("/v1/info").json()
        assert info["checkpoint"]["parameters"] == 511_596
        assert str(tmp_path) not in json.dumps(info)
        paths = client.get("/openapi.json").json()["paths"]
        assert {"/healthz", "/v1/info", "/v1/embed"} <= set(paths)
        assert client.get("/nothing").status_code == 404
        texts = ["GGGAAACCC", "ACGU" * 150]
        answer = client.post("/v1/embed", json={"sequences": [*texts, "Z"]}, timeout=60)
        *items, wrong = answer.json()["results"]
        embedder = Embedder(load_checkpoint(str(checkpoint)).model)
        wanted = embedder.embed(texts, Wanted((6,))).pooled[6]
        assert np.allclose([item["embedding"] for item in items], wanted, atol=1e-5)
        assert wrong["error"]["code"] == "invalid_sequence"
        theirs = openai.OpenAI(base_url=f"{base}/v1", api_key=key)
        found = theirs.embeddings.create(model=info["model"], input=texts)
        assert np.allclose([item.embedding for item in found.data], wanted, atol=1e-5)
        with pytest.raises(openai.PermissionDeniedError, match="not known"):
            openai.OpenAI(base_url=f"{base}/v1", api_key="x", max_retries=0).models.list()
        with pytest.raises(openai.UnprocessableEntityError, match="no nucleotide"):
            theirs.embeddings.create(model=info["model"], input="Z")
        family = psutil.Process(process.pid).children(recursive=True)
        listening = {
            (c.laddr.ip.removeprefix("::ffff:"), c.laddr.port)
            for p in [psutil.Process(process.pid), *family]
            for c in p.net_connections("inet")
            if c.status == psutil.CONN_LISTEN
        }
        assert ("127.0.0.1", port) in listening
        # Ray's own ports, too: a replica's for other deployments would unpickle what it is sent.
        assert {host for host, _ in listening} <= {"127.0.0.1", "::1"}
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.communicate(timeout=120)
    assert process.returncode == 130, log.read_text()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive


@pytest.mark.ray
@pytest.mark.slow
def test_a_database_over_https(checkpoint, tmp_path):
    """What `riboray embed` made is searched; connections are encrypted, and no others taken."""
    texts = random_sequences(np.random.default_rng(5), 30, 50, 90)
    write_fasta(tmp_path / "rnas.fa", texts, "t")
    code, _, err = riboray(
        *("embed", "rnas.fa", "--checkpoint", checkpoint, "--output", "db", "--per-base"),
        cwd=tmp_path,
    )
    assert code == 0, err
    certificate, key = make_certificate(tmp_path)
    port, log = free_port(), tmp_path / "log"
    options = ["--checkpoint", checkpoint, "--db", "db", "--port", port]
    options += ["--tls-certificate", certificate, "--tls-key", key]
    with log.open("w") as stderr:
        process = start(["serve", *options], tmp_path, stderr)
    base = f"https://127.0.0.1:{port}"

    try:
        wait_until_up(process, log, base)
        trusted = ssl.create_default_context(cafile=str(certificate))
        client = httpx.Client(base_url=base, verify=trusted)
        assert client.get("/v1/info").json()["database"] == 30
        answer = client.post("/v1/search", json={"sequences": [texts[11]]}, timeout=60).json()
        assert answer["results"][0]["hits"][0]["target"] == "t11"
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{base}/healthz")  # nobody vouches for the certificate
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{port}/healthz")
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.communicate(timeout=120)
