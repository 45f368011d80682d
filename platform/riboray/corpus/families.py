"""Seed alignments as pairs to learn from, members to hold out, and structures."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from riboray.alphabet import IUPAC_NUCLEOTIDES, normalise
from riboray.corpus.records import MEMBER_SCHEMA, PAIR_SCHEMA, Reject, hash64, why_rejected
from riboray.corpus.screening import Rules
from riboray.corpus.stockholm import FamilyAlignment
from riboray.corpus.structure import base_pairs, project_structure

__all__ = [
    "ORIGIN_SCHEMA",
    "WITHOUT_GAPS",
    "Families",
    "PairRules",
    "choose_held_out",
    "draw_pairs",
    "pairs_of",
    "row_bytes",
]

GAPS = "-.~_"
_GAP_BYTES = np.frombuffer(GAPS.encode(), dtype=np.uint8)
WITHOUT_GAPS = str.maketrans("", "", GAPS)

_AMBIGUITY_CODES = [code for code in IUPAC_NUCLEOTIDES if code not in "ACGU"]

#: Pairs of a large family that are looked at, for each that is wanted, when identity is limited.
_CANDIDATES = 50

ORIGIN_SCHEMA = MEMBER_SCHEMA.append(pa.field("file", pa.string())).append(
    pa.field("record", pa.int64())
)
"""Members with the file and the number of the alignment that they come from."""

Rows = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class PairRules:
    """Which pairs of a family are drawn; the fields are those of `IngestConfig`."""

    per_family: int
    min_identity: float = 0.0
    max_identity: float = 1.0
    seed: int = 0


@dataclass
class Families:
    """What seed alignments hold, as it comes together file by file.

    Attributes
    ----------
    rules, pair_rules : Rules, PairRules
        What is taken.
    counts : Counter
        Families and rows, read and by outcome.
    rejects : list of Reject
        Families and rows that are left out.
    pairs, members : list of pyarrow.Table
        One table a family.
    warnings : list of str
        What a user should know.
    matched : set of str
        Those names of families to exclude that a family has.
    sequences : list of tuple
        File, family number, accession, name, id, sequence and whether the family is excluded, of
        every row.
    """

    rules: Rules
    pair_rules: PairRules
    counts: Counter[str] = field(default_factory=Counter)
    rejects: list[Reject] = field(default_factory=list)
    pairs: list[pa.Table] = field(default_factory=list)
    members: list[pa.Table] = field(default_factory=list)
    sequences: list[tuple[str, int, str, str, str, str, bool]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    matched: set[str] = field(default_factory=set)
    _accessions: set[str] = field(default_factory=set)

    @property
    def usable(self) -> list[str]:
        """Accessions of families that give pairs, sorted."""
        return sorted(table["family"][0].as_py() for table in self.pairs)

    def _leave_out(self, kind: str, outcome: str, where: tuple[str, int, str], why: str) -> None:
        self.counts[f"{kind}_{outcome}"] += 1
        self.rejects.append(Reject(*where, outcome.removesuffix("s"), why))

    def add(self, file: str, family: FamilyAlignment) -> None:
        """Take one seed alignment."""
        accession = family.accession
        where = (file, family.number, accession)
        self.counts["families_read"] += 1
        excluded = bool({accession, family.name} & set(self.rules.excluded_families))
        self.matched |= {accession, family.name} & set(self.rules.excluded_families)
        texts = [normalise(row.translate(WITHOUT_GAPS)) for row in family.rows]
        for name, text in zip(family.ids, texts, strict=True):
            entry = (file, family.number, accession, family.name, name, text, excluded)
            self.sequences.append(entry)
        again = accession in self._accessions
        self._accessions.add(accession)
        kept = self._usable_rows(file, family, texts, excluded, again)
        if again:
            why = "a family of this accession stands above"
            self._leave_out("families", "rejected", where, why)
            return
        if excluded:
            self._leave_out("families", "filtered", where, "the family is excluded")
            return
        rows = np.array([row_bytes(family.rows[k]) for k in kept], dtype=np.uint8)
        self._add_members(file, family, kept, texts, rows)
        if len(kept) < 2:
            why = f"{len(kept)} usable sequence{'s'[: len(kept) != 1]}; a pair needs two"
            self._leave_out("families", "rejected", where, why)
            return
        table = draw_pairs(accession, [family.ids[k] for k in kept], rows, self.pair_rules)
        if not len(table):
            rules = self.pair_rules
            span = f"{rules.min_identity:g} to {rules.max_identity:g}"
            self._leave_out("families", "filtered", where, f"no pair of identity {span}")
            return
        self.counts["families_kept"] += 1
        self.pairs.append(table)

    def _usable_rows(
        self,
        file: str,
        family: FamilyAlignment,
        texts: list[str],
        excluded: bool,
        again: bool,
    ) -> list[int]:
        seen: set[str] = set()
        kept = []
        rules = self.rules
        for number, (name, text) in enumerate(zip(family.ids, texts, strict=True), start=1):
            where = (file, family.number, f"{family.accession}/{name}")
            self.counts["rows_read"] += 1
            keep = rules.ambiguity == "keep"
            why = why_rejected(text, rules.min_length, rules.max_length, ambiguity=keep)
            codes = sum(text.count(code) for code in _AMBIGUITY_CODES)
            if excluded:
                self._leave_out("rows", "filtered", where, f"row {number}: the family is excluded")
            elif again:
                self._leave_out("rows", "rejected", where, f"row {number}: its family stands above")
            elif why is not None:
                short = "shorter than" in why
                outcome = "filtered" if short else "rejected"
                self._leave_out("rows", outcome, where, f"row {number}: {why}")
            elif codes > rules.max_ambiguity * len(text):
                self._leave_out(
                    "rows", "filtered", where, f"row {number}: too many ambiguity codes"
                )
            elif text in seen:
                self._leave_out("rows", "duplicates", where, f"row {number}: sequence stands above")
            else:
                seen.add(text)
                kept.append(number - 1)
                self.counts["rows_kept"] += 1
        return kept

    def _add_members(
        self, file: str, family: FamilyAlignment, kept: list[int], texts: list[str], rows: Rows
    ) -> None:
        if not kept:
            return
        structures: list[tuple[str | None, str | None]] = [(None, None)] * len(kept)
        if family.ss_cons is not None:
            try:
                partner = base_pairs(family.ss_cons)
                occupied = ~np.isin(rows, _GAP_BYTES)
                structures = [project_structure(o, family.ss_cons, partner) for o in occupied]
            except ValueError as error:
                self.warnings.append(f"{family.accession}: SS_cons is not used: {error}")
        columns = {
            "family": [family.accession] * len(kept),
            "name": [family.name] * len(kept),
            "id": [family.ids[k] for k in kept],
            "sha256_64": pa.array([hash64(texts[k]) for k in kept], pa.uint64()),
            "sequence": [texts[k] for k in kept],
            "dot_bracket": pa.array([s[0] for s in structures], pa.string()),
            "ss_classes": pa.array([s[1] for s in structures], pa.string()),
            "aligned": [row.tobytes().decode("ascii") for row in rows],
            "file": [file] * len(kept),
            "record": [family.number] * len(kept),
        }
        self.members.append(pa.table(columns, schema=ORIGIN_SCHEMA))


def choose_held_out(families: Sequence[str], share: float, seed: int) -> list[str]:
    """Choose families for validation by hash: the same whatever else there is."""
    wanted = round(share * len(families))
    if share > 0:
        wanted = max(wanted, 1)
    by_hash = sorted(families, key=lambda name: hash64(f"{seed}:{name}"))
    return sorted(by_hash[: min(wanted, len(families) - 1)])


def row_bytes(row: str) -> Rows:
    """Return an aligned row as bytes, normalised, every gap a dash."""
    letters = np.frombuffer(normalise(row).encode("latin-1", "replace"), dtype=np.uint8).copy()
    letters[np.isin(letters, _GAP_BYTES)] = ord("-")
    return letters


def draw_pairs(family: str, ids: list[str], rows: Rows, rules: PairRules) -> pa.Table:
    """Draw pairs without replacement, the same for the same seed and family."""
    count = len(ids)
    total = count * (count - 1) // 2
    limited = rules.min_identity > 0 or rules.max_identity < 1
    look_at = rules.per_family * (_CANDIDATES if limited else 1)
    if total <= look_at:
        chosen = np.array(list(itertools.combinations(range(count), 2)), dtype=np.int64)
        if limited:  # in an order of chance: the cap must not favour the first members
            generator = np.random.default_rng([rules.seed, hash64(family)])
            chosen = chosen[generator.permutation(total)]
    else:
        generator = np.random.default_rng([rules.seed, hash64(family)])
        numbers = generator.choice(total, size=look_at, replace=False)
        chosen = pairs_of(numbers if limited else np.sort(numbers), count)
    identity = _identities(rows, chosen)
    fits = (identity >= rules.min_identity) & (identity <= rules.max_identity)
    chosen = chosen[fits][: rules.per_family]
    chosen = chosen[np.lexsort((chosen[:, 1], chosen[:, 0]))]
    return _pair_table(family, ids, rows, chosen)


def pairs_of(numbers: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return the pairs i < j of ``count`` members with the given numbers, in lexicographic order.

    Returns
    -------
    ndarray, shape=(n, 2), dtype=int64
    """
    firsts = np.arange(count, dtype=np.int64)
    before = firsts * (2 * count - firsts - 1) // 2  # pairs whose first member is below i
    i = np.searchsorted(before, numbers, side="right") - 1
    return np.stack([i, i + 1 + numbers - before[i]], axis=1)


@njit(nogil=True, cache=True)
def _identities(rows: Rows, pairs: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return identical columns over columns without a gap; 0 if there are none."""
    out = np.zeros(len(pairs), dtype=np.float32)
    for k in range(len(pairs)):
        i, j = pairs[k, 0], pairs[k, 1]
        same = both = 0
        for c in range(rows.shape[1]):
            a, b = rows[i, c], rows[j, c]
            if a != 45 and b != 45:
                both += 1
                same += a == b
        if both:
            out[k] = np.float32(np.float64(same) / np.float64(both))
    return out


@njit(nogil=True, cache=True)
def _gapped(
    rows: Rows, pairs: NDArray[np.int64], out: NDArray[np.uint8], sizes: NDArray[np.int32]
) -> None:
    """Write both rows of each pair without the columns that are gaps in both.

    ``sizes`` gets columns, nucleotides of a, nucleotides of b.
    """
    for k in range(len(pairs)):
        i, j = pairs[k, 0], pairs[k, 1]
        used = left = right = 0
        for c in range(rows.shape[1]):
            a, b = rows[i, c], rows[j, c]
            if a != 45 or b != 45:
                out[k, 0, used] = a
                out[k, 1, used] = b
                used += 1
                left += a != 45
                right += b != 45
        sizes[k, 0], sizes[k, 1], sizes[k, 2] = used, left, right


def _pair_table(family: str, ids: list[str], rows: Rows, pairs: NDArray[np.int64]) -> pa.Table:
    gapped = np.empty((len(pairs), 2, rows.shape[1]), dtype=np.uint8)
    sizes = np.zeros((len(pairs), 3), dtype=np.int32)
    _gapped(rows, pairs, gapped, sizes)
    texts: list[list[Any]] = [
        [gapped[k, side, : sizes[k, 0]].tobytes().decode() for k in range(len(pairs))]
        for side in (0, 1)
    ]
    columns = {
        "family": [family] * len(pairs),
        "id_a": [ids[i] for i in pairs[:, 0]],
        "id_b": [ids[j] for j in pairs[:, 1]],
        "aligned_a": texts[0],
        "aligned_b": texts[1],
        "length_a": sizes[:, 1],
        "length_b": sizes[:, 2],
        "identity": _identities(rows, pairs),
    }
    return pa.table(columns, schema=PAIR_SCHEMA)
