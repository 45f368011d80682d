"""What 1 to 1,000 nodes would take, and what stops more from helping: a model of measured parts.

    python -m benchmarks.cluster_model --dispatch PER_S [--measured VERB:RNAS:PROCESSES:SECONDS …]

A job is so many calls of so much work. Processes make them side by side; one driver hands them out,
so that

    time = start + serial + max(rounds × work / calls, calls × dispatch, bytes / network)

where *rounds* is calls / processes, rounded up (calls are of one size, which tiles are nearly),
*dispatch* is the driver's time a part, from handing it out to its place in the manifest, when there
are many (docs/scaling.md), and *network* a node's 10 Gbit/s (assumed) times the nodes that hold
base embeddings. Tiles and chunks are the real plan's. Work is measured: of `embed` and `align` (all
pairs) with one process, by `benchmarks.worker_scaling`, if they are given; what is given of more
processes is compared with what the model says. docs/scaling.md has what comes out.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.embedding import draw_lengths
from riboray.alignment.plan import plan_all_pairs
from riboray.alignment.preparation import duration

#: Processes of a node, as in cluster.yaml.
_PROCESSES = 16
_NETWORK = 1.25e9  # bytes/s a node; assumed
#: Seconds of a run that more processes do not shorten: reading, planning, writing.
_SERIAL = 5.0
_PARTS, _LEAST_TEXT, _LARGEST_TEXT = 64, 64 << 10, 2 << 20  # as in embedding/preparation.py


@dataclass(frozen=True)
class Rates:
    """What a core does in a second; what is not given is of docs/results.md.

    Attributes
    ----------
    cells : float
        Of dynamic programming, of all pairs.
    nucleotides : float
        Through the model.
    """

    cells: float = 0.36e9
    nucleotides: float = 40_000.0


@dataclass(frozen=True)
class Job:
    """Work of a kind: core seconds, calls, bytes each node must get, and what nobody shares."""

    name: str
    work: float
    calls: int
    bytes_a_node: float
    serial: float


def amounts(count: int) -> tuple[float, float]:
    """Return cells of all pairs of so many RNAs, and their nucleotides."""
    lengths = draw_lengths(np.random.default_rng(1), count).astype(np.float64)
    return float(lengths.sum() ** 2 - np.square(lengths).sum()) / 2, float(lengths.sum())


def all_pairs(count: int, rates: Rates) -> Job:
    """Return what comparing all pairs of so many RNAs takes."""
    lengths = draw_lengths(np.random.default_rng(1), count)
    plan = plan_all_pairs(lengths)
    work = plan.cells / rates.cells + float(lengths.sum()) / rates.nucleotides
    calls = len(plan.tiles) + len(plan.chunks)
    return Job(f"all pairs of {count:,} RNAs", work, calls, 480.0 * float(lengths.sum()), _SERIAL)


def embedding(sequences: float, nucleotides: float, rates: Rates, windows: float = 1.0) -> Job:
    """Return what embedding a plain FASTA takes, each nucleotide in so many windows."""
    text = nucleotides + 95 * sequences
    calls = math.ceil(text / min(max(text / _PARTS, _LEAST_TEXT), _LARGEST_TEXT))
    name = f"embed {sequences / 1e6:g} million RNAs"
    return Job(name, windows * nucleotides / rates.nucleotides, calls, 0.0, _SERIAL)


@dataclass(frozen=True)
class Measured:
    """A run of `benchmarks.worker_scaling`: its own count of seconds."""

    verb: str
    count: int
    processes: int
    seconds: float

    @classmethod
    def parse(cls, text: str) -> Measured:
        """Read ``VERB:RNAS:PROCESSES:SECONDS``."""
        verb, count, processes, seconds = text.split(":")
        if verb not in ("embed", "align"):
            raise argparse.ArgumentTypeError(f"embed or align, not {verb!r}")
        return cls(verb, int(count), int(processes), float(seconds))

    def job(self, rates: Rates) -> Job:
        """Return what was to be done."""
        if self.verb == "align":
            return all_pairs(self.count, rates)
        return embedding(self.count, amounts(self.count)[1], rates)


def calibrated(measured: list[Measured]) -> Rates:
    """Return the rates at which runs of one process take as long as they did."""
    rates = Rates()
    for run in sorted((m for m in measured if m.processes == 1), key=lambda m: m.verb != "embed"):
        seconds, (cells, nucleotides) = run.seconds - _SERIAL, amounts(run.count)
        if run.verb == "embed":
            rates = replace(rates, nucleotides=nucleotides / seconds)
        else:
            rates = replace(rates, cells=cells / (seconds - nucleotides / rates.nucleotides))
    return rates


def predict(
    job: Job, processes: int, nodes: int, dispatch: float, start: float
) -> tuple[float, str]:
    """Return seconds, and what they are spent on."""
    parts = {
        "work": math.ceil(job.calls / processes) * job.work / job.calls,
        "handing out": job.calls * dispatch,
        "network": job.bytes_a_node / _NETWORK if nodes > 1 else 0.0,
    }
    slowest = max(parts, key=parts.__getitem__)
    return start + job.serial + parts[slowest], slowest


def first_limit(job: Job, dispatch: float) -> tuple[int, str]:
    """Return the nodes from which on more do not help, and why."""
    for nodes in range(1, 100_000):
        _, slowest = predict(job, nodes * _PROCESSES, nodes, dispatch, 0.0)
        if slowest != "work":
            return nodes, slowest
        if nodes * _PROCESSES >= job.calls:
            return nodes, "a call each"
    return 100_000, "work"


def main() -> None:
    """Print predictions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dispatch", type=float, required=True, help="calls handed out a second")
    parser.add_argument("--start", type=float, default=10.0, help="seconds before work begins")
    parser.add_argument("--measured", nargs="*", default=[], type=Measured.parse)
    given = parser.parse_args()
    dispatch, rates = 1 / given.dispatch, calibrated(given.measured)
    print(f"{rates.cells / 1e9:.2f} billion cells, {rates.nucleotides:,.0f} nucleotides a core\n")
    jobs = [
        *(all_pairs(count, rates) for count in (2_000, 20_000, 100_000, 300_000)),
        embedding(1e6, 154e6, rates),
        embedding(50e6, 28e9, rates, windows=1.5),
    ]
    nodes = (1, 10, 100, 1000)
    heads = " | ".join(f"{n:,} node{'s'[: n > 1]}" for n in nodes)
    print(f"| | calls | {heads} | more help up to | then it is |")
    print(f"|---|---|{'---|' * (len(nodes) + 2)}")
    for job in jobs:
        times = [predict(job, n * _PROCESSES, n, dispatch, given.start) for n in nodes]
        shown = " | ".join(duration(seconds) for seconds, _ in times)
        limit, why = first_limit(job, dispatch)
        print(f"| {job.name} | {job.calls:,} | {shown} | {limit:,} nodes | {why} |")
    for run in (m for m in given.measured if m.processes > 1):
        job = run.job(rates)
        found, _ = predict(job, run.processes, 1, dispatch, 0.0)
        print(f"\n{job.name}, {run.processes} processes: predicted {found:.1f} s, ", end="")
        print(f"measured {run.seconds:.1f} s ({found / run.seconds - 1:+.0%})")


if __name__ == "__main__":
    main()
