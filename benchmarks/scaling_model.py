"""What pre-training costs, piece by piece, and from it what all of RNAcentral would take.

    python -m benchmarks.scaling_model --corpus DIRECTORY       # about two minutes

Measures on this machine: training and aligning on one core, making batches out of Parquet, the
messages between workers, a checkpoint. Then predicts the time on N GPUs from these and from what
is assumed of a GPU (options), and names what limits it. See docs/scaling.md.
"""

from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[name] = "1"

import argparse
import itertools
import statistics
import tempfile
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from torch import distributed as dist
from torch import multiprocessing

from benchmarks.speed import heading
from riboray.pretraining.checkpoints import CheckpointStore
from riboray.pretraining.config import PretrainConfig
from riboray.pretraining.data import prepare_data
from riboray.pretraining.meter import training_flops
from riboray.pretraining.state import RunState, write_state
from riboray.pretraining.streams import PairBatch, iterate_stream, read_visit
from riboray.pretraining.trainer import Trainer

torch.set_num_threads(1)
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Measured:
    """What was measured here; rates are of one core."""

    train: float  # nucleotides/s, MLM step
    pairs: float  # pairs/s, SAL step
    align: float  # pairs/s, alignment alone
    read: float  # nucleotides/s, Parquet to masked batches
    disk: float  # bytes of Parquet a nucleotide
    payload: float  # bytes of a batch a nucleotide
    reduce: float  # s, gradients between two processes over loopback
    agree: float  # s, a few numbers between them
    checkpoint_bytes: int
    checkpoint: float  # s


def rate(work: list[tuple[float, object]], do: object) -> float:
    """Work per process-CPU second."""
    start = time.process_time()
    for _, item in work:
        do(item)  # type: ignore[operator]
    return sum(amount for amount, _ in work) / (time.process_time() - start)


def between_processes(rank: int, port: int, size: int, times: object) -> None:
    """Time the two messages of a step."""
    address = f"tcp://127.0.0.1:{port}"
    limit = timedelta(seconds=60)
    dist.init_process_group("gloo", address, rank=rank, world_size=2, timeout=limit)
    for which, tensor in enumerate((torch.zeros(size), torch.zeros(10, dtype=torch.float64))):
        spans = []
        for _ in range(200):
            start = time.perf_counter()
            dist.all_reduce(tensor)
            spans.append(time.perf_counter() - start)
        if rank == 0:
            times[which] = statistics.median(spans[20:])  # type: ignore[index]
    dist.destroy_process_group()


def messages(size: int) -> tuple[float, float]:
    """Return seconds of the gradients' and of the agreement's message, two processes."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    times = multiprocessing.get_context("spawn").Array("d", 2)
    multiprocessing.spawn(between_processes, (port, size, times), nprocs=2)  # type: ignore[no-untyped-call]
    return times[0], times[1]


def measure(corpus: Path) -> Measured:
    """Measure everything on this machine."""
    config = PretrainConfig(tokens_per_batch=2048, pair_tokens_per_batch=2048, max_steps=1)
    data = prepare_data(corpus, config, 1)
    trainer = Trainer(config, CPU)
    tokens, pairs = (
        [batch for _, batch in itertools.islice(iterate_stream(data.specs[name], 0), 40)]
        for name in ("mlm", "sal")
    )
    for warm in range(2):
        trainer.step([tokens[warm]], [pairs[warm]], learning_rate=1e-4)
    sized = [(float(batch.lengths.sum()), batch) for batch in tokens]
    train = rate(sized, lambda b: trainer.step([b], [], learning_rate=1e-4))
    counted = [(float(len(b.reference)), b) for b in pairs if isinstance(b, PairBatch)]
    sal = rate(counted, lambda b: trainer.step([], [b], learning_rate=1e-4))
    with torch.no_grad():
        launched = [(n, trainer.launch(b)) for n, b in counted]
    align = rate(launched, trainer.align)
    spec = data.specs["mlm"]
    start, nucleotides, payload = time.process_time(), 0, 0
    for visit in range(min(len(spec.windows), 20)):
        for batch in read_visit(spec, visit):
            nucleotides += int(batch.lengths.sum())
            payload += sum(array.nbytes for array in vars(batch).values())
    read = nucleotides / (time.process_time() - start)
    files = sorted(corpus.glob("sequences-*.parquet"))
    rows = sum(window.rows for window in spec.windows)
    seen = sum(window.rows for window in spec.windows[:20])
    disk = sum(f.stat().st_size for f in files) * seen / rows / nucleotides
    size = sum(p.numel() for p in trainer.parameters)
    reduce, agree = messages(size)
    with tempfile.TemporaryDirectory() as folder:
        store = CheckpointStore(Path(folder))
        begin = time.perf_counter()
        path = store.save(1, lambda d: write_state(trainer, d, RunState(), []))
        seconds = time.perf_counter() - begin
        stored = sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    per = payload / nucleotides
    return Measured(train, sal, align, read, disk, per, reduce, agree, stored, seconds)


def print_balance(corpus: Path) -> None:
    """Print the share of a step's time that its workers are busy, by the arithmetic of batches.

    Each takes one batch of each objective and waits for the one that has most to compute.
    """
    sizes, workers, steps = (1024, 4096, 16384), (2, 8, 64), 10
    print("\n| tokens a batch | " + " | ".join(f"{n} workers" for n in workers) + " |")
    print("|---|---|---|---|")
    for size in sizes:
        config = PretrainConfig(tokens_per_batch=size, pair_tokens_per_batch=size, max_steps=1)
        specs = prepare_data(corpus, config, 1).specs
        count = steps * max(workers)
        flops = sum(
            np.array(
                [
                    training_flops(config.model, [batch.lengths])
                    for _, batch in itertools.islice(iterate_stream(specs[name], 0), count)
                ]
            )
            for name in ("mlm", "sal")
        )
        cells = []
        for together in workers:
            of_steps = np.reshape(flops, (-1, together))
            cells.append(f"{of_steps.mean() / of_steps.max(axis=1).mean():.1%}")
        print(f"| {size:,} | {' | '.join(cells)} |")


def predict(m: Measured, given: argparse.Namespace) -> None:
    """Print the time and price of one pass and of ten, and what limits them."""
    print("\n| GPUs | GPU | reading | messages | step | limited by | ten passes | price |")
    print("|---|---|---|---|---|---|---|---|")
    for gpus in (1, 8, 64):
        compute = given.tokens_per_batch / given.gpu_tokens_per_s
        reading = given.tokens_per_batch / (m.read * given.reading_cores)
        # A ring: each worker sends 2 (N-1)/N of the gradients, and waits 2 (N-1) latencies.
        volume = 2 * (gpus - 1) / gpus * given.parameters * 4 / given.network
        wire = volume + 2 * 2 * (gpus - 1) * given.latency
        step = max(compute, reading) + wire
        parts = {"GPU": compute, "reading": reading, "messages": wire}
        worst = max(parts, key=lambda name: parts[name])
        steps = 10 * given.nucleotides / (given.tokens_per_batch * gpus)
        hours = steps * step / 3600
        milliseconds = [f"{1e3 * s:.2f} ms" for s in (*parts.values(), step)]
        price = f"{hours * gpus * given.price:,.0f}"
        cells = [str(gpus), *milliseconds, worst, f"{hours:.2f} h", price]
        print(f"| {' | '.join(cells)} |")
    cores = 10 * given.nucleotides / m.train / 3600
    print(f"\non CPUs: {cores:,.0f} core hours for ten passes, MLM alone")


def main() -> None:
    """Measure, print, predict."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True, help="made by riboray ingest")
    parser.add_argument("--nucleotides", type=float, default=28e9, help="of the corpus predicted")
    parser.add_argument(
        "--gpu-tokens-per-s", type=float, default=1.7e6, help="as measured on an H200"
    )
    parser.add_argument("--tokens-per-batch", type=float, default=65536, help="of a GPU and step")
    parser.add_argument("--reading-cores", type=float, default=2, help="of a GPU")
    parser.add_argument("--network", type=float, default=3e9, help="bytes/s between nodes, assumed")
    parser.add_argument("--latency", type=float, default=3e-5, help="s of a message, assumed")
    parser.add_argument("--parameters", type=float, default=515_000, help="trained, heads included")
    parser.add_argument("--price", type=float, default=3.0, help="of a GPU and hour, assumed")
    given = parser.parse_args()
    m = measure(given.corpus)
    print(heading() + "\n\n| measured | |\n|---|---|")
    rows = {
        "MLM training, nucleotides/s a core": f"{m.train:,.0f}",
        "SAL training, pairs/s a core": f"{m.pairs:,.0f}",
        "alignment alone, pairs/s a core": f"{m.align:,.0f}",
        "Parquet to masked batches, nucleotides/s a core": f"{m.read:,.0f}",
        "Parquet, bytes a nucleotide": f"{m.disk:.2f}",
        "batches, bytes a nucleotide": f"{m.payload:.2f}",
        "all-reduce of the gradients, 2 processes, gloo, loopback": f"{1e3 * m.reduce:.2f} ms",
        "agreement on ten numbers, likewise": f"{1e3 * m.agree:.2f} ms",
        "checkpoint": f"{m.checkpoint_bytes / 1e6:.1f} MB, {1e3 * m.checkpoint:.0f} ms",
    }
    for name, value in rows.items():
        print(f"| {name} | {value} |")
    print_balance(given.corpus)
    predict(m, given)


if __name__ == "__main__":
    main()
