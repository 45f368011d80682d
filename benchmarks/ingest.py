"""Ingesting against a straightforward script, end to end, with memory watched.

    python -m benchmarks.ingest [--sequences 1000000 10000000] [--folder DIR]

Made-up RNAs of 120 nt, one in twenty a repeat of another; headers as RNAcentral writes them. Every
row is a process of its own, from its start to its end. `riboray ingest` validates, filters, counts,
deduplicates exactly, writes sorted shards, duplicates and rejects; the script reads with pyfastx,
validates and deduplicates with pandas, and writes one Parquet file, all in memory. Memory is the
resident set (pages of mapped files that others share included) of the largest process, and of all
of them, looked at ten times a second. Needs the extras `dev` and `compare`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

LENGTH = 120
SCRIPT = """
import hashlib, sys
import pandas as pd
import pyfastx
rows = [(n, s, c) for n, s, c in pyfastx.Fastx(sys.argv[1], comment=True)]
table = pd.DataFrame(rows, columns=["id", "sequence", "description"])
table["sequence"] = table["sequence"].str.upper().str.replace("T", "U")
table = table[table["sequence"].str.fullmatch("[ACGUNRYSWKMBDHVX]+")]
table["length"] = table["sequence"].str.len()
table = table[table["length"].between(10, 440)].drop_duplicates("sequence")
table["sha256_64"] = [
    int.from_bytes(hashlib.sha256(s.encode()).digest()[:8]) for s in table["sequence"]
]
table.sort_values("sha256_64").to_parquet(
    sys.argv[2], compression="zstd", row_group_size=4096, index=False
)
print(len(table))
"""


def generate(path: Path, count: int) -> None:
    """Write random RNAs; one in twenty repeats one of half a million before."""
    rng = np.random.default_rng(1)
    letters, previous = np.frombuffer(b"ACGU", np.uint8), None
    with path.open("wb") as handle:
        for first in range(0, count, 500_000):
            size = min(500_000, count - first)
            block = letters[rng.integers(0, 4, (size, LENGTH), dtype=np.uint8)]
            if previous is not None:
                block[: size // 20] = previous[: size // 20]
            previous = block
            flat = block.tobytes()
            handle.write(
                b"".join(
                    b">URS%010X rRNA from 1 species\n%b\n"
                    % (first + k, flat[k * LENGTH : (k + 1) * LENGTH])
                    for k in range(size)
                )
            )


def measure(command: list[str]) -> tuple[float, float, float, str]:
    """Run a command; return seconds, MB of the largest process, MB of all of them, its output."""
    start, largest, total = time.monotonic(), 0, 0
    with tempfile.TemporaryFile("w+") as out:
        process = psutil.Popen(command, stdout=out, stderr=subprocess.PIPE, text=True)
        while process.poll() is None:
            sizes = []
            try:
                for child in [process, *process.children(recursive=True)]:
                    sizes.append(child.memory_info().rss)
            except psutil.Error:
                pass
            largest, total = max(largest, *sizes, 0), max(total, sum(sizes))
            time.sleep(0.1)
        seconds = time.monotonic() - start
        if process.returncode:
            raise SystemExit(f"{command}: {process.stderr.read()}")
        out.seek(0)
        return seconds, largest / 1e6, total / 1e6, out.read()


def rows(folder: Path, count: int) -> list[tuple[str, int, float, float, float, int]]:
    """Measure every way of ingesting ``count`` sequences."""
    path = folder / f"{count}.fa"
    generate(path, count)
    packed = folder / f"{count}.fa.gz"
    with path.open("rb") as source, gzip.open(packed, "wb", 4) as target:
        shutil.copyfileobj(source, target, 1 << 20)
    found = []
    ingest = [sys.executable, "-m", "riboray.cli", "ingest"]
    ways = [
        ("riboray ingest", [*ingest, str(path)]),
        ("riboray ingest, one process", [*ingest, str(path), "--num-workers", "1"]),
        ("riboray ingest, gzip", [*ingest, str(packed)]),
        ("pyfastx and pandas", [sys.executable, "-c", SCRIPT, str(path), str(folder / "x")]),
    ]
    for name, command in ways:
        output = folder / "corpus"
        shutil.rmtree(output, ignore_errors=True)
        if command[0:3] == ingest[0:3]:
            command = [*command, "--output", str(output)]
        seconds, largest, total, out = measure(command)
        kept = json.loads(out)["sequences_kept"] if out.startswith("{") else int(out)
        found.append((name, count, seconds, largest, total, kept))
        print_row(found[-1])
    path.unlink()
    packed.unlink()
    return found


def print_row(row: tuple[str, int, float, float, float, int]) -> None:
    """Print one measurement."""
    name, count, seconds, largest, total, kept = row
    print(
        f"{name:<30}{count:>12,}{seconds:>10.1f} s{count / seconds:>12,.0f}/s"
        f"{largest:>9,.0f} MB{total:>9,.0f} MB{kept:>12,} kept",
        flush=True,
    )


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description="Measure ingesting.")
    parser.add_argument("--sequences", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    given = parser.parse_args()
    print(f"{'':<30}{'sequences':>12}{'wall':>12}{'':>14}{'largest':>12}{'all':>12}")
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        for count in given.sequences:
            rows(Path(name), count)


if __name__ == "__main__":
    main()
