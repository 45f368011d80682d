"""What Ray costs in pre-training, and what a second worker brings: three kinds of run in turn.

    python -m benchmarks.pretrain_scaling --corpus DIRECTORY       # 6 x 5 minutes and a bit
    python -m benchmarks.pretrain_scaling --corpus DIRECTORY --tokens 4096

The same model, corpus and steps (two batches of each objective, of at most ``--tokens`` tokens):
the training loop in one process without Ray, which reads its batches itself; one Ray Train worker;
two of them. Wall-clock time from the first step on, checkpoints every two minutes included,
measurements left out. Every other round is in the opposite order: a shared host's speed drifts by
a tenth within minutes. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[name] = "1"

COMMON = ["--batches-per-step=2", "--evaluations=0", "--validation-pairs=20"]
COMMON += ["--validation-sequences=20", "--track=[]", "--device=cpu"]


def options_of(given: argparse.Namespace) -> list[str]:
    """Options of a run that all kinds share."""
    sizes = [f"--tokens-per-batch={given.tokens}", f"--pair-tokens-per-batch={given.tokens}"]
    return [*COMMON, *sizes, "--corpus", given.corpus, f"--max-minutes={given.minutes}"]


def without_ray(given: argparse.Namespace, folder: Path) -> None:
    """Train in this process; leave the records where a run has them."""
    import torch

    from riboray.options import parse_config
    from riboray.pretraining.checkpoints import CheckpointStore
    from riboray.pretraining.config import PretrainConfig
    from riboray.pretraining.data import prepare_data
    from riboray.pretraining.loop import run
    from riboray.pretraining.report import write_records
    from riboray.pretraining.sessions import LocalSession
    from riboray.pretraining.streams import iterate_stream
    from riboray.pretraining.trainer import Trainer

    torch.set_num_threads(1)
    config = parse_config("pretrain", PretrainConfig, options_of(given))
    data, session = prepare_data(Path(given.corpus), config, 2), LocalSession()
    trainer, store = Trainer(config, torch.device("cpu")), CheckpointStore(folder / "checkpoints")
    run(config, trainer, data.specs, iterate_stream, data.validation, session, store)
    write_records(folder / "metrics.jsonl", session.records)


def with_ray(given: argparse.Namespace, folder: Path, workers: int) -> None:
    """Train as a user does."""
    command = [sys.executable, "-m", "riboray.cli", "pretrain", *options_of(given)]
    command += [f"--num-workers={workers}", f"--storage={folder.parent}"]
    command += [f"--run-name={folder.name}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def measure(folder: Path) -> dict[str, float]:
    """Averages over a run's time, from its records."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    train = [r for r in records if r["kind"] == "train"]
    before, seconds, sums = 0.0, 0.0, dict.fromkeys(NAMES, 0.0)
    for record in train:
        span = record["elapsed_s"] - before
        before, seconds = record["elapsed_s"], seconds + span
        for name in NAMES:
            sums[name] += span * record.get(name, 0.0)
    return {"steps": train[-1]["step"], **{name: sums[name] / seconds for name in NAMES}}


NAMES = ("tokens_per_s", "pairs_per_s", "data_wait", "alignment_wait", "padding_efficiency", "mfu")


def main() -> None:
    """Run the three kinds and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--corpus", required=True, help="directory made by riboray ingest")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--tokens", type=int, default=1024, help="of a batch, at most")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--storage", help="keep the runs in this directory")
    parser.add_argument("--without-ray", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.without_ray:
        without_ray(given, Path(given.without_ray))
        return
    from benchmarks.speed import heading

    print(heading().replace("one thread", f"{given.minutes:g} minutes each") + "\n")
    print("| | tokens/s | pairs/s | data wait | alignment wait | padding efficiency | MFU |")
    print("|---|---|---|---|---|---|---|", flush=True)
    rates: dict[int, list[float]] = {0: [], 1: [], 2: []}
    kinds = [("without Ray", 0), ("Ray, 1 worker", 1), ("Ray, 2 workers", 2)]
    with tempfile.TemporaryDirectory(prefix="riboray-scaling-") as scratch:
        storage = Path(given.storage or scratch)
        for turn in range(given.rounds):
            for label, workers in kinds if turn % 2 == 0 else reversed(kinds):
                found = one_run(given, storage / f"round-{turn}-workers-{workers}", workers)
                rates[workers].append(found["tokens_per_s"])
                print(
                    f"| {label} | {found['tokens_per_s']:,.0f} | {found['pairs_per_s']:,.1f} "
                    f"| {found['data_wait']:.2%} | {found['alignment_wait']:.2%} "
                    f"| {found['padding_efficiency']:.1%} | {found['mfu']:.1%} |",
                    flush=True,
                )
    none, one, two = (sum(rates[workers]) for workers in range(3))
    print(f"\nRay's overhead: {1 - one / none:.1%} of the loop without it")
    print(f"two workers / one: {two / one:.2f}")


def one_run(given: argparse.Namespace, folder: Path, workers: int) -> dict[str, float]:
    """Train once, with so many workers; none is the loop without Ray, in a process of its own."""
    if workers:
        with_ray(given, folder, workers)
    else:
        folder.mkdir(parents=True)
        command = [sys.executable, "-m", "benchmarks.pretrain_scaling"]
        command += ["--corpus", given.corpus, "--minutes", str(given.minutes)]
        command += ["--tokens", str(given.tokens)]
        subprocess.run([*command, "--without-ray", str(folder)], check=True)
    return measure(folder)


if __name__ == "__main__":
    main()
