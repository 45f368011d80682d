"""Sequences and families that must not be in a corpus: in no file of it, and never silently."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from riboray.corpus import IngestConfig, ingest
from riboray.errors import ConfigError, InputError
from tests.corpus.test_families import family, rows

A, B, C = "ACGUACGUACGU", "ACGUACGUAAAA", "GGGGACGUAAAA"
X, Y, Z = "CCCCCCGGGGGG", "CCCCAAGGGGGG", "CCCCUUGGGGGG"
ONE, TWO = family("F1", None, A, B, C), family("F2", None, X, Y, Z)


def make(tmp_path, alignments, fasta=None, **options):
    lines = []
    if alignments:
        (tmp_path / "x.sto").write_text(alignments)
        options["alignments"] = [str(tmp_path / "x.sto")]
    if fasta:
        (tmp_path / "x.fa").write_text(fasta)
        options["corpus"] = [str(tmp_path / "x.fa")]
    options.setdefault("output", str(tmp_path / "c"))
    manifest = ingest(IngestConfig(**options), report=lines.append)
    return manifest, tmp_path / "c", lines


def everything(folder):
    """Every sequence that any file of a corpus holds, but for the lists of what is left out."""
    found = set()
    for stem in ("sequences", "validation_sequences", "members"):
        found |= {r["sequence"] for r in rows(folder, stem)}
    for stem in ("pairs", "validation_pairs"):
        for pair in rows(folder, stem):
            found |= {pair[side].replace("-", "") for side in ("aligned_a", "aligned_b")}
    return found


def write_list(tmp_path, text):
    (tmp_path / "list.txt").write_text(text)
    return [str(tmp_path / "list.txt")]


@pytest.mark.parametrize("corpus", [None, f">own\n{A}\n>other\nUUUUUUUUUUUU\n"])
def test_an_excluded_sequence_is_in_no_file(tmp_path, corpus):
    (tmp_path / "out.fa").write_text(f">test\n{A.lower()}\n")
    manifest, folder, _ = make(tmp_path, ONE + TWO, corpus, exclude=[str(tmp_path / "out.fa")])
    assert A not in everything(folder)
    assert {B, C, X, Y, Z} <= everything(folder)
    assert manifest.counts["rows_filtered"] == 1
    assert manifest.counts["rows_kept"] == 5
    assert manifest.details["pairs_excluded"] == 2
    found = pq.read_table(folder / "rejects.parquet").to_pylist()
    assert ("F1/F1s0", "filtered") in {(r["id"], r["outcome"]) for r in found}
    assert manifest.details["excluded"] == [
        {"path": str(tmp_path / "out.fa"), "read": 1, "unusable": 0}
    ]


def test_a_family_without_a_pair_left_is_filtered(tmp_path):
    (tmp_path / "out.fa").write_text(f">1\n{A}\n>2\n{B}\n")
    manifest, folder, _ = make(tmp_path, ONE + TWO, exclude=[str(tmp_path / "out.fa")])
    assert {p["family"] for p in rows(folder, "pairs")} == {"F2"}
    counts = manifest.counts
    assert (counts["families_read"], counts["families_kept"], counts["families_filtered"]) == (
        2,
        1,
        1,
    )


@pytest.mark.parametrize(
    "text",
    [f">\n{A}\n", f">x\n{A[:4]}--{A[4:]}..\n", f">x\n{A}*\n", f">M\udcfcller\n{A}\n"],
    ids=["no id", "aligned", "stop", "name not UTF-8"],
)
def test_names_and_gaps_do_not_shield_a_sequence(tmp_path, text):
    (tmp_path / "out.fa").write_bytes(text.encode("utf-8", "surrogateescape"))
    manifest, folder, _ = make(
        tmp_path, None, f">own\n{A}\n>other\n{X}\n", exclude=[str(tmp_path / "out.fa")]
    )
    assert everything(folder) == {X}
    assert manifest.details["reasons"]["filtered"] == {"sequence excluded": 1}


def test_a_guard_that_guards_nothing_says_so(tmp_path):
    (tmp_path / "out.fa").write_text(f">protein\nMKLLEF\n>fine\n{A}\n")
    _, _, lines = make(tmp_path, None, f">own\n{X}\n", exclude=[str(tmp_path / "out.fa")])
    assert "warning: 1 of 2 sequences to exclude cannot be used" in lines
    (tmp_path / "out.fa").write_text(">protein\nMKLLEF\n")
    with pytest.raises(InputError, match="out.fa: no usable sequence to exclude among 1"):
        make(
            tmp_path,
            None,
            f">own\n{X}\n",
            exclude=[str(tmp_path / "out.fa")],
            output=str(tmp_path / "d"),
        )


def test_families_to_exclude_that_are_nowhere(tmp_path):
    lists = write_list(tmp_path, "F1\nRF0001\n")
    manifest, _, lines = make(tmp_path, ONE + TWO, exclude_families=lists)
    assert "warning: 1 of 2 families to exclude are in no alignment: RF0001" in lines
    assert manifest.details["excluded_families_not_found"] == ["RF0001"]
    with pytest.raises(ConfigError, match="--exclude-families needs --alignments"):
        make(tmp_path, None, f">own\n{X}\n", exclude_families=lists, output=str(tmp_path / "d"))


def test_a_name_means_its_accession_in_other_files_too(tmp_path):
    table = pa.table(
        {"id": ["p", "q"], "sequence": ["U" * 12, "UUUUUUUUUUUG"], "family": ["F1", None]}
    )
    pq.write_table(table, tmp_path / "x.parquet")
    _, folder, _ = make(
        tmp_path,
        ONE + TWO,
        corpus=[str(tmp_path / "x.parquet")],
        exclude_families=write_list(tmp_path, "the_F1\n"),
    )
    assert {r["id"] for r in rows(folder, "sequences")} == {"q"}


def test_a_second_alignment_of_an_excluded_family_is_excluded_too(tmp_path):
    again = family("F1", None, "AAAAAAAAAAAC", "AAAAAAAAAAAG")
    fasta = ">one\nAAAAAAAAAAAC\n>two\nUUUUUUUUUUUU\n"
    manifest, folder, _ = make(
        tmp_path, ONE + TWO + again, fasta, exclude_families=write_list(tmp_path, "F1")
    )
    assert {r["id"] for r in rows(folder, "sequences")} == {"two"}
    counts = manifest.counts
    assert counts["rows_read"] == 8
    assert counts["families_rejected"] == 1


def test_members_of_held_out_families_are_in_no_training_pair(tmp_path):
    mixed = family("F3", None, A, X, "GGGGGGGGGGGA")
    manifest, folder, _ = make(
        tmp_path, ONE + TWO + mixed, split_by="family", validation_families=["F1"]
    )
    for pair in rows(folder, "pairs"):
        assert A not in (pair["aligned_a"], pair["aligned_b"])
    assert {p["family"] for p in rows(folder, "validation_pairs")} == {"F1"}
    assert manifest.details["split"]["pairs_of_held_out_sequences"] == 2
    training = ds.dataset(sorted(folder.glob("sequences-*.parquet"))).to_table()["sequence"]
    assert not {A, B, C} & set(training.to_pylist())
    with pytest.raises(ConfigError, match="needs two families"):
        make(tmp_path, ONE, split_by="family", validation_share=0.1, output=str(tmp_path / "d"))


def test_alignments_given_twice(tmp_path):
    (tmp_path / "x.sto").write_text(ONE)
    path = str(tmp_path / "x.sto")
    with pytest.raises(InputError, match="is given twice"):
        ingest(IngestConfig(alignments=[path, path], output=str(tmp_path / "c")))


def test_filters_of_records_without_rnacentral_ids(tmp_path):
    """With an id mapping, Parquet's own taxids still count for ids that it cannot know."""
    (tmp_path / "map.tsv").write_text("URS0000000001\tENA\tx\t9606\ttRNA\tg\n")
    table = pa.table(
        {
            "id": ["URS0000000001", "URS0000000002", "mine1", "mine2"],
            "sequence": [A, B, X, Y],
            "taxid": pa.array([None, 9606, 9606, 10090], pa.int32()),
        }
    )
    pq.write_table(table, tmp_path / "x.parquet")
    _, folder, _ = make(
        tmp_path,
        None,
        corpus=[str(tmp_path / "x.parquet")],
        id_mapping=str(tmp_path / "map.tsv"),
        taxid=[9606],
    )
    assert {r["id"] for r in rows(folder, "sequences")} == {"URS0000000001", "mine1"}


def test_rows_of_alignments_obey_the_rules_of_the_corpus(tmp_path):
    noisy = "ACGUNNNNNNNN"
    manifest, folder, _ = make(
        tmp_path, family("F1", None, A, B, noisy, "ACG---------"), max_ambiguity=0.2
    )
    assert noisy not in everything(folder)
    counts = manifest.counts
    assert (counts["rows_filtered"], counts["sequences_filtered"]) == (2, 2)


def test_a_large_family_draws_its_pairs_from_those_that_stay(tmp_path, rng):
    """60 members, 40 of them excluded: all pairs wanted are there, not those left by chance."""
    texts = list(dict.fromkeys("".join(rng.choice(list("ACGU"), 30)) for _ in range(60)))
    (tmp_path / "out.fa").write_text("".join(f">{k}\n{t}\n" for k, t in enumerate(texts[20:])))
    options = {"exclude": [str(tmp_path / "out.fa")], "pairs_per_family": 100}
    _, folder, _ = make(tmp_path, family("F1", None, *texts) + TWO, **options)
    pairs = [p for p in rows(folder, "pairs") if p["family"] == "F1"]
    assert len(pairs) == 100
    assert not set(texts[20:]) & everything(folder)
    # As if they had never been there.
    few = family("F1", None, *texts[:20]) + TWO
    _, alone, _ = make(tmp_path, few, pairs_per_family=100, output=str(tmp_path / "alone"))
    assert rows(folder, "pairs") == rows(alone, "pairs")


def test_held_out_sequences_stay_out_of_pairs_drawn_again(tmp_path):
    """B stands in both families; F2 is set apart, and F1 loses a member and draws again."""
    (tmp_path / "out.fa").write_text(f">test\n{A}\n")
    both = family("F1", None, A, B, C, A[:-1] + "G") + family("F2", None, B, X, Y)
    options = {"exclude": [str(tmp_path / "out.fa")], "split_by": "family"}
    options["validation_families"] = ["F2"]
    manifest, folder, _ = make(tmp_path, both, **options)
    assert [(p["id_a"], p["id_b"]) for p in rows(folder, "pairs")] == [("F1s2", "F1s3")]
    assert len(rows(folder, "validation_pairs")) == 3
    split = manifest.details["split"]
    assert split["pairs_of_held_out_sequences"] == 2  # B with C and with the fourth


def test_codes_in_one_place_do_not_shield_the_windows_of_a_sequence(tmp_path):
    text = "N" * 12 + A + B
    (tmp_path / "out.fa").write_text(f">long\n{text}\n")
    options = {"exclude": [str(tmp_path / "out.fa")], "on_long": "window", "max_length": 12}
    own = f">own\n{A}\n>other\n{X}\n"
    limit = {"max_ambiguity": 0.1, "ambiguity": "keep", "min_length": 4}
    _, folder, _ = make(tmp_path, None, own, **options, **limit)
    assert everything(folder) == {X}
