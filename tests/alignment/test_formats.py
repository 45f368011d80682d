from __future__ import annotations

import io

import numpy as np
import pytest
from Bio import AlignIO

from riboray.alignment.formats import PairView, aligned_fasta, clustal_view, stockholm


@pytest.fixture
def view():
    partners = np.array([0, 1, -1, 2, 3], np.int32)
    match = np.array([1.0, 0.2, 0.0, 0.9, 0.6], np.float32)
    return PairView.of(
        ("one", "two"), ("ACGUA", "AGUC"), partners, match, "global", ("(...)", None)
    )


def test_clustal_view(view):
    assert clustal_view(view).splitlines() == [
        "            (...)",
        "one         ACGUA  5",
        "two         AG-UC  4",
        "            *. *:",
    ]
    blocks = clustal_view(view, width=2).split("\n\n")
    assert len(blocks) == 3
    assert blocks[1].splitlines()[1:3] == ["one         GU  4", "two         -U  3"]


def test_colour_only_where_asked(view):
    assert "\x1b" not in clustal_view(view)
    assert "\x1b[32mA\x1b[0m" in clustal_view(view, colour=True)


def test_unaligned_ends_are_lower_case():
    partners = np.array([-1, 1, 2, -1], np.int32)
    match = np.ones(4, np.float32)
    view = PairView.of(("a", "b"), ("CACU", "GACG"), partners, match, "local")
    text = clustal_view(view).splitlines()
    assert text[0].split()[1].replace("-", "") == "cACu"
    assert text[1].split()[1].replace("-", "") == "gACg"
    empty = np.full(4, -1, np.int32)
    nothing = PairView.of(("a", "b"), ("CACU", "GACG"), empty, match, "local")
    assert nothing.inside == (0, 0)


def test_other_programs_read_what_is_written(view):
    (fasta,) = AlignIO.parse(io.StringIO(aligned_fasta(view)), "fasta")
    assert [str(r.seq) for r in fasta] == ["ACGUA", "AG-UC"]
    (read,) = AlignIO.parse(io.StringIO(stockholm(view, 3.5)), "stockholm")
    assert [str(r.seq) for r in read] == ["ACGUA", "AG-UC"]
    assert read[0].letter_annotations["secondary_structure"] == "(...)"
