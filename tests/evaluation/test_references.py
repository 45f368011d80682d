"""Reference alignments and predictions from files of every kind, good and bad."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from riboray.errors import CorpusError, FastaError, InputError, StockholmError
from riboray.evaluation.predictions import read_predictions
from riboray.evaluation.references import read_references

TABLE = (
    "family\tapsi\tid_a\tid_b\taligned_a\taligned_b\n"
    "tRNA\t40\tx\ty\tacgt-A\tA.GUCA\n"
    "tRNA\t90\tx\tz\tACGUA\tACGNA\n"
    "5S\t75\tp\tq\tGGG\tGG~\n"
)


def put(folder, text, name="pairs.tsv"):
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    return str(path)


@pytest.mark.parametrize("name", ["pairs.tsv", "pairs.tsv.gz"])
def test_a_table(tmp_path, name):
    found = read_references([put(tmp_path, TABLE, name)])
    first = found.pairs[0]
    assert (first.family, first.id_a, first.id_b, first.identity) == ("tRNA", "x", "y", 40)
    assert first.sequences == ("ACGUA", "AGUCA")
    assert first.columns.partners.tolist() == [0, -1, 1, 2, 4]
    assert found.pairs[2].columns.partners.tolist() == [0, 1, -1]
    assert not found.rejects
    assert found.sequences == sorted({"ACGUA", "AGUCA", "ACGNA", "GGG", "GG"})


def test_windows_line_ends_and_no_apsi(tmp_path):
    text = "id_a\tid_b\taligned_a\taligned_b\r\nx\ty\tACGU\tAC-A\r\n"
    (pair,) = read_references([put(tmp_path, text)]).pairs
    assert (pair.family, pair.sequences) == ("?", ("ACGU", "ACA"))
    assert pair.identity == pytest.approx(100 * 2 / 3)


def test_what_is_left_out_is_listed(tmp_path):
    path = put(tmp_path, TABLE)
    found = read_references([path], ambiguity=False, max_length=4)
    assert len(found.pairs) == 1
    reasons = [(r.record, r.reason) for r in found.rejects]
    assert reasons == [(1, "a sequence is longer than 4"), (2, "a sequence is longer than 4")]
    found = read_references([path], ambiguity=False)
    assert [r.reason for r in found.rejects] == ["a sequence has other letters than A, C, G and U"]
    with pytest.raises(CorpusError, match="no pair can be used .a sequence is longer than 1"):
        read_references([path], max_length=1)


def test_a_folder_of_bralibase(tmp_path):
    for name, rows in (
        ("T-box/T-box.apsi-41.sci-96.no-1.ref.fa", ("ACGU-A", "A-GUCA")),
        ("T-box/T-box.apsi-41.sci-96.no-1.raw.fa", ("ACGUA", "AGUCA")),
        ("T-box/T-box.apsi-90.sci-101.no-2.ref.fa", ("ACGUN", "ACG-A")),
        ("tRNA/tRNA.apsi-70.sci--3.no-1.ref.fa.gz", ("GGCA", "GG-A")),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        put(tmp_path, f">x\n{rows[0]}\n>y\n{rows[1]}\n", name)
    (tmp_path / "README").write_text("not an alignment")
    found = read_references([str(tmp_path)], ambiguity=False)
    assert [(p.family, p.identity) for p in found.pairs] == [("T-box", 41), ("tRNA", 70)]
    assert found.pairs[0].sequences == ("ACGUA", "AGUCA")
    assert [(r.file.rpartition("/")[2], r.record) for r in found.rejects] == [
        ("T-box.apsi-90.sci-101.no-2.ref.fa", 1)
    ]
    (only,) = read_references([str(tmp_path)], families=["tRNA"]).pairs
    assert only.identity == 70, "as the name says: BRAliBase's own percentage"
    (tmp_path / "other").mkdir()
    with pytest.raises(CorpusError, match="other: holds no file named as FAMILY"):
        read_references([str(tmp_path / "other")])


HEAD = "id_a\tid_b\taligned_a\taligned_b\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("id_a\tid_b\naaa\tb\n", "no column aligned_a, aligned_b in its first line"),
        (HEAD, "holds no pair"),
        (HEAD + "x\ty\tACGU\tACG\n", "record 1: aligned rows differ in length: 4 and 3"),
        (HEAD + "x\ty\tACGU\tAC-!\n", "record 1: '!' is neither a nucleotide nor a gap"),
        (HEAD + "x\ty\tACGU\tAC-U\nx\ty\tA\n", "record 2: another number of fields"),
        (HEAD + "x\ty\tACGU\tAC-U\tmore\n", "record 1: another number of fields"),
        (HEAD + "x\ty\tACGU\t----\n", "record 1: an aligned row without a nucleotide"),
        (TABLE.replace("40", "high"), "record 1: apsi is 'high', not a number"),
        (HEAD + "x\ty\tAC\0U\tACGU\n", "is neither a nucleotide nor a gap"),
        (">a\nAC-U\n>b\nACG\n", "not an alignment: 3 columns, but the first record has 4"),
        (">a\nACGU\n", "one sequence only"),
        ("# STOCKHOLM 1.0\na ACGU\n", "truncated"),
    ],
)
def test_bad_files_are_one_clear_error(tmp_path, text, message):
    path = put(tmp_path, text)
    with pytest.raises(InputError) as caught:
        read_references([path])
    assert message in str(caught.value)
    assert path in str(caught.value)
    assert caught.value.exit_code == 2


def test_torn_gzip_missing_file_and_wrong_encoding(tmp_path):
    path = tmp_path / "torn.tsv.gz"
    path.write_bytes(gzip.compress((TABLE * 1).encode())[:-12])
    with pytest.raises(CorpusError, match="ends too early|damaged"):
        read_references([str(path)])
    with pytest.raises(CorpusError, match="no such file"):
        read_references([str(tmp_path / "nothing")])
    (tmp_path / "latin").write_bytes((HEAD + "é\ty\tA\tA\n").encode("latin-1"))
    with pytest.raises(CorpusError, match="not UTF-8"):
        read_references([str(tmp_path / "latin")])


def test_an_alignment_of_many(tmp_path):
    rows = {"a": "AC-GU", "b": "ACCGU", "c": "A--GU", "d": "ACCG-"}
    fasta = "".join(f">{name}\n{row}\n" for name, row in rows.items())
    sto = "# STOCKHOLM 1.0\n#=GF AC RF9\n" + "".join(f"{n} {r}\n" for n, r in rows.items()) + "//\n"
    for text, name, family in ((fasta, "five.afa", "five"), (sto, "x.sto", "RF9")):
        path = put(tmp_path, text, name)
        found = read_references([path], pairs_per_family=100)
        assert len(found.pairs) == 6
        assert {pair.family for pair in found.pairs} == {family}
        by_name = {(p.id_a, p.id_b): p for p in found.pairs}
        assert by_name["a", "c"].columns.partners.tolist() == [0, -1, 1, 2]
        assert by_name["a", "c"].identity == 100
        some = read_references([path], pairs_per_family=3, seed=1).pairs
        assert len(some) == 3
        names = [(p.id_a, p.id_b) for p in some]
        again = read_references([path], pairs_per_family=3, seed=1).pairs
        assert names == [(p.id_a, p.id_b) for p in again]


def test_families_asked_for(tmp_path):
    path = put(tmp_path, TABLE)
    assert [p.family for p in read_references([path], families={"5S", "RF1"}).pairs] == ["5S"]
    with pytest.raises(CorpusError, match="no pair of aligned sequences of the families asked"):
        read_references([path], families={"RF1"})
    sto = "".join(
        f"# STOCKHOLM 1.0\n#=GF ID n{k}\n#=GF AC RF{k}\na ACGU\nb ACCU\n//\n" for k in range(3)
    )
    path = put(tmp_path, sto, "x.sto")
    assert [p.family for p in read_references([path], families={"RF1", "n2"}).pairs] == [
        "RF1",
        "RF2",
    ]


@pytest.fixture
def reference(tmp_path):
    return read_references([put(tmp_path, TABLE, "reference.tsv")]).pairs


PREDICTED = {
    "table": HEAD
    + "1\t2\tACGUA\tA-GUCA\n".replace("ACGUA", "ACGU-A")
    + "1\t3\tACGUA\tACGNA\n4\t5\tGGG\t-GG\n",
    "pairs": ">1\nACGU-A\n>2\nA-GUCA\n>1\nacgta\n>3\nACGNA\n>p\nGGG\n>q\n-GG\n",
}


@pytest.mark.parametrize("kind", sorted(PREDICTED))
def test_predictions_are_found_by_their_sequences(tmp_path, reference, kind):
    found = read_predictions(put(tmp_path, PREDICTED[kind], "predicted"), reference)
    expected = [[0, -1, 1, 2, 4], [0, 1, 2, 3, 4], [-1, 0, 1]]
    assert [partners.tolist() for partners in found.partners] == expected
    assert np.isnan(found.seconds).all()


def test_predictions_in_a_folder_and_in_an_alignment_of_many(tmp_path, reference):
    folder = tmp_path / "predicted"
    folder.mkdir()
    (folder / "one.fa").write_text(">a\nACGU-A\n>b\nA-GUCA\n>c\nACGN-A\n")
    (folder / "two.sto").write_text("# STOCKHOLM 1.0\np GGG\nq GG-\n//\n")
    found = read_predictions(folder, reference)
    assert [p.tolist() for p in found.partners] == [[0, -1, 1, 2, 4], [0, 1, 2, 3, 4], [0, 1, -1]]


def test_seconds_are_read(tmp_path, reference):
    head, *rows = PREDICTED["table"].splitlines()
    text = "\n".join([f"{head}\tcpu_seconds", *(f"{row}\t0.5" for row in rows)]) + "\n"
    assert read_predictions(put(tmp_path, text), reference).seconds.tolist() == [0.5] * 3
    text = text.replace("0.5", "soon")
    with pytest.raises(CorpusError, match="record 1: cpu_seconds is 'soon', not a number"):
        read_predictions(put(tmp_path, text), reference)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (HEAD + "x\ty\tACGU-A\tA-GUCA\n", CorpusError, "aligns 1 of the reference's 3 pairs; no"),
        (">a\nACGU-A\n>b\nA-GUCA\n>c\nAC\n", FastaError, "an odd number of them"),
        (">a\nACGU-A\n>b\nA-GUC\n", FastaError, "aligned rows differ in length: 6 and 5"),
        ("# STOCKHOLM 1.0\na ACGU\n", StockholmError, "truncated"),
        ("", CorpusError, "is empty"),
    ],
)
def test_predictions_that_do_not_fit(tmp_path, reference, text, error, message):
    with pytest.raises(error) as caught:
        read_predictions(put(tmp_path, text, "predicted"), reference)
    assert message in str(caught.value)


def test_the_pair_that_is_missing_is_named(tmp_path, reference):
    with pytest.raises(CorpusError, match="the sequences of x and z .tRNA"):
        read_predictions(put(tmp_path, HEAD + "x\ty\tACGU-A\tA-GUCA\n", "predicted"), reference)
