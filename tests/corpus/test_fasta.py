from __future__ import annotations

import gzip

import pytest

from riboray.corpus import FastaRecord, read_fasta
from riboray.corpus.fasta import scan_fasta
from riboray.errors import FastaError

GOOD = b">a first\nACGU\nAC\n>b\nGG\n"
MANY = b"".join(b">r%d\n%s\n" % (i, b"ACGU" * 30) for i in range(40_000))


def write(tmp_path, content, name="x.fa"):
    path = tmp_path / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", ["x.fa", "x.fa.gz", "x"])
def test_plain_and_gzip_by_content_not_by_name(tmp_path, compress, name):
    path = write(tmp_path, gzip.compress(GOOD) if compress else GOOD, name)
    assert list(read_fasta(path)) == [
        FastaRecord(1, "a", "first", "ACGUAC"),
        FastaRecord(2, "b", "", "GG"),
    ]


@pytest.mark.parametrize(
    ("content", "records"),
    [
        (b">a\r\nAC\r\nGU\r\n>b\r\nGG\r\n", [("a", "ACGU"), ("b", "GG")]),
        (b"\n\n>a\nAC\n\n\n>b\nG", [("a", "AC"), ("b", "G")]),
        (b">a\n>b\nGG\n", [("a", ""), ("b", "GG")]),
        (b">\nAC\n", [("", "AC")]),
        (b">a/1-3|x;y\nAC\n", [("a/1-3|x;y", "AC")]),
        (">né ü\nAC\n".encode(), [("né", "AC")]),
        (b">a\n" + b"ACGU" * 2_500_000 + b"\n", [("a", "ACGU" * 2_500_000)]),
    ],
    ids=["windows", "blank lines", "no sequence", "no id", "odd id", "unicode", "10-Mb line"],
)
def test_odd_but_legal(tmp_path, content, records):
    found = [(r.id, r.sequence) for r in read_fasta(write(tmp_path, content))]
    assert found == records


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"hello\n", "not FASTA"),
        (b"@r1\nACGU\n+\nIIII\n", "FASTQ"),
        (b">a\nAC\n+\nII\n>b\nGG\n", "FASTQ"),
        (b">a\nAC\0GU\n", "NUL byte"),
        (b"\xef\xbb\xbf>a\nAC\n", "byte-order mark"),
        (b"# STOCKHOLM 1.0\n\na AC\n//\n", "is Stockholm"),
        (b"PAR1" + b"\0" * 50, "is Parquet"),
        (b">\xff\xfe\nAC\n", "not UTF-8"),
        (b">a\nAC\n>b \xc3", "not UTF-8"),
        (b"\x7fELF\x02\x01", "not FASTA"),
        (gzip.compress(b""), "is empty"),
        (gzip.compress(MANY)[:-5000], "truncated"),
        (gzip.compress(MANY)[:100], "truncated"),
        (gzip.compress(GOOD) + b"trailing rubbish", "damaged"),
    ],
    ids=[
        *("empty", "blank", "text", "FASTQ", "FASTQ below a >", "NUL", "byte-order mark"),
        *("Stockholm", "Parquet", "not UTF-8", "not UTF-8 at the end", "binary", "empty gzip"),
        *("truncated gzip", "gzip header alone", "rubbish after gzip"),
    ],
)
def test_a_file_that_cannot_be_trusted_is_refused_before_its_first_record(
    tmp_path, content, message
):
    path = write(tmp_path, content)
    with pytest.raises(FastaError, match=message) as caught:
        next(read_fasta(path))
    assert caught.value.path == path
    assert "\n" not in str(caught.value)


def test_a_flipped_byte_in_gzip_is_noticed(tmp_path):
    data = bytearray(gzip.compress(MANY))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(FastaError, match="damaged|truncated"):
        next(read_fasta(write(tmp_path, bytes(data))))


def test_the_record_is_named(tmp_path):
    content = b">a\nAC\n>b\nGG\n>c\nA\0C\n>d\nAC\n"
    with pytest.raises(FastaError, match="record 3: NUL") as caught:
        scan_fasta(write(tmp_path, content))
    assert caught.value.record == 3


def test_headers_are_counted_across_chunks(tmp_path, monkeypatch):
    for size in (1, 2, 7, 64):
        monkeypatch.setattr("riboray.corpus.fasta._CHUNK", size)
        assert scan_fasta(write(tmp_path, GOOD)) == 2
        with pytest.raises(FastaError, match="NUL"):
            scan_fasta(write(tmp_path, b">a\nACGUACGU\0\n"))


def test_count_against_a_plain_count(tmp_path):
    path = write(tmp_path, gzip.compress(MANY))
    assert sum(1 for _ in read_fasta(path)) == scan_fasta(path) == MANY.count(b">") == 40_000


@pytest.mark.parametrize("what", ["missing", "folder"])
def test_no_file(tmp_path, what):
    path = tmp_path if what == "folder" else tmp_path / "missing.fa"
    with pytest.raises(FastaError, match="no such file|is a directory"):
        next(read_fasta(path))


def test_a_lost_record_would_be_noticed(tmp_path, monkeypatch):
    """If the parser ever returns fewer records than the scan counted, that is an error."""
    path = write(tmp_path, GOOD)
    monkeypatch.setattr("riboray.corpus.fasta.scan_fasta", lambda _: 3)
    with pytest.raises(FastaError, match="3 header lines, but the parser found 2"):
        list(read_fasta(path))


@pytest.mark.devdata
def test_the_development_corpus(devdata):
    assert sum(1 for _ in read_fasta(devdata / "corpus" / "ncrna_corpus.fa.gz")) == 106_877
