from __future__ import annotations

import gzip

import pytest

from riboray.corpus import read_stockholm
from riboray.corpus.sample import SAMPLE_ALIGNMENTS
from riboray.errors import StockholmError

ONE = """# STOCKHOLM 1.0

#=GF AC   RF99999
#=GF ID   toy
#=GF AU   Somebody \xe9

a/1-4        AC.GU
#=GR a/1-4 SS <..>.
b/2-5        ACU-U

#=GC SS_cons <..>.
//
"""
WRAPPED = """# STOCKHOLM 1.0

a  ACG
b  A-G

a  U
b  C
//
"""


def write(tmp_path, text, name="x.sto", compress=False):
    path = tmp_path / name
    data = text.encode("latin-1")
    path.write_bytes(gzip.compress(data) if compress else data)
    return path


@pytest.mark.parametrize("compress", [False, True])
def test_many_alignments_in_one_file(tmp_path, compress):
    first, second = read_stockholm(write(tmp_path, ONE + "\n" + WRAPPED, compress=compress))
    assert (first.accession, first.name, first.number) == ("RF99999", "toy", 1)
    assert first.ids == ("a/1-4", "b/2-5")
    assert first.rows == ("AC-GU", "ACU-U")
    assert first.ss_cons == "<..>."
    assert (second.accession, second.number) == ("x-2", 2)
    assert second.rows == ("ACGU", "A-GC")
    assert second.ss_cons is None


def test_windows_line_ends(tmp_path):
    (family,) = read_stockholm(write(tmp_path, ONE.replace("\n", "\r\n")))
    assert family.rows == ("AC-GU", "ACU-U")
    assert family.accession == "RF99999"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        (">a\nACGU\n", "not Stockholm: starts with '>a'"),
        (ONE.replace("//\n", ""), "truncated"),
        (ONE + WRAPPED.replace("//\n", ""), "record 2: ends without '//'"),
        (ONE.replace("ACU-U", "ACU-"), "record 1: cannot be parsed"),
        (ONE + WRAPPED.replace("b  C", "b  CC"), "record 2: cannot be parsed"),
        (ONE.replace("ACU-U", "AC\0-U"), "NUL"),
    ],
)
def test_damage_names_the_alignment(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(StockholmError, match=message) as caught:
        list(read_stockholm(path))
    assert "\n" not in str(caught.value)


def test_truncated_gzip(tmp_path):
    path = write(tmp_path, ONE * 500, compress=True)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StockholmError, match="truncated"):
        list(read_stockholm(path))


def test_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "missing.sto"):
        with pytest.raises(StockholmError, match="no such file|is a directory"):
            list(read_stockholm(path))


def test_the_bundled_sample():
    families = {f.accession: f for f in read_stockholm(SAMPLE_ALIGNMENTS)}
    sizes = {name: len(f.ids) for name, f in families.items()}
    assert sizes == {
        "RF00005": 967,
        "RF00006": 75,
        "RF01185": 62,
        "RF01855": 64,
        "RF00003": 100,
        "RF00004": 77,
        "RF00012": 21,
        "RNaseP_bact": 340,
        "SRP_euk": 37,
    }
    for family in families.values():
        assert {len(row) for row in family.rows} == {len(family.ss_cons)}


@pytest.mark.devdata
def test_rfam(devdata):
    families = list(read_stockholm(devdata / "rfam" / "Rfam.seed.gz"))
    assert len(families) == 3908
    assert all(f.ss_cons for f in families)
