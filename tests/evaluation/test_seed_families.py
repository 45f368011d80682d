"""Families and members drawn from seed alignments."""

from __future__ import annotations

import gzip
import hashlib

import pytest

from riboray.corpus.sample import SAMPLE_ALIGNMENTS
from riboray.errors import ConfigError, StockholmError
from riboray.evaluation.seed_families import (
    Member,
    draw_members,
    in_hash_order,
    one_of_each,
    usable_families,
)


def stockholm(path, *families):
    text = ""
    for accession, rows, structure in families:
        text += f"# STOCKHOLM 1.0\n#=GF AC   {accession}\n#=GF ID   name-{accession}\n"
        text += "".join(f"{name}  {row}\n" for name, row in rows)
        text += (f"#=GC SS_cons  {structure}\n" if structure else "") + "//\n"
    path.write_bytes(gzip.compress(text.encode()))
    return str(path)


ROWS = [("a", "GGAA-ACC"), ("b", "GGA.GACC"), ("c", "GGAAAACC"), ("d", "GGAA-ACC")]


def test_members_have_the_structure_of_their_alignment(tmp_path):
    path = stockholm(tmp_path / "x.gz", ("RF1", ROWS, "<<____>>"), ("RF2", ROWS, None))
    found = usable_families([path], least=3, shortest=1)
    assert [m.id for m in found["RF1"]] == ["a", "b", "c"], "of equal sequences the first"
    assert found["RF1"][0] == Member("a", "GGAAACC", "2266622")
    assert {m.classes for m in found["RF2"]} == {"0000000", "00000000"}


def test_what_is_left_out(tmp_path):
    rows = [*ROWS, ("n", "GGANAACC"), ("short", "GG------")]
    path = stockholm(tmp_path / "x.gz", ("RF1", rows, "<<____>>"), ("RF2", ROWS[:2], None))
    found = usable_families([path], least=2, shortest=3, longest=7)
    assert {name: [m.id for m in members] for name, members in found.items()} == {
        "RF1": ["a", "b"],
        "RF2": ["a", "b"],
    }
    assert list(usable_families([path], least=2, shortest=1, without=["name-RF2"])) == ["RF1"]
    assert list(usable_families([path], least=9, shortest=1, only=["name-RF2"])) == ["RF2"]
    with pytest.raises(ConfigError, match="no family called RF9"):
        usable_families([path], only=["RF1", "RF9"], shortest=1)
    with pytest.raises(ConfigError, match="no family has 5 usable sequences"):
        usable_families([path])


def test_a_structure_that_does_not_close_is_named(tmp_path):
    path = stockholm(tmp_path / "x.gz", ("RF1", ROWS, "<<_____>"))
    with pytest.raises(StockholmError, match=r"x\.gz.*RF1: SS_cons"):
        usable_families([path], shortest=1, least=1)


def test_draws():
    families = {
        "RF1": [Member(f"a{k}", "ACGU" * (k + 1), "1111" * (k + 1)) for k in range(5)],
        "RF2": [Member("same", "ACGU", "1111"), Member("b", "GG", "22")],
    }
    drawn = draw_members(families, ["RF1", "RF2"], 5, seed=1)
    assert [m.id for _, m in drawn] == ["a0", "a1", "a2", "a3", "a4", "b"], "no sequence twice"
    fewer = draw_members(families, ["RF1", "RF2"], 2, seed=1)
    assert fewer == draw_members(families, ["RF1", "RF2"], 2, seed=1)
    assert [family for family, _ in fewer] == ["RF1", "RF1", "RF2"]
    turns = [m.id for _, m in one_of_each(drawn, 10)]
    assert turns == ["a0", "b", "a1"], "4 + 2 + 8 nucleotides are 10 or more"
    assert one_of_each(drawn, 10**6) != drawn
    assert sorted(one_of_each(drawn, 10**6)) == sorted(drawn)


def test_an_order_that_everybody_has():
    names = [f"RF{k:05}" for k in range(50)]
    by_hash = in_hash_order(names)
    assert by_hash == in_hash_order(reversed(names)) != names
    digests = [hashlib.sha256(name.encode()).hexdigest() for name in by_hash]
    assert digests == sorted(digests)


def test_the_bundled_sample():
    found = usable_families([SAMPLE_ALIGNMENTS])
    assert len(found) == 9
    for members in found.values():
        assert all(len(m.sequence) == len(m.classes) for m in members)
        assert len({m.sequence for m in members}) == len(members)
