from __future__ import annotations

import gzip
from collections import Counter

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from riboray.alignment import aligned_columns
from riboray.corpus import IngestConfig, ingest, read_fasta
from riboray.corpus.families import pairs_of
from riboray.corpus.records import PAIR_SCHEMA, SEQUENCE_SCHEMA, hash64, why_rejected
from riboray.corpus.sample import SAMPLE_ALIGNMENTS, SAMPLE_CORPUS
from riboray.errors import ConfigError, CorpusError, OutputError
from riboray.manifest import read_manifest

MIXED = (
    b""">good1 some text
ACGUACGUACGU
>good2
acgtacgtacgtnn
>same_as_good1
ACGTACGTACGT
>short
ACG
>gap
ACGU-ACGUACG
>empty
>
ACGUACGUACGUA
>only_n
NNNNNNNNNNNN
>good1
GGGGGGGGGGGGCC
>long
"""
    + b"A" * 441
    + b"\n"
)


def config(tmp_path, content=MIXED, **options):
    path = tmp_path / "in.fa"
    path.write_bytes(content)
    return IngestConfig(corpus=[str(path)], output=str(tmp_path / "corpus"), **options)


def rows(folder, kind="sequences"):
    return ds.dataset(sorted(folder.glob(f"{kind}-*.parquet"))).to_table().to_pylist()


def test_every_record_is_accounted_for(tmp_path):
    manifest = ingest(config(tmp_path))
    counts = manifest.counts
    assert counts == {
        "sequences_read": 10,
        "sequences_kept": 3,
        "sequences_duplicates": 1,
        "sequences_rejected": 5,
        "sequences_filtered": 1,
    }
    kept = {r["id"]: r for r in rows(tmp_path / "corpus")}
    assert set(kept) == {"good1", "good2", "good1.2"}
    assert kept["good2"]["sequence"] == "ACGUACGUACGUNN"
    assert kept["good1"]["description"] == "some text"
    assert kept["good1"]["sha256_64"] == hash64("ACGUACGUACGU")
    rejects = pq.read_table(tmp_path / "corpus" / "rejects.parquet").to_pylist()
    assert {(r["record"], r["id"], r["outcome"], r["reason"]) for r in rejects} == {
        (4, "short", "filtered", "3 nt, shorter than 10"),
        (5, "gap", "rejected", "character '-' at position 5 is no nucleotide"),
        (6, "empty", "rejected", "empty sequence"),
        (7, "", "rejected", "record without an id"),
        (8, "only_n", "rejected", "nothing but ambiguity codes"),
        (10, "long", "rejected", "441 nt, longer than 440"),
    }
    duplicates = pq.read_table(tmp_path / "corpus" / "duplicates.parquet").to_pylist()
    assert [(r["record"], r["id"], r["kept_id"]) for r in duplicates] == [
        (3, "same_as_good1", "good1")
    ]
    assert manifest.details["reasons"] == {
        "rejected": {
            "no id": 1,
            "empty sequence": 1,
            "character that is no nucleotide": 1,
            "longer than max_length": 1,
            "nothing but ambiguity codes": 1,
        },
        "filtered": {"shorter than min_length": 1},
    }


@pytest.mark.parametrize(("policy", "kept"), [("suffix", 3), ("reject", 2)])
def test_policies_for_repeated_ids(tmp_path, policy, kept):
    assert ingest(config(tmp_path, duplicate_ids=policy)).counts["sequences_kept"] == kept


def test_repeated_ids_can_be_an_error(tmp_path):
    with pytest.raises(CorpusError, match="record 9: id 'good1' occurs twice"):
        ingest(config(tmp_path, duplicate_ids="error"))
    assert not (tmp_path / "corpus").exists()


def test_schema_and_shards(tmp_path):
    content = b"".join(
        b">s%d\n%s\n"
        % (i, np.base_repr(i + 4**9, 4).translate(str.maketrans("0123", "ACGU")).encode())
        for i in range(1000)
    )
    ingest(config(tmp_path, content, rows_per_shard=300))
    files = sorted((tmp_path / "corpus").glob("sequences-*.parquet"))
    assert [pq.read_metadata(f).num_rows for f in files] == [250] * 4
    for file in files:
        assert pq.read_schema(file).equals(SEQUENCE_SCHEMA, check_metadata=True)
        metadata = pq.read_metadata(file)
        assert metadata.row_group(0).column(0).compression == "ZSTD"
        assert metadata.row_group(0).num_rows <= 50_000
    hashes = [r["sha256_64"] for r in rows(tmp_path / "corpus")]
    assert hashes == sorted(hashes)


def test_the_order_of_the_input_does_not_matter(tmp_path):
    records = [b">a\nACGUACGUAC\n", b">b\nGGGGACGUAC\n", b">c\nUUUUACGUAC\n"]
    digests = []
    for number, order in enumerate((records, records[::-1])):
        folder = tmp_path / str(number)
        folder.mkdir()
        manifest = ingest(config(folder, b"".join(order)))
        digests.append({f.name: f.sha256 for f in manifest.files})
    assert digests[0] == digests[1]


def test_a_second_time_nothing_is_done_and_other_options_are_refused(tmp_path):
    ingest(config(tmp_path))
    before = (tmp_path / "corpus" / "manifest.json").stat().st_mtime_ns
    ingest(config(tmp_path))
    assert (tmp_path / "corpus" / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(OutputError, match="other inputs or options"):
        ingest(config(tmp_path, min_length=5))
    with pytest.raises(OutputError, match="other inputs or options"):
        ingest(config(tmp_path, MIXED + b">new\nACGUACGUAAAA\n"))
    read_manifest(tmp_path / "corpus", "corpus", verify=True)


def test_foreign_directories_are_left_alone(tmp_path):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="exists already"):
        ingest(config(tmp_path))
    assert (tmp_path / "corpus" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b">a\nAC\n", "no usable sequence among 1; most common reason: 2 nt, shorter than 10"),
        (gzip.compress(MIXED * 99)[:-9], "truncated"),
    ],
    ids=["too short", "truncated gzip"],
)
def test_a_failure_leaves_nothing_behind(tmp_path, content, message):
    with pytest.raises(CorpusError.__mro__[1], match=message):
        ingest(config(tmp_path, content))
    assert [p.name for p in tmp_path.iterdir()] == ["in.fa"]


def family(name, *sequences):
    lines = [f"{name}s{i} {row}" for i, row in enumerate(sequences)]
    return "\n".join(["# STOCKHOLM 1.0", f"#=GF AC {name}", *lines, "//", ""])


def test_families_and_pairs(tmp_path):
    text = family("A", "ACGUACGUAC--", "ACGUACGU..GG", "ACGUACGUAC--") + family("B", "ACGUACGUAC")
    (tmp_path / "x.sto").write_text(text)
    manifest = ingest(
        IngestConfig(alignments=[str(tmp_path / "x.sto")], output=str(tmp_path / "corpus"))
    )
    counts = manifest.counts
    assert (counts["families_read"], counts["families_kept"], counts["families_rejected"]) == (
        2,
        1,
        1,
    )
    assert (counts["rows_read"], counts["rows_kept"], counts["rows_duplicates"]) == (4, 3, 1)
    (pair,) = rows(tmp_path / "corpus", "pairs")
    assert (pair["aligned_a"], pair["aligned_b"]) == ("ACGUACGUAC--", "ACGUACGU--GG")
    assert (pair["length_a"], pair["length_b"], pair["identity"]) == (10, 10, 1.0)
    file = next((tmp_path / "corpus").glob("pairs-*.parquet"))
    assert pq.read_schema(file).equals(PAIR_SCHEMA, check_metadata=True)
    # Without a corpus of their own, the alignments' sequences are the corpus.
    assert {r["family"] for r in rows(tmp_path / "corpus")} == {"A"}


def test_no_usable_family(tmp_path):
    (tmp_path / "x.sto").write_text(family("A", "ACGUACGUAC") + family("B", "ACGUACGUAC"))
    with pytest.raises(CorpusError, match="no family with two usable sequences among 2"):
        ingest(IngestConfig(alignments=[str(tmp_path / "x.sto")], output=str(tmp_path / "c")))


def test_pair_numbers_cover_all_pairs():
    found = pairs_of(np.arange(15), 6).tolist()
    assert found == [[i, j] for i in range(6) for j in range(i + 1, 6)]


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample") / "corpus"
    manifest = ingest(
        IngestConfig(
            corpus=[SAMPLE_CORPUS],
            alignments=[SAMPLE_ALIGNMENTS],
            output=str(folder),
            pairs_per_family=50,
        )
    )
    return folder, manifest


def test_the_sample_holds_exactly_what_its_files_hold(sample):
    folder, manifest = sample
    wanted = {r.sequence for r in read_fasta(SAMPLE_CORPUS) if len(r.sequence) <= 440}
    assert {r["sequence"] for r in rows(folder)} == wanted
    assert manifest.counts["sequences_read"] == 2264


def test_pairs_are_the_seed_alignments_columns(sample):
    from riboray.corpus import read_stockholm

    folder, _ = sample
    members = {
        (f.accession, i): row
        for f in read_stockholm(SAMPLE_ALIGNMENTS)
        for i, row in zip(f.ids, f.rows, strict=True)
    }
    pairs = rows(folder, "pairs")
    assert set(Counter(p["family"] for p in pairs).values()) == {50}
    for pair in pairs[:60]:
        full = [members[pair["family"], pair[k]] for k in ("id_a", "id_b")]
        wanted = aligned_columns(*full)
        found = aligned_columns(pair["aligned_a"], pair["aligned_b"])
        assert found.partners.tolist() == wanted.partners.tolist()
        assert len(found.sequence_a) == pair["length_a"] <= 440


@pytest.mark.parametrize(
    ("sequence", "reason"),
    [
        ("ACGUACGUAC", None),
        ("ACGUNNNNNN", None),
        ("ACGUACGUA\0", "character '\\x00' at position 10 is no nucleotide"),
        ("ACGU ACGUA", "character ' ' at position 5 is no nucleotide"),
        ("ACGUÅCGUAC", "character 'Å' at position 5 is no nucleotide"),
    ],
)
def test_reasons(sequence, reason):
    assert why_rejected(sequence, 10, 440) == reason


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"corpus": ["x"], "min_length": 9, "max_length": 5},
        {"corpus": ["x"], "rows_per_shard": 0},
    ],
)
def test_impossible_options(options):
    with pytest.raises(ConfigError):
        IngestConfig(**options)
