"""Every format says the same; whatever is wrong is told with its record."""

from __future__ import annotations

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from riboray.errors import InputError
from riboray.finetuning.config import FinetuneConfig, LabelColumns
from riboray.finetuning.records import read_records
from riboray.finetuning.tables import read_rows

ROWS = [("a", "GGGAAACCC", "x", "f1"), ("b", "ACGU", "y", "f1"), ("c", "GGCC", "x", "f2")]


def as_csv(path, separator=",", end="\n"):
    lines = ["id,sequence,label,family", *(",".join(row) for row in ROWS)]
    text = end.join(line.replace(",", separator) for line in lines) + end
    path.write_bytes(text.encode())


def as_json(path, lines):
    values = [dict(zip(("id", "sequence", "label", "family"), r, strict=True)) for r in ROWS]
    text = "\n".join(map(json.dumps, values)) if lines else json.dumps(values, indent=1)
    path.write_text(text)


def as_parquet(path):
    columns = dict(zip(("id", "sequence", "label", "family"), zip(*ROWS, strict=True), strict=True))
    pq.write_table(pa.table({k: list(v) for k, v in columns.items()}), path)


def as_fasta(path):
    path.write_text("".join(f">{i} {label} {f}\n{s}\n" for i, s, label, f in ROWS))


@pytest.mark.parametrize(
    "write",
    [
        as_csv,
        lambda path: as_csv(path, "\t"),
        lambda path: as_csv(path, ";"),
        lambda path: as_csv(path, end="\r\n"),
        lambda path: as_json(path, True),
        lambda path: as_json(path, False),
        as_parquet,
        as_fasta,
    ],
    ids=["csv", "tsv", "semicolons", "windows", "jsonl", "json", "parquet", "fasta"],
)
@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzip"])
def test_all_formats_say_the_same(write, zipped, tmp_path):
    path = tmp_path / "rows"
    write(path)
    if zipped:
        if path.read_bytes().startswith(b"PAR1"):
            pytest.skip("Parquet is compressed inside")
        path.write_bytes(gzip.compress(path.read_bytes()))
    rows = list(read_rows(str(path), LabelColumns()))
    assert [(r.id, r.sequence, r.label, r.group) for r in rows] == ROWS
    assert [r.number for r in rows] == [1, 2, 3]


def test_structures_of_fasta_are_labels(tmp_path):
    path = tmp_path / "s.dbn"
    path.write_text(">a f1\nGGGAAACCC\n(((...))) (-1.20)\n>b\nACGU\n....\n")
    a, b = read_rows(str(path), LabelColumns())
    assert (a.label, a.group) == ("(((...)))", "f1")
    assert (b.label, b.group) == ("....", None)


def test_a_byte_order_mark_and_bytes_are_read(tmp_path):
    path = tmp_path / "bom"
    path.write_bytes(b'\xef\xbb\xbf{"sequence": "ACGU", "label": 1}\n')
    assert [row.label for row in read_rows(str(path), LabelColumns())] == [1]
    table = pa.table({"sequence": [b"ACGU"], "label": [b"x"]})
    pq.write_table(table, path)
    (row,) = read_rows(str(path), LabelColumns())
    assert (row.sequence, row.label) == ("ACGU", "x")
    pq.write_table(pa.table({"sequence": ["ACGU"], "label": [b"\xff"]}), path)
    with pytest.raises(InputError, match="record 1: is not UTF-8"):
        list(read_rows(str(path), LabelColumns()))


def test_lists_in_cells_are_lists(tmp_path):
    path = tmp_path / "l.csv"
    path.write_text('id,sequence,label\na,ACGU,"[0, 1, null, 0]"\nb,GC,[.]\n')
    first, second = read_rows(str(path), LabelColumns())
    assert first.label == [0, 1, None, 0]
    assert second.label == "[.]", "brackets that are no list are a structure"


def test_several_label_columns_make_a_list(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("id,sequence,p,q\na,ACGU,1.5,\nb,GC,2,3\n")
    rows = list(read_rows(str(path), LabelColumns(label=["p", "q"])))
    assert [row.label for row in rows] == [["1.5", None], ["2", "3"]]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b"id,sequence,label\na,ACGU\n", "record 1: 2 cells under a header of 3"),
        (b"id,sequence,label\na,ACGU,x\nb,AC\xff,x\n", "record 2: is not UTF-8"),
        (b"id,label\na,x\n", "no column for the sequence"),
        (b"sequence,p,q\nACGU,1,2\n", "no column for the label"),
        (b"sequence,label,label\nACGU,1,2\n", "several columns called 'label'"),
        (b'id,sequence,label\na,"ACGU,x\n', "no valid CSV"),
        (b'{"sequence": "ACGU", "label": 1}\n{"sequence": \n', "record 2: no valid JSON"),
        (b'["ACGU"]', "record 1: is no object"),
        (b"PAR1 but not really", "Parquet file cannot be read"),
        (b'{"sequence": "ACGU", "label": {"v": 0}}', "record 1: its label is an object"),
        (b'{"sequence": "ACGU", "label": ' + b"[" * 9 + b"]" * 9 + b"}", "nested too deep"),
        (b'{"sequence": "ACGU", "label": ' + b"[" * 90_000 + b"}", "record 1: .*nested too deep"),
        (b'{"sequence": "\\ud800", "label": 1}', "record 1: holds characters that are no text"),
        (b"id,id,sequence,label\na,a,ACGU,x\n", "several columns called 'id'"),
        (gzip.compress(b"id,sequence,label\na,ACGU,x\n", mtime=0)[:-9], "truncated"),
    ],
)
def test_what_is_wrong_is_told(content, told, tmp_path):
    path = tmp_path / "wrong"
    path.write_bytes(content)
    with pytest.raises(InputError, match=told) as caught:
        list(
            read_rows(str(path), LabelColumns(label=["label"] if b"label,label" in content else []))
        )
    assert caught.value.exit_code == 2
    assert str(path) in str(caught.value)


def records(text, tmp_path, **options):
    path = tmp_path / "records.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_records(FinetuneConfig(train=[str(path)], **options), ambiguity=True)


def test_sequences_are_normalised(tmp_path):
    found = records("id,sequence,label\na,acgt,x\n", tmp_path)
    assert found.records[0].sequence == "ACGU"


@pytest.mark.parametrize(
    ("row", "option", "told"),
    [
        ("b,AC!U,x", {"on_invalid": "reject"}, "'!' at position 3"),
        ("b,,x", {"on_invalid": "reject"}, "empty sequence"),
        ("b,ACGU,", {"on_missing": "reject"}, "no label"),
        ("b,ACGU,nan", {"on_missing": "reject"}, "no label"),
        ("a,ACGU,x", {"duplicate_ids": "reject"}, "another record is called 'a'"),
        ("b,AC\x00U,x", {"on_invalid": "reject"}, "position 3"),
    ],
)
def test_a_record_that_cannot_be_used_stops_the_run_or_is_listed(row, option, told, tmp_path):
    text = f"id,sequence,label\na,ACGU,x\n{row}\n"
    with pytest.raises(InputError, match=f"record 2: .*{told}"):
        records(text, tmp_path)
    found = records(text, tmp_path, **option)
    assert [r.id for r in found.records] == ["a"]
    (reject,) = found.rejects
    assert (reject.record, reject.outcome) == (2, "rejected")
    assert told in reject.reason


def test_ids_that_repeat_can_be_told_apart_and_missing_ones_are_numbers(tmp_path):
    text = "id,sequence,label\na,ACGU,x\na,ACG,x\n"
    found = records(text, tmp_path, duplicate_ids="suffix")
    assert [r.id for r in found.records] == ["a", "a.2"]
    found = records("sequence,label\nACGU,x\nACG,y\n", tmp_path)
    assert [r.id for r in found.records] == ["1", "2"]


def test_long_rnas_are_left_out_and_a_cell_of_ten_megabases_is_read(tmp_path):
    text = "id,sequence,label\na,ACGU,x\nb," + "ACGU" * 2_500_000 + ",x\n"
    found = records(text, tmp_path)
    assert [r.id for r in found.records] == ["a"]
    assert "10,000,000 nt" in found.rejects[0].reason


def test_nothing_that_can_be_used_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no record that can be used; most often: empty"):
        records("id,sequence,label\na,,x\n", tmp_path, on_invalid="reject")
