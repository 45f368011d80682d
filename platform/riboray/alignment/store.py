"""The directory of an all-against-all: tiles that are whole or absent, and what proves them."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from riboray.alignment.hits import write_arrow, write_tsv
from riboray.errors import OutputError
from riboray.manifest import FileEntry, Manifest, read_manifest, write_json, write_manifest

__all__ = ["ALIGNMENTS_KIND", "PairStore", "TileReport"]

ALIGNMENTS_KIND = "alignments"
_MARKER = "alignments.json"


@dataclass(frozen=True)
class TileReport:
    """What became of a tile: pairs scored, pairs reported."""

    scored: int
    reported: int


class PairStore:
    """Writes and recognises tiles.

    Parameters
    ----------
    directory : Path
        The output directory.
    identity : str
        Hash of everything that decides the result; another one's directory is refused.
    """

    def __init__(self, directory: Path, identity: str) -> None:
        self.directory = directory
        self.identity = identity

    @property
    def pairs(self) -> Path:
        """Folder of the Arrow files, a dataset of its own."""
        return self.directory / "pairs"

    @property
    def segments(self) -> Path:
        """Folder of the pieces of the TSV file, until they are joined."""
        return self.directory / "segments"

    def claim(self) -> Manifest | None:
        """Make or enter the directory.

        Returns
        -------
        Manifest or None
            The manifest if the work is done already.

        Raises
        ------
        OutputError
            If the directory belongs to other inputs or options, or is not ours.
        """
        marker = self.directory / _MARKER
        if marker.is_file():
            try:
                owner = json.loads(marker.read_text("utf-8"))["identity"]
            except (ValueError, KeyError, TypeError) as error:
                raise OutputError(self.directory, f"its {_MARKER} cannot be read") from error
            if owner != self.identity:
                raise OutputError(
                    self.directory,
                    "holds alignments of other inputs or options; choose another --output or "
                    "remove it",
                )
            return read_manifest(self.directory, ALIGNMENTS_KIND)
        if self.directory.exists() and (
            not self.directory.is_dir() or any(self.directory.iterdir())
        ):
            raise OutputError(self.directory, "exists already and holds something else")
        self.pairs.mkdir(parents=True)
        self.segments.mkdir()
        write_json(marker, {"identity": self.identity})
        return None

    def commit(self, name: str, table: pa.Table, scored: int, *, text: bool = True) -> TileReport:
        """Write a tile; the Arrow file, which goes last, proves it."""
        report = TileReport(scored, table.num_rows)
        if text:
            write_tsv(table, self.segments / f"{name}.tsv")
        metadata = {"identity": self.identity, "tile": json.dumps(asdict(report))}
        write_arrow(table, self.pairs / f"{name}.arrow", metadata)
        return report

    def committed(self, name: str, *, text: bool = True) -> TileReport | None:
        """Return a tile's report if the tile is there, whole and of this work."""
        path = self.pairs / f"{name}.arrow"
        if not path.is_file() or (text and not (self.segments / f"{name}.tsv").is_file()):
            return None
        try:
            with pa.memory_map(str(path)) as source:
                metadata = pa.ipc.open_file(source).schema.metadata or {}
            if metadata[b"riboray.identity"].decode() != self.identity:
                return None
            return TileReport(**json.loads(metadata[b"riboray.tile"]))
        except (pa.ArrowInvalid, OSError, KeyError, ValueError, TypeError):
            return None

    def read(self, name: str) -> pa.Table:
        """Read a tile."""
        with pa.memory_map(str(self.pairs / f"{name}.arrow")) as source:
            return pa.ipc.open_file(source).read_all()

    def finish(
        self,
        names: list[str],
        header: str,
        counts: dict[str, int],
        details: dict[str, object],
    ) -> Manifest:
        """Join the TSV, remove what is no longer needed, and write the manifest, last."""
        with (self.directory / ".pairs.tsv").open("wb") as sink:
            sink.write(header.encode())
            for name in names:
                with (self.segments / f"{name}.tsv").open("rb") as source:
                    shutil.copyfileobj(source, sink, 1 << 20)
        (self.directory / ".pairs.tsv").replace(self.directory / "pairs.tsv")
        wanted = {f"{name}.arrow" for name in names}
        for path in self.pairs.iterdir():
            if path.name not in wanted:
                path.unlink()
        entries = [FileEntry.of(self.directory / "pairs.tsv", counts["pairs_reported"])]
        for path in sorted(self.pairs.glob("*.arrow")):
            entry = FileEntry.of(path)
            entries.append(FileEntry(f"pairs/{path.name}", entry.rows, entry.bytes, entry.sha256))
        manifest = Manifest(
            kind=ALIGNMENTS_KIND,
            fingerprint=self.identity,
            files=tuple(sorted(entries, key=lambda entry: entry.name)),
            counts=counts,
            details=details,
        )
        write_manifest(self.directory, manifest)
        shutil.rmtree(self.segments, ignore_errors=True)
        return manifest
