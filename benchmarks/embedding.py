"""The whole of `riboray embed` beside the bare model, and memory against the number of sequences.

    python -m benchmarks.embedding --checkpoint CHECKPOINT             # about a quarter of an hour
    python -m benchmarks.embedding --checkpoint CHECKPOINT --shares    # half a minute
    python -m benchmarks.embedding --predict                           # docs/scaling.md; no time
    python -m benchmarks.embedding --checkpoint CHECKPOINT --memory    # an hour; a tiny one: less

Random RNA with the lengths of `benchmarks.speed`. The bare model embeds and pools a list of
sequences in a process of its own, on one thread, before and after the jobs, since a shared
machine's speed drifts. The jobs read FASTA, start Ray, embed, write Arrow files and stop Ray:
wall-clock time of the command. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[name] = "1"


def bare(checkpoint: str, fasta: str, count: int) -> None:
    """Embed so many sequences in this process; print sequences a second."""
    import torch

    from riboray.corpus.sequences import read_sequences
    from riboray.embedding.embedder import Embedder, Wanted
    from riboray.model import load_checkpoint

    torch.set_num_threads(1)
    texts = read_sequences([fasta]).sequences[:count]
    embedder = Embedder(load_checkpoint(checkpoint).model)
    wanted = Wanted((embedder.config.num_hidden_layers,))
    embedder.embed(texts[:200], wanted)
    start = time.perf_counter()
    embedder.embed(texts, wanted)
    print(len(texts) / (time.perf_counter() - start))


def bare_rate(given: argparse.Namespace, fasta: Path, count: int) -> float:
    """Run `bare` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.embedding", "--checkpoint", given.checkpoint]
    command += ["--bare", str(fasta), "--sequences", str(count)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


class Watch:
    """Largest resident set of any process of a command, and of its largest group, in bytes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.driver = self.worker = 0
        self._process = process
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        import psutil

        while self._process.poll() is None:
            try:
                parent = psutil.Process(self._process.pid)
                self.driver = max(self.driver, parent.memory_info().rss)
                for child in parent.children(recursive=True):
                    name = " ".join(child.cmdline()[:1])
                    if name.startswith("ray::"):
                        self.worker = max(self.worker, child.memory_info().rss)
            except psutil.Error:
                pass
            time.sleep(0.5)


def job(
    given: argparse.Namespace, fasta: Path, output: Path, workers: int, *options: str
) -> tuple[float, Watch]:
    """Run `riboray embed`; return its seconds and what it took of memory."""
    command = [sys.executable, "-m", "riboray.cli", "embed", str(fasta)]
    command += ["--checkpoint", given.checkpoint, "--output", str(output)]
    command += ["--num-workers", str(workers), *options]
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    watch = Watch(process)
    out, _ = process.communicate()
    assert process.returncode == 0, out
    return time.perf_counter() - start, watch


def draw_lengths(generator: Any, count: int) -> Any:
    """Draw lengths as those of `benchmarks.speed`."""
    import numpy as np

    return np.clip(generator.lognormal(np.log(140), 0.45, count), 70, 440).astype(int)


def write(path: Path, count: int) -> int:
    """Write random RNA; return its nucleotides."""
    import numpy as np

    generator = np.random.default_rng(1)
    lengths = draw_lengths(generator, count)
    letters = np.frombuffer(b"ACGU", np.uint8)
    with path.open("wb") as handle:
        for k, length in enumerate(lengths):
            handle.write(b">r%d\n%s\n" % (k, generator.choice(letters, length).tobytes()))
    return int(lengths.sum())


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", default="")
    parser.add_argument("--predict", action="store_true", help="RNAcentral on GPUs")
    parser.add_argument("--sequences", type=int, default=100_000)
    parser.add_argument("--memory", action="store_true", help="10,000 against 1,000,000 sequences")
    parser.add_argument("--shares", action="store_true", help="where one process spends its time")
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.predict:
        predict()
        return
    if not given.checkpoint:
        parser.error("--checkpoint is required")
    if given.bare:
        bare(given.checkpoint, given.bare, given.sequences)
        return
    from benchmarks.speed import heading

    print(heading() + "\n")
    with tempfile.TemporaryDirectory(prefix="riboray-embedding-") as scratch:
        if given.shares:
            shares(given, Path(scratch))
        elif given.memory:
            memory(given, Path(scratch))
        else:
            speed(given, Path(scratch))


#: RNAcentral 25: sequences, nucleotides (see docs/scaling.md), and bytes of FASTA.
_SEQUENCES, _NUCLEOTIDES, _TEXT = 50e6, 28e9, 32.7e9
#: Nucleotides a second through a GPU's process, reading and writing too, measured on an H200 in
#: float32 (`benchmarks.device_embedding`, 2026-11-27). Assumed: passes of a
#: nucleotide, as half of them lie in long RNAs, whose windows overlap by half; bytes a second to a
#: GPU's share of the storage; price of an hour.
_GPU, _PASSES, _STORAGE, _PRICE = 2.4e6, 1.5, 1e9, 3.0
#: Measured (`--shares`, 2026-11-26): seconds of a core for a sequence when the input is read
#: beforehand.
_PLAN = 2e-6


def predict() -> None:
    """Print what embedding all of RNAcentral would take on GPUs."""
    pooled = _SEQUENCES * (480 + 60) + _NUCLEOTIDES
    per_base = pooled + 240 * _NUCLEOTIDES
    print(
        "| GPUs | read once before | GPU | writing | limited by | time | price ",
        end="",
    )
    print("| with bases: writing, time |\n|---|---|---|---|---|---|---|---|")
    for count in (1, 8, 64):
        plan = _SEQUENCES * _PLAN / count
        parts = {
            "GPU": _NUCLEOTIDES * _PASSES / _GPU / count,
            "writing": pooled / _STORAGE / count,
        }
        slowest = max(parts, key=parts.__getitem__)
        total = plan + parts[slowest]
        writing = per_base / _STORAGE / count
        bases = plan + max(writing, parts["GPU"])
        times = " | ".join(f"{seconds:,.0f} s" for seconds in (plan, *parts.values()))
        price = total / 3600 * _PRICE * count
        print(f"| {count} | {times} | {slowest} | {total / 60:,.1f} min | {price:,.1f} ", end="")
        print(f"| {writing:,.0f} s, {bases / 60:,.0f} min |")
    print(f"\npooled {pooled / 1e9:,.0f} GB, with bases {per_base / 1e12:,.1f} TB")


def speed(given: argparse.Namespace, scratch: Path) -> None:
    """Time the whole job with one worker and with two, beside the bare model."""
    fasta = scratch / "rnas.fa"
    nucleotides = write(fasta, given.sequences)
    few = min(given.sequences, 20_000)
    rates = [bare_rate(given, fasta, few)]
    times = {}
    for workers in (2, 1):
        times[workers], _ = job(given, fasta, scratch / f"out{workers}", workers)
        rates.append(bare_rate(given, fasta, few))
    model = sum(rates) / len(rates)
    mean = nucleotides / given.sequences
    print(f"{given.sequences:,} sequences of mean {mean:.0f} nt; bare model, one thread: ", end="")
    print(", ".join(f"{rate:.0f}" for rate in rates) + f" sequences/s, mean {model:.0f}\n")
    print("| workers | seconds | sequences/s | share of the bare model on as many threads |")
    print("|---|---|---|---|")
    for workers in (1, 2):
        rate = given.sequences / times[workers]
        share = rate / model / workers
        print(f"| {workers} | {times[workers]:.1f} | {rate:,.0f} | {share:.1%} |")
    print(f"\ntwo workers / one: {times[1] / times[2]:.2f}")


def shares(given: argparse.Namespace, scratch: Path) -> None:
    """Time the parts of one process's work, and compare the model with the matrix product."""
    import numpy as np
    import torch

    from riboray.embedding import driver, embedder, shards
    from riboray.embedding.config import EmbedConfig
    from riboray.pretraining.meter import matmul_ceiling

    torch.set_num_threads(1)
    fasta = scratch / "rnas.fa"
    write(fasta, 6_000)
    spent: dict[str, float] = {}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                spent[name] = spent.get(name, 0.0) + time.perf_counter() - start

        return call

    def run(folder: str) -> None:
        options = {"input": [str(fasta)], "checkpoint": given.checkpoint}
        driver.embed(EmbedConfig(**options, output=str(scratch / folder)))

    run("warm")
    embedder.encode_packed = timed("tokenising", embedder.encode_packed)
    embedder.Embedder.states = timed("the model", embedder.Embedder.states)
    embedder.pool_packed = timed("pooling", embedder.pool_packed)
    embedder.Embedder.embed = timed("embedding", embedder.Embedder.embed)
    shards.PartMaker.make = timed("parts", shards.PartMaker.make)
    driver.make_plan = timed("reading the input once before", driver.make_plan)
    driver._SMALL_SECONDS = np.inf
    driver.estimate_seconds = lambda *_: 0.0
    run("measured")
    total = spent["parts"] + spent["reading the input once before"]
    spent["screening, writing, hashing, fsync"] = spent["parts"] - spent.pop("embedding")
    del spent["parts"]
    for name, seconds in spent.items():
        print(f"| {name} | {seconds:.2f} s | {seconds / total:.1%} |")
    lengths = np.array([len(line) for line in fasta.read_text().splitlines()[1::2]])
    config = embedder.Embedder(shards.load_checkpoint(given.checkpoint).model).config
    work = config.num_hidden_layers * float(config.layer_flops(lengths).sum())
    ceiling = matmul_ceiling(torch.device("cpu"), torch.float32)
    rate = work / spent["the model"]
    print(
        f"\nthe model: {rate / 1e9:.1f} GFLOP/s, {rate / ceiling:.0%} of a matrix product's ",
        end="",
    )
    print(f"{ceiling / 1e9:.1f}")


def memory(given: argparse.Namespace, scratch: Path) -> None:
    """Measure the largest resident sets with few and with many sequences."""
    print("| sequences | driver, MB | largest worker, MB | seconds |")
    print("|---|---|---|---|")
    for count in (10_000, 1_000_000):
        fasta = scratch / f"{count}.fa"
        write(fasta, count)
        seconds, watch = job(given, fasta, scratch / f"m{count}", 2)
        megabytes = f"{watch.driver / 1e6:.0f} | {watch.worker / 1e6:.0f}"
        print(f"| {count:,} | {megabytes} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
