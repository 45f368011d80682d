"""Cluster files: what is shipped is right, and what is missing is named."""

from __future__ import annotations

import pytest
import yaml

from riboray.cli import main
from riboray.launch.checking import find_problems


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home with a token, in a source tree."""
    monkeypatch.setenv("HOME", str(tmp_path))
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("0" * 64)
    token.chmod(0o600)
    return tmp_path


def changed(root, name, tmp_path, *pairs):
    text = (root / name).read_text()
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    path = tmp_path / "changed.yaml"
    path.write_text(text)
    return path


FILLED = {
    "cluster.yaml": [
        ('shared=""  # FILL IN', 'shared="fs-1.efs.us-west-2.amazonaws.com:/"  #'),
        ('""  # FILL IN: an image', '"ami-0123456789abcdef0"  # an image'),
    ],
    "cluster.gcp.yaml": [
        ('shared=""  # FILL IN', 'shared="10.0.0.2:/riboray"  #'),
        ("project_id: null  # FILL IN: your project", "project_id: mine"),
    ],
    "kuberay/storage.yaml": [("FILL-IN", "efs-sc")],
    "kuberay/raycluster.yaml": [],
    "kuberay/rayjob.yaml": [],
    "kuberay/rayservice.yaml": [],
}


@pytest.mark.parametrize("name", sorted(FILLED))
def test_what_is_shipped_lacks_what_it_says_and_nothing_else(root, home, name, monkeypatch):
    monkeypatch.chdir(root)
    names = [problem.rpartition(" ")[2] for problem in find_problems(root / name)]
    wanted = {
        "cluster.yaml": ["'ImageId'", "'shared'"],
        "cluster.gcp.yaml": ["'project_id'", "'shared'"],
        "kuberay/storage.yaml": ["'storageClassName'"],
    }
    assert names == wanted.get(name, [])
    assert find_problems(changed(root, name, home, *FILLED[name])) == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("max_workers: 24", "max_wrokers: 24", "'max_wrokers' was unexpected"),
        ("head_node_type: head", "head_node_type: haed", "`head_node_type` must be one of"),
        ("resources: {CPU: 16}", "resources: [CPU]", "available_node_types.cpu.resources"),
        ("type: aws", "type: awz", "Unsupported node provider: awz"),
        ("max_workers: 24", "max_workers: many", "max_workers: 'many' is not of type 'integer'"),
        ("rayproject/ray:2.60.0-py311-gpu", "rayproject/ray:2.1.0-gpu", "an image has Ray 2.1.0"),
        ("RAY_AUTH_MODE=token ray start --head", "ray start --head", None),
        ("host=127.0.0.1", "host=0.0.0.0", "the dashboard listens beyond this machine"),
        ("~/.ray/auth_token", "~/no/auth_token", "is not there: make it with ray get-auth-token"),
    ],
)
def test_mistakes(root, home, old, new, message, monkeypatch):
    monkeypatch.chdir(root)
    path = changed(root, "cluster.yaml", home, *FILLED["cluster.yaml"], (old, new))
    problems = find_problems(path)
    if message is None:  # the containers' environment has it, too
        assert problems == []
        bare = path.read_text().replace("    - --env RAY_AUTH_MODE=token\n", "")
        path.write_text(bare)
        problems, message = find_problems(path), "anyone may run code"
    assert len(problems) == 1, problems
    assert message in problems[0]


def test_the_command(root, home, capsys, monkeypatch):
    monkeypatch.chdir(root)
    assert main(["check-cluster", "cluster.yaml", "cluster.gcp.yaml"]) == 2
    told, err = capsys.readouterr()
    assert "cluster.yaml: line" in told
    assert "fill in 'project_id'" in told
    assert err.splitlines()[-1] == "riboray check-cluster: 4 problems, see above"
    (home / ".ray" / "auth_token").chmod(0o644)
    filled = changed(root, "cluster.yaml", home, *FILLED["cluster.yaml"])
    assert "readable by others" in find_problems(filled)[0]
    (home / ".ray" / "auth_token").chmod(0o600)
    assert main(["check-cluster", str(filled)]) == 0
    for text, message in (
        ("a: [", "not valid YAML"),
        ("", "describes no cluster"),
        ("- 1", "describes no cluster"),
    ):
        filled.write_text(text)
        assert main(["check-cluster", str(filled)]) == 2
        assert message in capsys.readouterr().out
    filled.write_bytes(b"\xff\xfe")
    assert main(["check-cluster", str(filled)]) == 2
    assert "is not text" in capsys.readouterr().err
    assert main(["check-cluster", str(home / "no.yaml")]) == 2
    assert main(["check-cluster"]) == 2


def test_a_kubernetes_file_of_another_version(root, home):
    pairs = ('"2.60.0"', '"2.9.0"'), ("mode: token", "mode: disabled")
    path = changed(root, "kuberay/raycluster.yaml", home, *pairs)
    problems = find_problems(path)
    assert len(problems) == 2
    assert "rayVersion is 2.9.0" in problems[0]
    assert "authOptions.mode is not token" in problems[1]


def test_images_and_dependency_are_one_version(root):
    """What the nodes run is what the tests here ran on."""
    import ray

    for name in FILLED:
        text = (root / name).read_text()
        if "rayproject" in text or "rayVersion" in text:
            assert ray.__version__ in text, name
    assert f"ARG RAY={ray.__version__}-py311" in (root / "Dockerfile").read_text()


def test_groups_are_the_same_everywhere(root):
    """One sizing, in docs/operations.md: a job finds the same nodes whatever runs the cluster."""
    aws = yaml.safe_load((root / "cluster.yaml").read_text())["available_node_types"]
    gcp = yaml.safe_load((root / "cluster.gcp.yaml").read_text())["available_node_types"]
    for name in ("head", "cpu", "gpu"):
        for kind in ("CPU", "GPU"):
            assert aws[name]["resources"].get(kind) == gcp[name]["resources"].get(kind)
        assert aws[name].get("max_workers") == gcp[name].get("max_workers")
    cluster = yaml.safe_load((root / "kuberay/raycluster.yaml").read_text())["spec"]
    job = yaml.safe_load((root / "kuberay/rayjob.yaml").read_text())["spec"]["rayClusterSpec"]
    assert cluster == job
    for group in cluster["workerGroupSpecs"]:
        kind = aws[group["groupName"]]
        (container,) = group["template"]["spec"]["containers"]
        limits = container["resources"]["limits"]
        assert int(limits["cpu"]) == kind["resources"]["CPU"]
        assert limits.get("nvidia.com/gpu", 0) == kind["resources"].get("GPU", 0)
        assert (group["minReplicas"], group["maxReplicas"]) == (0, kind["max_workers"])
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
