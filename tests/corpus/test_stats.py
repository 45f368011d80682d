from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from riboray.corpus.counting import count_letters
from riboray.corpus.records import MEMBER_SCHEMA, PAIR_SCHEMA, SEQUENCE_SCHEMA
from riboray.corpus.stats import CorpusStatsConfig, corpus_stats
from riboray.errors import ConfigError, CorpusError
from riboray.manifest import MANIFEST_NAME, FileEntry, Manifest, write_manifest

SPLITS = {"train": "", "validation": "validation_"}


def describe(folder, **options):
    return corpus_stats(CorpusStatsConfig(corpus=[str(folder)], **options))


def rows_of(folder, kind):
    """Every row, the plain way."""
    return [row for f in sorted(folder.glob(f"{kind}-*.parquet")) for row in read(f)]


def read(path):
    return pq.read_table(path).to_pylist()


def filled(schema, rows):
    """Rows with values for the columns that do not matter here."""
    plain = {"string": "x", "int32": 1, "uint64": 1, "float": 0.5}
    return [
        {f.name: row.get(f.name, None if f.nullable else plain[str(f.type)]) for f in schema}
        for row in rows
    ]


def make_corpus(folder, files, counts=None, details=None, group=3):
    """Write a corpus: ``files`` maps names to rows, or to tables to be written as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    schemas = {"sequences": SEQUENCE_SCHEMA, "pairs": PAIR_SCHEMA, "members": MEMBER_SCHEMA}
    for name, rows in files.items():
        schema = schemas[name.split("-")[0].removeprefix("validation_")]
        table = (
            rows
            if isinstance(rows, pa.Table)
            else pa.Table.from_pylist(filled(schema, rows), schema=schema)
        )
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=group)
    paths = sorted(folder.glob("*.parquet"))
    entries = tuple(FileEntry.of(path, pq.read_metadata(path).num_rows) for path in paths)
    kept = sum(e.rows for e in entries if "sequences" in e.name)
    counts = {"sequences_read": kept, "sequences_kept": kept} if counts is None else counts
    write_manifest(
        folder,
        Manifest(
            kind="corpus", fingerprint="f", files=entries, counts=counts, details=details or {}
        ),
    )
    return folder


def ranking(values, top):
    """The oracle of a ranking."""
    known = Counter(v for v in values if v is not None)
    first = sorted(known.items(), key=lambda item: (-item[1], str(item[0])))[:top]
    return {
        "number": len(known),
        "without": sum(v is None for v in values),
        "top": [(str(name), number) for name, number in first],
        "others": sum(known.values()) - sum(number for _, number in first),
    }


def simple(found):
    """A ranking without what the oracle of another test checks."""
    top = [(str(entry["name"]), entry["sequences"]) for entry in found["top"]]
    return {**{k: found[k] for k in ("number", "without", "others")}, "top": top}


def check_against_plain_python(folder, top=3):
    """Compare all counts with Counter over every row as a Python object."""
    stats = describe(folder, top=top)
    split = {name: rows_of(folder, f"{prefix}sequences") for name, prefix in SPLITS.items()}
    rows = [row for part in split.values() for row in part]
    sequences = [row["sequence"] for row in rows]
    assert stats["sequences"] == {name: len(part) for name, part in split.items()}
    assert stats["nucleotides"] == {
        name: sum(len(row["sequence"]) for row in part) for name, part in split.items()
    }
    letters = Counter("".join(sequences))
    found = stats["composition"]
    assert {k: n for k, n in found["letters"].items() if n} == letters
    assert found["with_ambiguity"] == sum(bool(set(s) - set("ACGU")) for s in sequences)
    definite = sum(letters[c] for c in "ACGU")
    assert found["gc_share"] == ((letters["G"] + letters["C"]) / definite if definite else None)
    for key, column in (("rna_types", "rna_type"), ("families", "family"), ("taxa", "taxid")):
        assert simple(stats[key]) == ranking([row[column] for row in rows], top), key
    check_lengths(stats["lengths"], split)
    pairs = {name: rows_of(folder, f"{prefix}pairs") for name, prefix in SPLITS.items()}
    check_pairs(stats["pairs"], pairs)
    members = rows_of(folder, "members")
    assert stats["members"]["rows"] == len(members)
    assert simple(stats["members"]["families"]) == ranking([m["family"] for m in members], top)
    classes = Counter("".join(m.get("ss_classes") or "" for m in members))
    assert {k: n for k, n in stats["members"]["structure_classes"].items() if n} == classes
    assert stats["bytes"] == sum(
        f.stat().st_size for f in [*folder.glob("*.parquet"), folder / MANIFEST_NAME]
    )
    json.dumps(stats)  # nothing of numpy is left in it
    return stats


def check_lengths(found, split):
    lengths = [len(row["sequence"]) for part in split.values() for row in part]
    cuts = np.quantile(lengths, [0, 0.25, 0.5, 0.75, 1]) if lengths else [None] * 5
    assert [found[k] for k in ("min", "q1", "median", "q3", "max")] == list(cuts)
    assert found["mean"] == (pytest.approx(np.mean(lengths)) if lengths else None)
    histogram = found["histogram"]
    for name, part in split.items():
        own = [len(row["sequence"]) for row in part]
        wanted = np.histogram(own, histogram["edges"])[0].tolist() if lengths else []
        # numpy's last bin takes its upper edge; ours never has a value there.
        assert histogram[name] == wanted
    assert not lengths or max(lengths) < histogram["edges"][-1]


def check_pairs(found, pairs):
    every = [pair for part in pairs.values() for pair in part]
    assert {name: found[name] for name in pairs} == {k: len(part) for k, part in pairs.items()}
    assert found["families"] == len({pair["family"] for pair in every})
    identity = [pair["identity"] for pair in every]
    assert found["identity"]["mean"] == (pytest.approx(np.mean(identity)) if every else None)
    assert found["identity"]["max"] == (max(identity) if every else None)
    bins = Counter(min(int(value * 20), 19) for value in identity)
    assert found["identity"]["histogram"]["counts"] == [bins[i] for i in range(20)]


def test_the_sample(sample_corpus):
    stats = check_against_plain_python(sample_corpus)
    assert stats["sequences"] == {"train": 2257, "validation": 0}
    assert stats["accounting"]["sequences"]["read"] == 2264
    assert stats["problems"] == []


LABEL = st.none() | st.sampled_from(["tRNA", "5S_rRNA", "é", "<b>"])
SEQUENCE = st.fixed_dictionaries(
    {
        "sequence": st.text("ACGU", max_size=9) | st.text("ACGUNRYSWKMBDHVX", max_size=40),
        "rna_type": LABEL,
        "family": LABEL,
        "taxid": st.none() | st.integers(1, 5),
    }
)
PAIR = st.fixed_dictionaries(
    {"family": st.sampled_from("AB"), "identity": st.floats(0, 1, width=32)}
)
MEMBER = st.fixed_dictionaries(
    {
        "family": st.sampled_from("AB"),
        "ss_classes": st.none() | st.text("01234567", max_size=9),
    }
)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(SEQUENCE, max_size=30),
    st.lists(SEQUENCE, max_size=5),
    st.lists(PAIR, max_size=9),
    st.lists(MEMBER, max_size=9),
)
def test_any_corpus(tmp_path_factory, training, validation, pairs, members):
    folder = make_corpus(
        tmp_path_factory.mktemp("any"),
        {
            "sequences-00000": training[:11],
            "sequences-00001": training[11:],
            "validation_sequences-00000": validation,
            "pairs-00000": pairs,
            "members-00000": members,
        },
    )
    check_against_plain_python(folder)


@given(
    st.lists(st.none() | st.text("ACGUNX", max_size=20), max_size=30),
    st.integers(0, 30),
    st.integers(0, 30),
    st.sampled_from([pa.string(), pa.large_string(), pa.string_view(), pa.binary()]),
)
def test_letters_of_slices(texts, start, length, kind):
    column = pa.array(texts, pa.string()).cast(kind).slice(start, length)
    counts, ambiguous = count_letters(column)
    own = [text or "" for text in texts[start : start + length]]
    assert {chr(i): int(n) for i, n in enumerate(counts) if n} == Counter("".join(own))
    assert ambiguous == sum(bool(set(text) - set("ACGU")) for text in own)


def test_letters_of_more_than_a_chunk(rng, monkeypatch):
    monkeypatch.setattr("riboray.corpus.counting._CHUNK", 64)
    letters = rng.choice(list("ACGUN"), size=5000, p=[0.3, 0.2, 0.2, 0.2, 0.1])
    texts = ["".join(part) for part in np.array_split(letters, 90)]
    counts, ambiguous = count_letters(pa.array(texts))
    assert {chr(i): int(n) for i, n in enumerate(counts) if n} == Counter(letters.tolist())
    assert ambiguous == sum("N" in text for text in texts)


def test_bytes_behind_a_null_are_not_counted():
    validity = pa.py_buffer(b"\x05")  # the second of three is null, with bytes of its own
    offsets = pa.py_buffer(np.array([0, 2, 4, 6], dtype=np.int32))
    column = pa.StringArray.from_buffers(3, offsets, pa.py_buffer(b"AANNGG"), validity, 1)
    counts, ambiguous = count_letters(column)
    assert (counts[ord("A")], counts[ord("N")], counts[ord("G")], ambiguous) == (2, 0, 2, 0)


def test_other_types_of_columns_and_absent_ones(tmp_path):
    wide = pa.table(
        {"sequence": pa.array(["ACGU", "NNA"], pa.large_string()), "family": ["F", "F"]}
    )
    coded = pa.table(
        {"sequence": ["GG"], "family": pa.array(["F"]).dictionary_encode(), "taxid": pa.nulls(1)}
    )
    old = pa.table({"family": ["F"], "name": ["Efff"]})  # members before structures
    files = {"sequences-00000": wide, "sequences-00001": coded, "members-00000": old}
    stats = describe(make_corpus(tmp_path / "c", files))
    assert stats["families"]["top"] == [{"name": "F", "sequences": 3, "title": "Efff"}]
    assert (stats["taxa"]["without"], stats["rna_types"]["without"]) == (3, 3)
    assert stats["members"]["structure_classes"] == {}


def test_labels_settle_between_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("riboray.corpus.counting._LABEL_ROWS", 4)
    rows = [
        {"sequence": "ACGU", "taxid": i % 3 or None, "rna_type": "ab"[i % 2]} for i in range(50)
    ]
    check_against_plain_python(make_corpus(tmp_path / "c", {"sequences-00000": rows}))


def edit(folder, tmp_path, change):
    """Copy a corpus with another manifest."""
    shutil.copytree(folder, tmp_path / "edited")
    path = tmp_path / "edited" / MANIFEST_NAME
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    return tmp_path / "edited"


@pytest.mark.parametrize("kind", ["sequences", "families", "rows"])
def test_books_that_do_not_add_up_are_called_out(sample_corpus, tmp_path, capsys, kind):
    folder = edit(
        sample_corpus, tmp_path, lambda m: m["counts"].update({f"{kind}_read": 3 * 10**6})
    )
    (problem,) = describe(folder, figure=str(tmp_path / "x.html"))["problems"]
    assert problem.startswith(f"{kind} do not add up: 3,000,000 read")
    assert f"WARNING: {problem}" in capsys.readouterr().out
    assert f"Warning: {problem}" in (tmp_path / "x.html").read_text()
    describe(folder, figure=str(tmp_path / "x.png"))


@pytest.mark.parametrize("key", ["sequences_kept", "windows_kept"])
def test_counts_that_are_not_in_the_files(sample_corpus, tmp_path, key):
    def more(manifest):
        manifest["counts"][key] = manifest["counts"].get(key, 0) + 5

    with pytest.raises(CorpusError, match="hold 2,257 sequences, but .* make 2,262"):
        describe(edit(sample_corpus, tmp_path, more))


def test_rows_of_a_file_that_are_not_in_it(sample_corpus, tmp_path):
    def fewer(manifest):
        next(f for f in manifest["files"] if f["name"].startswith("pairs"))["rows"] -= 1

    with pytest.raises(CorpusError, match=r"pairs-00000.parquet: holds 360 rows; .* says 359"):
        describe(edit(sample_corpus, tmp_path, fewer))


def test_oddities_are_called_out(tmp_path):
    files = {
        "sequences-00000": [{"sequence": "ACg-U"}],
        "pairs-00000": [{"family": "A", "identity": value} for value in (0.5, -1.0, float("nan"))],
    }
    folder = make_corpus(tmp_path / "c", files, details={"nucleotides": 7})
    shutil.copy(folder / "sequences-00000.parquet", folder / "sequences-00009.parquet")
    assert describe(folder)["problems"] == [
        "sequences-00009.parquet is not in the manifest: not counted",
        "the files hold 5 nucleotides, but the manifest says 7",
        "2 letters are no nucleotides",
        "2 pairs have no identity between 0 and 1",
    ]


def test_a_damaged_file_and_a_lacking_column(tmp_path):
    make_corpus(tmp_path / "a", {"sequences-00000": pa.table({"id": ["x"]})})
    with pytest.raises(CorpusError, match="lacks the columns sequence"):
        describe(tmp_path / "a")
    folder = make_corpus(
        tmp_path / "b", {"sequences-00000": [{"sequence": "ACGU"}] * 900}, group=900
    )
    path = folder / "sequences-00000.parquet"
    data = bytearray(path.read_bytes())
    data[4:200] = b"\xff" * 196
    path.write_bytes(data)
    with pytest.raises(CorpusError, match="is damaged"):
        describe(folder)
    path.write_bytes(b"\0" * len(data))
    with pytest.raises(CorpusError, match="no readable Parquet file"):
        describe(folder)


def test_no_manifest(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CorpusError, match="no corpus manifest; make one with `riboray ingest`"):
            describe(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"corpus": []}, "give one corpus directory, not 0"),
        ({"corpus": ["a", "b"]}, "give one corpus directory, not 2"),
        ({"corpus": ["a"], "top": 0}, "top must be at least 1"),
        ({"corpus": ["a"], "figure": "x.pdf"}, "must end in one of .png, .svg, .html"),
        ({"corpus": ["a"], "figure": "png"}, "must end in one of"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(ConfigError, match=message):
        CorpusStatsConfig(**options)


def test_a_figure_that_cannot_be_written_stops_before_counting(
    sample_corpus, tmp_path, monkeypatch
):
    monkeypatch.setattr("riboray.corpus.stats.count_files", None)
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    for path in ("file/x.png", "folder.png", f"{'x' * 300}/x.svg", f"{'x' * 250}.svg"):
        with pytest.raises(ConfigError, match="figure"):
            describe(sample_corpus, figure=str(tmp_path / path))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.png"]


MEASURE = """
import sys
from riboray.corpus.stats import CorpusStatsConfig, corpus_stats
def peak():  # getrusage would tell the peak of the parent, if that was higher
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
corpus_stats(CorpusStatsConfig(corpus=[sys.argv[1]]))
before = peak()
corpus_stats(CorpusStatsConfig(corpus=[sys.argv[2]]))
print(peak() - before)
"""


def test_memory_does_not_grow_with_the_corpus(tmp_path, rng):
    """Two million RNAs of 60 to 100 nt in one file, 160 MB of nucleotides, against 62,500."""
    block = 62_500
    letters = np.frombuffer(b"ACGU", np.uint8)[rng.integers(0, 4, block * 100)]
    offsets = np.concatenate([[0], np.cumsum(rng.integers(60, 101, block))]).astype(np.int32)
    text = pa.StringArray.from_buffers(block, pa.py_buffer(offsets), pa.py_buffer(letters))
    values = filled(SEQUENCE_SCHEMA, [{"rna_type": "tRNA", "family": "F", "taxid": 1}])[0]
    columns = [
        text if f.name == "sequence" else pa.array([values[f.name]] * block, f.type)
        for f in SEQUENCE_SCHEMA
    ]
    table = pa.table(columns, schema=SEQUENCE_SCHEMA)
    small = make_corpus(tmp_path / "small", {"sequences-00000": table}, group=4096)
    large = make_corpus(
        tmp_path / "large", {"sequences-00000": pa.concat_tables([table] * 32)}, group=4096
    )
    command = [sys.executable, "-c", MEASURE, str(small), str(large)]
    grown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    # Batches in flight and the allocator take 30 MB. A file held as it is read takes 100.
    assert float(grown.splitlines()[-1]) < 60
