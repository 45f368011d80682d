"""From no worker at all: jobs make the cluster of cluster.yaml grow, finish, and let it shrink.

Ray's autoscaler is the real one, with the node types of cluster.yaml; its cloud is made up, and a
node is a raylet on this machine.
"""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

from riboray.model import RnaBertForPreTraining, save_checkpoint
from tests.clusters import head, scaling_config
from tests.conftest import random_sequences, tiny_config
from tests.integration.helpers import riboray, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    torch.manual_seed(3)
    save_checkpoint(RnaBertForPreTraining(tiny_config(num_hidden_layers=1)), folder / "model")
    sequences = random_sequences(np.random.default_rng(8), 600, 40, 90)
    (folder / "rnas.fa").write_text("".join(f">s{k}\n{s}\n" for k, s in enumerate(sequences)))
    return folder


@pytest.fixture(scope="module")
def scaling(tmp_path_factory):
    def change(types):
        for kind in types.values():  # they share this machine's memory, and its two CPUs
            kind["resources"]["object_store_memory"] = 100 << 20
        types["cpu"]["resources"]["CPU"] = 2

    def config(address):
        return scaling_config(address, change)

    with head(tmp_path_factory.mktemp("scaling"), "--num-cpus=0", scaling=config) as cluster:
        yield cluster


def has(node, kind):
    return node["Resources"].get(kind, 0)


def test_from_zero_to_cpu_nodes_and_back(scaling, work):
    assert sum(has(node, "CPU") for node in scaling.nodes()) == 0
    jobs = {
        "embed": ["--shard-bytes", "4000", "--per-base"],
        "align": ["--all-pairs"],
    }
    for verb, options in jobs.items():
        common = [work / "rnas.fa", "--checkpoint", work / "model", *options]
        seen = []
        done = threading.Event()

        def watch(done=done, seen=seen):
            while not done.is_set():
                seen.append(sum(has(node, "CPU") for node in scaling.nodes()))
                time.sleep(1)

        thread = threading.Thread(target=watch)
        thread.start()
        code, out, err = scaling.submit(verb, *common, "--output", work / f"{verb}-there")
        done.set()
        thread.join()
        assert code == 0, out + err
        assert max(seen) >= 4, "nodes came, more than one"
        code, _, err = riboray(verb, *common, "--output", work / f"{verb}-here", cwd=work)
        assert code == 0, err
        for there in sorted((work / f"{verb}-there").rglob("*.arrow")):
            here = work / f"{verb}-here" / there.relative_to(work / f"{verb}-there")
            assert there.read_bytes() == here.read_bytes()
    assert any((work / "align-there").rglob("*.arrow"))
    wait_for(lambda: sum(has(node, "CPU") for node in scaling.nodes()) == 0, message="stays large")


def test_a_gpu_is_asked_of_the_gpu_nodes(scaling, work):
    """There is no GPU in them, so it does not run; but the right node comes."""
    command = ["embed", work / "rnas.fa", "--checkpoint", work / "model", "--device", "gpu"]
    options = ["--wait", "no", "--name", "wants-gpu"]
    code, _, err = scaling.submit(*command, "--output", work / "gpu", options=options)
    assert code == 0, err
    assert "ray job logs --follow" in err
    found = wait_for(lambda: [n for n in scaling.nodes() if has(n, "GPU")], message="no GPU node")
    assert has(found[0], "CPU") == 8
    assert not any(has(node, "CPU") == 2 for node in scaling.nodes()), "no CPU node for it"
