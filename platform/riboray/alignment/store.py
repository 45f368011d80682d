"""The directory of a comparison: tiles that are whole or absent, and what proves them.

``pairs/`` holds the result, ``work/`` what leads to it; ``work/`` goes when the manifest is there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from riboray.alignment.hits import write_arrow, write_tsv
from riboray.alignment.plan import TileSpec
from riboray.manifest import (
    FileEntry,
    Manifest,
    atomic_path,
    entered,
    finished,
    tidy,
    write_json,
    write_manifest,
)

__all__ = ["ALIGNMENTS_KIND", "PairStore", "Phase", "TileReport"]

ALIGNMENTS_KIND = "alignments"

Phase = Literal["score", "align"]
"""A comparison that chooses the best of each sequence scores everything first."""


@dataclass(frozen=True)
class TileReport:
    """What became of a tile: pairs scored, pairs reported."""

    scored: int
    reported: int


@dataclass(frozen=True)
class PairStore:
    """Writes and recognises tiles.

    Attributes
    ----------
    directory : Path
        The output directory.
    identity : str
        Hash of everything that decides the result; another one's directory is refused.
    direct : bool
        Whether aligned tiles are the result themselves, or are sorted once more at the end.
    """

    directory: Path
    identity: str
    direct: bool = True

    @property
    def pairs(self) -> Path:
        """Folder of the resulting Arrow files, a dataset of its own."""
        return self.directory / "pairs"

    @property
    def work(self) -> Path:
        """Folder of everything that is removed at the end."""
        return self.directory / "work"

    def finished(self) -> Manifest | None:
        """Return the manifest if the work is done already; clear what a crash left behind.

        Raises
        ------
        OutputError
            If the directory belongs to other inputs or options, or is not ours.
        """
        manifest = finished(self.directory, ALIGNMENTS_KIND, self.identity)
        if manifest is not None:
            shutil.rmtree(self.work, ignore_errors=True)
        return manifest

    @contextmanager
    def entered(self, doing: str) -> Iterator[Manifest | None]:
        """Make the directory, or go on in it; see `riboray.manifest.entered`."""
        with entered(self.directory, ALIGNMENTS_KIND, self.identity, doing) as done:
            if done is None:
                self.pairs.mkdir(exist_ok=True)
                self.work.mkdir(exist_ok=True)
            yield done

    def path(self, phase: Phase, tile: TileSpec) -> Path:
        """Return where the Arrow file of a tile lies."""
        if phase == "align" and self.direct:
            return self.pairs / f"{tile.name}.arrow"
        return self.work / f"{phase}-{tile.name}.arrow"

    def commit(
        self,
        phase: Phase,
        tile: TileSpec,
        table: pa.Table,
        indices: dict[str, NDArray[np.int64]],
        scored: int,
    ) -> TileReport:
        """Write a tile; the Arrow file, which goes last, proves it.

        Parameters
        ----------
        phase, tile
            What was done.
        table : pyarrow.Table
            The pairs.
        indices : dict of str to ndarray
            Columns added to all but final files, for what comes next.
        scored : int
            Pairs compared.
        """
        report = TileReport(scored, table.num_rows)
        if phase == "align" and self.direct:
            write_tsv(table, self.work / f"{tile.name}.tsv")
        else:
            for name, values in indices.items():
                table = table.append_column(name, pa.array(values))
        metadata = {
            "identity": self.identity,
            "pairs": _pairs_of(tile),
            "tile": json.dumps(asdict(report)),
        }
        write_arrow(table, self.path(phase, tile), metadata)
        return report

    def committed(self, phase: Phase, tile: TileSpec) -> TileReport | None:
        """Return a tile's report if the tile is there, whole, and of the same pairs."""
        path = self.path(phase, tile)
        if not path.is_file():
            return None
        if phase == "align" and self.direct and not (self.work / f"{tile.name}.tsv").is_file():
            return None
        try:
            with pa.memory_map(str(path)) as source:
                metadata = pa.ipc.open_file(source).schema.metadata or {}
            if metadata[b"riboray.identity"].decode() != self.identity:
                return None
            if metadata[b"riboray.pairs"].decode() != _pairs_of(tile):
                return None
            return TileReport(**json.loads(metadata[b"riboray.tile"]))
        except (pa.ArrowInvalid, OSError, KeyError, ValueError, TypeError):
            return None

    def read(self, phase: Phase, tile: TileSpec) -> pa.Table:
        """Read a tile."""
        with pa.memory_map(str(self.path(phase, tile))) as source:
            return pa.ipc.open_file(source).read_all()

    def finish(
        self, header: str, segments: list[Path], counts: dict[str, int], summary: dict[str, Any]
    ) -> None:
        """Join the TSV, write the summary and, last, the manifest; then clear away the rest.

        Parameters
        ----------
        header : str
            First line of the TSV.
        segments : list of Path
            What follows, in order.
        counts : dict
            Accounting, for the manifest.
        summary : dict
            What the command prints, kept in ``summary.json``.
        """
        tsv = self.directory / "pairs.tsv"
        with atomic_path(tsv) as temporary, temporary.open("wb") as sink:
            sink.write(header.encode())
            for segment in segments:
                with segment.open("rb") as source:
                    shutil.copyfileobj(source, sink, 1 << 20)
        write_json(self.directory / "summary.json", summary)
        entries = [FileEntry.of(tsv, counts["pairs_reported"])]
        rejects = self.directory / "rejects.parquet"
        if rejects.is_file():
            entries.append(FileEntry.of(rejects, pq.read_metadata(rejects).num_rows))
        for path in sorted(self.pairs.glob("*.arrow")):
            entry = FileEntry.of(path)
            entries.append(FileEntry(f"pairs/{path.name}", None, entry.bytes, entry.sha256))
        manifest = Manifest(
            kind=ALIGNMENTS_KIND,
            fingerprint=self.identity,
            files=tuple(sorted(entries, key=lambda entry: entry.name)),
            counts=counts,
        )
        write_manifest(self.directory, manifest)
        shutil.rmtree(self.work, ignore_errors=True)
        tidy(self.directory)


def _pairs_of(tile: TileSpec) -> str:
    """Name the pairs of a tile: all, or a hash of those chosen."""
    if tile.chosen is None:
        return "all"
    digest = hashlib.sha256()
    for indices in tile.chosen:
        digest.update(np.ascontiguousarray(indices).tobytes())
    return digest.hexdigest()[:16]
