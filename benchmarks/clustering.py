"""Time, memory and what is found by `riboray cluster`, on synthetic families.

    python -m benchmarks.clustering --checkpoint CHECKPOINT                    # 2,000, all pairs
    python -m benchmarks.clustering --checkpoint CHECKPOINT --sequences 10000  # all pairs, minutes
    python -m benchmarks.clustering --checkpoint CHECKPOINT --sequences 1000000 --exhaustive 0
    python -m benchmarks.clustering --graph 1000000                            # methods alone

A family is a random RNA and copies of it with substitutions, insertions and deletions; sizes of
families follow a power law, and a share of the sequences has no relatives. The command runs as
its user runs it: wall-clock time from start to end, largest resident sets of the driver and of a
worker, and how well the clusters agree with the families (adjusted Rand index, and the share of
sequences whose cluster holds nobody else's family). `--graph` times the methods on a random
graph of as many nodes, without aligning anything. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[name] = "1"

from benchmarks.embedding import Watch

LETTERS = np.frombuffer(b"ACGU", np.uint8)

#: Sequences without relatives; members of a family at most.
ALONE, MOST = 0.1, 500


def family_sizes(count, generator):
    """Sizes that add up to ``count``: single sequences, and families by a power law."""
    sizes = [1] * int(ALONE * count)
    left = count - len(sizes)
    while left:
        size = min(int(5 * generator.pareto(1.2)) + 2, MOST, max(count // 10, 2), left)
        sizes.append(size)
        left -= size
    return sizes


def mutated(text, share, generator):
    """Substitute, delete and insert, in the proportions 8 : 1 : 1."""
    chance = generator.random(len(text))
    changed = np.where(chance < 0.8 * share, generator.choice(LETTERS, len(text)), text)
    kept = (chance < 0.8 * share) | (chance >= 0.9 * share)
    copies = np.where(generator.random(len(text)) < 0.1 * share, 2, 1) * kept
    return np.repeat(changed, copies)


def write(path, count, divergence, seed=1):
    """Write families in an order by chance; ids say the family: ``f12.3``."""
    generator = np.random.default_rng(seed)
    records = []
    for family, size in enumerate(family_sizes(count, generator)):
        length = int(np.clip(generator.lognormal(np.log(120), 0.35), 60, 400))
        seed_text = generator.choice(LETTERS, length)
        for member in range(size):
            text = mutated(seed_text, divergence, generator) if member else seed_text
            records.append(b">f%d.%d\n%s\n" % (family, member, text.tobytes()))
    order = generator.permutation(len(records))
    with path.open("wb") as handle:
        handle.writelines(records[k] for k in order)


def agreement(directory):
    """Return adjusted Rand index, and the share of sequences in clusters of one family."""
    from sklearn.metrics import adjusted_rand_score

    heads, families = [], []
    with (directory / "clusters.tsv").open() as source:
        for line in source:
            head, member = line.rstrip("\n").split("\t")
            heads.append(head)
            families.append(int(member[1:].partition(".")[0]))
    _, clusters = np.unique(heads, return_inverse=True)
    families = np.array(families)
    low, high = np.full(clusters.max() + 1, 1 << 60), np.full(clusters.max() + 1, -1)
    np.minimum.at(low, clusters, families)
    np.maximum.at(high, clusters, families)
    return adjusted_rand_score(families, clusters), float((low == high)[clusters].mean())


def run(given, folder):
    """Run the command; print one row."""
    fasta, output = folder / "rnas.fa", folder / "clusters"
    write(fasta, given.sequences, given.divergence)
    command = [sys.executable, "-m", "riboray.cli", "cluster", str(fasta)]
    command += ["--checkpoint", str(Path(given.checkpoint).resolve()), "--output", str(output)]
    command += ["--num-workers", str(given.workers), *given.options]
    if given.exhaustive is not None:
        command += ["--exhaustive", str(given.exhaustive)]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    watch = Watch(process)
    out, _ = process.communicate()
    seconds = time.perf_counter() - start
    if process.returncode:
        sys.exit(f"riboray cluster ended with {process.returncode}")
    summary = json.loads(out)
    rand, pure = agreement(output)
    names = ["sequences", "how", "pairs", "edges", "clusters", "largest", "s", "of it comparing"]
    names += ["driver MB", "worker MB", "ARI", "pure"]
    values = [summary["sequences_clustered"], summary["compared"], summary["pairs_compared"]]
    values += [summary["edges"], summary["clusters"], summary["largest_cluster"], round(seconds)]
    values += [summary["compare_seconds"], round(watch.driver / 1e6), round(watch.worker / 1e6)]
    values += [f"{rand:.3f}", f"{pure:.3f}"]
    print("| " + " | ".join(names) + " |\n|" + "---|" * len(names))
    print("| " + " | ".join(f"{v:,}" if isinstance(v, int) else str(v) for v in values) + " |")


def graph_alone(count):
    """Time every method on a random graph of planted families; print a table."""
    import resource

    from riboray.clustering.communities import cluster_graph
    from riboray.clustering.config import ClusterConfig
    from riboray.clustering.graph import EdgeCollector

    generator = np.random.default_rng(1)
    sizes = np.array(family_sizes(count, generator))
    start_of, size_of = np.repeat(np.cumsum(sizes) - sizes, sizes), np.repeat(sizes, sizes)
    collector = EdgeCollector(count, 50)
    began = time.perf_counter()
    for _ in range(20):  # as many neighbours, drawn from the family; some have fewer
        other = start_of + (generator.random(count) * size_of).astype(np.int64)
        collector.add(np.arange(count), other, generator.uniform(0.5, 1.5, count))
    wild = generator.integers(0, count, (2, count // 5))
    collector.add(wild[0], wild[1], generator.uniform(0.3, 0.6, len(wild[0])))
    matrix = collector.graph().adjacency()
    made = time.perf_counter() - began
    print(f"{count:,} nodes, {matrix.nnz // 2:,} edges, gathered in {made:.1f} s\n")
    print("| method | s | clusters | peak MB so far |\n|---|---|---|---|")
    for options in (
        {"method": "components"}, {"method": "greedy"}, {"method": "leiden"},
        {"method": "leiden", "quality": "modularity"},
    ):  # fmt: skip
        began = time.perf_counter()
        found = cluster_graph(matrix, ClusterConfig(input=["-"], **options))
        seconds = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        print(f"| {' '.join(options.values())} | {seconds:.1f} | {len(found):,} | {peak:,.0f} |")


def main():
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", default="")
    parser.add_argument("--sequences", type=int, default=2_000)
    parser.add_argument("--divergence", type=float, default=0.25, help="share of bases that change")
    parser.add_argument("--exhaustive", type=int, help="as of riboray cluster")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--graph", type=int, help="nodes: time the methods alone")
    given, options = parser.parse_known_args()
    given.options = options  # for riboray cluster, as they are
    if given.graph:
        graph_alone(given.graph)
        return
    with tempfile.TemporaryDirectory() as folder:
        run(given, Path(folder))


if __name__ == "__main__":
    main()
