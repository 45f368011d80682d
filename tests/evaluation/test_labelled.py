"""Labelled sequences: what is read, what is drawn, what is said of input that cannot be used."""

from __future__ import annotations

import gzip
from collections import Counter

import pytest

from riboray.errors import ConfigError, CorpusError, FastaError, InputError, StockholmError
from riboray.evaluation.labelled import LabelledSequences, read_labelled, read_labels

GOOD = ">a tRNA of something\nACGT\n>b tRNA\nacgguu\n>c 5S\nGGGG\n"
FAMILIES = """# STOCKHOLM 1.0
#=GF AC RF1
a/1-4 AC-GU
b/1-5 ACGGU
//
# STOCKHOLM 1.0
#=GF AC RF2
c/1-3 G.GG
//
"""


@pytest.fixture
def write(tmp_path):
    def writer(text, name="x.fa"):
        path = tmp_path / name
        data = text.encode() if isinstance(text, str) else text
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return str(path)

    return writer


def test_headers_hold_labels(write):
    found = read_labelled([write(GOOD), write(">d 5S\nUUU\n", "y.fa.gz")])
    assert found.ids == list("abcd")
    assert found.sequences == ["ACGU", "ACGGUU", "GGGG", "UUU"]
    assert found.labels == ["tRNA", "tRNA", "5S", "5S"]
    assert found.sizes == Counter({"tRNA": 2, "5S": 2})
    assert found.alone == 0
    assert found.describe() == "4 sequences with 2 labels"


def test_a_class_of_one_is_counted_and_said(write):
    found = read_labelled([write(GOOD)])
    assert found.alone == 1
    assert "1 alone with theirs, so not in retrieval" in found.describe()


def test_families_are_labels(write):
    found = read_labelled([write(FAMILIES, "seed.gz")])
    assert (found.ids, found.labels) == (["a/1-4", "b/1-5", "c/1-3"], ["RF1", "RF1", "RF2"])
    assert found.sequences == ["ACGU", "ACGGU", "GGG"]


def test_a_table_goes_before_headers(write):
    table = write(
        "id\tclass\n# a remark\na\tone\textra\n\nb\ttwo\nc\ttwo\nz\tnever asked\n", "l.tsv"
    )
    assert read_labelled([write(GOOD)], table).labels == ["one", "two", "two"]
    other = write("a/1-4\tx\nb/1-5\ty\nc/1-3\ty\n", "m.tsv")
    assert read_labelled([write(FAMILIES, "seed")], other).labels == ["x", "y", "y"]


def test_repeats_are_left_out_and_counted(write):
    path = write(GOOD + ">d 5S\nGGGG\n>e tRNA\nGGGG\n")
    found = read_labelled([path])
    assert found.ids == ["a", "b", "c", "e"], "of one sequence, each label stays"
    assert found.left_out == {"sequence and label read before": 1}
    assert "1 left out: sequence and label read before" in found.describe()
    assert read_labelled([path], keep_repeats=True).ids == list("abcde")


def test_second_records_of_an_id(write):
    path = write(GOOD + ">a tRNA\nCCCC\n")
    with pytest.raises(FastaError, match=r"x\.fa, record 4: another record is called 'a' too"):
        read_labelled([path])
    found = read_labelled([path], duplicate_ids="reject")
    assert found.ids == list("abc")
    assert found.left_out == {"id read before": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (">a x\nACGU\n>b\nACGU\n", r"x\.fa, record 2: 'b' has no label: write '>b LABEL', or"),
        (">a x\nACGU\n>  \nACGU\n", "record 2: record without an id"),
        (">a x\nACGU\n>b y\nAC!U\n", "record 2: 'b': .*'!'"),
        (">a x\nACGU\n>b y\n", "record 2: 'b': .*empty"),
        (">a x\nACGU\n>b y\nACGU\n((.\n", "record 2: a structure of 3 symbols"),
        ("", "is empty"),
        ("no FASTA", "not FASTA"),
    ],
)
def test_records_that_cannot_be_used(write, text, message):
    with pytest.raises(FastaError, match=message):
        read_labelled([write(text)])


def test_ambiguity_codes_need_a_vocabulary(write):
    path = write(">a x\nACGN\n>b x\nACGU\n>c y\nAC\n")
    assert len(read_labelled([path])) == 3
    with pytest.raises(FastaError, match="record 1: 'a'"):
        read_labelled([path], ambiguity=False)


def test_labels_that_tell_nothing_apart(write):
    with pytest.raises(ConfigError, match=r"all 2 sequences have one label, 'x'"):
        read_labelled([write(">a x\nACGU\n>b x\nACG\n")])
    with pytest.raises(ConfigError, match="no two sequences share a label"):
        read_labelled([write(">a x\nACGU\n>b y\nACG\n")])
    with pytest.raises(ConfigError, match="no input"):
        read_labelled([])


def test_records_that_a_table_lacks(write):
    table = write("a\tx\nb\tx\n", "l.tsv")
    with pytest.raises(FastaError, match="record 3: 'c' is not in the table of labels"):
        read_labelled([write(GOOD)], table)
    with pytest.raises(StockholmError, match="record 1: 'a/1-4' is not in the table"):
        read_labelled([write(FAMILIES, "seed")], table)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\tx\nb\n", "line 2: expected id, tab, label"),
        ("a\tx\n\ty\n", "line 2: expected id, tab, label"),
        ("a\tx\na\ty\n", "line 2: 'a' is both 'x' and 'y'"),
        ("id\tlabel\n", "holds no label"),
        ("", "holds no label"),
        (b"a\t\xff\n", "line 1 is not UTF-8"),
    ],
)
def test_tables_that_cannot_be_used(write, text, message):
    with pytest.raises(CorpusError, match=message):
        read_labels(write(text, "l.tsv"))


def test_files_that_cannot_be_read(write, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_labelled([str(tmp_path / "none.fa")])
    with pytest.raises(CorpusError, match="no such file"):
        read_labels(str(tmp_path / "none.tsv"))
    whole = gzip.compress(GOOD.encode() * 50)
    (tmp_path / "cut.fa.gz").write_bytes(whole[:-9])
    with pytest.raises(FastaError, match="truncated"):
        read_labelled([str(tmp_path / "cut.fa.gz")])


def test_a_draw_lets_small_classes_whole():
    labels = ["big"] * 50 + ["small"] * 3 + ["one"]
    whole = LabelledSequences([f"s{k}" for k in range(54)], ["A"] * 54, labels)
    drawn = whole.sample(14, seed=1)
    assert drawn.sizes == Counter({"big": 10, "small": 3, "one": 1})
    assert drawn.left_out == {"not drawn": 40}
    assert drawn.ids == sorted(drawn.ids, key=whole.ids.index)
    assert drawn.ids == whole.sample(14, seed=1).ids != whole.sample(14, seed=2).ids
    assert whole.sample(54, seed=1) is whole
    with pytest.raises(ConfigError, match="less than one for each of 3 labels"):
        whole.sample(2, seed=1)
