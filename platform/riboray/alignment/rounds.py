"""Running the tiles of a comparison that are not done yet, and choosing between rounds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from riboray.alignment.plan import TileSpec
from riboray.alignment.selection import best_of_each
from riboray.alignment.store import PairStore, Phase, TileReport
from riboray.console import Progress, say

if TYPE_CHECKING:
    from riboray.alignment.pipeline import TileRunner

__all__ = ["choose_best", "run_tiles"]

_LABELS: dict[Phase, str] = {"score": "scoring", "align": "aligning"}


def run_tiles(
    runner: TileRunner, store: PairStore, tiles: list[TileSpec], phase: Phase
) -> dict[str, TileReport]:
    """Run the tiles that are not committed yet; return every tile's report by name."""
    reports: dict[str, TileReport] = {}
    missing = []
    for tile in tiles:
        report = store.committed(phase, tile)
        if report is None:
            missing.append(tile)
        else:
            reports[tile.name] = report
    if reports:
        say(f"  {len(reports)} of {len(tiles)} tiles are done already")
    if not missing:
        return reports
    embedding = Progress("  embedding")
    runner.prepare(missing, lambda n, of: embedding.update(n / of, f"{n} of {of} chunks"))
    embedding.close()
    total = max(sum(tile.cells for tile in tiles), 1)
    done = before = total - sum(tile.cells for tile in missing)
    found = sum(report.reported for report in reports.values())
    progress, start = Progress(f"  {_LABELS[phase]:<9}", done / total), time.monotonic()
    for tile, report in runner.run(missing, phase):
        reports[tile.name] = report
        done += tile.cells
        found += report.reported
        pace = (done - before) / (time.monotonic() - start) / 1e9
        figures = f"{len(reports)} of {len(tiles)} tiles  {pace:.2f} Gcells/s  {found:,} pairs"
        progress.update(done / total, figures)
    progress.close()
    return reports


def choose_best(
    store: PairStore,
    tiles: Sequence[TileSpec],
    count: int,
    column: str,
    *,
    both: bool,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose the best scored pairs of each sequence, from all scored tiles.

    Parameters
    ----------
    store : PairStore
        Holds the tiles.
    tiles : sequence of TileSpec
        Scored tiles.
    count : int
        Pairs kept per sequence.
    column : str
        What to compare: ``score`` or ``z_score``.
    both : bool
        Whether a pair counts for both its sequences, or for the query alone.

    Returns
    -------
    query, target : ndarray, shape=(k,), dtype=int64
        The chosen pairs, by index.
    """
    pairs, values = np.empty((0, 2), np.int64), np.empty(0, np.float32)
    waiting: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []
    rows = 0

    def prune() -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        every = np.concatenate([pairs, *(p for p, _ in waiting)])
        scores = np.concatenate([values, *(v for _, v in waiting)])
        sides = [every[:, 0], every[:, 1]] if both else [every[:, 0]]
        chosen = best_of_each(sides, scores, count, exactly=True)
        return every[chosen], scores[chosen]

    for tile in sorted(tiles, key=lambda tile: tile.name):
        table = store.read("score", tile)
        columns = [table[name].to_numpy() for name in ("query_index", "target_index")]
        waiting.append((np.column_stack(columns), table[column].to_numpy().astype(np.float32)))
        rows += table.num_rows
        if rows > 2 * len(values) + 1_000_000:  # sorting again for every tile would take days
            pairs, values = prune()
            waiting, rows = [], 0
    pairs, _ = prune()
    return pairs[:, 0], pairs[:, 1]
