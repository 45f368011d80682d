"""`riboray embed` and `riboray verify` as their user runs them, on a real Ray, with real faults."""

from __future__ import annotations

import gzip
import json
import signal

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import riboray as library
from riboray.cli import main
from riboray.embedding.embedder import Embedder
from riboray.model import RnaBertConfig, RnaBertForPreTraining, load_checkpoint, save_checkpoint
from tests.conftest import random_sequences
from tests.disks import small_disk
from tests.integration.helpers import kill, riboray, start, wait_for
from tests.integration.test_align import write_fasta

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A model that takes its time, and RNAs in three kinds of file."""
    folder = tmp_path_factory.mktemp("embed")
    torch.manual_seed(3)
    save_checkpoint(RnaBertForPreTraining(RnaBertConfig()), folder / "model")
    rng = np.random.default_rng(12)
    plain = random_sequences(rng, 700, 20, 200)
    plain[333] = random_sequences(rng, 1, 3000, 3000)[0]
    packed = random_sequences(rng, 300, 20, 200)
    table = random_sequences(rng, 300, 20, 200)
    write_fasta(folder / "plain.fa", plain, "p")
    text = "".join(f">z{k}\n{s}\n" for k, s in enumerate(packed))
    (folder / "packed.fa.gz").write_bytes(gzip.compress(text.encode()))
    names = [f"t{k}" for k in range(300)]
    columns = {"name": names, "seq": table, "rna_type": ["tRNA", None] * 150}
    pq.write_table(pa.table(columns), folder / "table.parquet", row_group_size=100)
    everything = [*plain, *packed, *table]
    ids = [f"p{k}" for k in range(700)] + [f"z{k}" for k in range(300)] + names
    return folder, ids, everything


COMMON = ["embed", "plain.fa", "packed.fa.gz", "table.parquet", "--checkpoint", "model"]
COMMON += ["--shard-bytes", "8000", "--num-workers", "2", "--output"]


def contents(folder):
    """Every file of a finished output that a reader sees."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


@pytest.fixture(scope="module")
def undisturbed(work):
    folder, _ids, _texts = work
    code, out, err = riboray(*COMMON, "whole", cwd=folder)
    assert code == 0, err
    return json.loads(out), err


def test_all_inputs_in_their_order(work, undisturbed):
    folder, ids, texts = work
    summary, err = undisturbed
    assert summary["sequences_read"] == summary["sequences_embedded"] == 1300
    assert "1,300 read = 1,300 embedded + 0 rejected + 0 failed" in err
    assert "1,300 sequences, " in err
    assert "; about " in err
    stored = library.open_embeddings(folder / "whole")
    assert stored.ids.to_pylist() == ids
    assert stored.column("rna_type").to_pylist() == [None] * 1000 + ["tRNA", None] * 150
    assert stored.column("windows")[333].as_py() == 13
    some = [0, 5, 333, 699, 700, 850, 1000, 1299]
    embedder = Embedder(load_checkpoint(folder / "model").model)
    expected = [rows.mean(axis=0) for rows in embedder.per_base([texts[k] for k in some])]
    np.testing.assert_allclose(stored.to_numpy()[some], expected, atol=1e-5)
    code, out, err = riboray("verify", "whole", cwd=folder)
    assert code == 0, err
    assert json.loads(out)["largest_difference"] < 1e-5


def pool_workers(process):
    """The processes of the actors that embed."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if "_Worker" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def test_workers_and_driver_are_killed_and_nothing_changes(work, undisturbed):
    folder, _, _ = work
    output = folder / "killed"
    process = start([*COMMON, "killed"], folder)
    wait_for(lambda: len(list(output.glob("*.arrow"))) >= 3)
    victims = pool_workers(process)
    assert victims, "no worker to kill"
    victims[0].kill()
    before = len(list(output.glob("*.arrow")))
    wait_for(lambda: len(list(output.glob("*.arrow"))) >= before + 3)
    assert process.poll() is None
    second, _, err = riboray(*COMMON, "killed", cwd=folder)
    assert second == 2
    assert "another process is embedding into it" in err
    assert kill(process) == -9
    done = {path: path.stat().st_mtime_ns for path in output.glob("*.arrow")}
    torn = sorted(done)[1]
    torn.write_bytes(torn.read_bytes()[:1000])
    code, _out, err = riboray(*COMMON, "killed", cwd=folder)
    assert code == 0, err
    assert "files are done already" in err
    unchanged = [p for p in done if p != torn and p.stat().st_mtime_ns == done[p]]
    assert len(unchanged) >= len(done) - 2, "what was done is not done again"
    assert contents(output) == contents(folder / "whole") | {
        "resolved_config.yaml": (output / "resolved_config.yaml").read_bytes(),
        "owner.json": (output / "owner.json").read_bytes(),
        "manifest.json": (folder / "whole" / "manifest.json").read_bytes(),
    }


def test_nodes_come_and_go(work, undisturbed, cluster):
    """More workers wanted than there is room for; a node killed, another added: the same files."""
    folder, _, _ = work
    output = folder / "elastic"
    node = cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1")
    port = cluster.address.rpartition(":")[2]
    address = ["--ray-address", f"127.0.0.1:{port}"]
    command = [*COMMON, "elastic", "--num-workers", "[1, 3]", *address]
    log = (folder / "elastic.log").open("w+")
    process = start(command, folder, stderr=log, RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0")

    def said():
        return (folder / "elastic.log").read_text()

    def files():
        return len(list(output.glob("*.arrow")))

    try:
        wait_for(lambda: files() >= 3 or process.poll() is not None)
        assert process.poll() is None, said()
        cluster.remove_node(node, allow_graceful=False)
        cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1")
        process.communicate(timeout=400)
    finally:
        if process.poll() is None:
            kill(process)
        log.close()
    assert process.returncode == 0, said()
    assert "workers     1 to 3" in said()
    for name, content in contents(folder / "whole").items():
        if name.endswith(".arrow"):
            assert (output / name).read_bytes() == content


def test_ctrl_c_and_on(work, undisturbed):
    folder, _, _ = work
    output = folder / "stopped"
    process = start([*COMMON, "stopped"], folder)
    wait_for(lambda: len(list(output.glob("*.arrow"))) >= 2)
    assert kill(process, signal.SIGINT) == 130
    _, err = process.communicate()
    assert "the same command goes on" in err
    assert "Traceback" not in err
    code, _, err = riboray(*COMMON, "stopped", "--num-workers", "1", cwd=folder)
    assert code == 0, err
    for name, content in contents(folder / "whole").items():
        if name.endswith(".arrow"):
            assert (output / name).read_bytes() == content


def test_a_disk_that_fills_up(work, tmp_path):
    folder, _, _ = work
    with small_disk(tmp_path / "disk", "600k") as disk:
        output = disk.path / "out"
        code, _, err = riboray(*COMMON, output, cwd=folder)
        assert code == 2
        assert "are needed, but only" in err
        assert not output.exists()
        disk.resize("20m")
        process = start([*COMMON, output, "--num-workers", "1"], folder)
        wait_for(lambda: list(output.glob("*.arrow")))
        filler = disk.fill(30_000)
        _, err = process.communicate(timeout=300)
        assert process.returncode == 1
        assert "No space left" in err
        assert "Traceback" not in err
        filler.unlink()
        code, out, err = riboray(*COMMON, output, cwd=folder)
        assert code == 0, err
        assert json.loads(out)["sequences_embedded"] == 1300


def test_a_corpus_is_input(work):
    folder, ids, _ = work
    code, _, err = riboray(
        *("ingest", "plain.fa", "--output", "corpus", "--on-long", "truncate"),
        *("--validation-share", "0.2"),
        cwd=folder,
    )
    assert code == 0, err
    code, _out, err = riboray(
        *("embed", "corpus", "--checkpoint", "model", "--output", "of_corpus"),
        *("--per-base", "--layers=[0,6]", "--format", "parquet"),
        cwd=folder,
    )
    assert code == 0, err
    stored = library.open_embeddings(folder / "of_corpus")
    ids = [i if i != "p333" else "p333/1-440" for i in ids[:700]]  # the one cut by ingesting
    assert sorted(stored.ids.to_pylist()) == sorted(ids)
    assert {"embedding_layer_0", "per_base_layer_6"} <= set(stored.schema.names)


def test_inputs_over_http(work, undisturbed, server):
    """The same sequences from a server as from the disk, and what is not there."""
    folder, ids, _ = work
    served, url = server
    for name in ("plain.fa", "packed.fa.gz", "table.parquet"):
        (served / name).write_bytes((folder / name).read_bytes())
    addresses = [f"{url}/{name}" for name in ("plain.fa", "packed.fa.gz", "table.parquet")]
    common = ["--checkpoint", str(folder / "model"), "--shard-bytes", "8000"]
    assert main(["embed", *addresses, *common, "--output", str(folder / "remote")]) == 0
    stored = library.open_embeddings(folder / "remote")
    assert stored.ids.to_pylist() == ids
    here = library.open_embeddings(folder / "whole").to_numpy()
    assert np.array_equal(stored.to_numpy(), here)
    assert main(["embed", f"{url}/none.fa", *common, "--output", str(folder / "none")]) == 2


def test_inputs_from_an_object_store(work, undisturbed, object_store):
    folder, ids, _ = work
    store, query = object_store
    store.create_dir("rnas")
    for name in ("plain.fa", "packed.fa.gz", "table.parquet"):
        with store.open_output_stream(f"rnas/deep/{name}", compression=None) as sink:
            sink.write((folder / name).read_bytes())
    options = ["--checkpoint", str(folder / "model"), "--shard-bytes", "8000"]
    output = str(folder / "stored")
    assert main(["embed", f"s3://rnas/deep{query}", *options, "--output", output]) == 0
    stored = library.open_embeddings(output)
    assert sorted(stored.ids.to_pylist()) == sorted(ids)
    whole = library.open_embeddings(folder / "whole")
    place = {name: row for row, name in enumerate(whole.ids.to_pylist())}
    rows = [place[name] for name in stored.ids.to_pylist()]
    assert np.array_equal(stored.to_numpy(), whole.to_numpy()[rows])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nowhere.fa"], "no such file"),
        (["plain.fa", "--layers=[7]"], "layers 0 to 6"),
        (["plain.fa", "--device", "gpu"], "this machine has no GPU"),
        (["empty.fa"], "is empty"),
        (["torn.fa.gz"], "ends too early"),
    ],
)
def test_mistakes(work, options, message):
    folder, _, _ = work
    (folder / "empty.fa").write_text("")
    (folder / "torn.fa.gz").write_bytes((folder / "packed.fa.gz").read_bytes()[:-200])
    code, _, err = riboray(
        "embed", *options, "--checkpoint", "model", "--output", "never", cwd=folder
    )
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert not (folder / "never").exists()
