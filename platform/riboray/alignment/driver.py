"""The verb `align`: two sequences on the terminal, or all pairs of many."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from riboray.alignment.config import AlignConfig
from riboray.alignment.described import describe_alignments
from riboray.alignment.estimate import embed_side, fit_null
from riboray.alignment.formats import PairView, aligned_fasta, clustal_view, stockholm
from riboray.alignment.hits import hits_table, write_arrow
from riboray.alignment.longpairs import align_embeddings
from riboray.alignment.sides import Rule, TileHits
from riboray.alignment.similarity import RowMaker, fit_projection
from riboray.console import say, show
from riboray.corpus.sequences import read_sequences
from riboray.embedding.embedder import Embedder
from riboray.errors import ConfigError
from riboray.manifest import atomic_path
from riboray.model.checkpoint import LoadedCheckpoint, load_checkpoint

__all__ = ["align"]


@dataclass(frozen=True)
class _Rna:
    """A named sequence with its structure, if the file has one."""

    name: str
    sequence: str
    structure: str | None


def align(config: AlignConfig) -> dict[str, Any]:
    """Align two RNAs and show their alignment, or align all pairs; return what came of it.

    Raises
    ------
    RiborayError
        On input that cannot be used, with file and record.
    """
    if config.all_pairs:
        from riboray.alignment.allpairs import align_all_pairs

        return align_all_pairs(config)
    return _align_two(config)


def _align_two(config: AlignConfig) -> dict[str, Any]:
    loaded = load_checkpoint(config.checkpoint)
    a, b = _read_two(config, loaded)
    embedder = Embedder(loaded.model)
    maker = RowMaker(config.centred)
    side = embed_side(embedder, [a.sequence, b.sequence], maker=maker)
    if config.dimensions is not None:
        projection = fit_projection(side.sequences.embeddings, config.dimensions, config.seed)
        say(f"  projection  {projection.describe()}")
        maker = RowMaker(config.centred, projection)
        side = embed_side(embedder, [a.sequence, b.sequence], maker=maker)
    rows = side.sequences
    if config.dry_run:
        cells = len(rows[0]) * len(rows[1])
        say(f"  {cells:,} cells")
        return {"dry_run": True, "cells": cells}
    score, partners = align_embeddings(rows[0], rows[1], config.gaps, config.mode)
    assert partners is not None
    null = None
    if config.statistics:
        rule = Rule(config.gaps, config.mode)
        null = fit_null(
            embedder,
            [a.sequence],
            rule,
            maker=maker,
            seed=config.seed,
            targets=[b.sequence],
        )
        if null is None:
            say("  statistics  left out: shuffling sequences this long would take minutes")
    match = np.einsum("ij,ij->i", rows[0], rows[1][np.maximum(partners, 0)])
    view = PairView.of(
        (a.name, b.name),
        (a.sequence, b.sequence),
        partners,
        match.astype(np.float32),
        config.mode,
        (a.structure, b.structure),
    )
    starts = rows.starts
    described = describe_alignments(
        partners[None],
        side.nucleotides[: starts[1]],
        side.nucleotides,
        starts[1:2],
        starts[2:3],
        whole=config.mode == "global",
    )
    first, second = np.zeros(1, np.int64), np.ones(1, np.int64)
    scores, affinity = np.array([score], np.float32), side.means[:1] @ side.means[1]
    hits = TileHits(first, second, scores, affinity, described.values, described.cigar, 1)
    table = hits_table(hits, [a.name, b.name], rows.lengths, null, 1)
    _write(config, view, table, score)
    return {**table.to_pylist()[0], "query_aligned": view.rows[0], "target_aligned": view.rows[1]}


def _write(config: AlignConfig, view: PairView, table: Any, score: float) -> None:
    """Write the alignment in the format asked for; the figures of a view go with it."""
    output = None if config.output is None else Path(config.output)
    if config.format == "arrow":
        assert output is not None  # checked by the config
        options = json.dumps(asdict(config), default=str)
        write_arrow(table, output, {"options": options})
        return
    if config.format == "clustal":
        text = _heading(table.to_pylist()[0]) + "\n\n"
        text += clustal_view(view, colour=output is None and _coloured()) + "\n"
    else:
        text = aligned_fasta(view) if config.format == "fasta" else stockholm(view, score)
    if output is None:
        show(text.removesuffix("\n"))
        return
    with atomic_path(output) as temporary:
        temporary.write_text(text, "utf-8")


def _coloured() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def _heading(row: dict[str, Any]) -> str:
    parts = [
        f"score {row['score']:.3f} ({row['normalised_score']:.3f} of the largest possible)",
        f"identity {100 * row['identity']:.1f} % of aligned pairs",
        f"{row['aligned_length']} columns, {row['gap_opens']} gaps",
    ]
    if row["z_score"] is not None:
        parts.append(f"z-score {row['z_score']:.1f}, P {row['evalue']:.2g} (shuffled sequences)")
    return "CLUSTAL-like view by riboray\n" + "\n".join(parts)


def _read_two(config: AlignConfig, loaded: LoadedCheckpoint) -> tuple[_Rna, _Rna]:
    """Read the two sequences; exactly two."""
    named = read_sequences(
        config.input,
        duplicate_ids=config.duplicate_ids,
        on_invalid=config.on_invalid,
        ambiguity=loaded.model.config.tokens.id_of("N") is not None,
    )
    if len(named) != 2:
        files = ", ".join(config.input)
        raise ConfigError(
            f"{len(named)} sequences in {files}; two are aligned with each other, and with "
            "--all-pairs every one with every other"
        )
    first, second = (
        _Rna(_printable(name), sequence, structure)
        for name, sequence, structure in zip(
            named.ids, named.sequences, named.structures, strict=True
        )
    )
    return first, second


def _printable(name: str) -> str:
    """Keep control characters of a file away from the terminal."""
    return "".join(symbol if symbol.isprintable() else "?" for symbol in name)
