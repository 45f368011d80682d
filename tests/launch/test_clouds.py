"""The cluster's files against what would read them: AWS's API, Kubernetes' schemas, Ray's code."""

from __future__ import annotations

import copy
import json
import re
import subprocess

import pytest
import yaml


def test_aws_takes_it(root, monkeypatch, tmp_path):
    """`ray up`'s own steps against an EC2 and an IAM on loopback: rights, keys, network, nodes."""
    moto = pytest.importorskip("moto.server", reason="needs the extra dev (moto)")
    boto3 = pytest.importorskip("boto3", reason="needs the extra dev (moto)")
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    from riboray.launch.pipeline import prepared

    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in (
            ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
            ("AWS_ACCESS_KEY_ID", "a"),
            ("AWS_SECRET_ACCESS_KEY", "b"),
            ("HOME", str(tmp_path)),
        ):
            monkeypatch.setenv(name, value)
        iam = boto3.client(
            "iam", region_name="us-east-1"
        )  # else Ray makes it, and waits half a minute
        iam.create_instance_profile(InstanceProfileName="ray-autoscaler-v1")
        iam.create_role(RoleName="r", AssumeRolePolicyDocument="{}")
        iam.add_role_to_instance_profile(InstanceProfileName="ray-autoscaler-v1", RoleName="r")
        shipped = yaml.safe_load((root / "cluster.yaml").read_text())
        config = AWSNodeProvider.bootstrap_config(prepared(shipped))
        provider = AWSNodeProvider(config["provider"], config["cluster_name"])
        for name in ("head", "cpu", "gpu"):
            kind = "head" if name == "head" else "worker"
            tags = {"ray-node-type": kind, "ray-user-node-type": name, "ray-node-name": name}
            node_config = config["available_node_types"][name]["node_config"]
            provider.create_node(node_config, tags, 1)
        ec2 = boto3.client("ec2", region_name=shipped["provider"]["region"])
        found = {}
        for reservation in ec2.describe_instances()["Reservations"]:
            for instance in reservation["Instances"]:
                tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
                assert tags["project"] == "riboray"
                assert instance["MetadataOptions"]["HttpTokens"] == "required"
                found[tags["ray-user-node-type"]] = instance
        assert {name: i["InstanceType"] for name, i in found.items()} == {
            name: kind["node_config"]["InstanceType"]
            for name, kind in shipped["available_node_types"].items()
        }
        assert found["gpu"]["InstanceLifecycle"] == "spot"
        assert "InstanceLifecycle" not in found["cpu"]
        volumes = ec2.describe_volumes()["Volumes"]
        assert len(volumes) == 3
        assert all(v["Encrypted"] and v["Size"] == 150 for v in volumes)
        assert all({"Key": "project", "Value": "riboray"} in v["Tags"] for v in volumes)
        groups = {g["GroupName"]: g for g in ec2.describe_security_groups()["SecurityGroups"]}
        rules = groups["ray-autoscaler-riboray"]["IpPermissions"]
        open_to_all = [rule for rule in rules if rule["IpRanges"]]
        assert [(r["FromPort"], r["ToPort"]) for r in open_to_all] == [(22, 22)], "SSH and no more"
        keys = list((tmp_path / ".ssh").glob("*.pem"))
        assert keys
        assert all(key.stat().st_mode & 0o77 == 0 for key in keys)
    finally:
        server.stop()


def documents(root):
    for path in sorted((root / "kuberay").glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            yield path.name, document


def clusters(root):
    for name, document in documents(root):
        spec = document["spec"]
        for cluster in (spec, spec.get("rayClusterSpec"), spec.get("rayClusterConfig")):
            if cluster and "headGroupSpec" in cluster:
                yield name, cluster


def test_kubernetes_takes_pods_and_storage(root):
    """Strictly: no unknown field, and no wrong type."""
    checker = pytest.importorskip("kubernetes_validate", reason="needs the extra dev")
    pods = 0
    for name, cluster in clusters(root):
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}
            pod["spec"] = copy.deepcopy(group["template"]["spec"])
            checker.validate(pod, "1.33", strict=True)
            for container in pod["spec"]["containers"]:
                assert container["securityContext"]["runAsNonRoot"], name
                assert container["resources"]["limits"] == container["resources"]["requests"], name
            pods += 1
            pod["spec"]["containers"][0]["imagee"] = "x"
            with pytest.raises(checker.ValidationError):
                checker.validate(pod, "1.33", strict=True)
    assert pods == 8
    (claim,) = [d for name, d in documents(root) if name == "storage.yaml"]
    checker.validate(claim, "1.33", strict=True)


def test_rays_autoscaler_reads_the_groups(root):
    """What it makes of a RayCluster is what cluster.yaml says of the same nodes."""
    from ray.autoscaler._private.kuberay.autoscaling_config import (
        _derive_autoscaling_config_from_ray_cr,
    )
    from ray.autoscaler._private.util import validate_config

    shipped = yaml.safe_load((root / "cluster.yaml").read_text())["available_node_types"]
    for name, cluster in clusters(root):
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            # KubeRay's operator makes every parameter a string.
            group["rayStartParams"] = {k: str(v) for k, v in group["rayStartParams"].items()}
        resource = {"metadata": {"name": "x", "namespace": "y"}, "spec": cluster}
        config = _derive_autoscaling_config_from_ray_cr(json.loads(json.dumps(resource)))
        validate_config(config)
        types = config["available_node_types"]
        assert types["headgroup"]["resources"]["CPU"] == 0, name
        if name == "rayservice.yaml":
            continue
        for group in ("cpu", "gpu"):
            for kind in ("CPU", "GPU"):
                wanted = shipped[group]["resources"].get(kind, 0)
                assert types[group]["resources"].get(kind, 0) == wanted, (name, group)
            assert types[group]["min_workers"] == 0
            assert types[group]["max_workers"] == shipped[group]["max_workers"]


@pytest.mark.parametrize("name", ["cluster.yaml", "cluster.gcp.yaml"])
def test_the_nodes_own_commands(root, name, tmp_path):
    """What a node runs first: it stops without the common disk's address, and mounts it with it."""
    first = yaml.safe_load((root / name).read_text())["initialization_commands"][0]
    stubs = {
        "mountpoint": f"grep -q ^mount {tmp_path}/ran",
        "sudo": f'echo "$@" >> {tmp_path}/ran',
        "apt-get": "exit 1",
    }
    for program, does in stubs.items():
        (tmp_path / program).write_text(f"#!/bin/bash\n{does}\n")
        (tmp_path / program).chmod(0o755)

    def run(command):
        # As Ray's SSH command runner puts it: in parentheses, in one word for a shell.
        words = ["bash", "-c", f"true && export A=1 && ({command})"]
        env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
        return subprocess.run(words, env=env, capture_output=True, text=True)

    done = run(first)
    assert done.returncode == 1
    assert done.stderr.strip().startswith(f"{name}: fill in 'shared'")
    assert not (tmp_path / "ran").exists(), "nothing was done before"
    done = run(first.replace('shared=""', 'shared="10.0.0.2:/x"'))
    assert done.returncode == 0, done.stderr
    ran = (tmp_path / "ran").read_text()
    assert re.search(r"^mount -t nfs4? -o \S+ 10.0.0.2:/x /shared$", ran, re.M), ran
    assert "chown 1000:100 /shared" in ran
