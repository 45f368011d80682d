"""What an interrupted run leaves, and what later runs make of it."""

from __future__ import annotations

import errno
import gzip
import hashlib
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from riboray.corpus import IngestConfig, buckets, fasta, files, foreign, ingest, ingestion, steps
from riboray.corpus.config import ColumnNames
from riboray.errors import ConfigError, InputError, RiborayError


class Crash(BaseException):
    """Stands in for SIGKILL: nothing handles it."""


class AheadRunner:
    """Takes several items before it does the first, as Ray's does, and ends them in any order."""

    workers = 3

    def __init__(self, chance):
        self.chance = chance

    def map(self, function, items):
        held = []
        for item in items:
            held.append(item)
            if len(held) > 4:
                yield function(*held.pop(self.chance.randrange(len(held))))
        while held:
            yield function(*held.pop(self.chance.randrange(len(held))))


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Inputs of every kind, and a function that ingests them."""
    monkeypatch.setattr(steps, "PART_BYTES", 250)
    monkeypatch.setattr(steps, "_PARTITION_BYTES", 900)
    chance = random.Random(4)
    texts = ["".join(chance.choices("ACGU", k=chance.randrange(12, 60))) for _ in range(150)]
    records = [f">s{k % 70}\n{text}\n" for k, text in enumerate(texts)]
    (tmp_path / "a.fa").write_text("".join(records[:60]))
    (tmp_path / "b.fa.gz").write_bytes(gzip.compress("".join(records[40:120]).encode()))
    table = pa.table({"id": [f"p{k}" for k in range(60)], "sequence": texts[90:]})
    pq.write_table(table, tmp_path / "c.parquet", row_group_size=25)
    rows = [text[:12] for text in texts[:4]]
    aligned = "".join(f"m{k} {row}\n" for k, row in enumerate(rows))
    (tmp_path / "x.sto").write_text(f"# STOCKHOLM 1.0\n#=GF AC F1\n{aligned}//\n")
    (tmp_path / "out.fa").write_text(f">no name needed\n{rows[0]}\n> \n{texts[50]}\n")

    def run(output, runner=None, **options):
        config = IngestConfig(
            corpus=[str(tmp_path / name) for name in ("a.fa", "b.fa.gz", "c.parquet")],
            alignments=[str(tmp_path / "x.sto")],
            exclude=[str(tmp_path / "out.fa")],
            output=str(tmp_path / output),
            max_length=40,
            on_long="window",
            rows_per_shard=40,
            **options,
        )
        return ingest(config, runner=runner), tmp_path / output

    return run


def digests(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.glob("*.parquet")}


@pytest.mark.parametrize("policy", ["suffix", "reject"])
def test_a_crash_at_any_write_changes_nothing(made, monkeypatch, policy):
    whole, folder = made("whole", duplicate_ids=policy)
    wanted, chance = digests(folder), random.Random(9)
    written = []
    write = buckets.write_buckets
    for trial in range(8):
        left = [chance.randrange(1, 120) for _ in range(3)]

        def counted(*arguments, left=left, **named):
            if left:
                left[0] -= 1
                if left[0] <= 0:
                    left.pop(0)
                    raise Crash
            written.append(1)
            return write(*arguments, **named)

        for module in ("parts", "partitions", "naming", "mapping", "seeds", "steps", "buckets"):
            name = f"riboray.corpus.{module}.write_buckets"
            monkeypatch.setattr(name, counted, raising=False)
        for _ in range(5):
            try:
                found, folder = made(f"t{trial}", AheadRunner(chance), duplicate_ids=policy)
                break
            except Crash:
                continue
        assert digests(folder) == wanted
        assert found.counts == whole.counts
        assert found.details["reasons"] == whole.details["reasons"]
    assert len(written) > 50


def test_a_passing_error_keeps_what_is_done(made, monkeypatch):
    _, folder = made("whole")
    wanted, read = digests(folder), fasta.read_part
    calls = []

    def fail(*arguments):
        calls.append(1)
        if len(calls) == 5:
            with files.opened_raw(arguments[0], InputError, "FASTA"):
                raise OSError(errno.EIO, "Input/output error")
        return read(*arguments)

    monkeypatch.setattr("riboray.corpus.parts.read_part", fail)
    with pytest.raises(RiborayError, match="cannot be read .Input/output error") as caught:
        made("c")
    assert caught.value.exit_code == 1
    assert list((folder.parent / "c" / "work").glob("part-*"))
    _, again = made("c")
    assert digests(again) == wanted


def test_work_of_a_machine_that_went_down_is_not_trusted(made, monkeypatch):
    def crash(*_):
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr("riboray.corpus.steps.make_partition", crash)
        with pytest.raises(Crash):
            made("c")
    marks = {
        "another boot": "1.0 here B",
        "another machine": "1.0 there B",
        "version": "2.0 here A",
    }
    trusted = {name: ingestion._goes_on("1.0 here A", mark) for name, mark in marks.items()}
    assert trusted == {"another boot": False, "another machine": True, "version": False}
    assert ingestion._goes_on("1.0 here A", "1.0 here A")
    assert not ingestion._goes_on("", "1.0 here A")
    made("c")


def test_output_below_the_input_is_no_input(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.fa").write_text(">a\nACGUACGUACGU\n")
    config = IngestConfig(corpus=[str(data)], output=str(data / "corpus"))
    first = ingest(config)
    assert ingest(config).fingerprint == first.fingerprint
    other = ingest(IngestConfig(corpus=[str(data)], output=str(tmp_path / "other")))
    assert other.counts["sequences_read"] == 1, "a corpus in a folder of inputs is no input"


def test_a_marker_that_was_never_finished_is_no_obstacle(tmp_path):
    (tmp_path / "a.fa").write_text(">a\nACGUACGUACGU\n")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / ".owner.json.abc").write_text("")
    ingest(IngestConfig(corpus=[str(tmp_path / "a.fa")], output=str(tmp_path / "c")))


def test_the_validation_split_of_a_corpus_stays_out_of_training(tmp_path, rng):
    letters = list("ACGU")
    text = "".join(f">s{k}\n{''.join(rng.choice(letters, 20))}\n" for k in range(60))
    (tmp_path / "a.fa").write_text(text)
    first = ingest(
        IngestConfig(
            corpus=[str(tmp_path / "a.fa")], output=str(tmp_path / "c"), validation_share=0.3
        )
    )
    apart = first.details["split"]["validation_sequences"]
    assert 0 < apart < 60
    again = ingest(IngestConfig(corpus=[str(tmp_path / "c")], output=str(tmp_path / "d")))
    assert again.counts["sequences_kept"] == 60 - apart
    with pytest.raises(InputError, match="no usable sequence among 60"):
        ingest(
            IngestConfig(
                corpus=[str(tmp_path / "a.fa")],
                exclude=[str(tmp_path / "c")],
                output=str(tmp_path / "e"),
            )
        )


def test_record_numbers_in_errors_of_plain_files(tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "PART_BYTES", 64)
    long = b">long\n" + b"ACGU" * 90 + b"\n"
    text = b"\n>a\nACGUACGUACGU\n" + long + b">c\nACGUACGUACGU\n" + long + b">e\nAC\0GU\n"
    for name, content in (("x.fa", text), ("x.fa.gz", gzip.compress(text))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="record 5: NUL byte"):
            ingest(IngestConfig(corpus=[str(tmp_path / name)], output=str(tmp_path / "c")))


def test_repeated_texts_do_not_make_a_part_of_millions(tmp_path, monkeypatch):
    monkeypatch.setattr(foreign, "_MOST_ROWS", 1000)
    table = pa.table({"id": [f"r{k}" for k in range(5500)], "sequence": ["ACGUACGUAC"] * 5500})
    pq.write_table(table, tmp_path / "x.parquet")
    (group,) = foreign.list_groups(str(tmp_path / "x.parquet"), ColumnNames())
    assert group.parts == 6
    blocks = list(foreign.group_blocks(str(tmp_path / "x.parquet"), 0, 6, ColumnNames()))
    assert [len(block) for block in blocks] == [916, 917, 917, 916, 917, 917]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"taxid": [1 << 31]}, "a taxid is a positive number below"),
        ({"seed": -1}, "seed must not be negative"),
        ({"taxid": None}, "taxid must not be empty"),
        ({"exclude": [""]}, "exclude holds an empty value"),
    ],
)
def test_options_that_ended_in_tracebacks(options, message):
    with pytest.raises(ConfigError, match=message):
        IngestConfig(corpus=["x.fa"], **options)


def test_names_and_columns_that_cannot_be_written(tmp_path):
    path = tmp_path / "b\udcffd.fa"
    path.write_bytes(b">a\nACGUACGUACGU\n")
    with pytest.raises(InputError, match="its name is not UTF-8"):
        ingest(IngestConfig(corpus=[str(path)], output=str(tmp_path / "c")))
    columns = [pa.array(["a"]), pa.array(["ACGU"]), pa.array(["b"])]
    table = pa.Table.from_arrays(columns, names=["id", "sequence", "id"])
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(InputError, match="several columns called 'id'"):
        ingest(IngestConfig(corpus=[str(tmp_path / "x.parquet")], output=str(tmp_path / "c")))
