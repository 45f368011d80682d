"""Speed of alignment beside its peers, in one run, one thread; then over Ray.

    python -m benchmarks.alignment_speed [RNAS.fa [CHECKPOINT]]     # about twelve minutes

Peers that are installed take part: parasail, biopython, biotite, edlib. Variants take turns, round
by round; a figure is the median over rounds of work per second of process CPU time. Kernels: random
pairs of 150 × 150. Over Ray: all pairs of RNAS.fa (default: the bundled sample), wall-clock time of
the whole command's work, embedding and writing included; CHECKPOINT is an untrained RNABERT if it
is not given, which takes the same time.
"""

from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[name] = "1"  # before numpy is imported: pools cannot shrink later

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from benchmarks.original import align_three_tables
from benchmarks.speed import Variant, heading, measure
from riboray.alignment import align_batch
from riboray.alignment.blocks import BlockAligner, target_blocks
from riboray.alignment.kernels import LOWEST
from riboray.alignment.lockstep import LANES, align_lanes_by_match, walk_lanes
from riboray.alignment.similarity import SequenceSet, fit_projection
from riboray.corpus.sample import SAMPLE_CORPUS
from riboray.model import RnaBertConfig, RnaBertForPreTraining, save_checkpoint

LENGTH = 150
CELLS = LENGTH * LENGTH
RNG = np.random.default_rng(0)
LETTERS = np.array(list("ACGU"))

torch.set_num_threads(1)


def peers() -> list[Variant]:
    """Give the cells aligned by other programs; plain sequences, except the original's way."""
    pairs = [["".join(RNG.choice(LETTERS, LENGTH)) for _ in range(2)] for _ in range(20)]
    match = RNG.uniform(-1, 1, CELLS)
    lists = [match.tolist(), (0.0 * match).tolist(), (0.0 * match).tolist()]
    zero = np.zeros(CELLS)

    def original() -> float:
        for _ in range(20):
            align_three_tables(match, zero, zero, LENGTH, LENGTH)
        return 20 * CELLS

    def original_lists() -> float:
        for _ in range(5):
            align_three_tables(*(np.array(values) for values in lists), LENGTH, LENGTH)
        return 5 * CELLS

    found: list[Variant] = [
        ("original's way, DP alone, with traceback", original),
        ("original's way, from Python lists, with traceback", original_lists),
    ]
    if find_spec("parasail"):
        import parasail

        matrix = parasail.matrix_create("ACGU", 5, -4)
        for label, function in (
            ("parasail nw_striped_16, score", parasail.nw_striped_16),
            ("parasail nw_trace_striped_16, with traceback", parasail.nw_trace_striped_16),
        ):
            found.append((label, _over(pairs, lambda a, b, f=function: f(a, b, 10, 1, matrix))))
    if find_spec("edlib"):
        import edlib

        found.append(("edlib (unit costs), score", _over(pairs, lambda a, b: edlib.align(a, b))))
    from Bio import Align

    aligner = Align.PairwiseAligner(
        match_score=5, mismatch_score=-4, open_gap_score=-11, extend_gap_score=-1
    )
    found.append(("Biopython PairwiseAligner, score", _over(pairs, aligner.score)))
    trace = _over(pairs, lambda a, b: aligner.align(a, b)[0])
    found.append(("Biopython PairwiseAligner, with traceback", trace))
    if find_spec("biotite"):
        found.append(("biotite align_optimal, with traceback", _biotite(pairs)))
    return found


def _over(pairs: list[list[str]], align: Callable[[str, str], object]) -> Callable[[], float]:
    def work() -> float:
        for a, b in pairs:
            align(a, b)
        return len(pairs) * CELLS

    return work


def _biotite(pairs: list[list[str]]) -> Callable[[], float]:
    from biotite.sequence import NucleotideSequence
    from biotite.sequence.align import SubstitutionMatrix, align_optimal

    matrix = SubstitutionMatrix.std_nucleotide_matrix()
    ready = [[NucleotideSequence(text.replace("U", "T")) for text in pair] for pair in pairs[:4]]

    def work() -> float:
        for a, b in ready:
            align_optimal(a, b, matrix, gap_penalty=(-10, -1), max_number=1)
        return len(ready) * CELLS

    return work


def kernels() -> list[Variant]:
    """Give the cells of our kernels from match scores that are there: the programme alone."""
    lengths = np.full(LANES, LENGTH, np.int32)
    match = RNG.uniform(-1, 1, (LENGTH, LENGTH, LANES)).astype(np.float32)
    trace = np.empty((LENGTH, LENGTH, LANES), np.uint8)
    ends, partners = np.empty((2, LANES), np.int32), np.empty((LANES, LENGTH), np.int32)
    batch = np.ascontiguousarray(match.transpose(2, 1, 0))

    def lanes(kind: type, with_trace: bool) -> Callable[[], float]:
        whole = kind is np.int16
        ready = np.round(match * 60).astype(np.int16) if whole else match
        penalties = (kind(60), kind(6)) if whole else (kind(1.0), kind(0.1))
        lowest = np.int16(-16000) if whole else LOWEST
        scores = np.empty(LANES, kind)

        def work() -> float:
            for _ in range(10):
                path = trace if with_trace else None
                align_lanes_by_match(
                    ready, lengths, *penalties, lowest, False, None, path, scores, ends
                )
                if with_trace:
                    walk_lanes(trace, lengths, ends, partners)
            return 10 * LANES * CELLS

        return work

    def one_by_one() -> float:
        align_batch(batch, lengths, lengths)
        return LANES * CELLS

    return [
        ("riboray, one pair at a time, float32, with traceback", one_by_one),
        ("riboray, lockstep, float32, score", lanes(np.float32, False)),
        ("riboray, lockstep, int16, score", lanes(np.int16, False)),
        ("riboray, lockstep, float32, with traceback", lanes(np.float32, True)),
        ("riboray, lockstep, int16, with traceback", lanes(np.int16, True)),
    ]


def similarities() -> list[Variant]:
    """Give the cells of whole alignments from embeddings, and of the matrix product alone."""
    source = SequenceSet.of([RNG.normal(size=(LENGTH, 120)) for _ in range(2 * LANES)])
    found: list[Variant] = []
    for width in (120, 64, 32):
        projection = fit_projection(source.embeddings, width)
        rows = source.embeddings if width == 120 else projection.apply(source.embeddings)
        chosen = SequenceSet(np.ascontiguousarray(rows), source.starts)
        found.append((f"{width}: matrix product alone (torch, 4096 × 4096)", _product(width)))
        for label, aligner, run in (
            ("float32, score", BlockAligner(), "scores"),
            ("int16, score", BlockAligner(arithmetic="int16"), "scores"),
            ("float32, with traceback", BlockAligner(), "alignments"),
        ):
            found.append((f"{width}: {label}", _blocks(chosen, getattr(aligner, run))))
    return found


def _product(width: int) -> Callable[[], float]:
    a, b = torch.randn(4096, width), torch.randn(width, 4096)
    out = torch.empty(4096, 4096)

    def work() -> float:
        torch.mm(a, b, out=out)
        return 4096.0**2

    return work


def _blocks(chosen: SequenceSet, run: Callable[..., object]) -> Callable[[], float]:
    blocks = list(target_blocks(chosen, np.arange(len(chosen))))

    def work() -> float:
        for query in range(16):
            for block in blocks:
                run(chosen[query], block)
        return 16 * len(chosen) * CELLS

    return work


def _forever(barrier: object, results: object, width: int) -> None:
    torch.set_num_threads(1)
    work = _product(width)
    work()
    barrier.wait()
    start, cells = time.perf_counter(), 0.0
    while time.perf_counter() - start < 3:
        cells += work()
    results.put(cells / (time.perf_counter() - start))


def product_rate(processes: int, width: int = 120) -> float:
    """Cells a second of the matrix product alone, by several processes at once, wall clock."""
    context = get_context("spawn")
    barrier, results = context.Barrier(processes), context.Queue()
    started = [
        context.Process(target=_forever, args=(barrier, results, width)) for _ in range(processes)
    ]
    for process in started:
        process.start()
    total = sum(results.get() for _ in started)
    for process in started:
        process.join()
    return total


def all_pairs(fasta: str, checkpoint: str, *options: str) -> dict:
    """Run the command; return its summary."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "riboray.cli", "align", fasta, "--all-pairs"]
        command += ["--checkpoint", checkpoint, "--output", f"{folder}/out", "--json", *options]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return json.loads(done.stdout)


def over_ray(fasta: str, checkpoint: str) -> None:
    """Print pairs per second of the whole command, by number of processes."""
    cores = os.cpu_count() or 1
    limits = {count: product_rate(count) for count in sorted({1, cores})}
    print("\n| all pairs over Ray | processes | pairs/s | Gcells/s | of the matrix product |")
    print("|---|---|---|---|---|")
    for label, options in (
        ("every alignment written", []),
        ("scores, 3 best of each aligned", ["--top-k", "3"]),
        ("the same, 32 dimensions", ["--top-k", "3", "--dimensions", "32"]),
    ):
        for count, limit in limits.items():
            done = all_pairs(fasta, checkpoint, "--num-workers", str(count), *options)
            for what, seconds in (("", done["align_seconds"]), (", start to end", done["seconds"])):
                pace = done["cells"] / seconds
                print(
                    f"| {label}{what} | {count} | {done['pairs_compared'] / seconds:,.0f} "
                    f"| {pace / 1e9:.2f} | {100 * pace / limit:.0f} % of {limit / 1e9:.2f} |",
                    flush=True,
                )


def linear(checkpoint: str) -> None:
    """Print the time for 1e9 to 1e11 cells: scores of random RNAs of 150 nt."""
    print("\n| cells | seconds of alignment | Gcells/s |")
    print("|---|---|---|")
    for cells in (1e9, 1e10, 1e11):
        count = round((2 * cells) ** 0.5 / LENGTH)
        with tempfile.NamedTemporaryFile("w", suffix=".fa") as file:
            for k in range(count):
                file.write(f">r{k}\n{''.join(RNG.choice(LETTERS, LENGTH))}\n")
            file.flush()
            done = all_pairs(file.name, checkpoint, "--top-k", "1")
        seconds = done["align_seconds"]
        pace = done["cells"] / seconds / 1e9
        print(f"| {done['cells']:.3g} | {seconds} | {pace:.2f} |", flush=True)


def main() -> None:
    """Measure everything and print the tables."""
    print(heading())
    tables = {"kernel, 150 × 150": [*peers(), *kernels()], "from embeddings": similarities()}
    for title, variants in tables.items():
        print(f"\n| {title} | Gcells per CPU second |")
        print("|---|---|")
        for label, rate in measure(variants).items():
            print(f"| {label} | {rate / 1e9:.3g} |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        untrained = Path(folder) / "untrained"
        save_checkpoint(RnaBertForPreTraining(RnaBertConfig()), untrained)
        fasta = sys.argv[1] if len(sys.argv) > 1 else SAMPLE_CORPUS
        checkpoint = sys.argv[2] if len(sys.argv) > 2 else str(untrained)
        over_ray(fasta, checkpoint)
        linear(checkpoint)


if __name__ == "__main__":
    main()
