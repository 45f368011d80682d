r"""How many relatives of an RNA a prefilter hands on, among many other RNAs.

    python -m benchmarks.prefilter_recall LABELLED.fa CORPUS.fa.gz --background 20000 \\
        --checkpoint CHECKPOINT

LABELLED holds families (``>id family``); of CORPUS so many sequences are drawn that are not in it.
Every labelled sequence is a query against all of both. Printed is the mean share of its relatives
among the first candidates, for k-mers of several lengths, alone and followed by a look at
diagonals, for whitened pooled embeddings, and for both by turns; and the CPU milliseconds a query
takes. Relatives in the corpus that have no label count as strangers.
"""

from __future__ import annotations

import argparse
import os
import time

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np

from riboray.alignment.candidates import Candidates, first_width
from riboray.alignment.diagonals import diagonal_scores
from riboray.alignment.kmers import BestTargets, KmerIndex, KmerWeights
from riboray.alignment.prefilter import Whitening
from riboray.alphabet import normalise
from riboray.corpus.fasta import read_fasta
from riboray.corpus.strings import Strings
from riboray.embedding.embedder import Embedder, Wanted
from riboray.evaluation.labelled import read_labelled
from riboray.model.checkpoint import load_checkpoint

DEPTHS = (10, 50, 100, 200)
_SAMPLE = 20_000  # as riboray search fits to


def background(path, known, count):
    """Draw sequences that are not known."""
    texts = [normalise(record.sequence) for record in read_fasta(path)]
    texts = sorted({text for text in texts if set(text) <= set("ACGU")} - known)
    generator = np.random.default_rng(0)
    return [texts[k] for k in generator.choice(len(texts), min(count, len(texts)), replace=False)]


def recall(rows, labels):
    """Return the mean share of relatives among the first rows, the query itself left out."""
    labels = np.array(labels)
    shares = {depth: [] for depth in DEPTHS}
    for query, found in enumerate(rows):
        relatives = np.flatnonzero(labels == labels[query])
        relatives = relatives[relatives != query]
        found = found[found != query]  # by turns, some come twice
        found = found[np.sort(np.unique(found, return_index=True)[1])]
        for depth in DEPTHS:
            if len(relatives):
                shares[depth].append(np.isin(relatives, found[:depth]).mean())
    return [float(np.mean(values)) for values in shares.values()]


def by_kmers(texts, queries, k, *, diagonals=False):
    """Return candidates, and CPU seconds of the queries."""
    weights, words = KmerWeights.fit(texts[:_SAMPLE], k), KmerWeights.fit(texts[:_SAMPLE], 5)
    index, all_texts = KmerIndex.build(texts, weights), Strings.of(texts)
    width = first_width(max(DEPTHS)) + 1 if diagonals else max(DEPTHS) + 1
    for some in (1, queries):  # the first compiles
        began = time.process_time()
        best = BestTargets(weights.queries(texts[:some]), width)
        best.look_in(index)
        rows, _ = best.found()
        if diagonals:
            own = Strings.of(texts[:some])
            scores = diagonal_scores(own, all_texts, rows, words.weights**2)
            rows = Candidates(rows, scores).best(max(DEPTHS) + 1).rows
    return rows, time.process_time() - began


def by_embeddings(texts, queries, checkpoint):
    """Return the nearest whitened pooled embeddings, all of them compared."""
    model = load_checkpoint(checkpoint).model
    embedder = Embedder(model)
    last = model.config.num_hidden_layers
    pooled = embedder.embed(texts, Wanted((last,), "mean")).pooled[last]
    unit = Whitening.fit(pooled[:_SAMPLE]).apply(pooled)
    began = time.process_time()
    similarity = unit[:queries] @ unit.T
    rows = np.argsort(-similarity, axis=1, kind="stable")[:, : max(DEPTHS) + 1]
    return rows, time.process_time() - began


def main():
    """Print a row a prefilter."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("labelled")
    parser.add_argument("corpus")
    parser.add_argument("--background", type=int, default=20_000)
    parser.add_argument("--checkpoint")
    given = parser.parse_args()
    data = read_labelled([given.labelled])
    others = background(given.corpus, set(data.sequences), given.background)
    texts, queries = [*data.sequences, *others], len(data)
    labels = [*data.labels, *[""] * len(others)]
    print(f"{queries:,} queries, {len(texts):,} targets\n")
    print("| candidates by | " + " | ".join(f"{d}" for d in DEPTHS) + " | CPU ms a query |")
    print("|---|" + "---|" * (len(DEPTHS) + 1))
    found = {}
    for k in (5, 6, 7, 8):
        found[f"{k}-mers"] = by_kmers(texts, queries, k)
    for k in (6, 7, 8):
        name = f"{k}-mers, then diagonals"
        found[name] = by_kmers(texts, queries, k, diagonals=True)
    if given.checkpoint:
        pooled = found["pooled embeddings"] = by_embeddings(texts, queries, given.checkpoint)
        diagonals = found["7-mers, then diagonals"]
        rows = np.stack([diagonals[0], pooled[0]], axis=2).reshape(queries, -1)
        found["the last two by turns"] = rows, pooled[1] + diagonals[1]
    for name, (rows, seconds) in found.items():
        figures = [f"{value:.3f}" for value in recall(rows, labels)]
        print(f"| {name} | " + " | ".join(figures) + f" | {1e3 * seconds / queries:.2f} |")


if __name__ == "__main__":
    main()
