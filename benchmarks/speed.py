"""Speed of the core beside the original's way and MultiMolecule, in one run, one thread.

    python -m benchmarks.speed            # about six minutes; MultiMolecule if it is installed

Variants take turns, round by round; a figure is the median over rounds of work per second of
process CPU time. Sequences are random RNA with lengths drawn as a clipped log-normal
(median 140, 70 to 440 nt, mean about 160): what counts is their length.
"""

from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[name] = "1"  # before numpy is imported: pools cannot shrink later

import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from benchmarks.original import OriginalEncoder, per_pair_sal_step
from riboray.alphabet import MULTIMOLECULE, encode
from riboray.batching import plan_batches
from riboray.model import RnaBertConfig, RnaBertForPreTraining
from riboray.pretraining.config import PretrainConfig
from riboray.pretraining.losses import sal_loss
from riboray.pretraining.masking import IGNORE, mask_batch, sequence_keys
from riboray.pretraining.streams import TokenBatch
from riboray.pretraining.trainer import Trainer

ROUNDS = 3
Variant = tuple[str, Callable[[], float]]  # name, function that does work and returns its amount

torch.set_num_threads(1)
RNG = np.random.default_rng(0)


def make_sequences(count: int) -> list[str]:
    """Random sequences with the length mix stated above."""
    lengths = np.clip(RNG.lognormal(np.log(140), 0.45, count), 70, 440).astype(int)
    return ["".join(RNG.choice(list("ACGU"), size=size)) for size in lengths]


def measure(variants: list[Variant], rounds: int = ROUNDS) -> dict[str, float]:
    """Work per CPU second of each variant, taking turns."""
    rates: dict[str, list[float]] = {name: [] for name, _ in variants}
    for number in range(rounds + 1):
        for name, work in variants:
            start = time.process_time()
            amount = work()
            if number:  # the first round warms up
                rates[name].append(amount / (time.process_time() - start))
    return {name: statistics.median(values) for name, values in rates.items()}


def alphabet() -> list[Variant]:
    """Nucleotides encoded per second, a batch of strings into a padded array."""
    sequences = make_sequences(20_000)
    total = float(sum(map(len, sequences)))
    table = {c: i for i, c in enumerate(MULTIMOLECULE.tokens)}

    def per_character() -> float:
        for sequence in sequences[:4000]:
            [table[c] for c in sequence]
        return float(sum(map(len, sequences[:4000])))

    def ours() -> float:
        encode(sequences)
        return total

    return [("dictionary per character", per_character), ("riboray", ours)]


def forward() -> list[Variant]:
    """Sequences embedded per second."""
    sequences = make_sequences(512)
    original = OriginalEncoder().eval()
    model = RnaBertForPreTraining(RnaBertConfig()).eval()

    @torch.inference_mode()
    def padded() -> float:
        ids, _ = encode(sequences[:40], pad_to=440)
        original(torch.from_numpy(ids).long())
        return 40.0

    @torch.inference_mode()
    def ours() -> float:
        lengths = np.array([len(s) for s in sequences])
        for rows in plan_batches(lengths, 2048):
            ids, sizes = encode([sequences[row] for row in rows])
            model(torch.from_numpy(ids), torch.from_numpy(sizes))
        return float(len(sequences))

    variants = [("original: padded to 440, batch 40", padded), ("riboray", ours)]
    try:
        import multimolecule
    except ImportError:
        return variants
    tokenizer = multimolecule.RnaTokenizer()

    def library(implementation: str) -> Callable[[], float]:
        config = multimolecule.RnaBertConfig(attn_implementation=implementation)
        theirs = multimolecule.RnaBertModel(config).eval()
        assert theirs.config._attn_implementation == implementation

        @torch.inference_mode()
        def embed() -> float:
            for start in range(0, 64, 32):
                batch = sequences[start : start + 32]
                theirs(**tokenizer(batch, return_tensors="pt", padding=True))
            return 64.0

        return embed

    return [
        *variants,
        ("MultiMolecule as constructed: eager, batch 32, unsorted", library("eager")),
        ("MultiMolecule asked for SDPA: batch 32, unsorted", library("sdpa")),
    ]


def training() -> list[Variant]:
    """Tokens (nucleotides) trained on per second with MLM: forward, backward, optimiser."""
    sequences = make_sequences(256)
    original = OriginalEncoder()
    optimizer = torch.optim.AdamW(original.parameters(), lr=1e-4, foreach=False)
    keys = sequence_keys([str(i) for i in range(len(sequences))])

    def masked(rows: np.ndarray, pad_to: int | None) -> TokenBatch:
        ids, lengths = encode([sequences[row] for row in rows], pad_to=pad_to)
        return TokenBatch(*mask_batch(ids, keys[rows], 0, 0, MULTIMOLECULE), lengths)

    def plain() -> float:
        batch = masked(np.arange(20), 440)
        labels = torch.from_numpy(batch.labels).long()
        logits = original.logits(original(torch.from_numpy(batch.input_ids).long()))
        loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return float(batch.lengths.sum())

    trainer = Trainer(PretrainConfig(), torch.device("cpu"))
    lengths = np.array([len(s) for s in sequences])
    plans = plan_batches(lengths, 2048, jitter=8, generator=np.random.default_rng(0))

    def ours() -> float:
        tokens = 0
        for rows in plans:
            tokens += trainer.step([masked(rows, None)], [], learning_rate=1e-4).tokens
        return float(tokens)

    return [("original: padded to 440, batch 20", plain), ("riboray", ours)]


def sal() -> list[Variant]:
    """Pairs per second from base embeddings to their gradient; 20 pairs, mean 145 nt."""
    count = 20
    lengths_a, lengths_b = (RNG.integers(110, 181, count) for _ in range(2))
    hidden_a, hidden_b = (
        torch.randn(count, int(sizes.max()), 120, requires_grad=True)
        for sizes in (lengths_a, lengths_b)
    )
    reference = np.full((count, int(lengths_a.max())), -1, dtype=np.int32)
    for row, n, m in zip(reference, lengths_a, lengths_b, strict=True):
        row[: min(n, m)] = np.arange(min(n, m))

    def learn(loss: torch.Tensor) -> None:
        hidden_a.grad = hidden_b.grad = None  # in training nothing is added to either
        loss.backward()  # type: ignore[no-untyped-call]

    def loop() -> float:
        loss = per_pair_sal_step(
            [hidden_a[k, : lengths_a[k]] for k in range(count)],
            [hidden_b[k, : lengths_b[k]] for k in range(count)],
            [reference[k, : lengths_a[k]] for k in range(count)],
        )
        learn(loss)
        return float(count)

    def ours() -> float:
        for _ in range(10):
            learn(sal_loss(hidden_a, hidden_b, lengths_a, lengths_b, reference).mean())
        return 10.0 * count

    return [("per-pair Python loop", loop), ("riboray", ours)]


def cpu_name() -> str:
    """Return the processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def heading() -> str:
    """Return date and machine."""
    now = datetime.now(UTC).strftime("%Y-%m-%d")
    return f"{now}, {cpu_name()}, {os.cpu_count()} CPUs, one thread, torch {torch.__version__}"


def main() -> None:
    """Measure everything and print one table."""
    print(heading() + "\n")
    print("| what | variant | per CPU second | riboray is |\n|---|---|---|---|")
    tables = {
        "encoding, nucleotides": alphabet,
        "embedding, sequences": forward,
        "MLM training step, nucleotides": training,
        "SAL step without encoder, pairs": sal,
    }
    for what, make in tables.items():
        rates = measure(make())
        for name, rate in rates.items():
            ratio = f"{rates['riboray'] / rate:.1f} ×" if name != "riboray" else ""
            print(f"| {what} | {name} | {rate:,.4g} | {ratio} |", flush=True)


if __name__ == "__main__":
    main()
