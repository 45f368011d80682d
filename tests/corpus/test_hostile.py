"""Files that break other tools: each is refused in one line, or every record is accounted for."""

from __future__ import annotations

import gzip
import os
import threading

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from riboray.corpus import IngestConfig, ingest, steps
from riboray.errors import InputError, RiborayError

GOOD = b">a first\nACGUACGUACGU\n>b\nGGGGACGUACGU\n"
MANY = b"".join(b">r%d\n%s\n" % (i, b"ACGU" * 30) for i in range(4000))


def run(tmp_path, content, **options):
    path = tmp_path / "in.fa"
    path.write_bytes(content)
    output = tmp_path / "corpus"
    return ingest(IngestConfig(corpus=[str(path)], output=str(output), **options)), output


def rows(folder, stem="sequences"):
    files = sorted(folder.glob(f"{stem}-*.parquet"))
    return ds.dataset(files).to_table().to_pylist() if files else []


REFUSED = {
    "empty": (b"", "is empty"),
    "blank": (b"\n \n\r\n", "is empty"),
    "empty gzip": (gzip.compress(b""), "is empty"),
    "truncated gzip": (gzip.compress(MANY)[:-400], "truncated"),
    "gzip header alone": (gzip.compress(MANY)[:12], "truncated|damaged"),
    "rubbish after gzip": (gzip.compress(GOOD) + b"rubbish", "damaged"),
    "NUL": (GOOD + b">c\nAC\0GU\n", "record 3: NUL byte"),
    "BOM": (b"\xef\xbb\xbf" + GOOD, "byte-order mark"),
    "FASTQ": (b"@r1\nACGU\n+\nIIII\n", "FASTQ"),
    "FASTQ below": (GOOD + b"@r1\nACGU\n+\nIIII\n", "record 2: a line starts with '@'"),
    "comment first": (b";comment\n>a\nACGU\n", "starts with ';'"),
    "old Mac": (GOOD.replace(b"\n", b"\r"), "carriage returns alone"),
    "some old Mac lines": (GOOD + b">c\rACGU\n", "record 3: lines end with carriage returns"),
    "Stockholm": (b"# STOCKHOLM 1.0\n\na ACGU\n//\n", "is Stockholm"),
    "text": (b"dear diary\n", "not FASTA"),
    "binary": (bytes(range(1, 256)), "not FASTA"),
    "broken Parquet": (b"PAR1" + b"\0" * 64, "Parquet file cannot be read"),
    "protein": (b">p\nMKVLAAGIEFPQ\n", "no usable sequence among 1.*'L'|'I'|'E'|'F'|'P'|'Q'"),
}


@pytest.mark.parametrize("part", [64, 1 << 20], ids=["small parts", "one part"])
@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_in_one_line_and_nothing_left(tmp_path, monkeypatch, part, content, message):
    monkeypatch.setattr(steps, "PART_BYTES", part)
    with pytest.raises(RiborayError, match=message) as caught:
        run(tmp_path, content)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert "in.fa" in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["in.fa"]


def test_a_flipped_bit_anywhere_in_gzip(tmp_path):
    packed = gzip.compress(MANY)
    for position in range(10, len(packed), len(packed) // 20):
        data = bytearray(packed)
        data[position] ^= 1
        with pytest.raises(RiborayError, match="damaged|truncated|NUL|FASTQ|not FASTA|no usable"):
            run(tmp_path, bytes(data))
        assert not (tmp_path / "corpus").exists()


ACCOUNTED = {
    "no id": (b">\nACGUACGUAAAA\n", 1, "record without an id"),
    "blank before the id": (b"> x\nACGUACGUAAAA\n", 1, "record without an id"),
    "header alone": (b">c\n>d\n", 2, "empty sequence"),
    "interior blank": (b">c\nACGU ACGUAC\n", 1, "character ' ' at position 5 is no nucleotide"),
    "digits": (b">c\n1 ACGUACGU\n", 1, "character '1' at position 1 is no nucleotide"),
    "comment inside": (b">c\n;note\nACGUACGUAC\n", 1, "character ';' at position 1"),
    "gap": (b">c\nACGU--ACGUAC\n", 1, "character '-' at position 5 is no nucleotide"),
    "stop": (b">c\nACGUACGUAC*\n", 1, "character '*' at position 11 is no nucleotide"),
    "not ASCII": (">c\nACGUÅACGUAC\n".encode(), 1, "character 'Å' at position 5"),
    "not UTF-8": (b">c \xff\xfe\nACGUACGUAAAA\n", 1, "header is not UTF-8"),
    "sequence not UTF-8": (b">c\nACGU\xffACGUAC\n", 1, "at position 5 is no nucleotide"),
    "protein of few letters": (b">c\nMKVHSDGRLL\n", 1, "character 'L' at position 9"),
    "long": (b">c\n" + b"A" * 441 + b"\n", 1, "441 nt, longer than 440"),
    "50-Mb line": (b">c\n" + b"ACGU" * 12_500_000 + b"\n", 1, "50000000 nt, longer than 440"),
    "short": (b">c\nACG\n", 1, "3 nt, shorter than 10"),
    "only N": (b">c\nNNNNNNNNNNNN\n", 1, "nothing but ambiguity codes"),
}


@pytest.mark.parametrize(("content", "count", "reason"), ACCOUNTED.values(), ids=ACCOUNTED.keys())
def test_accounted_for(tmp_path, content, count, reason):
    manifest, output = run(tmp_path, GOOD + content)
    assert manifest.counts["sequences_read"] == 2 + count
    assert manifest.counts["sequences_kept"] == 2
    found = pq.read_table(output / "rejects.parquet").to_pylist()
    assert [r["record"] for r in found] == list(range(3, 3 + count))
    assert all(reason in r["reason"] for r in found)


LONG_ID = "x/" * 2500

KEPT = {
    "lower case DNA": (b">c\nacgtacgtaacc\n", "c", "ACGUACGUAACC"),
    "windows": (b">c d\r\nACGUAC\r\nGUAACC\r\n", "c", "ACGUACGUAACC"),
    "no end of line": (b">c\nACGUACGUAACC", "c", "ACGUACGUAACC"),
    "blanks at line ends": (b">c\n  ACGUAC \t\n\nGUAACC \n\n", "c", "ACGUACGUAACC"),
    "ambiguity codes": (b">c\nACGUNRYSWKMBDHVX\n", "c", "ACGUNRYSWKMBDHVX"),
    "id of 5,000 characters": (f">{LONG_ID}\nACGUACGUAACC\n".encode(), LONG_ID, "ACGUACGUAACC"),
    "unicode": (">né ü\nACGUACGUAACC\n".encode(), "né", "ACGUACGUAACC"),
    "id twice": (b">a\nACGUACGUAACC\n", "a.2", "ACGUACGUAACC"),
}


@pytest.mark.parametrize(("content", "name", "sequence"), KEPT.values(), ids=KEPT.keys())
def test_kept(tmp_path, content, name, sequence):
    manifest, output = run(tmp_path, GOOD + content)
    assert manifest.counts["sequences_kept"] == manifest.counts["sequences_read"] == 3
    assert {r["id"]: r["sequence"] for r in rows(output)}[name] == sequence


def test_what_is_no_file(tmp_path):
    config = {"output": str(tmp_path / "c")}
    with pytest.raises(InputError, match="no such file"):
        ingest(IngestConfig(corpus=[str(tmp_path / "no.fa")], **config))
    with pytest.raises(InputError, match="no file below ends in"):
        ingest(IngestConfig(corpus=[str(tmp_path)], **config))
    os.mkfifo(tmp_path / "pipe.fa")
    finished = threading.Event()

    def refuse():
        with pytest.raises(InputError, match="is a named pipe"):
            ingest(IngestConfig(corpus=[str(tmp_path / "pipe.fa")], **config))
        finished.set()

    threading.Thread(target=refuse, daemon=True).start()
    assert finished.wait(20), "opening a pipe waits for ever"
    with pytest.raises(InputError, match="is a device"):
        ingest(IngestConfig(corpus=["/dev/zero"], **config))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file(tmp_path):
    (tmp_path / "in.fa").write_bytes(GOOD)
    (tmp_path / "in.fa").chmod(0)
    with pytest.raises(InputError, match="cannot be read .Permission denied"):
        ingest(IngestConfig(corpus=[str(tmp_path / "in.fa")], output=str(tmp_path / "c")))


def test_folders_patterns_and_files_given_twice(tmp_path):
    folder = tmp_path / "data" / "deep"
    folder.mkdir(parents=True)
    (folder / "a.fa").write_bytes(GOOD)
    (folder / "b.FASTA.gz").write_bytes(gzip.compress(b">c\nACGUACGUAACC\n"))
    (folder / "notes.txt").write_bytes(b"no FASTA")
    for number, corpus in enumerate(([str(tmp_path / "data")], [f"{tmp_path}/data/**/[ab].*"])):
        config = IngestConfig(corpus=corpus, output=str(tmp_path / f"c{number}"))
        manifest = ingest(config)
        assert manifest.counts["sequences_kept"] == 3
        assert [entry["kind"] for entry in manifest.details["inputs"]] == ["fasta", "fasta.gz"]
    with pytest.raises(InputError, match="is given twice"):
        ingest(IngestConfig(corpus=[str(folder), str(folder / "a.fa")], output=str(tmp_path / "d")))
    with pytest.raises(InputError, match="no file matches"):
        ingest(IngestConfig(corpus=[f"{tmp_path}/*.fna"], output=str(tmp_path / "d")))
    # A corpus is an input too: its sequences, not its rejects.
    again = ingest(IngestConfig(corpus=[str(tmp_path / "c0")], output=str(tmp_path / "e")))
    assert again.counts["sequences_kept"] == 3
    first = (tmp_path / "c0" / "sequences-00000.parquet").read_bytes()
    assert (tmp_path / "e" / "sequences-00000.parquet").read_bytes() == first


def foreign(tmp_path, columns, **options):
    pq.write_table(pa.table(columns), tmp_path / "in.parquet", **options)
    return str(tmp_path / "in.parquet")


@pytest.mark.parametrize("part", [200, 1 << 20])
def test_parquet_of_others(tmp_path, monkeypatch, part):
    """MultiMolecule's columns; one huge row group is read as several parts."""
    monkeypatch.setattr(steps, "PART_BYTES", part)
    count = 300
    texts = ["ACGU" * 3 + "ACGU"[k % 4] * (k % 9) + "ACGT"[k % 3] for k in range(count)]
    path = foreign(
        tmp_path,
        {
            "urs": [f"URS{k:010X}" for k in range(count)],
            "sequence": pa.array(texts, pa.large_string()),
            "type": pa.array(["tRNA", None, "miRNA"] * 100).dictionary_encode(),
            "description": [f"number {k}" if k % 5 else None for k in range(count)],
            "unused": list(range(count)),
        },
        row_group_size=1000,
    )
    manifest = ingest(IngestConfig(corpus=[path], output=str(tmp_path / "c"), rna_type=["tRNA"]))
    first = {}
    for k in range(0, count, 3):
        first.setdefault(texts[k].replace("T", "U"), k)
    kept = rows(tmp_path / "c")
    assert {r["sequence"]: r["id"] for r in kept} == {s: f"URS{k:010X}" for s, k in first.items()}
    assert {r["rna_type"] for r in kept} == {"tRNA"}
    assert {r["description"] for r in kept} >= {None}
    assert manifest.counts["sequences_filtered"] == 200
    found = pq.read_table(tmp_path / "c" / "rejects.parquet").to_pylist()
    assert [r["record"] for r in found[:4]] == [2, 3, 5, 6]
    assert found[0]["reason"] == "no RNA type known"
    assert found[1]["reason"] == "RNA type miRNA is not asked for"


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"id": ["a"], "text": ["ACGU"]}, {}, "no column for the sequence .*it has id, text"),
        ({"id": ["a"], "sequence": [4]}, {"taxid": "t"}, "no column named 't' .--columns.taxid"),
        ({"id": ["a"], "sequence": [[1]]}, {}, "column 'sequence' cannot be read as string"),
        ({"id": ["a"], "sequence": ["ACGU"], "taxid": ["x"]}, {}, "column 'taxid' cannot be read"),
        ({"id": [], "sequence": []}, {}, "is empty"),
    ],
)
def test_parquet_that_cannot_be_used(tmp_path, columns, options, message):
    from riboray.corpus.config import ColumnNames

    path = foreign(tmp_path, columns)
    with pytest.raises(InputError, match=message):
        ingest(
            IngestConfig(corpus=[path], output=str(tmp_path / "c"), columns=ColumnNames(**options))
        )
    assert not (tmp_path / "c").exists()


def test_damaged_parquet(tmp_path):
    path = foreign(tmp_path, {"id": ["a"] * 9, "sequence": ["ACGUACGUAC" * k for k in range(9)]})
    data = bytearray((tmp_path / "in.parquet").read_bytes())
    data[20:60] = bytes(40)
    (tmp_path / "in.parquet").write_bytes(data)
    with pytest.raises(InputError, match="cannot be read|no usable sequence"):
        ingest(IngestConfig(corpus=[path], output=str(tmp_path / "c")))
