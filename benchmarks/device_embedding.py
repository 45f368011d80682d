"""`riboray embed` on a GPU: how fast, what the model alone makes, how far from float32 on a CPU.

    python -m benchmarks.device_embedding [--sequences 1000000]

Random RNA with the lengths of `benchmarks.speed`, as plain FASTA. Each line is a whole command:
reading, Ray, the model, Arrow files; "seconds" are the command's own count, which leaves out
imports. The model alone embeds and pools the first 200,000 in one process. The CPU embeds the first
20,000, with which the others' embeddings are compared.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.embedding import write
from benchmarks.speed import heading
from benchmarks.worker_scaling import run

_ALONE, _COMPARED = 200_000, 20_000


def first_rows(output: Path, count: int) -> np.ndarray:
    """Read the first embeddings."""
    from riboray.embedding.store import EmbeddingSet

    stored = EmbeddingSet.open(output)
    return np.concatenate(stored.views())[:count].astype(np.float32)


def alone(fasta: Path, precision: str) -> float:
    """Embed and pool in this process; return nucleotides a second, the first round left out."""
    import torch

    from riboray.corpus.sequences import read_sequences
    from riboray.embedding.embedder import Embedder, Wanted
    from riboray.model import load_checkpoint

    texts = read_sequences([str(fasta)]).sequences[:_ALONE]
    embedder = Embedder(load_checkpoint("rnabert").model, device="cuda", precision=precision)
    wanted = Wanted((embedder.config.num_hidden_layers,))
    embedder.embed(texts[:20_000], wanted)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for first in range(0, len(texts), 20_000):
        embedder.embed(texts[first : first + 20_000], wanted)
    torch.cuda.synchronize()
    return sum(map(len, texts)) / (time.perf_counter() - start)


def main() -> None:
    """Measure and print a table."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=1_000_000)
    given = parser.parse_args()
    print(heading())
    print(f"{torch.cuda.get_device_name()}, {os.cpu_count()} CPUs\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        whole, few = scratch / "rnas.fa", scratch / "few.fa"
        nucleotides = write(whole, given.sequences)
        with whole.open() as lines, few.open("w") as sink:
            sink.writelines(line for line, _ in zip(lines, range(2 * _COMPARED), strict=False))
        run("embed", few, "--output", scratch / "cpu", "--device", "cpu")
        exact = first_rows(scratch / "cpu", _COMPARED)
        print("| | seconds | wall | sequences/s | nt/s | model alone, nt/s | largest error |")
        print("|---|---|---|---|---|---|---|")
        for name, precision, options in (
            ("bfloat16", "bfloat16", ()),
            ("bfloat16, compiled", "bfloat16", ("--compile", "true")),
            ("float32", "float32", ()),
        ):
            output = scratch / name.replace(", ", "-")
            words = ("embed", whole, "--output", output, "--device", "gpu")
            made, wall = run(*words, "--precision", precision, *options)
            error = np.abs(first_rows(output, _COMPARED) - exact).max()
            bare = alone(whole, precision) if not options else float("nan")
            rate = nucleotides / made["seconds"]
            print(
                f"| {name} | {made['seconds']:.1f} | {wall:.1f} | "
                f"{given.sequences / made['seconds']:,.0f} | {rate:,.0f} | {bare:,.0f} | "
                f"{error:.2g} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
