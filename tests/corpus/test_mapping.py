"""Taxids, RNA types and databases out of id_mapping.tsv, against a dictionary of lists."""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from riboray.corpus import IngestConfig, ingest, steps
from riboray.errors import ConfigError, CorpusError

URS = st.integers(0, 12).map(lambda k: f"URS{k * 0x0F00F00F0:010X}")
TAXIDS = st.sampled_from([9606, 10090, 7227])
TYPES = st.sampled_from(["tRNA", "miRNA", "rRNA", ""])
DATABASES = st.sampled_from(["RFAM", "ENA"])
LINES = st.lists(st.tuples(URS, DATABASES, TAXIDS, TYPES), min_size=1, max_size=40)
IDS = st.lists(
    st.one_of(URS, st.tuples(URS, TAXIDS).map(lambda p: f"{p[0]}_{p[1]}"), st.just("mine")),
    min_size=1,
    max_size=25,
)


def write(folder, lines, ids):
    text = "".join(f"{u}\t{d}\text:{k}\t{t}\t{r}\tgene\n" for k, (u, d, t, r) in enumerate(lines))
    (folder / "id_mapping.tsv.gz").write_bytes(gzip.compress(text.encode()))
    digits = str.maketrans("0123", "ACGU")
    with (folder / "in.fa").open("w") as handle:
        for number, name in enumerate(ids):
            quarter = f"{number // 16}{number // 4 % 4}{number % 4}".translate(digits)
            handle.write(f">{name}\n{'ACGUACGUAC' + quarter}\n")


def expected(lines, ids, taxids, types, databases):
    """Ids that pass, with taxid and RNA type."""
    kept = {}
    for number, name in enumerate(ids):
        urs, _, own = name.partition("_")
        own = int(own) if own else None
        about = [x for x in lines if x[0] == urs and own in (None, x[2])]
        fine = [
            x
            for x in about
            if (not taxids or x[2] in taxids)
            and (not types or x[3] in types)
            and (not databases or x[1] in databases)
        ]
        if (taxids or types or databases) and not fine:
            continue
        found = {x[2] for x in fine}
        ranked = sorted(Counter(x[3] for x in fine).items(), key=lambda item: (-item[1], item[0]))
        taxid = own or (found.pop() if len(found) == 1 else None)
        kept[number] = (taxid, (ranked[0][0] or None) if ranked else None)
    return kept


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    lines=LINES,
    ids=IDS,
    taxids=st.lists(TAXIDS, max_size=2, unique=True),
    types=st.lists(st.sampled_from(["tRNA", "miRNA"]), max_size=2, unique=True),
    databases=st.lists(DATABASES, max_size=1),
    small=st.booleans(),
)
def test_against_a_dictionary(monkeypatch, lines, ids, taxids, types, databases, small):
    if small:
        monkeypatch.setattr(steps, "PART_BYTES", 150)
        monkeypatch.setattr(steps, "_PARTITION_BYTES", 150)
    with TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, lines, ids)
        config = IngestConfig(
            corpus=[str(folder / "in.fa")],
            id_mapping=str(folder / "id_mapping.tsv.gz"),
            output=str(folder / "c"),
            taxid=taxids,
            rna_type=types,
            database=databases,
        )
        wanted = expected(lines, ids, taxids, types, databases)
        if not wanted:
            with pytest.raises(CorpusError, match="no usable sequence"):
                ingest(config)
            return
        manifest = ingest(config)
        rows = ds.dataset(sorted((folder / "c").glob("seq*.parquet"))).to_table().to_pylist()
        sequences = [line for line in (folder / "in.fa").read_text().split() if line[0] != ">"]
        found = {sequences.index(r["sequence"]): (r["taxid"], r["rna_type"]) for r in rows}
        assert found == wanted
        assert manifest.details["id_mapping_rows"] == len(lines)
        out = pq.read_table(folder / "c" / "rejects.parquet").to_pylist()
        assert sorted(r["record"] - 1 for r in out) == sorted(set(range(len(ids))) - set(wanted))
        assert {r["outcome"] for r in out} <= {"filtered"}
        assert manifest.counts["sequences_filtered"] == len(out)


GOOD_LINE = "URS0000000001\tRFAM\tRF1\t9606\ttRNA\t\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD_LINE + "URS0000000002\tENA\tx\n", "line 2: 3 columns, not 6"),
        (
            GOOD_LINE * 3 + "ENSG01\tENA\tx\t9606\ttRNA\t\n",
            "line 4: .*'ENSG01' is no RNAcentral id",
        ),
        (GOOD_LINE + "URS0000000002\tENA\tx\thuman\ttRNA\t\n", "line 2: .*'human' is no taxid"),
        ("", "is empty"),
    ],
)
@pytest.mark.parametrize("part", [60, 1 << 20])
def test_a_mapping_that_cannot_be_used(tmp_path, monkeypatch, text, message, part):
    monkeypatch.setattr(steps, "PART_BYTES", part)
    (tmp_path / "map.tsv").write_text(text)
    (tmp_path / "in.fa").write_text(">URS0000000001\nACGUACGUACGU\n")
    config = IngestConfig(
        corpus=[str(tmp_path / "in.fa")],
        id_mapping=str(tmp_path / "map.tsv"),
        output=str(tmp_path / "c"),
    )
    with pytest.raises(CorpusError, match=message):
        ingest(config)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"database": ["RFAM"]},
        {"max_ambiguity": 1.5},
        {"validation_share": 1.0},
        {"pair_min_identity": 0.9, "pair_max_identity": 0.5},
        {"taxid": [-1]},
        {"split_by": "family"},
        {"validation_families": ["RF1"]},
        {"num_workers": 0},
    ],
)
def test_options_that_cannot_work(options):
    with pytest.raises(ConfigError):
        IngestConfig(corpus=["x.fa"], **options)


@pytest.mark.devdata
def test_the_development_mapping(devdata, tmp_path):
    """Rows and records of RNAcentral itself."""
    folder = devdata / "rnacentral"
    manifest = ingest(
        IngestConfig(
            corpus=[str(folder / "r2dt_pdb_URS.fasta"), str(folder / "examples.fasta")],
            id_mapping=str(folder / "id_mapping_sample.tsv"),
            output=str(tmp_path / "c"),
            on_long="window",
        )
    )
    counts = manifest.counts
    assert counts["sequences_read"] == 2525 + (folder / "examples.fasta").read_text().count(">")
    assert counts["windows_read"] > 0
    assert manifest.details["id_mapping_rows"] == 13
