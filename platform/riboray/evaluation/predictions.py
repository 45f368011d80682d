"""Alignments that another program made, from its files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from riboray.alignment.columns import aligned_columns
from riboray.alphabet import normalise
from riboray.corpus.fasta import read_fasta
from riboray.corpus.files import first_bytes
from riboray.corpus.stockholm import read_stockholm
from riboray.errors import CorpusError, FastaError
from riboray.evaluation.references import (
    GAP_SIGNS,
    ReferencePair,
    pair_rows,
    read_pair_table,
)
from riboray.evaluation.scores import Aligned

__all__ = ["read_predictions"]


@dataclass(frozen=True)
class _Alignment:
    """Rows of one alignment, by the sequence that each holds."""

    rows: dict[str, str]
    seconds: float = float("nan")


def read_predictions(path: str | Path, pairs: Sequence[ReferencePair]) -> Aligned:
    """Find the alignment of every pair among those that a program wrote.

    Parameters
    ----------
    path : str or Path
        A tab-separated table (``id_a id_b aligned_a aligned_b``, ``cpu_seconds`` optional),
        Stockholm, aligned FASTA, or a folder of such files. Rows of a FASTA file are one alignment
        if all have one length; else they are alignments of two, row by row. Pairs are found by
        their sequences: names may be others, letters lower-case, T for U. Of an alignment of many
        RNAs, two rows are taken, and columns that are gaps in both do not count.
    pairs : sequence of ReferencePair
        The reference.

    Returns
    -------
    Aligned
        In the order of the reference. CPU seconds are NaN where the file tells none.

    Raises
    ------
    InputError
        If a pair of the reference is not there, or a file cannot be used.
    """
    top = Path(path)
    files = sorted(p for p in top.rglob("*") if p.is_file()) if top.is_dir() else [top]
    found: list[_Alignment] = [a for file in files for a in _read(file)]
    holders: defaultdict[str, list[int]] = defaultdict(list)
    for number, alignment in enumerate(found):
        for text in alignment.rows:
            holders[text].append(number)
    partners, seconds, missing = [], [], []
    for pair in pairs:
        a, b = pair.sequences
        both = sorted(set(holders[a]) & set(holders[b]))
        if not both:
            missing.append(pair)
            continue
        alignment = found[both[0]]
        partners.append(aligned_columns(alignment.rows[a], alignment.rows[b]).partners)
        seconds.append(alignment.seconds)
    if missing:
        first = missing[0]
        raise CorpusError(
            path,
            f"aligns {len(pairs) - len(missing):,} of the reference's {len(pairs):,} pairs; no "
            f"alignment holds the sequences of {first.id_a} and {first.id_b} ({first.family})",
        )
    return Aligned(partners, np.array(seconds))


def _read(path: Path) -> Iterator[_Alignment]:
    start = first_bytes(path, CorpusError, "a file of alignments")
    if start.startswith(b"# STOCKHOLM"):
        for family in read_stockholm(path):
            yield _Alignment(dict(map(_by_sequence, family.rows)))
    elif start.startswith(b">"):
        yield from _read_fasta(path)
    else:
        for record in read_pair_table(path):
            values = record.values
            rows = values["aligned_a"], values["aligned_b"]
            pair_rows(path, record.number, *rows)
            spent = values.get("cpu_seconds") or "nan"
            try:
                yield _Alignment(dict(map(_by_sequence, rows)), float(spent))
            except ValueError as error:
                reason = f"cpu_seconds is {spent!r}, not a number"
                raise CorpusError(path, reason, record.number) from error


def _read_fasta(path: Path) -> Iterator[_Alignment]:
    records = list(read_fasta(path))
    rows = [record.sequence for record in records]
    if len(rows) > 1 and len(set(map(len, rows))) == 1:
        yield _Alignment(dict(map(_by_sequence, rows)))
        return
    if len(rows) % 2:
        reason = "rows of several lengths, and an odd number of them: no alignments of two"
        raise FastaError(path, reason, records[-1].number)
    for first, second in zip(records[::2], records[1::2], strict=True):
        texts = first.sequence, second.sequence
        pair_rows(path, second.number, *texts, kind=FastaError)
        yield _Alignment(dict(map(_by_sequence, texts)))


def _by_sequence(row: str) -> tuple[str, str]:
    gapped = normalise(row).translate(GAP_SIGNS)
    return gapped.replace("-", ""), gapped
