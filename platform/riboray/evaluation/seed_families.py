"""Members of seed families to measure on: chosen by hash, so that everybody chooses the same."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from riboray.corpus.families import row_bytes
from riboray.corpus.stockholm import FamilyAlignment, read_stockholm
from riboray.corpus.structure import base_pairs, project_structure
from riboray.errors import ConfigError, StockholmError

__all__ = ["Member", "draw_members", "in_hash_order", "one_of_each", "usable_families"]

_GAP = ord("-")


class Member(NamedTuple):
    """A sequence of a seed alignment.

    Attributes
    ----------
    id : str
        Its name in the alignment.
    sequence : str
        A, C, G and U.
    classes : str
        Digit of each nucleotide's structure class (`riboray.corpus.structure.SS_CLASSES`), all 0
        where the alignment has no structure.
    """

    id: str
    sequence: str
    classes: str


def usable_families(
    paths: Iterable[str],
    *,
    only: Collection[str] = (),
    without: Collection[str] = (),
    least: int = 5,
    shortest: int = 20,
    longest: int = 440,
) -> dict[str, list[Member]]:
    """Read families of Stockholm files, with the members that any model can embed.

    Parameters
    ----------
    paths : iterable of str
        Files, plain or gzip.
    only, without : collection of str
        Accessions or names to take, if there are any, and to leave out.
    least : int
        Different sequences that a family has at least; others are left out, unless they are in
        ``only``.
    shortest, longest : int
        Lengths, in nucleotides. Sequences with other letters than A, C, G and U are left out.

    Returns
    -------
    dict of str to list of Member
        By accession; of each different sequence the first.

    Raises
    ------
    ConfigError
        If a family of ``only`` is not there, or no family is left.
    StockholmError
        If a file cannot be read.
    """
    found: dict[str, list[Member]] = {}
    wanted, seen = set(only), set[str]()
    for path in paths:
        for family in read_stockholm(path):
            names = {family.accession, family.name}
            seen |= names
            if (wanted and not names & wanted) or names & set(without):
                continue
            members: dict[str, Member] = {}
            for member in _members(path, family):
                fits = shortest <= len(member.sequence) <= longest
                if fits and set(member.sequence) <= set("ACGU"):
                    members.setdefault(member.sequence, member)
            if len(members) >= (1 if wanted else least):
                found[family.accession] = list(members.values())
    if missing := sorted(wanted - seen):
        raise ConfigError(f"{', '.join(map(str, paths))}: no family called {missing[0]}")
    if not found:
        raise ConfigError(f"{', '.join(map(str, paths))}: no family has {least} usable sequences")
    return found


def _members(path: str, family: FamilyAlignment) -> Iterator[Member]:
    partner = None
    if family.ss_cons is not None:
        try:
            partner = base_pairs(family.ss_cons)
        except ValueError as error:
            reason = f"{family.accession}: SS_cons: {error}"
            raise StockholmError(path, reason, family.number) from error
    for name, row in zip(family.ids, family.rows, strict=True):
        letters = row_bytes(row)
        occupied = letters != _GAP
        sequence = letters[occupied].tobytes().decode("latin-1")
        classes = "0" * len(sequence)
        if partner is not None and family.ss_cons is not None:
            _, classes = project_structure(occupied, family.ss_cons, partner)
        yield Member(name, sequence, classes)


def in_hash_order(accessions: Iterable[str]) -> list[str]:
    """Sort accessions by their sha256: an order by chance, the same for everybody."""
    return sorted(accessions, key=lambda name: hashlib.sha256(name.encode()).hexdigest())


def draw_members(
    families: Mapping[str, Sequence[Member]], chosen: Iterable[str], most: int, seed: int
) -> list[tuple[str, Member]]:
    """Draw at most so many members of each family, no sequence twice.

    Returns
    -------
    list of (str, Member)
        Accession and member; members in the order of their alignment.
    """
    generator, seen = np.random.default_rng(seed), set[str]()
    drawn: list[tuple[str, Member]] = []
    for accession in chosen:
        fresh = [member for member in families[accession] if member.sequence not in seen]
        seen |= {member.sequence for member in fresh}
        rows = np.sort(generator.permutation(len(fresh))[:most])
        drawn += [(accession, fresh[row]) for row in rows]
    return drawn


def one_of_each(drawn: Sequence[tuple[str, Member]], nucleotides: int) -> list[tuple[str, Member]]:
    """Take a member of each family in turn, until they have so many nucleotides together."""
    queues: dict[str, list[Member]] = {}
    for accession, member in drawn:
        queues.setdefault(accession, []).append(member)
    taken: list[tuple[str, Member]] = []
    while queues and nucleotides > 0:
        for accession in list(queues):
            member = queues[accession].pop(0)
            if not queues[accession]:
                del queues[accession]
            taken.append((accession, member))
            nucleotides -= len(member.sequence)
            if nucleotides <= 0:
                break
    return taken
