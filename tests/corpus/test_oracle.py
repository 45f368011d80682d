"""The steps of ingesting against plain Python, on inputs made to hit their edges."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from riboray.corpus import IngestConfig, fasta, ingest, sha256, steps
from riboray.corpus.sha256 import plain_sha256_64, sha256_64
from riboray.corpus.strings import Strings
from riboray.errors import CorpusError
from riboray.manifest import read_manifest
from tests.corpus import oracle

# Few letters, few lengths and few names: sequences and ids repeat, with and without a difference.
SEQUENCES = st.one_of(
    st.text("AC", min_size=0, max_size=4),
    st.text("ACGUTacgutNn", min_size=3, max_size=9),
    st.text("ACGU-* 1é", min_size=1, max_size=8),
    st.text("AG", min_size=15, max_size=60),
)
URS_NAMES = ["URS0000ABCDEF_9606", "URS0000000001_10090", "URS0000ABCDEF", "URS0000ABCDEG_9606"]
PLAIN_NAMES = ["", "a", "a.2", "a.3", "b", "b.2.2", "b.2", "c_9606", "né", "/"]
NAMES = st.sampled_from(PLAIN_NAMES) | st.sampled_from(URS_NAMES)
TEXTS = st.sampled_from(["", " text", "\tmore text  ", " x y", " ünï"])
ENDS = st.sampled_from(["\n", "\r\n", " \n", "\n\n"])
RECORDS = st.lists(st.tuples(NAMES, TEXTS, SEQUENCES, ENDS, st.booleans()), min_size=1, max_size=30)


def write(path, records, compress=False):
    lines = []
    for name, text, sequence, end, broken in records:
        half = len(sequence) // 2 if broken else 0
        body = sequence[:half] + end + sequence[half:] if half else sequence
        lines.append(f">{name}{text}{end}{body}{end}")
    raw = "".join(lines).encode()
    path.write_bytes(gzip.compress(raw) if compress else raw)
    return path


def found(folder):
    """What a corpus directory holds, in the oracle's form."""
    rows = ds.dataset(sorted(folder.glob("sequences-*.parquet"))).to_table().to_pylist()
    return [[r["id"], r["sequence"], r["description"]] for r in rows]


def check(folder, manifest, wanted):
    assert found(folder) == wanted.kept
    rejects = pq.read_table(folder / "rejects.parquet").to_pylist()
    out = [(r["file"], r["record"], r["id"], r["outcome"]) for r in rejects]
    assert sorted(out) == sorted(wanted.out)
    repeats = pq.read_table(folder / "duplicates.parquet").to_pylist()
    assert sorted((r["file"], r["record"], r["id"], r["kept_id"]) for r in repeats) == sorted(
        wanted.duplicates
    )
    assert {k: v for k, v in manifest.counts.items() if v} == wanted.counts
    for kind in ("sequences", "windows"):
        total = sum(
            manifest.counts.get(f"{kind}_{o}", 0)
            for o in ("kept", "duplicates", "rejected", "filtered")
        )
        assert manifest.counts.get(f"{kind}_read", 0) == total
    reasons = manifest.details["reasons"]
    for outcome in ("rejected", "filtered"):
        assert sum(reasons[outcome].values()) == manifest.counts[f"sequences_{outcome}"]


def cut_small(monkeypatch, part, partition):
    """Make parts and partitions so small that a few records make several."""
    monkeypatch.setattr(steps, "PART_BYTES", part)
    monkeypatch.setattr(steps, "_PARTITION_BYTES", partition)


OPTIONS = st.fixed_dictionaries(
    {
        "min_length": st.integers(1, 5),
        "max_length": st.sampled_from([8, 20, 440]),
        "on_long": st.sampled_from(["reject", "window", "truncate"]),
        "ambiguity": st.sampled_from(["keep", "reject"]),
        "max_ambiguity": st.sampled_from([1.0, 0.4, 0.0]),
        "duplicate_ids": st.sampled_from(["suffix", "reject"]),
        "taxid": st.sampled_from([[], [], [9606], [9606, 10090]]),
    }
)


@settings(
    max_examples=70, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    files=st.lists(st.tuples(RECORDS, st.booleans()), min_size=1, max_size=3),
    excluded=st.one_of(st.none(), RECORDS),
    options=OPTIONS,
    part=st.sampled_from([30, 200, 1 << 20]),
    partition=st.sampled_from([60, 1 << 20]),
)
def test_against_plain_python(monkeypatch, files, excluded, options, part, partition):
    cut_small(monkeypatch, part, partition)
    with TemporaryDirectory() as name:
        folder = Path(name)
        paths = [write(folder / f"{k}.fa", *content) for k, content in enumerate(files)]
        out = [write(folder / "x.fa", excluded)] if excluded else []
        wanted = oracle.ingest(paths, out, **options)
        config = IngestConfig(
            corpus=[str(p) for p in paths],
            exclude=[str(p) for p in out],
            output=str(folder / "corpus"),
            rows_per_shard=5,
            **options,
        )
        if wanted.nothing_to_exclude:
            with pytest.raises(CorpusError, match="no usable sequence to exclude among"):
                ingest(config)
            return
        if not wanted.counts.get("sequences_kept"):
            with pytest.raises(CorpusError, match="no usable sequence"):
                ingest(config)
            assert not (folder / "corpus").exists()
            return
        manifest = ingest(config)
        check(folder / "corpus", manifest, wanted)
        if options["on_long"] != "reject":
            long = pq.read_table(folder / "corpus" / "long.parquet").to_pylist()
            assert [(r["file"], r["record"], r["id"]) for r in long] == wanted.long
        assert not (folder / "corpus" / "work").exists()
        read_manifest(folder / "corpus", "corpus", verify=True)


def digests(folder):
    return {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.glob("*.parquet"))
    }


def test_the_way_work_is_cut_leaves_no_trace(tmp_path, monkeypatch, rng):
    letters = np.array(list("ACGU"))
    records = [
        (f"s{rng.integers(300)}", " of some kind", "".join(rng.choice(letters, 12)), "\n", False)
        for _ in range(400)
    ]
    records += [(f"again{k}", "", records[k][2], "\n", False) for k in range(0, 400, 7)]
    records += [(f"bad{k}", "", "ACGUX-ACGU", "\n", False) for k in range(20)]
    records += [(f"long{k}", "", "".join(rng.choice(letters, 70)), "\n", False) for k in range(9)]
    path = write(tmp_path / "in.fa", records)
    packed = write(tmp_path / "in.fa.gz", records, compress=True)
    seen = set()
    cuts = [(1 << 20, 1 << 20), (400, 1 << 20), (1 << 20, 2000), (900, 1500)]
    for number, (part, partition) in enumerate(cuts):
        cut_small(monkeypatch, part, partition)
        for k, source in enumerate((path, packed)):
            output = tmp_path / f"out-{number}-{k}"
            options = {"max_length": 40, "on_long": "window", "validation_share": 0.1}
            ingest(
                IngestConfig(
                    corpus=[str(source)], output=str(output), rows_per_shard=100, **options
                )
            )
            seen.add(tuple(sorted(digests(output).items())[2:] if k else digests(output).items()))
    # duplicates, long and rejects name the file, which differs; sequences must not.
    names = {tuple(n for n, _ in files if n.startswith(("seq", "val"))) for files in seen}
    assert len(names) == 1
    sequences = {
        tuple((n, d) for n, d in files if n.startswith(("sequences", "validation")))
        for files in seen
    }
    assert len(sequences) == 1
    plain = [digests(tmp_path / f"out-{n}-0") for n in range(len(cuts))]
    assert all(files == plain[0] for files in plain)
    packed_files = [digests(tmp_path / f"out-{n}-1") for n in range(len(cuts))]
    assert all(files == packed_files[0] for files in packed_files)


def test_equal_hashes_do_not_make_sequences_equal(tmp_path, monkeypatch):
    """With a hash of two bits, nearly everything collides; the outcome must not change."""
    monkeypatch.setattr(
        "riboray.corpus.parts.sha256_64", lambda s: plain_sha256_64(s) >> np.uint64(62)
    )
    records = [(f"r{k}", "", "ACGUACGUAC"[k % 7 :] * 3, "\n", False) for k in range(40)]
    path = write(tmp_path / "in.fa", records)
    manifest = ingest(IngestConfig(corpus=[str(path)], output=str(tmp_path / "c")))
    wanted = oracle.ingest([path])
    assert sorted(found(tmp_path / "c")) == sorted(wanted.kept)
    assert {k: v for k, v in manifest.counts.items() if v} == wanted.counts
    repeats = pq.read_table(tmp_path / "c" / "duplicates.parquet").to_pylist()
    assert sorted((r["file"], r["record"], r["id"], r["kept_id"]) for r in repeats) == sorted(
        wanted.duplicates
    )


def test_rejected_ids_do_not_take_their_sequence_along(tmp_path):
    """B loses its id to A; C has B's sequence under an id of its own and must be kept."""
    text = b">id1\nACGUACGUAA\n>id1\nGGGUACGUAA\n>id2\nGGGUACGUAA\n>id2\nUUUUACGUAA\n"
    (tmp_path / "in.fa").write_bytes(text)
    out = tmp_path / "c"
    ingest(IngestConfig(corpus=[str(tmp_path / "in.fa")], output=str(out), duplicate_ids="reject"))
    assert sorted(row[:2] for row in found(out)) == [["id1", "ACGUACGUAA"], ["id2", "GGGUACGUAA"]]


@pytest.mark.parametrize("few", [0, 10**9], ids=["lanes", "hashlib"])
def test_sha256_against_hashlib(monkeypatch, few):
    monkeypatch.setattr(sha256, "_FEW", few)
    rng = np.random.default_rng(5)
    texts = ["A" * k for k in range(200)] + ["", "C" * 100_000]
    texts += ["".join(rng.choice(list("ACGU"), rng.integers(0, 300))) for _ in range(300)]
    wanted = [int.from_bytes(hashlib.sha256(t.encode()).digest()[:8]) for t in texts]
    assert sha256_64(Strings.of(texts)).tolist() == wanted


@given(st.lists(st.text(max_size=20), max_size=20), st.data())
def test_strings(texts, data):
    texts = [t.encode("utf-8", "ignore").decode() for t in texts]
    column = Strings.of(texts)
    assert [column.text(k) for k in range(len(column))] == texts
    assert column.to_arrow().to_pylist() == texts
    first = data.draw(st.integers(0, len(texts)))
    part = Strings.from_arrow(column.to_arrow().slice(first))
    assert [part.text(k) for k in range(len(part))] == texts[first:]
    rows = data.draw(st.lists(st.integers(0, len(texts) - 1), max_size=9)) if texts else []
    assert column.take(np.array(rows, np.int64)).to_arrow().to_pylist() == [texts[r] for r in rows]
    assert not column.undecodable().any()
    joined = Strings.concatenate([column, part])
    assert joined.to_arrow().to_pylist() == texts + texts[first:]


def test_parts_are_the_same_however_they_are_read(tmp_path, monkeypatch, rng):
    """Cut from a stream or read at an offset: the same text under the same number."""
    monkeypatch.setattr(fasta, "_CHUNK", 13)
    for trial in range(40):
        records = [
            (f"{k}" * rng.integers(0, 4), " >", "ACGU" * rng.integers(0, 9), "\n", False)
            for k in range(rng.integers(1, 12))
        ]
        path = write(tmp_path / f"{trial}.fa", records)
        raw = path.read_bytes()
        for size in (1, 5, 16, 50, 1000):
            streamed = dict(fasta.stream_parts(path, size))
            count = -(-len(raw) // size)
            read = {k: fasta.read_part(str(path), len(raw), k, size) for k in range(count)}
            assert {k: v for k, v in read.items() if v} == streamed
            assert b"".join(read.values()) == raw
