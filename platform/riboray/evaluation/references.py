"""Reference alignments of pairs: BRAliBase tables, Stockholm seeds, aligned FASTA."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from riboray.alignment.columns import AlignedColumns, aligned_columns
from riboray.alphabet import IUPAC_NUCLEOTIDES, normalise
from riboray.corpus.families import PairRules, draw_pairs, row_bytes
from riboray.corpus.fasta import read_fasta
from riboray.corpus.files import first_bytes, opened
from riboray.corpus.records import Reject
from riboray.corpus.stockholm import FamilyAlignment, read_stockholm
from riboray.errors import CorpusError, FastaError, InputError

__all__ = [
    "GAP_SIGNS",
    "PairRecord",
    "ReferencePair",
    "References",
    "pair_rows",
    "read_pair_table",
    "read_references",
]

GAP_SIGNS = str.maketrans(".~_", "---")
"""Other signs for a gap, to dashes."""

_LETTERS = frozenset(IUPAC_NUCLEOTIDES)
#: How BRAliBase 2.1 names reference alignments.
_BRALIBASE = re.compile(
    r"(?P<family>.+)\.apsi-(?P<apsi>\d+)\.sci-(?P<sci>-?\d+)\.no-\d+\.ref\.fa(\.gz)?"
)
#: What a table of pairs must have.
_COLUMNS = ("id_a", "id_b", "aligned_a", "aligned_b")


@dataclass(frozen=True)
class ReferencePair:
    """Two RNAs and how they should be aligned.

    Attributes
    ----------
    family : str
        Their family.
    id_a, id_b : str
        Their names; not unique.
    columns : AlignedColumns
        The sequences, upper case with U for T, and the reference alignment.
    identity : float
        Percent. ``apsi`` of a BRAliBase table where it is there; otherwise 100 times identical
        columns over columns without a gap.
    """

    family: str
    id_a: str
    id_b: str
    columns: AlignedColumns
    identity: float

    @property
    def sequences(self) -> tuple[str, str]:
        """The two sequences, without gaps."""
        return self.columns.sequence_a, self.columns.sequence_b


@dataclass
class References:
    """A set of reference alignments; ``read = len(pairs) + len(rejects)``.

    Attributes
    ----------
    pairs : list of ReferencePair
        Those that can be used, in the order of the input.
    rejects : list of Reject
        The others, with their reasons.
    """

    pairs: list[ReferencePair] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)

    @property
    def sequences(self) -> list[str]:
        """Every sequence once, sorted."""
        return sorted({text for pair in self.pairs for text in pair.sequences})


@dataclass(frozen=True)
class PairRecord:
    """A row of a table of aligned pairs, as it stands there.

    Attributes
    ----------
    number : int
        1-based, the header not counted.
    values : dict of str to str
        By column.
    """

    number: int
    values: dict[str, str]


def read_pair_table(path: str | Path) -> Iterator[PairRecord]:
    """Yield the rows of a tab-separated table of pairs, plain or gzip.

    It has a header with at least ``id_a``, ``id_b``, ``aligned_a`` and ``aligned_b``.

    Raises
    ------
    CorpusError
        If it has not, or a row has more or fewer fields than it.
    """
    number = 0
    with (
        opened(path, CorpusError, "a table", lambda: number + 1) as handle,
        io.TextIOWrapper(handle, encoding="utf-8") as text,
    ):
        try:
            rows = csv.DictReader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
            missing = [name for name in _COLUMNS if name not in (rows.fieldnames or ())]
            if missing:
                raise CorpusError(path, f"no column {', '.join(missing)} in its first line")
            for number, values in enumerate(rows, start=1):
                if None in values or None in values.values():
                    raise CorpusError(path, "another number of fields than the first line", number)
                yield PairRecord(number, values)
        except UnicodeDecodeError as error:
            raise CorpusError(path, "text is not UTF-8", number + 1) from error
        except csv.Error as error:
            raise CorpusError(path, f"not a tab-separated table ({error})", number + 1) from error
    if not number:
        raise CorpusError(path, "holds no pair")


def pair_rows(
    path: str | Path, number: int, row_a: str, row_b: str, kind: type[InputError] = CorpusError
) -> AlignedColumns:
    """Take two gapped rows apart.

    Raises
    ------
    InputError
        Of the given kind, if they differ in length, or one has no nucleotide or a character that
        is neither nucleotide nor gap.
    """
    rows = [normalise(row).translate(GAP_SIGNS) for row in (row_a, row_b)]
    if len(rows[0]) != len(rows[1]):
        reason = f"aligned rows differ in length: {len(rows[0])} and {len(rows[1])}"
        raise kind(path, reason, number)
    for row in rows:
        strange = sorted(set(row) - _LETTERS - {"-"})
        if strange:
            raise kind(path, f"{strange[0]!r} is neither a nucleotide nor a gap", number)
        if not row.strip("-"):
            raise kind(path, "an aligned row without a nucleotide", number)
    return aligned_columns(*rows)


def read_references(
    paths: Sequence[str],
    *,
    pairs_per_family: int = 20,
    max_length: int | None = None,
    ambiguity: bool = True,
    families: Collection[str] = (),
    seed: int = 0,
) -> References:
    """Read reference alignments.

    Parameters
    ----------
    paths : sequence of str
        Tab-separated tables (``family``, ``apsi`` optional; see `read_pair_table`), Stockholm files
        or aligned FASTA, plain or gzip; told apart by what they begin with. Or folders as
        BRAliBase 2.1 comes in, with ``FAMILY.apsi-NN.sci-NN.no-N.ref.fa`` at any depth.
    pairs_per_family : int
        Pairs drawn from an alignment of more than two RNAs.
    max_length : int, optional
        Leave out pairs with a longer sequence.
    ambiguity : bool
        Whether pairs with other letters than A, C, G and U are kept.
    families : collection of str
        Accessions or names to take, if any are given; others do not count as read.
    seed : int
        Of the draw.

    Raises
    ------
    InputError
        If a file cannot be used; the message names file and record.
    """
    found = References()
    rules = PairRules(per_family=pairs_per_family, seed=seed)
    for path in paths:
        count = 0
        for file, number, pair in _read_all(path, rules, families):
            count += 1
            reason = _why_left_out(pair, max_length, ambiguity)
            if reason is None:
                found.pairs.append(pair)
            else:
                name = f"{pair.id_a} {pair.id_b}"
                found.rejects.append(Reject(file, number, name, "filtered", reason))
        if not count:
            which = " of the families asked for" if families else ""
            raise CorpusError(path, f"holds no pair of aligned sequences{which}")
    if not found.pairs:
        commonest = Counter(reject.reason for reject in found.rejects).most_common(1)
        why = f" ({commonest[0][0]})" if commonest else ""
        raise CorpusError(", ".join(map(str, paths)) or "no file", f"no pair can be used{why}")
    return found


def _why_left_out(pair: ReferencePair, max_length: int | None, ambiguity: bool) -> str | None:
    longest = max(map(len, pair.sequences))
    if max_length is not None and longest > max_length:
        return f"a sequence is longer than {max_length}"
    if not ambiguity and not set("".join(pair.sequences)) <= set("ACGU"):
        return "a sequence has other letters than A, C, G and U"
    return None


def _read_all(
    path: str, rules: PairRules, families: Collection[str]
) -> Iterator[tuple[str, int, ReferencePair]]:
    """Yield the pairs of a file, or of a folder of BRAliBase, with file and record."""
    files = [path]
    if Path(path).is_dir():
        named = sorted(file for file in Path(path).rglob("*.ref.fa*") if file.is_file())
        files = [str(file) for file in named if _BRALIBASE.fullmatch(file.name)]
        if not files:
            raise CorpusError(path, "holds no file named as FAMILY.apsi-NN.sci-NN.no-N.ref.fa")
    for file in files:
        found = _BRALIBASE.fullmatch(Path(file).name)
        for number, pair in _read(file, rules, families):
            identity = float(found["apsi"]) if found else pair.identity
            yield file, number, replace(pair, identity=identity)


def _read(
    path: str, rules: PairRules, families: Collection[str]
) -> Iterator[tuple[int, ReferencePair]]:
    start = first_bytes(path, CorpusError, "a file of alignments")
    if start.startswith(b"# STOCKHOLM"):
        for family in read_stockholm(path):
            if not families or {family.accession, family.name} & set(families):
                yield from _pairs_of(path, family, rules)
    elif start.startswith(b">"):
        rows = _aligned_fasta(path)
        if not families or rows.accession in families:
            yield from _pairs_of(path, rows, rules)
    else:
        for number, pair in _table(path):
            if not families or pair.family in families:
                yield number, pair


def _table(path: str) -> Iterator[tuple[int, ReferencePair]]:
    for record in read_pair_table(path):
        values = record.values
        columns = pair_rows(path, record.number, values["aligned_a"], values["aligned_b"])
        identity = _identity(columns)
        if "apsi" in values:
            try:
                identity = float(values["apsi"])
            except ValueError as error:
                reason = f"apsi is {values['apsi']!r}, not a number"
                raise CorpusError(path, reason, record.number) from error
        family = values.get("family") or "?"
        yield (
            record.number,
            ReferencePair(family, values["id_a"], values["id_b"], columns, identity),
        )


def _identity(columns: AlignedColumns) -> float:
    """Percent of the columns without a gap that are identical."""
    aligned = np.flatnonzero(columns.partners >= 0)
    if not len(aligned):
        return 0.0
    a = np.frombuffer(columns.sequence_a.encode(), np.uint8)[aligned]
    b = np.frombuffer(columns.sequence_b.encode(), np.uint8)[columns.partners[aligned]]
    return 100.0 * float((a == b).mean())


def _aligned_fasta(path: str) -> FamilyAlignment:
    """Read an aligned FASTA file as one family, named after the file, or as BRAliBase names it."""
    ids: list[str] = []
    rows: list[str] = []
    for record in read_fasta(path):
        row = normalise(record.sequence).translate(GAP_SIGNS)
        if rows and len(row) != len(rows[0]):
            reason = f"{len(row)} columns, but the first record has {len(rows[0])}"
            raise FastaError(path, f"not an alignment: {reason}", record.number)
        ids.append(record.id)
        rows.append(row)
    if len(rows) < 2:
        raise FastaError(path, "one sequence only: an alignment has two or more")
    named = _BRALIBASE.fullmatch(Path(path).name)
    suffix = r"\.(fa|fasta|afa|aln|mfa)?(\.gz)?$"
    name = named["family"] if named else re.sub(suffix, "", Path(path).name)
    return FamilyAlignment(1, name, name, tuple(ids), tuple(rows), None)


def _pairs_of(
    path: str, family: FamilyAlignment, rules: PairRules
) -> Iterator[tuple[int, ReferencePair]]:
    """Draw pairs of an alignment's rows, the same for the same seed and accession."""
    rows = np.array([row_bytes(row) for row in family.rows], dtype=np.uint8)
    table: pa.Table = draw_pairs(family.accession, list(family.ids), rows, rules)
    for values in table.to_pylist():
        rows_ab = values["aligned_a"], values["aligned_b"]
        columns = pair_rows(path, family.number, *rows_ab)
        identity = 100.0 * values["identity"]
        names = values["id_a"], values["id_b"]
        yield family.number, ReferencePair(family.accession, *names, columns, identity)
