"""What 1 to 1,000 nodes would take, and what stops more from helping: a model of measured parts.

    python -m benchmarks.cluster_model --dispatch PER_S [--check RNAS:PROCESSES:SECONDS …]

A job is so many calls of so much work. Processes make them side by side; one driver hands them out
(calls a second, measured by `benchmarks.worker_scaling`), so that

    time = start + serial + max(work / processes, calls × dispatch, bytes / network, tail)

where *dispatch* is the driver's time a call when it hands out many, *network* a node's 10 Gbit/s
(assumed) times the nodes that hold base embeddings, and *tail* the last two calls of a process.
Tiles and chunks are the real plan's; work is measured a core (docs/results.md), and docs/scaling.md
has what comes out.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np

from benchmarks.embedding import draw_lengths
from riboray.alignment.plan import plan_all_pairs
from riboray.alignment.preparation import duration

#: Processes of a node, as in cluster.yaml.
_PROCESSES = 16
_NETWORK = 1.25e9  # bytes/s a node; assumed
#: Measured, docs/results.md: cells a second and core, of all pairs; nucleotides a second and core
#: through the model.
_CELLS, _NUCLEOTIDES = 0.36e9, 40_000.0
_LARGEST_TEXT = 2 << 20


@dataclass(frozen=True)
class Job:
    """Work of a kind: core seconds, calls, bytes each node must get, and what nobody shares."""

    name: str
    work: float
    calls: int
    bytes_a_node: float
    serial: float


def all_pairs(count: int) -> Job:
    """Return what comparing all pairs of so many RNAs takes."""
    lengths = draw_lengths(np.random.default_rng(1), count)
    plan = plan_all_pairs(lengths)
    embedding = float(lengths.sum()) / _NUCLEOTIDES
    work = plan.cells / _CELLS + embedding
    calls = len(plan.tiles) + len(plan.chunks)
    return Job(f"all pairs of {count:,} RNAs", work, calls, 480.0 * float(lengths.sum()), 5.0)


def embedding(sequences: float, nucleotides: float) -> Job:
    """Return what embedding a plain FASTA takes; half lies in windows that overlap by half."""
    calls = int((nucleotides + 95 * sequences) / _LARGEST_TEXT)
    name = f"embed {sequences / 1e6:g} million RNAs"
    return Job(name, 1.5 * nucleotides / _NUCLEOTIDES, calls, 0.0, 5.0)


def predict(
    job: Job, processes: int, nodes: int, dispatch: float, start: float
) -> tuple[float, str]:
    """Return seconds, and what they are spent on."""
    each = job.work / job.calls
    parts = {
        "work": job.work / processes,
        "handing out": job.calls * dispatch,
        "network": job.bytes_a_node / _NETWORK if nodes > 1 else 0.0,
        "the last calls": min(2, job.calls / processes) * each,
    }
    slowest = max(parts, key=parts.__getitem__)
    return start + job.serial + parts[slowest], slowest


def first_limit(job: Job, dispatch: float) -> tuple[int, str]:
    """Return the nodes from which on more do not help, and why."""
    for nodes in range(1, 100_000):
        _, slowest = predict(job, nodes * _PROCESSES, nodes, dispatch, 0.0)
        if slowest != "work":
            return nodes, slowest
    return 100_000, "work"


def main() -> None:
    """Print predictions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dispatch", type=float, required=True, help="calls handed out a second")
    parser.add_argument("--start", type=float, default=10.0, help="seconds before work begins")
    parser.add_argument("--check", nargs="*", default=[], help="RNAS:PROCESSES:SECONDS measured")
    given = parser.parse_args()
    dispatch = 1 / given.dispatch
    jobs = [
        *(all_pairs(count) for count in (2_000, 20_000, 100_000, 300_000)),
        embedding(1e6, 154e6),
        embedding(50e6, 28e9),
    ]
    nodes = (1, 10, 100, 1000)
    heads = " | ".join(f"{n:,} nodes" for n in nodes)
    print(f"| | calls | {heads} | more help up to | then it is |")
    print(f"|---|---|{'---|' * (len(nodes) + 2)}")
    for job in jobs:
        times = [predict(job, n * _PROCESSES, n, dispatch, given.start) for n in nodes]
        shown = " | ".join(duration(seconds) for seconds, _ in times)
        limit, why = first_limit(job, dispatch)
        print(f"| {job.name} | {job.calls:,} | {shown} | {limit:,} nodes | {why} |")
    for check in given.check:
        count, processes, measured = (float(part) for part in check.split(":"))
        found, _ = predict(all_pairs(int(count)), int(processes), 1, dispatch, given.start)
        print(f"\nall pairs of {count:,.0f} RNAs, {processes:.0f} processes: ", end="")
        print(f"predicted {found:.0f} s, measured {measured:.0f} s ({found / measured - 1:+.0%})")


if __name__ == "__main__":
    main()
