"""Seed alignments: pairs, structures, families kept out."""

from __future__ import annotations

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from riboray.corpus import IngestConfig, ingest, read_stockholm
from riboray.corpus.sample import SAMPLE_ALIGNMENTS, SAMPLE_CORPUS
from riboray.corpus.structure import SS_CLASSES, base_pairs, project_structure
from riboray.errors import ConfigError, InputError
from riboray.pretraining.config import PretrainConfig
from riboray.pretraining.data import prepare_data


def rows(folder, stem):
    files = sorted(folder.glob(f"{stem}-*.parquet"))
    return ds.dataset(files).to_table().to_pylist() if files else []


def family(name, ss_cons, *sequences):
    lines = [f"{name}s{i} {row}" for i, row in enumerate(sequences)]
    lines += [f"#=GC SS_cons {ss_cons}"] if ss_cons else []
    return "\n".join(
        ["# STOCKHOLM 1.0", f"#=GF AC {name}", f"#=GF ID the_{name}", *lines, "//", ""]
    )


def make(tmp_path, text, *, fasta=None, name="c", **options):
    (tmp_path / "x.sto").write_text(text)
    if fasta is not None:
        (tmp_path / "x.fa").write_text(fasta)
        options["corpus"] = [str(tmp_path / "x.fa")]
    output = tmp_path / name
    return ingest(
        IngestConfig(alignments=[str(tmp_path / "x.sto")], output=str(output), **options)
    ), output


ONE = family("F1", "<<<____>>>--", "ACGUACGUGU--", "ACGUAC-UGUGG", "-CGUACGUGUAA")
TWO = family("F2", "::<<...>>AAa", "GGGGAAACCCCU", "GGGGAAACCUCU", "GCGGAAACCGCA", "GAGGAAACCUCC")


def plain_pairs(dots):
    stack, found = [], set()
    for i, symbol in enumerate(dots):
        if symbol == "(":
            stack.append(i)
        elif symbol == ")":
            found.add((stack.pop(), i))
    assert not stack
    return found


def test_structures_of_sequences(tmp_path):
    _, folder = make(tmp_path, ONE)
    members = {r["id"]: r for r in rows(folder, "members")}
    assert members["F1s0"]["dot_bracket"] == "(((....)))"
    assert members["F1s0"]["ss_classes"] == "2226666222"
    # The second lacks column 7, a loop; the third column 1, whose partner stays unpaired.
    assert members["F1s1"]["dot_bracket"] == "(((...))).."
    assert members["F1s1"]["ss_classes"] == "22266622255"
    assert members["F1s2"]["dot_bracket"] == "((....)).." + "."
    assert members["F1s2"]["ss_classes"] == "22666622255"
    assert all(len(r["sequence"]) == len(r["ss_classes"]) for r in members.values())
    assert sorted(SS_CLASSES) == list("01234567")


@pytest.mark.parametrize(
    ("ss_cons", "pairs"),
    [
        ("", []),
        ("..", []),
        ("(<>)", [(0, 3), (1, 2)]),
        ("<<A>>a", [(0, 4), (1, 3), (2, 5)]),
        ("AB..ab", [(0, 4), (1, 5)]),
    ],
)
def test_base_pairs(ss_cons, pairs):
    partner = base_pairs(ss_cons)
    assert [(i, int(j)) for i, j in enumerate(partner) if j > i] == pairs


@pytest.mark.parametrize(
    ("ss_cons", "message"), [("<<>", "never closed"), ("<>a", "closes nothing")]
)
def test_structures_that_do_not_match_are_left_out_and_said(tmp_path, ss_cons, message):
    lines = []
    (tmp_path / "x.sto").write_text(
        family("F1", ss_cons.ljust(12, "."), "ACGUACGUAC--", "ACGUAC-UACGG")
    )
    ingest(
        IngestConfig(alignments=[str(tmp_path / "x.sto")], output=str(tmp_path / "c")),
        report=lines.append,
    )
    assert any(message in line and "F1" in line for line in lines)
    assert {r["dot_bracket"] for r in rows(tmp_path / "c", "members")} == {None}


@given(st.data())
def test_projected_structures_keep_pairs_whose_ends_are_there(data):
    dots = data.draw(st.lists(st.sampled_from("(.)"), max_size=30).map("".join))
    depth, balanced = 0, []
    for symbol in dots:
        if symbol == ")" and not depth:
            symbol = "."
        depth += (symbol == "(") - (symbol == ")")
        balanced.append(symbol)
    ss_cons = "".join(balanced) + ")" * depth
    occupied = np.array(
        data.draw(st.lists(st.booleans(), min_size=len(ss_cons), max_size=len(ss_cons))), bool
    )
    found, classes = project_structure(occupied, ss_cons, base_pairs(ss_cons))
    here = np.flatnonzero(occupied)
    place = {int(c): k for k, c in enumerate(here)}
    wanted = {(place[i], place[j]) for i, j in plain_pairs(ss_cons) if i in place and j in place}
    assert plain_pairs(found) == wanted
    assert len(classes) == len(here)


def test_pairs_by_identity(tmp_path):
    _, folder = make(tmp_path, ONE + TWO)
    every = rows(folder, "pairs")
    assert len(every) == 3 + 6
    for pair in every:
        columns = [(a, b) for a, b in zip(pair["aligned_a"], pair["aligned_b"], strict=True)]
        both = [(a, b) for a, b in columns if "-" not in (a, b)]
        assert ("-", "-") not in columns
        assert pair["identity"] == pytest.approx(sum(a == b for a, b in both) / len(both))
    manifest, folder = make(
        tmp_path, ONE + TWO, name="d", pair_min_identity=0.85, pair_max_identity=0.95
    )
    chosen = {(p["id_a"], p["id_b"]) for p in rows(folder, "pairs")}
    assert chosen == {
        (p["id_a"], p["id_b"])
        for p in every
        if np.float32(0.85) <= p["identity"] <= np.float32(0.95)
    }
    assert manifest.counts["families_filtered"] == 1, "F1 has no such pair, and that is said"


def test_a_cap_draws_from_all_pairs(tmp_path):
    """With a limit on identity and a cap, every fitting pair has its chance."""
    letters = np.array(list("ACGU"))
    rng = np.random.default_rng(3)
    sequences = ["".join(rng.choice(letters, 40)) for _ in range(30)]
    text = family("F1", None, *sequences)
    firsts = set()
    for seed in range(4):
        _, folder = make(
            tmp_path, text, name=f"s{seed}", seed=seed, pairs_per_family=20, pair_max_identity=0.5
        )
        found = rows(folder, "pairs")
        assert len(found) == 20
        assert len({(p["id_a"], p["id_b"]) for p in found}) == 20
        firsts |= {p["id_a"] for p in found}
    assert len(firsts) > 15


FASTA = """>same_as_F1s0
ACGUACGUGU
>same_as_F2s1
GGGGAAACCUCU
>other
ACACACACACAC
>again
GGGGAAACCUCU
"""


def test_families_kept_out_take_their_sequences_along(tmp_path):
    (tmp_path / "list.txt").write_text("# test families\nthe_F2   # by name\nRF99999\n")
    manifest, folder = make(
        tmp_path, ONE + TWO, fasta=FASTA, exclude_families=[str(tmp_path / "list.txt")]
    )
    assert {p["family"] for p in rows(folder, "pairs")} == {"F1"}
    assert {m["family"] for m in rows(folder, "members")} == {"F1"}
    assert {r["id"] for r in rows(folder, "sequences")} == {"same_as_F1s0", "other"}
    counts = manifest.counts
    assert (counts["families_filtered"], counts["rows_filtered"]) == (1, 4)
    assert counts["sequences_filtered"] == 2
    assert manifest.details["reasons"]["filtered"] == {"member of an excluded family": 2}
    # The same without a corpus of their own: the rows are filtered by their family.
    manifest, folder = make(
        tmp_path, ONE + TWO, name="d", exclude_families=[str(tmp_path / "list.txt")]
    )
    assert manifest.details["reasons"]["filtered"] == {"family excluded": 4}
    assert {r["family"] for r in rows(folder, "sequences")} == {"F1"}


@pytest.mark.parametrize("content", [b"", b"# nothing\n", b"\xff\xfe"])
def test_a_list_of_families_that_says_nothing(tmp_path, content):
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(InputError, match="names no family|not UTF-8"):
        make(tmp_path, ONE, exclude_families=[str(tmp_path / "list.txt")])


def test_a_corpus_split_by_family(tmp_path):
    options = {"fasta": FASTA, "split_by": "family", "validation_families": ["the_F2"]}
    manifest, folder = make(tmp_path, ONE + TWO, **options)
    assert {p["family"] for p in rows(folder, "pairs")} == {"F1"}
    assert {p["family"] for p in rows(folder, "validation_pairs")} == {"F2"}
    assert {r["id"] for r in rows(folder, "validation_sequences")} == {"same_as_F2s1"}
    assert {r["id"] for r in rows(folder, "sequences")} == {"same_as_F1s0", "other"}
    assert manifest.details["split"]["validation_families"] == ["F2"]
    assert {r["id"]: r["family"] for r in rows(folder, "sequences")}["same_as_F1s0"] == "F1"
    # Pre-training validates on exactly that.
    data = prepare_data(folder, PretrainConfig(corpus=[str(folder)]), 2)
    assert data.held_out_families == ("F2",)
    assert data.counts["sal_validation_pairs"] == 6
    assert data.counts["sal_training_pairs"] == 3
    assert data.counts["mlm_validation_sequences"] == 1
    assert data.counts["mlm_training_sequences"] == 2
    assert data.specs["mlm"].validation_share == 0
    with pytest.raises(ConfigError, match="leave out --validation-families"):
        prepare_data(folder, PretrainConfig(corpus=[str(folder)], validation_families=["F1"]), 2)
    with pytest.raises(ConfigError, match="without a usable pair in the alignments: RF7"):
        make(
            tmp_path,
            ONE + TWO,
            name="e",
            fasta=FASTA,
            split_by="family",
            validation_families=["RF7"],
        )
    with pytest.raises(ConfigError, match="every family is set apart"):
        make(tmp_path, ONE, name="f", split_by="family", validation_families=["F1"])


def test_a_corpus_split_by_sequence(tmp_path):
    config = IngestConfig(
        corpus=[SAMPLE_CORPUS],
        alignments=[SAMPLE_ALIGNMENTS],
        output=str(tmp_path / "c"),
        validation_share=0.1,
        sort="length",
        rows_per_shard=500,
    )
    manifest = ingest(config)
    training, apart = (
        rows(tmp_path / "c", "sequences"),
        rows(tmp_path / "c", "validation_sequences"),
    )
    assert len(training) + len(apart) == manifest.counts["sequences_kept"]
    assert 0.07 < len(apart) / (len(training) + len(apart)) < 0.13
    assert not {r["sequence"] for r in training} & {r["sequence"] for r in apart}
    for file in (tmp_path / "c").glob("*sequences-*.parquet"):
        lengths = pq.read_table(file)["length"].to_pylist()
        assert lengths == sorted(lengths)
    sizes = [pq.read_metadata(f).num_rows for f in (tmp_path / "c").glob("sequences-*.parquet")]
    assert max(sizes) - min(sizes) <= 1
    data = prepare_data(tmp_path / "c", PretrainConfig(corpus=["c"], validation_sequences=50), 2)
    assert data.counts["mlm_validation_sequences"] == 50


def test_members_label_the_corpus(sample_corpus):
    """Every sample sequence that stands in a seed alignment carries its family."""
    wanted = {}
    for seed in read_stockholm(SAMPLE_ALIGNMENTS):
        for row in seed.rows:
            text = row.upper().replace("T", "U").translate(str.maketrans("", "", "-.~_"))
            wanted.setdefault(text, seed.accession)
    found = rows(sample_corpus, "sequences")
    assert sum(r["family"] is not None for r in found) > 800
    assert {r["sequence"]: r["family"] for r in found} == {
        r["sequence"]: wanted.get(r["sequence"]) for r in found
    }


@pytest.mark.devdata
@pytest.mark.slow
def test_rfam_structures(devdata, tmp_path):
    """Every SS_cons of Rfam is read, and projecting it keeps its pairs."""
    notes = []
    manifest = ingest(
        IngestConfig(
            alignments=[str(devdata / "rfam" / "Rfam.seed.gz")],
            output=str(tmp_path / "c"),
            pairs_per_family=20,
            pair_max_identity=0.95,
        ),
        report=notes.append,
    )
    assert manifest.counts["families_read"] == 3908
    assert [note for note in notes if "SS_cons" in note] == []
    members = rows(tmp_path / "c", "members")
    assert all(len(m["sequence"]) == len(m["dot_bracket"]) == len(m["ss_classes"]) for m in members)
    assert all(p["identity"] <= 0.95 for p in rows(tmp_path / "c", "pairs"))
