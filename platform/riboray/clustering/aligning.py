"""Writing an aligned FASTA for every cluster; a piece of work is some clusters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from riboray.alignment.columns import GapPenalties, Mode
from riboray.alignment.longpairs import align_embeddings
from riboray.alignment.similarity import unit_rows
from riboray.clustering.communities import Clustering
from riboray.clustering.merging import merge_alignments
from riboray.clustering.sequences import Sequences
from riboray.embedding.embedder import Embedder
from riboray.embedding.shards import cached_embedder
from riboray.errors import RiborayError
from riboray.manifest import atomic_path

__all__ = ["FOLDER", "Family", "align_families", "alignment_name", "families"]

FOLDER = "alignments"

#: Members embedded together, and nucleotides of a piece of work.
_TOGETHER = 256
_PIECE = 200_000


@dataclass(frozen=True)
class Family:
    """A cluster to align: its file, and its members, the representative first."""

    path: str
    ids: list[str]
    texts: list[str]


def alignment_name(cluster: int) -> str:
    """Return the file of a cluster, counted from 0: ids are data and never name files."""
    return f"{FOLDER}/{cluster + 1:08d}.fasta"


def families(
    directory: Path, sequences: Sequences, clustering: Clustering
) -> Iterator[list[Family]]:
    """Yield pieces of work: clusters of two or more whose files are not there yet."""
    piece: list[Family] = []
    nucleotides, starts = 0, clustering.starts
    for cluster in range(int((clustering.sizes > 1).sum())):
        path = directory / alignment_name(cluster)
        if path.is_file():
            continue
        ids, texts = sequences.take(clustering.order[starts[cluster] : starts[cluster + 1]])
        piece.append(Family(str(path), ids, texts))
        nucleotides += sum(map(len, texts))
        if nucleotides >= _PIECE:
            yield piece
            piece, nucleotides = [], 0
    if piece:
        yield piece


def align_families(piece: list[Family], checkpoint: str, gaps: GapPenalties, mode: Mode) -> int:
    """Align the members of each cluster with its representative and write them.

    Parameters
    ----------
    piece : list of Family
        The clusters.
    checkpoint : str
        The model.
    gaps, mode
        Of the alignments.

    Returns
    -------
    int
        Files written.
    """
    embedder = cached_embedder(checkpoint)
    for family in piece:
        aligned = align_members(embedder, family.texts, gaps, mode)
        for text, row in zip(family.texts, aligned, strict=True):
            if row.replace("-", "") != text:
                raise RiborayError(f"{family.path}: a row is not its sequence; this is a bug")
        with atomic_path(Path(family.path)) as temporary:
            lines = [f">{i}\n{r}\n" for i, r in zip(family.ids, aligned, strict=True)]
            temporary.write_text("".join(lines), "utf-8")
    return len(piece)


def align_members(
    embedder: Embedder, texts: list[str], gaps: GapPenalties, mode: Mode
) -> list[str]:
    """Align all sequences with the first.

    Parameters
    ----------
    embedder : Embedder
        The model.
    texts : list of str
        The representative, and the others.
    gaps, mode
        Of the alignments.

    Returns
    -------
    list of str
        Gapped rows of equal length, in the same order.
    """
    (medoid,) = embedder.per_base(texts[:1])
    centre = unit_rows(medoid)
    partners: list[NDArray[np.int32]] = []
    for start in range(1, len(texts), _TOGETHER):
        for bases in embedder.per_base(texts[start : start + _TOGETHER]):
            _, found = align_embeddings(unit_rows(bases), centre, gaps, mode)
            assert found is not None
            partners.append(found)
    return merge_alignments(texts[0], texts[1:], partners)
