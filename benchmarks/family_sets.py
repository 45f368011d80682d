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

import hashlib
import sys
from pathlib import Path

import numpy as np

from riboray.alignment.columns import GapPenalties
from riboray.alphabet import normalise
from riboray.corpus.stockholm import read_stockholm
from riboray.evaluation.similarities import alignment_scores, nucleotide_rows

MOST, LOOKED_AT, REMOTE = 10, 60, 0.6
Members = list[tuple[str, str]]


def usable_families(seeds: Path, left_out: set[str]) -> dict[str, Members]:
    """Read families with enough different sequences."""
    found: dict[str, Members] = {}
    for family in read_stockholm(seeds):
        if family.accession in left_out:
            continue
        texts = [normalise(row.replace("-", "").replace(".", "")) for row in family.rows]
        members: dict[str, str] = {}
        for name, text in zip(family.ids, texts, strict=True):
            if 20 <= len(text) <= 440 and set(text) <= set("ACGU"):
                members.setdefault(text, name)
        if len(members) >= 5:
            found[family.accession] = [(name, text) for text, name in members.items()]
    return found


def draw(families: dict[str, Members], chosen: list[str]) -> list[tuple[str, str, str]]:
    """Draw members of each family, no sequence twice."""
    generator, seen, out = np.random.default_rng(20221126), set(), []
    for accession in chosen:
        fresh = [member for member in families[accession] if member[1] not in seen]
        seen |= {text for _, text in fresh}
        rows = np.sort(generator.permutation(len(fresh))[:MOST])
        out += [(fresh[k][0], accession, fresh[k][1]) for k in rows]
    return out


def draw_remote(families: dict[str, Members], chosen: list[str]) -> list[tuple[str, str, str]]:
    """Draw members that are remote from each other."""
    generator, seen, out = np.random.default_rng(20221127), set(), []
    for accession in chosen:
        members = [member for member in families[accession] if member[1] not in seen]
        members = [members[k] for k in generator.permutation(len(members))[:LOOKED_AT]]
        texts = [text for _, text in members]
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
            out += [(members[k][0], accession, texts[k]) for k in kept]
    return out


def main() -> None:
    """Write all sets."""
    seeds, left_out, folder = (Path(argument) for argument in sys.argv[1:4])
    families = usable_families(seeds, set(left_out.read_text().split()))
    order = sorted(families, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    folder.mkdir(parents=True, exist_ok=True)
    for name, chosen in (("held", order[:100]), ("dev", order[100:200])):
        (folder / f"{name}.txt").write_text("\n".join(chosen) + "\n")
        for suffix, rows in (
            ("", draw(families, chosen)),
            ("-remote", draw_remote(families, chosen)),
        ):
            text = "".join(f">{i} {label}\n{sequence}\n" for i, label, sequence in rows)
            (folder / f"{name}{suffix}.fa").write_text(text)
            labels = len({label for _, label, _ in rows})
            print(f"{name}{suffix}: {len(rows)} sequences of {labels} families")


if __name__ == "__main__":
    main()
