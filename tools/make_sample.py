"""Make the bundled sample from the test suite of Infernal, as Debian's `infernal` ships it.

    apt-get install infernal
    python tools/make_sample.py /usr/share/doc/infernal/examples/testsuite

writes `platform/riboray/corpus/sample/families.sto.gz` and `sequences.fa.gz`. The output depends
on nothing but the input files: the same package gives the same bytes.
"""

from __future__ import annotations

import gzip
import io
import sys
from pathlib import Path

from riboray.alphabet import IUPAC_NUCLEOTIDES, normalise
from riboray.corpus.stockholm import FamilyAlignment, read_stockholm

SAMPLE = Path(__file__).parents[1] / "platform" / "riboray" / "corpus" / "sample"

#: File, and the name to give its alignment where the file gives none.
FAMILIES = {
    "4.sto": None,  # tRNA, Vault, snR75, Plant_SRP (Rfam seeds)
    "3.4.12.rf.stk": None,  # U1, U2, U3 (Rfam seeds)
    "rnaseP-eubact.sto": "RNaseP_bact",
    "srp-euk.sto": "SRP_euk",
}
#: Alignments whose sequences join the corpus without their alignment.
SEQUENCES_ONLY = {"tRNA1415G.sto": "tRNA_Sprinzl"}


def read(folder: Path, files: dict[str, str | None]) -> list[tuple[str, FamilyAlignment]]:
    """Return (accession, alignment) of every alignment in ``files``."""
    return [
        (name or family.accession, family)
        for file, name in files.items()
        for family in read_stockholm(folder / file)
    ]


def stockholm(accession: str, family: FamilyAlignment) -> str:
    """Write one alignment, all columns in one block, gaps as dashes."""
    width = max(map(len, ("#=GC SS_cons", *family.ids))) + 2
    name = family.name if family.accession == accession else accession
    lines = ["# STOCKHOLM 1.0", "", f"#=GF AC   {accession}", f"#=GF ID   {name}", ""]
    for identifier, row in zip(family.ids, family.rows, strict=True):
        lines.append(f"{identifier:<{width}}{normalise(row).replace('.', '-')}")
    if family.ss_cons is not None:
        lines.append(f"{'#=GC SS_cons':<{width}}{family.ss_cons}")
    return "\n".join([*lines, "//", ""])


def write(path: Path, text: str) -> None:
    """Write gzip without a time stamp, so that equal text gives equal bytes."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=9, mtime=0, filename="") as handle:
        handle.write(text.encode())
    path.write_bytes(buffer.getvalue())
    print(f"{path}: {path.stat().st_size:,} bytes")


def main(folder: Path) -> None:
    """Make both files."""
    families = read(folder, FAMILIES)
    write(SAMPLE / "families.sto.gz", "".join(stockholm(a, f) for a, f in families))
    records: dict[str, str] = {}
    for accession, family in families + read(folder, dict(SEQUENCES_ONLY)):
        for identifier, row in zip(family.ids, family.rows, strict=True):
            sequence = "".join(s for s in normalise(row) if s in IUPAC_NUCLEOTIDES)
            records.setdefault(sequence, f">{accession}|{identifier}")
    write(SAMPLE / "sequences.fa.gz", "".join(f"{h}\n{s}\n" for s, h in records.items()))
    print(f"{len(families)} families, {len(records)} distinct sequences")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
