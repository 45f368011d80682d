"""Ingest, embed and align all pairs with 1, 2, 4, … processes: what another one adds.

    python -m benchmarks.worker_scaling --workers 1 2 4 [--scale 1] [--verbs align]

Random RNA with the lengths of `benchmarks.speed`; ``--scale`` multiplies how much. Every figure is
of a whole command, Ray's start included, since that is what a user waits for; and of its own
count, which begins once Ray is there. Efficiency is the first count's time over (processes times
time). On fewer CPUs than processes it must fall. What a call costs beside its work is measured on
a crew of one whose calls do nothing.
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

from benchmarks.embedding import write
from benchmarks.speed import heading

_INGESTED, _EMBEDDED, _ALIGNED = 2_000_000, 20_000, 2_000


def run(*words: object) -> tuple[dict[str, float], float]:
    """Run a verb; return its summary and the wall-clock time."""
    command = [sys.executable, "-m", "riboray.cli", *map(str, words)]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    wall = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    text = done.stdout
    return json.loads(text[text.index("{\n") : text.rindex("}") + 1]), wall


def per_call() -> tuple[float, float, float]:
    """Seconds that an empty call takes in a crew of one: alone, with 1 kB, and with 1 MB sent."""
    from riboray.rayenv import prepare_ray

    address = prepare_ray("local")
    from riboray.crew.pipeline import crew_on

    found = []
    with crew_on(address, 1) as crew:
        for size, count in ((0, 2000), (1_000, 2000), (1_000_000, 300)):
            payload = bytes(size)
            list(crew.each([(None, (len, payload))] * 50))
            start = time.perf_counter()
            list(crew.each([(None, (len, payload))] * count))
            found.append((time.perf_counter() - start) / count)
    return found[0], found[1], found[2]


def main() -> None:
    """Measure and print tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--verbs", nargs="+", default=["ingest", "embed", "align"])
    given = parser.parse_args()
    print(f"{heading()}\n{os.cpu_count()} CPUs\n")
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        write(scratch / "first.fa", 50)
        sizes = {}
        for name, count in (("in", _INGESTED), ("em", _EMBEDDED), ("al", _ALIGNED)):
            # All pairs grow with the square.
            scale = given.scale**0.5 if name == "al" else given.scale
            sizes[name] = int(count * scale)
            write(scratch / f"{name}.fa", sizes[name])
        verbs = {
            f"ingest {sizes['in']:,} sequences": ["ingest", scratch / "in.fa"],
            f"embed {sizes['em']:,} sequences": ["embed", scratch / "em.fa", "--device", "cpu"],
            f"all pairs of {sizes['al']:,} RNAs": [
                *("align", scratch / "al.fa", "--all-pairs", "--min-score", "40"),
            ],
        }
        for name, words in verbs.items():
            if words[0] not in given.verbs:
                continue
            # The first run of a new installation compiles kernels, which are kept.
            run(*words[:1], scratch / "first.fa", *words[2:], "--output", scratch / words[0])
            print(f"| {name}, processes | wall, s | own count, s | efficiency | of own count |")
            print("|---|---|---|---|---|")
            first: tuple[int, float, float] | None = None
            for workers in given.workers:
                output = scratch / f"{words[0]}-{workers}"
                summary, wall = run(*words, "--num-workers", workers, "--output", output)
                own = float(summary.get("seconds", wall))
                first = first or (workers, wall, own)
                shares = [first[0] * first[k] / (workers * t) for k, t in ((1, wall), (2, own))]
                print(
                    f"| {workers} | {wall:.1f} | {own:.1f} | {shares[0]:.0%} | {shares[1]:.0%} |",
                    flush=True,
                )
            print()
    alone, small, large = per_call()
    print(
        f"an empty call: {1e3 * alone:.2f} ms; with 1 kB {1e3 * small:.2f} ms, "
        f"with 1 MB {1e3 * large:.2f} ms"
    )


if __name__ == "__main__":
    main()
