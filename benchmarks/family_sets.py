"""Labelled sets of Rfam families to measure clustering on, and families to keep out of training.

    python -m benchmarks.family_sets Rfam.seed.gz LEFT_OUT.txt FOLDER

An optional development benchmark. LEFT_OUT lists accessions that are not used (those of BRAliBase
and of their clans). Of families with at least five different sequences of 20 to 440 nt (A, C, G, U
only), ordered by the sha256 of their accessions, the first hundred are ``held``, the next hundred
``dev``: choices are made on ``dev``, figures told are those of ``held``. Written are

- ``held.txt``, ``dev.txt``: accessions, one a line;
- ``held.fa``, ``dev.fa``: at most ten sequences of each, drawn with a fixed seed, ``>id family``;
- ``held-remote.fa``, ``dev-remote.fa``: of up to sixty members, at most ten of which no two are
  more than 60 % identical (identical nucleotides less gaps of a global alignment, over the shorter
  length); families that keep fewer than two are left out.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from riboray.alignment.columns import GapPenalties
from riboray.evaluation.seed_families import (
    Member,
    draw_members,
    in_hash_order,
    usable_families,
)
from riboray.evaluation.similarities import alignment_scores, nucleotide_rows

MOST, LOOKED_AT, REMOTE = 10, 60, 0.6
Families = dict[str, list[Member]]


def draw_remote(families: Families, chosen: list[str]) -> list[tuple[str, Member]]:
    """Draw members that are remote from each other."""
    generator, seen, out = np.random.default_rng(20221127), set(), []
    for accession in chosen:
        members = [member for member in families[accession] if member.sequence not in seen]
        members = [members[k] for k in generator.permutation(len(members))[:LOOKED_AT]]
        texts = [member.sequence for member in members]
        if not texts:
            continue
        same = alignment_scores(nucleotide_rows(texts), gaps=GapPenalties(1.0, 0.0))
        sizes = np.array(list(map(len, texts)))
        alike = same / np.minimum.outer(sizes, sizes)
        kept: list[int] = []
        for k in range(len(texts)):
            if len(kept) < MOST and all(alike[k, j] <= REMOTE for j in kept):
                kept.append(k)
        if len(kept) >= 2:
            seen |= {texts[k] for k in kept}
            out += [(accession, members[k]) for k in kept]
    return out


def main() -> None:
    """Write all sets."""
    seeds, left_out, folder = (Path(argument) for argument in sys.argv[1:4])
    families = usable_families([str(seeds)], without=left_out.read_text().split())
    order = in_hash_order(families)
    folder.mkdir(parents=True, exist_ok=True)
    for name, chosen in (("held", order[:100]), ("dev", order[100:200])):
        (folder / f"{name}.txt").write_text("\n".join(chosen) + "\n")
        for suffix, rows in (
            ("", draw_members(families, chosen, MOST, 20221126)),
            ("-remote", draw_remote(families, chosen)),
        ):
            text = "".join(f">{m.id} {label}\n{m.sequence}\n" for label, m in rows)
            (folder / f"{name}{suffix}.fa").write_text(text)
            labels = len({label for label, _ in rows})
            print(f"{name}{suffix}: {len(rows)} sequences of {labels} families")


if __name__ == "__main__":
    main()
