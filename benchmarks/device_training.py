"""What pre-training does on a GPU: is it right, how fast, and what could it be.

    python -m benchmarks.device_training CORPUS [--variants fp32 bf16 bf16-compiled]

CORPUS is a directory made by `riboray ingest` with members. First the device's alignments are
checked: losses and gradients against the CPU's on batches of the corpus. Then, on batches made
beforehand, steps are timed, and parts of them: the encoder forward and backward, the alignments.
Medians of some rounds, the device waited for before and after each; and, of the first variant, the
first round of steps by itself, since whatever plans or compiles for a shape does it then.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from riboray.pretraining.config import PretrainConfig
from riboray.pretraining.cosines import upload
from riboray.pretraining.curriculum import Phase
from riboray.pretraining.data import prepare_data
from riboray.pretraining.device_alignment import aligned_loss, best_partners, can_align
from riboray.pretraining.losses import match_scores, sal_loss
from riboray.pretraining.meter import matmul_ceiling, training_flops
from riboray.pretraining.streams import PairBatch, TokenBatch, read_visit
from riboray.pretraining.trainer import Trainer

ROUNDS, STEPS = 5, 8


#: Largest relative error of losses and gradients in float32.
_TOLERANCE = 1e-4


def settings(corpus: str, precision: str, compiled: bool, tokens: int) -> PretrainConfig:
    """Return what is timed: groups of eight, masked sequences, Muon."""
    return PretrainConfig(
        corpus=[corpus],
        curriculum=[Phase(objectives="mlm+sal")],
        group_size=8,
        family_temperature=3,
        sal_length_power=1,
        optimizer="muon",
        ema_decay=0.998,
        tokens_per_batch=max(tokens // 4, 1024),
        pair_tokens_per_batch=tokens,
        precision=precision,  # type: ignore[arg-type]
        compile=compiled,
        num_workers=1,
    )


def median_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Time some work: the median of some rounds, after one to warm up."""
    found = []
    for _ in range(ROUNDS + 1):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - start)
    return statistics.median(found[1:])


def check(trainer: Trainer, batches: list[PairBatch]) -> None:
    """Compare the device's losses and gradients with the CPU's."""
    config = trainer.config
    for batch in (batches[0], batches[len(batches) // 2], batches[-1]):
        with torch.no_grad():
            pairs = trainer.embed_pairs(batch)
        sizes = pairs.lengths_a, pairs.lengths_b
        results = []
        for device in (trainer.device, torch.device("cpu")):
            sides = [h.detach().float().to(device).requires_grad_() for h in pairs.hidden]
            rule = (*sizes, batch.reference, config.gaps, config.margins)
            loss = aligned_loss if can_align(device) else sal_loss
            losses = loss(*sides, *rule)  # type: ignore[operator]
            losses.sum().backward()
            results.append([losses.detach().cpu(), *(s.grad.cpu() for s in sides)])
        errors = [float((a - b).norm() / (b.norm() + 1e-12)) for a, b in zip(*results, strict=True)]
        alike = float((results[0][0] - results[1][0]).abs().max())
        if max(errors) > _TOLERANCE:
            raise SystemExit(f"the device's numbers are not the CPU's: {errors}")
        print(
            f"  {len(batch.reference)} pairs of up to {batch.reference.shape[1]} nt: "
            f"losses differ by {alike:.1e} at most; relative errors of losses and gradients "
            + ", ".join(f"{e:.1e}" for e in errors)
        )


def time_parts(trainer: Trainer, batch: PairBatch, tokens: TokenBatch) -> None:
    """Time the parts of a step on one batch of pairs and one of tokens."""
    device, config = trainer.device, trainer.config

    def embed(batch: PairBatch | TokenBatch) -> torch.Tensor:
        with trainer._autocast():
            return trainer._embed(batch)

    def both() -> None:
        trainer.model.zero_grad(set_to_none=True)
        embed(batch).float().sum().backward()  # type: ignore[no-untyped-call]

    size = int(batch.lengths.sum())
    flops = training_flops(config.model, [batch.lengths])
    for name, work in (("forward", lambda: embed(batch)), ("forward and backward", both)):
        seconds = median_seconds(work, device)
        rate = flops * (1 / 3 if name == "forward" else 1) / seconds
        print(
            f"  {name}: {size} tokens in {1e3 * seconds:.2f} ms, "
            f"{size / seconds / 1e6:.2f} M tokens/s, {rate / 1e12:.1f} TFLOP/s"
        )
    with torch.no_grad():
        pairs = trainer.embed_pairs(batch)
    sizes = pairs.lengths_a, pairs.lengths_b
    cells = int((sizes[0].astype(np.int64) * sizes[1]).sum())
    places = [upload(np.ascontiguousarray(x, np.int32), device) for x in (*sizes, batch.reference)]
    match = match_scores(*pairs.hidden)
    if can_align(device):
        rule = (config.gaps, config.margins)
        seconds = median_seconds(lambda: best_partners(match, *places, *rule), device)
        print(
            f"  alignment alone: {len(sizes[0])} pairs, {cells / 1e6:.1f} M cells in "
            f"{1e3 * seconds:.2f} ms, {cells / seconds / 1e9:.1f} G cells/s"
        )

        def loss() -> None:
            sides = [h.detach().requires_grad_() for h in pairs.hidden]
            aligned_loss(*sides, *sizes, batch.reference, *rule).sum().backward()

        print(f"  alignment loss, both ways: {1e3 * median_seconds(loss, device):.2f} ms")
    seconds = median_seconds(lambda: trainer.step([tokens], [], learning_rate=0.0), device)
    print(f"  step on {int(tokens.lengths.sum())} masked tokens: {1e3 * seconds:.2f} ms")


def time_steps(trainer: Trainer, pairs: list[PairBatch], tokens: list[TokenBatch]) -> None:
    """Time whole steps, over batches of all lengths, one of each kind a step."""
    device = trainer.device
    # As they come in training: sorted pairs, every so many of them.
    count = min(len(pairs), len(tokens), STEPS)
    pairs = [pairs[k] for k in np.linspace(0, len(pairs) - 1, count).astype(int)]
    steps = [(tokens[i : i + 1], pairs[i : i + 1]) for i in range(count)]

    def work() -> None:
        for step in steps:
            trainer.step(*step, learning_rate=1e-5)

    start = time.perf_counter()
    work()
    trainer.all_sum([float(trainer.parameters[0].sum())])  # waits for the device
    print(
        f"  steps of shapes that are new: {(time.perf_counter() - start) / len(steps):.3f} s each"
    )
    seconds = median_seconds(work, device)
    flat = [b for step in steps for side in step for b in side]
    size = sum(int(b.lengths.sum()) for b in flat)
    aligned = sum(len(b.reference) for step in steps for b in step[1])
    rate = training_flops(trainer.config.model, [b.lengths for b in flat]) / seconds
    dtype = torch.bfloat16 if trainer.bf16 else torch.float32
    ceiling = matmul_ceiling(device, dtype)
    print(
        f"  steps: {len(steps)} in {seconds:.3f} s, {1e3 * seconds / len(steps):.1f} ms each; "
        f"{size / seconds / 1e6:.2f} M tokens/s, {aligned / seconds:,.0f} pairs/s; "
        f"{rate / 1e12:.1f} of {ceiling / 1e12:.0f} TFLOP/s ({100 * rate / ceiling:.1f} %)"
    )


def main() -> None:
    """Check and time."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("corpus")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tokens", type=int, default=32768, help="tokens of a batch of pairs")
    parser.add_argument("--visits", type=int, default=2, help="windows of the corpus to read")
    parser.add_argument("--variants", nargs="+", default=["float32", "bfloat16"])
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}", flush=True)
    data = prepare_data(
        Path(arguments.corpus), settings(arguments.corpus, "float32", False, arguments.tokens), 1
    )
    made = {
        name: [b for visit in range(arguments.visits) for b in read_visit(data.specs[name], visit)]
        for name in ("mlm", "sal")
    }
    tokens = [b for b in made["mlm"] if isinstance(b, TokenBatch)]
    pairs = [b for b in made["sal"] if isinstance(b, PairBatch)]
    pairs.sort(key=lambda batch: batch.input_ids.shape[1])
    spare = pairs.pop(1)
    for number, variant in enumerate(arguments.variants):
        precision, compiled = variant.removesuffix("-compiled"), variant.endswith("-compiled")
        if precision == "bfloat16" and device.type == "cpu":
            continue  # many times slower there
        config = settings(arguments.corpus, precision, compiled, arguments.tokens)
        trainer = Trainer(config, device)
        print(variant, flush=True)
        if not number:
            check(trainer, pairs)
        start = time.perf_counter()
        trainer.warm_up(tokens[-1:], [spare])
        print(f"  warm-up: {time.perf_counter() - start:.1f} s", flush=True)
        time_steps(trainer, pairs, tokens[:-1])
        time_parts(trainer, pairs[len(pairs) // 2], tokens[0])


if __name__ == "__main__":
    main()
