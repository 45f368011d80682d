"""What projection, chance scores and prefilters are worth, on real RNAs.

    python -m benchmarks.alignment_quality CHECKPOINT DATA      # about three minutes

An optional development benchmark. DATA is a folder with ``bralibase2.1/k2_dev.tsv.gz`` (columns
family, apsi, sci, id_a, id_b, aligned_a, aligned_b) and ``rfam/Rfam.seed.gz``. Printed are

1. F1 of aligned pairs on k2_dev (ACGU only, at most 440 nt) by dimensions and storage;
2. how often unrelated pairs (different Rfam families) reach P values of each size;
3. the share of significant hits (E <= 0.01, exhaustive search) among each prefilter's first N.
"""

from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[name] = "1"

import gzip
import sys
from pathlib import Path

import numpy as np
import torch

from benchmarks.speed import heading
from riboray.alignment import align_embeddings, aligned_columns, count_aligned
from riboray.alignment.candidates import Candidates, first_width
from riboray.alignment.diagonals import diagonal_scores
from riboray.alignment.estimate import embed_side, fit_null
from riboray.alignment.kmers import BestTargets, KmerIndex, KmerWeights
from riboray.alignment.prefilter import Whitening, build_index, nearest
from riboray.alignment.sides import Rule, Side, TileHits
from riboray.alignment.similarity import fit_projection, unit_rows
from riboray.alignment.statistics import fit_null_model
from riboray.alignment.tiles import score_tile
from riboray.corpus.stockholm import read_stockholm
from riboray.corpus.strings import Strings
from riboray.embedding.embedder import Embedder
from riboray.embedding.pooling import pool
from riboray.model import load_checkpoint

torch.set_num_threads(1)


def structural_alignment(embedder: Embedder, table: Path) -> None:
    """Print F1 on reference alignments by what base embeddings are reduced to."""
    with gzip.open(table, "rt") as handle:
        rows = [line.rstrip("\n").split("\t") for line in handle]
    header = rows.pop(0)
    column = {name: header.index(name) for name in ("apsi", "aligned_a", "aligned_b")}
    pairs = []
    for row in rows:
        columns = aligned_columns(
            *(row[column[n]].upper().replace("T", "U") for n in ("aligned_a", "aligned_b"))
        )
        texts = columns.sequence_a, columns.sequence_b
        if all(set(t) <= set("ACGU") and len(t) <= 440 for t in texts):
            pairs.append((float(row[column["apsi"]]), columns))
    texts = sorted({t for _, c in pairs for t in (c.sequence_a, c.sequence_b)})
    rows_of = dict(zip(texts, map(unit_rows, embedder.per_base(texts)), strict=True))
    some = np.concatenate([rows_of[t] for t in texts[:: max(len(texts) // 300, 1)]])
    low = 0.5 if max(a for a, _ in pairs) <= 1 else 50
    print(f"\n| {len(pairs)} pairs of k2_dev | F1 | F1, identity < 50 % | cosine rms error |")
    print("|---|---|---|---|")
    for label, width, kind in (
        ("exact", None, "float32"),
        ("float16 storage", None, "float16"),
        ("64 dimensions", 64, "float32"),
        ("32 dimensions", 32, "float32"),
        ("16 dimensions", 16, "float32"),
    ):
        projection = None if width is None else fit_projection(some, width)
        reduced = {
            t: (r if projection is None else projection.apply(r)).astype(kind).astype(np.float32)
            for t, r in rows_of.items()
        }
        counts = np.zeros((len(pairs), 3))
        for k, (_, c) in enumerate(pairs):
            _, partners = align_embeddings(reduced[c.sequence_a], reduced[c.sequence_b])
            counts[k] = count_aligned(partners, c.partners)
        hard = np.array([apsi < low for apsi, _ in pairs])
        figures = [2 * c[:, 0].sum() / c[:, 1:].sum() for c in (counts, counts[hard])]
        error = "" if projection is None else f"{projection.rms_error:.4f}"
        print(f"| {label} | {figures[0]:.4f} | {figures[1]:.4f} | {error} |", flush=True)


def rfam_sample(seed_file: Path, count: int) -> tuple[list[str], list[str]]:
    """Draw sequences of 40 to 440 nt from seeds; return them, longest first, and their families."""
    families: dict[str, str] = {}
    for family in read_stockholm(seed_file):
        for row in family.rows:
            text = row.replace("-", "").replace(".", "").upper().replace("T", "U")
            if 40 <= len(text) <= 440:
                families.setdefault(text, family.accession)
    texts = sorted(families)
    chosen = np.random.default_rng(1).choice(len(texts), count, replace=False)
    picked = sorted((texts[k] for k in chosen.tolist()), key=len, reverse=True)
    return picked, [families[t] for t in picked]


def chance(embedder: Embedder, texts: list[str], families: list[str]) -> tuple[Side, np.ndarray]:
    """Print how often unrelated pairs reach small P values; return all E-values of searches."""
    side = embed_side(embedder, texts)
    label = np.array(families)
    expected = np.full((len(texts), len(texts)), np.inf)
    levels = (0.5, 0.1, 0.05, 0.01, 0.001, 0.0001)
    print(f"\n| P value at most, unrelated pairs | {' | '.join(map(str, levels))} |")
    print(f"|---|{'---|' * len(levels)}")
    for mode in ("global", "semiglobal", "local"):
        rule = Rule(mode=mode)
        null = fit_null(embedder, texts, rule)
        found = score_tile(side, side, rule, same=True)
        lengths = side.lengths
        z = null.z_scores(found.score, lengths[found.query], lengths[found.target], found.affinity)
        p = null.p_values(z)
        unrelated = p[label[found.query] != label[found.target]]
        shares = " | ".join(f"{(unrelated <= level).mean():.2g}" for level in levels)
        print(f"| {mode}, {len(unrelated):,} pairs | {shares} |", flush=True)
        if mode == "global":
            z_global, alone = z, _by_lengths_alone(found, lengths)
            related = label[found.query] == label[found.target]
            expected[found.query, found.target] = p * len(texts)
            expected[found.target, found.query] = p * len(texts)
    print("\n| standardised scores, global | skew, unrelated | median, same family |")
    print("|---|---|---|")
    for name, values in (("with affinity", z_global), ("by lengths alone", alone)):
        unrelated = values[~related]
        skew = float((((unrelated - unrelated.mean()) / unrelated.std()) ** 3).mean())
        print(f"| {name} | {skew:.2f} | {np.median(values[related]):.2f} |")
    return side, expected


def _by_lengths_alone(found: TileHits, lengths: np.ndarray) -> np.ndarray:
    """Standardise scores without regard to affinity, fitted to all pairs."""
    a, b, none = lengths[found.query], lengths[found.target], np.zeros(len(found.score))
    return fit_null_model(found.score, a, b, none).z_scores(found.score, a, b, none)


def prefilters(embedder: Embedder, texts: list[str], expected: np.ndarray, folder: Path) -> None:
    """Print how many significant hits of the exhaustive search each prefilter keeps."""
    hits = expected <= 0.01
    np.fill_diagonal(hits, val=False)
    pooled = np.stack([pool(rows, "mean") for rows in embedder.per_base(texts)])
    whitening = Whitening.fit(pooled)
    whitened = whitening.apply(pooled)
    raw = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    build_index(whitened, folder / "index.usearch")
    weights, words = KmerWeights.fit(texts, 6), KmerWeights.fit(texts, 5).weights ** 2
    depth = 501
    best = BestTargets(weights.queries(texts), first_width(depth))
    best.look_in(KmerIndex.build(texts, weights))
    shared, _ = best.found()
    own = Strings.of(texts)
    ranked = Candidates(shared, diagonal_scores(own, own, shared, words)).best(depth).rows
    orders = {
        "pooled, as they are, exact": np.argsort(-(raw @ raw.T), axis=1)[:, :depth],
        "pooled, whitened, exact": np.argsort(-(whitened @ whitened.T), axis=1)[:, :depth],
        "pooled, whitened, HNSW": nearest(folder / "index.usearch", whitened, depth)[0],
        "6-mers": shared[:, :depth],
        "6-mers, then diagonals": ranked,
    }
    counts = (10, 50, 100, 500)
    kept = {name: [_kept(order, hits, n) for n in counts] for name, order in orders.items()}
    both = [
        _reached(orders["pooled, whitened, HNSW"], n, len(texts)) | _reached(ranked, n, len(texts))
        for n in counts
    ]
    kept["both (whitened HNSW; 6-mers, then diagonals)"] = [
        (hits & b).sum() / hits.sum() for b in both
    ]
    print(f"\n| {hits.sum():,} hits with E <= 0.01, found among the first | {counts} |")
    print("|---|---|")
    for name, shares in kept.items():
        print(f"| {name} | {', '.join(f'{share:.3f}' for share in shares)} |")


def _reached(order: np.ndarray, count: int, targets: int) -> np.ndarray:
    """Mark the first ``count`` targets of each query, itself not counted."""
    marked = np.zeros((len(order), targets), bool)
    for query, row in enumerate(order):
        marked[query, row[row != query][:count]] = True
    return marked


def _kept(order: np.ndarray, hits: np.ndarray, count: int) -> float:
    return float((hits & _reached(order, count, hits.shape[1])).sum() / hits.sum())


def main() -> None:
    """Measure everything and print the tables."""
    import tempfile

    checkpoint, data = sys.argv[1], Path(sys.argv[2])
    embedder = Embedder(load_checkpoint(checkpoint).model)
    print(heading())
    structural_alignment(embedder, data / "bralibase2.1" / "k2_dev.tsv.gz")
    texts, families = rfam_sample(data / "rfam" / "Rfam.seed.gz", 2000)
    _, expected = chance(embedder, texts, families)
    with tempfile.TemporaryDirectory() as folder:
        prefilters(embedder, texts, expected, Path(folder))


if __name__ == "__main__":
    main()
